"""One-pass accumulators: the transition is read off the term, and refused where there is none."""

from __future__ import annotations

import math

import pytest

from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Reduce
from superopt.search.carry import character, find_carries, obligation
from tests.programs import attention, rmsnorm_linear, softmax, tensors

T, B = Axis("t", 11), Axis("b", 3)


def carries(graph: Graph, axis: str = "t") -> tuple:
    named = {a.name: a for a in graph.axes}
    body = [
        i
        for i, n in enumerate(graph.nodes)
        if i not in {j for j, m in enumerate(graph.nodes) if m in graph.inputs}
    ]
    return find_carries(graph, body, frozenset({named[axis]}))


def sums_of(build) -> tuple[Graph, int, int]:
    """A graph with m = max_t x and a sum over t of build(g, x, m); returns it with both ids."""
    g = Builder("p")
    x = g.input("x", ((B,), (T,)), "f32")
    m = g.reduce("max", x, [T])
    s = g.reduce("add", build(g, x, m), [T])
    graph = g.build([("m", m, ((B,),)), ("s", s, ((B,),))])
    return graph, graph.outputs[0].node, graph.outputs[1].node


CHARACTERS = [
    (lambda g, x, m: g.map("exp", g.map("sub", x, m)), -1.0),
    (lambda g, x, m: g.map("exp", g.map("mul", g.map("sub", x, m), g.const(0.5))), -0.5),
    (lambda g, x, m: g.map("mul", x, g.map("exp", g.map("sub", x, m))), -1.0),
    (lambda g, x, m: g.map("div", x, g.map("exp", m)), -1.0),
    (lambda g, x, m: g.map("mul", g.map("exp", m), g.map("exp", g.map("sub", x, m))), 0.0),
    (lambda g, x, m: g.map("exp", g.map("add", x, g.map("neg", m))), -1.0),
    (lambda g, x, m: g.map("sub", x, m), None),
    (lambda g, x, m: g.map("mul", g.map("sub", x, m), g.map("sub", x, m)), None),
    (lambda g, x, m: g.map("mul", x, g.map("exp", g.map("mul", m, m))), None),
    (lambda g, x, m: g.map("add", g.map("exp", g.map("sub", x, m)), g.const(1.0)), None),
    (
        lambda g, x, m: g.map(
            "where", g.map("lt", x, m), g.map("exp", g.map("sub", x, m)), g.const(0.0), dtype="f32"
        ),
        None,
    ),
]


@pytest.mark.parametrize("case", range(len(CHARACTERS)))
def test_the_character_is_read_off_the_term(case: int) -> None:
    build, want = CHARACTERS[case]
    graph, m, s = sums_of(build)
    node = graph.nodes[s]
    assert isinstance(node, Reduce)
    inside = set(range(len(graph.nodes)))
    assert character(graph, node.operand, m, inside) == want
    # x / exp(m) is -inf under an empty maximum, and no factor makes that what it is under another.
    assert len(carries(graph)) == (1 if want and case != 3 else 0)


def test_obligations_hold_in_floats() -> None:
    checked = 0
    for graph in (attention(), softmax(), *(sums_of(b)[0] for b, c in CHARACTERS if c)):
        for carry in carries(graph):
            left, right = obligation(graph, carry)
            xs = tensors(left, seed=checked)
            a, b = run(left, xs)[0], run(right, xs)[0]
            assert ((a - b).abs() <= 1e-9 * (1 + a.abs())).all()
            checked += 1
    assert checked >= 7


def _masked(g: Builder, x: int) -> tuple[int, int]:
    """A condition, and x where it holds, else -inf."""
    c = g.map("lt", g.input("k", ((B,), (T,)), "f32"), g.const(0.0))
    return c, g.map("where", c, x, g.const(-math.inf))


PREFIXES = {
    "masked before": (True, lambda g, x, c, y, m: g.map("exp", g.map("sub", y, m))),
    "masked before and after": (
        True,
        lambda g, x, c, y, m: g.map("where", c, g.map("exp", g.map("sub", x, m)), g.const(0.0)),
    ),
    "times the mask": (
        True,
        lambda g, x, c, y, m: g.map(
            "mul", g.map("exp", g.map("sub", x, m)), g.map("cast", c, dtype="f32")
        ),
    ),
    "scaled": (
        True,
        lambda g, x, c, y, m: g.map("exp", g.map("mul", g.map("sub", y, m), g.const(2.0))),
    ),
    "not masked": (False, lambda g, x, c, y, m: g.map("exp", g.map("sub", x, m))),
    "masked otherwise": (
        False,
        lambda g, x, c, y, m: g.map(
            "where", g.map("not", c), g.map("exp", g.map("sub", x, m)), g.const(0.0)
        ),
    ),
    "of something else": (
        False,
        lambda g, x, c, y, m: g.map("exp", g.map("sub", g.map("mul", x, x), m)),
    ),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_what_comes_before_the_first_of_a_statistic_is_nothing(name: str) -> None:
    """A mask may leave the maximum empty where terms of the sum count: these are not carried."""
    nothing, build = PREFIXES[name]
    g = Builder("p")
    x = g.input("x", ((B,), (T,)), "f32")
    c, y = _masked(g, x)
    s = g.reduce("add", build(g, x, c, y, g.reduce("max", y, [T])), [T])
    graph = g.build([("s", s, ((B,),))])
    assert len(carries(graph)) == nothing


def test_a_wrong_factor_breaks_the_obligation() -> None:
    from dataclasses import replace

    from superopt.search.carry import factor

    graph = softmax()
    (carry,) = carries(graph)
    for wrong in (-2.0, 1.0, -math.log(2)):
        left, right = obligation(graph, replace(carry, factor=factor(wrong)))
        xs = tensors(left)
        assert (run(left, xs)[0] - run(right, xs)[0]).abs().max() > 1e-3


def test_no_carry_without_a_selection() -> None:
    assert carries(rmsnorm_linear(late=False), "k") == ()
