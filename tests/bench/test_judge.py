"""The judge of mutants: what differs has a counterexample, what is the same an argument."""

from __future__ import annotations

import pytest

from superopt.bench.exact import Exact
from superopt.bench.exact_forms import TooMuch
from superopt.bench.judge import Judge
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.mutants import mutations
from tests.verify.terms import K, N, P, T, program
from tests.verify.test_mutants import SMALL, WRONG


def exactly(a: Graph, b: Graph) -> bool:
    """Whether two graphs have the same forms, at one of several limits."""
    for limit in (1, 8, 100):
        exact = Exact(limit, 2_000_000)
        try:
            pairs = list(zip(exact.outputs(a), exact.outputs(b), strict=True))
        except TooMuch:
            continue
        if all(x.shape == y.shape and (x == y).all() for x, y in pairs):
            return True
    return False


SAME = {
    "distributed": (lambda p: p.x * (p.y + p.z), lambda p: p.x * p.y + p.z * p.x),
    "late division": (
        lambda p: ((p.x / p.h) * p.w).sum(K),
        lambda p: (p.x * p.w).sum(K) / p.h,
    ),
    "shifted": (
        lambda p: p.s.exp() / p.s.exp().sum(T),
        lambda p: (p.s - p.s.reduce("max", T)).exp() / (p.s - p.s.reduce("max", T)).exp().sum(T),
    ),
    "log-sum-exp": (
        lambda p: p.s.exp().sum(T).log(),
        lambda p: (p.s - p.h).exp().sum(T).log() + p.h,
    ),
    "one root": (lambda p: p.c.rsqrt() * p.c.rsqrt(), lambda p: 1.0 / p.c),
    "variance": (
        lambda p: (p.x - p.x.sum(K) / p.size(K)).square().sum(K),
        lambda p: (p.x * (p.x - p.x.sum(K) / p.size(K))).sum(K),
    ),
    "sigmoid": (lambda p: p.x.silu(), lambda p: p.x * p.x.sigmoid()),
    "of sets": (lambda p: p.x.max(p.y).max(p.x), lambda p: p.y.max(p.x)),
    "absorbed": (lambda p: p.x.min(p.x.max(p.y)), lambda p: p.x * 1.0),
    "not less": (
        lambda p: p.map("where", p.x.lt(p.y), p.z, p.g, dtype="f32"),
        lambda p: p.map("where", p.y.le(p.x), p.g, p.z, dtype="f32"),
    ),
    "positions": (
        lambda p: p.map("where", p.iota(K).lt(p.const(2, "i64")), p.x, p.y, dtype="f32"),
        lambda p: p.map("where", p.iota(K).le(p.const(1, "i64")), p.x, p.y, dtype="f32"),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_has_the_same_forms(name: str):
    a, b = (program(make) for make in SAME[name])
    assert exactly(a, b)
    assert not Judge(a).differs(b)


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_has_other_forms(name: str):
    a, b = (program(make) for make in WRONG[name])
    assert not exactly(a, b)
    assert Judge(a).argument(b) == ""
    assert Judge(a).differs(b) or name == "a constant in the ninth place"


@pytest.mark.parametrize("name", SMALL)
def test_no_mutant_is_both_different_and_explained(name: str):
    """The two halves of the judge do not contradict one another, whatever the verifier says."""
    graph = SMALL[name]
    judge, both, differ, explained = Judge(graph), [], 0, 0
    found = list(mutations(graph))
    for kind, mutant in found[:: max(1, len(found) // 60)]:
        differs, argument = judge.differs(mutant), judge.argument(mutant)
        differ += bool(differs)
        explained += bool(argument)
        if differs and argument:
            both.append((kind, differs, argument, str(mutant)))
    # A mutant that is another only in its interface has the same values.
    both = [b for b in both if "the inputs are" not in b[1] and "the outputs are" not in b[1]]
    assert not both
    assert differ >= 20
    assert explained >= 1


def test_an_index_written_otherwise_is_read_at_all_its_values():
    def picked(index: str) -> Graph:
        r, d, v = Axis("r", 3), Axis("d", 2), Axis("v", 9)
        g = Builder("picked")
        table, ids = g.input("table", ((v,), (d,)), "f32"), g.input("ids", ((r,),), "i64")
        nine, eight = g.const(9, "i64"), g.const(8, "i64")
        at = {"plain": ids, "mod": g.map("mod", ids, nine), "min": g.map("min", ids, eight),
              "less": g.map("min", ids, g.const(7, "i64"))}  # fmt: skip
        return g.build([("a", g.gather(table, v, at[index]), ((r,), (d,)))])

    judge = Judge(picked("plain"))
    said = "equal in exact arithmetic, cell by cell, for 9 draws of the indices"
    for index in ("mod", "min"):
        assert judge.argument(picked(index)).startswith(said)
    assert judge.argument(picked("less")) == ""


def test_a_limit_of_work_is_kept():
    graph = program(lambda p: ((p.x * p.w).sum(K) * (p.x * p.v).sum(K)).sum(N))
    with pytest.raises(TooMuch):
        Exact(100, 100).outputs(graph)


def test_names_of_inputs_are_what_tells_them_apart():
    def one(p: P) -> object:
        return p.x - p.y

    assert exactly(program(one), program(one))
    assert not exactly(program(one), program(lambda p: p.y - p.x))
