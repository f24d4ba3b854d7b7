"""Axes that views only rename are one: the program means the same, and has fewer views."""

from __future__ import annotations

import itertools
import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, View
from superopt.mugraph.merge import merge_axes
from superopt.mugraph.wellformed import check_graph
from tests.strategies import graphs, sizes_for, tensors_for


@settings(max_examples=150, deadline=None)
@given(graphs(dtypes=("f32", "f64")), st.integers(0, 99))
def test_drawn_graphs_mean_the_same(graph, seed):
    same(graph, seed)


def same(graph: Graph, seed: int) -> Graph:
    """The graph with merged axes, which is well-formed and means the same."""
    other = merge_axes(graph)
    check_graph(other)
    assert [n.name for n in other.inputs] == [n.name for n in graph.inputs]
    sizes = sizes_for(graph, seed)
    tensors = tensors_for(graph, seed, sizes)
    for have, want in zip(run(other, tensors, sizes), run(graph, tensors, sizes), strict=True):
        assert have.shape == want.shape
        torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-9, equal_nan=True)
    return other


def renamed(seed: int) -> Graph:
    """A program that now and then reads a value under other names, some of them used before."""
    rng = random.Random(seed)
    b = Builder(f"renamed{seed}")
    axes = [Axis(n, 3 + n.isupper()) for n in "abcABC"]
    pool = [
        b.input(f"x{k}", tuple((a,) for a in rng.sample(axes, rng.randint(1, 3))), "f32")
        for k in range(3)
    ]
    for _ in range(rng.randint(4, 9)):
        x, y = rng.choice(pool), rng.choice(pool)
        way = rng.random()
        if way < 0.4 and b.axes(x):
            old = rng.choice(b.axes(x))
            free = [a for a in axes if a.size == old.size and a not in b.axes(x)]
            x = b.rename(x, {old: rng.choice(free)}) if free else x
        elif way < 0.6 and b.axes(x):
            x = b.reduce("add", x, [rng.choice(b.axes(x))])
        elif len({*b.axes(x), *b.axes(y)}) < 6:
            x = b.map(rng.choice(("mul", "add")), x, y)
        pool.append(x)
    outs = pool[-2:]
    return b.build([(f"o{k}", i, tuple((a,) for a in b.axes(i))) for k, i in enumerate(outs)])


def test_programs_that_rename_mean_the_same() -> None:
    fewer = kept = 0
    for seed in range(300):
        graph = renamed(seed)
        other = same(graph, seed)
        views = [sum(isinstance(n, View) for n in g.nodes) for g in (graph.pruned(), other)]
        assert views[1] <= views[0]
        fewer += views[1] < views[0]
        kept += views[1] > 0
    assert fewer >= 100 and kept >= 20


def test_a_value_read_under_two_names_at_once_keeps_them():
    """x x^T needs the rows of x twice."""
    b = Builder("gram")
    i, j, k = Axis("i", 3), Axis("j", 3), Axis("k", 4)
    x = b.input("x", ((i,), (k,)), "f32")
    out = b.reduce("add", b.map("mul", x, b.rename(x, {i: j})), [k])
    graph = merge_axes(b.build([("o", out, ((i,), (j,)))]))
    assert {a.name for a in graph.axes} == {"i", "j", "k"}
    assert sum(isinstance(n, View) for n in graph.nodes) == 1


def test_a_result_that_repeats_a_value_keeps_its_axes_apart() -> None:
    """x[i] expanded along j is a result, and elsewhere x is read along j."""
    b = Builder("expanded")
    i, j = Axis("i", 3), Axis("j", 3)
    x = b.input("x", ((i,),), "f32")
    e = b.map("exp", b.rename(x, {i: j}))
    graph = same(b.build([("o", x, ((j,), (i,))), ("p", e, ((j,),))]), 0)
    assert len({a for dim in graph.outputs[0].dims for a in dim}) == 2


def test_a_chain_of_names_is_one():
    b = Builder("chain")
    axes = [Axis(n, 5) for n in "abc"]
    x = b.input("x", ((axes[0],),), "f32")
    for old, new in itertools.pairwise(axes):
        x = b.map("exp", b.rename(x, {old: new}))
    graph = merge_axes(b.build([("o", x, ((axes[2],),))]))
    assert len(graph.axes) == 1 and not [n for n in graph.nodes if isinstance(n, View)]
    assert graph.outputs[0].dims == ((next(iter(graph.axes)),),)
