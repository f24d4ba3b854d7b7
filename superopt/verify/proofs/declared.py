"""Lemma "declared" and "linear": buffers, axes and tasks are what the program and the graph say.

Declared, of one program (no arithmetic):

* every name is one buffer; what is used is declared and what is declared is used; no input is
  stored to; tile sizes are positive; a statement stores along exactly the axes of its buffer;
  nothing is added by two equal statements; no axis comes up twice in one statement or on the grid;
  every coordinate in an expression is one of the statement's; a load has one index per axis;
* a part is of an axis that is not on the grid, and its number is on the grid, for it alone; a grid
  axis that the graph lacks is the number of a part;
* inputs and outputs have the axes, strides and dtype that the graph gives them.

Linear: ``sum of stride * coordinate`` stays inside the buffer, and no two coordinates share an
address. Inputs have the caller's strides, which are not negative: the address is largest at the
last coordinates, which the caller's tensor has. Outputs and scratch are dense: in some order of the
axes, each stride is the product of the sizes of those after it (as polynomials in the symbols), so
addresses are the numbers of a mixed radix, from 0 to one less than the number of elements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from superopt.mugraph.axes import Axis, Stride
from superopt.mugraph.dims import axis_strides
from superopt.mugraph.graph import Graph
from superopt.mugraph.tile_analysis import expr_axes, loads
from superopt.mugraph.tile_edit import places
from superopt.mugraph.tileir import Buffer, Loop, Program
from superopt.verify.proofs.lemma import PROVED, REFUTED, Lemma
from superopt.verify.proofs.nest import Nest


def declared(nests: Sequence[Nest], graph: Graph) -> Iterator[Lemma]:
    """The lemmas of each program's declarations, and those of what the programs share."""
    known: dict[str, Buffer] = {}
    for nest in nests:
        faults = faults_of(nest, graph)
        for b in nest.program.buffers:
            if known.setdefault(b.name, b) != b:
                faults.append(f"{b.name} is another buffer than in an earlier program")
        yield _lemma("declared", nest.name("declarations"), faults)
    yield _lemma("declared", "inputs and outputs", list(_boundary(known, graph)))
    for b in known.values():
        yield _lemma("linear", b.name, list(_linear(b)))


def faults_of(nest: Nest, graph: Graph) -> list[str]:
    """What is wrong with the declarations of one program."""
    return [*_buffers(nest), *_statements(nest), *_tasks(nest, graph)]


def _lemma(kind: str, subject: str, faults: Sequence[str]) -> Lemma:
    return Lemma(kind, subject, REFUTED if faults else PROVED, "; ".join(dict.fromkeys(faults)))


def _buffers(nest: Nest) -> Iterator[str]:
    program = nest.program
    named = {b.name: b for b in (*program.buffers, *program.tiles)}
    if len(named) != len(program.buffers) + len(program.tiles):
        yield "two buffers share a name"
    if any(b.space == "tile" for b in program.buffers) or any(
        b.space != "tile" for b in program.tiles
    ):
        yield "a tile among the global buffers, or the other way round"
    used = dict(nest.stored)
    for point in nest.points:
        for b in (point.stmt.dst, *(x.buffer for x in loads(point.stmt.expr))):
            used[b.name] = b
            if named.get(b.name) != b:
                yield f"{b.name} is used and not declared as it is"
    yield from (f"{name} is declared and not used" for name in named if name not in used)
    yield from (f"the input {b.name} is stored to" for b in nest.stored.values() if _given(b))
    for b in named.values():
        if len(set(b.axes)) != len(b.axes):
            yield f"{b.name} has an axis twice"
        if b.space not in ("tile", "packed") and len(b.strides) != len(b.axes):
            yield f"{b.name} has not one stride an axis"


def _given(buffer: Buffer) -> bool:
    return buffer.space == "input"


def _statements(nest: Nest) -> Iterator[str]:
    for place in places(nest.program.body):
        if isinstance(place.stmt, Loop) and place.stmt.tile < 1:
            yield f"a loop over {place.stmt.axis.name} in steps of {place.stmt.tile}"
    added = Counter(p.stmt for p in nest.points if p.stmt.accumulate)
    for point in nest.points:
        s = point.stmt
        space = (*s.axes, *s.over)
        if Counter(s.axes) != Counter(s.dst.axes):
            yield f"{point} stores along other axes than its buffer has"
        if len(set(space)) != len(space):
            yield f"{point} has an axis twice"
        if s.reduce is None and (s.accumulate or s.over):
            yield f"{point} reduces and names no reduction"
        missing = sorted(a.name for a in expr_axes(s.expr) - set(space))
        if missing:
            yield f"{point} depends on {', '.join(missing)}, which has no range there"
        if any(len(x.index) != len(x.buffer.axes) for x in loads(s.expr)):
            yield f"{point} reads a buffer at a wrong number of indices"
        if added[s] > 1:
            yield f"{point} is there twice: it would be added twice"


def _tasks(nest: Nest, graph: Graph) -> Iterator[str]:
    program: Program = nest.program
    axes = [s.axis for s in program.grid]
    if len(set(axes)) != len(axes):
        yield "an axis is on the grid twice"
    tiles = [*(s.tile for s in program.grid), *(p.tile for p in program.parts)]
    if any(t < 1 for t in tiles):
        yield "a tile of no element"
    numbers = [p.number for p in program.parts]
    if len(set(numbers)) != len(numbers) or len(nest.parts) != len(program.parts):
        yield "two parts share an axis or a number"
    for part in program.parts:
        if part.axis in nest.grid:
            yield f"{part.axis.name} is on the grid and in parts"
        if part.number not in nest.grid:
            yield f"the number {part.number.name} of a part is not on the grid"
    known = set(graph.axes)
    for axis in axes:
        if axis not in known and axis not in numbers:
            yield f"the grid axis {axis.name} is no axis of the graph, and numbers no parts"


def _boundary(known: Mapping[str, Buffer], graph: Graph) -> Iterator[str]:
    """Inputs and outputs are those of the graph, in its layout; outputs are named in its order."""
    given = {n.name: n for n in graph.inputs}
    outputs = {f"out{k}": o for k, o in enumerate(graph.outputs)}
    for b in known.values():
        if b.space == "input":
            node = given.get(b.name)
            if node is None or not _same(b, axis_strides(node.dims, node.strides), node.dtype):
                yield f"the input {b.name} is not laid out as the graph's"
        if b.space == "output":
            out = outputs.get(b.name)
            dtype = graph.nodes[out.node].dtype if out is not None else ""
            if out is None or not _same(b, axis_strides(out.dims, out.strides), dtype):
                yield f"the output {b.name} is not laid out as the graph's"
    yield from (
        f"the output {name} is stored by no program" for name in outputs if name not in known
    )


def _same(buffer: Buffer, strides: Mapping[Axis, Stride], dtype: str) -> bool:
    mine = dict(zip(buffer.axes, buffer.strides, strict=False))
    return mine == dict(strides) and buffer.dtype == dtype


def _linear(buffer: Buffer) -> Iterator[str]:
    if any(s.coef < 0 for s in buffer.strides):
        yield "a negative stride"
    if _given(buffer) or len(buffer.strides) != len(buffer.axes):
        return
    left = {a: s for a, s in zip(buffer.axes, buffer.strides, strict=True) if a.size != 1}
    block = Stride(1)
    while left:
        axis = next((a for a, s in left.items() if s == block), None)
        if axis is None:
            names = ", ".join(f"{a.name} by {s}" for a, s in left.items())
            yield f"the strides of {names} leave gaps or overlap beside a block of {block}"
            return
        del left[axis]
        block = block.times(axis.size)
