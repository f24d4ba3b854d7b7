"""The analytic model: seconds of one placed kernel from bytes per level, flops per unit and waves.

Per task, every node of the kernel body is computed once over its axes, a grid axis counting only
its tile; so a value that lacks a grid axis is recomputed by every task along it, and is charged
for it. Memory is charged per level: the first reading of a buffer comes from DRAM (or the last
level when it fits), repeated readings from the level that holds it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from superopt.cost.devices import Device
from superopt.cost.held import Held, held_in, tile_bytes
from superopt.cost.order import Steps, in_a_row, staying, steps_of, task_order
from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.dtypes import DTYPES, compute_dtype, short_float
from superopt.mugraph.graph import Graph, Map, Reduce, View, read_from
from superopt.mugraph.narrow import made_anew
from superopt.mugraph.narrow import steps_of as unpacked_in
from superopt.mugraph.placement import Placement, Split
from superopt.mugraph.scalars import SCALARS

if TYPE_CHECKING:
    from superopt.cost.least import Costs


@dataclass(frozen=True)
class Work:
    """What the model needs of one node: its axes, flops per element, and which unit does them."""

    axes: frozenset[Axis]
    flops: float
    unit: str  # "mul_add", "narrow" or "map"


@dataclass(frozen=True)
class KernelShape:
    """A kernel body boiled down for costing; independent of placement.

    works: computed nodes; reads: (axes, bytes per element) of stored values read; writes: the same
    for results; tiles: (axes, bytes per element) of values buffered per task; parts: (axes of the
    result, axes summed over, bytes) of each reduction, which a task stores when one of the latter is
    on the grid; steps: how each of ``reads`` lies in memory; held: what may get a tile buffer;
    factors: (axes, bytes per element) of what corrects an accumulator, in each task and in the merge
    of parts.
    """

    works: tuple[Work, ...]
    reads: tuple[tuple[frozenset[Axis], int], ...]
    writes: tuple[tuple[frozenset[Axis], int], ...]
    tiles: tuple[tuple[frozenset[Axis], int], ...]
    parts: tuple[tuple[frozenset[Axis], frozenset[Axis], int], ...]
    reduced: tuple[Axis, ...]
    sizes: Mapping[Axis, int]
    steps: tuple[Steps, ...] = ()
    held: tuple[Held, ...] = ()
    factors: tuple[tuple[frozenset[Axis], int], ...] = ()


def shape_of_kernel(
    graph: Graph, body: list[int], stored: set[int], outputs: tuple[int, ...]
) -> KernelShape:
    """Boils a kernel body down: ``stored`` are inputs and values of earlier kernels."""
    works, tiles, parts = [], [], []
    reads: dict[tuple[int, frozenset[Axis]], tuple[frozenset[Axis], int]] = {}
    steps: dict[tuple[int, frozenset[Axis]], Steps] = {}
    reduced: list[Axis] = []
    readers: dict[int, list[int]] = {}
    for i in body:
        for a in graph.nodes[i].args:
            readers.setdefault(a, []).append(i)
    unpacked: list[int] = []
    for node in graph.nodes:
        unpacked.append(unpacked_in(node, [unpacked[a] for a in node.args]))
    for i in body:
        node = graph.nodes[i]
        axes = frozenset(node.axes)
        for a in node.args:
            if a in stored:
                # A view of a stored value is read at the view's own axes.
                key = axes if isinstance(node, View) else frozenset(graph.nodes[a].axes)
                reads[(a, key)] = (key, DTYPES[graph.nodes[a].dtype].bytes)
                steps[(a, key)] = steps_of(graph.nodes[a], node)
        if isinstance(node, Reduce):
            inner = frozenset(graph.nodes[node.operand].axes)
            works.append(Work(inner, 1.0, unit_of(graph, node)))
            reduced += [a for a in node.over if a not in reduced]
            tiles.append((axes, DTYPES[node.dtype].bytes))
            parts.append((axes, frozenset(node.over), DTYPES[compute_dtype(node.dtype)].bytes))
        elif isinstance(node, Map):
            reads_it = readers.get(i, [])
            fused = _is_product_of(graph, node, reads_it)
            flops = 1.0 if fused else float(max(SCALARS[node.op].flops, 0))
            few = unpacked[i] >= 0
            if flops:  # what is unpacked in registers keeps the pace of the product that reads it
                works.append(Work(axes, flops, fused or ("mul_add" if few else "map")))
            kept = len(reads_it) > 1 or _feeds_product(graph, i, reads_it)
            if few and all(
                made_anew(unpacked[i], node.axes, frozenset(graph.nodes[j].axes)) for j in reads_it
            ):
                kept = False
            if not fused and kept and flops:
                tiles.append((axes, DTYPES[node.dtype].bytes))
    writes = tuple(
        (frozenset(graph.nodes[i].axes), DTYPES[graph.nodes[i].dtype].bytes) for i in outputs
    )
    held, factors = held_in(graph, body, outputs, readers)
    seen = [*(w.axes for w in works), *(a for a, _ in (*reads.values(), *writes, *tiles))]
    seen += [h.axes for h in held]
    sizes = {a: hint(a.size) for axes in (*seen, frozenset(reduced)) for a in axes}
    return KernelShape(
        tuple(works),
        tuple(reads.values()),
        writes,
        tuple(tiles),
        tuple(parts),
        tuple(reduced),
        sizes,
        tuple(steps.values()),
        held,
        factors,
    )


def unit_of(graph: Graph, node: Reduce) -> str:
    """The unit that a reduction runs on."""
    operand = graph.nodes[node.operand]
    if node.op != "add" or not isinstance(operand, Map) or operand.op != "mul":
        return "map"
    pairs = all(short_float(read_from(graph, a)) for a in operand.operands)
    return "narrow" if pairs else "mul_add"


def _is_product_of(graph: Graph, node: Map, readers: list[int]) -> str | None:
    """The unit of a product that a sum consumes in place (its flop belongs to the contraction)."""
    if node.op != "mul":
        return None
    sums = [n for j in readers if isinstance(n := graph.nodes[j], Reduce)]
    return unit_of(graph, sums[0]) if sums and all(s.op == "add" for s in sums) else None


def _feeds_product(graph: Graph, i: int, readers: list[int]) -> bool:
    """Whether a value is a factor with fewer axes than the product that reads it."""
    axes = set(graph.nodes[i].axes)
    return any(
        isinstance(n := graph.nodes[j], Map) and n.op == "mul" and set(n.axes) > axes
        for j in readers
    )


def kernel_seconds(
    shape: KernelShape,
    placement: Placement,
    device: Device,
    sizes: Mapping[Axis, int] | None = None,
    ordered: bool = True,
) -> float:
    """Predicted seconds of one kernel under a placement; tiles beyond the caches cost more.

    ordered: the order of the grid is that in which the tasks of a core follow each other, the last
    axis changing first; else nothing is known of it, and no task finds what another one has read.
    Infinite where the tile buffers of a task would not fit into the device's ``tile_memory``.
    """

    whole = shape.sizes if sizes is None else {**shape.sizes, **sizes}
    if tile_bytes(shape, placement, whole) > device.tile_memory:
        return math.inf
    grid = {s.axis: min(s.tile, whole[s.axis]) for s in placement.grid}
    loop = {s.axis: min(s.tile, whole[s.axis]) for s in placement.loop}
    tile = {**whole, **grid}
    step = {a: min(loop.get(a, n), n) for a, n in tile.items()}
    tasks = math.prod(math.ceil(whole[a] / t) for a, t in grid.items())
    parted = [a for a in grid if a in shape.reduced and grid[a] < whole[a]]
    parts = math.prod(math.ceil(whole[a] / grid[a]) for a in parted)

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
    steps = math.prod(math.ceil(tile[a] / step[a]) for a in loop)
    overhead = device.step * steps * (len(shape.tiles) + 2)
    # Tiles stay near while a core walks along axes that they lack, where all of them fit.
    runs, stays, kept = [], [], 0.0
    for (axes, b), lies in zip(shape.reads, shape.steps, strict=True):
        own = count(axes) * b
        runs.append(in_a_row(placement.grid, tile, whole, axes))
        stays.append(staying(lies, tile, b, own, device.l2))
        kept += own * stays[-1] if runs[-1] > 1 else 0.0
    stretch = max(tasks / device.cores, 1.0) if ordered and kept <= device.l2 / 2 else 1.0
    dram = l3 = 0.0
    for n, (axes, b) in enumerate((*shape.reads, *shape.writes)):
        total = math.prod([whole[a] for a in axes]) * b
        own = count(axes) * b
        # Only the merge of the parts writes results.
        times = tasks if n < len(shape.reads) else tasks / parts
        again = max(own * times - total, 0.0)
        if n < len(shape.reads):
            times *= stays[n] / min(runs[n], stretch) + (1.0 - stays[n])
        far = max(own * times - total, 0.0)
        near = (again - far) * 0.5
        # Neighbouring tasks share what lacks their grid axes; it stays near when it is small.
        dram += total + (0.0 if total <= device.l3_bytes / 2 else far * 0.5)
        l3 += (
            far + near
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
    predicted = device.launch + max(per_core, memory) + 0.3 * min(per_core, memory)
    if parts == 1:
        return predicted
    stored = [
        (math.prod([whole[a] for a in axes]) * parts, b)
        for axes, over, b in shape.parts
        if not over.isdisjoint(parted)
    ]
    return predicted + _merge_seconds(stored, min(device.cores, tasks / parts), device)


def _merge_seconds(stored: Sequence[tuple[float, int]], busy: float, device: Device) -> float:
    """Seconds of merging the parts of split reductions: (elements, bytes of one) of each."""
    elements = sum(n for n, _ in stored)
    passed = sum(n * b for n, b in stored)
    rate = device.l3 if passed <= device.l3_bytes / 2 else device.dram
    return device.launch + 2.0 * elements / (device.map_rate * busy) + 2.0 * passed / rate


Choices = Sequence[Sequence[Split]]
"""Ways of splitting: for a grid, the tiles of each axis; for loops, sets of splits together."""


class KernelCost:
    """Predicts placements of one kernel body on one device.

    The engine (``csrc/core/place.cpp``) computes what ``kernel_seconds`` says; without it, and for
    kernels of more than ``MOST_AXES`` axes, that function is called.
    """

    def __init__(self, shape: KernelShape, device: Device) -> None:
        self.shape, self.device = shape, device
        self._at = {a: k for k, a in enumerate(shape.sizes)}
        self._engine = _engine(shape, device, self._at)

    def __call__(self, placement: Placement) -> float:
        """Seconds of one placement."""
        if self._engine is None:
            return kernel_seconds(self.shape, placement, self.device)
        return float(
            self._engine.seconds(self._numbered(placement.grid), self._numbered(placement.loop))
        )

    def best(
        self, grids: Choices, loops: Choices, most: int, keep: int, ordered: bool = True
    ) -> list[tuple[float, Placement]]:
        """The ``keep`` cheapest placements, first of equals first.

        ordered: their grids are in ``task_order``; else see ``kernel_seconds``.

        One tile of each axis of ``grids``, in row-major order and at most ``most`` combinations, with
        each of ``loops``.
        """
        if self._engine is None:
            seconds = partial(
                kernel_seconds, self.shape, device=self.device, sizes=None, ordered=ordered
            )
            order = partial(task_order, self.shape, self.device.l2) if ordered else tuple
            return _best(seconds, order, grids, loops, most, keep)
        found = self._engine.best(
            [self._numbered(g) for g in grids],
            [self._numbered(x) for x in loops],
            most,
            keep,
            ordered,
        )
        out = []
        for seconds, number in found:
            combination, loop = divmod(number, len(loops))
            grid: list[Split] = []
            for choices in reversed(grids):
                combination, k = divmod(combination, len(choices))
                grid.insert(0, choices[k])
            if ordered:
                grid = [grid[k] for k in self._engine.order(self._numbered(grid))]
            out.append((seconds, Placement(tuple(grid), tuple(loops[loop]))))
        return out

    def _numbered(self, splits: Iterable[Split]) -> list[tuple[int, float]]:
        return [(self._at[s.axis], float(s.tile)) for s in splits]


MOST_AXES = 64
"""Axes of one kernel that the engine can tell apart."""

UNITS = ("map", "mul_add", "narrow")


def _engine(shape: KernelShape, device: Device, at: Mapping[Axis, int]) -> Any:
    engine = engine_class()
    if len(at) > MOST_AXES or engine is None:
        return None

    def bits(axes: Iterable[Axis]) -> int:
        return sum(1 << at[a] for a in axes)

    def data(rows: Iterable[tuple[frozenset[Axis], int]]) -> list[tuple[int, float]]:
        return [(bits(axes), float(size)) for axes, size in rows]

    parts = [(bits(axes), bits(over), float(size)) for axes, over, size in shape.parts]
    return engine(
        [float(n) for n in shape.sizes.values()],
        [(bits(w.axes), w.flops, UNITS.index(w.unit)) for w in shape.works],
        data(shape.reads),
        [[(at[a], float(step)) for a, step in steps] for steps in shape.steps],
        data(shape.writes),
        data(shape.tiles),
        parts,
        bits(shape.reduced),
        [(bits(h.axes), bits(h.over), float(h.bytes)) for h in shape.held],
        data(shape.factors),
        *device_numbers(device),
    )


def engine_class() -> Any:
    """The compiled engine, or None where it is not built."""
    try:
        from superopt._core import KernelCost as Engine
    except ImportError:
        return None
    return Engine


def device_numbers(d: Device) -> tuple[list[float], list[float]]:
    """A device as the engine takes it: the rates of its units, then the rest."""
    numbers = (d.cores, d.dram, d.l3, d.l1, d.l2, d.l3_bytes, d.launch, d.step, d.tile_memory)
    return [d.map_rate, d.mul_add, d.narrow], [float(x) for x in numbers]


def _best(
    cost: Callable[[Placement], float],
    order: Callable[[Sequence[Split]], tuple[Split, ...]],
    grids: Choices,
    loops: Choices,
    most: int,
    keep: int,
) -> list[tuple[float, Placement]]:
    """What ``KernelCost.best`` says, one placement after another."""
    placements = (
        Placement(order(grid), tuple(loop))
        for grid in itertools.islice(itertools.product(*grids), most)
        for loop in loops
    )
    scored = sorted(((cost(p), k, p) for k, p in enumerate(placements)), key=lambda s: s[:2])
    return [(seconds, p) for seconds, _, p in scored[:keep]]


def cost_on(device: Device) -> Costs:
    """The cost function that the search takes: see ``superopt.cost.least.Costs``."""
    from superopt.cost.least import Costs  # it builds on this module

    return Costs(device)
