"""Prints contractions with a factor that is made in registers as it is read: narrow weights.

Statements that follow one another and add up products into one result are one nest, so that a byte
is loaded once for all that is stored in it. Sums within groups that are scaled and added up (a scale
per group of weights) stay in vectors until the very end. Vectors run along the summed axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from superopt.codegen.backends.cpu_blocks import local_block
from superopt.codegen.backends.cpu_expr import Nest, NoVector, Scope
from superopt.codegen.backends.cpu_layout import extents
from superopt.codegen.backends.cpu_loops import indent, print_compute
from superopt.codegen.backends.cpu_match import Target, bare, here, size_of, unit
from superopt.codegen.backends.types import value_dtype
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.tile_analysis import expr_axes, loads, reads
from superopt.mugraph.tileir import Apply, Buffer, Compute, Expr, Load, Stmt

MOST_ROWS = 16
"""Rows up to which a factor is made anew for each tile of rows; for more it is copied once."""

Pair = tuple[Expr, Expr]


@dataclass(frozen=True)
class Sums:
    """Products added up into one result.

    out: the statement that adds to the result last; pairs: (rows' factor, columns' factor) of each
    product; scale: of the sum within a group, None without groups; sums: the axis that vectors run
    along; group: the axis outside of it.
    """

    out: Compute
    pairs: tuple[Pair, ...]
    scale: Expr | None
    rows: tuple[Axis, ...]
    cols: tuple[Axis, ...]
    both: tuple[Axis, ...]
    sums: Axis
    group: Axis | None


# -- which statements ------------------------------------------------------------------------------


def together(body: Sequence[Stmt], readers: dict[str, int]) -> list[list[Stmt]]:
    """The statements, those together that add up into one result.

    readers: how many statements of the program read each buffer.
    """
    out: list[list[Stmt]] = []
    at = 0
    while at < len(body):
        n = _run(body[at:], readers)
        out.append(list(body[at : at + n]))
        at += n
    return out


def _run(body: Sequence[Stmt], readers: dict[str, int]) -> int:
    """How many statements at the front are one sum."""
    n, first = 0, None
    while (part := _part(body[n:], readers)) is not None:
        length, *what = part
        if first is None:
            first = what
        elif what != first or not _adds(body[n + length - 1], body[0]):
            break
        n += length
    return max(n, 1)


def _part(
    body: Sequence[Stmt], readers: dict[str, int]
) -> tuple[int, Buffer, tuple[Axis, ...], tuple[Axis, ...], Expr | None] | None:
    """One sum of products at the front: its statements, result, axes summed over, and scale."""
    one = body[0] if body else None
    if not isinstance(one, Compute) or not _sums(one):
        return None
    two = body[1] if len(body) > 1 else None
    if isinstance(two, Compute) and _sums(two) and not one.accumulate:
        scale = _inner(two, one.dst)
        if scale is not None and readers.get(one.dst.name) == 1 and one.dst.space == "tile":
            return 2, two.dst, one.over, two.over, scale
    return 1, one.dst, one.over, (), None


def _adds(last: Stmt, first: Stmt) -> bool:
    """Whether a statement adds to a result that it does not read otherwise."""
    if not isinstance(last, Compute) or not isinstance(first, Compute):
        return False
    return last.accumulate and last.dst.name not in reads(last.expr) | reads(first.expr)


def _sums(stmt: Compute) -> bool:
    return (
        stmt.reduce == "add"
        and isinstance(stmt.expr, Apply)
        and stmt.expr.op == "mul"
        and value_dtype(stmt.expr) == "f32"
        and all(is_float(a.dtype) for a in stmt.expr.args)
    )


def _inner(stmt: Compute, buffer: Buffer) -> Expr | None:
    """The other factor of a product of which one is a buffer at its own coordinates."""
    if not isinstance(stmt.expr, Apply):
        return None
    own = here(buffer)
    for this, other in (stmt.expr.args, stmt.expr.args[::-1]):
        if isinstance(this, Load) and (this.buffer, this.index) == (own.buffer, own.index):
            return None if buffer.name in reads(other) else other
    return None


# -- matching --------------------------------------------------------------------------------------


def match_sums(scope: Scope, stmts: Sequence[Stmt], target: Target) -> Sums | None:
    """The statements as one sum of products, or None where that has no such form."""
    found: list[tuple[Compute, Compute | None]] = []
    todo = [s for s in stmts if isinstance(s, Compute)]
    if not all(_sums(s) for s in todo):
        return None
    while todo:
        if len(todo) > 1 and _inner(todo[1], todo[0].dst) is not None:
            found.append((todo[0], todo[1]))
            todo = todo[2:]
        else:
            found.append((todo[0], None))
            todo = todo[1:]
    if not found or len({second is None for _, second in found}) > 1:
        return None
    first, second = found[0]
    out = second or first
    scale = None if second is None else _inner(second, first.dst)
    products = [one.expr for one, _ in found if isinstance(one.expr, Apply)]
    for one, two in found:
        if one.over != first.over or one.axes != first.axes:
            return None
        if two is not None and (two.over != out.over or _inner(two, one.dst) != scale):
            return None
    inner = [x for x in first.over if not scope.ranges[x].single]
    outer = [x for x in out.over if not scope.ranges[x].single] if second else []
    if second is None and len(inner) == 2:  # the scales are part of the factor, within the groups
        outer = [x for x in inner if not _beside(scope, products, x)][:1]
        inner = [x for x in inner if x not in outer]
    if len(inner) != 1 or len(outer) > 1:
        return None
    if any(scope.ranges[x].extent.value == 0 for x in (*out.axes, *first.over, *out.over)):
        return None
    kept = [x for x in out.axes if not scope.ranges[x].single]
    pairs: list[Pair] = []
    sides: set[tuple[frozenset[Axis], frozenset[Axis]]] = set()
    for product in products:
        a, b = product.args
        if _narrow(scope, a) and not _narrow(scope, b):
            a, b = b, a
        own = (expr_axes(a) - expr_axes(b), expr_axes(b) - expr_axes(a))
        sides.add((own[0] & frozenset(kept), own[1] & frozenset(kept)))
        if inner[0] not in expr_axes(a) or inner[0] not in expr_axes(b):
            return None
        pairs.append((a, b))
    if len(sides) != 1 or not any(_narrow(scope, b) and not isinstance(b, Load) for _, b in pairs):
        return None
    ((only_a, only_b),) = sides
    rows, cols = (tuple(x for x in kept if x in own) for own in (only_a, only_b))
    if not cols or math.prod(size_of(scope, x) for x in rows) > MOST_ROWS:
        return None
    both = tuple(x for x in kept if x not in rows and x not in cols)
    form = Sums(out, tuple(pairs), scale, rows, cols, both, inner[0], next(iter(outer), None))
    return form if _in_vectors(scope, form, target) else None


def _narrow(scope: Scope, expr: Expr) -> bool:
    """Whether an expression is made of integers of few bits."""
    kinds = [DTYPES[scope.place(x.buffer).dtype] for x in loads(expr)]
    return any(k.kind == "int" and k.bytes < 4 for k in kinds)


def _beside(scope: Scope, products: Sequence[Apply], axis: Axis) -> bool:
    """Whether the narrow numbers of products lie side by side along an axis."""
    nest = Nest(scope, (), axis, 1)
    narrow = [x for p in products for x in loads(p) if _narrow(scope, x) and axis in expr_axes(x)]
    steps = [nest.lane_coef(x) for x in narrow]
    return bool(steps) and all(s is not None and s.value == 1 for s in steps)


def _in_vectors(scope: Scope, form: Sums, target: Target) -> bool:
    """Whether everything along the summed axis lies at one stride, narrow numbers side by side."""
    nest = Nest(scope, (), form.sums, target.vector_bytes // 4)
    for pair in form.pairs:
        for expr in pair:
            for load in loads(expr):
                step = nest.lane_coef(load) if form.sums in expr_axes(load) else None
                if form.sums in expr_axes(load) and (step is None or step.value not in (0, 1, 2)):
                    return False
    return True


# -- printing --------------------------------------------------------------------------------------


def print_sums(scope: Scope, stmts: Sequence[Stmt], target: Target) -> list[str] | None:
    """The statements as one register-blocked nest, or None where they have no such form."""
    form = match_sums(scope, stmts, target)
    if form is None:
        return None
    try:
        return _Printer(scope, form, target).lines()
    except NoVector:
        return None


class _Printer:
    """Prints one sum of products."""

    def __init__(self, scope: Scope, form: Sums, target: Target) -> None:
        self.scope, self.form, self.target = scope, form, target
        self.lanes = target.vector_bytes // 4

    def lines(self) -> list[str]:
        """Loops over what both factors share, the blocked product inside."""
        copies = self._copied()
        form, scope = self.form, self.scope
        rows, cols = self._tile()
        part = "[[maybe_unused]] auto part"
        a = self._factors([p[0] for p in form.pairs], form.rows, "i", part)
        b = self._factors([p[1] for p in form.pairs], form.cols, "j", part)
        scaled = "true" if form.scale is not None else "false"
        call = [
            f"// {rows} x {cols} sums along {form.sums.name}, {self.lanes} at a time; "
            f"{len(form.pairs)} products made in registers",
            f"so_sums<{rows}, {cols}, {self.lanes}, {len(form.pairs)}, {scaled}, float>(",
            f"    {self._count(form.rows)}, {self._count(form.cols)}, "
            f"{self._count([form.group] if form.group else [])}, {self._count([form.sums])},",
            *indent(indent([*a, *b, *self._scale(), *self._near(), *self._out()])),
            ");",
        ]
        for x in reversed(form.both):
            n, stop = scope.names.axis(x), scope.ranges[x].extent.text
            call = [
                f"for (int64_t i_{n} = 0; i_{n} < {stop}; ++i_{n}) {{",
                *indent(call),
                "}",
            ]
        return [*copies, *call]

    def _copied(self) -> list[str]:
        """Copies rows' factors that do not lie side by side, so that each column reads them so."""
        form, out = self.form, list[str]()
        pairs: list[Pair] = []
        for a, b in form.pairs:
            load = bare(a)
            if not (isinstance(load, Load) and unit(self.scope, load, form.sums)):
                order = (*form.both, *form.rows, *([form.group] if form.group else []), form.sums)
                axes = tuple(x for x in order if x in expr_axes(a))
                block, scope, head = local_block(self.scope, "pack", "f32", axes)
                if block is not None:
                    self.scope = scope
                    copy = Compute(block, axes, a)
                    out += [*head, "{", *indent(print_compute(scope, copy, 4 * self.lanes)), "}"]
                    a = here(block)
            pairs.append((a, b))
        self.form = replace(form, pairs=tuple(pairs))
        return out

    def _tile(self) -> tuple[int, int]:
        """Rows and columns of a tile: two vectors for each sum where groups are scaled."""
        m = math.prod(size_of(self.scope, x) for x in self.form.rows)
        n = math.prod(size_of(self.scope, x) for x in self.form.cols)
        most = 16 if self.target.vector_bytes == 64 else 8
        rows = min(m, 4)
        most //= 1 if self.form.scale is None else 2
        return rows, max(1, min(most // rows, 8, n))

    def _count(self, axes: Sequence[Axis]) -> str:
        n = extents(self.scope.ranges, axes)
        return f"so_fix<{n.value}>{{}}" if n.value is not None else f"int64_t({n.text})"

    def _nest(self, lane: Axis | None) -> Nest:
        form, scope = self.form, self.scope
        nest = Nest(scope, (), lane, self.lanes)
        for x in (*form.out.axes, *form.out.over, form.sums):
            nest.at.setdefault(x, "0")
        for x in form.both:
            nest.at[x] = f"i_{scope.names.axis(x)}"
        if form.group is not None:
            nest.at[form.group] = "g"
        nest.at[form.sums] = "q"
        for axes, var in ((form.rows, "i"), (form.cols, "j")):
            rest = var
            for k, x in enumerate(reversed(axes)):
                n = scope.ranges[x].extent.text
                nest.at[x] = rest if k == len(axes) - 1 else f"({rest} % ({n}))"
                rest = f"({rest} / ({n}))"
        return nest

    def _factors(self, exprs: list[Expr], axes: tuple[Axis, ...], var: str, part: str) -> list[str]:
        nest = self._nest(self.form.sums)
        texts = [nest.convert(nest.value(e), "f32", True) for e in exprs]
        own = f"[[maybe_unused]] int64_t {var}" if not axes else f"int64_t {var}"
        return [
            f"[&]({own}, [[maybe_unused]] int64_t g, [[maybe_unused]] int64_t q, {part}) SO_LAMBDA {{",
            *indent(nest.lines[0]),
            f"  return so_factors<float, {self.lanes}, {len(exprs)}>{{{{{', '.join(texts)}}}}};",
            "},",
        ]

    def _scale(self) -> list[str]:
        nest = self._nest(None)
        text = "1.0f"
        if self.form.scale is not None:
            text = nest.convert(nest.value(self.form.scale), "f32", False)
        places = ", ".join(f"[[maybe_unused]] int64_t {v}" for v in "ijg")
        return [f"[&]({places}) SO_LAMBDA {{", *indent(nest.lines[0]), f"  return {text};", "},"]

    def _near(self) -> list[str]:
        """Where a column's narrow numbers lie, and a function that reads its scales ahead."""
        form, nest = self.form, self._nest(None)
        first = next(x for _, b in form.pairs for x in loads(b) if _narrow(self.scope, x))
        base, offset = nest.address(first)
        places = ", ".join(f"[[maybe_unused]] int64_t {v}" for v in "jgq")
        near = [f"[&]({places}) SO_LAMBDA {{ return {base} + {offset}; }},"]
        far: list[str] = []
        n = 1 if form.group is None else self.scope.ranges[form.group].most.value or 1
        for load in loads(form.scale) if form.scale is not None else ():
            place = self.scope.place(load.buffer)
            if form.group in expr_axes(load) and not place.tile:
                base, offset = nest.address(load)
                per = 64 // DTYPES[place.dtype].bytes
                far.append(
                    f"for (int64_t g = 0; g < {n}; g += {per}) __builtin_prefetch({base} + {offset}, 0, 2);"
                )
        return [*near, "[&]([[maybe_unused]] int64_t j) SO_LAMBDA {", *indent(far), "},"]

    def _out(self) -> list[str]:
        out, nest = self.form.out, self._nest(None)
        place = self.scope.place(out.dst)
        base, offset = nest.address(here(out.dst), True)
        value = "sum"
        if out.accumulate:
            wide = "double" if place.dtype == "f64" else "float"
            value = f"so_cvt1<{wide}>(to) + {wide}(sum)"
        return [
            "[&]([[maybe_unused]] int64_t i, [[maybe_unused]] int64_t j, float sum) SO_LAMBDA {",
            *indent(nest.lines[0]),
            f"  {place.c}& to = *({base} + {offset});",
            f"  to = so_cvt1<{place.c}>({value});",
            "}",
        ]
