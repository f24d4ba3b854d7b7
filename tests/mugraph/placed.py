"""Placed graphs for tests: a random legal placement of any graph, and attention in one pass."""

from __future__ import annotations

import random

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Input, Reduce
from superopt.mugraph.placement import Carry, Kernel, Lane, MuGraph, Placement, Split, kernel_body
from superopt.mugraph.scalars import Arg


def placed(graph: Graph, rng: random.Random) -> MuGraph:
    """A random legal cut into kernels, and a random legal placement of each."""
    must = {o.node for o in graph.outputs}
    cuts = [
        i
        for i, n in enumerate(graph.nodes)
        if i in must or (not isinstance(n, Input) and rng.random() < 0.2)
    ]
    bare = MuGraph(graph, tuple(Kernel(f"k{p}", (i,), Placement()) for p, i in enumerate(cuts)))
    kernels = []
    for p, i in enumerate(cuts):
        body = kernel_body(bare, p)
        reduced = {a for j in body if isinstance(n := graph.nodes[j], Reduce) for a in n.over}
        grid = [a for a in graph.nodes[i].axes if a not in reduced and rng.random() < 0.6]
        loop = [a for a in sorted(reduced, key=lambda a: a.name) if rng.random() < 0.6]
        lane = Lane(*(rng.choice((1, 2, 8)) for _ in range(4)))
        place = Placement(
            tuple(Split(a, rng.randint(1, 4)) for a in grid),
            tuple(Split(a, rng.randint(1, 4)) for a in loop),
            lane,
        )
        kernels.append(Kernel(f"k{p}", (i,), place))
    return MuGraph(graph, tuple(kernels))


def attention_placed(names: str = "qtde") -> MuGraph:
    """Softmax attention in one kernel and one pass over the keys, its two sums carried."""
    q, t, d, e = (Axis(n, s) for n, s in zip(names, (9, 37, 8, 8), strict=True))
    b = Builder("attention")
    query = b.input("q", ((q,), (d,)), "f32")
    key = b.input("k", ((d,), (t,)), "f32")
    value = b.input("v", ((t,), (e,)), "f32")
    s = b.reduce("add", b.map("mul", query, key), [d])
    m = b.reduce("max", s, [t])
    p = b.map("exp", b.map("sub", s, m))
    total = b.reduce("add", p, [t])
    out = b.reduce("add", b.map("mul", p, value), [t])
    y = b.map("div", out, total)
    graph = b.build([("o", y, ((q,), (e,)))])  # nothing is dead: ids stay
    factor = ("where", ("eq", Arg(0), Arg(1)), 1.0, ("exp", ("sub", Arg(0), Arg(1))))
    place = Placement((Split(q, 4),), (Split(t, 16),), Lane(8, 2, 2, 1))
    carries = (Carry(total, m, factor), Carry(out, m, factor))
    return MuGraph(graph, (Kernel("k0", (y,), place, carries),))
