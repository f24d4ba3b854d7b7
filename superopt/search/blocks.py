"""A term graph seen from its cut points: what each computes by itself, and what kernels take at least.

Sets of cut points are bits: the k-th point (ascending ids, hence topological) is ``1 << k``. The
*block* of a point holds the nodes between it and the points and inputs below. A kernel that stores
a point computes its block, and those of the points below that are not stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph, Input
from superopt.mugraph.placement import Split


class Least(Protocol):
    """Seconds that no kernel of any cut takes less than; given by the cost stage.

    A kernel takes at least ``launch + max(c, m) + overlap * min(c, m)``, with c the sum of
    ``work`` over its nodes, and m that of what it reads and writes.
    """

    launch: float
    overlap: float

    def work(self, i: int) -> float:
        """Computing a node once."""

    def read(self, reader: int, i: int) -> tuple[frozenset[Axis], float]:
        """(axes, seconds) of one node reading a stored value; what has these axes is read once."""

    def write(self, i: int) -> float:
        """Storing a node."""

    def placed(
        self,
        body: Sequence[int],
        stored: set[int],
        outputs: tuple[int, ...],
        settled: int,
        reduced: Iterable[Axis],
        grids: Sequence[Sequence[Sequence[Split]]],
        step: int,
        prices: Sequence[tuple[float, float]],
    ) -> list[float] | None:
        """The least seconds of a kernel that computes this body, and perhaps more; None: not known.

        One for each (price of a second of compute, of memory): less what is paid for the rest of
        what it computes and moves. settled: nodes above this one get no more readers; reduced: axes
        that may be in parts; grids: sets of choices, any of which; step: the smallest of a loop.
        """


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


@dataclass(frozen=True, slots=True)
class Body:
    """What a kernel computes, as blocks, and the points that these read (themselves included)."""

    blocks: int
    args: int

    @property
    def reads(self) -> int:
        """The points that the kernel reads, or has not decided about."""
        return self.args & ~self.blocks


class Blocks:
    """The blocks of the cut points of one graph, with what they take at least.

    points: ids, ascending; nodes, inputs: per point, the computed nodes of its block and the inputs
    that they read; args: per point, the points that its block reads.
    """

    def __init__(self, graph: Graph, points: Iterable[int], least: Least) -> None:
        self.graph, self.least = graph, least
        self.points = tuple(sorted(points))
        self.at = {i: k for k, i in enumerate(self.points)}
        self.nodes: list[tuple[int, ...]] = []
        self.inputs: list[frozenset[int]] = []
        self.args: list[int] = []
        self.writes = [least.write(i) for i in self.points]
        self._work = _Sums()
        self._move = _Sums()
        self._works: list[int] = []  # per block: bits of ``_work``
        self._input_reads: list[int] = []  # per block: bits of ``_move``
        self._reads: list[list[tuple[int, int]]] = []  # per block: (point read, bit of ``_move``)
        self._known: dict[tuple[int, int], tuple[float, float]] = {}
        for i in self.points:
            self._add(i)
        self._every = self.done((1 << len(self.points)) - 1)

    def _add(self, root: int) -> None:
        graph = self.graph
        inside, inputs, args = {root}, set[int](), 0
        works, input_reads, reads = 0, 0, set[tuple[int, int]]()
        todo = [root]
        while todo:
            i = todo.pop()
            works |= self._work.bit(i, self.least.work(i))
            for a in graph.nodes[i].args:
                stored = a in self.at
                if not stored and not isinstance(graph.nodes[a], Input):
                    if a not in inside:
                        inside.add(a)
                        todo.append(a)
                    continue
                axes, seconds = self.least.read(i, a)
                bit = self._move.bit((a, axes), seconds)
                if isinstance(graph.nodes[a], Input):
                    inputs.add(a)
                    input_reads |= bit
                else:
                    args |= 1 << self.at[a]
                    reads.add((self.at[a], bit))
        self.nodes.append(tuple(inside))
        self.inputs.append(frozenset(inputs))
        self.args.append(args)
        self._works.append(works)
        self._input_reads.append(input_reads)
        self._reads.append(sorted(reads))

    def body(self, outputs: int, barrier: int) -> Body:
        """The kernel that stores ``outputs``: the blocks down to the points of ``barrier``."""
        inside = args = 0
        todo = outputs
        while todo:
            low = todo & -todo
            inside |= low
            args |= self.args[low.bit_length() - 1]
            todo = (todo | (args & ~barrier)) & ~inside
        return Body(inside, args)

    def kernel(self, body: Body) -> tuple[list[int], set[int]]:
        """(computed nodes, stored nodes that they read) of a kernel of which all is decided."""
        nodes, reads = set[int](), {self.points[k] for k in bits(body.reads)}
        for k in bits(body.blocks):
            nodes.update(self.nodes[k])
            reads |= self.inputs[k]
        return sorted(nodes), reads - nodes

    def floor(self, outputs: int, body: Body, open_points: int = 0) -> tuple[float, float]:
        """(compute, memory) seconds that a kernel takes at least, whatever becomes of the open points."""
        key = body.blocks, body.reads & ~open_points
        found = self._known.get(key)
        if found is None:
            works = moves = 0
            for k in bits(body.blocks):
                works |= self._works[k]
                moves |= self._input_reads[k]
                for a, bit in self._reads[k]:
                    if key[1] >> a & 1:
                        moves |= bit
            found = self._known[key] = self._work.total(works), self._move.total(moves)
        return found[0], found[1] + sum([self.writes[k] for k in bits(outputs)])

    def seconds(self, compute: float, memory: float) -> float:
        """The least seconds of a kernel of this least compute and memory time."""
        high, low = (compute, memory) if compute > memory else (memory, compute)
        return self.least.launch + high + self.least.overlap * low

    def done(self, blocks: int) -> tuple[int, int]:
        """The pieces of work, and the readings of inputs, of some blocks, as bits for ``rest``."""
        works = reads = 0
        for k in bits(blocks):
            works |= self._works[k]
            reads |= self._input_reads[k]
        return works, reads

    def rest(self, works: int, reads: int) -> tuple[float, float]:
        """(compute, memory) seconds of all pieces of work and readings of inputs but these.

        Every value is computed in some kernel, which then reads what the value is computed from.
        """
        every = self._every
        return self._work.total(every[0] & ~works), self._move.total(every[1] & ~reads)


@dataclass
class _Sums:
    """Things that count once, as bits, and what sets of them add up to."""

    values: list[float] = field(default_factory=list)
    _bits: dict[object, int] = field(default_factory=dict)
    _totals: dict[int, float] = field(default_factory=dict)

    def bit(self, thing: object, value: float) -> int:
        """The bit of a thing; none where it counts nothing."""
        if value <= 0.0:
            return 0
        if thing not in self._bits:
            self._bits[thing] = 1 << len(self.values)
            self.values.append(value)
        return self._bits[thing]

    def total(self, mask: int) -> float:
        if mask not in self._totals:
            self._totals[mask] = sum([self.values[k] for k in bits(mask)])
        return self._totals[mask]
