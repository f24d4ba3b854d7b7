"""Values that are equal but for names: one class, one computation; and the quick normal form."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.mugraph.algebras.floats import run
from superopt.mugraph.alike import alike
from superopt.mugraph.axes import Axis
from superopt.mugraph.canonical import graph_hash
from superopt.mugraph.graph import Builder, Graph, Reduce, View, remap
from superopt.mugraph.mutants import mutations
from superopt.mugraph.share import classes, share
from superopt.mugraph.text import print_graph
from superopt.mugraph.wellformed import check_graph
from tests.mugraph.mutate import renamed
from tests.programs import PROGRAMS
from tests.strategies import graphs, sizes_for, tensors_for

QUICK = settings(max_examples=150, deadline=None)
RNG = st.randoms(use_true_random=False)


def values(graph: Graph, like: Graph) -> list[torch.Tensor]:
    """The outputs in float64 on the inputs that ``like`` takes."""
    sizes = sizes_for(like)
    return run(graph, tensors_for(like, sizes=sizes), sizes)


def close(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(
        x.shape == y.shape and torch.allclose(x, y, 1e-12, 1e-12, equal_nan=True)
        for x, y in zip(a, b, strict=True)
    )


@QUICK
@given(graphs())
def test_sharing_keeps_the_meaning(graph: Graph) -> None:
    shared = share(graph)
    check_graph(shared)
    assert close(values(shared, graph), values(graph, graph))
    assert print_graph(share(shared)) == print_graph(shared)
    sums = [sum(isinstance(n, Reduce) for n in g.nodes) for g in (graph.pruned(), shared)]
    assert sums[1] <= sums[0]


@QUICK
@given(graphs(), RNG)
def test_the_quick_form_has_the_meaning(graph: Graph, rng: random.Random) -> None:
    form = alike(graph)
    check_graph(form.graph)
    sizes = sizes_for(graph)
    tensors = dict(
        zip((n.name for n in graph.inputs), tensors_for(graph, sizes=sizes), strict=True)
    )
    names = [graph.nodes[i].name for i in form.inputs]  # type: ignore[attr-defined]
    assert [n.name for n in form.graph.inputs] == [f"in{k}" for k in range(len(names))]
    assert close(run(form.graph, [tensors[n] for n in names], sizes), values(graph, graph))


def in_order(graph: Graph) -> Graph:
    """The graph with its inputs in the order in which it reads them, which the quick form forgets."""
    first = alike(graph).inputs
    order = [*first, *(i for i in range(len(graph.nodes)) if i not in first)]
    at = {old: new for new, old in enumerate(order)}
    nodes = tuple(remap(graph.nodes[i], at) for i in order)
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, nodes, outputs)


def test_programs_that_are_alike_come_out_equal_and_no_others() -> None:
    rng, tried = random.Random(3), Counter[str]()
    for make in PROGRAMS.values():
        graph = make()
        own = print_graph(alike(graph).graph)
        assert print_graph(alike(renamed(graph, rng)).graph) == own
        for _, mutant in mutations(graph):
            if len(alike(mutant).inputs) != len(graph.inputs):
                continue
            if print_graph(alike(mutant).graph) == own:
                tried["equal"] += 1
                assert graph_hash(in_order(mutant)) == graph_hash(in_order(graph))
            else:
                tried["other"] += 1
    assert tried["other"] >= 300, tried


H, K, T, N = Axis("h", 6), Axis("k", 6), Axis("t", 4), Axis("n", 6)


def residual() -> Graph:
    """(x + x w) + (x + x w) v, the value in brackets under two names of its axis."""
    b = Builder("residual")
    x = b.input("x", ((T,), (H,)), "f32")
    w = b.input("w", ((K,), (H,)), "f32")
    v = b.input("v", ((K,), (H,)), "f32")

    def stream(axis: Axis, over: Axis) -> int:
        xs, ws = b.rename(x, {H: over}), b.rename(w, {K: over, H: axis})
        return b.map("add", b.rename(x, {H: axis}), b.reduce("add", b.map("mul", xs, ws), [over]))

    inner = b.map("mul", stream(K, N), v)
    out = b.map("add", stream(H, N), b.reduce("add", inner, [K]))
    return b.build([("y", out, ((T,), (H,)))])


def test_a_residual_is_computed_once_and_read_under_two_names() -> None:
    graph = residual()
    assert sum(isinstance(n, Reduce) for n in graph.nodes) == 3
    shared = share(graph)
    assert sum(isinstance(n, Reduce) for n in shared.nodes) == 2
    views = [n for n in shared.nodes if isinstance(n, View)]
    assert any(
        isinstance(shared.nodes[v.operand].args and shared.nodes[v.operand], object) for v in views
    )
    assert close(values(shared, graph), values(graph, graph))


def test_classes_tell_axes_apart() -> None:
    """A sum over rows is none over columns, and a product of two readings none of one twice."""
    b = Builder("f")
    x = b.input("x", ((T,), (H,)), "f32")
    y = b.input("y", ((H,), (K,)), "f32")
    rows, columns = b.reduce("add", y, [H]), b.reduce("add", y, [K])
    twice = b.map("mul", x, x)
    apart = b.map("mul", x, b.rename(x, {H: K}))
    graph = Graph("f", tuple(b.nodes), ())
    number = [c.number for c in classes(graph)]
    assert number[rows] != number[columns]
    assert number[twice] != number[apart]
    renamed_sum = b.reduce("add", b.rename(y, {H: N}), [N])
    number = [c.number for c in classes(Graph("f", tuple(b.nodes), ()))]
    assert number[renamed_sum] == number[rows]
