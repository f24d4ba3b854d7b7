"""What the search finds by itself in the programs that it is for, and how regions are cut."""

import time

import pytest

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Map, Reduce
from superopt.search.enumerate import explore
from superopt.search.regions import Region, regions, schedule, through_casts
from tests import programs


def class_with(space, op, args=None, axes=None):
    """The classes that have a derivation by ``op`` (with exactly these arguments, if given)."""
    return [
        c.id
        for c in space.classes
        for d in c.derivations
        if d.op == op
        and (args is None or set(d.args) == set(args))
        and (axes is None or [a.name for a in d.over] == axes)
    ]


def only(graph):
    (region,) = regions(graph)
    return region, explore(graph, region)


def node(graph, space, name):
    """The class of an input."""
    i = next(i for i, n in enumerate(graph.nodes) if getattr(n, "name", None) == name)
    return next(c.id for c in space.classes if i in c.nodes)


def node_of(space, graph, value):
    """The class of a literal."""
    i = next(i for i, n in enumerate(graph.nodes) if getattr(n, "value", None) == value)
    return next(c.id for c in space.classes if i in c.nodes)


@pytest.mark.parametrize("late", [True, False])
def test_rmsnorm_linear_divides_after_the_contraction(late):
    graph = programs.rmsnorm_linear(late=late)
    region, space = only(graph)
    assert space.closed
    x, g, w = (node(graph, space, n) for n in "xgw")
    (xg,) = class_with(space, "mul", (x, g))
    (xgw,) = class_with(space, "mul", (xg, w))
    (late_sum,) = class_with(space, "reduce:add", (xgw,), ["k"])
    (root,) = class_with(space, "rsqrt")
    target = space.classes[space.targets[region.targets[0]]]
    assert any(d.op == "mul" and set(d.args) == {root, late_sum} for d in target.derivations)


def test_lora_accumulates_both_products():
    graph = programs.lora()
    region, space = only(graph)
    assert space.closed
    x, w, a, c = (node(graph, space, n) for n in "xwac")
    (xa,) = class_with(space, "mul", (x, a))
    (low,) = class_with(space, "reduce:add", (xa,))
    (lowc,) = class_with(space, "mul", (low, c))
    (left,) = class_with(space, "reduce:add", (lowc,), ["r"])
    (xw,) = class_with(space, "mul", (x, w))
    (right,) = class_with(space, "reduce:add", (xw,), ["k"])
    target = space.classes[space.targets[region.targets[0]]]
    assert any(d.op == "add" and set(d.args) == {left, right} for d in target.derivations)
    # Also x (w + a c): the weights merged beforehand.
    (ac,) = class_with(space, "mul", (a, c))
    (merged,) = class_with(space, "reduce:add", (ac,), ["r"])
    assert class_with(space, "add", (w, merged))


def test_gated_mlp_is_closed():
    graph = programs.gated_mlp()
    _, space = only(graph)
    assert space.closed
    assert {d.op for c in space.classes for d in c.derivations} >= {"silu", "mul", "reduce:add"}


def test_attention_divides_after_the_contraction():
    graph = programs.attention()
    parts = regions(graph)
    assert len(parts) == 2  # the maximum is a cut: scores below it, the weighted sum above
    region = parts[1]
    space = explore(graph, region)
    assert space.closed
    v = node(graph, space, "v")
    exp_node = next(i for i in region.nodes if getattr(graph.nodes[i], "op", "") == "exp")
    e = next(c.id for c in space.classes if exp_node in c.nodes)
    (ev,) = class_with(space, "mul", (e, v))
    top = class_with(space, "reduce:add", (ev,), ["t"])
    (total,) = [
        c.id
        for c in space.classes
        for d in c.derivations
        if d.op == "reduce:add" and d.args == (e,)
    ]
    (inverse,) = [
        c.id for c in space.classes for d in c.derivations if d.op == "recip" and d.args == (total,)
    ]
    target = space.classes[space.targets[region.targets[0]]]
    assert any(d.op == "mul" and set(d.args) == {inverse, top[0]} for d in target.derivations)


def test_spaces_close_quickly():
    pytest.importorskip("superopt.search.native", exc_type=ImportError)
    for make in (
        programs.rmsnorm_linear,
        programs.lora,
        programs.gated_mlp,
        programs.attention,
        programs.softmax,
    ):
        graph = make()
        started = time.perf_counter()
        assert all(explore(graph, r, engine="cpp").closed for r in regions(graph))
        assert time.perf_counter() - started < 1


# -- regions -------------------------------------------------------------------------------------


def chain(length):
    """A residual chain: x <- x + silu(x w)."""
    k, b = Axis("k", 4), Axis("b", 3)
    j = Axis("j", 4)
    g = Builder("chain")
    x = g.input("x", ((b,), (k,)), "f32")
    for n in range(length):
        w = g.input(f"w{n}", ((k,), (j,)), "f32")
        y = g.map("silu", g.reduce("add", g.map("mul", x, w), [k]))
        x = g.map("add", x, g.rename(y, {j: k}))
    return g.build([("o", x, ((b,), (k,)))])


def deep(length):
    """A long chain inside one layer."""
    b = Axis("b", 3)
    g = Builder("deep")
    x = g.input("x", ((b,),), "f32")
    for _ in range(length):
        x = g.map("add", x, g.map("silu", x))
    return g.build([("o", x, ((b,),))])


@pytest.mark.parametrize(
    "graph",
    [chain(6), deep(100), programs.attention(causal=0), programs.rmsnorm_linear(), programs.lora()],
    ids=lambda g: g.name,
)
def test_regions_partition_the_algebraic_nodes_and_can_be_scheduled(graph):
    parts = regions(graph)
    owner = {}
    for n, r in enumerate(parts):
        assert len(r.nodes) <= 80
        for i in r.nodes:
            assert i not in owner
            owner[i] = n
    for r in parts:
        inside = set(r.nodes)
        for i in r.nodes:
            for a in graph.nodes[i].args:
                assert a in inside or through_casts(graph, a) in {*r.leaves, *inside}
        # Convex: nothing outside lies between two nodes of the region.
        below = set()
        for i, nd in enumerate(graph.nodes):
            if i in inside:
                assert not below & set(nd.args)
            elif any(a in inside or a in below for a in nd.args):
                below.add(i)
    done = set()
    for item in schedule(graph, parts):
        if isinstance(item, Region):
            assert done >= set(item.leaves)
            done |= set(item.nodes)
        else:
            assert done >= set(graph.nodes[item].args)
            done.add(item)
    assert done >= {o.node for o in graph.outputs}


def test_a_large_region_is_cut():
    parts = regions(deep(100), max_nodes=20)
    assert len(parts) > 5
    assert max(len(r.nodes) for r in parts) <= 20


def test_casts_are_seen_through_and_integers_are_leaves():
    b = Axis("b", 4)
    g = Builder("casts")
    x = g.input("x", ((b,),), "bf16")
    i = g.input("i", ((b,),), "i64")
    y = g.map("mul", g.map("cast", x, dtype="f32"), g.map("cast", x, dtype="f32"))
    z = g.map("mul", g.map("cast", y, dtype="bf16"), g.map("cast", i, dtype="bf16"))
    graph = g.build([("o", z, ((b,),))])
    (region,) = regions(graph)
    kinds = [type(graph.nodes[n]) for n in region.nodes]
    assert set(kinds) == {Map}
    assert sum(graph.nodes[n].op == "mul" for n in region.nodes) == 2
    space = explore(graph, region)
    assert space.closed
    assert all(not isinstance(graph.nodes[n], Reduce) for n in region.leaves)


def test_literals_that_are_powers_of_each_other_do_not_multiply_the_space():
    """Attention over normalized q and k with gains: eps and the scale are powers of two."""

    def normalized(b, x, g, d, eps):
        mean = b.map("div", b.reduce("add", b.map("mul", x, x), [d]), b.size_of(d))
        return b.map("mul", b.map("mul", x, b.map("rsqrt", b.map("add", mean, eps))), g)

    b = Builder("qk_norm")
    q, t, d = Axis("q", 8), Axis("t", 16), Axis("d", 4)
    eps = b.const(2.0**-23)
    gains = [b.input(name, ((d,),), "f32") for name in ("qg", "kg")]
    x = normalized(b, b.input("x", ((q,), (d,)), "f32"), gains[0], d, eps)
    k = normalized(b, b.input("k", ((t,), (d,)), "f32"), gains[1], d, eps)
    s = b.map("div", b.reduce("add", b.map("mul", x, k), [d]), b.const(8.0))
    graph = b.build([("s", s, ((q,), (t,)))])
    region, space = only(graph)
    assert space.closed and space.stats["states"] < 100_000
    (eighth,) = class_with(space, "recip", (node_of(space, graph, 8.0),))
    target = space.classes[space.targets[region.targets[0]]]
    assert any(d.op == "mul" and eighth in d.args for d in target.derivations)
