"""Recognizes contractions by their structure, and chooses how each is blocked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from superopt.codegen.backends.cpu_expr import Scope, stride_along
from superopt.codegen.backends.types import value_dtype
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.lanes import (
    FEW,
    SCATTERED,
    TURNED,
    asked_tile,
    copied,
    dot,
    fitted_tile,
    steps_of,
    waste,
)
from superopt.mugraph.placement import Lane
from superopt.mugraph.tile_analysis import expr_axes
from superopt.mugraph.tileir import Apply, Buffer, Compute, Coord, Expr, Load

NEAR = 0.01
"""Price of reading what is near as columns and what comes from memory as rows: it decides ties alone."""


@dataclass(frozen=True)
class Target:
    """What the printer knows of the machine and the program: vectors, bf16 dot product, lanes."""

    vector_bytes: int
    bf16: bool
    lane: Lane


@dataclass(frozen=True)
class Contraction:
    """A matched statement: ``a`` gives rows, ``b`` gives columns; ``both`` and ``sums`` are shared.

    column: the axis of ``b`` that vectors run along; dot: the summed axis they run along instead.
    """

    a: Expr
    b: Expr
    rows: tuple[Axis, ...]
    cols: tuple[Axis, ...]
    both: tuple[Axis, ...]
    sums: tuple[Axis, ...]
    column: Axis | None
    dot: Axis | None


# -- matching ------------------------------------------------------------------------------------


def match(scope: Scope, stmt: Compute, target: Target) -> Contraction | None:
    expr = stmt.expr
    if stmt.reduce != "add" or not isinstance(expr, Apply) or expr.op != "mul":
        return None
    if value_dtype(expr) not in ("f32", "f64") or any(not is_float(a.dtype) for a in expr.args):
        return None
    a, b = (bare(x) for x in expr.args)
    live = [x for x in (*stmt.axes, *stmt.over) if not scope.ranges[x].single]
    kept, sums = [x for x in live if x in stmt.axes], [x for x in live if x in stmt.over]
    only_a = tuple(x for x in kept if x in expr_axes(a) and x not in expr_axes(b))
    only_b = tuple(x for x in kept if x in expr_axes(b) and x not in expr_axes(a))
    both = tuple(x for x in kept if x not in only_a and x not in only_b)
    shared = expr_axes(a) & expr_axes(b)
    if not (only_a or only_b) or not any(x in shared for x in sums):
        return None
    if any(scope.ranges[x].extent.value == 0 for x in live):
        return None
    sides = [(a, b, only_a, only_b), (b, a, only_b, only_a)]  # (rows' factor, columns' factor, ...)
    found: list[tuple[float, int, Contraction]] = []
    for left, right, rows, cols in sides:
        for x in cols:
            price = _column_price(scope, stmt, right, x)
            if not unit(scope, right, x):
                price += _copy_price(scope, target, left, right, rows)
            form = Contraction(left, right, rows, cols, both, tuple(sums), x, None)
            found.append((price, len(found), form))
        for x in sums:
            if unit(scope, left, x) and unit(scope, right, x):
                # Rows are used again and again; what comes from memory is better read once, as columns.
                price = _dot_price(scope, x) + (NEAR if not cold(right) and cold(left) else 0.0)
                form = Contraction(left, right, rows, cols, both, tuple(sums), None, x)
                found.append((price, len(found), form))
    return min(found, key=lambda f: f[:2])[2] if found else None


def bare(factor: Expr) -> Expr:
    """A factor without the conversion to floats that loading it makes."""
    if isinstance(factor, Apply) and factor.op == "cast" and isinstance(factor.args[0], Load):
        load = factor.args[0]
        if DTYPES[load.dtype].kind == "int" and is_float(factor.dtype):
            return replace(load, dtype=factor.dtype)
    return factor


def unit(scope: Scope, factor: Expr, axis: Axis) -> bool:
    """Whether a factor is a plain load that is contiguous along an axis."""
    if not plain(scope, factor) or not isinstance(factor, Load):
        return False
    step = stride_along(scope, factor, axis)
    return step is not None and step.value == 1


def plain(scope: Scope, factor: Expr) -> bool:
    """Whether a factor is a load of numbers at one stride per axis."""
    return (
        isinstance(factor, Load)
        and DTYPES[scope.place(factor.buffer).dtype].kind != "bool"
        and all(stride_along(scope, factor, x) is not None for x in expr_axes(factor))
    )


def cold(factor: Expr) -> bool:
    """Whether a factor comes from memory, where a tile is in the cache already."""
    return isinstance(factor, Load) and factor.buffer.space != "tile"


def size_of(scope: Scope, axis: Axis) -> int:
    """The extent of an axis here, or a likely one."""
    span = scope.ranges[axis]
    return span.extent.value or (span.known or (64,))[-1]


def _column_price(scope: Scope, stmt: Compute, factor: Expr, axis: Axis) -> float:
    own = stride_along(scope, here(stmt.dst), axis)
    return waste(size_of(scope, axis)) + (0.0 if own is not None and own.value == 1 else TURNED)


def _copy_price(scope: Scope, target: Target, a: Expr, b: Expr, rows: tuple[Axis, ...]) -> float:
    """What copying the columns' factor into another layout adds; many rows pay for it."""
    pairs = target.bf16 and all(
        isinstance(f, Load) and scope.place(f.buffer).dtype == "bf16" for f in (a, b)
    )
    count = math.prod(size_of(scope, x) for x in rows)
    return min(copied(count), SCATTERED) if plain(scope, b) and not pairs else SCATTERED


def _dot_price(scope: Scope, axis: Axis) -> float:
    return dot(size_of(scope, axis)) * waste(size_of(scope, axis))


def here(buffer: Buffer) -> Load:
    """A buffer at its own coordinates."""
    return Load(buffer, tuple(Coord(x) for x in buffer.axes), buffer.dtype)


# -- choices -------------------------------------------------------------------------------------


def register_tile(target: Target, rows: int, vectors: int) -> tuple[int, int]:
    """Rows and vectors of a register tile: the program's lanes, fitted to the actual extents."""
    asked = asked_tile(target.lane, target.vector_bytes)
    return fitted_tile(asked, target.vector_bytes, rows, vectors)


def dot_tile(target: Target, rows: int) -> tuple[int, int]:
    """Rows and columns of a tile of dot products."""
    big = target.vector_bytes == 64
    if rows < 4:
        return max(rows, 1), 4
    return (4, 4) if big else (2, 4)


CROWDED = 1024
"""Bytes between rows of a factor, a multiple of which puts them on few sets of the first cache."""


def k_block(target: Target, rows: int, step: int | None, narrow: bool = False) -> tuple[int, str]:
    """Steps of the summed axis per block, and how the columns' factor is read.

    One or two rows stream by themselves, unless a tile takes but a line or two of each row of the factor
    (``narrow``); more rows read it ahead, and many use a dense copy of what would crowd a few sets of the
    cache. step: bytes between its rows, None where they are not known.
    """
    if narrow and rows <= 2:
        return 32, "ahead"
    crowded = step is None or step % CROWDED == 0
    how = "plain" if rows <= 2 else ("panel" if rows > FEW and crowded else "ahead")
    return steps_of(target.lane, target.vector_bytes, rows), how
