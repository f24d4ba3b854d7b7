"""Prints maps and general reductions as vectorized C++ loop nests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from superopt.codegen.backends.cpu_expr import (
    Nest,
    NoVector,
    Scope,
    stride_along,
)
from superopt.codegen.backends.cpu_layout import extents
from superopt.codegen.backends.cpu_values import Value, fits32, literal
from superopt.codegen.backends.types import exact_literal, operand_dtypes, sum_dtype, value_dtype
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.tile_analysis import expr_axes, parts
from superopt.mugraph.tileir import Apply, Compute, Coord, Expr, Load

UNROLL = 4
"""Independent partial results of a reduction: enough to hide the latency of one operation."""

TREE, SIMPLE = 8, 6
"""Terms that are added up before they join a sum in double, where one takes few operations."""


def print_compute(scope: Scope, stmt: Compute, vector_bytes: int) -> list[str]:
    """A map or a reduction of any expression, as lines of C++."""
    if any(scope.ranges[a].extent.value == 0 for a in stmt.axes):
        return []
    over = tuple(a for a in stmt.over if not scope.ranges[a].single)
    if stmt.reduce is not None and any(scope.ranges[a].extent.value == 0 for a in over):
        return _Printer(scope, stmt, None, 1, ()).empty()
    if (lines := transposition(scope, stmt)) is not None:
        return lines
    for lane, lanes in lane_choices(scope, stmt, vector_bytes):
        try:
            lines = _Printer(scope, stmt, lane, lanes, over).lines()
        except NoVector:
            continue
        return _guarded(scope, stmt, over, lines)
    raise NoVector("a statement without a scalar form")


def _guarded(scope: Scope, stmt: Compute, over: tuple[Axis, ...], lines: list[str]) -> list[str]:
    """Nothing is hoisted out of an empty loop: it would read what does not exist."""

    def may_be_empty(axes: tuple[Axis, ...]) -> list[str]:
        return [
            f"{scope.ranges[a].extent.text} > 0"
            for a in axes
            if scope.ranges[a].extent.value is None and scope.ranges[a].base.value == 0
        ]

    kept = may_be_empty(tuple(a for a in stmt.axes if not scope.ranges[a].single))
    summed = may_be_empty(over) if stmt.reduce is not None else []
    if summed:
        empty = _Printer(scope, stmt, None, 1, ()).empty()
        lines = [f"if ({' && '.join(summed)}) {{", *indent(lines), "} else {", *indent(empty), "}"]
    if kept:
        lines = [f"if ({' && '.join(kept)}) {{", *indent(lines), "}"]
    return lines


def transposition(scope: Scope, stmt: Compute) -> list[str] | None:
    """A copy between layouts whose contiguous axes differ: blocks turned in registers, or None."""
    load, small = stmt.expr, ("f32", "bf16", "f16")
    if stmt.reduce is not None or not isinstance(load, Load) or load.clamp:
        return None
    dst, src = scope.place(stmt.dst), scope.place(load.buffer)
    if dst.dtype not in small or src.dtype not in small or value_dtype(load) != "f32":
        return None
    target = Load(stmt.dst, tuple(Coord(a) for a in stmt.dst.axes), dst.dtype)
    live = [a for a in stmt.dst.axes if not scope.ranges[a].single]
    steps = {a: (stride_along(scope, target, a), stride_along(scope, load, a)) for a in live}
    if any(d is None or s is None for d, s in steps.values()):
        return None
    rows = [a for a, (d, s) in steps.items() if d and d.value == 1 and s and s.value not in (0, 1)]
    cols = [a for a, (d, s) in steps.items() if s and s.value == 1 and d and d.value not in (0, 1)]
    if len(rows) != 1 or len(cols) != 1:
        return None
    if any((scope.ranges[a].most.value or 16) < 8 for a in (*rows, *cols)):
        return None
    loops = tuple(a for a in live if a not in (*rows, *cols))
    nest = Nest(scope, loops, None, 1)
    for a in stmt.axes:
        nest.at.setdefault(a, "0")
    to, frm = ("{} + {}".format(*nest.address(x, x is target)) for x in (target, load))
    (down, _), (_, across) = steps[cols[0]], steps[rows[0]]
    n = [scope.ranges[a].extent.text for a in (rows[0], cols[0])]
    strides = [x.text if x else "0" for x in (down, across)]
    call = f"so_transpose({to}, {strides[0]}, {frm}, {strides[1]}, {n[0]}, {n[1]});"
    nest.lines[len(loops)].append(call)
    printer = _Printer(scope, stmt, None, 1, ())
    return printer.wrap(nest, 0, len(loops), nest.lines[len(loops)])


# -- the lane axis -------------------------------------------------------------------------------


def lane_choices(
    scope: Scope, stmt: Compute, vector_bytes: int
) -> Iterator[tuple[Axis | None, int]]:
    """Lane axes with their vector lengths, cheapest first; ends with (None, 1), the scalar form."""
    wide = [expr_axes(e) for e in parts(stmt.expr) if _wide(e)]
    if DTYPES[stmt.dst.dtype].bytes == 8 and sum_dtype(stmt) == value_dtype(stmt.expr):
        wide.append(frozenset(stmt.axes))
    accesses = [e for e in parts(stmt.expr) if isinstance(e, Load)]
    target = Load(stmt.dst, tuple(Coord(a) for a in stmt.dst.axes), stmt.dst.dtype)
    ops = sum(isinstance(e, Apply) for e in parts(stmt.expr)) + 1

    def lanes_of(axis: Axis) -> int:
        return vector_bytes // (8 if any(axis in axes for axes in wide) else 4)

    def price(axis: Axis) -> float:
        lanes, span = lanes_of(axis), scope.ranges[axis]
        n = span.extent.value or (span.known or (lanes,))[-1]
        total = float(ops)
        reads = [*accesses, target] if axis in stmt.axes else accesses
        for load in reads:
            step = stride_along(scope, load, axis)
            if step is None:
                total += 4.0 * lanes
            elif step.value not in (0, 1):
                total += 1.0 * lanes
            else:
                total += 0.25 + 0.75 * (step.value == 1)
        if axis in stmt.over:
            total += 8.0 * lanes / max(n, 1)
        return total * -(-n // lanes) / max(n, 1)

    axes = [a for a in (*stmt.axes, *stmt.over) if not scope.ranges[a].single]
    scored = sorted((price(a), k, a) for k, a in enumerate(axes))
    scalar = float(ops + len(accesses) + 1)
    for cost, _, axis in scored:
        if cost < scalar:
            yield axis, lanes_of(axis)
    yield None, 1


def _wide(expr: Expr) -> bool:
    """Whether an expression needs 8-byte lanes."""
    dtype = value_dtype(expr)
    if dtype == "f64" or (isinstance(expr, Apply) and "f64" in operand_dtypes(expr)):
        return True
    return dtype == "i64" and not fits32(expr)


# -- printing ------------------------------------------------------------------------------------


@dataclass
class _Printer:
    """Prints one statement for one choice of lane axis."""

    scope: Scope
    stmt: Compute
    lane: Axis | None
    lanes: int
    over: tuple[Axis, ...]

    def lines(self) -> list[str]:
        """The whole loop nest."""
        stmt, lane = self.stmt, self.lane
        kept = tuple(a for a in stmt.dst.axes if not self.scope.ranges[a].single)
        if lane is None or lane in kept:
            order = (*(a for a in kept if a != lane), *((lane,) if lane else ()), *self.over)
        else:
            order = (*kept, *(a for a in self.over if a != lane), lane)
        added = stmt.expr if stmt.reduce == "add" else None
        nest = Nest(self.scope, order, lane, self.lanes, added)
        for a in (*stmt.axes, *stmt.over):
            nest.at.setdefault(a, "0")
        value = nest.value(stmt.expr)
        head = len(kept)
        if stmt.reduce is None:
            self._store(nest, head, value)
            return self.wrap(nest, 0, head, nest.lines[head])
        return self.wrap(nest, 0, head, self._reduction(nest, head, value))

    def empty(self) -> list[str]:
        """What a reduction over nothing leaves: the identity, or the old content."""
        if self.stmt.accumulate:
            return []
        dtype = value_dtype(self.stmt.expr)
        kept = tuple(a for a in self.stmt.dst.axes if not self.scope.ranges[a].single)
        nest = Nest(self.scope, kept, None, 1)
        for a in self.stmt.axes:
            nest.at.setdefault(a, "0")
        self._store(nest, len(kept), Value(self._identity(dtype), dtype, False))
        return self.wrap(nest, 0, len(kept), nest.lines[len(kept)])

    def _identity(self, dtype: str) -> str:
        identity = SCALARS[self.stmt.reduce or "add"].identity
        return literal(exact_literal(identity if identity is not None else 0.0, dtype), dtype)

    def wrap(self, nest: Nest, depth: int, head: int, innermost: list[str]) -> list[str]:
        """Loops over the destination's axes around ``innermost``, with what is hoisted between."""
        if depth == head:
            return innermost
        axis = nest.order[depth]
        n = self.scope.names.axis(axis)
        extent = self.scope.ranges[axis].extent.text
        inner = indent(self.wrap(nest, depth + 1, head, innermost))
        if axis == self.lane:
            loop = [
                f"so_steps<{self.lanes}>({extent}, [&](int64_t i_{n}, auto part) SO_LAMBDA {{",
                *inner,
                "});",
            ]
        else:
            loop = [f"for (int64_t i_{n} = 0; i_{n} < {extent}; ++i_{n}) {{", *inner, "}"]
        return [*(nest.lines[depth] if depth < head else []), *loop]

    def _target(self) -> Load:
        dst = self.stmt.dst
        return Load(dst, tuple(Coord(a) for a in dst.axes), self.scope.place(dst).dtype)

    def _store(self, nest: Nest, depth: int, value: Value) -> None:
        """Appends the store of ``value`` to the lines at ``depth``."""
        place = self.scope.place(self.stmt.dst)
        target = self._target()
        base, step = nest.address(target, write=True)
        vec = self.lane is not None and self.lane in self.stmt.dst.axes
        if not vec:
            text = nest.convert(value, value.dtype, False)
            nest.lines[depth].append(f"{base}[{step}] = so_cvt1<{place.c}>({text});")
            return
        if place.dtype == "bool":
            kind = "bool"
        else:
            kind = "i32" if value.dtype == "bool" else value.dtype
        text = nest.convert(value, kind, True)
        coef = nest.lane_coef(target)
        at = f"{base} + {step}" if step != "0" else base
        mask = "_mask" if place.dtype == "bool" else ""
        if coef is not None and coef.value == 1:
            nest.lines[depth].append(f"so_store{mask}<{self.lanes}>({at}, {text}, part);")
        else:
            stride = coef.text if coef is not None else "0"
            nest.lines[depth].append(
                f"so_scatter{mask}<{self.lanes}>({at}, {stride}, {text}, part);"
            )

    def _reduction(self, nest: Nest, head: int, value: Value) -> list[str]:
        """The loops over the reduced axes, the result's combination and its store."""
        stmt, row = self.stmt, SCALARS[self.stmt.reduce or "add"]
        dtype = value_dtype(stmt.expr)
        across = self.lane is not None and self.lane in self.over  # lanes are summed at the end
        vec = self.lane is not None and not across
        ctype = nest.ctype(dtype, vec)
        op = f"[](auto a, auto b) SO_LAMBDA {{ return {(row.c or '').format('a', 'b')}; }}"
        start = nest.convert(Value(self._identity(dtype), dtype, False), dtype, vec)
        loops = nest.order[head:]
        first = nest.lines[head]
        exact = sum_dtype(stmt) != dtype and not self._short(loops, across)
        out = [f"[[maybe_unused]] const auto op = {op};"]
        terms = nest.ctype(dtype, vec or across)
        out.append(f"so_sum<{terms}> total;" if exact else f"{ctype} sum = {start};")
        if exact and not vec and not expr_axes(stmt.expr) & set(loops):  # the same each time
            n = extents(self.scope.ranges, loops).text
            body = [
                *first,
                f"const double sum = double({nest.convert(value, dtype, False)}) * ({n});",
            ]
            return [out[0], *body, *self._finish(nest, head, sum_dtype(stmt), False)]
        if not loops:  # the reduced axes have one element each
            body = [
                *first,
                f"sum = {self._combine(dtype, 'sum', nest.convert(value, dtype, vec))};",
            ]
        else:
            body = self._inner(nest, head, value, dtype, across, vec, start, exact)
        if exact and vec:
            if (lines := self._kept(nest, head)) is not None:
                return [*out, *body, *lines]
            body.append(f"const {ctype} sum = total.value();")
        elif exact:
            dtype = sum_dtype(stmt)
            body.append(f"const auto sum = total.{'folded' if across else 'value'}();")
        return [*out, *body, *self._finish(nest, head, dtype, vec)]

    def _kept(self, nest: Nest, head: int) -> list[str] | None:
        """Stores sums of lanes in double, as they are; None where the result is not kept so."""
        target, tail = self._target(), Nest(self.scope, nest.order[:head], self.lane, self.lanes)
        tail.at, tail._count = nest.at, 500
        coef = tail.lane_coef(target)
        if target.dtype != "f64" or coef is None or coef.value != 1:
            return None
        base, step = tail.address(target, write=True)
        add = str(self.stmt.accumulate).lower()
        return [*itertools.chain(*tail.lines), f"total.store({base} + {step}, {add}, part);"]

    def _short(self, loops: tuple[Axis, ...], across: bool) -> bool:
        """Whether a sum is so short that it is made as one tree: nothing is gained in double."""
        n = extents(self.scope.ranges, loops).value
        return n is not None and n <= 2 * UNROLL * (self.lanes if across else 1)

    def _combine(self, dtype: str, a: str, b: str) -> str:
        text = f"op({a}, {b})"
        return f"bool({text})" if dtype == "bool" and self.lane is None else text

    def _inner(
        self,
        nest: Nest,
        head: int,
        value: Value,
        dtype: str,
        across: bool,
        vec: bool,
        start: str,
        exact: bool,
    ) -> list[str]:
        """The loops over reduced axes: plain ones outside, an unrolled one innermost."""
        loops = nest.order[head:]
        last = loops[-1]
        name, extent = self.scope.names.axis(last), self.scope.ranges[last].extent.text
        result = nest.convert(value, dtype, vec or across)
        ctype = nest.ctype(dtype, vec or across)
        body = indent([*nest.lines[len(nest.order)], f"return {ctype}({result});"], 2)
        unroll = UNROLL
        if exact and sum(isinstance(e, Apply) for e in parts(self.stmt.expr)) <= SIMPLE:
            unroll = TREE
        lanes = f"_lanes<{self.lanes}, {unroll}>" if across else f"<{unroll}>"
        given = f"[&]([[maybe_unused]] int64_t i_{name}"
        given += ", [[maybe_unused]] auto part) SO_LAMBDA {" if across else ") SO_LAMBDA {"
        if exact:
            lines = [f"so_add{lanes}(total, {extent}, {given}", *body, "});"]
        else:
            call = f"so_reduce{lanes}({extent}, {start}, op, {given}"
            lines = [f"sum = op(sum, {call}", *body, "}));"]
        for k in range(len(loops) - 2, -1, -1):
            n = self.scope.names.axis(loops[k])
            stop = self.scope.ranges[loops[k]].extent.text
            lines = [
                f"for (int64_t i_{n} = 0; i_{n} < {stop}; ++i_{n}) {{",
                *indent([*nest.lines[head + k + 1], *lines]),
                "}",
            ]
        return [*nest.lines[head], *lines]

    def _finish(self, nest: Nest, head: int, dtype: str, vec: bool) -> list[str]:
        """Takes in the old content where asked, and stores."""
        out: list[str] = []
        tail = Nest(self.scope, nest.order[:head], self.lane if vec else None, self.lanes)
        tail.at, tail._count = nest.at, 500
        result = Value("sum", dtype, vec)
        if self.stmt.accumulate:
            old = tail.value(self._target())
            kind = "f64" if "f64" in (dtype, old.dtype) else dtype
            terms = (tail.convert(v, kind, vec) for v in (old, result))
            result = Value(f"({self._combine(kind, *terms)})", kind, vec)
        self._store(tail, head, result)
        for lines in tail.lines:
            out += lines
        return out


def indent(lines: list[str], by: int = 1) -> list[str]:
    """Lines moved to the right by ``by`` steps."""
    return [f"{'  ' * by}{line}" for line in lines]
