"""Buckets: few boxes of sizes that cover a program's domain, each served well by one candidate.

The domain is cut into cells, and every candidate is priced at the corners of every cell. A box of
cells is served by a candidate within a factor when at each of its corners the candidate costs at
most so many times the cheapest there. The whole domain begins as one box; a box that no candidate
serves within the factor is cut in two where that helps most, and boxes that one candidate serves
are joined again. So the boxes are disjoint and cover the domain by construction.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from superopt.mugraph.axes import Sym, extent
from superopt.mugraph.dispatch import Box, Guard, by_name, joined, middle
from superopt.mugraph.graph import Graph
from superopt.mugraph.parts import split_axes
from superopt.mugraph.placement import MuGraph, kernel_body
from superopt.mugraph.resize import Resized, placement_with_axes, with_symbols
from superopt.search.cut import KernelSeconds, body_of
from superopt.search.driver import Found
from superopt.search.place import Cost
from superopt.search.points import Point, Span, points, spans

FACTOR = 1.15
"""How many times the cheapest candidate's predicted seconds the one of a bucket may take."""

MOST_BUCKETS = 6

FINER = 4
"""Rounds in which cells that no candidate serves within the factor are halved."""

WIDEST = 64
"""How many times the smallest size of a bucket its largest may be, where there are buckets left."""

MOST_PARTS = 1024
"""Parts of a split reduction at the largest size of a bucket."""

PRICED = 8
"""Candidates of each point that are priced over the whole domain."""

CELLS = (14, 4, 2)
"""Pieces into which the range of each of one, two, or three symbols is cut; of more, it is not."""


@dataclass(frozen=True)
class Room:
    """A box of sizes on its way to being a bucket.

    order: positions of the candidates for it, best first; worst: how many times the predicted
    seconds of the cheapest candidate the first one takes, where that is most.
    """

    guard: Guard
    order: tuple[int, ...]
    worst: float = 1.0


def divide(graph: Graph, found: Found, cost: KernelSeconds) -> list[Room]:
    """The rooms of a program's domain; one of all sizes for a program without symbols."""
    ranges = spans(graph)
    if not ranges:
        return [Room((), tuple(range(len(found.candidates))))]
    priced = list(dict.fromkeys(c for at in found.at for c in at[:PRICED]))
    table = _Prices([found.candidates[c].mugraph for c in priced], cost)
    starts = _starts(ranges)
    ratios = table.ratios(ranges, starts)
    served = boxes(ratios, FACTOR, MOST_BUCKETS)
    for _ in range(FINER):
        if len(served) == MOST_BUCKETS or not (finer := _finer(served, ratios, ranges, starts)):
            break
        starts = finer
        ratios = table.ratios(ranges, starts)
        served = boxes(ratios, FACTOR, MOST_BUCKETS)
    looked_at = list(zip(points(graph), found.at, strict=True))
    rooms = []
    for box, first in _narrow(served, ranges, starts):
        guard = tuple(
            (name, cells[a], cells[z + 1] - 1 if z + 1 < len(cells) else ranges[name].high)
            for (name, cells), (a, z) in zip(starts.items(), box, strict=True)
        )
        inside = _within(ratios, box)
        near = min(looked_at, key=lambda p: _distance(p[0], guard))[1]
        cheap = np.argsort(np.log(inside).mean(1), kind="stable")
        order = dict.fromkeys([priced[first], *near, *(priced[c] for c in cheap)])
        fit = tuple(c for c in order if _few_parts(found.candidates[c].mugraph, guard))
        rooms.append(Room(guard, fit, float(inside[first].max())))
    return rooms


def _few_parts(mugraph: MuGraph, guard: Guard) -> bool:
    """Whether a split reduction has room for its parts, of which there is one for each tile of the
    largest size."""
    high = {name: z for name, (_, z) in by_name(guard).items()}
    for n, kernel in enumerate(mugraph.kernels):
        reduced = split_axes(mugraph.graph, kernel_body(mugraph, n), kernel.placement)
        for s in kernel.placement.grid:
            if s.axis in reduced and extent(s.axis.size, high) > MOST_PARTS * s.tile:
                return False
    return True


def _starts(ranges: dict[str, Span]) -> dict[str, list[int]]:
    """Where the cells of each symbol begin."""
    most = CELLS[len(ranges) - 1] if len(ranges) <= len(CELLS) else 1
    return {name: span.cut(most, 2.0) for name, span in sorted(ranges.items())}


def _finer(
    served: list[tuple[Box, int]],
    ratios: np.ndarray,
    ranges: dict[str, Span],
    starts: dict[str, list[int]],
) -> dict[str, list[int]]:
    """The cells with those halved that are not served within the factor; empty when there are none."""
    more: dict[str, set[int]] = {name: set() for name in starts}
    for box, c in served:
        for cell in itertools.product(*(range(a, z + 1) for a, z in box)):
            if float(ratios[(c, *cell)]) <= FACTOR:
                continue
            wide = []
            for (name, cells), k in zip(starts.items(), cell, strict=True):
                low, high = cells[k], (*cells[1:], ranges[name].top + 1)[k] - 1
                if high > low:
                    wide.append((high / max(low, 1), name, middle(low, high + 1)))
            if wide:
                _, name, at = max(wide)
                more[name].add(at)
    if not any(more.values()):
        return {}
    return {name: sorted({*cells, *more[name]}) for name, cells in starts.items()}


class _Prices:
    """The predicted seconds of candidates, worked out once for each size and distinct kernel."""

    def __init__(self, candidates: Sequence[MuGraph], cost: KernelSeconds) -> None:
        self.candidates, self.cost = candidates, cost
        graphs: dict[str, Graph] = {}
        self._of = [str(m.graph) for m in candidates]
        for key, m in zip(self._of, candidates, strict=True):
            graphs.setdefault(key, m.graph)
        self._graphs = graphs
        self._known: dict[str, np.ndarray] = {}

    def seconds(self, sizes: Point) -> list[float]:
        """The predicted seconds of each candidate at some sizes."""
        given = {n: Sym(n, max(k, 1), max(k, 1)) for n, k in sizes.items()}
        names = Resized(given)
        graphs = {key: with_symbols(g, given) for key, g in self._graphs.items()}
        costs: dict[tuple[str, tuple[int, ...], frozenset[int]], Cost] = {}
        out = []
        for key, m in zip(self._of, self.candidates, strict=True):
            stored = frozenset(m.materialized())
            total = 0.0
            for kernel in m.kernels:
                mine = (key, kernel.outputs, stored)
                if mine not in costs:
                    body, reads = body_of(graphs[key], kernel.outputs, stored)
                    costs[mine] = self.cost(graphs[key], body, reads, kernel.outputs)
                total += costs[mine](placement_with_axes(kernel.placement, names))
            out.append(total)
        return out

    def at(self, there: Point) -> np.ndarray:
        """How many times the seconds of the cheapest each candidate takes at some sizes."""
        if str(there) not in self._known:
            seconds = np.array(self.seconds(there))
            least = seconds.min()
            known = seconds / least if 0 < least < math.inf else np.ones(len(seconds))
            self._known[str(there)] = known
        return self._known[str(there)]

    def ratios(self, ranges: dict[str, Span], starts: dict[str, list[int]]) -> np.ndarray:
        """[candidate, cell of each symbol...]: the same, at most, over the corners of each cell."""
        out = np.ones((len(self.candidates), *(len(cells) for cells in starts.values())))
        sides = [
            [sorted({a, z - 1}) for a, z in itertools.pairwise([*cells, ranges[name].top + 1])]
            for name, cells in starts.items()
        ]
        for cell in itertools.product(*(range(len(cells)) for cells in starts.values())):
            here = [ends[k] for ends, k in zip(sides, cell, strict=True)]
            if len(here) > len(CELLS):  # too many corners: the highest alone
                here = [ends[-1:] for ends in here]
            corners = [dict(zip(starts, sizes, strict=True)) for sizes in itertools.product(*here)]
            out.T[cell[::-1]] = np.max([self.at(there) for there in corners], axis=0)
        return out


def seconds_at(mugraph: MuGraph, cost: KernelSeconds, sizes: Point) -> float:
    """The predicted seconds of a placed program at sizes of its symbols."""
    return _Prices([mugraph], cost).seconds(sizes)[0]


def _distance(point: Point, guard: Guard) -> float:
    """How far a point lies from the middle of a box, each symbol counted in powers."""
    total = 0.0
    for name, (low, high) in by_name(guard).items():
        centre = (math.log(max(low, 1)) + math.log(max(min(high, 1 << 16), low, 1))) / 2
        total += abs(math.log(max(point[name], 1)) - centre)
    return total


def boxes(ratios: np.ndarray, factor: float, most: int) -> list[tuple[Box, int]]:
    """Disjoint boxes that cover all cells, each with the candidate that serves it.

    ratios: [candidate, cells...], as times of the cheapest; at most ``most`` boxes, so that where
    these do not suffice some candidate serves beyond the factor.
    """
    whole: Box = tuple((0, n - 1) for n in ratios.shape[1:])
    leaves = [whole]
    while len(leaves) < most:
        served = [_served(ratios, leaf, factor) for leaf in leaves]
        worst = max(range(len(leaves)), key=lambda k: (served[k][1], -k))
        if served[worst][1] <= factor:
            break
        split = _best_split(ratios, leaves[worst], factor)
        if split is None:
            break
        leaves[worst : worst + 1] = split
    return joined([(leaf, _served(ratios, leaf, factor)[0]) for leaf in leaves])


def _cut(box: Box, k: int, at: int) -> list[Box]:
    """A box in two: along dimension k, what is before ``at``, and the rest."""
    a, z = box[k]
    return [(*box[:k], part, *box[k + 1 :]) for part in ((a, at - 1), (at, z))]


def _narrow(
    found: list[tuple[Box, int]], ranges: dict[str, Span], starts: dict[str, list[int]]
) -> list[tuple[Box, int]]:
    """Boxes cut further until sizes in one are at most ``WIDEST`` times apart.

    Which candidate serves a box follows from predictions; whether it is faster than PyTorch is
    measured at one size of the box, and says little of sizes far from it.
    """
    cells = [np.log([*starts[name], ranges[name].top + 1.0]) for name in starts]
    out = list(found)
    while len(out) < MOST_BUCKETS:
        apart = [
            (float(ends[z + 1] - ends[a]), -n, k)
            for n, (box, _) in enumerate(out)
            for k, (ends, (a, z)) in enumerate(zip(cells, box, strict=True))
            if z > a
        ]
        if not apart or max(apart)[0] <= math.log(WIDEST):
            break
        _, n, k = max(apart)
        box, first = out[-n]
        ends, (a, z) = cells[k], box[k]
        half = (ends[a] + ends[z + 1]) / 2
        at = min(range(a + 1, z + 1), key=lambda c: (abs(ends[c] - half), c))
        out = [*out[:-n], *((part, first) for part in _cut(box, k, at)), *out[1 - n :]]
    return out


def _within(ratios: np.ndarray, box: Box) -> np.ndarray:
    """[candidate, cells of the box in one row]."""
    cells = ratios[(slice(None), *(slice(a, z + 1) for a, z in box))]
    return cells.reshape(len(ratios), -1)


def _served(ratios: np.ndarray, box: Box, factor: float) -> tuple[int, float, float]:
    """The candidate that serves a box best, its worst ratio, and the sum of logarithms of all."""
    cells = _within(ratios, box)
    worst = cells.max(1)
    total = np.log(cells).sum(1)
    best = min(range(len(cells)), key=lambda c: (max(worst[c], factor), total[c], c))
    return best, float(worst[best]), float(total[best])


def _best_split(ratios: np.ndarray, box: Box, factor: float) -> list[Box] | None:
    """The cut of a box in two that leaves the least beyond the factor; None where there is none."""
    tried: list[tuple[float, float, list[Box]]] = []
    for k, (a, z) in enumerate(box):
        for at in range(a + 1, z + 1):
            halves = _cut(box, k, at)
            served = [_served(ratios, half, factor) for half in halves]
            tried.append((max(s[1] for s in served), sum(s[2] for s in served), halves))
    if not tried:
        return None
    # The cut that serves all cells best: a lower worst ratio may take more cuts than one.
    return min(tried, key=lambda t: (t[1], t[0]))[2]
