"""Prints contractions (a sum of products of two factors) as register-blocked C++.

A statement is a contraction by its structure: it adds up products of two factors, and some axes of
the result occur in one factor only. Those of one factor become rows, those of the other columns;
axes that both have are looped outside. Three forms, tried in order:

* *columns*: a column axis is contiguous in its factor: vectors run along it,
* *dot*: both factors are contiguous along a summed axis: vectors run along that, and are summed,
* else a factor is first copied into a local block in which the column axis is contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from superopt.codegen.backends.cpu_blocks import chunked, local_block
from superopt.codegen.backends.cpu_expr import Nest, Scope, stride_along
from superopt.codegen.backends.cpu_layout import Num, extents
from superopt.codegen.backends.cpu_loops import indent, print_compute
from superopt.codegen.backends.cpu_match import (
    Contraction,
    Target,
    cold,
    dot_tile,
    here,
    k_block,
    match,
    plain,
    register_tile,
    size_of,
    unit,
)
from superopt.codegen.backends.types import value_dtype
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tile_analysis import expr_axes
from superopt.mugraph.tileir import Apply, Compute, Expr, Lit, Load

ROW_CHUNK, COL_CHUNK, SUM_CHUNK, PANEL_CHUNK = 64, 512, 256, 64
"""Largest local blocks: rows and columns of a result, summed steps and columns of a factor."""


def print_contraction(scope: Scope, stmt: Compute, target: Target) -> list[str] | None:
    """The statement as a contraction, or None when it is not one (or has no blocked form)."""
    found = match(scope, stmt, target)
    if found is None:
        return None
    return Printer(scope, stmt, found, target).lines()


# -- printing ------------------------------------------------------------------------------------


class Printer:
    """Prints one contraction."""

    def __init__(self, scope: Scope, stmt: Compute, form: Contraction, target: Target) -> None:
        self.scope, self.stmt, self.form, self.target = scope, stmt, form, target
        self.dtype = value_dtype(stmt.expr)
        self.c = DTYPES[self.dtype].c
        self.lanes = target.vector_bytes // DTYPES[self.dtype].bytes

    def lines(self) -> list[str] | None:
        """The statement, by way of local blocks where the result or a factor needs one."""
        if self._needs_block():
            return self._through_block()
        packs = [
            f for f, side in ((self.form.a, "a"), (self.form.b, "b")) if self._needs_pack(f, side)
        ]
        if packs:
            return self._packed(packs)
        return self._core(self.form)

    def _again(self, scope: Scope, stmt: Compute) -> list[str] | None:
        """The statement as it is once blocks stand for its result or factors."""
        return print_contraction(scope, stmt, self.target)

    # -- a local block for the result ------------------------------------------------------------

    def _needs_block(self) -> bool:
        place = self.scope.place(self.stmt.dst)
        if not place.tile or place.dtype != self.dtype:
            return True
        column = self.form.column
        own = None if column is None else stride_along(self.scope, here(self.stmt.dst), column)
        return column is not None and (own is None or own.value != 1)

    def _through_block(self) -> list[str] | None:
        """Sums into a local block, chunk by chunk, and stores it converted."""
        stmt, form = self.stmt, self.form
        inner = form.column or (form.cols or form.rows)[-1]
        axes = (*(x for x in stmt.axes if x != inner), inner)
        chunks: dict[Axis, int] = {}
        left = ROW_CHUNK
        for x in reversed(axes[:-1]):
            chunks[x] = max(1, min(left, size_of(self.scope, x)))
            left //= chunks[x]
        chunks[inner] = COL_CHUNK

        def body(scope: Scope) -> list[str] | None:
            block, scope, head = local_block(scope, "sum", self.dtype, axes)
            if block is None:
                return None
            part = self._again(scope, replace(stmt, dst=block, accumulate=False))
            if part is None:
                return None
            value: Expr = here(block)
            if stmt.accumulate:
                value = Apply("add", (here(stmt.dst), value), self.dtype)
            store = Compute(stmt.dst, stmt.axes, value)
            return [*head, *part, *_block(print_compute(scope, store, self.target.vector_bytes))]

        return chunked(self.scope, chunks, body)

    # -- local blocks for factors ----------------------------------------------------------------

    def _needs_pack(self, factor: Expr, side: str) -> bool:
        if not plain(self.scope, factor) or not isinstance(factor, Load):
            return True
        stored = self.scope.place(factor.buffer).dtype
        if self.form.dot is not None:
            return False
        if side == "b":
            return self.form.column is not None and not unit(self.scope, factor, self.form.column)
        if self._pairs(self.form):
            return False
        return stored != self.dtype  # a is read element by element: convert it once

    def _packed(self, packs: list[Expr]) -> list[str] | None:
        """Copies factors into local blocks, a chunk of the summed axes at a time."""
        stmt, form = self.stmt, self.form
        out: list[str] = []
        if not stmt.accumulate:
            zero = Compute(stmt.dst, stmt.axes, Lit(0.0, self.dtype))
            out += _block(print_compute(self.scope, zero, self.target.vector_bytes))
        chunks: dict[Axis, int] = {}
        left = SUM_CHUNK
        for x in (*reversed(form.sums), *reversed(form.both)):
            size = max(1, min(left, size_of(self.scope, x)))
            chunks[x] = self._whole_groups(x, size) if x in form.sums else size
            left //= chunks[x]
        if form.column is not None and form.b in packs:
            chunks[form.column] = PANEL_CHUNK

        def body(scope: Scope) -> list[str] | None:
            lines: list[str] = []
            swap: dict[Expr, Expr] = {}
            for k, factor in enumerate(packs):
                own = [
                    x
                    for x in (*stmt.axes, *stmt.over)
                    if x in expr_axes(factor) and not scope.ranges[x].single
                ]
                last = form.column if factor == form.b else form.sums[-1]
                axes = tuple(sorted(own, key=lambda x: (x == last, x in form.sums)))
                if form.column is not None and factor == form.b:
                    axes = tuple(
                        sorted(
                            own, key=lambda x: (x == last, x not in form.both, x not in form.sums)
                        )
                    )
                block, scope, head = local_block(scope, f"pack{k}", self.dtype, axes)
                if block is None:
                    return None
                copy = Compute(block, axes, factor)
                lines += [*head, *_block(print_compute(scope, copy, self.target.vector_bytes))]
                swap[factor] = here(block)
            a, b = swap.get(form.a, form.a), swap.get(form.b, form.b)
            product = Apply("mul", (a, b), stmt.expr.dtype)
            step = replace(stmt, expr=product, accumulate=True)
            part = self._again(scope, step)
            return None if part is None else [*lines, *part]

        rest = chunked(self.scope, chunks, body)
        return None if rest is None else [*out, *rest]

    def _whole_groups(self, axis: Axis, steps: int) -> int:
        """A number of steps after which a summed axis may be cut."""
        return steps

    # -- the product itself ----------------------------------------------------------------------

    def _core(self, form: Contraction) -> list[str]:
        """Outer loops over shared axes and further columns and sums, the blocked product inside."""
        scope = self.scope
        if form.column is not None:
            inner_sum = self._inner_sum()
            loops = (
                *form.both,
                *(x for x in form.cols if x != form.column),
                *(x for x in form.sums if x != inner_sum),
            )
        else:
            inner_sum = form.dot or form.sums[-1]
            loops = (*form.both, *(x for x in form.sums if x != inner_sum))
        nest = Nest(scope, loops, None, self.lanes)
        for x in (*self.stmt.axes, *self.stmt.over):
            nest.at.setdefault(x, "0")
        d = here(self.stmt.dst)
        pointers = [
            self._pointer(nest, f, f is d, name)
            for f, name in ((form.a, "a"), (form.b, "b"), (d, "d"))
        ]
        first = [f"i_{scope.names.axis(x)} == 0" for x in form.sums if x != inner_sum]
        load = (
            "true" if self.stmt.accumulate else (f"!({' && '.join(first)})" if first else "false")
        )
        call = (
            self._columns(form, inner_sum, pointers, load)
            if form.column is not None
            else (self._dots(form, inner_sum, pointers, load))
        )
        return self._wrap(nest, loops, call)

    def _inner_sum(self) -> Axis:
        """The summed axis of the blocked product whose vectors run along a column."""
        along = [x for x in self.form.sums if unit(self.scope, self.form.a, x)]
        return max(along or self.form.sums, key=lambda x: size_of(self.scope, x))

    def _pointer(self, nest: Nest, factor: Expr, write: bool, name: str) -> str:
        if not isinstance(factor, Load):
            return name
        base, step = nest.address(factor, write)
        return base if step == "0" else f"{base} + {step}"

    def _wrap(self, nest: Nest, loops: tuple[Axis, ...], call: list[str]) -> list[str]:
        body = [*nest.lines[len(loops)], *call]
        for depth in range(len(loops) - 1, -1, -1):
            n = self.scope.names.axis(loops[depth])
            stop = self.scope.ranges[loops[depth]].extent.text
            body = [
                *nest.lines[depth],
                f"for (int64_t i_{n} = 0; i_{n} < {stop}; ++i_{n}) {{",
                *indent(body),
                "}",
            ]
        return body

    def _offsets(self, axes: tuple[Axis, ...], factor: Expr, var: str) -> str:
        """A lambda from the number of a row (or column) to its offsets in the factor and in d."""
        scope, dst = self.scope, here(self.stmt.dst)
        a, d = Num.of(0), Num.of(0)
        rest = var
        for k, x in enumerate(reversed(axes)):
            n = scope.ranges[x].extent
            at = rest if k == len(axes) - 1 else f"({rest} % {_paren(n)})"
            rest = f"({rest} / {_paren(n)})"
            for load, which in ((factor, "a"), (dst, "d")):
                step = stride_along(scope, load, x) if isinstance(load, Load) else None
                term = Num(at) * (step or Num.of(0))
                if which == "a":
                    a = a + term
                else:
                    d = d + term
        return (
            f"[&]([[maybe_unused]] int64_t {var}) SO_LAMBDA "
            f"{{ return so_row{{{a.text}, {d.text}}}; }}"
        )

    def _count(self, axes: Iterable[Axis]) -> str:
        n = extents(self.scope.ranges, axes)
        return f"so_fix<{n.value}>{{}}" if n.value is not None else f"int64_t({n.text})"

    def _step(self, factor: Expr, axis: Axis) -> str:
        step = stride_along(self.scope, factor, axis) if isinstance(factor, Load) else None
        return (step or Num.of(0)).text

    def _row_bytes(self, factor: Expr, k: Axis) -> int | None:
        """Bytes between the rows of the columns' factor, where they are known."""
        step = stride_along(self.scope, factor, k) if isinstance(factor, Load) else None
        if not isinstance(factor, Load) or step is None or step.value is None:
            return None
        return step.value * DTYPES[self.scope.place(factor.buffer).dtype].bytes

    def _next(self, factor: Expr, pointer: str) -> str:
        """Where the columns' factor lies in the next step of the loop around, as a last argument."""
        if self.scope.loop is None or not cold(factor) or not isinstance(factor, Load):
            return ""
        axis, tile = self.scope.loop
        step = stride_along(self.scope, factor, axis) if axis in expr_axes(factor) else None
        if step is None or step.value == 0:
            return ""
        return f", ({pointer}) + {(step * Num.of(tile)).text}"

    def _columns(self, form: Contraction, k: Axis, pointers: list[str], load: str) -> list[str]:
        m = math.prod(size_of(self.scope, x) for x in form.rows)
        n = 0 if form.column is None else size_of(self.scope, form.column)
        rows, cols = register_tile(self.target, m, n and max(n // self.lanes, 1))
        block, how = k_block(self.target, m, self._row_bytes(form.b, k), self._narrow(form.b))
        if not cold(form.b):
            how = "plain"
        a, b, d = pointers
        ahead = "" if how == "plain" else self._next(form.b, b)
        if self._pairs(form, k):
            cols = max(1, cols // 2)
            return [
                f"// {rows} rows x {cols} x 32 columns, pairs of {k.name}; {2 * block} steps at a time",
                f"so_mm_bf16<{rows}, {cols}, {2 * block}, so_read::{how}>(",
                f"    {self._count(form.rows)}, {self._count([form.column] if form.column else [])}, "
                f"{self.scope.ranges[k].extent.text}, {a}, {b}, {self._step(form.b, k)}, {d},",
                f"    {self._offsets(form.rows, form.a, 'i')}, {load}{ahead});",
            ]
        return [
            f"// {rows} rows x {cols} vectors of {self.lanes}; {block} steps of {k.name} at a time",
            f"so_mm<{rows}, {cols}, {self.lanes}, {block}, so_read::{how}, {self.c}>(",
            f"    {self._count(form.rows)}, {self._count([form.column] if form.column else [])}, "
            f"{self.scope.ranges[k].extent.text}, {a}, {self._step(form.a, k)}, {b}, "
            f"{self._step(form.b, k)}, {d},",
            f"    {self._offsets(form.rows, form.a, 'i')}, {load}{ahead});",
        ]

    def _pairs(self, form: Contraction, k: Axis | None = None) -> bool:
        """Whether the unit that multiplies pairs of bf16 can be used."""
        if not self.target.bf16 or self.dtype != "f32" or form.column is None:
            return False
        for factor in (form.a, form.b):
            if not plain(self.scope, factor) or not isinstance(factor, Load):
                return False
            if self.scope.place(factor.buffer).dtype != "bf16":
                return False
        along = [k] if k is not None else list(form.sums)
        return any(unit(self.scope, form.a, x) for x in along) and unit(
            self.scope, form.b, form.column
        )

    def _narrow(self, factor: Expr) -> bool:
        """Whether a factor is stored in single bytes."""
        return isinstance(factor, Load) and DTYPES[self.scope.place(factor.buffer).dtype].bytes == 1

    def _dots(self, form: Contraction, k: Axis, pointers: list[str], load: str) -> list[str]:
        m = math.prod(size_of(self.scope, x) for x in form.rows)
        rows, cols = dot_tile(self.target, m)
        # Rows of a in the first cache; a few rows are near anyway, and longer sums fold less often.
        block = 1 << 30 if m <= rows else 1024
        ahead = "true" if cold(form.b) else "false"
        a, b, d = pointers
        return [
            f"// {rows} x {cols} sums along {k.name}, {self.lanes} at a time",
            f"so_mm_dot<{rows}, {cols}, {self.lanes}, {block}, {ahead}, {self.c}>(",
            f"    {self._count(form.rows)}, {self._count(form.cols)}, "
            f"{self.scope.ranges[k].extent.text}, {a}, {b}, {d},",
            f"    {self._offsets(form.rows, form.a, 'i')},",
            f"    {self._offsets(form.cols, form.b, 'j')}, {load}{self._next(form.b, b)});",
        ]


def _block(lines: list[str]) -> list[str]:
    """A statement's lines as a block, so that its names are its own."""
    return ["{", *indent(lines), "}"]


def _paren(n: Num) -> str:
    return n.text if n.value is not None else f"({n.text})"
