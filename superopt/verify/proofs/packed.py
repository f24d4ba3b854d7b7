"""Lemma "copied": what reads packed inputs is the program itself, over copies.

The programs that pack are held to the lemmas of all programs ("declared", "in bounds", "stored once").
Beside that, copied (no arithmetic):

* each stores to a packed buffer, at its own coordinates, what it loads from an input at the same
  coordinates, without conversion; the two have the same axes and dtype;
* panels are over two axes of the buffer; both, and all its axes, have fixed sizes. Then an address is the
  number with the digits (outer coordinates, i div width, j div group, i mod width, j mod group) in the
  mixed radix of (outer sizes, ceil(n / width), ceil(k / group), width, group), which are different for
  different coordinates, and within the buffer;
* a program that reads packed buffers is the one that it stands for once each of their loads is turned back
  into a load of the input; each cut of the columns that it reads is a whole number of panels and each cut of
  the steps a whole number of groups (what is printed goes from panel to panel, and from group to group).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import Split
from superopt.mugraph.tile_analysis import loads
from superopt.mugraph.tile_edit import expressions, places, replaced
from superopt.mugraph.tileir import Buffer, Compute, Coord, Expr, Load, Loop, Part, Program
from superopt.verify.proofs.bounds import bounds
from superopt.verify.proofs.declared import faults_of
from superopt.verify.proofs.lemma import PROVED, REFUTED, Lemma
from superopt.verify.proofs.nest import Nest
from superopt.verify.proofs.solver import Solver
from superopt.verify.proofs.stored import stored


class Packed(Protocol):
    """What packing makes of programs: what stores packed buffers, and what reads them."""

    @property
    def packs(self) -> Sequence[Program]:
        """One program for each packed buffer."""

    @property
    def reads(self) -> Sequence[Program]:
        """For each program, what stands for it once the inputs are packed."""


def packed(
    programs: Sequence[Program], packing: Packed, graph: Graph, solver: Solver
) -> Iterator[Lemma]:
    """The lemmas of what packs inputs and of what reads them."""
    nests = [Nest(p) for p in packing.packs]
    source: dict[str, Buffer] = {}
    for nest in nests:
        faults = [*faults_of(nest, graph), *_copies(nest.program, source)]
        yield _lemma(nest.name("declarations"), faults)
    yield from stored(nests, solver)
    for nest in nests:
        yield from bounds(nest, solver)
    if len(programs) != len(packing.reads):
        yield _lemma("programs that read packed inputs", ["not one for each program"])
    for program, reader in zip(programs, packing.reads, strict=False):
        if reader is not program:
            yield _lemma(
                f"{program.name}: over packed inputs", list(_stands_for(program, reader, source))
            )


def _lemma(subject: str, faults: Sequence[str]) -> Lemma:
    return Lemma("copied", subject, REFUTED if faults else PROVED, "; ".join(faults))


def _copies(program: Program, source: dict[str, Buffer]) -> Iterator[str]:
    """Faults of a program that packs; what its buffer is a copy of goes into ``source``."""
    stmt = program.body[0] if len(program.body) == 1 else None
    if not isinstance(stmt, Compute) or stmt.reduce is not None or not isinstance(stmt.expr, Load):
        yield "it is not one copy"
        return
    load, to = stmt.expr, stmt.dst
    if to.name in source:
        yield f"{to.name} is packed twice"
    source[to.name] = load.buffer
    if load.buffer.space != "input" or to.space != "packed" or to.panels is None:
        yield "it does not copy an input into panels"
        return
    if to.axes != load.buffer.axes or not to.dtype == load.buffer.dtype == load.dtype:
        yield "the copy has other axes or another dtype"
    if load.index != tuple(Coord(a) for a in load.buffer.axes) or load.clamp:
        yield f"it stores {load!r} at other coordinates"
    p = to.panels
    if p.columns == p.steps or not {p.columns, p.steps} <= set(to.axes):
        yield "its panels are not over two of its axes"
    if p.width < 1 or p.group < 1 or any(not isinstance(a.size, int) for a in to.axes):
        yield "its panels have no size"
        return
    for split in program.grid:
        if split.axis == p.columns and split.tile % p.width and split.tile < _size(split.axis):
            yield f"a task packs {split.tile} columns, which are no whole panels"
        if split.axis == p.steps and split.tile < _size(split.axis):
            yield "the steps of a panel are packed by several tasks"


def _stands_for(program: Program, reader: Program, source: Mapping[str, Buffer]) -> Iterator[str]:
    """Faults of a program that reads packed buffers in place of inputs."""

    def back(expr: Expr) -> Expr:
        if isinstance(expr, Load) and expr.buffer.name in source:
            return Load(source[expr.buffer.name], expr.index, expr.dtype, expr.clamp)
        return expr

    declared = {b.name: b for b in (*reader.buffers, *reader.tiles)}
    for place in places(reader.body):
        stmt = place.stmt
        if not isinstance(stmt, Compute):
            continue
        if stmt.dst.space == "packed":
            yield f"{stmt.dst.name} is stored to"
        for load in loads(stmt.expr):
            yield from _cut_within(load, [*place.loops, *reader.grid, *reader.parts])
        new = replace(stmt, expr=expressions(stmt.expr, back))
        reader = replaced(reader, place.path, [new])
    known = {b.name: b for b in program.buffers}
    for name, b in declared.items():
        if b.space == "packed" and name not in source:
            yield f"{name} is packed by no program"
        elif b.space not in ("packed", "tile") and known.get(name) != b:
            yield f"{name} is another buffer than in the program"
    if replace(reader, buffers=program.buffers) != program:
        yield "it is another program"


def _cut_within(load: Load, cuts: Sequence[Loop | Split | Part]) -> Iterator[str]:
    """Faults of a load of a packed buffer whose panels or groups are cut."""
    panels = load.buffer.panels
    if panels is None:
        return
    for own, whole in ((panels.columns, panels.width), (panels.steps, panels.group)):
        index = load.index[load.buffer.axes.index(own)]
        axis = index.axis if isinstance(index, Coord) else None
        if axis is None:
            yield f"{load!r} is not read along axes"
        for cut in cuts:
            if cut.axis == axis and cut.tile % whole and cut.tile < _size(cut.axis):
                yield f"{load.buffer.name} is cut after {cut.tile} {own.name}, not {whole} by {whole}"


def _size(axis: Axis) -> int:
    return axis.size if isinstance(axis.size, int) else 1
