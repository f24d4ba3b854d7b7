"""The kernel cut: which values of a term graph are stored, and which are computed where they are read.

Local search from two ends (everything fused, everything stored), toggling one value at a time;
each kernel's cost is that of its best coarse placement, and is computed once per distinct kernel.
``cut_bound`` starts from what this finds, and says how far it may be from the best.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph, Input
from superopt.mugraph.placement import Kernel, Lane, MuGraph, Placement
from superopt.mugraph.wellformed import check_graph
from superopt.search import place
from superopt.search.blocks import Blocks, Body, Least, bits
from superopt.search.cut_points import computes, cut_points, forced_cuts, fusible


class KernelSeconds(Protocol):
    """What kernels take; given by the cost stage."""

    def __call__(
        self, graph: Graph, body: list[int], stored: set[int], outputs: tuple[int, ...], /
    ) -> place.Cost:
        """The cost of placements of a kernel body."""

    def least(self, graph: Graph, /) -> Least:
        """What no placement goes below."""

    def lanes(
        self, graph: Graph, body: list[int], wide: frozenset[Axis], /
    ) -> Callable[[Placement], Lane]:
        """The register tile of each placement of a kernel body."""

    def limits(self) -> str:
        """In words, what no placement goes beyond."""


INFINITE = float("inf")

SLACK = 1.0 - 1e-9
"""What a least cost is multiplied with: sums of floats in another order differ by less."""


@dataclass(frozen=True)
class Cut:
    """Kernels as groups of stored nodes, in execution order, with the predicted seconds."""

    groups: tuple[tuple[int, ...], ...]
    seconds: float


Memo = dict[tuple[tuple[int, ...], frozenset[int]], float]
"""(stored nodes, body) of a kernel -> seconds of its best coarse placement."""


@dataclass
class Cutter:
    """Cuts one term graph into kernels.

    graph: may hold nodes that its outputs do not need; late: whether there is no time left to
    improve a cut (what was found so far is then used); memo: kernels known already, which cutters
    of graphs with the same numbering share; bound: whether a kernel is only costed where the least
    it can take does not settle the matter (the cuts are the same either way); max_block_ops: the
    most compute nodes in one kernel.
    """

    graph: Graph
    cost: KernelSeconds
    late: Callable[[], bool] = lambda: False
    memo: Memo = field(default_factory=dict)
    bound: bool = True
    evaluated: int = 0
    known: dict[tuple[int, int], float] = field(default_factory=dict)
    max_block_ops: int | None = None

    @cached_property
    def wide(self) -> frozenset[Axis]:
        """The axes that are contiguous somewhere."""
        return frozenset(place.contiguous(self.graph))

    @cached_property
    def splits(self) -> place.Splits:
        """Which reductions can be made in parts."""
        return place.Splits(self.graph)

    @cached_property
    def forced(self) -> frozenset[int]:
        """The values that every cut stores; an input among them is an output itself, and copied."""
        stored = forced_cuts(self.graph) | self.results
        return frozenset(i for i in stored if not self._is_input(i))

    @cached_property
    def free(self) -> tuple[int, ...]:
        """The values that a cut may store or not."""
        # Any computed value may have to be stored for the kernels around it to be small enough.
        points = self.computed if self.tight else cut_points(self.graph)
        return tuple(i for i in points if i not in self.forced)

    @cached_property
    def computed(self) -> list[int]:
        """The compute nodes of the graph."""
        live = self.graph.reachable([o.node for o in self.graph.outputs])
        return [i for i in live if computes(self.graph, i)]

    @cached_property
    def tight(self) -> bool:
        """Whether some kernel could hold more compute nodes than it may."""
        return self.max_block_ops is not None and len(self.computed) > self.max_block_ops

    @cached_property
    def blocks(self) -> Blocks:
        """The graph seen from its cut points."""
        return Blocks(self.graph, (*self.forced, *self.free), self.cost.least(self.graph))

    def cuts(self) -> list[Cut]:
        """Locally optimal cuts, cheapest first (at most two)."""
        at = self.blocks.at
        forced, free = (sum([1 << at[i] for i in ids]) for ids in (self.forced, self.free))
        found: dict[tuple[tuple[int, ...], ...], Cut] = {}
        starts = [forced, forced | sum([1 << at[i] for i in cut_points(self.graph) if i in at])]
        if self.tight:
            starts.append(forced | free)
        for start in dict.fromkeys(starts):
            if found and self.late():
                break
            cut = self._descend(start, [at[i] for i in self.free])
            if cut is not None:
                found.setdefault(cut.groups, cut)
        return sorted(found.values(), key=lambda c: (c.seconds, len(c.groups), c.groups))

    def _descend(self, stored: int, free: list[int]) -> Cut | None:
        kernels = {k: self.blocks.body(1 << k, stored) for k in bits(stored)}
        best = sum([self.alone(k, body) for k, body in kernels.items()])
        moved = True
        while moved and not self.late():
            moved = False
            for i in free:
                if self.late():
                    break
                other = stored ^ (1 << i)
                there = self._toggled(kernels, i, other)
                cost = self._below(there, best * 0.999)
                if cost is not None:
                    best, stored, kernels, moved = cost, other, there, True
        if best == INFINITE:
            return None
        return self.merge([self.blocks.points[k] for k in kernels])

    def _toggled(self, kernels: dict[int, Body], i: int, stored: int) -> dict[int, Body]:
        """The kernels when value i is stored or no longer is: only those that need it change."""
        there = dict(kernels)
        bit = 1 << i
        own = there.pop(i, None)
        for k, body in kernels.items():
            if k != i and body.args & bit:
                if own is None:
                    there[k] = self.blocks.body(1 << k, stored)
                else:
                    there[k] = Body(body.blocks | own.blocks, body.args | own.args)
        if own is None:
            there[i] = self.blocks.body(bit, stored)
        return there

    def _below(self, kernels: dict[int, Body], limit: float) -> float | None:
        """What these kernels take together, if that is less than a limit.

        Kernels not costed before count as the least that they can take until that settles it.
        """
        total = [self.known.get((1 << k, body.blocks), -1.0) for k, body in kernels.items()]
        new = [(n, k) for n, k in enumerate(kernels) if total[n] < 0.0]
        if self.bound:
            for n, k in new:
                floor = self.blocks.floor(1 << k, kernels[k])
                total[n] = self.blocks.seconds(*floor) * SLACK
            new.sort(key=lambda e: -total[e[0]])
        for n, k in new:
            if self.bound and sum(total) >= limit:
                return None
            total[n] = self.alone(k, kernels[k])
        cost = sum(total)
        return cost if cost < limit else None

    def alone(self, k: int, body: Body) -> float:
        """The coarse cost of the kernel that stores the k-th cut point."""
        return self.exactly(1 << k, body)

    def exactly(self, outputs: int, body: Body) -> float:
        """The coarse cost of the kernel that stores some cut points."""
        key = outputs, body.blocks
        if key not in self.known:
            ids = tuple(self.blocks.points[k] for k in bits(outputs))
            self.known[key] = self._seconds(ids, *self.blocks.kernel(body))
        return self.known[key]

    @cached_property
    def results(self) -> frozenset[int]:
        """The outputs of the program."""
        return frozenset(o.node for o in self.graph.outputs)

    @cached_property
    def below(self) -> dict[int, frozenset[int]]:
        """Per cut point, the nodes that it needs."""
        return {i: frozenset(self.graph.reachable([i])) - {i} for i in self.blocks.points}

    def joinable(self, i: int, j: int) -> bool:
        """Whether one kernel may store two values.

        Of the program's own outputs one may have more axes than the other, or need it: it is then
        computed there as well as stored. What is stored for other kernels alone is not worth that.
        """
        x, y = ({*self.graph.nodes[k].axes} for k in (i, j))
        if {i, j} <= self.results:
            return x <= y or y <= x
        return x == y and i not in self.below[j] and j not in self.below[i]

    def _is_input(self, i: int) -> bool:
        # An output that is an input itself still needs a kernel that copies it.
        return isinstance(self.graph.nodes[i], Input) and all(
            o.node != i for o in self.graph.outputs
        )

    def merge(self, stored: list[int]) -> Cut:
        """Joins kernels that may be one (``joinable``), while that is cheaper."""
        groups: list[tuple[int, ...]] = [(i,) for i in sorted(stored)]
        at = self.blocks.at
        barrier = sum([1 << at[i] for i in stored])
        while (pair := self._cheaper_pair(groups, _needs(groups, self.below), barrier)) is not None:
            groups = [*(g for g in groups if g not in pair), tuple(sorted(pair[0] + pair[1]))]
            groups.sort(key=max)
        ordered = _topological(self.graph, groups)
        return Cut(tuple(ordered), sum([self._group(g, barrier) for g in ordered]))

    def _group(self, group: tuple[int, ...], barrier: int) -> float:
        outputs = sum([1 << self.blocks.at[i] for i in group])
        return self.exactly(outputs, self.blocks.body(outputs, barrier))

    def _cheaper_pair(
        self,
        groups: list[tuple[int, ...]],
        needs: dict[tuple[int, ...], set[tuple[int, ...]]],
        barrier: int,
    ) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Two groups that cost less together, and between which no other must run."""
        for x, a in enumerate(groups):
            for b in groups[x + 1 :]:
                if self.late():
                    return None
                if not all(self.joinable(i, j) for i in a for j in b):
                    continue
                if any(
                    (a in needs[c] and c in needs[b]) or (b in needs[c] and c in needs[a])
                    for c in groups
                ):
                    continue
                apart = self._group(a, barrier) + self._group(b, barrier)
                outputs = sum([1 << self.blocks.at[i] for i in a + b])
                body = self.blocks.body(outputs, barrier)
                if self.bound:
                    floor = self.blocks.floor(outputs, body)
                    if self.blocks.seconds(*floor) * SLACK >= apart:
                        continue
                if self.exactly(outputs, body) < apart:
                    return a, b
        return None

    def seconds(self, outputs: tuple[int, ...], stored: frozenset[int]) -> float:
        """The coarse cost of the kernel that stores ``outputs``, given what else is stored."""
        return self._seconds(outputs, *body_of(self.graph, outputs, stored))

    def _seconds(self, outputs: tuple[int, ...], body: list[int], reads: set[int]) -> float:
        key = (outputs, frozenset(body))
        if key not in self.memo:
            self.evaluated += 1
            if not fusible(self.graph, body, reads) or self._too_large(body):
                self.memo[key] = INFINITE
            else:
                cost = self.cost(self.graph, body, reads, outputs)
                self.memo[key] = place.coarse_seconds(self.splits, body, outputs, self.wide, cost)
        return self.memo[key]

    def _too_large(self, body: list[int]) -> bool:
        """Whether a kernel holds more compute nodes than it may."""
        most = self.max_block_ops
        if most is None or not self.tight:
            return False
        return sum(computes(self.graph, i) for i in body) > most

    def place(self, cut: Cut, keep: int) -> list[tuple[float, MuGraph]]:
        """The cut with its kernels placed, best first: the best of all, and single deviations.

        Empty where a kernel has no placement that fits the device.
        """
        stored = frozenset(i for g in cut.groups for i in g)
        options: list[list[tuple[float, Kernel]]] = []
        for n, group in enumerate(cut.groups):
            body, reads = body_of(self.graph, group, stored)
            axes = place.placeable(self.graph, body, group, self.wide)
            found = place.best(
                axes, self.cost(self.graph, body, reads, group), quick=False, keep=keep
            )
            self.evaluated += 1
            if not found:
                return []
            lane = self.cost.lanes(self.graph, body, self.wide)
            options.append(
                [(s, place.kernel(self.graph, f"k{n}", group, body, p, lane(p))) for s, p in found]
            )
        best = [o[0] for o in options]
        graph, at = compact(self.graph)
        plans = [best]
        heavy = sorted(range(len(options)), key=lambda n: -best[n][0])[:2]
        for n in heavy:
            plans += [[*best[:n], other, *best[n + 1 :]] for other in options[n][1:]]
        return [
            (sum(s for s, _ in plan), MuGraph(graph, tuple(renumbered(k, at) for _, k in plan)))
            for plan in plans
        ]


def _needs(
    groups: list[tuple[int, ...]], below: Mapping[int, Collection[int]]
) -> dict[tuple[int, ...], set[tuple[int, ...]]]:
    """The groups that must run before each, through any number of others."""
    owner = {i: g for g in groups for i in g}
    direct = {g: {owner[j] for i in g for j in below[i] if j in owner} - {g} for g in groups}
    out: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for g in groups:
        todo, out[g] = list(direct[g]), set()
        while todo:
            h = todo.pop()
            if h not in out[g]:
                out[g].add(h)
                todo.extend(direct[h])
    return out


def body_of(
    graph: Graph, outputs: tuple[int, ...], stored: frozenset[int]
) -> tuple[list[int], set[int]]:
    """(nodes computed inside the kernel, stored nodes it reads), inputs counting as stored."""
    body: set[int] = set()
    reads: set[int] = set()
    todo = list(outputs)
    while todo:
        i = todo.pop()
        if i in body or i in reads:
            continue
        if i not in outputs and (i in stored or isinstance(graph.nodes[i], Input)):
            reads.add(i)
            continue
        body.add(i)
        todo.extend(graph.nodes[i].args)
    return sorted(body), reads


def compact(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """The graph without nodes that no output needs, checked, and the new number of each node."""
    keep = {*graph.reachable([o.node for o in graph.outputs])}
    keep.update(i for i, n in enumerate(graph.nodes) if isinstance(n, Input))
    pruned = graph.pruned()
    check_graph(pruned)
    return pruned, {old: new for new, old in enumerate(sorted(keep))}


def renumbered(kernel: Kernel, at: dict[int, int]) -> Kernel:
    """The kernel over a graph whose nodes have other numbers: ``old -> at[old]``."""
    carries = tuple(replace(c, reduce=at[c.reduce], stat=at[c.stat]) for c in kernel.carries)
    return replace(kernel, outputs=tuple(at[i] for i in kernel.outputs), carries=carries)


def ordered(graph: Graph, groups: list[tuple[int, ...]]) -> tuple[tuple[int, ...], ...] | None:
    """The kernels in execution order; None where some need each other."""
    groups = sorted((tuple(sorted(g)) for g in groups), key=max)
    needs = _needs(groups, {i: graph.reachable([i]) for g in groups for i in g})
    return None if any(g in needs[g] for g in groups) else tuple(_topological(graph, groups))


def _topological(graph: Graph, groups: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Kernels so that each reads only what earlier ones stored."""
    owner = {i: g for g in groups for i in g}
    done: list[tuple[int, ...]] = []

    def visit(group: tuple[int, ...]) -> None:
        if group in done:
            return
        for i in graph.reachable(group):
            if i in owner and owner[i] != group:
                visit(owner[i])
        done.append(group)

    for group in sorted(groups, key=max):
        visit(group)
    return done
