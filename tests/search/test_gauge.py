"""Shifts of exponentials: which programs get one, that it is right, and that it does no harm."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Map, Reduce
from superopt.search.carry import find_carries
from superopt.search.gauge import stabilized, stable_steps
from superopt.verify.cuts import Checker
from tests.programs import attention, softmax

B, T, D = Axis("b", 5), Axis("t", 37), Axis("d", 8)


def made(build: Callable[[Builder, int, int], int]) -> Graph:
    """A program of x[b,t] and e = exp(x)."""
    b = Builder("made")
    x = b.input("x", ((B,), (T,)), "f32")
    out = build(b, x, b.map("exp", x))
    return b.build([("o", out, tuple((a,) for a in b.axes(out)))])


def total(b: Builder, e: int) -> int:
    return b.reduce("add", e, [T])


def _values(b: Builder, x: int, e: int) -> int:
    v = b.input("v", ((T,), (D,)), "f32")
    return b.map("div", b.reduce("add", b.map("mul", e, v), [T]), total(b, e))


def _sink(b: Builder, x: int, e: int) -> int:
    s = b.map("exp", b.input("s", ((B,),), "f32"))
    return b.map("div", e, b.map("add", total(b, e), s))


def _of_one(b: Builder, x: int, e: int) -> int:
    """An attention with a sink of score 0."""
    v = b.input("v", ((T,), (D,)), "f32")
    below = b.map("add", total(b, e), b.const(1.0))
    return b.map("div", b.reduce("add", b.map("mul", e, v), [T]), below)


def _added(b: Builder, x: int, e: int) -> int:
    v = b.input("v", ((B,),), "f32")
    above = b.map("sub", b.reduce("add", e, [T]), v)
    return b.map("div", above, b.map("add", b.const(1e-6), total(b, e)))


def _softplus(b: Builder, x: int, e: int) -> int:
    return b.map("log1p", total(b, e))


def _normalized(b: Builder, x: int, e: int) -> int:
    norm = b.map("sqrt", b.reduce("add", b.map("square", e), [T]))
    return b.map("div", e, b.map("add", norm, b.const(1e-12)))


def _masked(b: Builder, x: int, e: int) -> int:
    kept = b.map("mul", b.map("cast", b.map("lt", x, b.const(0.5)), dtype="f32"), e)
    return b.map("div", kept, total(b, kept))


def _mean(b: Builder, x: int, e: int) -> int:
    return b.map("div", e, b.map("div", total(b, e), b.size_of(T)))


def _capped(b: Builder, x: int, e: int) -> int:
    c = b.map("exp", b.map("mul", b.map("tanh", x), b.const(500.0)))
    return b.map("div", c, total(b, c))


def _other_order(b: Builder, x: int, e: int) -> int:
    return b.map("mul", b.map("recip", total(b, e)), e)


def _narrow(b: Builder, x: int, e: int) -> int:
    return b.map("cast", b.map("div", e, total(b, e)), dtype="bf16")


def _chosen(b: Builder, x: int, e: int) -> int:
    kept = b.map("where", b.map("lt", x, b.const(0.5)), e, b.const(0.0))
    return b.map("div", kept, total(b, kept))


def _not_chosen(b: Builder, x: int, e: int) -> int:
    kept = b.map("where", b.map("lt", b.const(0.5), x), b.const(0.0), e)
    return b.map("div", kept, total(b, kept))


SHIFTED: dict[str, Callable[[Builder, int, int], int]] = {
    "softmax": lambda b, x, e: b.map("div", e, total(b, e)),
    "both axes": lambda b, x, e: b.map("div", e, b.reduce("add", e, [B, T])),
    "values": _values,
    "sink": _sink,
    "mean": _mean,
    "capped": _capped,
    "reciprocal": _other_order,
    "narrow": _narrow,
    "log of sum": lambda b, x, e: b.map("log", total(b, e)),
    "likelihood": lambda b, x, e: b.map("sub", b.map("log", total(b, e)), x),
    "choice": _chosen,
    "other choice": _not_chosen,
    "twice": lambda b, x, e: b.map("div", b.map("mul", e, b.const(2.0)), total(b, e)),
    "one more": lambda b, x, e: b.map("div", e, b.map("add", total(b, e), b.const(1.0))),
    "sink of one": _of_one,
    "one more term above": _added,
    "log of one more": lambda b, x, e: b.map("log", b.map("add", total(b, e), b.const(1.0))),
    "log1p": _softplus,
    "norm": _normalized,
    "truth value": _masked,
}


CASES = ("log of one more", "log1p")
"""Whose logarithm is of a maximum's cases, so that they are shown for any shift only."""


def _masked_product(b: Builder, x: int, e: int) -> int:
    w = b.map("mul", e, b.input("w", ((T,),), "f32"))
    return b.map("div", w, total(b, w))


LEFT: dict[str, Callable[[Builder, int, int], int]] = {
    "exponential": lambda b, x, e: e,
    "sum": lambda b, x, e: total(b, e),
    "sigmoid": lambda b, x, e: b.map("div", e, b.map("add", e, b.const(1.0))),
    "summed sigmoids": lambda b, x, e: total(b, b.map("div", e, b.map("add", e, b.const(1.0)))),
    "summed softplus": lambda b, x, e: total(b, b.map("log1p", e)),
    "at most": lambda b, x, e: b.map("div", e, b.map("min", total(b, e), b.const(9.0))),
    "at least": lambda b, x, e: b.map("div", e, b.map("max", total(b, e), b.const(9.0))),
    "product of sums": lambda b, x, e: b.map(
        "div", b.map("square", e), b.map("mul", total(b, e), b.reduce("min", e, [T]))
    ),
    # Without exp(0) below, all may vanish beside it.
    "one more above": lambda b, x, e: b.map("div", b.map("add", e, b.const(1.0)), total(b, e)),
    "one less": lambda b, x, e: b.map("div", e, b.map("sub", total(b, e), b.const(1.0))),
    "something more": lambda b, x, e: b.map(
        "div", e, b.map("add", total(b, e), b.reduce("max", x, [T]))
    ),
    "square of one more": lambda b, x, e: b.map(
        "div", e, b.map("square", b.map("add", total(b, e), b.const(1.0)))
    ),
    "rows and columns": lambda b, x, e: b.map(
        "div", e, b.map("mul", total(b, e), b.reduce("add", e, [B]))
    ),
    # The largest exponent may have the weight zero: all others would vanish beside it.
    "weights": _masked_product,
    "least": lambda b, x, e: b.map("div", e, b.reduce("min", e, [T])),
    "difference": lambda b, x, e: b.map(
        "div", e, b.map("sub", total(b, e), b.reduce("max", e, [T]))
    ),
    "log of square": lambda b, x, e: b.map("log", total(b, b.map("mul", e, e))),
}


def drawn(graph: Graph, scale: float) -> list[torch.Tensor]:
    gen = torch.Generator().manual_seed(0)
    return [
        scale * torch.randn([math.prod(a.size for a in d) for d in n.dims], generator=gen)
        for n in graph.inputs
    ]


@pytest.mark.parametrize("name", SHIFTED)
def test_a_homogeneous_result_is_shifted(name: str) -> None:
    graph = made(SHIFTED[name])
    stable = stabilized(graph)
    assert stable is not None and stabilized(stable) is None
    show = Checker(0)
    assert all(show(*step.obligation()).verdict == "equal" for step in stable_steps(graph))
    assert show(graph, stable).verdict == "equal" or name in CASES
    xs = drawn(graph, 1.0)
    for mine, want in zip(run(stable, xs), run(graph, xs), strict=True):
        torch.testing.assert_close(mine, want, rtol=1e-6, atol=1e-9)
    # In float64 the source overflows at 710; the shifted program is compared below that.
    large = [x * 100 for x in xs]
    exact = run(graph, large)
    if all(x.isfinite().all() for x in exact):
        for mine, want in zip(run(stable, large), exact, strict=True):
            torch.testing.assert_close(mine, want, rtol=1e-6, atol=1e-9)
    for y in run(stable, [x * 1e5 for x in xs]):
        assert y.isfinite().all()


@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_degree_or_may_vanish_is_left(name: str) -> None:
    assert stabilized(made(LEFT[name])) is None


def test_what_is_masked_out_is_not_the_maximum() -> None:
    """The largest exponents are not chosen; the others are exact beside them."""
    stable = stabilized(made(_chosen))
    assert stable is not None
    x = torch.randn(5, 37, generator=torch.Generator().manual_seed(1))
    x[:, ::2] += 5000.0
    (y,) = run(stable, [x])
    want = torch.softmax(x.double().masked_fill(x >= 0.5, -math.inf), -1)
    torch.testing.assert_close(y, want, rtol=1e-6, atol=0.0)
    (none,) = run(stable, [torch.ones(5, 37)])
    assert none.isnan().all() and run(made(_chosen), [torch.ones(5, 37)])[0].isnan().all()


def test_an_author_s_shift_is_left_alone() -> None:
    for graph in (softmax(), attention(), attention(causal=3), attention(banned=5)):
        assert stabilized(graph) is None


def test_attention_without_a_shift_runs_in_one_pass() -> None:
    graph = made(_values)
    stable = stabilized(graph)
    assert stable is not None
    body = [i for i, n in enumerate(stable.nodes) if isinstance(n, Map | Reduce)]
    carries = find_carries(stable, body, frozenset({T}))
    assert len(carries) == 2 and len({c.stat for c in carries}) == 1


def test_a_sink_of_one_runs_in_one_pass() -> None:
    stable = stabilized(made(_of_one))
    assert stable is not None
    body = [i for i, n in enumerate(stable.nodes) if isinstance(n, Map | Reduce)]
    carries = find_carries(stable, body, frozenset({T}))
    assert len(carries) == 2 and len({c.stat for c in carries}) == 1


@pytest.mark.parametrize("low", [-1e4, -math.inf])
def test_beside_a_sink_low_scores_vanish(low: float) -> None:
    stable = stabilized(made(_of_one))
    assert stable is not None
    x = torch.full((5, 37), low)
    x[1] = torch.linspace(-3, 200, 37)
    v = torch.randn(37, 8, generator=torch.Generator().manual_seed(3))
    (y,) = run(stable, [x, v])
    want = torch.softmax(torch.cat([x, torch.zeros(5, 1)], -1).double(), -1)[:, :-1] @ v.double()
    torch.testing.assert_close(y, want, rtol=1e-9, atol=0.0)


def test_a_small_log1p_is_exact() -> None:
    stable = stabilized(made(_softplus))
    assert stable is not None
    x = torch.full((5, 37), -60.0)
    (y,) = run(stable, [x])
    torch.testing.assert_close(y, torch.log1p(x.double().exp().sum(-1)), rtol=1e-12, atol=0.0)


def test_an_empty_or_infinite_row_is_the_source_s() -> None:
    stable = stabilized(made(SHIFTED["log of sum"]))
    assert stable is not None
    x = torch.zeros(5, 37)
    x[0] = -math.inf
    x[1, 3] = math.inf
    (y,) = run(stable, [x])
    want = torch.logsumexp(x.double(), -1)
    torch.testing.assert_close(y, want, rtol=1e-12, atol=0.0)
