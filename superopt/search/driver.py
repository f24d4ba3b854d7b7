"""The search over one program: explore its regions, extract graphs, cut and place them, rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from superopt.mugraph.graph import Graph, Reduce
from superopt.mugraph.placement import MuGraph
from superopt.search.cut import Cut, Cutter, KernelSeconds, body_of
from superopt.search.enumerate import explore
from superopt.search.extract import Choice, Extractor
from superopt.search.regions import regions

Progress = Callable[[str, dict[str, float]], None]


PLANS = 6
"""Cut term graphs that are placed with all tile sizes."""


PATIENCE = 100
"""Variants tried since the last improvement, after which the descent ends."""


@dataclass(frozen=True)
class Plan:
    """A cut term graph with its predicted seconds at coarse placements."""

    seconds: float
    cutter: Cutter
    cut: Cut


@dataclass(frozen=True)
class Candidate:
    """A placed program with its predicted seconds."""

    mugraph: MuGraph
    seconds: float


@dataclass(frozen=True)
class Found:
    """What a search found: candidates, cheapest first, and what it did to find them.

    ``stats``: states (values tried and kernels costed), classes, queries, closed (every region's
    algebraic space was exhausted), removed (per rule), graphs, seconds.
    """

    candidates: tuple[Candidate, ...]
    stats: dict[str, object]
    why_none: str = ""


@dataclass
class Budget:
    """A limit in seconds of wall clock, or in candidates (term graphs costed); either may be None."""

    seconds: float | None = None
    candidates: int | None = None
    started: float = field(default_factory=time.perf_counter)
    used: int = 0

    def spent(self) -> bool:
        """Whether the search must stop now."""
        if self.candidates is not None and self.used >= self.candidates:
            return True
        return self.late()

    def late(self) -> bool:
        """Whether the time is up."""
        return self.seconds is not None and time.perf_counter() - self.started > self.seconds


def search(
    graph: Graph,
    cost: KernelSeconds,
    budget: Budget,
    *,
    seed: int = 0,
    keep: int = 4,
    lowerable: Callable[[MuGraph], str | None] = lambda _: None,
    progress: Progress | None = None,
) -> Found:
    """Searches for placed graphs that compute ``graph``.

    cost: (graph, body, stored, outputs) -> seconds of a placement; lowerable: the reason why a
    placed graph cannot be lowered, or None. At least the source's own derivation is always costed,
    whatever the budget.
    """
    explored = [
        (region, explore(graph, region, seed=seed, seconds=_share(budget)))
        for region in regions(graph)
    ]
    extractor = Extractor(graph, explored)
    scored: dict[str, list[Plan]] = {}
    costed = 0

    def score(choices: tuple[Choice, ...]) -> float:
        nonlocal costed
        variant = extractor.build(choices)
        key = str(variant)
        if key not in scored:
            budget.used += 1
            cutter = Cutter(variant, cost, budget.late)
            scored[key] = [Plan(c.seconds, cutter, c) for c in cutter.cuts()]
            costed += cutter.evaluated
            if progress:
                progress(
                    "search",
                    {
                        "graphs": len(scored),
                        "best": min(
                            (s[0].seconds for s in scored.values() if s), default=float("inf")
                        ),
                    },
                )
        return scored[key][0].seconds if scored[key] else float("inf")

    choices = extractor.seed()
    best = score(choices)
    written = Cutter(graph, cost, budget.late)
    as_written = [Plan(c.seconds, written, c) for c in written.cuts()]
    costed += written.evaluated
    moved, idle = True, 0
    while moved and not budget.spent():
        moved = False
        for variant in extractor.variants(choices):
            if budget.spent() or idle >= PATIENCE:
                break
            try:
                there = score(variant)
            except RecursionError:
                continue
            idle += 1
            if there < best * 0.999:
                best, choices, moved, idle = there, variant, True, 0
                break
    plans = _different(
        sorted(
            (p for ps in scored.values() for p in ps), key=lambda p: (p.seconds, len(p.cut.groups))
        )
    )
    # The program as its author wrote it rounds as its author expects: it is always measured.
    chosen = [*plans[:2], *as_written[:1], *plans[2:PLANS], *as_written[1:]]
    found, reasons = _placed(chosen, keep, lowerable)
    stats = _stats(explored, extractor, len(scored), costed, budget)
    stats["not_lowerable"] = reasons
    why_none = "" if found else "no placement could be lowered: " + "; ".join(reasons)
    return Found(tuple(found), stats, why_none)


def _different(plans: list[Plan]) -> list[Plan]:
    """The plans without those that an earlier one equals in kernels, reductions and cost.

    They differ in scalar arithmetic that costs next to nothing (a division or a reciprocal);
    measuring both would take the place of a plan that differs.
    """
    out: list[Plan] = []
    seen: dict[str, float] = {}
    for plan in plans:
        structure = _structure(plan)
        if plan.seconds > 1.01 * seen.get(structure, -1.0):
            seen[structure] = plan.seconds
            out.append(plan)
    return out


def _structure(plan: Plan) -> str:
    """Per kernel: the axes that it stores, and its reductions."""
    graph = plan.cutter.graph
    stored = frozenset(i for group in plan.cut.groups for i in group)
    kernels = []
    for group in plan.cut.groups:
        body, _ = body_of(graph, group, stored)
        reductions = [n for i in body if isinstance(n := graph.nodes[i], Reduce)]
        stores = sorted(str(graph.nodes[i].axes) for i in group)
        kernels.append((stores, sorted((n.op, str(n.axes), str(n.over)) for n in reductions)))
    return str(kernels)


def _placed(
    plans: list[Plan], keep: int, lowerable: Callable[[MuGraph], str | None]
) -> tuple[list[Candidate], dict[str, int]]:
    """Candidates of several plans, interleaved: the best of each plan before second placements.

    The model is least sure between plans that differ in structure, so measurement should see them;
    placements of one plan that differ in a tile size come later.
    """
    ranked: dict[str, tuple[int, int, Candidate]] = {}
    reasons: dict[str, int] = {}
    for n, plan in enumerate(plans):
        for k, (seconds, mugraph) in enumerate(plan.cutter.place(plan.cut, keep)):
            why = lowerable(mugraph)
            if why is None:
                ranked.setdefault(str(mugraph), (n + 2 * k, n, Candidate(mugraph, seconds)))
            else:
                reasons[why] = reasons.get(why, 0) + 1
    order = sorted(ranked.values(), key=lambda r: r[:2])
    return [c for _, _, c in order], reasons


def _share(budget: Budget) -> float:
    """Seconds that the exploration of one region may take."""
    return 10.0 if budget.seconds is None else min(max(budget.seconds / 16, 0.05), 10.0)


def _stats(
    explored: list, extractor: Extractor, graphs: int, costed: int, budget: Budget
) -> dict[str, object]:
    total: dict[str, object] = {
        "graphs": graphs,
        "kernels_costed": costed,
        "regions": len(explored),
    }
    removed: dict[str, int] = {"safety": extractor.dropped}
    states = costed
    classes = 0
    for _, space in explored:
        classes += len(space.classes)
        states += int(space.stats.get("states", 0))
        for rule, n in dict(space.stats.get("removed", {})).items():
            removed[rule] = removed.get(rule, 0) + int(n)
    total.update(
        states=states,
        classes=classes,
        removed=removed,
        closed=all(s.closed for _, s in explored),
        seconds=time.perf_counter() - budget.started,
    )
    return total
