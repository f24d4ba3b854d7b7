"""What computing and moving values takes at least, whatever kernels they are in and however placed.

Per task ``kernel_seconds`` charges a tile of every value, and the tiles of all tasks cover it; so
the arithmetic of a kernel takes at least that of each of its nodes once, at the best rate of its
unit, shared by all cores, and its memory time at least one pass over what it reads and writes.
Placement, tiles that do not fit, steps and waves only add to that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from superopt.cost.devices import Device
from superopt.cost.lanes import Lanes
from superopt.cost.model import Choices, KernelCost, shape_of_kernel, unit_of
from superopt.cost.rows import Rows
from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Graph, Map, Reduce, View
from superopt.mugraph.scalars import SCALARS


@dataclass(frozen=True)
class Costs:
    """The costs on one device that the search takes: of placed kernels, and least ones."""

    device: Device

    def __reduce__(self) -> tuple[type[Costs], tuple[Device]]:
        # What is known of nodes stays here: another process works it out again.
        return Costs, (self.device,)

    @cached_property
    def rows(self) -> Rows:
        """What is known of the nodes of the graph that was asked about last."""
        return Rows(self.device)

    def __call__(
        self, graph: Graph, body: list[int], stored: set[int], outputs: tuple[int, ...]
    ) -> KernelCost:
        """The cost of the placements of one kernel body."""
        ready = self.rows.cost(graph, body, stored, outputs)
        return ready or KernelCost(shape_of_kernel(graph, body, stored, outputs), self.device)

    def lanes(self, graph: Graph, body: list[int], wide: frozenset[Axis]) -> Lanes:
        """The register tile of each placement; wide: the axes that are contiguous in memory."""
        return Lanes(graph, body, self.device, wide)

    def limits(self) -> str:
        """What no placement goes beyond."""
        most = self.device.tile_memory
        return f"{most} bytes of tile buffers in one task (SUPEROPT_TILE_MEMORY)"

    def least(self, graph: Graph) -> Least:
        """The least costs of the values that the outputs of a graph need."""
        return Least(graph, self.device, self.rows)


class Least:
    """The least seconds of each value of a graph.

    launch: of one kernel; overlap: the part of the lesser of compute and memory time that is not
    hidden by the greater: a kernel takes ``launch + max(c, m) + overlap * min(c, m)``.
    """

    overlap = 0.3

    def __init__(self, graph: Graph, device: Device, rows: Rows) -> None:
        self.launch, self.rows = device.launch, rows
        self._graph, self._device = graph, device
        self._sums: dict[int, list[Reduce]] = {}
        for i in graph.reachable([o.node for o in graph.outputs]):
            node = graph.nodes[i]
            if isinstance(node, Reduce):
                self._sums.setdefault(node.operand, []).append(node)

    def work(self, i: int) -> float:
        """Computing a node once, on all cores."""
        graph, device = self._graph, self._device
        node = graph.nodes[i]
        rates = {"map": device.map_rate, "mul_add": device.mul_add, "narrow": device.narrow}
        if isinstance(node, Reduce):
            size = _elements(graph.nodes[node.operand].axes)
            return size / rates[unit_of(graph, node)] / device.cores
        if not isinstance(node, Map):
            return 0.0
        times = [max(SCALARS[node.op].flops, 0) / device.map_rate]
        if node.op == "mul":
            # A sum that consumes the product in place gives it the rate of the contraction.
            times += [1.0 / rates[unit_of(graph, s)] for s in self._sums.get(i, ())]
        return _elements(node.axes) * min(times) / device.cores

    def read(self, reader: int, i: int) -> tuple[frozenset[Axis], float]:
        """(axes, seconds) of one node reading a stored value; what has these axes is read once."""
        node = self._graph.nodes[i]
        axes = (
            self._graph.nodes[reader].axes if isinstance(self._graph.nodes[reader], View) else None
        )
        axes = node.axes if axes is None else axes
        return frozenset(axes), self._moved(axes, node.dtype)

    def write(self, i: int) -> float:
        """Storing a node."""
        node = self._graph.nodes[i]
        return self._moved(node.axes, node.dtype)

    def placed(
        self,
        body: Sequence[int],
        stored: set[int],
        outputs: tuple[int, ...],
        settled: int,
        reduced: Iterable[Axis],
        grids: Sequence[Choices],
        step: int,
        prices: Sequence[tuple[float, float]],
    ) -> list[float] | None:
        """The least seconds of a kernel that computes this body, and perhaps more: ``Rows.least``."""
        return self.rows.least(
            self._graph, body, stored, outputs, settled, reduced, grids, step, prices
        )

    def _moved(self, axes: Iterable[Axis], dtype: str) -> float:
        cores = self._device.cores
        # A grid of fewer tasks than cores is charged cores / tasks * 0.75.
        idle = min(1.0, 0.75 * cores / (cores - 1)) if cores > 1 else 1.0
        return idle * _elements(axes) * DTYPES[dtype].bytes / self._device.dram


def _elements(axes: Iterable[Axis]) -> float:
    return float(math.prod([hint(a.size) for a in axes]))
