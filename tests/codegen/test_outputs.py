"""Kernels that store several results, of which some need others or have fewer axes."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from superopt.codegen.lower import NotLowerable, lower
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Reduce
from superopt.mugraph.placement import MuGraph, Placement, Split
from superopt.mugraph.wellformed import check_graph
from superopt.search import place
from superopt.search.cut import body_of
from superopt.search.cut_points import fusible
from tests.codegen.harness import check

SIZES = (1, 3, 17, 40)


def drawn(rng: random.Random) -> Graph | None:
    """A program of rows and columns, and of what a value needs a few are results as well."""
    b = Builder("outputs")
    axes = [Axis(n, rng.choice(SIZES)) for n in "abk"]
    x, y = (b.input(n, tuple((a,) for a in rng.sample(axes, 2)), "f32") for n in "xy")
    made = [b.map("mul", x, b.const(0.5))]
    for _ in range(rng.randint(3, 9)):
        z = made[-1] if rng.random() < 0.7 else rng.choice(made)
        other = rng.choice([x, y, *made])
        way = rng.choice(["add", "sub", "mul", "max", "tanh", "sum", "sum", "peak", "exp"])
        if way in ("sum", "peak"):
            if not b.axes(z):
                continue
            over = rng.choice(b.axes(z))
            if way == "peak":
                z = b.reduce("max", z, [over])
            else:
                z = b.map("div", b.reduce("add", z, [over]), b.size_of(over))
        elif way == "exp":
            z = b.map("exp", b.map("tanh", z))
        else:
            z = b.map(way, z) if way == "tanh" else b.map(way, z, other)
            z = b.map("mul", z, b.const(0.5)) if way == "mul" else z
        if z not in (x, y, *made):
            made.append(z)
    last = made[-1]
    below = [i for i in made[:-1] if i in Graph("", tuple(b.nodes), ()).reachable([last])]
    results = [last]
    for i in rng.sample(below, min(len(below), 3)):
        if all({*b.axes(i)} <= {*b.axes(j)} or {*b.axes(i)} >= {*b.axes(j)} for j in results):
            results.append(i)
    if len(results) < 2:
        return None
    outs = [(f"o{n}", i, tuple((a,) for a in b.axes(i))) for n, i in enumerate(results)]
    return b.build(outs)


def one_kernel(graph: Graph, rng: random.Random) -> MuGraph | None:
    """All results in one kernel, with any tiles on the grid and in the loops."""
    group = tuple(sorted(o.node for o in graph.outputs))
    body, reads = body_of(graph, group, frozenset(group))
    if not fusible(graph, body, reads):
        return None
    axes = place.placeable(graph, body, group, frozenset())
    reduced = {a for i in body if isinstance(n := graph.nodes[i], Reduce) for a in n.over}
    inside = {a for i in body for a in graph.nodes[i].axes} | reduced
    grid = [a for a in axes.grid if rng.random() < 0.7]
    loop = [a for a in sorted(inside - {*grid}, key=lambda a: a.name) if rng.random() < 0.5]
    rng.shuffle(loop)
    splits = [tuple(Split(a, rng.choice([1, 2, 16, 64])) for a in level) for level in (grid, loop)]
    return MuGraph(graph, (place.kernel(graph, "k0", group, body, Placement(*splits)),))


def many(count: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(count):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        graph = drawn(rng)
        mugraph = graph and one_kernel(graph, rng)
        if graph is None or mugraph is None:
            continue
        check_graph(graph)
        try:
            programs = lower(mugraph)
        except NotLowerable:
            seen["not lowerable"] += 1
            continue
        xs = [torch.randn([a.size for (a,) in n.dims]) for n in graph.inputs]
        held = {n.name: x for n, x in zip(graph.inputs, xs, strict=True)}
        want = {f"out{k}": y for k, y in enumerate(run(graph, xs))}
        # What a result is a small difference of may be as large as the inputs.
        largest = max(float(x.abs().max()) for x in xs)
        check(programs, held, want, tol=2e-5, terms=dict.fromkeys(want, largest))
        nodes = [o.node for o in graph.outputs]
        seen["tried"] += 1
        seen["needed"] += any(i in graph.reachable([j]) for i in nodes for j in nodes if i != j)
        seen["fewer axes"] += len({graph.nodes[i].axes for i in nodes}) > 1
        seen["looped"] += bool(mugraph.kernels[0].placement.loop)
    print(dict(seen))
    assert seen["tried"] >= count // 3, seen
    assert min(seen["needed"], seen["fewer axes"], seen["looped"]) >= count // 10, seen
    assert seen["not lowerable"] <= seen["tried"] // 4, seen


def test_any_results_in_one_kernel() -> None:
    many(40)


@pytest.mark.full
def test_many_results_in_one_kernel() -> None:
    many(600)
