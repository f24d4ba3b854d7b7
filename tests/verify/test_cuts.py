"""Checks in pieces: many roots and logarithms are decided, nothing wrong is accepted, work is bounded."""

import math
from collections import Counter

import pytest
import torch

from superopt.cost.model import cost_on
from superopt.errors import VerificationFailed
from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph
from superopt.mugraph.mutants import mutations
from superopt.pipeline import making
from superopt.runtime.isa import cpu_features
from superopt.search import driver
from superopt.verify import cuts, equal, probe
from superopt.verify.cuts import Checker
from superopt.verify.equal import check_equal
from superopt.verify.equivalence import not_rewritten
from tests.devices import known_device
from tests.verify.terms import K, P, T, V, float_values, program
from tests.verify.test_mutants import differ


def softplus(p: P, x: V) -> V:
    return p.map("where", x.lt(20.0), (x.min(20.0).exp() + 1.0).log(), x)


def normed(p: P, x: V, over: str = "square") -> V:
    power = x.square() if over == "square" else x * x
    return x * (power.sum(K) / p.size(K) + 1e-5).rsqrt()


def chain(p: P, over: str = "square") -> V:
    """Four layers, each of which normalizes what the one before it made."""
    x = p.x
    for _ in range(4):
        x = normed(p, x, over) * p.g + p.y
    return x


def logits(p: P, late: bool) -> V:
    """Scores against six normalized keys, the gain before or after the contraction."""
    keys = normed(p, p.m) if late else normed(p, p.m) * p.g
    query = p.x * p.g if late else p.x
    return (query * keys).sum(K)


PAIRS = {
    "chain of norms": (chain, lambda p: chain(p, "mul")),
    "softplus mixed": (
        lambda p: (softplus(p, p.x * p.g) * p.w).sum(K),
        lambda p: (p.w * softplus(p, p.g * p.x)).sum(K),
    ),
    "normalized keys": (lambda p: logits(p, True), lambda p: logits(p, False)),
    "softplus of a norm": (
        lambda p: (softplus(p, normed(p, p.x)) * p.y).sum(K),
        lambda p: (p.y * softplus(p, normed(p, p.x, "mul"))).sum(K),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_many_partial_functions_are_shown_equal(name: str) -> None:
    a, b = (program(make) for make in PAIRS[name])
    found = Checker(3)(a, b)
    assert found, found.reason
    # Whole, most cells would be undefined: in pieces, about every second is compared.
    assert found.clean >= 0.3 * found.total
    assert found.work < 20_000_000


@pytest.mark.parametrize("name", PAIRS)
def test_no_wrong_mutant_is_accepted_in_pieces(name: str) -> None:
    graph = program(PAIRS[name][0])
    check, tried, wrongly = Checker(5), Counter[str](), []
    mutants = list(mutations(graph))
    for kind, mutant in mutants[:: len(mutants) // 45]:
        accepted = bool(check(graph, mutant))
        tried["accepted" if accepted else "rejected"] += 1
        if accepted and (differ(graph, mutant) or _differ_positive(graph, mutant)):
            wrongly.append((kind, str(mutant)))
    assert not wrongly
    assert tried["rejected"] >= 30, tried
    assert tried["accepted"] > 0, tried


def _differ_positive(a: Graph, b: Graph) -> bool:
    mine, other = (float_values(g, 7, positive=True) for g in (a, b))
    return any(
        x.shape != y.shape or ((x - y).abs() > 1e-9 * (1 + y.abs())).any()
        for x, y in zip(mine, other, strict=True)
    )


@pytest.mark.parametrize("name", ["cut0", "cut 0"])
def test_fresh_inputs_are_no_inputs_of_the_user(name: str) -> None:
    """A user's input of the fresh one's name would be drawn like it, and look equal to it."""

    def make(wrong: bool) -> Graph:
        p = P()
        m, other = (p.input(n, T, K, dtype="f32") for n in ("m", name))
        root = m.sqrt()
        value = (root * (root if wrong else other)).sum(T)
        return p.b.build([("o", value.i, ((K,),))])

    assert Checker(0)(make(False), make(False))
    assert not Checker(0)(make(False), make(True))


def test_a_piece_that_needs_its_own_definition_is_not_lost_below() -> None:
    # The second root's argument holds the first root squared: equal with it, not with a fresh input.
    def nested(square: bool) -> Graph:
        def make(p: P) -> V:
            root = p.m.sqrt()
            inner = root.square() if square else p.m * 1.0
            return ((inner + 1.0).sqrt() * root).sum(T)

        return program(make)

    assert Checker(0)(nested(True), nested(False))


def test_pieces_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def counted(a: Graph, b: Graph, *, seed: int, **more: object) -> equal.Equivalence:
        seen.append(f"{a}{b}")
        return check_equal(a, b, seed=seed)

    monkeypatch.setattr(cuts, "check_equal", counted)
    check = Checker(0)
    a, b = (program(make) for make in PAIRS["chain of norms"])
    first = check(a, b)
    tried, work = len(seen), check.work
    assert check(a, b) == first
    assert tried == 1  # the four layers are of one form
    assert (len(seen), check.work) == (tried, work)
    assert len(set(seen)) == len(seen)


def test_probing_is_given_up_beyond_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def softmax(p: P, shifted: bool) -> V:
        e = (p.s - p.h if shifted else p.s).exp()
        return e / e.sum(T)

    a, b = (program(lambda p, s=s: softmax(p, s)) for s in (False, True))
    assert check_equal(a, b, seed=0).kind == "bound"
    monkeypatch.setattr(probe, "MOST_WORK", 100)
    found = check_equal(a, b, seed=0)
    assert (found.verdict, found.kind) == ("equal", "sampled")
    assert "too many to probe" in found.reason


def test_large_values_are_given_few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    def log_sum(p: P, shifted: bool) -> V:
        top = p.s.reduce("max", T)
        return (p.s - top).exp().sum(T).log() + top if shifted else p.s.exp().sum(T).log()

    a, b = (program(lambda p, s=s: log_sum(p, s)) for s in (False, True))
    whole = check_equal(a, b, seed=0)
    monkeypatch.setattr(equal, "MAX_WORK", 1 << 17)
    few = check_equal(a, b, seed=0)
    assert whole and few
    assert (whole.kind, few.kind) == ("sampled", "sampled")
    assert few.trials < whole.trials / 4
    assert few.work < whole.work / 4


def where(p: P, *args: V | float) -> V:
    return p.map("where", *args)


# Literals without a root or logarithm in the first field: such a branch is undefined in every trial.
NEVER = (1e-8, 1e-4, 1e-3, 10.0, 0.7, 1e-7, 5.0)
HIDDEN = {
    f"{row} of a clamp at {c:g}": (
        lambda p, row=row, c=c: p.map(row, p.x.max(c)),
        lambda p, row=row, c=c: p.map(row, p.x.max(d) if (d := other(c)) else p.x),
    )
    for row in ("log", "sqrt", "rsqrt", "log1p")
    for c in NEVER
}


def other(c: float) -> float:
    return NEVER[(NEVER.index(c) + 1) % len(NEVER)]


HIDDEN |= {
    "a clamp or none": (lambda p: p.x.max(1e-7).log(), lambda p: p.x.log()),
    "a clamped norm": (
        lambda p: p.x * p.x.square().sum(K).max(1e-8).rsqrt(),
        lambda p: p.x * p.x.square().sum(K).rsqrt(),
    ),
    "a clamped norm in a contraction": (
        lambda p: (p.x * p.x.square().sum(K).max(1e-8).rsqrt() * p.w).sum(K),
        lambda p: (p.x * p.x.square().sum(K).max(1e-4).rsqrt() * p.w).sum(K),
    ),
    "cross-entropy": (
        lambda p: (p.x * p.y.max(1e-7).log()).sum(K),
        lambda p: (p.x * p.y.max(1e-3).log()).sum(K),
    ),
    "a branch": (
        lambda p: where(p, p.x.lt(p.z), p.const(5.0), p.y).log(),
        lambda p: where(p, p.x.lt(p.z), 77.0, p.y.log()),
    ),
    "a branch of a power": (
        lambda p: where(p, p.x.lt(p.z), p.y.exp() * 5.0, p.y).log(),
        lambda p: where(p, p.x.lt(p.z), p.y * 77.0, p.y.log()),
    ),
    "beside an infinity": (
        lambda p: where(p, p.x.lt(p.z), p.const(math.inf), p.y.exp() * 5.0).log().neg().exp(),
        lambda p: where(p, p.x.lt(p.z), p.const(math.inf), p.y.exp() * 10.0).log().neg().exp(),
    ),
    "by position, taken by rank": (
        lambda p: where(p, p.iota(K).eq(0), p.y.exp() * 5.0, p.y).reduce("max", K).log(),
        lambda p: where(p, p.iota(K).eq(0), p.y.exp() * 10.0, p.y).reduce("max", K).log(),
    ),
    "above": (
        lambda p: where(p, p.x.lt(p.z), (p.y.exp() * 5.0).log(), p.y),
        lambda p: where(p, p.x.lt(p.z), p.y * 77.0, p.y),
    ),
    "above, of a literal": (
        lambda p: where(p, p.x.lt(p.z), p.const(5.0).log() * p.y, p.y),
        lambda p: where(p, p.x.lt(p.z), p.const(10.0).log() * p.y, p.y),
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_case_without_a_value_is_no_case_that_agrees(name: str) -> None:
    a, b = (program(make) for make in HIDDEN[name])
    assert any(_differ_at(a, b, scale) for scale in (1e-9, 1e-4, 1.0, 10.0))
    for check in (Checker(0), Checker(1), lambda x, y: check_equal(x, y, seed=2)):
        found = check(a, b)
        assert not found, found
    for same in (a, b):  # what is right is still shown, but where no field has a value at all
        found = Checker(0)(same, same)
        assert found or "defined in no trial" in found.reason, found.reason


def _differ_at(a: Graph, b: Graph, scale: float) -> bool:
    gen = torch.Generator().manual_seed(0)
    shapes = [[x.size for dim in n.dims for x in dim] for n in a.inputs]
    given = [torch.rand(s, generator=gen, dtype=torch.float64) * scale for s in shapes]
    x, y = (floats.run(g, given)[0] for g in (a, b))
    assert x.isfinite().all()
    assert y.isfinite().all()
    return bool(((x - y).abs() > 1e-6 * y.abs()).any())


def test_shared_clamps_are_shown() -> None:
    """Rewrites around a clamped root or logarithm are decided by its argument."""
    pairs = [
        (
            lambda p: p.x * p.x.square().sum(K).max(1e-8).rsqrt(),
            lambda p: (p.x * p.x).sum(K).max(1e-8).rsqrt() * p.x,
        ),
        (
            lambda p: (p.x * p.y.max(1e-7).log()).sum(K) * p.h,
            lambda p: (p.h * p.x * p.y.max(1e-7).log()).sum(K),
        ),
        (
            lambda p: (p.x.max(0.0).square().sum(K) + 1e-5).rsqrt() * p.h * p.h,
            lambda p: p.h.square() * ((p.x.max(0.0) * p.x.max(0.0)).sum(K) + 1e-5).rsqrt(),
        ),
    ]
    for mine, theirs in pairs:
        assert Checker(0)(program(mine), program(theirs))


INTEGERS = {
    "another token": (("eq", 101), ("eq", 102)),
    "a token or none": (("eq", 50256), None),
    "another bound": (("lt", 1000), ("lt", 1001)),
    "at or below": (("lt", 300), ("le", 300)),
    "ignored": (("eq", -100), ("eq", -101)),
}


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("using", ["core", "python"])
def test_integers_meet_the_literals_of_a_program(name: str, gathered: bool, using: str) -> None:
    def make(test: tuple[str, int] | None) -> Graph:
        p = P()
        ids = p.input("ids", K, dtype="i64")
        y, z = (p.input(n, K, dtype="f32") for n in "yz")
        words = Axis("words", 60000)
        table = p.input("table", words, dtype="f32")
        if gathered:
            y = V(p, p.b.gather(table.i, words, ids.i))
        cond = p.map(test[0], ids, p.const(test[1], "i64")) if test else None
        value = z * 1.0 if cond is None else where(p, cond, y, z)
        return p.b.build([("o", value.i, ((K,),))])

    first, second = (make(test) for test in INTEGERS[name])
    found = check_equal(first, second, seed=0, using=using)
    nowhere = gathered and name == "ignored"  # -100 is no index: there both are undefined
    assert bool(found) == nowhere, found
    assert check_equal(first, first, seed=0, using=using)


def _candidates(graph: Graph, count: int) -> list[driver.Candidate]:
    cost = cost_on(known_device(cpu_features(), 2))
    found = driver.search(graph, cost, driver.Budget(candidates=50))
    return [found.candidates[k % len(found.candidates)] for k in range(count)]


@pytest.mark.parametrize(
    ("equal_after", "work", "tried"),
    [(None, 0, making.HOPELESS), (None, 1 << 35, 1), (0, 1 << 33, 1)],
)
def test_proving_ends(
    equal_after: int | None, work: int, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hopeless programs are given up; one proved candidate is enough once much work was done."""
    graph = program(lambda p: (p.x * p.w).sum(K) * p.h)
    right = check_equal(graph, graph, seed=0)
    calls = 0

    class Counting:
        def __init__(self, seed: int) -> None:
            self.work = work

        def __call__(self, a: Graph, b: Graph) -> equal.Equivalence:
            nonlocal calls
            calls += 1
            return right if equal_after is not None else not_rewritten(0)

        rewritten = __call__

    monkeypatch.setattr(making, "Checker", Counting)
    candidates = _candidates(graph, 20)
    if equal_after is None:
        with pytest.raises(VerificationFailed, match="no candidate was shown equal"):
            making._prove_best(graph, candidates, making.Checker(0), making.Ledger())
    else:
        assert len(making._prove_best(graph, candidates, making.Checker(0), making.Ledger())) == 1
    assert calls == tried


def test_what_follows_from_the_definition_of_a_root_is_shown_whole() -> None:
    """1 / (y rsqrt y) is rsqrt y, which a fresh input in place of the root does not know."""
    a = program(lambda p: (1.0 / ((p.x * p.y) * (p.x * p.y).rsqrt())).sum(K))
    b = program(lambda p: (p.x * p.y).rsqrt().sum(K))
    other = program(lambda p: (p.x * p.y).sqrt().sum(K))
    assert Checker(0)(a, b)
    assert Checker(0)(b, a)
    assert not Checker(0)(a, other)


def test_towers_of_roots_are_shown_whole() -> None:
    a = program(lambda p: (p.x + p.y.rsqrt().sqrt()).sqrt() / p.y.rsqrt().sqrt())
    b = program(lambda p: (p.x + p.y.sqrt().rsqrt()).sqrt() * p.y.rsqrt().rsqrt())
    assert Checker(0)(a, b)
    assert not Checker(0)(a, program(lambda p: (p.x + p.y.rsqrt().sqrt()).sqrt() * p.y.sqrt()))
