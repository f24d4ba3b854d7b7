"""Kernel bodies boiled down for costing, many of one graph: what ``shape_of_kernel`` says, faster.

What a node adds to a kernel is worked out once per graph: sets of axes are bits there, as the engine
takes them. ``shape_of_kernel`` stays the definition, and serves graphs of more axes than the engine
can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from superopt.cost.devices import Device
from superopt.cost.held import PER_STAT, kept_bytes, moved_with, stored_twice
from superopt.cost.model import (
    MOST_AXES,
    UNITS,
    Choices,
    KernelCost,
    device_numbers,
    engine_class,
    unit_of,
)
from superopt.cost.order import Steps, steps_of
from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.dtypes import DTYPES, compute_dtype
from superopt.mugraph.graph import Const, Graph, Input, Map, Node, Reduce, SizeOf, View
from superopt.mugraph.narrow import MOST_READINGS
from superopt.mugraph.narrow import steps_of as unpacked_in
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.sums import follows


class _Ready(KernelCost):
    """The cost of a kernel of which the engine knows the shape."""

    def __init__(self, engine: Any, at: dict[Axis, int]) -> None:
        self._engine, self._at = engine, at


_Buffers = tuple[list[tuple[int, int, float]], list[tuple[int, float]]]
"""What may get a tile buffer: (axes, summed over, bytes of an element), and factors: (axes, bytes)."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One node; reading: the axes at which a view reads; sum: (unit, axes of operand, part)."""

    args: tuple[int, ...]
    axes: int
    bytes: float
    reading: int | None = None
    steps: tuple[tuple[int, float], ...] = ()  # of an input, or of what a view reads
    flops: float = 0.0
    product: bool = False
    is_map: bool = False
    inner: tuple[int, float, int] | None = None  # a reduction: its work
    part: tuple[int, int, float] | None = None
    adds: bool = False
    over: int = 0
    costly: bool = False
    wide: float = 0.0  # bytes of an element where it is kept, if that may be in double
    fixed: bool = False  # made of literals and sizes
    unpacked: int = -1  # operations on integers of few bits that it is made by
    below: frozenset[int] = frozenset()  # the reductions that a node depends on


class Rows:
    """The rows of a graph, which grow with it: ``graph`` may be replaced by one with more nodes."""

    def __init__(self, device: Device) -> None:
        self._numbers = device_numbers(device)
        self._engine: Any = engine_class()
        self._at: dict[Axis, int] = {}
        self._sizes: list[float] = []
        self._rows: list[_Row] = []
        self._nodes: tuple[Node, ...] = ()
        self._sums: dict[int, set[int]] = {}  # node -> units of the sums that read it
        self._shared: set[int] = set()  # nodes that some kernel may hold for several readers
        self._readers: dict[int, int] = {}
        self._moved: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
        self._sums_held: dict[tuple[int, ...], _Buffers] = {}

    def cost(
        self, graph: Graph, body: Sequence[int], stored: set[int], outputs: tuple[int, ...]
    ) -> KernelCost | None:
        """The cost of a kernel body, or None where the engine cannot tell."""
        if self._engine is None or not self._extend(graph):
            return None
        return _Ready(self._shape(graph, body, stored, outputs, -1, None), self._at)

    def least(
        self,
        graph: Graph,
        body: Sequence[int],
        stored: set[int],
        outputs: tuple[int, ...],
        settled: int,
        reduced: Iterable[Axis],
        grids: Sequence[Choices],
        step: int,
        prices: Sequence[tuple[float, float]],
    ) -> list[float] | None:
        """The least seconds of a kernel that computes this body, and perhaps more, for each price.

        settled: nodes above this one have all the readers that they can get; reduced: the axes that
        may be split; grids: the ways to place, any of which; step: the smallest of a loop; prices:
        see ``csrc/core/place.h``. None where the engine cannot tell.
        """
        if self._engine is None or not self._extend(graph):
            return None
        engine = self._shape(graph, body, stored, outputs, settled, self._bits(tuple(reduced)))
        found = [
            engine.least(
                [[(self._at[s.axis], float(s.tile)) for s in g] for g in grid], float(step), prices
            )
            for grid in grids
        ]
        return [min(each) for each in zip(*found, strict=True)]

    def _shape(
        self,
        graph: Graph,
        body: Sequence[int],
        stored: set[int],
        outputs: tuple[int, ...],
        settled: int,
        may_split: int | None,
    ) -> Any:
        """The engine of a kernel body."""
        rows = self._rows
        works, tiles, parts = [], [], []
        reads: dict[tuple[int, int], tuple[float, tuple[tuple[int, float], ...]]] = {}
        readers: dict[int, list[_Row]] = {}
        reduced = 0
        for i in body:
            row = rows[i]
            for a in row.args:
                if a in readers:
                    readers[a].append(row)
                else:
                    readers[a] = [row]
                if a in stored:
                    read = rows[a]
                    at = read.axes if row.reading is None else row.reading
                    reads[a, at] = read.bytes, (read if row.reading is None else row).steps
        for i in body:
            row = rows[i]
            if row.inner is not None and row.part is not None:
                works.append(row.inner)
                tiles.append((row.axes, row.bytes))
                parts.append(row.part)
                reduced |= row.over
                continue
            flops, by = row.flops, readers.get(i, ())
            if row.product:
                if i <= settled:  # another reader may change what it costs, either way
                    works.append(self._cheapest(i))
                    continue
                sums = [r for r in by if r.inner is not None]
                if sums and all(r.adds for r in sums):
                    inner = sums[0].inner
                    works.append((row.axes, 1.0, inner[2] if inner else 0))
                    continue
            if flops:
                works.append((row.axes, flops, int(row.unpacked >= 0)))  # "mul_add", or "map"
                own = row.axes
                kept = len(by) > 1 or any(r.product and r.axes != own for r in by)
                if kept and not (row.unpacked >= 0 and all(self._anew(row, r) for r in by)):
                    tiles.append((own, row.bytes))
        return self._engine(
            self._sizes,
            works,
            [(axes, b) for (_, axes), (b, _) in reads.items()],
            [steps for _, steps in reads.values()],
            [(rows[i].axes, rows[i].bytes) for i in outputs],
            tiles,
            parts,
            reduced if may_split is None else may_split,
            # What is more than this kernel has no limit: it may be stored.
            *(self._held(graph, body, outputs, readers) if may_split is None else ([], [])),
            *self._numbers,
        )

    def _anew(self, row: _Row, reader: _Row) -> bool:
        more, readings = reader.axes & ~row.axes, 1.0
        for k, size in enumerate(self._sizes):
            readings *= size if more >> k & 1 else 1.0
        return readings <= MOST_READINGS

    def _held(
        self,
        graph: Graph,
        body: Sequence[int],
        outputs: tuple[int, ...],
        readers: dict[int, list[_Row]],
    ) -> _Buffers:
        """What ``held_in`` says."""
        rows = self._rows
        several: set[int] | None = None
        sums = tuple(i for i in body if rows[i].inner is not None)
        if sums not in self._sums_held:
            self._sums_held[sums] = self._held_for(graph, sums)
        held, factors = self._sums_held[sums]
        some = [i for i in body if i in self._shared or i in outputs]
        some = [i for i in some if rows[i].is_map and rows[i].costly]
        if not some:
            return held, factors
        held = held.copy()
        here = {*outputs, *sums}
        for i in reversed(body):
            if i in here and (rows[i].is_map or rows[i].inner is not None):
                here.update(rows[i].args)
        for i in some:
            row = rows[i]
            if i in here:
                by = readers.get(i, [])
                keep = any(r is not by[0] or (r.is_map and r.axes & ~row.axes) for r in by)
                if not keep and i in outputs:
                    several = stored_twice(graph) if several is None else several
                    keep = i in several
                if keep:
                    held.append((row.axes, 0, row.wide or row.bytes))
        return held, factors

    def _held_for(self, graph: Graph, sums: tuple[int, ...]) -> _Buffers:
        """What is held for the reductions of a kernel."""
        rows = self._rows
        held: list[tuple[int, int, float]] = []
        factors: list[tuple[int, float]] = []
        for i in sums:
            row = rows[i]
            held.append((row.axes, row.over, row.wide))
            follow = [j for j in sums if i in rows[j].below and rows[j].over & row.over]
            if follow:
                held += [(row.axes, 0, row.wide)] * PER_STAT
            for j in follow:
                factors.append((row.axes, rows[j].wide))
                held += self._moved_with(graph, j, i)
        return held, factors

    def _moved_with(self, graph: Graph, j: int, i: int) -> list[tuple[int, int, float]]:
        if (j, i) not in self._moved:
            self._moved[j, i] = [
                (self._bits(tuple(h.axes)), self._bits(tuple(h.over)), float(h.bytes))
                for h in moved_with(graph, j, i)
            ]
        return self._moved[j, i]

    def _cheapest(self, i: int) -> tuple[int, float, int]:
        """The least work that a product can be in some kernel."""
        row, rates = self._rows[i], self._numbers[0]
        ways = [
            (row.flops, int(row.unpacked >= 0)),
            *((1.0, unit) for unit in sorted(self._sums.get(i, ()))),
        ]
        flops, unit = min(ways, key=lambda w: w[0] / rates[w[1]])
        return row.axes, flops, unit

    def _extend(self, graph: Graph) -> bool:
        """Brings the rows up to the graph; whether its axes can be told apart."""
        known = len(self._nodes)
        if graph.nodes is not self._nodes:
            if graph.nodes[:known] != self._nodes[: len(graph.nodes)]:
                self._at, self._sizes, self._rows, self._sums, known = {}, [], [], {}, 0
                self._moved, self._shared, self._readers = {}, set(), {}
                self._sums_held = {}
            if len(graph.nodes) > known:
                for node in graph.nodes[known:]:
                    self._note_reader(self._row(graph, node))
                self._nodes = graph.nodes
        return len(self._at) <= MOST_AXES

    def _note_reader(self, row: _Row) -> None:
        """Adds a row, and notes what it is not the only reader of, or reads along more axes."""
        for a in row.args:
            other = self._readers.setdefault(a, len(self._rows)) != len(self._rows)
            if other or (row.is_map and row.axes & ~self._rows[a].axes):
                self._shared.add(a)
        self._rows.append(row)

    def _row(self, graph: Graph, node: Node) -> _Row:
        axes, size = self._bits(node.axes), float(DTYPES[node.dtype].bytes)
        rows = self._rows
        below = frozenset[int]().union(
            *(rows[a].below if rows[a].inner is None else rows[a].below | {a} for a in node.args)
        )
        unpacked = unpacked_in(node, [rows[a].unpacked for a in node.args])
        costly = not isinstance(node, Input | Reduce) and any(rows[a].costly for a in node.args)
        match node:
            case Reduce():
                unit = UNITS.index(unit_of(graph, node))
                if node.op == "add":
                    self._sums.setdefault(node.operand, set()).add(unit)
                over = self._bits(node.over)
                return _Row(
                    node.args,
                    axes,
                    size,
                    inner=(self._bits(graph.nodes[node.operand].axes), 1.0, unit),
                    part=(axes, over, float(DTYPES[compute_dtype(node.dtype)].bytes)),
                    adds=node.op == "add",
                    over=over,
                    wide=float(kept_bytes(graph, len(self._rows))),
                    below=below,
                )
            case Map():
                flops = float(max(SCALARS[node.op].flops, 0))
                double = [r.wide == 8.0 > r.bytes for r in (rows[a] for a in node.args)]
                settled = [rows[a].fixed for a in node.args]
                own = follows(node) and any(double)
                wide = own and all(d or s for d, s in zip(double, settled, strict=True))
                return _Row(
                    node.args,
                    axes,
                    size,
                    flops=flops,
                    product=node.op == "mul",
                    is_map=True,
                    wide=8.0 if wide else 0.0,
                    fixed=all(settled),
                    costly=costly or flops > 0,
                    unpacked=unpacked,
                    below=below,
                )
            case View():
                steps = self._steps(steps_of(graph.nodes[node.operand], node))
                return _Row(
                    node.args,
                    axes,
                    size,
                    axes,
                    steps,
                    costly=costly,
                    unpacked=unpacked,
                    below=below,
                )
            case Input():
                lies = self._steps(steps_of(node, node))
                return _Row(node.args, axes, size, None, lies, unpacked=unpacked)
        fixed = isinstance(node, Const | SizeOf)
        return _Row(node.args, axes, size, costly=costly, below=below, fixed=fixed)

    def _steps(self, steps: Steps) -> tuple[tuple[int, float], ...]:
        self._bits([a for a, _ in steps])
        return tuple((self._at[a], float(n)) for a, n in steps)

    def _bits(self, axes: Sequence[Axis]) -> int:
        out = 0
        for a in axes:
            if a not in self._at:
                self._at[a] = len(self._sizes)
                self._sizes.append(float(hint(a.size)))
            out |= 1 << self._at[a]
        return out
