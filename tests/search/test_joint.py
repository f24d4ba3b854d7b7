"""Axes that a program only has together are one to the algebra, and no others are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from superopt.frontend.capture import capture
from superopt.frontend.partition import partition
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.graph import Graph
from superopt.pipeline.search_only import search_function
from superopt.search.enumerate import explore
from superopt.search.joint import joint
from superopt.search.problem import problem
from superopt.search.regions import regions

SHAPE = (2, 3, 5, 7)
Fn = Callable[..., object]


def graph_of(fn: Fn, *shapes: tuple[int, ...]) -> Graph:
    program = partition(capture(fn, tuple(torch.zeros(s) for s in shapes)), "default")
    (piece,) = program.supported
    return piece.graph


def sizes(graph: Graph) -> set[tuple[int, ...]]:
    """The joint axes of the first region, by size."""
    return {tuple(int(a.size) for a in one) for one in joint(graph, regions(graph)[0]).axes}


CASES: dict[str, tuple[Fn, set[tuple[int, ...]]]] = {
    "sum": (lambda x: x.sum((0, 2)), {(2, 5), (3, 7)}),
    "mean": (lambda x: x.mean((0, 2, 3)), {(2, 5, 7), (3,)}),
    "apart": (lambda x: x.mean(0).mean(1), {(2,), (3, 7), (5,)}),
    "both": (lambda x: x.mean((0, 1)) + x.sum(0).sum(0), {(2,), (3,), (5, 7)}),
    "one size": (lambda x: x.sum((0, 1)) / x.shape[0], {(2, 3), (5, 7)}),
    "kept": (lambda x: x - x.sum((1, 2), keepdim=True), {(2, 7), (3, 5)}),
    "elementwise": (lambda x: x * torch.sigmoid(x), {(2, 3, 5, 7)}),
}


@pytest.mark.parametrize("name", CASES)
def test_axes_are_joint_where_every_term_has_all_or_none(name: str) -> None:
    fn, want = CASES[name]
    assert sizes(graph_of(fn, SHAPE)) == want


def test_what_another_leaf_tells_apart_is_not_joint() -> None:
    graph = graph_of(lambda x, w: (x * w).sum((0, 1)), SHAPE, SHAPE[1:])
    assert sizes(graph) == {(2,), (3,), (5, 7)}


def statistics(over: tuple[int, ...]) -> Fn:
    return lambda x: (x.mean(over), x.var(over), x.std(over))


def test_a_statistic_over_many_axes_has_the_space_of_one_over_one() -> None:
    """And it closes: with an axis each, 300 000 terms did not reach the end of three."""
    counted = set()
    for over in ((2,), (0, 2), (0, 2, 3), (1, 3), (0, 1, 2, 3)):
        graph = graph_of(statistics(over), SHAPE)
        (region,) = regions(graph)
        for engine in ("cpp", "python") if over == (0, 2) else ("cpp",):
            space = explore(graph, region, engine=engine)
            assert space.closed
            kept = sum(len(c.derivations) for c in space.classes)
            counted.add((space.stats["states"], len(space.classes), kept))
    assert len(counted) == 1, counted


NORMS: dict[str, Fn] = {
    "statistics": statistics((0, 2, 3)),
    "batch": lambda x: (
        (x - x.mean((0, 2, 3), True))
        * torch.rsqrt(x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5)
    ),
    "layer": lambda x: torch.nn.functional.layer_norm(x, x.shape[1:]),
    "counts apart": lambda x: x.mean((0, 2)) * x.shape[0] + x.mean((0, 2)).mean(1, True),
    "count of some": lambda x: (x.sum((0, 1, 2)) + x.mean((0, 1)).sum(0)) / x.shape[2],
    "count squared": lambda x: (x - x.mean((0, 3), keepdim=True)).mean((0, 3)) / (x[0, 0, 0, 0]),
}


@pytest.mark.parametrize("name", NORMS)
def test_every_candidate_computes_the_program(name: str) -> None:
    fn = NORMS[name]
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) + 0.5
    want = fn(x.double())
    want = want if isinstance(want, tuple) else (want,)
    found = search_function(fn, (x,)).pieces
    graphs = {str(m.graph): m.graph for p in found for m in p.candidates}.values()
    assert len(found) == 1 and graphs
    for graph in graphs:
        for got, one in zip(run(graph, [x], work=None), want, strict=True):
            assert torch.allclose(got.double(), one, rtol=1e-4, atol=1e-5), graph


def test_a_count_is_one_size() -> None:
    graph = graph_of(statistics((0, 2, 3)), SHAPE)
    task = problem(graph, regions(graph)[0])
    assert [s.kind for s in task.steps].count("size") == 1
