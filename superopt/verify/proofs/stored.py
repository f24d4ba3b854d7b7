"""Lemma "stored once": each element of an output or scratch buffer, by one task in one step.

A program that stores to a buffer has one statement that starts it (what is added to it after that
is the matter of "initialised" and "reduced once"). The elements of the buffer are the points of the
product of its axes, and what the statement stores in one step of one task is the product of the
spans of those axes. So each element is stored exactly once when

* each axis of the buffer is divided by its cuts: the grid, a part, each loop (``nest.steps``,
  ``nest.parts``);
* a grid axis that the buffer lacks has one task, ``1 <= n <= T``, unless it numbers the parts of an
  axis that the buffer has, or all its tasks store the same: nothing that the value is made from has
  that axis, and nothing is added to the buffer later (then ``1 <= n``);
* a loop over an axis that the buffer lacks has one step, ``lo < hi <= lo + T``.

If the buffer has both an axis and the number of its parts, each task must see all of the axis.
Every output and scratch buffer is stored by one program, before others read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from superopt.mugraph.axes import Axis
from superopt.mugraph.tile_analysis import reads
from superopt.mugraph.tile_edit import starts
from superopt.mugraph.tileir import Buffer
from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.lemma import PROVED, REFUTED, Lemma
from superopt.verify.proofs.nest import Nest, Point, one_step, one_task, parts, steps
from superopt.verify.proofs.solver import Solver


def stored(nests: Sequence[Nest], solver: Solver) -> Iterator[Lemma]:
    """The lemmas of every global buffer, in the order of the programs."""
    ready: set[str] = set()
    for nest in nests:
        for b in nest.program.buffers:
            if b.space == "input":
                continue
            subject = nest.name(b.name)
            if b.name not in nest.stored:
                found = b.name in ready
                words = "" if found else "it is read before a program has stored it"
                yield Lemma("initialised", subject, PROVED if found else REFUTED, words)
                continue
            first = [p for p in nest.points if starts(p.stmt, b.name)]
            fault = (
                "an earlier program has stored it"
                if b.name in ready
                else f"{len(first)} statements start it"
                if len(first) != 1
                else ""
            )
            yield Lemma("stored once", subject, REFUTED if fault else PROVED, fault)
            for point in first:
                yield from _divided(nest, point, b, solver)
        ready |= {b.name for b in nest.stored.values() if b.space != "tile"}


def _divided(nest: Nest, point: Point, buffer: Buffer, solver: Solver) -> Iterator[Lemma]:
    def lemma(what: str, formula: tuple[Formula, str]) -> Lemma:
        subject = nest.name(f"{buffer.name}, {what}")
        return solver.lemma("stored once", subject, *formula)

    for axis in buffer.axes:
        if axis in nest.grid:
            yield lemma(f"tasks along {axis.name}", steps(nest.grid[axis].tile))
        elif axis in nest.parts and nest.parts[axis].number in nest.grid:
            part = nest.parts[axis]
            both = part.number in buffer.axes
            found = _all_seen(nest, axis) if both else parts(nest, part)
            yield lemma(f"parts of {axis.name}", found)
        for _, loop in point.over(axis):
            yield lemma(f"steps along {axis.name}", steps(loop.tile))
    numbered = {p.number for p in nest.parts.values() if p.axis in buffer.axes}
    for axis in nest.grid:
        if axis in buffer.axes or axis in numbered:
            continue
        if _alike(nest, point, axis):
            f = Formula()
            yield lemma(f"the same by each task along {axis.name}", (f, f"(<= 1 {f.size(axis)})"))
        else:
            yield lemma(f"one task along {axis.name}", one_task(nest, axis))
    for path, loop in point.loops:
        if loop.axis not in buffer.axes:
            yield lemma(f"one step along {loop.axis.name}", one_step(nest, point, path))


def _alike(nest: Nest, point: Point, axis: Axis) -> bool:
    """Whether tasks that differ along an axis alone all store the same, in one statement."""
    differ = {axis} | {p.axis for p in nest.parts.values() if p.number == axis}
    made = {point.stmt.dst.name}
    while True:
        inside = [p for p in nest.points if p.stmt.dst.name in made]
        more = made.union(*(reads(p.stmt.expr) & nest.stored.keys() for p in inside))
        if more == made:
            break
        made = more
    if sum(p.stmt.dst.name == point.stmt.dst.name for p in inside) != 1:
        return False
    return not any(
        differ & {*p.stmt.axes, *p.stmt.over, *(loop.axis for _, loop in p.loops)} for p in inside
    )


def _all_seen(nest: Nest, axis: Axis) -> tuple[Formula, str]:
    f = Formula()
    lo, hi = nest.span(f, axis, ())
    return f, f"(and (= {lo} 0) (= {hi} {f.size(axis)}))"
