"""The descent over the term graphs of one program, batch by batch.

A batch is the next variants of the best choice so far that have not been cut yet; the best of them,
if it is better, becomes the choice. Batches are of one size however many workers there are, so the
search goes the same way on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from superopt.mugraph.graph import Graph
from superopt.search.cut import Cut
from superopt.search.enumerate import Space
from superopt.search.extract import Choice, Extractor
from superopt.search.regions import Region
from superopt.search.tasks import Bounded, Scored, Term

PLANS = 6
"""Cut term graphs that are placed with all tile sizes."""

PATIENCE = 100
"""Variants tried since the last improvement, after which the descent ends."""

BATCH = 8
"""Variants that are cut before the best of them is looked for."""

KEPT = 400
"""Plans that are kept; past twice as many, the dearest are forgotten."""

NODE_BYTES = 1200
"""Bytes of one node with what is known of it, nearly."""

INFINITE = float("inf")


@dataclass(frozen=True)
class Plan:
    """A cut term graph with its predicted seconds at coarse placements; written: see Candidate.

    bound: seconds that no cut of this graph takes less than, where that was asked.
    """

    seconds: float
    term: Term
    cut: Cut
    structure: str
    written: bool = False
    bound: float | None = None


@dataclass
class Descent:
    """The search for the cheapest term graph of one program.

    number: of the program in its search; memory: bytes that its term graphs may take. Ask for a
    ``batch``, cut its terms, give what came of them to ``take``; until ``done``.
    """

    number: int
    graph: Graph
    explored: list[tuple[Region, Space]]
    memory: int | None = None
    graphs: int = 0
    best: float = INFINITE
    done: bool = False
    why: str = ""
    plans: list[Plan] = field(default_factory=list)
    written: list[Plan] = field(default_factory=list)
    costed: set[int] = field(default_factory=set)
    _scored: dict[tuple[int, ...], float] = field(default_factory=dict)
    _idle: int = 0
    _told: int = 0

    def __post_init__(self) -> None:
        self.extractor = Extractor(self.graph, self.explored)
        self._choices = self.extractor.seed()
        self._variants: Iterator[tuple[Choice, ...]] = iter([self._choices])
        self._batch: list[tuple[tuple[Choice, ...], Term]] = []
        self._as_written: Term | None = None

    def batch(self, most: int | None) -> list[Term]:
        """Terms to cut next, at most so many; the first batch has the program as it was written too.

        Empty when the descent is done.
        """
        fresh: dict[tuple[int, ...], Term] = {}
        if self._as_written is None:
            # Whatever the budget, the source's own derivation is cut and costed.
            self._add(self._choices, fresh)
            self._variants = self.extractor.variants(self._choices)
            self._as_written = self._term(self.extractor.as_written())
            return [*fresh.values(), self._as_written]
        if self.memory is not None and self._size() > self.memory:
            self.done, self.why = True, "memory"
            return []
        size = BATCH if most is None else min(BATCH, most)
        while not self.done and not fresh:
            while len(fresh) < size and self._idle + len(self._batch) < PATIENCE:
                choices = next(self._variants, None)
                if choices is None:
                    break
                self._add(choices, fresh)
            self.done = not self._batch
            if not fresh:
                self._move()  # a term graph that is known may be the better one all the same
        return list(fresh.values())

    def take(self, terms: list[Term], results: list[Scored]) -> None:
        """Notes what came of a batch, and moves to the best of it."""
        for term, scored in zip(terms, results, strict=True):
            self.costed |= scored.costed
            plans = [Plan(c.seconds, term, c, structure) for c, structure in scored.cuts]
            if term is self._as_written:
                self.written = [Plan(p.seconds, term, p.cut, p.structure, True) for p in plans]
                continue
            self.graphs += 1
            self._scored[_key(term)] = plans[0].seconds if plans else INFINITE
            self.plans += plans
        if len(self.plans) > 2 * KEPT:
            self.plans = _sorted(self.plans)[:KEPT]
        self._move()

    def news(self) -> tuple[int, tuple]:
        """The nodes that were added since the last call, and the number of the first."""
        start, nodes = self._told, tuple(self.extractor.builder.nodes[self._told :])
        self._told += len(nodes)
        return start, nodes

    def chosen(self) -> tuple[list[Plan], list[Plan]]:
        """The plans to place, those that differ and are cheapest first; and the next ones."""
        plans = different(_sorted(self.plans))
        # The program as its author wrote it rounds as its author expects: it is always measured.
        first = [*plans[:2], *self.written[:1], *plans[2:PLANS], *self.written[1:]]
        return first, plans[PLANS:]

    def leading(self) -> list[Plan]:
        """The best plan of each of the best term graphs, whose cuts are worth bounding."""
        graphs: dict[tuple[int, ...], Plan] = {}
        for plan in _sorted([*self.plans, *self.written]):
            graphs.setdefault(_key(plan.term), plan)
        return list(graphs.values())[:PLANS]

    def learn(self, plan: Plan, found: Bounded) -> None:
        """Notes what branch and bound found for the term graph of a plan."""
        better = found.cut.groups != plan.cut.groups
        plans = self.written if plan.written else self.plans
        if better:
            seconds, structure = found.cut.seconds, found.structure
            plans.insert(0, replace(plan, seconds=seconds, cut=found.cut, structure=structure))
        plans[:] = [
            replace(p, bound=found.bound) if _key(p.term) == _key(plan.term) else p for p in plans
        ]

    def figures(self) -> dict[str, float]:
        """The best cut's seconds at coarse placements, and the least that any cut of its graph takes."""
        best = _sorted([*self.plans, *self.written])[:1]
        if not best or best[0].bound is None:
            return {}
        return gap_of(best[0].seconds, best[0].bound)

    def _add(self, choices: tuple[Choice, ...], fresh: dict[tuple[int, ...], Term]) -> None:
        """Builds a variant; one that is too deep to be built is passed over."""
        try:
            term = self._term(self.extractor.build(choices))
        except RecursionError:
            return
        self._batch.append((choices, term))
        if _key(term) not in self._scored:
            fresh.setdefault(_key(term), term)

    def _move(self) -> None:
        """Moves to the best of the batch, if it is better."""
        batch, self._batch = self._batch, []
        self._idle += len(batch)
        for choices, term in batch:
            if (there := self._scored[_key(term)]) < self.best * 0.999:
                self.best, self._choices, self._idle = there, choices, 0
        if not self._idle:
            self._variants = self.extractor.variants(self._choices)

    def _term(self, graph: Graph) -> Term:
        return Term(self.number, graph.name, graph.outputs)

    def _size(self) -> int:
        return NODE_BYTES * len(self.extractor.builder.nodes)


def _key(term: Term) -> tuple[int, ...]:
    return tuple(o.node for o in term.outputs)


def gap_of(seconds: float, bound: float) -> dict[str, float]:
    """The figures of a cut that takes ``seconds`` where none takes less than ``bound``."""
    gap = max(0.0, 1.0 - bound / seconds) if seconds > 0.0 else 0.0
    return {"cut_seconds": seconds, "cut_bound": bound, "gap": gap}


def _sorted(plans: list[Plan]) -> list[Plan]:
    return sorted(plans, key=lambda p: (p.seconds, len(p.cut.groups)))


def different(plans: list[Plan]) -> list[Plan]:
    """The plans without those that an earlier one equals in kernels, reductions and cost.

    They differ in scalar arithmetic that costs next to nothing (a division or a reciprocal);
    measuring both would take the place of a plan that differs.
    """
    out: list[Plan] = []
    seen: dict[str, float] = {}
    for plan in plans:
        if plan.seconds > 1.01 * seen.get(plan.structure, -1.0):
            seen[plan.structure] = plan.seconds
            out.append(plan)
    return out
