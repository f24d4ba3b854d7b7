"""Statistics over several axes, in loops of every kind: each kernel runs, and is right or refused."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from superopt import trace
from superopt.codegen import lower as lowering
from superopt.codegen.backends import python
from superopt.codegen.lower import NotLowerable, lower, why_not_lowerable
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.wellformed import check_mugraph
from tests.codegen import harness
from tests.codegen.test_split import placed
from tests.programs import tensors

TOLERANCE = 2e-5


def norm(
    sizes: list[int], first: list[int], then: list[list[int]], soft: bool, whole: bool
) -> Graph:
    """A statistic over some axes; what is built on it, reduced over groups of axes one by one.

    soft: exp(x - max) rather than (x - mean)^2; whole: the values divided by the reduced one.
    """
    axes = [Axis(f"a{k}", n) for k, n in enumerate(sizes)]
    g = Builder("norm")
    x = g.input("x", tuple((a,) for a in axes), "f32")
    over = [axes[k] for k in first]
    stat = g.reduce("max" if soft else "add", x, over)
    if not soft:
        for a in over:
            stat = g.map("div", stat, g.size_of(a))
    away = g.map("sub", x, stat)
    value = made = g.map("exp", away) if soft else g.map("mul", away, away)
    for group in then:
        value = g.reduce("add", value, [axes[k] for k in group])
    if whole:
        value = g.map("div", made, g.map("add", value, g.const(1.0)))
    return g.build([("o", value, tuple((a,) for a in g.axes(value)))])


def runs(mugraph: MuGraph, seed: int, built: bool = False) -> None:
    """Runs the kernels of a placed graph, and compares with float64; built: by the compiler too."""
    graph = mugraph.graph
    check_mugraph(mugraph)
    xs = tensors(graph, seed)
    (want,) = run(graph, [x.double() for x in xs])
    flat = {n.name: x for n, x in zip(graph.inputs, xs, strict=True)}
    programs = lower(mugraph)
    if built:
        got = harness.check(programs, flat, tol=TOLERANCE)
    else:
        got = python.run(programs, flat, None, seed=1)
    harness.same(got["out0"].reshape(want.shape), want, str(mugraph), TOLERANCE)


def test_any_loops_are_right_or_refused() -> None:
    rng, seen = random.Random(0), Counter[str]()
    for n in range(600):
        sizes = [rng.choice((1, 2, 3, 5, 7, 9)) for _ in range(rng.choice((2, 3, 3)))]
        axes = list(range(len(sizes)))
        first = sorted(rng.sample(axes, rng.randint(1, len(axes))))
        rest, then = rng.sample(axes, rng.randint(1, len(axes))), []
        while rest:
            k = rng.randint(1, len(rest))
            then.append(rest[:k])
            rest = rest[k:]
        graph = norm(sizes, first, then, rng.random() < 0.5, rng.random() < 0.5)
        looped = rng.sample(axes, rng.randint(0, len(axes)))
        mugraph = placed(graph, {}, {f"a{k}": rng.randint(1, sizes[k]) for k in looped})
        try:
            runs(mugraph, n)
        except NotLowerable as reason:
            assert "inside a loop over it" in str(reason)
            seen["refused"] += 1
            continue
        ranks = {c.rank for c in mugraph.kernels[0].carries}
        seen.update(["run", *(f"rank {r}" for r in ranks)])
    assert seen["run"] >= 400 and min(seen["rank 0"], seen["rank 2"]) >= 50, seen


@pytest.mark.parametrize(
    ("sizes", "then", "loops"),
    [
        # The sum of squares in two steps, of which the inner one keeps an axis of the statistic.
        ([3, 70, 33], [[0, 1], [2]], {"a1": 16, "a2": 16}),
        ([3, 70, 33], [[0, 1], [2]], {"a2": 16, "a1": 16}),
        ([2, 37, 65], [[1], [0, 2]], {"a2": 32, "a1": 8}),
        ([5, 9, 40], [[2], [1], [0]], {"a0": 2, "a1": 4, "a2": 16}),
        ([3, 40, 41], [[0, 1, 2]], {"a1": 16, "a2": 16}),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_norm_over_all_axes(
    sizes: list[int], then: list[list[int]], loops: dict[str, int], whole: bool
) -> None:
    graph = norm(sizes, list(range(len(sizes))), then, False, whole)
    runs(placed(graph, {}, loops), 3, built=True)


def test_a_statistic_along_a_summed_axis_carries_nothing() -> None:
    """Each row has its own mean, and one sum is over all rows: no factor moves that sum."""
    for soft in (False, True):
        graph = norm([4, 30], [1], [[0, 1]], soft, False)
        mugraph = placed(graph, {}, {"a1": 8})
        assert not mugraph.kernels[0].carries
        runs(mugraph, 0, built=True)
        assert placed(norm([4, 30], [1], [[1]], soft, False), {}, {"a1": 8}).kernels[0].carries


def test_an_error_in_one_lowering_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trace.forget_warnings()
    mugraph = placed(norm([4, 30], [1], [[1]], False, False), {}, {"a1": 8})
    assert why_not_lowerable(mugraph) is None

    def fails(*_: object) -> None:
        raise KeyError(12)

    monkeypatch.setattr(lowering, "phases", fails)
    for _ in range(2):
        assert why_not_lowerable(mugraph) == "lowering failed: KeyError: 12"
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 1 and "lowering failed: KeyError: 12" in told[0], told
