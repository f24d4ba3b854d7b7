"""The kernel cut: which values of a term graph are stored, and which are computed where they are read.

Local search from two ends (everything fused, everything stored), toggling one value at a time;
each kernel's cost is that of its best coarse placement, and is computed once per distinct kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Gather, Graph, Input, Map, Reduce, View
from superopt.mugraph.placement import Kernel, MuGraph
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.wellformed import check_graph
from superopt.search import place

KernelSeconds = Callable[[Graph, list[int], set[int], tuple[int, ...]], place.Cost]
"""(graph, body, stored nodes, outputs) -> the cost of placements; given by the cost stage."""

INFINITE = float("inf")


@dataclass(frozen=True)
class Cut:
    """Kernels as groups of stored nodes, in execution order, with the predicted seconds."""

    groups: tuple[tuple[int, ...], ...]
    seconds: float


@dataclass(frozen=True)
class _Alone:
    """The kernel of one stored value: what it computes, what it reads, and its cost."""

    body: frozenset[int]
    reads: frozenset[int]
    seconds: float


Memo = dict[tuple[tuple[int, ...], frozenset[int]], float]
"""(stored nodes, body) of a kernel -> seconds of its best coarse placement."""


@dataclass
class Cutter:
    """Cuts one term graph into kernels.

    graph: may hold nodes that its outputs do not need; late: whether there is no time left to
    improve a cut (what was found so far is then used); memo: kernels known already, which cutters
    of graphs with the same numbering share; max_block_ops: the most compute nodes in one kernel.
    """

    graph: Graph
    cost: KernelSeconds
    late: Callable[[], bool] = lambda: False
    memo: Memo = field(default_factory=dict)
    evaluated: int = 0
    max_block_ops: int | None = None

    @cached_property
    def wide(self) -> frozenset[Axis]:
        """The axes that are contiguous somewhere."""
        return frozenset(place.contiguous(self.graph))

    def cuts(self) -> list[Cut]:
        """Locally optimal cuts, cheapest first (at most two)."""
        outputs = frozenset(o.node for o in self.graph.outputs)
        forced = forced_cuts(self.graph) | outputs
        free = [i for i in cut_points(self.graph) if i not in forced]
        found: dict[tuple[tuple[int, ...], ...], Cut] = {}
        starts = [forced, forced | set(free)]
        if self.max_block_ops is not None:
            # Any computed value may have to be stored for the kernels around it to be small enough.
            free = [i for i in _live(self.graph)[0] if computes(self.graph, i) and i not in forced]
            starts.append(forced | set(free))
        for start in starts:
            if found and self.late():
                break
            cut = self._descend(frozenset(start), free, forced)
            if cut is not None:
                found.setdefault(cut.groups, cut)
        return sorted(found.values(), key=lambda c: (c.seconds, len(c.groups), c.groups))

    def _descend(
        self, stored: frozenset[int], free: list[int], forced: frozenset[int]
    ) -> Cut | None:
        kernels = {i: self._alone(i, stored) for i in stored if not self._is_input(i)}
        best = sum(k.seconds for k in kernels.values())
        moved = True
        while moved and not self.late():
            moved = False
            for i in free:
                if self.late():
                    break
                other = stored ^ {i}
                there = self._toggled(kernels, i, other)
                cost = sum(k.seconds for k in there.values())
                if cost < best * 0.999:
                    best, stored, kernels, moved = cost, other, there, True
        if best == INFINITE:
            return None
        return self._merge(stored)

    def _toggled(
        self, kernels: dict[int, _Alone], i: int, stored: frozenset[int]
    ) -> dict[int, _Alone]:
        """The kernels when value i is stored or no longer is: only those that need it change."""
        there = {k: old for k, old in kernels.items() if k != i}
        for k, old in there.items():
            if i in old.body or i in old.reads:
                there[k] = self._alone(k, stored)
        if i in stored and not self._is_input(i):
            there[i] = self._alone(i, stored)
        return there

    def _alone(self, i: int, stored: frozenset[int]) -> _Alone:
        body, reads = body_of(self.graph, (i,), stored)
        return _Alone(frozenset(body), frozenset(reads), self._seconds((i,), body, reads))

    def _is_input(self, i: int) -> bool:
        # An output that is an input itself still needs a kernel that copies it.
        return isinstance(self.graph.nodes[i], Input) and all(
            o.node != i for o in self.graph.outputs
        )

    def _merge(self, stored: frozenset[int]) -> Cut:
        """Joins kernels over the same axes that share inputs, while that is cheaper."""
        groups: list[tuple[int, ...]] = [(i,) for i in sorted(stored) if not self._is_input(i)]
        below = {g[0]: self.graph.reachable(g) for g in groups}
        while (pair := self._cheaper_pair(groups, _needs(groups, below), stored)) is not None:
            groups = [*(g for g in groups if g not in pair), tuple(sorted(pair[0] + pair[1]))]
            groups.sort(key=max)
        ordered = _topological(self.graph, groups)
        return Cut(tuple(ordered), sum(self.seconds(g, stored) for g in ordered))

    def _cheaper_pair(
        self,
        groups: list[tuple[int, ...]],
        needs: dict[tuple[int, ...], set[tuple[int, ...]]],
        stored: frozenset[int],
    ) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Two groups that cost less together, neither of which needs the other."""
        for x, a in enumerate(groups):
            for b in groups[x + 1 :]:
                if self.late():
                    return None
                if set(self.graph.nodes[a[0]].axes) != set(self.graph.nodes[b[0]].axes):
                    continue
                if b in needs[a] or a in needs[b]:
                    continue
                apart = self.seconds(a, stored) + self.seconds(b, stored)
                if self.seconds(tuple(sorted(a + b)), stored) < apart:
                    return a, b
        return None

    def seconds(self, outputs: tuple[int, ...], stored: frozenset[int]) -> float:
        """The coarse cost of the kernel that stores ``outputs``, given what else is stored."""
        return self._seconds(outputs, *body_of(self.graph, outputs, stored))

    def _seconds(self, outputs: tuple[int, ...], body: list[int], reads: set[int]) -> float:
        key = (outputs, frozenset(body))
        if key not in self.memo:
            self.evaluated += 1
            if not fusible(self.graph, body, outputs, reads) or self._too_large(body):
                self.memo[key] = INFINITE
            else:
                axes = place.placeable(self.graph, body, outputs, self.wide)
                found = place.best(axes, self.cost(self.graph, body, reads, outputs), quick=True)
                self.memo[key] = found[0][0] if found else INFINITE
        return self.memo[key]

    def _too_large(self, body: list[int]) -> bool:
        """Whether a kernel holds more compute nodes than it may."""
        most = self.max_block_ops
        return most is not None and sum(computes(self.graph, i) for i in body) > most

    def place(self, cut: Cut, keep: int) -> list[tuple[float, MuGraph]]:
        """The cut with its kernels placed, best first: the best of all, and single deviations."""
        stored = frozenset(i for g in cut.groups for i in g)
        options: list[list[tuple[float, Kernel]]] = []
        for n, group in enumerate(cut.groups):
            body, reads = body_of(self.graph, group, stored)
            axes = place.placeable(self.graph, body, group, self.wide)
            found = place.best(
                axes, self.cost(self.graph, body, reads, group), quick=False, keep=keep
            )
            self.evaluated += 1
            options.append(
                [(s, place.kernel(self.graph, f"k{n}", group, body, p)) for s, p in found]
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
    groups: list[tuple[int, ...]], below: dict[int, list[int]]
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


def _live(graph: Graph) -> tuple[list[int], dict[int, list[int]]]:
    """The nodes that the outputs need, and for each the ones among them that read it."""
    live = graph.reachable([o.node for o in graph.outputs])
    users: dict[int, list[int]] = {i: [] for i in live}
    for i in live:
        for a in graph.nodes[i].args:
            users[a].append(i)
    return live, users


def computes(graph: Graph, i: int) -> bool:
    """Whether a node computes: a reduction, or a scalar row that is no cast."""
    node = graph.nodes[i]
    return isinstance(node, Reduce) or (
        isinstance(node, Map) and SCALARS[node.op].abstract != "cast"
    )


def cut_points(graph: Graph) -> list[int]:
    """The values worth storing: reductions, and computed values that a reduction reads."""
    live, users = _live(graph)
    out = []
    for i in live:
        node = graph.nodes[i]
        if isinstance(node, Reduce):
            out.append(i)
        elif isinstance(node, Map) and SCALARS[node.op].flops and node.axes:
            feeds = any(
                isinstance(graph.nodes[u], Reduce)
                or (isinstance(n := graph.nodes[u], Map) and set(n.axes) > set(node.axes))
                for u in users[i]
            )
            heavy = any(isinstance(graph.nodes[j], Reduce) for j in graph.reachable([i]))
            product = any(
                isinstance(n := graph.nodes[u], Reduce) and node.op == "mul" and n.op == "add"
                for u in users[i]
            )
            if heavy and not product and (feeds or len(users[i]) > 1):
                out.append(i)
    return out


def forced_cuts(graph: Graph) -> frozenset[int]:
    """Values that must be stored: those read at other coordinates and not pure in stored ones."""
    out: set[int] = set()
    for i in _live(graph)[0]:
        node = graph.nodes[i]
        if isinstance(node, Gather) and not isinstance(graph.nodes[node.operand], Input):
            out.add(node.operand)
        if isinstance(node, View) and _has_reduction(graph, node.operand, out):
            out.add(node.operand)
    return frozenset(out)


def _has_reduction(graph: Graph, i: int, stored: set[int]) -> bool:
    todo, seen = [i], set()
    while todo:
        j = todo.pop()
        if j in seen or j in stored:
            continue
        seen.add(j)
        if isinstance(graph.nodes[j], Reduce):
            return True
        todo.extend(graph.nodes[j].args)
    return False


def fusible(graph: Graph, body: list[int], outputs: tuple[int, ...], reads: set[int]) -> bool:
    """Whether the lowering can hold this body in one kernel."""
    inside = set(body)
    for i in body:
        node = graph.nodes[i]
        if isinstance(node, View) and node.operand in inside:
            todo = [node.operand]
            while todo:
                j = todo.pop()
                if isinstance(graph.nodes[j], Reduce):
                    return False
                todo.extend(a for a in graph.nodes[j].args if a in inside)
        if isinstance(node, Gather) and node.operand not in reads:
            return False
        if i in outputs and any(i in graph.nodes[j].args for j in body):
            return False  # a kernel does not read what it stores
    return True


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
