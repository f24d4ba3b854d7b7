"""Extraction: from classes with many derivations to term graphs worth cutting into kernels.

The seed takes, for each class, the derivation of least arithmetic (a shortest-path computation, so
cycles among classes do no harm). Variants then change one class at a time, those near the outputs
first, and then all classes that may have one and the same factor last: to take the root of a norm out
of one of two contractions alone gains nothing. The search descends over them with the full cost (cut
and placement) as its measure.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.graph import Builder, Graph, remap
from superopt.mugraph.scalars import SCALARS
from superopt.search.build import dtypes_of, rebuild
from superopt.search.enumerate import Derivation, Space
from superopt.search.regions import Region
from superopt.search.safety import safe_derivations

Choice = dict[int, Derivation]


@dataclass
class Extractor:
    """Extracts graphs from the explored regions of one program."""

    graph: Graph
    regions: list[tuple[Region, Space]]
    dropped: int = 0
    builder: Builder = field(init=False)
    _safe: list[list[list[Derivation]]] = field(default_factory=list)
    _dtypes: list[dict[int, str]] = field(default_factory=list)
    _rebuilt: dict[tuple[object, ...], dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.builder = Builder(self.graph.name)
        for region, space in self.regions:
            self._dtypes.append(dtypes_of(self.graph, region, space))
            safe, dropped = safe_derivations(self.graph, space)
            self._safe.append(safe)
            self.dropped += dropped

    def seed(self) -> tuple[Choice, ...]:
        """The choice of least arithmetic in every region."""
        return tuple(self._cheapest(r) for r in range(len(self.regions)))

    def variants(self, choices: tuple[Choice, ...]) -> Iterator[tuple[Choice, ...]]:
        """All choices that differ from ``choices`` in one class that the outputs use; then in several."""
        for r in range(len(self.regions)):
            for c in self._used(self.regions[r][1], choices[r]):
                for d in self._safe[r][c]:
                    if self._possible(r, choices[r], c, d):
                        yield (*choices[:r], {**choices[r], c: d}, *choices[r + 1 :])
        for r in range(len(self.regions)):
            for choice in self._factored(r, choices[r]):
                yield (*choices[:r], choice, *choices[r + 1 :])

    def _possible(self, r: int, choice: Choice, c: int, d: Derivation) -> bool:
        """Whether a class may be derived so beside all other choices, and is not yet."""
        classes = self.regions[r][1].classes
        known = all(a in choice or not classes[a].derivations for a in d.args)
        return known and d != choice.get(c) and not needs(choice, d, c)

    def _factored(self, r: int, choice: Choice) -> Iterator[Choice]:
        """For each factor that several classes may have last, the choice in which all have it so."""
        classes = self.regions[r][1].classes
        last: dict[int, dict[int, Derivation]] = {}
        for c in self._used(self.regions[r][1], choice):
            for d in self._safe[r][c]:
                for a in set(d.args) if d.op == "mul" else ():
                    if classes[a].derivations and {*classes[a].axes} < {*classes[c].axes}:
                        last.setdefault(a, {}).setdefault(c, d)
        for found in last.values():
            other, moved = choice, 0
            for c, d in found.items():
                if self._possible(r, other, c, d):
                    other, moved = {**other, c: d}, moved + 1
            if moved > 1:
                yield other

    def build(self, choices: tuple[Choice, ...]) -> Graph:
        """The program with every region rebuilt by its choice.

        All programs of one extractor share their nodes, so that equal values have equal numbers;
        ``Graph.pruned`` leaves the nodes of one.
        """
        at: dict[int, int] = {}
        inside = {i: r for r, (region, _) in enumerate(self.regions) for i in region.nodes}
        done: set[int] = set()
        for i, node in enumerate(self.graph.nodes):
            r = inside.get(i)
            if r is None:
                at[i] = self.builder.add(remap(node, at))
            elif i in self.regions[r][1].targets and r not in done:
                done.add(r)
                at.update(self._region(r, choices[r], at))
        return self._program(at)

    def as_written(self) -> Graph:
        """The program as its author wrote it, over the same nodes as the others."""
        at: dict[int, int] = {}
        for i, node in enumerate(self.graph.nodes):
            at[i] = self.builder.add(remap(node, at))
        return self._program(at)

    def _program(self, at: dict[int, int]) -> Graph:
        outputs = tuple(replace(o, node=at[o.node]) for o in self.graph.outputs)
        return Graph(self.graph.name, tuple(self.builder.nodes), outputs)

    def _region(self, r: int, choice: Choice, at: dict[int, int]) -> dict[int, int]:
        """The nodes of a region's targets under a choice; what was built before is found again."""
        region, space = self.regions[r]
        for i in region.leaves:
            for j in self.graph.reachable([i]) if i not in at else ():
                if j not in at:
                    at[j] = self.builder.add(remap(self.graph.nodes[j], at))
        key = (r, tuple(choice.items()), tuple(at[i] for i in region.leaves))
        if key not in self._rebuilt:
            made = rebuild(self.builder, self.graph, region, space, choice, at, self._dtypes[r])
            self._rebuilt[key] = {node: made[cls] for node, cls in space.targets.items()}
        return self._rebuilt[key]

    def _used(self, space: Space, choice: Choice) -> list[int]:
        """The classes that the targets use under a choice, from the targets inwards."""
        order: dict[int, None] = {}
        todo = list(space.targets.values())
        while todo:
            c = todo.pop(0)
            if c not in order:
                order[c] = None
                if c in choice:
                    todo.extend(choice[c].args)
        return list(order)

    def _cheapest(self, r: int) -> Choice:
        """Knuth's generalization of Dijkstra's algorithm over the classes of one region."""
        space = self.regions[r][1]
        waiting: list[tuple[int, Derivation, int]] = []
        users: dict[int, list[int]] = {}
        cost: dict[int, float] = {}
        heap: list[tuple[float, int, int]] = []
        choice: Choice = {}
        for cls in space.classes:
            for d in self._safe[r][cls.id]:
                n = len(waiting)
                waiting.append((cls.id, d, len(set(d.args))))
                for a in set(d.args):
                    users.setdefault(a, []).append(n)
                if not d.args:
                    heapq.heappush(heap, (0.0, cls.id, n))
            if not cls.derivations:  # a leaf
                heapq.heappush(heap, (0.0, cls.id, -1))
        left = [w[2] for w in waiting]
        while heap:
            total, c, n = heapq.heappop(heap)
            if c in cost:
                continue
            cost[c] = total
            if n >= 0:
                choice[c] = waiting[n][1]
            for u in users.get(c, ()):
                left[u] -= 1
                if left[u] == 0:
                    owner, d, _ = waiting[u]
                    if owner not in cost:
                        heapq.heappush(
                            heap,
                            (
                                arithmetic(space, owner, d) + sum(cost[a] for a in set(d.args)),
                                owner,
                                u,
                            ),
                        )
        return choice


def needs(choice: Choice, d: Derivation, c: int) -> bool:
    """Whether a derivation depends on class ``c`` under a choice (it would close a cycle)."""
    todo, seen = list(d.args), set()
    while todo:
        x = todo.pop()
        if x == c:
            return True
        if x not in seen:
            seen.add(x)
            todo.extend(choice[x].args if x in choice else ())
    return False


def arithmetic(space: Space, cls: int, d: Derivation) -> float:
    """Flops of one derivation step over its whole iteration space, at hinted sizes."""
    axes: set[Axis] = set(space.classes[cls].axes) | set(d.over)
    elements = math.prod(hint(a.size) for a in axes)
    flops = (
        1 if d.op.startswith("reduce:") else max(SCALARS[d.op].flops, 1) if d.op in SCALARS else 0
    )
    return float(elements * flops) + 1.0
