"""The search over one program: explore its regions, extract graphs, cut and place them, rank."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from superopt.errors import BadOption
from superopt.mugraph.axes import Sym
from superopt.mugraph.graph import Graph, Reduce
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.resize import Resized, placed_with_symbols, symbols, with_symbols
from superopt.search.cut import Cut, Cutter, KernelSeconds, Memo, body_of
from superopt.search.enumerate import Space, explore
from superopt.search.extract import Choice, Extractor
from superopt.search.figures import joined_stats, stats_of
from superopt.search.points import Point, once_each, over_symbols, space_at
from superopt.search.regions import Region, regions
from superopt.search.segments import Segment, joined, segments
from superopt.search.techniques import ALL, Techniques

Progress = Callable[[str, dict[str, float]], None]


PLANS = 6
"""Cut term graphs that are placed with all tile sizes."""


PATIENCE = 100
"""Variants tried since the last improvement, after which the descent ends."""


@dataclass(frozen=True)
class Plan:
    """A cut term graph with its predicted seconds at coarse placements; written: see Candidate."""

    seconds: float
    cutter: Cutter
    cut: Cut
    written: bool = False


@dataclass(frozen=True)
class Candidate:
    """A placed program with its predicted seconds; written: whether its terms are the author's."""

    mugraph: MuGraph
    seconds: float
    written: bool = False


@dataclass(frozen=True)
class Found:
    """What a search found: candidates, cheapest first, and what it did to find them.

    ``stats``: states (values tried and kernels costed), values (those alone), classes, closed
    (every region's algebraic space was exhausted), removed (per rule), graphs, kernels_costed,
    seconds, algebra_s, cut_s, placement_s, and spaces (``figures.spaces_of``). at: for each point that
    was asked for, the positions of the candidates found there, in order.
    """

    candidates: tuple[Candidate, ...]
    stats: dict[str, Any]
    why_none: str = ""
    at: tuple[tuple[int, ...], ...] = ()


@dataclass
class Budget:
    """A limit in seconds of wall clock, or in candidates (term graphs costed); either may be None.

    region_seconds: of the exploration of one region, None for a share of the seconds; values: terms
    tried in one region.
    """

    seconds: float | None = None
    candidates: int | None = None
    region_seconds: float | None = None
    values: int | None = None
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
        return Budget(seconds, candidates, self.region_seconds, self.values)

    def region(self) -> float:
        """Seconds that the exploration of one region may take."""
        if self.region_seconds is not None:
            return self.region_seconds
        return 10.0 if self.seconds is None else min(max(self.seconds / 16, 0.05), 10.0)


def search(
    graph: Graph,
    cost: KernelSeconds,
    budget: Budget,
    *,
    seed: int = 0,
    keep: int = 4,
    lowerable: Callable[[MuGraph], str | None] = lambda _: None,
    progress: Progress | None = None,
    techniques: Techniques = ALL,
    max_block_ops: int | None = None,
    points: Sequence[Point] = (),
) -> Found:
    """Searches for placed graphs that compute ``graph``.

    cost: (graph, body, stored, outputs) -> the cost of placements; lowerable: the reason why a
    placed graph cannot be lowered, or None; techniques: what the search may use; max_block_ops:
    the most compute nodes in one kernel; points: sizes of the symbols at which it is searched, the
    algebra once for all (without any, at the middle of their ranges). At least the source's own
    derivation is always costed, whatever the budget. A large program is searched in segments, those
    of one form once. Raises BadOption for a technique that cannot be left out, or a bound below one.
    """
    if not techniques.bound:
        raise BadOption("the cut costs every kernel already", "Techniques(bound=False)")
    if max_block_ops is not None and max_block_ops < 1:
        raise BadOption(f"{max_block_ops} compute nodes", "max_block_ops", "give 1 or more")
    how = _How(cost, seed, keep, lowerable, progress, techniques, max_block_ops)
    parts, wanted = segments(graph), points or ({},)
    if len(parts) == 1:
        each = _search_one(graph, budget, how, wanted)
        return _all_points(each, [f.stats for f in each], budget) if points else each[0]
    forms = {str(p.form.graph): p.form.graph for p in parts}
    found: list[dict[str, Found]] = [{} for _ in wanted]
    for n, (key, form) in enumerate(forms.items()):
        share = budget.part(len(forms) - n)
        each = _search_one(form, share, how, wanted)
        budget.used += share.used
        for there, of_form in zip(found, each, strict=True):
            if not of_form.candidates:
                return of_form
            there[key] = of_form
    each = [Found(tuple(_together(graph, parts, there)), {}) for there in found]
    out = _all_points(each, [f.stats for there in found for f in there.values()], budget)
    out.stats.update(segments=len(parts), distinct_segments=len(forms))
    return out if points else replace(out, at=())


def _all_points(each: Sequence[Found], stats: Sequence[dict[str, Any]], budget: Budget) -> Found:
    """What was found at any point, once each, and where."""
    candidates, at = once_each([f.candidates for f in each], lambda c: str(c.mugraph))
    total = {**joined_stats(stats), "seconds": time.perf_counter() - budget.started}
    return Found(candidates, total, "" if candidates else each[0].why_none, at)


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


@dataclass(frozen=True)
class _How:
    """What the search over every segment is given: see ``search``."""

    cost: KernelSeconds
    seed: int
    keep: int
    lowerable: Callable[[MuGraph], str | None]
    progress: Progress | None
    techniques: Techniques
    max_block_ops: int | None

    def cutter(self, graph: Graph, late: Callable[[], bool], memo: Memo) -> Cutter:
        """What cuts one term graph into kernels."""
        return Cutter(graph, self.cost, late, memo, max_block_ops=self.max_block_ops)


def _explored(graph: Graph, budget: Budget, how: _How) -> list[tuple[Region, Space]]:
    """The regions of a program with their spaces, explored at the same time."""
    parts, use = regions(graph), how.techniques
    stopped = threading.Event()

    def one(region: Region) -> Space:
        return explore(
            graph,
            region,
            seed=how.seed,
            seconds=budget.region(),
            candidates=budget.values,
            stop=stopped.is_set,
            prune=use.prune,
            share=use.share,
        )

    workers = min(use.workers, len(parts))
    if workers < 2:
        return [(r, one(r)) for r in parts]
    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(zip(parts, pool.map(one, parts), strict=True))
        except BaseException:
            stopped.set()  # an interrupt reaches this thread alone
            raise


def _search_one(graph: Graph, budget: Budget, how: _How, points: Sequence[Point]) -> list[Found]:
    """The search over a program that is one segment, at each point."""
    clock = [time.perf_counter()]
    explored = _explored(graph, budget, how)
    own = {s.name: s for s in symbols(graph)}
    known, out = dict[str, Found](), list[Found]()
    for n, point in enumerate(points):
        here = {k: Sym(k, size, size) for k, size in sorted(point.items()) if k in own}
        if str(here) in known:  # a segment need not have all symbols
            out.append(replace(known[str(here)], stats=joined_stats([])))
            continue
        share = budget.part(len(points) - n) if len(points) > 1 else budget
        new = [] if out else explored  # what was explored counts once
        if here:
            there = [(region, space_at(space, Resized(here))) for region, space in explored]
            fit = replace(how, lowerable=partial(over_symbols, how.lowerable, own))
            found = _extract(with_symbols(graph, here), there, share, fit, new, clock)
            over = [placed_with_symbols(c.mugraph, own) for c in found.candidates]
            pairs = zip(found.candidates, over, strict=True)
            found = replace(found, candidates=tuple(replace(c, mugraph=m) for c, m in pairs))
        else:
            found = _extract(graph, explored, share, how, new, clock)
        budget.used += share.used if share is not budget else 0
        out.append(known.setdefault(str(here), found))
        clock = [time.perf_counter()]
    return out


def _extract(
    graph: Graph,
    explored: list[tuple[Region, Space]],
    budget: Budget,
    how: _How,
    new: Sequence[tuple[Region, Space]],
    clock: list[float],
) -> Found:
    """Extracts, cuts and places at the sizes that the graph has.

    new: what the figures say was explored; clock: when that began.
    """
    clock.append(time.perf_counter())
    extractor = Extractor(graph, explored)
    scored: dict[tuple[int, ...], list[Plan]] = {}
    memo: Memo = {}
    costed = 0

    def score(choices: tuple[Choice, ...]) -> float:
        nonlocal costed
        variant = extractor.build(choices)
        key = tuple(o.node for o in variant.outputs)
        if key not in scored:
            budget.used += 1
            cutter = how.cutter(variant, budget.late, memo)
            scored[key] = [Plan(c.seconds, cutter, c) for c in cutter.cuts()]
            costed += cutter.evaluated
            if how.progress:
                how.progress(
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
    written = how.cutter(extractor.as_written(), budget.late, memo)
    as_written = [Plan(c.seconds, written, c, True) for c in written.cuts()]
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
    clock.append(time.perf_counter())
    found, reasons = _placed(chosen, how.keep, how.lowerable)
    clock.append(time.perf_counter())
    stats = stats_of(new, extractor.dropped, len(scored), costed)
    stats["seconds"] = time.perf_counter() - budget.started
    stats["not_lowerable"] = reasons
    for k, phase in enumerate(("algebra_s", "cut_s", "placement_s")):
        stats[phase] = clock[k + 1] - clock[k]
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
                ranked.setdefault(
                    str(mugraph), (n + 2 * k, n, Candidate(mugraph, seconds, plan.written))
                )
            else:
                reasons[why] = reasons.get(why, 0) + 1
    order = sorted(ranked.values(), key=lambda r: r[:2])
    return [c for _, _, c in order], reasons
