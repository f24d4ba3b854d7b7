"""The search over one program: explore its regions, extract graphs, cut and place them, rank."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from superopt.errors import BadOption
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import Kernel, MuGraph
from superopt.mugraph.resize import placed_with_symbols, symbols
from superopt.search.checkpoint import Checkpoint
from superopt.search.cut import KernelSeconds
from superopt.search.descend import Plan, gap_of
from superopt.search.figures import joined_stats, stats_of
from superopt.search.points import Point, at_points, once_each
from superopt.search.rounds import One, Progress, Rounds
from superopt.search.segments import Segment, joined, segments
from superopt.search.tasks import Given, Lowerable, Placed
from superopt.search.techniques import ALL, Techniques
from superopt.search.workers import Serial

REJECTED = 8
"""Plans that are reported as predicted slower."""

Rejection = dict[str, Any]


def rejection(
    rule: str, seconds: float, plan: MuGraph | int, detail: str = "", **more: float
) -> Rejection:
    """An alternative that lost, as plain JSON: by which rule, predicted seconds, and why.

    plan: the placed graph, or the number of kernels of one that was not placed.
    """
    kernels, how = plan, ""
    if isinstance(plan, MuGraph):
        kernels, how = len(plan.kernels), "; ".join(_level(k) for k in plan.kernels)[:MOST_TEXT]
    row = {"rule": rule, "predicted_s": seconds, "kernels": kernels, "plan": how, "detail": detail}
    return {**row, **more}


MOST_TEXT = 200
"""Characters of a plan in a report."""


def _level(kernel: Kernel) -> str:
    """How one kernel is split, in a few words."""
    place = kernel.placement
    levels = (("grid", place.grid), ("loop", place.loop))
    words = [f"{n} " + " ".join(f"{s.axis.name}:{s.tile}" for s in ss) for n, ss in levels if ss]
    return " ".join(words) or "one task"


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
    (every region's algebraic space was exhausted), open (why others were not), removed (per rule),
    graphs, kernels_costed, seconds, algebra_s, cut_s, placement_s, spaces (``figures.spaces_of``);
    cut_seconds and cut_bound (of the best cut at coarse placements, and what no cut of its graph
    takes less than) and gap, the part of the former by which it may miss the optimum.
    ``rejected``: the best alternatives that are no candidates, see ``rejection``. at: for each point
    that was asked for, the positions of the candidates found there, in order.
    """

    candidates: tuple[Candidate, ...]
    stats: dict[str, Any]
    why_none: str = ""
    rejected: tuple[Rejection, ...] = ()
    at: tuple[tuple[int, ...], ...] = ()


@dataclass
class Budget:
    """A limit in seconds of wall clock, or in candidates (term graphs costed); either may be None.

    region_seconds: of the exploration of one region, None for a share of the seconds; values: terms
    tried in one region; operators: of a term, see ``oracle.Limits``.
    """

    seconds: float | None = None
    candidates: int | None = None
    region_seconds: float | None = None
    values: int | None = None
    operators: int | None = None
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

    def region(self) -> tuple[float | None, int | None]:
        """Seconds, and terms tried, of the exploration of one region.

        Without any seconds only terms count, so that a budget in candidates knows no clock.
        """
        seconds, values = self.region_seconds, self.values
        if seconds is None and self.seconds is not None:
            seconds = min(max(self.seconds / 16, 0.05), 10.0)
        if seconds is None and values is None:
            few = STATES if self.candidates is None else max(LEAST, EACH * self.candidates)
            values = min(STATES, few)
        return seconds, values


STATES = 4_000_000
"""Terms tried in one region, where the budget has no seconds: the same ones on any machine."""

LEAST, EACH = 300_000, 2_000
"""So many at least, and for each candidate of a budget: a small budget is not for a long search."""


def search(
    graph: Graph,
    cost: KernelSeconds,
    budget: Budget,
    *,
    seed: int = 0,
    keep: int = 4,
    lowerable: Lowerable = lambda *_: None,
    progress: Progress | None = None,
    workers: Serial | None = None,
    checkpoint: Checkpoint | None = None,
    memory: int | None = None,
    techniques: Techniques = ALL,
    max_block_ops: int | None = None,
    points: Sequence[Point] = (),
) -> Found:
    """Searches for placed graphs that compute ``graph``.

    cost: (graph, body, stored, outputs) -> the cost of placements; lowerable: the reason why a
    placed graph cannot be lowered, or None; workers: who does the work (this process), which the
    result does not depend on; checkpoint: finished work of an earlier run, and where this one keeps
    its own; memory: bytes that the search may hold; techniques: what the search may use;
    max_block_ops: the most compute nodes in one kernel; points: sizes of the symbols at which it is
    searched, the algebra once for all (without any, at the middle of their ranges). At least the
    source's own derivation is always costed, whatever the budget. A large program is searched in
    segments, those of one form once. Raises MemoryTooSmall, and BadOption for a technique that
    cannot be left out, or a bound below one.
    """
    if max_block_ops is not None and max_block_ops < 1:
        raise BadOption(f"{max_block_ops} compute nodes", "max_block_ops", "give 1 or more")
    parts = segments(graph)
    forms = [graph]
    if len(parts) > 1:
        forms = list({str(p.form.graph): p.form.graph for p in parts}.values())
    counts = Counter(str(p.form.graph) for p in parts)
    programs, like = at_points(forms, points)
    rounds = Rounds(
        programs,
        [1] * len(programs) if len(parts) == 1 else [counts[str(forms[n])] for n in like],
        Given(cost, lowerable, seed, keep, techniques, max_block_ops),
        budget,
        workers or Serial(),
        checkpoint or Checkpoint(None, {}),
        memory,
        progress,
        like,
    )
    ones = [_found(one, budget, cost.limits()) for one in rounds.run()]
    wide = len(forms)
    each = [ones[n : n + wide] for n in range(0, len(ones), wide)]  # of each point
    if points:
        each = [[_over(f, form) for f, form in zip(fs, forms, strict=True)] for fs in each]
    if none := next((f for f in ones if not f.candidates), None):
        return none
    found = [_whole(graph, parts, fs) for fs in each]
    for f in found:
        f.stats.update(rounds.phases())
        f.stats["seconds"] = time.perf_counter() - budget.started
    return _all_points(found) if points else found[0]


def _over(found: Found, program: Graph) -> Found:
    """What was found at one point, over the program's own symbols."""
    own = {s.name: s for s in symbols(program)}
    moved = [placed_with_symbols(c.mugraph, own) for c in found.candidates]
    pairs = zip(found.candidates, moved, strict=True)
    return replace(found, candidates=tuple(replace(c, mugraph=m) for c, m in pairs))


def _whole(graph: Graph, parts: Sequence[Segment], ones: Sequence[Found]) -> Found:
    """What was found for a program, from what was found for each form of its segments."""
    if len(parts) == 1:
        return ones[0]
    forms = list(dict.fromkeys(str(p.form.graph) for p in parts))
    found = dict(zip(forms, ones, strict=True))
    stats = joined_stats([f.stats for f in ones])
    stats.update(segments=len(parts), distinct_segments=len(forms))
    each = [found[str(p.form.graph)].stats for p in parts]
    for key in ("cut_seconds", "cut_bound", "gap"):
        stats.pop(key, None)
    if all("gap" in s for s in each):
        stats.update(gap_of(*(sum(s[k] for s in each) for k in ("cut_seconds", "cut_bound"))))
    rejected = [r for f in ones for r in f.rejected]
    return Found(tuple(_together(graph, parts, found)), stats, "", tuple(rejected))


def _all_points(each: Sequence[Found]) -> Found:
    """What was found at any point, once each, and where."""
    candidates, at = once_each([f.candidates for f in each], lambda c: str(c.mugraph))
    own = ("segments", "distinct_segments", "algebra_s", "cut_s", "placement_s", "seconds")
    gaps = ("cut_seconds", "cut_bound", "gap")
    stats = joined_stats(
        [{k: v for k, v in f.stats.items() if k not in (*own, *gaps)} for f in each]
    )
    stats.update({k: each[0].stats[k] for k in own if k in each[0].stats})
    rejected = [r for f in each for r in f.rejected]
    return Found(candidates, stats, "", tuple(rejected), at)


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


def _found(one: One, budget: Budget, limits: str) -> Found:
    """What was found for one program; limits: what no placement goes beyond."""
    found, reasons, rejected = _ranked(one.placed)
    rejected += [
        rejection("predicted slower", p.seconds, len(p.cut.groups)) for p in one.next[:REJECTED]
    ]
    stats = stats_of(
        one.explored, one.descent.extractor.dropped, one.descent.graphs, len(one.descent.costed)
    )
    stats["seconds"] = time.perf_counter() - budget.started
    whys = [str(s.stats.get("why", "")) for _, s in one.explored]
    stats.update(one.descent.figures())
    stats["open"] = dict(Counter(w for w in (*whys, one.descent.why) if w))
    stats["not_lowerable"] = reasons
    why_none = ""
    if not found and reasons:
        last = next(reversed(reasons))
        why_none = f"no placement could be lowered; the last of {sum(reasons.values())}: {last}"
    elif not found:
        why_none = f"no cut has kernels that stay within the limits: {limits}"
    return Found(tuple(found), stats, why_none, tuple(rejected))


def _order(placed: list[tuple[Plan, Placed]]) -> list[int]:
    """Plans by their seconds now that all tiles were tried; the author's stay as far in front."""
    order = sorted(range(len(placed)), key=lambda at: placed[at][1][0][0] if placed[at][1] else 0.0)
    for at, (plan, _) in enumerate(placed):
        if plan.written and order.index(at) > at:
            order.remove(at)
            order.insert(at, at)
    return order


def _ranked(
    placed: list[tuple[Plan, Placed]],
) -> tuple[list[Candidate], dict[str, int], list[Rejection]]:
    """Candidates of several plans, interleaved: the best of each plan before second placements.

    The model is least sure between plans that differ in structure, so measurement should see them;
    placements of one plan that differ in a tile size come later. Beside them: how often each reason
    forbade a lowering, and the best one that each forbade.
    """
    ranked: dict[str, tuple[int, int, Candidate]] = {}
    reasons: dict[str, int] = {}
    rejected: dict[str, Rejection] = {}
    for n, at in enumerate(_order(placed)):
        plan, placements = placed[at]
        for k, (seconds, mugraph, why, digest) in enumerate(placements):
            if why is None:
                ranked.setdefault(digest, (n + 2 * k, n, Candidate(mugraph, seconds, plan.written)))
            else:
                reasons[why] = reasons.get(why, 0) + 1
                rejected.setdefault(why, rejection("not lowerable", seconds, mugraph, why))
    order = sorted(ranked.values(), key=lambda r: r[:2])
    return [c for _, _, c in order], reasons, list(rejected.values())
