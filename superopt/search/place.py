"""Placement: which axes of a kernel go on the grid and in the loop, and with which tile sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.graph import Gather, Graph, Input, Reduce, View
from superopt.mugraph.parts import reduced_over, why_not_split
from superopt.mugraph.placement import Carry, Kernel, Lane, Placement, Split
from superopt.search.carry import find_carries


class Cost(Protocol):
    """Predicts placements of one kernel; given by the cost stage."""

    def __call__(self, placement: Placement) -> float:
        """Seconds of one placement."""

    def best(
        self,
        grids: Sequence[Sequence[Split]],
        loops: Sequence[Sequence[Split]],
        most: int,
        keep: int,
        ordered: bool,
    ) -> list[tuple[float, Placement]]:
        """The cheapest placements: a tile of each axis of ``grids`` with each of ``loops``.

        ordered: in a good order of tasks, whose tiles they share; else nothing is known of it.
        """


MOST_GRIDS = 3000
"""Combinations of grid tiles that are tried for one kernel."""

WIDE = (64, 128, 256, 512, 1024)
NARROW = (1, 2, 4, 8, 16, 32, 64)
STEPS = (64, 128, 256, 512, 1024)
PARTS = (2, 4, 8, 16, 32, 64)
QUICK_WIDE, QUICK_NARROW, QUICK_STEPS, QUICK_PARTS = (64, 256), (1, 16, 64), (256,), (8,)

LEAST_PART = 64
"""Elements of a reduced axis that a task of a split reduction sees at least."""


@dataclass(frozen=True)
class Axes:
    """The axes of a kernel by what may be done with them; split: reduced, and may be in parts."""

    grid: tuple[Axis, ...]
    loop: tuple[Axis, ...]
    wide: frozenset[Axis]
    split: tuple[Axis, ...] = ()


def placeable(
    graph: Graph, body: list[int], outputs: tuple[int, ...], wide: frozenset[Axis]
) -> Axes:
    """Which axes may be on the grid, which may be looped; wide: those contiguous somewhere.

    An axis that the kernel reduces is on its grid where the parts can be merged.
    """
    axes, long = _unsplit(graph, body, outputs, wide)
    # One at a time: a kernel has one merge.
    split = next(((a,) for a in long if _splits(graph, body, outputs, a)), ())
    return replace(axes, split=split)


def coarse_seconds(
    splits: Splits, body: list[int], outputs: tuple[int, ...], wide: frozenset[Axis], cost: Cost
) -> float:
    """The seconds of the best coarse placement; infinite where none fits the device.

    Tiles this coarse say little of what tasks share, so no order of them is assumed.

    Whether an axis can be in parts is only asked where that would be faster.
    """
    axes, long = _unsplit(splits.graph, body, outputs, wide)
    grids, loops = choices(axes, quick=True)

    def seconds(parts: list[list[Split]]) -> tuple[float, bool]:
        """(of the best placement, whether the first axis of the choices is in parts)."""
        found, placement = cost.best([*parts, *grids], loops, MOST_GRIDS, 1, ordered=False)[0]
        return found, bool(parts) and parts[0][0] not in placement.grid

    split = [seconds(choices(Axes((), (), wide, (a,)), quick=True)[0]) for a in long]
    if not any(parted for _, parted in split):
        return split[0][0] if split else seconds([])[0]
    for a, (found, _) in zip(long, split, strict=True):
        if splits(body, outputs, a):
            return found
    return seconds([])[0]


def _unsplit(
    graph: Graph, body: list[int], outputs: tuple[int, ...], wide: frozenset[Axis]
) -> tuple[Axes, list[Axis]]:
    """(the axes of a kernel, the reduced ones that are long enough to be in parts)."""
    reduced = dict.fromkeys(
        a for i in body if isinstance(n := graph.nodes[i], Reduce) for a in n.over
    )
    shared = set(graph.nodes[outputs[0]].axes)
    for i in outputs[1:]:
        shared &= set(graph.nodes[i].axes)
    grid = tuple(
        a
        for a in graph.nodes[outputs[0]].axes
        if a in shared and a not in reduced and hint(a.size) > 1
    )
    whole = {a for i in outputs for a in graph.nodes[i].axes if a not in grid}
    loop = tuple(
        a
        for a in dict.fromkeys([*reduced, *sorted(whole, key=lambda a: a.name)])
        if hint(a.size) > 32
    )
    long = [a for a in reduced if hint(a.size) >= 2 * LEAST_PART and a not in whole]
    long.sort(key=lambda a: -hint(a.size))
    return Axes(grid, loop, wide), long


class Splits:
    """Whether the reductions over an axis can be made in parts, for many kernels of one graph.

    What counts is which reductions a kernel has, what of the ways between them, and what it reads at
    other coordinates; kernels that differ in other nodes are asked about once.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[tuple[Axis, tuple[int, ...], frozenset[int]], bool] = {}
        self._ways: dict[tuple[Axis, tuple[int, ...]], frozenset[int]] = {}

    def __call__(self, body: list[int], outputs: tuple[int, ...], axis: Axis) -> bool:
        """Whether a kernel can."""
        if any(axis in self.graph.nodes[i].axes for i in outputs):
            return False
        sums = tuple(reduced_over(self.graph, body, axis))
        if (axis, sums) not in self._ways:
            self._ways[axis, sums] = self._between(axis, sums)
        key = axis, sums, self._ways[axis, sums].intersection(body)
        if key not in self._known:
            self._known[key] = _splits(self.graph, body, outputs, axis)
        return self._known[key]

    def _between(self, axis: Axis, sums: tuple[int, ...]) -> frozenset[int]:
        """The nodes on the ways between these, and those that read the axis at other places."""
        nodes = self.graph.nodes
        above, below = {*sums}, {*sums}
        for i in range(min(sums), max(sums) + 1):
            if not above.isdisjoint(nodes[i].args):
                above.add(i)
        for i in range(max(sums), min(sums) - 1, -1):
            if i in below:
                below.update(nodes[i].args)
        readers = {
            j
            for i, n in enumerate(nodes)
            if isinstance(n, View | Gather) and axis in nodes[n.args[0]].axes
            for j in (i, n.args[0])
        }
        return frozenset((above & below) | readers)


def _splits(graph: Graph, body: list[int], outputs: tuple[int, ...], axis: Axis) -> bool:
    """Whether the reductions over an axis can be made in parts."""
    if why_not_split(graph, body, outputs, axis, {}) is None:
        return True
    rows = {n.op for i in body if isinstance(n := graph.nodes[i], Reduce) and axis in n.over}
    if len(rows) < 2:
        return False  # a sum is carried by a statistic, which is no sum
    carries = find_carries(graph, body, frozenset({axis}))
    stats = {c.reduce: c.stat for c in carries if not c.rank}
    return bool(stats) and why_not_split(graph, body, outputs, axis, stats) is None


def contiguous(graph: Graph) -> Iterable[Axis]:
    """The axes that are innermost in some input or output: the ones that vectors run along."""
    for node in graph.nodes:
        if isinstance(node, Input) and node.dims and node.dims[-1]:
            yield node.dims[-1][-1]
        if isinstance(node, View) and isinstance(source := graph.nodes[node.operand], Input):
            last = source.dims[-1][-1] if source.dims and source.dims[-1] else None
            for a, ix in node.index:
                if a == last and (renamed := ix.rename_of()):
                    yield renamed
    for out in graph.outputs:
        if out.dims and out.dims[-1]:
            yield out.dims[-1][-1]


def choices(axes: Axes, quick: bool) -> tuple[list[list[Split]], list[tuple[Split, ...]]]:
    """The tiles of each grid axis, and the sets of loops; ``quick`` gives the coarse sizes only."""
    wide, narrow = (QUICK_WIDE, QUICK_NARROW) if quick else (WIDE, NARROW)
    many = len(axes.grid) > 3
    grids = []
    for a in axes.grid:
        n = hint(a.size)
        sizes = wide if a in axes.wide else ((1, 8, 32) if many and not quick else narrow)
        picks = [t for t in sizes if t < n]
        if not picks or n <= 2 * picks[-1]:
            picks.append(n)
        grids.append([Split(a, t) for t in picks])
    # One part comes first: what is cut off at the limit of combinations has parts.
    for a in axes.split:
        n = hint(a.size)
        tiles = [-(-n // k // LEAST_PART) * LEAST_PART for k in (QUICK_PARTS if quick else PARTS)]
        grids.insert(0, [Split(a, n), *(Split(a, t) for t in dict.fromkeys(tiles) if t < n)])
    loops: list[tuple[Split, ...]] = [()]
    for a in axes.loop:
        steps = [t for t in (QUICK_STEPS if quick else STEPS) if t < hint(a.size)]
        loops += [(Split(a, t),) for t in steps]
    if len(axes.loop) > 1:
        big = [a for a in axes.loop if hint(a.size) > 256]
        if len(big) > 1:
            loops.append(tuple(Split(a, 256) for a in big))
    return grids, loops


def best(axes: Axes, cost: Cost, quick: bool, keep: int = 1) -> list[tuple[float, Placement]]:
    """The ``keep`` cheapest placements with their predicted seconds; ties in the order of choices.

    None of them is beyond the memory of the device; there may be none.
    """
    found = cost.best(*choices(axes, quick), MOST_GRIDS, keep, ordered=True)
    return [
        in_best_order(cost, seconds, _without_whole(axes, p))
        for seconds, p in found
        if seconds < math.inf
    ]


MOST_ORDERED = 4
"""Axes of a grid whose every order is tried."""


def in_best_order(cost: Cost, seconds: float, placement: Placement) -> tuple[float, Placement]:
    """A placement with its tasks in the cheapest order: which of them follow each other on a core.

    The order that it has stays where none is better; axes of one tile stay outside.
    """
    several = [s for s in placement.grid if s.tile < hint(s.axis.size)]
    single = [s for s in placement.grid if s not in several]
    if not 1 < len(several) <= MOST_ORDERED:
        return seconds, placement
    found, best = seconds, placement
    for order in itertools.permutations(several):
        other = replace(placement, grid=(*single, *order))
        there = cost(other)
        if there < found * (1.0 - 1e-9):
            found, best = there, other
    return found, best


def _without_whole(axes: Axes, placement: Placement) -> Placement:
    """The placement without a reduced axis that is on the grid in one part."""
    grid = tuple(
        s for s in placement.grid if s.axis not in axes.split or s.tile < hint(s.axis.size)
    )
    return replace(placement, grid=grid)


def kernel(
    graph: Graph,
    name: str,
    outputs: tuple[int, ...],
    body: list[int],
    placement: Placement,
    lane: Lane | None = None,
) -> Kernel:
    """A kernel with its one-pass accumulators derived for the axes that are looped or in parts."""
    cut = frozenset(s.axis for s in (*placement.grid, *placement.loop))
    carries: tuple[Carry, ...] = find_carries(graph, body, cut)
    if lane is not None:
        placement = Placement(placement.grid, placement.loop, lane)
    return Kernel(name, outputs, placement, carries)
