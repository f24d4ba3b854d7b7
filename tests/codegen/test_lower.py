"""Lowering: the tile programs, run by the interpreter, compute what the graph says."""

from __future__ import annotations

import itertools

import pytest
import torch

from superopt.codegen.backends import python
from superopt.codegen.lower import NotLowerable, lower
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Index
from superopt.mugraph.placement import Kernel, MuGraph, Placement, Split
from superopt.mugraph.tileir import Loop, statements
from superopt.search import place
from superopt.search.cut import body_of
from superopt.search.cut_points import cut_points, forced_cuts
from tests.programs import attention, gated_mlp, lora, rmsnorm_linear, softmax, tensors


def placed(
    graph: Graph, grid: dict[str, int], loop: dict[str, int], stored: tuple[int, ...] = ()
) -> MuGraph:
    """The graph cut at ``stored`` and its outputs, axes placed by name where a kernel has them."""
    named = {a.name: a for a in graph.axes}
    results = tuple(dict.fromkeys(o.node for o in graph.outputs))
    groups = [*((i,) for i in stored), results]
    kept = frozenset(i for g in groups for i in g)
    kernels = []
    for n, group in enumerate(groups):
        body, _ = body_of(graph, group, kept)
        axes = place.placeable(graph, body, group, frozenset())
        inside = {a for i in body for a in graph.nodes[i].axes}
        reads = {a for i in body for j in graph.nodes[i].args for a in graph.nodes[j].axes}
        placement = Placement(
            tuple(Split(named[a], t) for a, t in grid.items() if named[a] in axes.grid),
            tuple(Split(named[a], t) for a, t in loop.items() if named[a] in inside | reads),
        )
        kernels.append(place.kernel(graph, f"k{n}", group, body, placement))
    return MuGraph(graph, tuple(kernels))


def check(mugraph: MuGraph, seed: int | None = None, tolerance: float = 2e-5) -> None:
    graph = mugraph.graph
    xs = tensors(graph)
    flat = {}
    for node, x in zip(graph.inputs, xs, strict=True):
        flat[node.name] = x.reshape([a.size for dim in node.dims for a in dim])
    got = python.run(lower(mugraph), flat, seed=seed)
    want = run(graph, xs)
    for k, ref in enumerate(want):
        value = got[f"out{k}"].reshape(ref.shape).double()
        assert torch.allclose(value, ref, rtol=tolerance, atol=tolerance, equal_nan=True)


CASES = [
    (rmsnorm_linear(), {"b": 3, "n": 16}, {"k": 16}),
    (rmsnorm_linear(late=False), {"b": 3, "n": 16}, {"k": 16}),
    (rmsnorm_linear(b=1, k=7, n=1), {"b": 1, "n": 16}, {}),
    (lora(), {"b": 3, "n": 16}, {"k": 16}),
    (lora(), {"n": 7}, {}),
    (attention(), {"h": 1, "q": 4}, {"t": 16}),
    (attention(), {"h": 2, "q": 9}, {}),
    (attention(causal=3), {"h": 1, "q": 4}, {"t": 16}),
    (attention(causal=0, q=37), {"h": 1, "q": 8}, {"t": 8}),
    (attention(banned=20), {"h": 1, "q": 4}, {"t": 16}),
    (attention(banned=37), {"h": 1, "q": 4}, {"t": 16}),
    (softmax(), {"b": 2}, {"t": 16}),
    (softmax(), {"b": 2}, {}),
    (gated_mlp(), {"b": 3, "o": 8}, {"n": 16, "k": 16}),
    (gated_mlp(o=None), {"b": 3, "n": 8}, {"k": 16}),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_one_kernel_computes_the_graph(case: int) -> None:
    graph, grid, loop = CASES[case]
    check(placed(graph, grid, loop), seed=case)


def test_every_cut_computes_the_graph() -> None:
    tried = 0
    for graph, grid, loop in CASES[:1] + CASES[3:4] + CASES[5:6] + CASES[11:12] + CASES[13:14]:
        results = {o.node for o in graph.outputs}
        points = [i for i in cut_points(graph) if i not in results]
        for count in range(len(points) + 1):
            for stored in itertools.combinations(points, count):
                check(placed(graph, grid, loop, tuple(sorted(stored))))
                tried += 1
    assert tried >= 40, f"only {tried} cuts were tried"


def test_attention_runs_in_one_pass_with_carried_accumulators() -> None:
    mugraph = placed(attention(), {"h": 1, "q": 4}, {"t": 16})
    assert len(mugraph.kernels[0].carries) == 2
    loops = [s for s in lower(mugraph)[0].body if isinstance(s, Loop)]
    assert [s.axis.name for s in loops] == ["t"]


def test_lora_sums_into_one_accumulator() -> None:
    (program,) = lower(placed(lora(), {"b": 3, "n": 16}, {"k": 16}))
    wide = [t for t in program.tiles if {a.name for a in t.axes} == {"b", "n"}]
    assert len(wide) == 1, str(program)


def test_gated_mlp_passes_once_over_its_input() -> None:
    (program,) = lower(placed(gated_mlp(o=None), {"b": 3, "n": 16}, {"k": 16}))
    loops = [s for s in program.body if isinstance(s, Loop)]
    assert len(loops) == 1
    assert sum(s.reduce == "add" for s in statements(loops[0].body)) == 2


def test_a_reduction_read_through_a_view_is_refused() -> None:
    b, k, c = Axis("b", 4), Axis("k", 8), Axis("c", 3)
    g = Builder("shifted")
    x = g.input("x", ((b,), (k,)), "f32")
    moved = g.view(g.reduce("add", x, [k]), [(b, Index(((c, 1),), 1))])
    graph = g.build([("o", moved, ((c,),))])
    assert forced_cuts(graph)
    with pytest.raises(NotLowerable, match="layout"):
        lower(MuGraph(graph, (Kernel("k0", (graph.outputs[0].node,), Placement()),)))
    check(placed(graph, {"c": 2}, {}, tuple(forced_cuts(graph))))


def test_an_input_may_be_an_output_that_others_read() -> None:
    a, c = Axis("a", 7), Axis("c", 7)
    g = Builder("copied")
    x, w = g.input("x", ((a,),), "f32"), g.input("w", ((c,),), "f32")
    dot = g.reduce("add", g.map("mul", x, g.view(w, [(c, Index(((a, 1),)))])), [a])
    graph = g.build([("y", dot, ()), ("z", w, ((c,),))])
    kernels = [Kernel("k0", (w,), Placement()), Kernel("k1", (dot,), Placement())]
    for order in (kernels, kernels[::-1]):
        check(MuGraph(graph, tuple(order)), seed=1)


@pytest.mark.parametrize("out", ["f32", "bf16"])
def test_a_factor_is_rounded_only_where_the_result_is(out: str) -> None:
    b, k, n = Axis("b", 3), Axis("k", 20), Axis("n", 9)
    g = Builder("mixed")
    x, w = g.input("x", ((b,), (k,)), "f32"), g.input("w", ((k,), (n,)), "bf16")
    product = g.map("mul", g.map("exp", x), g.map("cast", w, dtype="f32"))
    y = g.map("cast", g.reduce("add", product, [k]), dtype=out)
    graph = g.build([("y", y, ((b,), (n,)))])
    (program,) = lower(placed(graph, {"b": 3, "n": 9}, {}))
    assert {t.dtype for t in program.tiles if k in t.axes} == {out}, str(program)


@pytest.mark.parametrize("out", ["f32", "bf16"])
@pytest.mark.parametrize("also", [False, True])
def test_a_stored_factor_is_rounded_only_where_the_result_is(out: str, also: bool) -> None:
    """also: whether something else reads it too, which then has the value in full."""
    b, k, n = Axis("b", 2), Axis("k", 32), Axis("n", 16)
    g = Builder("factor")
    x, w = g.input("x", ((b,), (k,)), "f32"), g.input("w", ((k,), (n,)), "bf16")
    y = g.map("exp", x)
    o = g.reduce("add", g.map("mul", y, g.map("cast", w, dtype="f32")), [k])
    o = g.map("add", o, g.reduce("max", y, [k])) if also else o
    o = o if out == "f32" else g.map("cast", o, dtype=out)
    graph = g.build([("y0", o, ((b,), (n,)))])
    kernels = (Kernel("k0", (y,), Placement()), Kernel("k1", (o,), Placement()))
    programs = lower(MuGraph(graph, kernels))
    (stored,) = {b for p in programs for b in p.buffers if b.space == "scratch"}
    assert stored.dtype == ("bf16" if out == "bf16" and not also else "f32")
    tx, tw = torch.randn(2, 32), torch.randn(32, 16).bfloat16()
    got = python.run(programs, {"x": tx, "w": tw})["out0"]
    wanted = tx.double().exp() @ tw.double()
    if also:
        wanted = wanted + tx.double().exp().amax(1, keepdim=True)
    assert (got.double() - wanted).abs().max() < 2e-2 * wanted.abs().max()
