"""Each rule has a bad graph that breaks it; the error names the axis and the operator."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.errors import IllFormedGraph
from superopt.mugraph.axes import Axis, Stride, Sym
from superopt.mugraph.evaluate import index_values
from superopt.mugraph.graph import (
    Const,
    Gather,
    Graph,
    Index,
    Input,
    Iota,
    Map,
    Node,
    Output,
    Reduce,
    SizeOf,
    View,
)
from superopt.mugraph.placement import Carry, Kernel, Lane, MuGraph, Placement, Split
from superopt.mugraph.rules import index_range
from superopt.mugraph.scalars import Arg
from superopt.mugraph.wellformed import check_graph, check_mugraph
from tests.mugraph.placed import attention_placed, placed
from tests.strategies import graphs

B, K, N, T = Axis("b", 4), Axis("k", 6), Axis("n", 3), Axis("t", Sym("tokens", 1, 9))
ONE = Stride(1)
X = Input((B, K), "f32", "x", ((B,), (K,)), (Stride(6), ONE))
IDS = Input((N,), "i64", "ids", ((N,),), (ONE,))
FLAG = Input((N,), "bool", "flag", ((N,),), (ONE,))
S = Input((T,), "f32", "s", ((T,),), (ONE,))


def identity(*axes: Axis) -> tuple[tuple[Axis, Index], ...]:
    return tuple((a, Index(((a, 1),))) for a in axes)


def graph(*nodes: Node, out: int | None = None, dims: object = None, name: str = "y") -> Graph:
    at = len(nodes) - 1 if out is None else out
    axes = tuple((a,) for a in nodes[at].axes) if 0 <= at < len(nodes) else ()
    return Graph("g", nodes, (Output(name, at, axes if dims is None else dims),))


def view(index: Index, over: Axis = K, source: Node = X, axes: tuple[Axis, ...] = (B, N)) -> Graph:
    """A view of x[b,k] whose axis k is read at ``index``."""
    full = tuple((a, index if a == over else Index(((a, 1),))) for a in source.axes)
    return graph(source, View(axes, source.dtype, 0, full))


BAD = [
    # wiring
    (graph(X, Map((B, K), "f32", "exp", (1,))), "%1", ["%1 map exp [b,k]", "precede"]),
    (
        graph(X, Map((B, K), "f32", "exp", (2,)), Map((B, K), "f32", "exp", (1,))),
        "cycle",
        ["%1 map exp [b,k]", "precede"],
    ),
    (graph(X, Map((B, K), "f32", "exp", (-1,))), "negative", ["%1 map exp [b,k]", "precede"]),
    (graph(Node((B,), "f32")), "no kind", ["Node is no kind of node"]),
    # sizes
    (
        graph(X, Iota((Axis("k", 7),), "i64"), out=0),
        "two sizes",
        ["axis 'k' has two sizes, 6 and 7", "%1 iota [k]", "%0 input 'x'"],
    ),
    (
        graph(S, Iota((Axis("u", Sym("tokens", 1, 8)),), "i64"), out=0),
        "two ranges",
        ["symbol 'tokens' of axis 'u' has two ranges", "%1 iota [u]"],
    ),
    (
        graph(Iota((Axis("u", Sym("n", 3, 2)),), "i64")),
        "empty range",
        ["axis 'u' has the range 3..2", "%0 iota [u]"],
    ),
    (
        graph(Iota((Axis("u", -1),), "i64")),
        "negative size",
        ["axis 'u' has the size -1", "%0 iota"],
    ),
    (graph(Iota((Axis("", 2),), "i64")), "no name", ["an axis without a name", "%0 iota"]),
    # axes by kind
    (
        graph(X, Map((B,), "f32", "exp", (0,))),
        "map axes",
        ["[b], its kind gives [b,k] (differing in k)", "%1 map exp"],
    ),
    (graph(X, Map((K, B), "f32", "exp", (0,))), "map order", ["not in name order", "%1 map exp"]),
    (
        graph(X, Reduce((B, K), "f32", "add", 0, (K,))),
        "reduce axes",
        ["[b,k], its kind gives [b]", "%1 reduce add"],
    ),
    (
        graph(X, Reduce((B, K), "f32", "add", 0, (N,))),
        "reduce missing",
        ["axis 'n', which the operand lacks", "%1 reduce add"],
    ),
    (graph(X, Reduce((B, K), "f32", "add", 0, ())), "reduce none", ["no axis", "%1 reduce add"]),
    (
        graph(X, Reduce((B,), "f32", "add", 0, (K, K))),
        "reduce twice",
        ["axis 'k' occurs twice", "%1 reduce add [b]"],
    ),
    (
        graph(X, Reduce((), "f32", "add", 0, (K, B))),
        "reduce order",
        ["not in name order", "reduce"],
    ),
    (graph(X, View((B, K), "f32", 0, identity(B))), "view keys", ["differing in k", "%1 view"]),
    (graph(X, View((B,), "f32", 0, identity(B, K))), "view axes", ["differing in k", "%1 view"]),
    (graph(X, IDS, Gather((B, K), "f32", 0, K, 1)), "gather axes", ["differing in k, n", "gather"]),
    (
        graph(X, IDS, Gather((B, K, N), "f32", 0, N, 1)),
        "gather along",
        ["no axis 'n' to gather along", "%2 gather"],
    ),
    (
        graph(replace(X, axes=(B,)), out=0, dims=((B,),)),
        "input axes",
        ["differing in k", "%0 input 'x'"],
    ),
    (
        graph(Input((B,), "f32", "x", ((B,), (B,)), (ONE, ONE))),
        "input twice",
        ["axis 'b' occurs twice", "input 'x'"],
    ),
    (graph(Const((B,), "f32", 1.0)), "const axes", ["its kind gives []", "%0 const"]),
    (graph(SizeOf((B,), "f32", B)), "size_of axes", ["its kind gives []", "%0 sizeof"]),
    (graph(Iota((B, K), "i64")), "iota axes", ["2 axes", "%0 iota [b,k]"]),
    # dtypes
    (graph(X, Map((B, K), "f8", "exp", (0,))), "no dtype", ["no dtype 'f8'", "%1 map exp [b,k]"]),
    (graph(X, Map((B, K), "f64", "exp", (0,))), "map dtype", ["dtype f64 from", "%1 map exp"]),
    (graph(X, Map((B, K), "f32", "lt", (0, 0))), "bool", ["dtype f32 from", "%1 map lt [b,k]"]),
    (graph(IDS, Map((N,), "i64", "exp", (0,))), "analytic", ["dtype i64 from", "%1 map exp [n]"]),
    (graph(IDS, Map((N,), "i64", "silu", (0,))), "composite", ["dtype i64", "%1 map silu [n]"]),
    (graph(IDS, Map((N,), "bool", "not", (0,))), "logic", ["'not' of dtype i64", "%1 map not [n]"]),
    (
        graph(X, Map((B, K), "f32", "where", (0, 0, 0))),
        "condition",
        ["condition has dtype f32", "%1 map where [b,k]"],
    ),
    (graph(IDS, Map((N,), "f32", "round", (0,))), "round", ["dtype f32", "%1 map round [n]"]),
    (graph(X, Reduce((B,), "f64", "add", 0, (K,))), "reduce dtype", ["dtype f64", "%1 reduce add"]),
    (
        graph(FLAG, Reduce((), "bool", "add", 0, (N,))),
        "reduce bool",
        ["'add' over axis 'n' of dtype bool", "%1 reduce add"],
    ),
    (graph(X, Reduce((B,), "f32", "or", 0, (K,))), "or", ["'or' over axis 'k'", "%1 reduce or"]),
    (graph(X, View((B, K), "f64", 0, identity(B, K))), "view dtype", ["dtype f64", "%1 view"]),
    (
        graph(X, FLAG, Gather((B, N), "f32", 0, K, 1)),
        "gather index",
        ["index along axis 'k' has dtype bool", "%2 gather [b,n]"],
    ),
    (graph(X, IDS, Gather((B, N), "f64", 0, K, 1)), "gather dtype", ["dtype f64", "%2 gather"]),
    (graph(Iota((B,), "i32")), "iota dtype", ["dtype i32", "%0 iota [b]"]),
    (graph(SizeOf((), "bool", B)), "size_of dtype", ["axis 'b' as a bool", "%0 sizeof"]),
    # rows
    (graph(X, Map((B, K), "f32", "exq", (0,))), "row", ["'exq' of 1 arguments", "%1 map exq"]),
    (graph(X, Map((B, K), "f32", "add", (0,))), "arity", ["'add' of 1 arguments", "%1 map add"]),
    (
        graph(X, Reduce((B,), "f32", "sub", 0, (K,))),
        "identity",
        ["'sub' has no identity", "%1 reduce sub [b]"],
    ),
    # literals
    (graph(Const((), "f32", float("nan"))), "nan", ["NaN literal", "%0 const"]),
    (graph(Const((), "f32", 1)), "int as float", ["literal 1 of type int as f32", "%0 const"]),
    (graph(Const((), "i64", True)), "bool as int", ["of type bool as i64", "%0 const"]),
    (graph(Const((), "u8", 256)), "range", ["256 does not fit u8", "%0 const"]),
    # index maps
    (view(Index(((N, 1),), 4)), "above", ["axis 'k' of size 6 is read at 4..6", "%1 view [b,n]"]),
    (view(Index(((N, 1),), -1)), "below", ["axis 'k' of size 6 is read at -1..1", "%1 view"]),
    (view(Index(((N, -1),), 1)), "reversed", ["read at -1..1", "%1 view"]),
    (view(Index(((N, 3),))), "strided", ["read at 0..6", "%1 view"]),
    (view(Index(((N, 4),), lo=0, hi=6)), "clamp", ["read at 0..6", "%1 view"]),
    (view(Index(((N, 7),), mod=7)), "mod", ["read at 0..6", "%1 view"]),
    (view(Index(((N, 1),), div=0)), "div", ["axis 'k' has div 0", "%1 view"]),
    (view(Index(((N, 1),), mod=0)), "mod 0", ["axis 'k' has div 1, mod 0", "%1 view"]),
    (view(Index(((N, 1),), mod=-2)), "mod -2", ["mod -2", "%1 view"]),
    (view(Index(((N, 1),), lo=3, hi=2)), "lo > hi", ["axis 'k' is clamped to 3..2", "%1 view"]),
    (view(Index(((N, 1), (N, 1)))), "twice", ["axis 'n' occurs twice", "index of axis 'k'"]),
    (view(Index(((T, 1),)), axes=(B, T)), "symbol", ["axis 'k' of size 6 is read at 0..8", "view"]),
    (
        view(Index(((N, 1),)), T, S, (N,)),
        "into symbol",
        ["axis 't' of size tokens:1..9 is read at 0..2", "cannot be shown", "%1 view [n]"],
    ),
    (view(Index(((T, 1),), 1), T, S, (T,)), "shifted", ["read at 1..9", "%1 view [t]"]),
    (view(Index(((T, 1),), -1, mod=4), T, S, (T,)), "wraps", ["read at 0..3", "%1 view [t]"]),
    # the boundary
    (graph(X, X), "names", ["two inputs are named 'x'", "graph 'g'"]),
    (graph(replace(X, strides=(ONE,))), "strides", ["1 strides for 2 dims", "%0 input 'x'"]),
    (graph(replace(X, strides=(ONE, Stride(-1)))), "stride", ["negative stride", "%0 input 'x'"]),
    (Graph("g", (X,), ()), "no outputs", ["without outputs", "graph 'g'"]),
    (graph(X, out=3), "no node", ["no node %3", "output 'y'"]),
    (
        graph(X, dims=((B,),)),
        "uncovered",
        ["axis 'k' of the value is in no dim", "output 'y' [b]", "%0 input 'x' [b,k]"],
    ),
    (
        graph(X, dims=((B,), (K,), (B,))),
        "dim twice",
        ["axis 'b' occurs twice", "output 'y' [b,k,b]"],
    ),
    (
        Graph("g", (X,), (Output("y", 0, ((B,), (K,)), (1, 1)),)),
        "no order",
        ["the order of dims (1, 1)", "output 'y' [b,k]", "order all 2 dims"],
    ),
    (
        Graph("g", (X,), (Output("y", 0, ((B,), (K,)), (0, 1)),)),
        "needless order",
        ["the order of dims (0, 1)", "leave it out for row-major"],
    ),
    (Graph("g", (X,), (Output("y", 0, ((B,), (K,))),) * 2), "same outputs", ["two outputs", "'y'"]),
]


@pytest.mark.parametrize("bad, words", [(g, w) for g, _, w in BAD], ids=[i for _, i, _ in BAD])
def test_a_broken_rule_is_named(bad, words):
    with pytest.raises(IllFormedGraph) as caught:
        check_graph(bad)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.where and caught.value.fix


GOOD = [
    view(Index(((N, 2),), 1)),
    view(Index(((N, 1),), 4, mod=6)),
    view(Index(((N, 9),), lo=0, hi=5)),
    view(Index(((N, 9),), div=9)),
    view(Index(((N, 1),), lo=0, hi=6)),
    view(Index(((N, 1),), mod=7)),
    view(Index(((T, 1),), hi=5), axes=(B, T)),
    view(Index(((T, 1),)), T, S, (T,)),
    view(Index(((T, 1),), -1, lo=0), T, S, (T,)),
    view(Index(((T, 1),), div=2), T, S, (T,)),
    view(Index(((T, 1),), mod=4), T, S, (T,)),
    view(Index(((Axis("u", Sym("tokens", 1, 9)), 1),)), T, S, (Axis("u", Sym("tokens", 1, 9)),)),
    view(Index((), 0), T, S, ()),
    view(Index(((Axis("e", 0), 1),), 99), axes=(B, Axis("e", 0))),  # no coordinates
    graph(X, dims=((N,), (K, B), ())),  # n broadcasts, (): a dim of size one
    graph(X, Const((), "f64", 2.0), Map((B, K), "f32", "mul", (0, 1))),  # a scalar gives way
    graph(X, Const((), "f64", 2.0), Map((B, K), "f64", "mul", (0, 1))),
    graph(IDS, Const((), "f32", 2.0), Map((N,), "f32", "mul", (0, 1))),
    graph(Input((B,), "f32", "x", ((B,),), (Stride(0),))),  # expanded
]


@pytest.mark.parametrize("good", GOOD)
def test_what_is_allowed(good):
    check_graph(good)


@settings(max_examples=200, deadline=None)
@given(graphs(dtypes=("f32", "bf16", "f64")))
def test_drawn_graphs_are_well_formed(drawn):
    check_graph(drawn)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(-4, 4)), max_size=3),
    st.integers(-9, 9),
    st.integers(1, 4),
    st.none() | st.integers(1, 6),
    st.none() | st.integers(-4, 4),
    st.none() | st.integers(-4, 8),
)
def test_intervals_hold_every_index(sizes, offset, div, mod, lo, hi):
    axes = tuple(Axis(f"a{k}", n) for k, (n, _) in enumerate(sizes))
    index = Index(
        tuple(zip(axes, [c for _, c in sizes], strict=True)),
        offset,
        div,
        mod,
        lo,
        hi if lo is None or hi is None else max(lo, hi),
    )
    values = index_values(index, axes, tuple(n for n, _ in sizes))
    low, high = index_range(index)
    assert low <= values.min() and values.max() <= high
    if mod is None and len(sizes) <= 1:
        assert (low, high) == (values.min(), values.max())


# -- placed graphs -------------------------------------------------------------------------------

PLACED = attention_placed()
(KERNEL,), PLACE = PLACED.kernels, PLACED.kernels[0].placement
Q, TT = PLACE.grid[0].axis, PLACE.loop[0].axis
IDS_BY_OP = {getattr(n, "op", ""): i for i, n in enumerate(PLACED.graph.nodes)}
EXP, MAX, DIV, TOTAL = (IDS_BY_OP[op] for op in ("exp", "max", "div", "add"))
FACTOR = KERNEL.carries[0].factor


def one(**change: object) -> tuple[Kernel, ...]:
    return (replace(KERNEL, **change),)


def at(
    grid: tuple[Split, ...] = PLACE.grid,
    loop: tuple[Split, ...] = PLACE.loop,
    lane: Lane = PLACE.lane,
    carries: tuple[Carry, ...] = KERNEL.carries,
) -> tuple[Kernel, ...]:
    return one(placement=Placement(grid, loop, lane), carries=carries)


BARE = Kernel("k1", (EXP,), Placement())
E_AXIS = next(a for a in PLACED.graph.axes if a.name == "e")

BAD_PLACED = {
    "no kernel": ((), ["output 'o' is materialized by no kernel", f"%{DIV} map div"]),
    "twice": ((KERNEL, replace(KERNEL, name="k1")), [f"%{DIV} map div", "materialized twice"]),
    "same name": ((replace(BARE, name="k0"), KERNEL), ["two kernels are named 'k0'"]),
    "stores nothing": ((replace(BARE, outputs=()), KERNEL), ["stores nothing", "kernel 'k1'"]),
    "no such node": ((replace(BARE, outputs=(99,)), KERNEL), ["no node %99", "kernel 'k1'"]),
    "read too early": ((KERNEL, BARE), [f"%{EXP} map exp", "is read before kernel 'k1'", "'k0'"]),
    "grid not in output": (
        (Kernel("k1", (EXP,), Placement((Split(E_AXIS, 2),))), KERNEL),
        ["grid axis 'e' is no axis of an output", "kernel 'k1'", "map exp"],
    ),
    "grid reduced": (
        (Kernel("k0", (DIV, EXP), Placement((Split(Q, 2), Split(TT, 2)))),),
        ["grid axis 't' is reduced", "an output has the axis 't'"],
    ),
    "grid twice": (at(grid=(Split(Q, 2), Split(Q, 4))), ["axis 'q' occurs twice", "'k0', grid"]),
    "loop twice": (at(loop=(Split(TT, 2), Split(TT, 4))), ["axis 't' occurs twice", "'k0', loop"]),
    "loop not there": (
        at(loop=(*PLACE.loop, Split(Axis("z", 3), 1))),
        ["loop axis 'z' does not occur", "kernel 'k0'", "map div"],
    ),
    "tile 0": (at(grid=(Split(Q, 0),)), ["axis 'q' has the tile 0", "kernel 'k0', grid"]),
    "loop tile 0": (at(loop=(Split(TT, 0),)), ["axis 't' has the tile 0", "kernel 'k0', loop"]),
    "lane 0": (at(lane=Lane(0)), ["lane vector is 0", "kernel 'k0'"]),
    "lane sums": (at(lane=Lane(16, 32, 9)), ["32 rows and 9 vectors", "kernel 'k0'"]),
    "carry of a map": (at(carries=(Carry(EXP, MAX, FACTOR),)), [f"%{EXP} is no reduction", "'k0'"]),
    "carry on a map": (at(carries=(Carry(TOTAL, EXP, FACTOR),)), [f"%{EXP} is no reduction"]),
    "carry nowhere": (at(carries=(Carry(TOTAL, 99, FACTOR),)), ["%99 is no reduction"]),
    "carry not looped": (
        at(loop=(Split(E_AXIS, 2),)),
        ["over [t] share no axis of a loop or the grid", "'k0'"],
    ),
    "carry backwards": (
        at(carries=(Carry(MAX, TOTAL, FACTOR),)),
        [f"%{MAX} does not depend on %{TOTAL}"],
    ),
    "carry twice": (at(carries=(KERNEL.carries[0],) * 2), ["carried twice", "kernel 'k0'"]),
    "factor row": (at(carries=(Carry(TOTAL, MAX, ("exq", Arg(0))),)), ["'exq' of 1 arguments"]),
    "factor arity": (at(carries=(Carry(TOTAL, MAX, ("exp",)),)), ["'exp' of 0 arguments"]),
    "factor argument": (at(carries=(Carry(TOTAL, MAX, Arg(2)),)), ["reads argument 2"]),
    "factor nan": (at(carries=(Carry(TOTAL, MAX, float("nan")),)), ["holds nan"]),
    "factor text": (at(carries=(Carry(TOTAL, MAX, "one"),)), ["holds 'one'"]),
}


def test_the_placed_example_is_well_formed():
    check_mugraph(PLACED)
    check_mugraph(MuGraph(PLACED.graph, (BARE, KERNEL)[1:]))


@pytest.mark.parametrize("name", BAD_PLACED)
def test_a_broken_rule_of_kernels_is_named(name):
    kernels, words = BAD_PLACED[name]
    with pytest.raises(IllFormedGraph) as caught:
        check_mugraph(MuGraph(PLACED.graph, kernels))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.where and caught.value.fix


def test_a_reduced_axis_of_a_result_is_not_on_the_grid():
    nodes = (X, Reduce((B,), "f32", "max", 0, (K,)), Map((B, K), "f32", "sub", (0, 1)))
    kernel = Kernel("k0", (2,), Placement((Split(K, 2),)))
    with pytest.raises(IllFormedGraph, match=r"grid axis 'k' is reduced.*output has the axis"):
        check_mugraph(MuGraph(graph(*nodes), (kernel,)))


@settings(max_examples=100, deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_random_placements_are_well_formed(drawn, rng):
    check_mugraph(placed(drawn, rng))
