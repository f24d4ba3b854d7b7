"""The optimal kernel cut: best-first branch and bound over what is stored, with a sound lower bound.

Cut points are decided from the outputs inwards, stored or not. A kernel of which all is decided
counts with its exact coarse cost. Of the others, and of values that no kernel computes yet, is
known what they take at least: every value is computed once, every input read once. Kernels that
may be joined (the same axes, neither needs the other) count together: one launch, shared values
once. The least of all open states bounds every cut, so the search can stop at any time with a gap;
when it ends, the cut is optimal over the cut points and joins, under coarse placements.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from superopt.search.blocks import Blocks, Body, bits
from superopt.search.cut import INFINITE, SLACK, Cut, Cutter, ordered
from superopt.search.relaxed import Relaxed

T = TypeVar("T")

EXPANSIONS = 3000
"""States that are expanded for one graph."""

MOST_JOINED = 5
"""Kernels that may be joined with one another, of which every partition is tried."""

MOST_ORDERS = 64
"""Partitions of one set of stored values that are tried for one without a cycle."""


@dataclass(frozen=True)
class Bounded:
    """A cut, and what no cut takes less than (seconds); expanded: states that were branched on.

    The cuts are those whose kernels store values that may be joined (``Cutter.joinable``).
    """

    cut: Cut
    bound: float
    expanded: int

    @property
    def gap(self) -> float:
        """The part of the cut's seconds by which it may miss the optimum; 0 when it is optimal."""
        return max(0.0, 1.0 - self.bound / self.cut.seconds) if self.cut.seconds > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class _State:
    """The last ``depth`` free points are decided. kernels: stored point -> what it computes so far."""

    depth: int
    stored: int
    kernels: dict[int, Body]


@dataclass
class BranchAndBound:
    """Searches all cuts of one graph. bound: whether states are bounded (else all are visited)."""

    cutter: Cutter
    expansions: int = EXPANSIONS
    bound: bool = True
    _joins: dict[tuple[tuple[int, int], ...], list[tuple[float, tuple[int, ...]]] | None] = field(
        default_factory=dict
    )

    @cached_property
    def blocks(self) -> Blocks:
        """The graph seen from its cut points."""
        return self.cutter.blocks

    @cached_property
    def relaxed(self) -> Relaxed:
        """The least costs of kernels of which not all is decided."""
        return Relaxed(self.blocks, self.cutter.wide)

    @cached_property
    def order(self) -> list[int]:
        """The free points in the order in which they are decided: users first."""
        return sorted((self.blocks.at[i] for i in self.cutter.free), reverse=True)

    @cached_property
    def mates(self) -> list[int]:
        """For each point, those that a kernel may store together with it."""
        points, joinable = self.blocks.points, self.cutter.joinable
        return [
            sum(1 << m for m, j in enumerate(points) if m != k and joinable(i, j))
            for k, i in enumerate(points)
        ]

    def search(self, incumbent: Cut) -> Bounded:
        """The best cut, starting from a known one."""
        at = self.blocks.at
        stored = sum(1 << at[i] for i in self.cutter.forced)
        barrier = stored | self._open(0)
        root = _State(0, stored, {k: self.blocks.body(1 << k, barrier) for k in bits(stored)})
        number = itertools.count()
        heap = [(self._least(root), 0, next(number), root)]
        best, bound, expanded = incumbent, INFINITE, 0
        while heap:
            least, _, _, state = heap[0]
            if least >= best.seconds * SLACK:
                heap = []  # what is left is no better
                break
            if expanded >= self.expansions or self.cutter.late():
                break
            heapq.heappop(heap)
            if state.depth == len(self.order):
                cut, least = self._finished(state)
                bound = min(bound, least)  # what no cut of this state goes below
                if cut is not None and cut.seconds < best.seconds * SLACK:
                    best = cut
                continue
            expanded += 1
            for child in self._children(state):
                least_child = max(least, self._least(child))
                if least_child < best.seconds * SLACK:
                    heapq.heappush(heap, (least_child, -child.depth, next(number), child))
        if heap:
            bound = min(bound, heap[0][0])
        return Bounded(best, min(bound, best.seconds), expanded)

    def _open(self, depth: int) -> int:
        """The points that are not decided yet."""
        return sum(1 << k for k in self.order[depth:])

    def _children(self, state: _State) -> Iterator[_State]:
        """The next point not stored, and stored."""
        i = self.order[state.depth]
        bit = 1 << i
        barrier = state.stored | self._open(state.depth + 1)
        own = self.blocks.body(bit, barrier)
        kernels = {
            k: self.blocks.body(body.blocks | bit, barrier) if body.reads & bit else body
            for k, body in state.kernels.items()
        }
        yield _State(state.depth + 1, state.stored, kernels)
        yield _State(state.depth + 1, state.stored | bit, {**state.kernels, i: own})

    def _least(self, state: _State) -> float:
        """What no cut that agrees with a state takes less than."""
        if not self.bound:
            return 0.0
        blocks, open_points = self.blocks, self._open(state.depth)
        exact, loose = 0.0, list[list[float]]()
        for group in self._groups(state.stored | open_points):
            mine = list(bits(group & state.stored))
            if not mine:
                continue
            decided = not group & open_points and not any(
                state.kernels[k].reads & open_points for k in mine
            )
            options = self._partitions(mine, state.kernels) if decided else None
            if options is not None:
                exact += options[0][0]
                continue
            loose.append(self._loosely(mine, state, open_points))
        everything = 0
        for body in state.kernels.values():
            everything |= body.blocks
        rest = blocks.rest(*blocks.done(everything))
        return exact * SLACK + SLACK * max(
            p * rest[0] + q * rest[1] + sum([each[n] for each in loose])
            for n, (p, q) in enumerate(self.relaxed.prices)
        )

    def _loosely(self, points: list[int], state: _State, open_points: int) -> list[float]:
        """The least, for each price, of kernels that store these points and perhaps open ones."""
        if len(points) > MOST_JOINED:
            return self.relaxed.together(*self._together(points, state.kernels), open_points)
        parts: dict[int, list[float]] = {}
        best: list[float] = []
        for partition in partitions(points, self.mates):
            for part in partition:
                if part not in parts:
                    outputs, body = self._together(bits(part), state.kernels)
                    mates = 0
                    for k in bits(part):
                        mates |= self.mates[k] & open_points
                    parts[part] = self.relaxed.kernel(outputs, body, open_points, mates)
            total = [sum(each) for each in zip(*(parts[p] for p in partition), strict=True)]
            best = [min(pair) for pair in zip(best, total, strict=True)] if best else total
        return best

    def _groups(self, alive: int) -> Iterator[int]:
        """The points in sets, kernels of different ones of which are never joined."""
        left = alive
        while left:
            group = todo = left & -left
            while todo:
                low = todo & -todo
                new = self.mates[low.bit_length() - 1] & alive & ~group
                group |= new
                todo = (todo ^ low) | new
            left &= ~group
            yield group

    def _together(self, points: Iterable[int], kernels: dict[int, Body]) -> tuple[int, Body]:
        """(points, body) of the kernel that stores several points."""
        outputs = blocks = args = 0
        for k in points:
            outputs |= 1 << k
            blocks |= kernels[k].blocks
            args |= kernels[k].args
        return outputs, Body(blocks, args)

    def _partitions(
        self, points: list[int], kernels: dict[int, Body]
    ) -> list[tuple[float, tuple[int, ...]]] | None:
        """The ways to put decided points into kernels, cheapest first; None where they are too many."""
        if len(points) > MOST_JOINED:
            return None
        key = tuple((k, kernels[k].blocks) for k in points)
        if key not in self._joins:
            found = []
            for parts in partitions(points, self.mates):
                total = 0.0
                for part in parts:
                    outputs, body = self._together(bits(part), kernels)
                    total += self.cutter.exactly(outputs, body)
                found.append((total, parts))
            self._joins[key] = sorted(found)
        return self._joins[key]

    def _finished(self, state: _State) -> tuple[Cut | None, float]:
        """(the best cut, what no cut goes below) of a state of which all is decided."""
        least = self._least(state) if self.bound else 0.0
        groups = [list(bits(g)) for g in self._groups(state.stored)]
        options = [self._partitions(g, state.kernels) for g in groups]
        if any(o is None for o in options):
            cut = self.cutter.merge([self.blocks.points[k] for k in state.kernels])
            return cut, least
        ways = [o for o in options if o is not None]
        if sum(w[0][0] for w in ways) == INFINITE:
            return None, INFINITE
        for n, (total, picks) in enumerate(cheapest(ways)):
            if n == MOST_ORDERS:
                break
            groups_of = [
                tuple(self.blocks.points[k] for k in bits(p)) for pick in picks for p in pick
            ]
            cut_order = ordered(self.blocks.graph, groups_of)
            if cut_order is not None:
                return Cut(cut_order, total), total
        return None, least


def partitions(points: list[int], mates: list[int]) -> Iterator[tuple[int, ...]]:
    """The partitions of points into sets of mates."""

    def place(n: int, parts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if n == len(points):
            yield parts
            return
        k = points[n]
        for m, part in enumerate(parts):
            if part & mates[k] == part:
                yield from place(n + 1, (*parts[:m], part | 1 << k, *parts[m + 1 :]))
        yield from place(n + 1, (*parts, 1 << k))

    return place(0, ())


def cheapest(ways: list[list[tuple[float, T]]]) -> Iterator[tuple[float, tuple[T, ...]]]:
    """One choice from each list (each sorted by cost), by their total cost."""
    start = (0,) * len(ways)

    def total(picks: tuple[int, ...]) -> float:
        return sum([w[n][0] for w, n in zip(ways, picks, strict=True)])

    heap, seen = [(total(start), start)], {start}
    while heap:
        cost, picks = heapq.heappop(heap)
        yield cost, tuple(w[n][1] for w, n in zip(ways, picks, strict=True))
        for k, n in enumerate(picks):
            other = (*picks[:k], n + 1, *picks[k + 1 :])
            if n + 1 < len(ways[k]) and other not in seen:
                seen.add(other)
                heapq.heappush(heap, (total(other), other))
