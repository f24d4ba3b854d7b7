"""Split reductions: a reduced axis on the grid, its parts merged, on both backends."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from superopt.codegen.lower import lower
from superopt.errors import IllFormedGraph
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis, Sym, extent
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.parts import why_not_split
from superopt.mugraph.placement import Kernel, MuGraph, Placement, Split
from superopt.mugraph.text import parse_mugraph, print_mugraph
from superopt.mugraph.wellformed import check_mugraph
from superopt.search import place
from superopt.search.cut import body_of
from tests.codegen import harness
from tests.programs import attention, gated_mlp, lora, rmsnorm_linear, softmax, tensors

TOLERANCE = 2e-5


def placed(graph: Graph, grid: dict[str, int], loop: dict[str, int]) -> MuGraph:
    """The graph as one kernel, with axes placed by name; reduced ones may be on the grid."""
    named = {a.name: a for a in graph.axes}
    outputs = tuple(dict.fromkeys(o.node for o in graph.outputs))
    body, _ = body_of(graph, outputs, frozenset(outputs))
    placement = Placement(
        tuple(Split(named[a], t) for a, t in grid.items()),
        tuple(Split(named[a], t) for a, t in loop.items()),
    )
    return MuGraph(graph, (place.kernel(graph, "k0", outputs, body, placement),))


def check(mugraph: MuGraph, xs: list[torch.Tensor], sizes: dict[str, int] | None = None) -> None:
    """Both backends, against the float64 reference."""
    graph = mugraph.graph
    check_mugraph(mugraph)
    flat = {
        node.name: x.reshape([extent(a.size, sizes) for dim in node.dims for a in dim])
        for node, x in zip(graph.inputs, xs, strict=True)
    }
    want = {f"out{k}": ref for k, ref in enumerate(run(graph, xs, sizes))}
    programs = lower(mugraph)
    assert any(p.parts for p in programs)
    got = harness.check(programs, flat, None, sizes, tol=TOLERANCE)
    for name, ref in want.items():
        harness.same(got[name].reshape(ref.shape), ref, name, TOLERANCE)


def _sums(b: int = 3, t: int = 50) -> Graph:
    """A maximum, a minimum and a product over one axis, and a logarithm of a sum of exponentials."""
    ab, at = Axis("b", b), Axis("t", t)
    g = Builder("sums")
    x = g.input("x", ((ab,), (at,)), "f32")
    top = g.reduce("max", x, [at])
    total = g.reduce("add", g.map("exp", g.map("sub", x, top)), [at])
    low = g.reduce("min", x, [at])
    scaled = g.map("add", g.map("mul", x, g.const(0.05)), g.const(1.0))
    product = g.reduce("mul", scaled, [at])
    outs = [g.map("add", g.map("log", total), top), low, product]
    return g.build([(f"o{k}", o, ((ab,),)) for k, o in enumerate(outs)])


CASES = [
    (rmsnorm_linear(), {"b": 3, "n": 16, "k": 16}, {}),
    (rmsnorm_linear(), {"k": 7, "n": 36}, {"k": 4}),
    (rmsnorm_linear(b=1, k=129, n=3), {"k": 64}, {"k": 16}),
    (lora(), {"n": 7, "k": 24}, {}),
    (gated_mlp(o=None), {"b": 3, "k": 13, "n": 8}, {"k": 5}),
    (attention(), {"h": 1, "t": 16}, {}),
    (attention(q=1), {"t": 10}, {"t": 4}),
    (attention(causal=3), {"h": 1, "q": 4, "t": 16}, {"t": 8}),
    (attention(causal=0, q=37), {"h": 1, "q": 8, "t": 5}, {}),
    (attention(banned=20), {"h": 1, "t": 8}, {"t": 4}),  # whole parts masked
    (attention(banned=37), {"t": 8}, {}),  # all masked: NaN, as the source
    (_sums(), {"b": 2, "t": 16}, {}),
    (_sums(t=7), {"t": 1}, {}),
    (_sums(t=33), {"t": 32}, {"t": 8}),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_parts_give_what_the_whole_gives(case: int) -> None:
    graph, grid, loop = CASES[case]
    check(placed(graph, grid, loop), tensors(graph, case))


def test_random_tiles() -> None:
    rng, done = random.Random(0), 0
    makers = [
        lambda: attention(h=2, q=rng.choice([1, 5]), t=rng.randint(2, 70), d=rng.choice([3, 8])),
        lambda: rmsnorm_linear(b=rng.randint(1, 4), k=rng.randint(2, 90), n=rng.randint(1, 20)),
        lambda: _sums(rng.randint(1, 3), rng.randint(2, 90)),
    ]
    for maker in itertools.islice(itertools.cycle(makers), 12):
        graph = maker()
        axis = "k" if graph.name == "rmsnorm_linear" else "t"
        size = next(a.size for a in graph.axes if a.name == axis)
        tile = rng.randint(1, size - 1)
        loop = {axis: rng.randint(1, tile)} if rng.random() < 0.5 else {}
        check(placed(graph, {axis: tile}, loop), tensors(graph, done))
        done += 1
    assert done == 12


def test_an_axis_of_run_time_size_may_leave_parts_empty() -> None:
    ab, at = Axis("b", 3), Axis("t", Sym("T", 1, 64))
    g = Builder("long")
    x = g.input("x", ((ab,), (at,)), "f32")
    v = g.input("v", ((at,),), "f32")
    p = g.map("exp", g.map("sub", x, g.reduce("max", x, [at])))
    top = g.reduce("add", g.map("mul", p, v), [at])
    graph = g.build([("o", g.map("div", top, g.reduce("add", p, [at])), ((ab,),))])
    for size in (1, 15, 16, 17, 48, 64):
        gen = torch.Generator().manual_seed(size)
        xs = [torch.randn(3, size, generator=gen), torch.randn(size, generator=gen)]
        check(placed(graph, {"t": 16}, {"t": 8}), xs, {"T": size})


def test_narrow_values_are_added_up_in_single_precision() -> None:
    ak = Axis("k", 4096)
    g = Builder("ones")
    x = g.input("x", ((ak,),), "bf16")
    graph = g.build([("o", g.reduce("add", x, [ak]), ())])
    programs = lower(placed(graph, {"k": 64}, {}))
    got = harness.check(programs, {"x": torch.ones(4096, dtype=torch.bfloat16)})
    assert got["out0"].item() == 4096  # in bfloat16, 256 + 1 is 256


def test_what_is_no_split_is_told_apart() -> None:
    softmax_graph = softmax(t=37)
    with pytest.raises(IllFormedGraph, match="an output has the axis 't'"):
        check_mugraph(placed(softmax_graph, {"t": 8}, {}))
    ab, at = Axis("b", 3), Axis("t", 37)
    g = Builder("variance")  # two passes: the second needs the whole mean
    x = g.input("x", ((ab,), (at,)), "f32")
    mean = g.map("div", g.reduce("add", x, [at]), g.size_of(at))
    dev = g.map("sub", x, mean)
    graph = g.build([("o", g.reduce("add", g.map("mul", dev, dev), [at]), ((ab,),))])
    with pytest.raises(IllFormedGraph, match="needs another one to be complete"):
        check_mugraph(placed(graph, {"t": 8}, {}))
    both = rmsnorm_linear()
    outputs = (both.outputs[0].node,)
    body, _ = body_of(both, outputs, frozenset(outputs))
    k = next(a for a in both.axes if a.name == "k")
    assert why_not_split(both, body, outputs, k, {}) is None


def test_the_text_of_a_split_round_trips() -> None:
    for graph, grid, loop in CASES[:9]:
        mugraph = placed(graph, grid, loop)
        text = print_mugraph(mugraph)
        assert print_mugraph(parse_mugraph(text)) == text


def test_the_search_offers_parts_where_they_merge() -> None:
    graph = attention(h=1, q=1, t=4096, d=64)
    outputs = (graph.outputs[0].node,)
    body, _ = body_of(graph, outputs, frozenset(outputs))
    axes = place.placeable(graph, body, outputs, frozenset())
    assert [a.name for a in axes.split] == ["t"]
    grids, _ = place.choices(axes, quick=False)
    assert [s.tile for s in grids[0]] == [4096, 2048, 1024, 512, 256, 128, 64]
    assert math.prod(len(x) for x in grids) <= place.MOST_GRIDS
    assert Kernel("k", outputs, Placement()).carries == ()


def test_a_loop_over_another_axis_beside_parts() -> None:
    graph = attention(h=1, q=5, t=257, d=80)
    for loop in ({"e": 64}, {"d": 32}, {"e": 64, "t": 64}, {"t": 32, "d": 16}):
        check(placed(graph, {"t": 192}, loop), tensors(graph))
    masked = attention(h=1, q=3, t=50, d=40, banned=45)
    check(placed(masked, {"t": 16}, {"e": 16}), tensors(masked))
