"""The canonical form and the hash: blind to names and order, and to nothing else."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis
from superopt.mugraph.canonical import canonical, canonical_mugraph, graph_hash, mugraph_hash
from superopt.mugraph.graph import Builder, Graph, Index
from superopt.mugraph.mutants import mutations, renamed_axes
from superopt.mugraph.placement import Carry, Kernel, Lane, MuGraph, Split
from superopt.mugraph.scalars import Arg
from superopt.mugraph.text import print_graph, print_mugraph
from superopt.mugraph.wellformed import check_graph, check_mugraph
from tests.mugraph.mutate import (
    commuted,
    renamed,
    reordered,
    same_structure,
    with_dead_code,
)
from tests.mugraph.placed import attention_placed, placed
from tests.strategies import graphs, sizes_for, tensors_for

QUICK = settings(max_examples=120, deadline=None)
RNG = st.randoms(use_true_random=False)


@QUICK
@given(graphs(), RNG)
def test_names_and_order_do_not_matter(graph, rng):
    want = canonical(graph)
    other = graph
    for change in rng.sample([renamed, reordered, commuted, with_dead_code], 4):
        other = change(other, rng)
        check_graph(other)
    assert print_graph(canonical(other)) == print_graph(want)
    assert canonical(other) == want
    assert graph_hash(other) == graph_hash(graph)


@QUICK
@given(graphs())
def test_the_form_is_well_formed_and_canonical(graph):
    form = canonical(graph)
    check_graph(form)
    assert canonical(form) == form
    assert [n.strides for n in form.inputs] == [n.strides for n in graph.inputs]
    assert same_structure(form, graph)


@QUICK
@given(graphs(max_steps=6))
def test_the_form_computes_the_same(graph):
    sizes = sizes_for(graph)
    tensors = tensors_for(graph, 0, sizes)
    for a, b in zip(run(graph, tensors, sizes), run(canonical(graph), tensors, sizes), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)


def _bases(count: int) -> list[Graph]:
    out: list[Graph] = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=True)
    @given(graphs(max_steps=8))
    def collect(graph: Graph) -> None:
        out.append(graph)

    collect()
    return out


def test_each_single_mutation_changes_the_hash():
    kinds: Counter[str] = Counter()
    rng = random.Random(0)
    for graph in _bases(100):
        before = graph_hash(graph)
        by_kind: dict[str, list[Graph]] = {}
        for kind, mutant in mutations(graph):
            by_kind.setdefault(kind, []).append(mutant)
        for kind, mutant in (
            (k, m) for k, ms in by_kind.items() for m in rng.sample(ms, min(3, len(ms)))
        ):
            # A change may give the same program back (two symmetric bound axes exchanged): an
            # independent judge says so, and then the hash must say so too.
            assert (graph_hash(mutant) == before) == same_structure(graph, mutant), kind
            kinds[kind] += graph_hash(mutant) != before
    print(f"{kinds.total()} mutations changed the hash: {dict(kinds)}")
    assert kinds.total() >= 200
    for kind in (
        "wiring",
        "size",
        "dtype",
        "stride",
        "constant",
        "row",
        "reduction",
        "index",
        "output dims",
        "operands swapped",
    ):
        assert kinds[kind] >= 3, f"{kind} was tested {kinds[kind]} times"


def test_two_weights_of_one_shape_swapped():
    def mlp(first: str, second: str) -> Graph:
        b, k, n = Axis("b", 4), Axis("k", 8), Axis("n", 8)
        g = Builder("mlp")
        x = g.input("x", ((b,), (k,)), "f32")
        w = {name: g.input(name, ((k,), (n,)), "f32") for name in ("gate", "up")}
        left, right = (g.reduce("add", g.map("mul", x, w[m]), [k]) for m in (first, second))
        return g.build([("o", g.map("mul", g.map("silu", left), right), ((b,), (n,)))])

    assert graph_hash(mlp("gate", "up")) != graph_hash(mlp("up", "gate"))


def test_negative_zero_is_another_literal():
    def graph(value: float) -> Graph:
        b = Builder("g")
        return b.build([("o", b.const(value), ())])

    assert graph_hash(graph(0.0)) != graph_hash(graph(-0.0))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("twisted", [False, True])
def test_axes_that_are_alike_are_told_apart_consistently(count, twisted):
    """Bound axes known by no input: a cycle of comparisons has only rotations as symmetries."""

    def graph(rng: random.Random) -> Graph:
        order = list(range(count))
        rng.shuffle(order)
        b = Builder("cycle")
        axes = [Axis(f"c{k}", 3) for k in order]
        lines = {k: b.iota(axes[k]) for k in rng.sample(range(count), count)}
        rows = [b.map("lt", lines[k], lines[(k + 1) % count]) for k in range(count)]
        if twisted:
            rows.append(b.map("le", lines[0], lines[count - 1]))
        rng.shuffle(rows)
        whole = b.map("cast", rows[0], dtype="f32")
        for r in rows[1:]:
            whole = b.map("max", whole, b.map("cast", r, dtype="f32"))
        g = b.build([("o", b.reduce("add", whole, b.axes(whole)), ())])
        return renamed(reordered(g, rng), rng)

    first = graph(random.Random(0))
    same = {seed: graph(random.Random(seed)) for seed in range(12)}
    for other in same.values():
        assert (graph_hash(other) == graph_hash(first)) == same_structure(other, first)


def test_many_interchangeable_axes_are_quick():
    b = Builder("g")
    axes = [Axis(f"z{k}", 2) for k in range(12)]
    lines = [b.map("cast", b.iota(a), dtype="f32") for a in axes]
    total = b.const(0.0)
    for a, line in zip(axes, lines, strict=True):
        total = b.map("add", total, b.reduce("add", b.map("exp", line), [a]))
    graph = b.build([("o", total, ())])
    assert graph_hash(renamed(graph, random.Random(1))) == graph_hash(graph)


# -- placed graphs -------------------------------------------------------------------------------


@QUICK
@given(graphs(), RNG)
def test_placed_graphs_too(graph, rng):
    mugraph = placed(graph, rng)
    form = canonical_mugraph(mugraph)
    check_mugraph(form)
    assert canonical_mugraph(form) == form
    other_names = {
        a: Axis(f"r{k}", a.size) for k, a in enumerate(rng.sample(graph.axes, len(graph.axes)))
    }

    def splits(level: tuple[Split, ...]) -> tuple[Split, ...]:
        return tuple(Split(other_names[s.axis], s.tile) for s in level)

    kernels = tuple(
        replace(
            k,
            name=f"other {k.name}",
            placement=replace(
                k.placement, grid=splits(k.placement.grid), loop=splits(k.placement.loop)
            ),
        )
        for k in mugraph.kernels
    )
    other = MuGraph(renamed_axes(graph, lambda a: other_names[a]), kernels)
    assert print_mugraph(canonical_mugraph(other)) == print_mugraph(form)
    assert mugraph_hash(other) == mugraph_hash(mugraph)


def test_a_placed_hash_sees_every_part():
    base = attention_placed()
    assert mugraph_hash(attention_placed("zyxw")) == mugraph_hash(base)
    (kernel,), place = base.kernels, base.kernels[0].placement
    grid, loop = place.grid[0], place.loop[0]

    def with_place(**change: object) -> Kernel:
        return replace(kernel, placement=replace(place, **change))

    changed = [
        with_place(grid=()),
        with_place(loop=()),
        with_place(lane=Lane(8, 2, 2, 2)),
        with_place(grid=(Split(grid.axis, 8),)),
        with_place(loop=(Split(loop.axis, 8),)),
        with_place(grid=(grid, Split(base.graph.outputs[0].dims[1][0], 4))),
        replace(kernel, carries=()),
        replace(kernel, carries=kernel.carries[:1]),
        replace(
            kernel,
            carries=tuple(
                replace(c, factor=("exp", ("sub", Arg(1), Arg(0)))) for c in kernel.carries
            ),
        ),
        replace(kernel, carries=(Carry(kernel.carries[0].reduce, kernel.carries[0].stat, 1.0),)),
    ]
    graphs_ = [MuGraph(base.graph, (k,)) for k in changed]
    cut = next(i for i, n in enumerate(base.graph.nodes) if getattr(n, "op", "") == "exp")
    graphs_.append(MuGraph(base.graph, (Kernel("k", (cut,), replace(place, loop=())), kernel)))
    hashes = {mugraph_hash(m) for m in (base, *graphs_)}
    assert len(hashes) == 1 + len(graphs_)
    assert mugraph_hash(base) != graph_hash(base.graph)


def test_an_index_map_keeps_its_terms():
    a, p, q = Axis("a", 6), Axis("p", 2), Axis("q", 3)

    def graph(coefs: tuple[int, int]) -> Graph:
        b = Builder("g")
        x = b.input("x", ((a,),), "f32")
        v = b.view(x, [(a, Index(((p, coefs[0]), (q, coefs[1]))))])
        return b.build([("o", v, ((p,), (q,)))])

    assert graph_hash(graph((3, 1))) != graph_hash(graph((1, 2)))
