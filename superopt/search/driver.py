"""The search over one program: explore its regions, extract graphs, cut and place them, rank."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from superopt.mugraph.graph import Graph, Reduce
from superopt.mugraph.placement import MuGraph
from superopt.search.cut import Cut, Cutter, KernelSeconds, Memo, body_of
from superopt.search.cut_bound import EXPANSIONS, BranchAndBound
from superopt.search.enumerate import explore
from superopt.search.extract import Choice, Extractor
from superopt.search.regions import regions
from superopt.search.segments import Segment, joined, segments

Progress = Callable[[str, dict[str, float]], None]


PLANS = 6
"""Cut term graphs that are placed with all tile sizes."""


PATIENCE = 100
"""Variants tried since the last improvement, after which the descent ends."""


@dataclass(frozen=True)
class Plan:
    """A cut term graph with its predicted seconds at coarse placements; written: see Candidate.

    bound: seconds that no cut of this graph takes less than, where that was asked.
    """

    seconds: float
    cutter: Cutter
    cut: Cut
    written: bool = False
    bound: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A placed program with its predicted seconds; written: whether its terms are the author's."""

    mugraph: MuGraph
    seconds: float
    written: bool = False


@dataclass(frozen=True)
class Found:
    """What a search found: candidates, cheapest first, and what it did to find them.

    ``stats``: states (values tried and kernels costed), classes, queries, closed (every region's
    algebraic space was exhausted), removed (per rule), graphs, seconds, cut_seconds and cut_bound (of
    the best cut at coarse placements, and what no cut of its graph takes less than), gap (the part of
    the former by which it may miss the optimum).
    """

    candidates: tuple[Candidate, ...]
    stats: dict[str, Any]
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

    def part(self, shares: int) -> Budget:
        """One of so many equal shares of what is left."""
        seconds, candidates = self.seconds, self.candidates
        if seconds is not None:
            seconds = max(seconds - (time.perf_counter() - self.started), 0.0) / shares
        if candidates is not None:
            candidates = max(candidates - self.used, 0) // shares
        return Budget(seconds, candidates)


def search(
    graph: Graph,
    cost: KernelSeconds,
    budget: Budget,
    *,
    seed: int = 0,
    keep: int = 4,
    lowerable: Callable[[MuGraph], str | None] = lambda _: None,
    progress: Progress | None = None,
    bound: bool = True,
) -> Found:
    """Searches for placed graphs that compute ``graph``.

    cost: (graph, body, stored, outputs) -> the cost of placements; lowerable: the reason why a
    placed graph cannot be lowered, or None. At least the source's own derivation is always costed,
    whatever the budget. A large program is searched in segments, those of one form once. Without
    ``bound`` every kernel that a cut is compared by is costed, and no gap is known (to measure what
    the bounds are worth).
    """
    parts = segments(graph)
    if len(parts) == 1:
        return _search_one(graph, cost, budget, seed, keep, lowerable, progress, bound)
    forms = {str(p.form.graph): p.form.graph for p in parts}
    found: dict[str, Found] = {}
    for n, (key, form) in enumerate(forms.items()):
        share = budget.part(len(forms) - n)
        found[key] = _search_one(form, cost, share, seed, keep, lowerable, progress, bound)
        budget.used += share.used
        if not found[key].candidates:
            return found[key]
    stats = joined_stats([f.stats for f in found.values()])
    stats.update(segments=len(parts), distinct_segments=len(forms))
    if all("gap" in f.stats for f in found.values()):
        each = [found[str(p.form.graph)].stats for p in parts]
        stats.update(gap_of(*(sum(s[k] for s in each) for k in ("cut_seconds", "cut_bound"))))
    stats["seconds"] = time.perf_counter() - budget.started
    return Found(tuple(_together(graph, parts, found)), stats)


MOST_TOGETHER = 16
"""Candidates that are put together from those of a program's segments."""


def _together(
    graph: Graph, parts: Sequence[Segment], found: Mapping[str, Found]
) -> Iterator[Candidate]:
    """The best of every segment; as written; then all segments of one form by their next best."""
    keys = [str(p.form.graph) for p in parts]
    times = Counter(keys)
    weight = {k: times[k] * f.candidates[0].seconds for k, f in found.items()}
    best = dict.fromkeys(found, 0)
    written = {
        k: next((n for n, c in enumerate(f.candidates) if c.written), 0) for k, f in found.items()
    }
    picks = [best, written]
    for rank in range(1, MOST_TOGETHER):
        for k in sorted(found, key=lambda k: (-weight[k], k)):
            if rank < len(found[k].candidates):
                picks.append({**best, k: rank})
    seen: list[dict[str, int]] = []
    for pick in picks:
        if pick in seen or len(seen) == MOST_TOGETHER:
            continue
        seen.append(pick)
        chosen = [found[k].candidates[pick[k]] for k in keys]
        placed = joined(graph, [(p, c.mugraph) for p, c in zip(parts, chosen, strict=True)])
        yield Candidate(placed, sum(c.seconds for c in chosen), all(c.written for c in chosen))


def _search_one(
    graph: Graph,
    cost: KernelSeconds,
    budget: Budget,
    seed: int,
    keep: int,
    lowerable: Callable[[MuGraph], str | None],
    progress: Progress | None,
    bound: bool,
) -> Found:
    """The search over a program that is one segment."""
    seconds, states = _share(budget)
    explored = [
        (region, explore(graph, region, seed=seed, seconds=seconds, candidates=states))
        for region in regions(graph)
    ]
    extractor = Extractor(graph, explored)
    scored: dict[tuple[int, ...], list[Plan]] = {}
    memo: Memo = {}

    def score(choices: tuple[Choice, ...]) -> float:
        variant = extractor.build(choices)
        key = tuple(o.node for o in variant.outputs)
        if key not in scored:
            budget.used += 1
            cutter = Cutter(variant, cost, budget.late, memo, bound)
            scored[key] = [Plan(c.seconds, cutter, c) for c in cutter.cuts()]
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
    written = Cutter(extractor.as_written(), cost, budget.late, memo, bound)
    as_written = [Plan(c.seconds, written, c, True) for c in written.cuts()]
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
    every = bounded(_ranked(p for ps in (*scored.values(), as_written) for p in ps), PLANS)
    plans = _different([p for p in every if not p.written])
    as_written = [p for p in every if p.written]
    # The program as its author wrote it rounds as its author expects: it is always measured.
    chosen = [*plans[:2], *as_written[:1], *plans[2:PLANS], *as_written[1:]]
    found, reasons = _placed(chosen, keep, lowerable)
    cutters = [ps[0].cutter for ps in (*scored.values(), as_written) if ps]
    stats = _stats(explored, extractor, len(scored), sum(c.evaluated for c in cutters), budget)
    if every and every[0].bound is not None:
        stats.update(gap_of(every[0].seconds, every[0].bound))
    stats["not_lowerable"] = reasons
    why_none = "" if found else "no placement could be lowered: " + "; ".join(reasons)
    return Found(tuple(found), stats, why_none)


def _ranked(plans: Iterable[Plan]) -> list[Plan]:
    return sorted(plans, key=lambda p: (p.seconds, len(p.cut.groups)))


def bounded(plans: list[Plan], most: int) -> list[Plan]:
    """Ranked plans, those of the first ``most`` graphs with their bounds and their optimal cuts."""
    graphs: dict[int, Plan] = {}
    for plan in plans:
        graphs.setdefault(id(plan.cutter), plan)
    out = list(plans)
    for n, plan in enumerate(list(graphs.values())[:most]):
        if not plan.cutter.bound:
            break
        # The gap that is reported is that of the best graph.
        found = BranchAndBound(plan.cutter, EXPANSIONS >> min(4 * n, 4)).search(plan.cut)
        if found.cut is not plan.cut:
            out.append(replace(plan, seconds=found.cut.seconds, cut=found.cut))
        out = [replace(p, bound=found.bound) if p.cutter is plan.cutter else p for p in out]
    return _ranked(out)


def gap_of(seconds: float, bound: float) -> dict[str, float]:
    """The figures of a cut that takes ``seconds`` where none takes less than ``bound``."""
    gap = max(0.0, 1.0 - bound / seconds) if seconds > 0.0 else 0.0
    return {"cut_seconds": seconds, "cut_bound": bound, "gap": gap}


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
    placed = [plan.cutter.place(plan.cut, keep) for plan in plans]
    # By their seconds now that all tiles were tried; the author's terms stay as far in front.
    order = sorted(range(len(plans)), key=lambda at: placed[at][0][0])
    for at, plan in enumerate(plans):
        if plan.written and order.index(at) > at:
            order.remove(at)
            order.insert(at, at)
    for n, at in enumerate(order):
        plan = plans[at]
        for k, (seconds, mugraph) in enumerate(placed[at]):
            why = lowerable(mugraph)
            if why is None:
                ranked.setdefault(
                    str(mugraph), (n + 2 * k, n, Candidate(mugraph, seconds, plan.written))
                )
            else:
                reasons[why] = reasons.get(why, 0) + 1
    return [c for _, _, c in sorted(ranked.values(), key=lambda r: r[:2])], reasons


EXPLORED = 2_000_000
"""States of one region where the budget is in candidates: the result then depends on no clock."""


def _share(budget: Budget) -> tuple[float | None, int | None]:
    """(seconds, states) that the exploration of one region may take."""
    if budget.seconds is not None:
        return min(max(budget.seconds / 16, 0.05), 10.0), None
    return (10.0, None) if budget.candidates is None else (None, EXPLORED)


def _stats(
    explored: list, extractor: Extractor, graphs: int, costed: int, budget: Budget
) -> dict[str, Any]:
    spaces = [space for _, space in explored]
    regions_of = [
        {
            "states": int(s.stats.get("states", 0)),
            "classes": len(s.classes),
            "removed": dict(s.stats.get("removed", {})),
            "closed": s.closed,
        }
        for s in spaces
    ]
    rest = {
        "states": costed,
        "classes": 0,
        "removed": {"safety": extractor.dropped},
        "closed": True,
    }
    total = joined_stats([rest, *regions_of])
    total.update(
        graphs=graphs,
        kernels_costed=costed,
        regions=len(explored),
        seconds=time.perf_counter() - budget.started,
    )
    return total


def joined_stats(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of several searches as those of one: counts add up, all must be closed."""
    out: dict[str, Any] = {"removed": {}, "closed": all(p["closed"] for p in parts)}
    for part in parts:
        for key, value in part.items():
            if key in ("removed", "not_lowerable"):
                counts = out.setdefault(key, {})
                for rule, n in value.items():
                    counts[rule] = counts.get(rule, 0) + n
            elif key not in ("closed", "seconds", "cut_seconds", "cut_bound", "gap"):
                out[key] = out.get(key, 0) + value
    return out
