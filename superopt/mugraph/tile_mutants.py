"""Tile programs broken in one place each: what a verifier of tile programs must tell apart.

Every mutant has a kind, and every kind is of one of three sorts:

* ``COVERAGE``: what is stored, initialised or reduced where, and how often, may be wrong,
* ``ACCESS``: an index may leave its buffer (where it does not, another element is read),
* ``VALUES``: every access stays what it was, another value is computed.

Some mutants are harmless (a loop of another tile computes the same): a test must run them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from superopt.mugraph.axes import Axis
from superopt.mugraph.placement import Split
from superopt.mugraph.scalars import REDUCTIONS, SCALARS
from superopt.mugraph.tile_analysis import axes_used, loads
from superopt.mugraph.tile_edit import (
    Place,
    parts_in_order,
    places,
    replaced,
    starts,
    substituted,
    updates_itself,
    with_buffer,
)
from superopt.mugraph.tileir import (
    Apply,
    Buffer,
    Compute,
    Expr,
    Extent,
    Lit,
    Load,
    Loop,
    Program,
    Stmt,
)

COVERAGE = frozenset(
    {
        "initialisation dropped",
        "store deleted",
        "accumulation deleted",
        "accumulation doubled",
        "accumulate flag flipped",
        "reduced axis dropped",
        "reduced axis added",
        "stored axis dropped",
        "loop tile changed",
        "loop axis changed",
        "loop removed",
        "loop added",
        "statement moved out of a loop",
        "statement moved into a loop",
        "value read before it is stored",
        "grid tile changed",
        "grid axis removed",
        "grid axis added",
        "part tile changed",
        "part removed",
        "buffer axes swapped",
    }
)
"""Kinds that change what is stored, initialised or reduced, where and how often."""

ACCESS = frozenset({"index moved", "indices swapped", "clamp removed"})
"""Kinds that change where a buffer is read."""

VALUES = frozenset(
    {
        "operands swapped",
        "term dropped",
        "factor dropped",
        "literal changed",
        "extent changed",
        "rescale lost",
        "stale value",
        "stale accumulator",
        "reduction changed",
        "identity changed",
        "operand replaced",
        "outputs permuted",
    }
)
"""Kinds that change what is computed, and no access."""


def mutants(program: Program) -> Iterator[tuple[str, Program]]:
    """Every mutant of a program, with its kind; none equals the program, in a fixed order."""
    seen = {program}
    for kind, mutant in _all(program):
        if mutant not in seen:
            seen.add(mutant)
            yield kind, mutant


def _all(program: Program) -> Iterator[tuple[str, Program]]:
    here = list(places(program.body))
    for place in here:
        if isinstance(place.stmt, Loop):
            yield from _loops(program, place, place.stmt)
        else:
            yield from _statements(program, place, place.stmt)
            for kind, expr in _expressions(program, place.stmt):
                yield kind, replaced(program, place.path, [replace(place.stmt, expr=expr)])
    yield from _orders(program, here)
    yield from _tasks(program)
    for buffer in (*program.buffers, *program.tiles):
        for i, j in combinations(range(len(buffer.axes)), 2):
            axes = list(buffer.axes)
            axes[i], axes[j] = axes[j], axes[i]
            moved = replace(buffer, axes=tuple(axes))
            yield "buffer axes swapped", with_buffer(program, buffer, moved)
    yield from _permuted(program, here)


def _axes(program: Program) -> list[Axis]:
    return list(dict.fromkeys(axes_used(program)))


# -- statements ----------------------------------------------------------------------------------


def _statements(program: Program, place: Place, stmt: Compute) -> Iterator[tuple[str, Program]]:
    path = place.path

    def become(*stmts: Stmt) -> Program:
        return replaced(program, path, stmts)

    yield _deletion(program, place, stmt), become()
    if stmt.reduce is not None:
        if stmt.accumulate:
            yield "accumulation doubled", become(stmt, stmt)
        yield "accumulate flag flipped", become(replace(stmt, accumulate=not stmt.accumulate))
        for axis in stmt.over:
            rest = tuple(a for a in stmt.over if a != axis)
            yield "reduced axis dropped", become(replace(stmt, over=rest))
        for axis in _axes(program):
            if axis not in (*stmt.axes, *stmt.over):
                yield "reduced axis added", become(replace(stmt, over=(*stmt.over, axis)))
        for op, row in REDUCTIONS.items():
            alike = isinstance(row.identity, bool) == isinstance(
                REDUCTIONS[stmt.reduce].identity, bool
            )
            if op != stmt.reduce and alike:
                yield "reduction changed", become(replace(stmt, reduce=op))
    for axis in stmt.axes:
        rest = tuple(a for a in stmt.axes if a != axis)
        yield "stored axis dropped", become(replace(stmt, axes=rest))
    for axis in _axes(program):
        if all(axis != loop.axis for loop in place.loops):
            yield "loop added", become(Loop(axis, 3, (stmt,)))
    if place.loops:
        loop = place.loops[-1]
        alone = len(loop.body) == 1
        k = path[-1]
        left = replace(loop, body=(*loop.body[:k], *loop.body[k + 1 :]))
        rest_of = () if alone else (left,)
        for stmts in ((stmt, *rest_of), (*rest_of, stmt)):
            yield "statement moved out of a loop", replaced(program, path[:-1], stmts)


def _deletion(program: Program, place: Place, stmt: Compute) -> str:
    """What the deletion of a statement comes to."""
    name = stmt.dst.name
    others = [p.stmt for p in places(program.body) if p.path != place.path]
    if stmt.accumulate:
        return "accumulation deleted"
    if updates_itself(stmt):
        return "rescale lost"
    if any(starts(s, name) for s in others):
        return "stale value"
    if any(isinstance(s, Compute) and s.dst.name == name for s in others):
        return "initialisation dropped"
    return "store deleted"


def _loops(program: Program, place: Place, loop: Loop) -> Iterator[tuple[str, Program]]:
    for tile in dict.fromkeys((loop.tile - 1, loop.tile + 1, max(loop.tile // 2, 1), 1)):
        if tile >= 1:
            yield (
                "loop tile changed",
                replaced(program, place.path, [replace(loop, tile=tile)]),
            )
    for axis in _axes(program):
        if axis != loop.axis:
            yield "loop axis changed", replaced(program, place.path, [replace(loop, axis=axis)])
    yield "loop removed", replaced(program, place.path, loop.body)


def _orders(program: Program, here: list[Place]) -> Iterator[tuple[str, Program]]:
    """Neighbours that depend on each other in the other order, and what moves into the loop beside."""
    by_path = {p.path: p for p in here}
    for place in here:
        after = by_path.get((*place.path[:-1], place.path[-1] + 1))
        if after is None:
            continue
        a, b = place.stmt, after.stmt
        if isinstance(a, Compute) and isinstance(b, Compute):
            swapped = replaced(replaced(program, place.path, [b]), after.path, [a])
            used = {load.buffer.name for load in loads(b.expr)} | {b.dst.name}
            only = [p for p in here if starts(p.stmt, a.dst.name)] == [place]
            if a.dst.name in used and only and starts(a, a.dst.name):
                yield "value read before it is stored", swapped
            elif a.dst.name in used or b.dst.name in {x.buffer.name for x in loads(a.expr)}:
                yield "stale accumulator", swapped
        elif isinstance(a, Loop) and isinstance(b, Compute):
            gone = replaced(program, after.path, [])
            inner = replace(a, body=(*a.body, b))
            yield "statement moved into a loop", replaced(gone, place.path, [inner])
        elif isinstance(a, Compute) and isinstance(b, Loop):
            inner = replace(b, body=(a, *b.body))
            gone = replaced(program, after.path, [inner])
            yield "statement moved into a loop", replaced(gone, place.path, [])


def _tasks(program: Program) -> Iterator[tuple[str, Program]]:
    for k, split in enumerate(program.grid):
        rest = (*program.grid[:k], *program.grid[k + 1 :])
        yield "grid axis removed", replace(program, grid=rest)
        for tile in dict.fromkeys((split.tile + 1, split.tile * 2, max(split.tile // 2, 1))):
            grid = (*program.grid[:k], replace(split, tile=tile), *program.grid[k + 1 :])
            yield "grid tile changed", replace(program, grid=grid)
    for axis in _axes(program):
        if axis not in program.task_tiles:
            yield "grid axis added", replace(program, grid=(*program.grid, Split(axis, 2)))
    for k, part in enumerate(program.parts):
        rest_parts = (*program.parts[:k], *program.parts[k + 1 :])
        yield "part removed", replace(program, parts=rest_parts)
        for tile in dict.fromkeys((part.tile - 1, part.tile + 1, part.tile // 2, part.tile * 2)):
            if tile >= 1:
                changed = replace(part, tile=tile)
                yield "part tile changed", replace(program, parts=(*rest_parts, changed))


def _permuted(program: Program, here: list[Place]) -> Iterator[tuple[str, Program]]:
    """Two stores that write to each other's buffers."""
    stores = [
        (p, p.stmt)
        for p in here
        if isinstance(p.stmt, Compute) and p.stmt.dst.space in ("output", "scratch")
    ]
    for (p, a), (q, b) in combinations(stores, 2):
        if a.dst.name != b.dst.name and a.axes == b.axes and a.dst.dtype == b.dst.dtype:
            first = replaced(program, p.path, [replace(a, dst=b.dst)])
            yield "outputs permuted", replaced(first, q.path, [replace(b, dst=a.dst)])


# -- expressions ---------------------------------------------------------------------------------


def _expressions(program: Program, stmt: Compute) -> Iterator[tuple[str, Expr]]:
    """Each changed form of a statement's expression."""
    inside = {e for load in loads(stmt.expr) for i in load.index for e in parts_in_order(i)}
    for part in parts_in_order(stmt.expr):
        indexing = part in inside and not isinstance(part, Load)
        changes = _of_load(program, part) if isinstance(part, Load) else _of_value(program, part)
        for kind, new in changes:
            if not indexing:
                yield kind, substituted(stmt.expr, part, new)
    if isinstance(stmt.expr, Lit) and stmt.reduce is None:
        value = stmt.expr.value
        other = (not value) if isinstance(value, bool) else 1.0 if value != 1.0 else 0.0
        if not isinstance(value, int) or isinstance(value, bool):
            yield "identity changed", Lit(other, stmt.expr.dtype)


def _of_load(program: Program, load: Load) -> Iterator[tuple[str, Expr]]:
    for d, index in enumerate(load.index):
        for step in (1, -1):
            moved = Apply("add", (index, Lit(step, "i64")), "i64")
            yield "index moved", _at(load, d, moved)
    for i, j in combinations(range(len(load.index)), 2):
        swapped = list(load.index)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        yield "indices swapped", Load(load.buffer, tuple(swapped), load.dtype, load.clamp)
    if load.clamp:
        yield "clamp removed", Load(load.buffer, load.index, load.dtype)
    for other in (*program.buffers, *program.tiles):
        if _stands_for(other, load.buffer):
            yield "operand replaced", Load(other, load.index, load.dtype, load.clamp)


def _at(load: Load, d: int, index: Expr) -> Load:
    return Load(load.buffer, (*load.index[:d], index, *load.index[d + 1 :]), load.dtype, load.clamp)


def _stands_for(other: Buffer, buffer: Buffer) -> bool:
    """Whether another buffer can be read in the place of this one."""
    alike = [a.size for a in other.axes] == [a.size for a in buffer.axes]
    same = other.axes == buffer.axes or other.space == buffer.space == "input"
    return other.name != buffer.name and alike and same and other.space == buffer.space


def _of_value(program: Program, part: Expr) -> Iterator[tuple[str, Expr]]:
    if isinstance(part, Lit) and not isinstance(part.value, bool):
        if isinstance(part.value, int):
            yield "literal changed", Lit(part.value + 1, part.dtype)
        elif abs(part.value) < float("inf"):
            yield "literal changed", Lit(part.value * 0.5 + 0.25, part.dtype)
    elif isinstance(part, Extent):
        for axis in _axes(program):
            if axis.size != part.axis.size:
                yield "extent changed", Extent(axis, part.dtype)
        yield "extent changed", Lit(1.0 if part.dtype[0] == "f" else 1, part.dtype)
    elif isinstance(part, Apply) and len(part.args) == 2 and part.op not in ("floordiv", "mod"):
        a, b = part.args
        if "commutative" not in SCALARS[part.op].laws and a.dtype == b.dtype:
            yield "operands swapped", Apply(part.op, (b, a), part.dtype, part.attr)
        kind = {"add": "term dropped", "mul": "factor dropped", "div": "factor dropped"}
        for kept in (a, b) if part.op in ("add", "mul") else (a,) if part.op == "div" else ():
            if kept.dtype == part.dtype:
                yield kind[part.op], kept
    elif isinstance(part, Apply) and part.op == "where":
        condition, yes, no = part.args
        yield "operands swapped", Apply("where", (condition, no, yes), part.dtype)
