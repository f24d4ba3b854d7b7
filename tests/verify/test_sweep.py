"""Programs compared value by value: deep ones are shown equal, nothing wrong is, infinities are seen."""

import math
import random
from collections import Counter

import pytest
import torch

from superopt.mugraph.algebras import floats
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.evaluate import evaluate
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.mutants import mutations
from superopt.mugraph.scalars import SCALARS
from superopt.verify.cuts import Checker
from superopt.verify.equal import check_equal
from superopt.verify.infinite import infinities
from tests.verify.terms import INPUTS, K, P, T, V, program
from tests.verify.test_mutants import SMALL, WRONG, differ

INFINITY = math.inf


def where(p: P, cond: V, x: V, y: V | float) -> V:
    return p.map("where", cond, x, p.const(y) if isinstance(y, float) else y, dtype="f32")


def block(p: P, x: V, late: bool) -> V:
    """A softmax over scores, a contraction, a norm and a gate: three exponentials deep."""
    s = (x * p.m).sum(K)
    e = (s - s.reduce("max", T)).exp()
    total = e.sum(T)
    y = (e * p.m).sum(T) / total if late else (e / total * p.m).sum(T)
    z = x + y
    r = (z.square().sum(K) / p.size(K) + 1e-5).rsqrt()
    gate = (z * p.g * p.h).sum(K) * r if late else (z * r * p.g * p.h).sum(K)
    return z + gate.silu() * p.g


def deep(layers: int, late: bool) -> Graph:
    def make(p: P) -> V:
        x = p.x
        for _ in range(layers):
            x = block(p, x, late)
        return x

    return program(make)


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_deep_programs_are_shown_equal_and_identical_pieces_are_checked_once(layers: int) -> None:
    check = Checker(0)
    found = check.rewritten(deep(layers, False), deep(layers, True))
    assert found and found.kind == "bound" and found.bound_log2 is not None
    assert found.bound_log2 >= 64
    one = Checker(0)
    one.rewritten(deep(1, False), deep(1, True))
    assert check.work <= 2 * one.work  # a layer is checked once, however many there are


def test_a_deep_program_has_no_bound_as_a_whole() -> None:
    assert check_equal(deep(3, False), deep(3, True), seed=0).kind == "sampled"


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("way", ["rewritten", "any"])
def test_no_wrong_mutant_is_accepted(name: str, way: str) -> None:
    graph, check = SMALL[name], Checker(7)
    show = check.rewritten if way == "rewritten" else check
    wrongly, tried = [], Counter[str]()
    for kind, mutant in mutations(graph):
        accepted = bool(show(graph, mutant))
        tried["accepted" if accepted else "rejected"] += 1
        if accepted and differ(graph, mutant):
            wrongly.append((kind, str(mutant)))
    assert not wrongly
    assert tried["rejected"] >= 40, tried


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_rejected(name: str) -> None:
    a, b = (program(make) for make in WRONG[name])
    for show in (Checker(1), Checker(1).rewritten):
        assert not show(a, b) and not show(b, a)


RARE = {
    "equal to zero": (lambda p: where(p, p.x.eq(0.0), p.y, p.z), lambda p: p.z),
    "below or at zero": (
        lambda p: where(p, p.x.lt(0.0), p.y, p.z),
        lambda p: where(p, p.x.le(0.0), p.y, p.z),
    ),
    "a sum of zero": (
        lambda p: where(p, p.x.sum(K).eq(0.0), p.h, p.h * 2.0),
        lambda p: p.h * 2.0,
    ),
    "a mask, then a scale": (
        lambda p: (where(p, p.s.lt(p.h), p.s, -INFINITY) * p.c).exp(),
        lambda p: (p.s * p.c).exp(),
    ),
    "erf of a mask": (
        lambda p: where(p, p.x.lt(p.y), p.x, -INFINITY).erf(),
        lambda p: where(p, p.x.lt(p.y), p.x.erf(), 7.0),
    ),
    "ascending rows": (
        lambda p: where(p, p.s.lt(p.s.reduce("max", T)), p.s, p.h),
        lambda p: p.s,
    ),
}


@pytest.mark.parametrize("name", RARE)
def test_no_selection_is_rewritten(name: str) -> None:
    """Whatever a check of single cases would say, programs that choose otherwise are no rewriting."""
    a, b = (program(make) for make in RARE[name])
    assert not Checker(0).rewritten(a, b)
    assert not Checker(0).rewritten(b, a)
    assert Checker(0).rewritten(a, a).kind == "identical"


def test_a_mask_is_not_taken_for_a_finite_value() -> None:
    """m == m - 1 holds at an infinity alone: a fresh, finite input would hide it."""

    def make(wrong: bool) -> Graph:
        def body(p: P) -> V:
            m = where(p, p.s.lt(p.h), p.s, -INFINITY)
            stays = m.eq(m - 1.0)
            return where(p, stays, p.s, p.h * 1.0) + m.exp() if not wrong else p.h * 1.0 + m.exp()

        return program(body)

    check = Checker(0)
    assert not check(make(False), make(True))
    assert not check.rewritten(make(False), make(True))
    assert check(make(False), make(False))


def test_masked_softmax_divides_after_the_contraction() -> None:
    def make(late: bool) -> Graph:
        def body(p: P) -> V:
            s = where(p, p.s.lt(p.h), p.s, -INFINITY)
            e = (s - s.reduce("max", T)).exp()
            return (e * p.m).sum(T) / e.sum(T) if late else (e / e.sum(T) * p.m).sum(T)

        return program(body)

    assert Checker(0).rewritten(make(False), make(True)).kind == "bound"


def test_pairs_that_differ_in_the_order_of_inputs_are_two() -> None:
    def make(order: str) -> Graph:
        b = Builder("f")
        at = {n: b.input(n, ((K,),), "f32") for n in order}
        return b.build([("o", b.map("mul", at["x"], at["y"]), ((K,),))])

    check = Checker(0)
    assert check(make("xy"), make("xy"))
    assert not check(make("xy"), make("yx"))


PROGRAMS = 150


def test_infinities_are_foreseen() -> None:
    """Every infinity that a random program takes on finite inputs is among those foreseen."""
    rng, met = random.Random(1), 0
    unary = [n for n, r in SCALARS.items() if r.arity == 1 and r.result == "same"]
    binary = ["add", "sub", "mul", "div", "max", "min"]
    for _ in range(PROGRAMS):
        p = P()
        values = [p.x, p.y, p.const(-INFINITY), p.const(INFINITY), p.const(2.0)]
        for _ in range(rng.randint(2, 10)):
            kind = rng.choice(["unary", "binary", "binary", "where", "reduce"])
            x, y = rng.choice(values), rng.choice(values)
            if kind == "unary":
                values.append(p.map(rng.choice(unary), x))
            elif kind == "binary":
                values.append(p.map(rng.choice(binary), x, y))
            elif kind == "where":
                values.append(where(p, p.x.lt(p.y), x, y))
            elif K in p.b.axes(x.i):
                values.append(x.reduce(rng.choice(["add", "max", "min"]), K))
        nodes = tuple(p.b.nodes)
        graph = Graph("random", nodes, ())
        foreseen = infinities(graph)
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            given = {}
            for node in graph.inputs:
                shape = [int(a.size) for a in INPUTS[node.name]]
                given[node.name] = torch.randn(shape, generator=generator, dtype=torch.float64)
            env = evaluate(graph, floats.FloatAlgebra(given), roots=range(len(nodes)))
            for i, node in enumerate(nodes):
                if not is_float(node.dtype):
                    continue
                for sign in (-INFINITY, INFINITY):
                    if bool((env[i] == sign).any()):
                        met += 1
                        assert sign in foreseen[i], (i, str(nodes[i]))
    assert met >= 300
