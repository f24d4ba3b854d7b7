"""The analytic model: seconds of one placed kernel from bytes per level, flops per unit and waves.

Per task, every node of the kernel body is computed once over its axes, a grid axis counting only
its tile; so a value that lacks a grid axis is recomputed by every task along it, and is charged
for it. Memory is charged per level: the first reading of a buffer comes from DRAM (or the last
level when it fits), repeated readings from the level that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from superopt.cost.devices import Device
from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import Graph, Input, Map, Reduce, View
from superopt.mugraph.placement import Placement
from superopt.mugraph.scalars import SCALARS


@dataclass(frozen=True)
class Work:
    """What the model needs of one node: its axes, flops per element, and which unit does them."""

    axes: frozenset[Axis]
    flops: float
    unit: str  # "mul_add", "narrow" or "map"


@dataclass(frozen=True)
class KernelShape:
    """A kernel body boiled down for costing; independent of placement.

    works: computed nodes; reads: (axes, bytes per element, total elements) of stored values read;
    writes: the same for results; tiles: (axes, bytes per element) of values buffered per task.
    """

    works: tuple[Work, ...]
    reads: tuple[tuple[frozenset[Axis], int], ...]
    writes: tuple[tuple[frozenset[Axis], int], ...]
    tiles: tuple[tuple[frozenset[Axis], int], ...]
    reduced: tuple[Axis, ...]
    sizes: Mapping[Axis, int]


def shape_of_kernel(
    graph: Graph, body: list[int], stored: set[int], outputs: tuple[int, ...]
) -> KernelShape:
    """Boils a kernel body down: ``stored`` are inputs and values of earlier kernels."""
    works, tiles = [], []
    reads: dict[tuple[int, frozenset[Axis]], tuple[frozenset[Axis], int]] = {}
    reduced: list[Axis] = []
    users: dict[int, int] = {}
    for i in body:
        for a in graph.nodes[i].args:
            users[a] = users.get(a, 0) + 1
    for i in body:
        node = graph.nodes[i]
        axes = frozenset(node.axes)
        for a in node.args:
            if a in stored:
                # A view of a stored value is read at the view's own axes.
                key = axes if isinstance(node, View) else frozenset(graph.nodes[a].axes)
                reads[(a, key)] = (key, DTYPES[graph.nodes[a].dtype].bytes)
        if isinstance(node, Reduce):
            inner = frozenset(graph.nodes[node.operand].axes)
            works.append(Work(inner, 1.0, _unit(graph, node, stored)))
            reduced += [a for a in node.over if a not in reduced]
            tiles.append((axes, DTYPES[node.dtype].bytes))
        elif isinstance(node, Map):
            fused = _is_product_of(graph, i, node, body)
            flops = 1.0 if fused else float(max(SCALARS[node.op].flops, 0))
            if flops:
                works.append(Work(axes, flops, fused or "map"))
            if not fused and (users.get(i, 0) > 1 or _feeds_product(graph, i, body)) and flops:
                tiles.append((axes, DTYPES[node.dtype].bytes))
    writes = tuple(
        (frozenset(graph.nodes[i].axes), DTYPES[graph.nodes[i].dtype].bytes) for i in outputs
    )
    seen = [*(w.axes for w in works), *(a for a, _ in (*reads.values(), *writes, *tiles))]
    sizes = {a: hint(a.size) for axes in (*seen, frozenset(reduced)) for a in axes}
    return KernelShape(
        tuple(works), tuple(reads.values()), writes, tuple(tiles), tuple(reduced), sizes
    )


def _unit(graph: Graph, node: Reduce, stored: set[int]) -> str:
    operand = graph.nodes[node.operand]
    if node.op != "add" or not isinstance(operand, Map) or operand.op != "mul":
        return "map"
    return "narrow" if all(_narrow(graph, a) for a in operand.operands) else "mul_add"


def _narrow(graph: Graph, i: int) -> bool:
    """Whether a value comes straight from 16-bit storage."""
    node = graph.nodes[i]
    while isinstance(node, View) or (isinstance(node, Map) and node.op == "cast"):
        node = graph.nodes[node.args[0]]
    return isinstance(node, Input) and is_float(node.dtype) and DTYPES[node.dtype].bytes == 2


def _is_product_of(graph: Graph, i: int, node: Map, body: list[int]) -> str | None:
    """The unit of a product that a sum consumes in place (its flop belongs to the contraction)."""
    if node.op != "mul":
        return None
    sums = [n for j in body if isinstance(n := graph.nodes[j], Reduce) and n.operand == i]
    return _unit(graph, sums[0], set()) if sums and all(s.op == "add" for s in sums) else None


def _feeds_product(graph: Graph, i: int, body: list[int]) -> bool:
    """Whether a value is a factor with fewer axes than the product that reads it."""
    axes = set(graph.nodes[i].axes)
    return any(
        isinstance(n := graph.nodes[j], Map)
        and n.op == "mul"
        and i in n.operands
        and set(n.axes) > axes
        for j in body
    )


def kernel_seconds(
    shape: KernelShape,
    placement: Placement,
    device: Device,
    sizes: Mapping[Axis, int] | None = None,
) -> float:
    """Predicted seconds of one kernel under a placement; infinite when the tile does not fit."""

    whole = shape.sizes if sizes is None else {**shape.sizes, **sizes}
    grid = {s.axis: min(s.tile, whole[s.axis]) for s in placement.grid}
    loop = {s.axis: min(s.tile, whole[s.axis]) for s in placement.loop}
    tile = {**whole, **grid}
    step = {a: min(loop.get(a, n), n) for a, n in tile.items()}
    tasks = math.prod(math.ceil(whole[a] / t) for a, t in grid.items())

    def count(axes: frozenset[Axis], per_step: bool = False) -> float:
        extents = step if per_step else tile
        return math.prod([extents[a] for a in axes])

    # Thin row blocks leave the multiply-add units waiting for loads of the wide operand.
    compute = 0.0
    for w in shape.works:
        rate = {"map": device.map_rate, "mul_add": device.mul_add, "narrow": device.narrow}[w.unit]
        compute += count(w.axes) * w.flops / rate
    buffered = sum(count(axes, per_step=True) * b for axes, b in shape.tiles)
    step_reads = sum(count(axes, per_step=True) * b for axes, b in shape.reads)
    if buffered > device.l2:
        compute *= 1.0 + min(buffered / device.l2, 8.0) * 0.5
    elif buffered > device.l1:
        compute *= 1.04
    steps = math.prod(math.ceil(whole[a] / t) for a, t in loop.items())
    overhead = device.step * steps * (len(shape.tiles) + 2)
    dram = l3 = 0.0
    for axes, b in (*shape.reads, *shape.writes):
        total = math.prod([whole[a] for a in axes]) * b
        moved = count(axes) * b * tasks
        again = max(moved - total, 0.0)
        # Neighbouring tasks share what lacks their grid axes; it stays near when it is small.
        dram += total + (0.0 if total <= device.l3_bytes / 2 else again * 0.5)
        l3 += (
            again
            if count(axes, per_step=True) * b > device.l2 / 2 or total > device.l2
            else again * 0.2
        )
    waves = math.ceil(tasks / device.cores) * device.cores / tasks
    per_core = (compute + overhead) * tasks / device.cores * waves
    memory = dram / device.dram + l3 / device.l3
    if step_reads > 8 * device.l2:
        memory *= 1.1
    if tasks < device.cores:
        memory *= device.cores / max(tasks, 1) * 0.75
    return device.launch + max(per_core, memory) + 0.3 * min(per_core, memory)


def cost_on(
    device: Device,
) -> Callable[[Graph, list[int], set[int], tuple[int, ...]], Callable[[Placement], float]]:
    """The cost function that the search takes: a kernel body, then a placement, to seconds."""

    def cost(
        graph: Graph, body: list[int], stored: set[int], outputs: tuple[int, ...]
    ) -> Callable[[Placement], float]:
        shape = shape_of_kernel(graph, body, stored, outputs)
        return lambda placement: kernel_seconds(shape, placement, device)

    return cost
