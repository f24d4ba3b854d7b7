"""The float algebra against a second interpreter, against einsum, and against torch's functions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.errors import IllFormedGraph, ShapeMismatch
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Builder, Index
from tests.mugraph.reference import interpret
from tests.strategies import graphs, sizes_for, tensors_for

F = torch.nn.functional


@settings(max_examples=250, deadline=None)
@given(graphs(dtypes=("f32", "f64", "bf16")), st.integers(0, 99))
def test_drawn_graphs_mean_what_the_second_interpreter_says(graph, seed):
    sizes = sizes_for(graph, seed)
    tensors = tensors_for(graph, seed, sizes)
    with np.errstate(all="ignore"):
        want = interpret(graph, tensors, sizes)
    for have, ref in zip(run(graph, tensors, sizes), want, strict=True):
        assert tuple(have.shape) == ref.shape
        np.testing.assert_allclose(have.numpy(), ref, rtol=1e-9, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_contractions_are_einsums(data):
    letters = "abcde"
    sizes = {c: data.draw(st.integers(0, 5)) for c in letters}
    axes = {c: Axis(c, n) for c, n in sizes.items()}
    words = data.draw(
        st.lists(
            st.lists(st.sampled_from(letters), unique=True, max_size=3), min_size=1, max_size=3
        )
    )
    used = sorted({c for w in words for c in w})
    kept = data.draw(st.permutations(used)) if used else []
    kept = kept[: data.draw(st.integers(0, len(kept)))]
    b = Builder("einsum")
    ids = [b.input(f"x{k}", tuple((axes[c],) for c in w), "f64") for k, w in enumerate(words)]
    product = ids[0]
    for i in ids[1:]:
        product = b.map("mul", product, i)
    total = b.reduce("add", product, [axes[c] for c in used if c not in kept])
    graph = b.build([("o", total, tuple((axes[c],) for c in kept))])
    tensors = tensors_for(graph, 1)
    spec = ",".join("".join(w) for w in words) + "->" + "".join(kept)
    want = np.einsum(spec, *(t.numpy() for t in tensors))
    np.testing.assert_allclose(run(graph, tensors)[0].numpy(), want, rtol=1e-12, atol=1e-12)


def _one(build, *shapes: tuple[int, ...], dtype: str = "f64") -> torch.Tensor:
    """Runs ``build(b, *ids, *axes)`` on random inputs whose dims are the axes given."""
    b = Builder("g")
    ids, tensors = [], []
    for k, shape in enumerate(shapes):
        dims = tuple((Axis(f"{'xyz'[k]}{d}", n),) for d, n in enumerate(shape))
        ids.append((b.input(f"in{k}", dims, dtype), [a for (a,) in dims]))
    node, dims = build(b, *ids)
    graph = b.build([("o", node, dims)])
    tensors = tensors_for(graph, 0)
    return run(graph, tensors)[0], tensors


def test_softmax_and_layer_norm_and_attention():
    def softmax(b, x):
        i, (r, c) = x
        e = b.map("exp", b.map("sub", i, b.reduce("max", i, [c])))
        return b.map("div", e, b.reduce("add", e, [c])), ((r,), (c,))

    have, (x,) = _one(softmax, (3, 7))
    torch.testing.assert_close(have, torch.softmax(x, -1))

    def layer_norm(b, x):
        i, (r, c) = x
        n = b.size_of(c, "f64")
        mean = b.map("div", b.reduce("add", i, [c]), n)
        off = b.map("sub", i, mean)
        var = b.map("div", b.reduce("add", b.map("square", off), [c]), n)
        root = b.map("rsqrt", b.map("add", var, b.const(1e-5, "f64")))
        return b.map("mul", off, root), ((r,), (c,))

    have, (x,) = _one(layer_norm, (3, 7))
    torch.testing.assert_close(have, F.layer_norm(x, (7,)))

    def attention(b, q, k, v):
        (qi, (t, d)), (ki, (s, d2)), (vi, (s2, e)) = q, k, v
        ki = b.rename(ki, {d2: d, s: s})
        scores = b.reduce("add", b.map("mul", qi, ki), [d])
        scores = b.map("mul", scores, b.const(1 / math.sqrt(4), "f64"))
        mask = b.map("le", b.iota(s), b.iota(t))
        scores = b.map("where", mask, scores, b.const(-math.inf, "f64"))
        p = b.map("exp", b.map("sub", scores, b.reduce("max", scores, [s])))
        vi = b.rename(vi, {s2: s})
        top = b.reduce("add", b.map("mul", p, vi), [s])
        return b.map("div", top, b.reduce("add", p, [s])), ((t,), (e,))

    have, (q, k, v) = _one(attention, (5, 4), (5, 4), (5, 3))
    want = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    torch.testing.assert_close(have, want)


VIEWS = {
    "slice": (lambda a, v: Index(((v, 1),), 2), 4, lambda x: x[:, 2:6]),
    "stride": (lambda a, v: Index(((v, 3),), 1), 3, lambda x: x[:, 1::3]),
    "reverse": (lambda a, v: Index(((v, -1),), 7), 8, lambda x: x.flip(1)),
    "repeat": (lambda a, v: Index(((v, 1),), div=3), 24, lambda x: x.repeat_interleave(3, 1)),
    "tile": (lambda a, v: Index(((v, 1),), mod=8), 20, lambda x: x.repeat(1, 3)[:, :20]),
    "clamp": (
        lambda a, v: Index(((v, 1),), -2, lo=0, hi=5),
        10,
        lambda x: x[:, torch.tensor([0, 0, 0, 1, 2, 3, 4, 5, 5, 5])],
    ),
    "select": (lambda a, v: Index(((v, 0),), 3), 2, lambda x: x[:, 3:4].expand(3, 2)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name):
    index, size, want = VIEWS[name]

    def build(b, x):
        i, (r, c) = x
        v = Axis("v", size)
        return b.view(i, [(c, index(c, v))]), ((r,), (v,))

    have, (x,) = _one(build, (3, 8))
    torch.testing.assert_close(have, want(x))


def test_split_merge_transpose_and_diagonal():
    i2, j2, m = Axis("i", 2), Axis("j", 4), Axis("m", 24)

    def split(b, x):
        i, (r, c) = x
        return b.view(i, [(c, Index(((i2, 4), (j2, 1))))]), ((j2,), (r, i2))

    have, (x,) = _one(split, (3, 8))
    torch.testing.assert_close(have, x.reshape(3, 2, 4).permute(2, 0, 1).reshape(4, 6))

    def merge(b, x):
        i, (r, c) = x
        return b.view(i, [(r, Index(((m, 1),), div=8)), (c, Index(((m, 1),), mod=8))]), ((m,),)

    have, (x,) = _one(merge, (3, 8))
    torch.testing.assert_close(have, x.reshape(24))

    def diagonal(b, x):
        i, (r, c) = x
        return b.view(i, [(c, Index(((r, 1),), 2))]), ((r,),)

    have, (x,) = _one(diagonal, (3, 8))
    torch.testing.assert_close(have, x.diagonal(2)[:3])


def test_gathers_are_embeddings_and_take_along():
    b = Builder("g")
    v, d, t, k = Axis("v", 9), Axis("d", 4), Axis("t", 5), Axis("k", 3)
    table = b.input("table", ((v,), (d,)), "f32")
    ids = b.input("ids", ((t,),), "i64")
    along = b.input("along", ((v,), (k,)), "i64")
    graph = b.build(
        [
            ("rows", b.gather(table, v, ids), ((t,), (d,))),
            ("take", b.gather(table, d, along), ((v,), (k,))),
        ]
    )
    x = torch.randn(9, 4)
    i, j = torch.randint(0, 9, (5,)), torch.randint(0, 4, (9, 3))
    rows, take = run(graph, [x, i, j], work=None)
    torch.testing.assert_close(rows, F.embedding(i, x))
    torch.testing.assert_close(take, torch.gather(x, 1, j))


@pytest.mark.parametrize(
    "op, want", [("add", 0.0), ("mul", 1.0), ("max", -math.inf), ("min", math.inf)]
)
def test_reducing_nothing_gives_the_identity(op, want):
    r, e = Axis("r", 2), Axis("e", 0)
    b = Builder("g")
    graph = b.build([("o", b.reduce(op, b.input("x", ((r,), (e,)), "f32"), [e]), ((r,),))])
    assert run(graph, [torch.empty(2, 0)])[0].tolist() == [want] * 2


def test_reductions_keep_their_dtype():
    r = Axis("r", 4)
    b = Builder("g")
    x = b.input("x", ((r,),), "i32")
    graph = b.build([("sum", b.reduce("add", x, [r]), ()), ("max", b.reduce("max", x, [r]), ())])
    outs = run(graph, [torch.tensor([1, 2, 3, 4], dtype=torch.int32)], work=None)
    assert [(o.item(), o.dtype) for o in outs] == [(10, torch.int32), (4, torch.int32)]


def test_sizes_are_given_by_name():
    t = Axis("t", Sym("tokens", 1, 9))
    b = Builder("g")
    x = b.input("x", ((t,),), "f32")
    graph = b.build([("o", b.map("div", b.reduce("add", x, [t]), b.size_of(t)), ())])
    assert run(graph, [torch.arange(5.0)], {"tokens": 5})[0].item() == 2.0
    with pytest.raises(IllFormedGraph, match="tokens"):
        run(graph, [torch.arange(5.0)])
    with pytest.raises(ShapeMismatch, match="'x'"):
        run(graph, [torch.arange(5.0)], {"tokens": 4})


def test_own_precision_rounds_and_work_precision_does_not():
    r = Axis("r", 1)
    b = Builder("g")
    x = b.input("x", ((r,),), "f32")
    kept = b.map("cast", b.map("round", x, dtype="bf16"), dtype="f32")
    graph = b.build([("o", b.map("add", x, b.const(2.0**-30)), ((r,),)), ("k", kept, ((r,),))])
    one = torch.tensor([1.0 + 2.0**-10])
    exact, own = run(graph, [one]), run(graph, [one], work=None)
    assert exact[0].item() == 1.0 + 2.0**-10 + 2.0**-30 and own[0].item() == 1.0 + 2.0**-10
    assert exact[1].item() == own[1].item() == 1.0
