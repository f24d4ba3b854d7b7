"""Probabilistic equality of two graphs: evaluation at random points of finite fields."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import CHAINS, Chain, trial_keys
from superopt.mugraph.algebras.field_values import Draw
from superopt.mugraph.algebras.levels import Levels, analyse, information, lowest
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Graph, Input, Map
from superopt.mugraph.scalars import uses
from superopt.verify.bound import EXP, LOG, ROOT, SELECT, Bound, Counter, bound
from superopt.verify.equivalence import ASSUMPTIONS, Equivalence
from superopt.verify.evaluators import Cells, Evaluator, evaluator
from superopt.verify.partial import chosen, never_defined, partial
from superopt.verify.patterns import apart
from superopt.verify.roots import independent_roots
from superopt.verify.sizes import Sizing, assignments, cells_of
from superopt.verify.ties import POOLS, compares_alone, literals, never_tied
from superopt.verify.triangular import exponents

__all__ = ["ASSUMPTIONS", "Equivalence", "check_equal"]

SAMPLED_TRIALS = 128
"""Clean trials per cell when no bound can be claimed."""

MAX_TRIALS = 1 << 15
"""Trials (of one assignment) after which a check gives up waiting for clean cells."""

MAX_WORK = 1 << 31
"""Elements of all values in all trials of one assignment, about six seconds: few trials of large ones."""

LOG_WORK = 256
"""Elements that take as long as one discrete logarithm."""


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
) -> Equivalence:
    """Whether two graphs compute the same outputs, by random evaluation (design section 6.1).

    Inputs are matched by name and outputs by position; both must agree in dims and dtype.
    want_log2: the bound asked for, as -log2; max_cells: elements of the largest value; chains:
    fields, of which the first that leaves clean cells is used; using: "python", "core", or None
    for the fastest there is; trials: overrides the number of uniform trials per assignment (for
    tests of the test).
    """
    run = evaluator(using)
    reason = _interface(a, b)
    if reason:
        return _refused(chains[0], seed, run.name, reason)
    names = [[n.name for n in g.inputs] for g in (a, b)]
    if names[0] != names[1]:
        reason = f"the inputs are {names[0]} against {names[1]}"
        return _refused(chains[0], seed, run.name, reason)
    return _any_chain(a, b, seed, want_log2, max_cells, chains, run, trials)


def _any_chain(
    a: Graph,
    b: Graph,
    seed: int,
    want_log2: int,
    max_cells: int,
    chains: Sequence[Chain],
    run: Evaluator,
    trials: int | None,
) -> Equivalence:
    """The check over the first chain that leaves clean cells."""
    result = _refused(chains[0], seed, run.name, "no field to check over")
    for chain in chains:
        try:
            return _check(a, b, seed, want_log2, max_cells, chain, run, trials)
        except VerificationFailed as error:
            return _refused(chain, seed, run.name, str(error))
        except _NeverDefined as never:
            result = never.result
    return result


def _refused(chain: Chain, seed: int, name: str, reason: str) -> Equivalence:
    """The result of a check that has not begun."""
    return Equivalence(
        "not_shown_equal",
        None,
        "sampled",
        field=(chain.name, chain.primes),
        seeds=(seed,),
        reason=reason,
        evaluator=name,
    )


def _interface(a: Graph, b: Graph) -> str:
    """Why the two graphs cannot stand for one another at all, or the empty string."""
    mine: Mapping[str, Input] = {n.name: n for n in a.inputs}
    for node in b.inputs:
        other = mine.get(node.name)
        if other is None:
            return f"input {node.name!r} is in one program only"
        if other.dtype != node.dtype or _shape(other.dims) != _shape(node.dims):
            return f"input {node.name!r} has another dtype or shape"
    if len(a.outputs) != len(b.outputs):
        return f"{len(a.outputs)} outputs against {len(b.outputs)}"
    for p, q in zip(a.outputs, b.outputs, strict=True):
        if _shape(p.dims) != _shape(q.dims) or a.nodes[p.node].dtype != b.nodes[q.node].dtype:
            return f"output {p.name!r} has another dtype or shape"
    return ""


def _shape(dims: Sequence[Sequence[Axis]]) -> tuple[tuple[object, ...], ...]:
    return tuple(tuple(x.size for x in dim) for dim in dims)


@dataclass
class _Tally:
    """Clean comparisons per output cell over the trials so far, and the first difference."""

    clean: list[np.ndarray]
    compared: int = 0
    total: int = 0
    differs: str = ""


def _check(
    a: Graph,
    b: Graph,
    seed: int,
    want_log2: int,
    max_cells: int,
    chain: Chain,
    run: Evaluator,
    trials: int | None,
) -> Equivalence:
    levels = [_output_level(a, b, i, chain) for i in range(len(a.outputs))]
    plans = tuple(_plan(g, levels, chain) for g in (a, b))
    sizings = assignments(a, b, max_cells)
    named = _assumptions(a, b, plans, sizings)
    sizes = tuple(tuple(sorted({(x.name, n) for x, n in s.sizes.items()})) for s in sizings)
    result = replace(_refused(chain, seed, run.name, ""), sizes=sizes, assumptions=named)
    work = [_work(a, s) + _work(b, s) for s in sizings]
    most = min(MAX_TRIALS, max(64, MAX_WORK // max(work)))
    if trials is None:  # most wrong programs differ at once, and need no bound
        early = _Tally([np.zeros((), dtype=np.int64)] * len(levels))
        numbers = range(4)
        _compare(a, b, plans, levels, chain, seed, numbers, False, sizings[0], run, early)
        if early.differs:
            result = replace(result, trials=len(numbers), work=len(numbers) * work[0])
            return _add(result, early, early.differs)
    for graph, plan in zip((a, b), plans, strict=True):
        if any(chosen(graph, graph.nodes[i].args) for i in partial(graph) if plan.want[i]):
            return replace(result, reason="a root or logarithm of a value that is chosen by cases")
        if any(never_defined(graph, plan, chain, seed, s, run) for s in sizings):
            reason = "a root or logarithm that is defined in no trial"
            raise _NeverDefined(replace(result, reason=reason))
    parts = [_bound(a, b, s, chain, seed) for s in sizings]
    worst = max(parts, key=lambda p: (p.miss is None, p.miss or 0.0))
    kind = "bound"
    if worst.miss is not None:
        wanted = math.ceil(want_log2 / -math.log2(max(worst.miss, 2.0**-want_log2)))
        if wanted > most:
            worst = replace(worst, miss=None, reason=f"{wanted} trials are too many at these sizes")
    if worst.miss is None:
        # Large values leave time for fewer trials; their number is part of the result.
        wanted, kind = min(SAMPLED_TRIALS, max(8, most // 64)), "sampled"
    wanted = trials if trials is not None else wanted
    strict = compares_alone(a, b)
    if strict:  # whether it is strict shows at ties alone, and no bound counts those
        missing = never_tied(a, b, chain, seed, sizings[0], run)
        if missing:
            return replace(result, reason=missing)
        if trials is None:
            wanted = max(wanted, min(SAMPLED_TRIALS, max(8, most // 64)))
    selects = strict or any(m.kind == SELECT for p in (a, b) for m in _marks(p, sizings[0]))
    result = replace(result, kind=kind, reason=worst.reason)
    for turn, sizing in enumerate(sizings):
        tally = _Tally([np.zeros((), dtype=np.int64)] * len(levels))
        tied = _Tally([np.zeros((), dtype=np.int64)] * len(levels))
        done = 0
        step = max(1, min(wanted, (1 << 21) // sizing.cells, 512))
        while True:
            numbers = range((turn << 40) + done, (turn << 40) + done + step)
            _compare(a, b, plans, levels, chain, seed, numbers, False, sizing, run, tally)
            if selects and not tally.differs:
                _compare(a, b, plans, levels, chain, seed, numbers, True, sizing, run, tied)
            done += step
            result = replace(
                result,
                trials=result.trials + step,
                tied_trials=result.tied_trials + (step if selects else 0),
                work=result.work + (2 if selects else 1) * step * work[turn],
            )
            if tally.differs or tied.differs:
                return _add(result, tally, reason=tally.differs or tied.differs)
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
                given_up = _add(result, tally, reason)
                if not fewest:
                    raise _NeverDefined(given_up)
                return given_up
            step = max(1, min(done, (1 << 21) // sizing.cells, 2048, most - done))
        result = _add(result, tally)
    log2 = None if worst.miss is None else -math.log2(max(worst.miss, 1e-300)) * wanted
    return replace(result, verdict="equal", bound_log2=log2)


def _work(graph: Graph, sizing: Sizing) -> int:
    """Elements of all values that one trial computes; a discrete logarithm counts as many."""
    total = 1
    for node in graph.nodes:
        cells = cells_of(node, sizing.sizes)
        total += cells * (LOG_WORK if isinstance(node, Map) and uses(node.op, "log") else 1)
    return total


def _add(result: Equivalence, tally: _Tally, reason: str = "") -> Equivalence:
    return replace(
        result,
        clean=result.clean + tally.compared,
        total=result.total + tally.total,
        reason=reason or result.reason,
    )


def _output_level(a: Graph, b: Graph, i: int, chain: Chain) -> int:
    """The level at which an output is compared, as a mask: the lowest that both programs have."""
    x, y = a.outputs[i].node, b.outputs[i].node
    if not is_float(a.nodes[x].dtype):
        return 1
    both = information(a, chain.full)[x].mask & information(b, chain.full)[y].mask
    if not both:
        raise VerificationFailed(
            what="the programs nest exponentials and logarithms differently",
            where=a.outputs[i].name,
            fix="cut the check at a value inside that both programs share",
        )
    return lowest(both)


def _plan(graph: Graph, levels: Sequence[int], chain: Chain) -> Levels:
    roots: dict[int, int] = {}
    for out, level in zip(graph.outputs, levels, strict=True):
        roots[out.node] = roots.get(out.node, 0) | level
    return analyse(graph, chain.full, roots)


def _compare(
    a: Graph,
    b: Graph,
    plans: tuple[Levels, ...],
    levels: Sequence[int],
    chain: Chain,
    seed: int,
    numbers: range,
    pooled: bool,
    sizing: Sizing,
    run: Evaluator,
    tally: _Tally,
) -> None:
    keys = trial_keys(seed ^ (POOLS if pooled else 0), numbers)
    draw = Draw(keys, np.full(len(keys), pooled), sizing.ranges, literals(a, b))
    mine = run.outputs(a, plans[0], levels, chain, draw, sizing.sizes)
    other = run.outputs(b, plans[1], levels, chain, draw, sizing.sizes)
    for i, (x, y) in enumerate(zip(mine, other, strict=True)):
        clean, bad = _cells(x, y)
        tally.clean[i] = tally.clean[i] + clean.sum(0)
        tally.compared += int(clean.sum())
        tally.total += clean.size
        if bad.any() and not tally.differs:
            trial, *cell = np.argwhere(bad)[0].tolist()
            tally.differs = (
                f"output {a.outputs[i].name!r} differs at {tuple(cell)} in trial "
                f"{numbers[trial]} ({int(bad.sum())} of {bad.size} cells differ)"
            )


def _cells(x: Cells, y: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Which cells are defined in both, and which of these differ."""
    clean = (x.status != 1) & (y.status != 1)
    return clean, clean & ((x.data != y.data) | (x.status != y.status))


def _marks(graph: Graph, sizing: Sizing) -> list:
    counted = Counter(sizing.sizes, sizing.ranges).count(graph)
    return [m for o in graph.outputs for m in counted[o.node][1].values()]


def _bound(a: Graph, b: Graph, sizing: Sizing, chain: Chain, seed: int) -> Bound:
    counter = Counter(sizing.sizes, sizing.ranges)
    mine, other = counter.count(a), counter.count(b)
    pairs = [(mine[p.node], other[q.node]) for p, q in zip(a.outputs, b.outputs, strict=True)]
    peak = max((sum(d) for d, _ in (*mine, *other)), default=1.0)
    kinds = {m.kind for pair in pairs for _, marks in pair for m in marks.values()}
    # A logarithm leaves no bound to look for.
    form = exponents(a, b, sizing, chain, seed) if EXP in kinds and LOG not in kinds else None
    free = ROOT not in kinds or (LOG not in kinds and independent_roots(a, b, sizing, chain, seed))
    return bound(pairs, min(chain.primes), peak, form, free, apart(a, b, sizing, chain, seed))


def _assumptions(
    a: Graph, b: Graph, plans: Sequence[Levels], sizings: Sequence[Sizing]
) -> tuple[str, ...]:
    marks = {m.kind for g in (a, b) for m in _marks(g, sizings[0])}
    names = {"generic-literals", "reduced-sizes", "finite-inputs"}
    names |= {name for p in plans for name in p.named}
    names |= {"where-defined"} if marks & {"root", "log"} or _divides(a) or _divides(b) else set()
    names |= {"ties"} if SELECT in marks else set()
    names |= {"exponential"} if "exp" in marks else set()
    for graph in (a, b):
        for node in graph.nodes:
            if (
                getattr(node, "op", "") == "cast"
                and is_float(node.dtype)
                and is_float(graph.nodes[node.args[0]].dtype)
            ):
                names.add("casts")
    if any(
        n < x.size
        for s in sizings
        for x, n in s.sizes.items()
        if x.name in s.shrunk and isinstance(x.size, int)
    ):
        names.add("shrunk-comparisons")
    return tuple(sorted(names))


def _divides(graph: Graph) -> bool:
    return any(
        getattr(n, "op", "") in ("div", "recip", "rsqrt", "sigmoid", "silu") for n in graph.nodes
    )
