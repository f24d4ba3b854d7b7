"""Variances in one pass: sums of polynomials in another sum follow it, exactly and accurately."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch

from superopt.codegen.lower import lower
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.text import parse_mugraph, print_mugraph
from superopt.mugraph.tileir import Loop
from superopt.mugraph.wellformed import check_mugraph
from superopt.search.carry import obligation
from superopt.verify.cuts import Checker
from tests.codegen import harness
from tests.codegen.test_split import placed
from tests.programs import tensors

Make = Callable[[Builder, int, Axis], int]


def made(build: Make, b: int = 3, t: int = 50) -> Graph:
    """A program of x[b,t], and of its distance from the mean over t."""
    ab, at = Axis("b", b), Axis("t", t)
    g = Builder("made")
    x = g.input("x", ((ab,), (at,)), "f32")
    mean = g.map("div", g.reduce("add", x, [at]), g.size_of(at))
    out = build(g, g.map("sub", x, mean), at)
    return g.build([("o", out, tuple((a,) for a in g.axes(out)))])


def _variance(g: Builder, d: int, at: Axis) -> int:
    return g.map("div", g.reduce("add", g.map("square", d), [at]), g.size_of(at))


def _weighted(g: Builder, d: int, at: Axis) -> int:
    w = g.input("w", ((at,),), "f32")
    return g.reduce("add", g.map("mul", g.map("mul", d, d), w), [at])


def _masked(g: Builder, d: int, at: Axis) -> int:
    keep = g.map("lt", g.iota(at), g.const(17, "i64"))
    return g.reduce("add", g.map("where", keep, g.map("mul", d, d), g.const(0.0)), [at])


def _linear(g: Builder, d: int, at: Axis) -> int:
    w = g.input("w", ((at,), (Axis("n", 7),)), "f32")
    return g.reduce("add", g.map("mul", d, w), [at])


def _norm_and_linear(g: Builder, d: int, at: Axis) -> int:
    spread = g.map("rsqrt", g.map("add", _variance(g, d, at), g.const(1e-5)))
    return g.map("mul", _linear(g, d, at), spread)


PROGRAMS: dict[str, tuple[Make, list[int]]] = {
    "variance": (_variance, [2]),
    "weighted": (_weighted, [2]),
    "masked": (_masked, [2]),
    "linear": (_linear, [1]),
    "norm and linear": (_norm_and_linear, [1, 2]),
}


def passes(mugraph: MuGraph) -> int:
    return sum(isinstance(s, Loop) for p in lower(mugraph) for s in p.body)


def check(mugraph: MuGraph, xs: list[torch.Tensor], tolerance: float = 2e-5) -> None:
    graph = mugraph.graph
    check_mugraph(mugraph)
    flat = {
        n.name: x.reshape([a.size for dim in n.dims for a in dim])
        for n, x in zip(graph.inputs, xs, strict=True)
    }
    (want,) = run(graph, xs)
    got = harness.check(lower(mugraph), flat, tol=tolerance)
    harness.same(got["out0"].reshape(want.shape), want, graph.name, tolerance)


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_pass_is_enough(name: str) -> None:
    build, ranks = PROGRAMS[name]
    mugraph = placed(made(build), {}, {"t": 16})
    carries = mugraph.kernels[0].carries
    assert sorted(c.rank for c in carries) == ranks
    assert passes(mugraph) == 1
    for carry in carries:
        assert Checker(0)(*obligation(mugraph.graph, carry)).kind == "bound"
    check(mugraph, tensors(mugraph.graph))
    text = print_mugraph(mugraph)
    assert print_mugraph(parse_mugraph(text)) == text and "rank" in text


def test_sizes_and_steps() -> None:
    rng, done = random.Random(0), 0
    for name in [*PROGRAMS] * 2:
        t = rng.randint(2, 90)
        graph = made(PROGRAMS[name][0], b=rng.randint(1, 4), t=t)
        check(
            placed(graph, {"b": 2} if rng.random() < 0.5 else {}, {"t": rng.randint(1, t)}),
            tensors(graph, done),
        )
        done += 1
    assert done == 10


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
def test_it_is_as_accurate_as_two_passes(offset: float) -> None:
    graph = made(_variance, b=4, t=4000)
    x = torch.randn(4, 4000, generator=torch.Generator().manual_seed(1)) + offset
    (want,) = run(graph, [x.double()])
    errors = []
    for loop in ({"t": 64}, {}):
        got = harness.run_cpu(lower(placed(graph, {}, loop)), {"x": x})["out0"]
        errors.append(float(((got.double() - want) / want).abs().max()))
    # By a difference of squares, the offset 1e4 would leave no digit.
    assert errors[0] <= 4 * errors[1] + 1e-6, errors


def test_a_value_that_is_no_polynomial_waits() -> None:
    def build(g: Builder, d: int, at: Axis) -> int:
        return g.reduce("add", g.map("exp", d), [at])

    mugraph = placed(made(build), {}, {"t": 16})
    assert not mugraph.kernels[0].carries and passes(mugraph) == 2

    def cubic(g: Builder, d: int, at: Axis) -> int:
        return g.reduce("add", g.map("mul", d, g.map("mul", d, d)), [at])

    assert passes(placed(made(cubic), {}, {"t": 16})) == 2
    assert math.isfinite(passes(placed(made(_variance), {}, {})))
