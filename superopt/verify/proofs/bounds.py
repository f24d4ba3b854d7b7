"""Lemmas "in bounds" and "tile in bounds": where a statement reads.

In bounds, for each load from a global buffer and each of its axes, of size n: let every coordinate
of the statement be within its axis, ``0 <= x < size(x)`` (the lemmas on cuts say that spans are).
Then ``0 <= index < n``. An axis that the load clamps needs an element to clamp to: ``1 <= n``.
A run-time index that is not clamped may be any integer.

Tile in bounds: a tile is read at its own coordinates alone. Its extent is that of the spans of its
axes where it is stored, and lemma "initialised" says that those are the spans where it is read. The
same holds for a global buffer which the program itself stores: a task reads of it what it stored.
"""

from __future__ import annotations

from collections.abc import Iterator

from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.tile_analysis import loads
from superopt.mugraph.tileir import Coord, Load
from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.lemma import PROVED, REFUTED, Lemma
from superopt.verify.proofs.nest import Nest, Point
from superopt.verify.proofs.solver import Solver


def bounds(nest: Nest, solver: Solver) -> Iterator[Lemma]:
    """The lemmas of every load of a program."""
    for point in nest.points:
        for load in loads(point.stmt.expr):
            if len(load.index) != len(load.buffer.axes):
                continue  # not declared so
            if load.buffer.space == "tile" or load.buffer.name in nest.stored:
                yield _own(nest, point, load)
            else:
                for d in range(len(load.index)):
                    yield _inside(nest, point, load, d, solver)


def _own(nest: Nest, point: Point, load: Load) -> Lemma:
    own = all(
        isinstance(i, Coord) and i.axis == a
        for i, a in zip(load.index, load.buffer.axes, strict=True)
    )
    return Lemma(
        "tile in bounds",
        nest.name(f"{load.buffer.name} in {point}"),
        PROVED if own else REFUTED,
        "" if own else f"it is read at {load!r}, which are not its own coordinates",
    )


def _inside(nest: Nest, point: Point, load: Load, d: int, solver: Solver) -> Lemma:
    axis = load.buffer.axes[d]
    f = Formula()
    for a in (*point.stmt.axes, *point.stmt.over):
        if _may_be_empty(a):  # without elements there is no access
            f.coordinate(a)
    n = f.size(axis)
    if d in load.clamp:
        goal = f"(<= 1 {n})"
    else:
        index = f.value(load.index[d])
        goal = f"(and (<= 0 {index}) (< {index} {n}))"
    subject = nest.name(f"{load.buffer.name} along {axis.name} in {point}")
    return solver.lemma("in bounds", subject, f, goal)


def _may_be_empty(axis: Axis) -> bool:
    return (axis.size.lo if isinstance(axis.size, Sym) else axis.size) < 1
