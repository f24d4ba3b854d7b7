"""Probabilistic equality of two graphs: evaluation at random points of finite fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import CHAINS, Chain, dyadic
from superopt.mugraph.axes import Sym
from superopt.mugraph.graph import Const, Graph
from superopt.verify.assumed import assumed, marks_of
from superopt.verify.bound import EXP, LOG, MOST_PATTERNS, ROOT, SELECT, Bound, Counter, bound
from superopt.verify.equivalence import ASSUMPTIONS, Equivalence
from superopt.verify.evaluators import Evaluator, evaluator
from superopt.verify.infinite import scales_infinity
from superopt.verify.orders import rarest_order
from superopt.verify.partial import chosen, never_defined, partial
from superopt.verify.patterns import apart
from superopt.verify.probe import unfolded
from superopt.verify.roots import independent_roots
from superopt.verify.sizes import Sizing, assignments, own_sizes
from superopt.verify.solved import at_ties, equalities
from superopt.verify.ties import alone, comparisons
from superopt.verify.trials import (
    Tally,
    added,
    compare,
    interface,
    output_level,
    planned,
    refused,
    work_of,
)
from superopt.verify.triangular import exponents

__all__ = ["ASSUMPTIONS", "Equivalence", "check_equal"]

SAMPLED_TRIALS = 128
"""Clean trials per cell when no bound can be claimed."""

MAX_TRIALS = 1 << 18
"""Trials (of one assignment) after which a check gives up waiting for clean cells."""

MAX_WORK = 1 << 31
"""Elements of all values in all trials of one assignment, about six seconds: few trials of large ones."""


class _NeverDefined(Exception):
    """Some cell was defined in no trial: over other primes its literals may have roots."""

    def __init__(self, result: Equivalence) -> None:
        super().__init__(result.reason)
        self.result = result


def check_equal(
    a: Graph,
    b: Graph,
    *,
    seed: int,
    want_log2: int = 64,
    max_cells: int = 1 << 24,
    chains: Sequence[Chain] = CHAINS,
    using: str | None = None,
    trials: int | None = None,
    at_own_sizes: bool = False,
    nan_counts: bool = False,
    most_patterns: float = MOST_PATTERNS,
    ties: bool = True,
) -> Equivalence:
    """Whether two graphs compute the same outputs, by random evaluation (design section 6.1).

    Inputs are matched by name and outputs by position; both must agree in dims and dtype.
    want_log2: the bound asked for, as -log2; max_cells: elements of the largest value; chains:
    fields, of which the first that leaves clean cells is used; using: "python", "core", or None
    for the fastest there is; trials: overrides the number of uniform trials per assignment (for
    tests of the test); at_own_sizes: compares at the sizes that the axes have, and claims no more;
    nan_counts: whether NaN by infinities (of masks) in one program alone is a difference;
    most_patterns: of winners, up to which enough trials are run to meet each; ties: whether programs
    may differ where compared values are equal alone, which continuous ones cannot.
    """
    run = evaluator(using)
    reason = interface(a, b)
    if reason:
        return refused(chains[0], seed, run.name, reason)
    names = [[n.name for n in g.inputs] for g in (a, b)]
    if names[0] != names[1]:
        reason = f"the inputs are {names[0]} against {names[1]}"
        return refused(chains[0], seed, run.name, reason)
    try:
        sizings = (own_sizes(a, b),) if at_own_sizes else assignments(a, b, max_cells)
    except VerificationFailed as error:
        return refused(chains[0], seed, run.name, str(error))
    ask = _Asked(a, b, seed, want_log2, sizings, run, trials, nan_counts, most_patterns, ties)
    return _any_chain(ask, chains)


@dataclass(frozen=True)
class _Asked:
    """What is asked of a check; see ``check_equal``."""

    a: Graph
    b: Graph
    seed: int
    want_log2: int
    sizings: tuple[Sizing, ...]
    run: Evaluator
    trials: int | None
    nan_counts: bool
    most_patterns: float
    ties: bool


def _any_chain(ask: _Asked, chains: Sequence[Chain]) -> Equivalence:
    """The check over the first chain that leaves clean cells."""
    result = refused(chains[0], ask.seed, ask.run.name, "no field to check over")
    for chain in chains:
        if meet := _literals_meet(ask.a, ask.b, chain):
            result = refused(chain, ask.seed, ask.run.name, meet)
            continue
        try:
            return _check(ask, chain)
        except VerificationFailed as error:
            return refused(chain, ask.seed, ask.run.name, str(error))
        except _NeverDefined as never:
            result = never.result
    return result


def _literals_meet(a: Graph, b: Graph, chain: Chain) -> str:
    """Which literals are one residue of the chain, so that it cannot tell them apart."""
    found = {0.0, 1.0, -1.0}
    for node in (*a.nodes, *b.nodes):
        if isinstance(node, Const) and math.isfinite(node.value):
            found.add(float(node.value))
    for p in chain.primes:
        seen: dict[int, float] = {}
        for x in sorted(found):
            other = seen.setdefault(dyadic(x, p), x)
            if other != x:
                return f"the literals {other!r} and {x!r} are one element of the field"
    return ""


def _unknown_positions(sizings: Sequence[Sizing]) -> list[str]:
    """The axes of unknown size whose positions are seen as numbers: larger ones may differ."""
    seen: set[str] = set()
    for s in sizings:
        named = {*s.whole, *s.shrunk}
        seen |= {x.name for x in s.sizes if isinstance(x.size, Sym) and x.name in named}
    return sorted(seen)


def _check(ask: _Asked, chain: Chain) -> Equivalence:
    a, b, seed, sizings, run, trials = ask.a, ask.b, ask.seed, ask.sizings, ask.run, ask.trials
    levels = [output_level(a, b, i, chain) for i in range(len(a.outputs))]
    plans = tuple(planned(g, levels, chain) for g in (a, b))
    named = assumed(a, b, plans, sizings)
    sizes = tuple(tuple(sorted({(x.name, n) for x, n in s.sizes.items()})) for s in sizings)
    result = replace(refused(chain, seed, run.name, ""), sizes=sizes, assumptions=named)
    work = [work_of(a, s) + work_of(b, s) for s in sizings]
    most = min(MAX_TRIALS, max(64, MAX_WORK // max(work)))
    if max(work) > MAX_WORK:
        return replace(result, reason=f"one trial would compute {max(work):.3g} elements")
    if trials is None:  # most wrong programs differ at once, and need no bound
        early = Tally([np.zeros((), dtype=np.int64)] * len(levels), ask.nan_counts)
        numbers = range(max(1, min(4, MAX_WORK // work[0])))
        compare(a, b, plans, levels, chain, seed, numbers, False, sizings[0], run, early)
        if early.differs:
            result = replace(result, trials=len(numbers), work=len(numbers) * work[0])
            return added(result, early, early.differs)
    for graph, plan in zip((a, b), plans, strict=True):
        if any(chosen(graph, graph.nodes[i].args) for i in partial(graph) if plan.want[i]):
            return replace(result, reason="a root or logarithm of a value that is chosen by cases")
        if any(never_defined(graph, plan, chain, seed, s, run) for s in sizings):
            reason = "a root or logarithm that is defined in no trial"
            raise _NeverDefined(replace(result, reason=reason))
    parts = [_bound(a, b, s, chain, seed, ask.most_patterns) for s in sizings]
    worst = max(parts, key=lambda p: (p.cases, p.miss is None, p.miss or 0.0))
    strict, not_met = ask.ties and alone(a, b), ""
    if ask.ties and any(True for g in (a, b) for _ in comparisons(unfolded(g))):
        met = Tally([np.zeros((), dtype=np.int64)] * len(levels), ask.nan_counts)
        missing = at_ties(a, b, levels, chain, seed, sizings[0], met)
        if met.differs:
            return added(result, met, met.differs)
        if strict and missing:
            return replace(result, reason=missing[0])
        if missing:
            not_met = missing[0]
        elif max(equalities(g) for g in (a, b)) > 1:
            not_met = "several equalities of floats at once were not met"
    if axes := _unknown_positions(sizings):
        names = ", ".join(axes)
        not_met = f"positions along {names}, of unknown size, were compared at one size alone"
    if counted := sorted({name for s in sizings for name in s.counted}):
        not_met = f"counts along {', '.join(counted)} were met up to a smaller size alone"
    if not_met and not worst.cases:
        worst = replace(worst, miss=None, cases=True, reason=not_met)
    few = min(SAMPLED_TRIALS, max(8, most // 64))
    if worst.cases:  # which are not all met however long it takes
        most = max(64, most // 8)
        few = min(few, max(8, most // 512))
    if worst.miss is not None:
        wanted = math.ceil(ask.want_log2 / -math.log2(max(worst.miss, 2.0**-ask.want_log2)))
        if wanted > most:
            worst = replace(worst, miss=None, reason=f"{wanted} trials are too many at these sizes")
    # Large values leave time for fewer trials; their number is part of the result.
    kind, wanted = ("sampled", few) if worst.miss is None else ("bound", wanted)
    if trials is not None:
        wanted = trials
    elif strict:
        wanted = max(wanted, few)
    selects = strict or any(m.kind == SELECT for p in (a, b) for m in marks_of(p, sizings[0]))
    result = replace(result, kind=kind, reason=worst.reason, cases=worst.cases)
    for turn, sizing in enumerate(sizings):
        tally = Tally([np.zeros((), dtype=np.int64)] * len(levels), ask.nan_counts)
        tied = Tally([np.zeros((), dtype=np.int64)] * len(levels), ask.nan_counts)
        done = 0
        step = max(1, min(wanted, (1 << 21) // sizing.cells, 512))
        while True:
            numbers = range((turn << 40) + done, (turn << 40) + done + step)
            compare(a, b, plans, levels, chain, seed, numbers, False, sizing, run, tally)
            if selects and not tally.differs:
                compare(a, b, plans, levels, chain, seed, numbers, True, sizing, run, tied)
            done += step
            result = replace(
                result,
                trials=result.trials + step,
                tied_trials=result.tied_trials + (step if selects else 0),
                work=result.work + (2 if selects else 1) * step * work[turn],
            )
            if tally.differs or tied.differs:
                return added(result, tally, reason=tally.differs or tied.differs)
            if min(int(c.min(initial=wanted)) for c in tally.clean) >= wanted:
                break
            fewest = min(int(c.min(initial=wanted)) for c in tally.clean)
            # Another as many trials as are left would not be enough.
            hopeless = done >= max(32, most // 16) and fewest * most < done * wanted // 2
            if done >= most or hopeless or (done >= 512 and not tally.compared):
                reason = (
                    f"too few clean cells: {'some' if tally.compared else 'every'} output had a "
                    f"cell that was undefined in nearly all of {done} trials"
                )
                given_up = added(result, tally, reason)
                if not fewest:
                    raise _NeverDefined(given_up)
                return given_up
            step = max(1, min(done, (1 << 21) // sizing.cells, 2048, most - done))
        result = added(result, tally)
    log2 = None if worst.miss is None else -math.log2(max(worst.miss, 1e-300)) * wanted
    return replace(result, verdict="equal", bound_log2=log2)


def _bound(
    a: Graph, b: Graph, sizing: Sizing, chain: Chain, seed: int, most_patterns: float
) -> Bound:
    counter = Counter(sizing.sizes, sizing.ranges)
    mine, other = counter.count(a), counter.count(b)
    pairs = [(mine[p.node], other[q.node]) for p, q in zip(a.outputs, b.outputs, strict=True)]
    peak = max((sum(d) for d, _ in (*mine, *other)), default=1.0)
    kinds = {m.kind for pair in pairs for _, marks in pair for m in marks.values()}
    # A logarithm leaves no bound to look for.
    form = exponents(a, b, sizing, chain, seed) if EXP in kinds and LOG not in kinds else None
    free = ROOT not in kinds or (LOG not in kinds and independent_roots(a, b, sizing, chain, seed))
    alone = apart(a, b, sizing, chain, seed)
    scaled = any(scales_infinity(g) for g in (a, b))
    orders = rarest_order(a, b, sizing) if SELECT in kinds else 1.0
    q = min(chain.primes)
    return bound(pairs, q, peak, form, free, alone, scaled, orders, most_patterns)
