"""Row by row: statements that follow each other over the same rows share the loops over these.

Each of several maps and reductions of a tile would walk over the whole tile, which may be larger than
the first cache; a row that is worked on by all of them in turn stays near. Tile buffers are read at
their own coordinates alone, so statements of one row need nothing of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from superopt.codegen.backends.cpu_blocks import chunked
from superopt.codegen.backends.cpu_expr import Scope
from superopt.codegen.backends.cpu_match import size_of
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tile_analysis import loads
from superopt.mugraph.tileir import Buffer, Compute, Load, Stmt

NEAR = 16 << 10
"""Bytes of tiles that stay in the first cache anyway."""

LONG = 64
"""Elements of a row from which the loops over it hide what they begin and end with."""


def grouped(
    body: Sequence[Stmt], scope: Scope, whole: Callable[[Compute], bool]
) -> list[list[Stmt]]:
    """The statements in order, those that are made row by row together.

    whole: whether a statement is made as a whole, such as a contraction.
    """
    out: list[list[Stmt]] = []
    for stmt in body:
        alone = not isinstance(stmt, Compute) or _copies(stmt) or whole(stmt)
        last = [s for s in out[-1] if isinstance(s, Compute)] if out else []
        if not alone and isinstance(stmt, Compute) and last and _rows([*last, stmt], scope):
            out[-1].append(stmt)
        else:
            out.append([stmt])
        if alone:
            out.append([])  # nothing joins it
    return [g for g in out if g]


def print_rows(
    scope: Scope, group: Sequence[Compute], body: Callable[[Scope], list[str]]
) -> list[str] | None:
    """``body`` inside loops over the rows of a group; None where they stay near as they are."""
    if len(group) < 2:
        return None
    rows = _rows(group, scope)
    tiles = {b.name: b for s in group for b in _tiles(s)}
    size = sum(
        math.prod([size_of(scope, a) for a in b.axes]) * DTYPES[b.dtype].bytes
        for b in tiles.values()
    )
    if size <= NEAR:
        return None
    return chunked(scope, dict.fromkeys(rows, 1), body)


def _copies(stmt: Compute) -> bool:
    """Whether a statement may turn a tile's layout, which is done in blocks."""
    return stmt.reduce is None and isinstance(stmt.expr, Load)


def _rows(group: Sequence[Compute], scope: Scope) -> list[Axis]:
    """The axes that all statements keep; none where a statement has no long row beside them.

    What a tile is contiguous along stays within the rows: vectors run along it.
    """
    inner: set[Axis] = set()
    for tile in (b for s in group for b in _tiles(s)):
        live = [a for a in tile.axes if not scope.ranges[a].single]
        inner |= set(live[-1:]) if len(live) > 1 else set()
    common = [
        a
        for a in group[0].axes
        if not scope.ranges[a].single and a not in inner and all(a in s.axes for s in group)
    ]
    for s in group:
        rest = [a for a in (*s.axes, *s.over) if a not in common]
        if math.prod([size_of(scope, a) for a in rest]) < LONG:
            return []
    return common


def _tiles(stmt: Compute) -> Iterable[Buffer]:
    yield from (x.buffer for x in loads(stmt.expr) if x.buffer.space == "tile")
    if stmt.dst.space == "tile":
        yield stmt.dst
