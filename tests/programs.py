"""Small term graphs that several tests share: the shapes of the programs that superopt is for."""

from __future__ import annotations

import math

import torch

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph

NEG_INF = float("-inf")


def rmsnorm_linear(b: int = 5, k: int = 40, n: int = 36, late: bool = True) -> Graph:
    """RMSNorm then a product with w[k,n]; ``late``: the division comes after the contraction."""
    ab, ak, an = Axis("b", b), Axis("k", k), Axis("n", n)
    g = Builder("rmsnorm_linear")
    x = g.input("x", ((ab,), (ak,)), "f32")
    gain = g.input("g", ((ak,),), "f32")
    w = g.input("w", ((ak,), (an,)), "f32")
    mean = g.map("div", g.reduce("add", g.map("mul", x, x), [ak]), g.size_of(ak))
    root = g.map("rsqrt", g.map("add", mean, g.const(1e-6)))
    if late:
        body = g.reduce("add", g.map("mul", g.map("mul", x, gain), w), [ak])
        out = g.map("mul", body, root)
    else:
        normed = g.map("mul", g.map("mul", x, root), gain)
        out = g.reduce("add", g.map("mul", normed, w), [ak])
    return g.build([("o", out, ((ab,), (an,)))])


def lora(b: int = 5, k: int = 40, n: int = 36, r: int = 4) -> Graph:
    """x w + (x a) c."""
    ab, ak, an, ar = Axis("b", b), Axis("k", k), Axis("n", n), Axis("r", r)
    g = Builder("lora")
    x = g.input("x", ((ab,), (ak,)), "f32")
    w = g.input("w", ((ak,), (an,)), "f32")
    a = g.input("a", ((ak,), (ar,)), "f32")
    c = g.input("c", ((ar,), (an,)), "f32")
    low = g.reduce("add", g.map("mul", x, a), [ak])
    out = g.map(
        "add",
        g.reduce("add", g.map("mul", x, w), [ak]),
        g.reduce("add", g.map("mul", low, c), [ar]),
    )
    return g.build([("o", out, ((ab,), (an,)))])


def attention(
    h: int = 2,
    q: int = 9,
    t: int = 37,
    d: int = 8,
    causal: int | None = None,
    banned: int | None = None,
) -> Graph:
    """softmax(q k / 8) v; ``causal``: offset of the mask; ``banned``: keys before it are masked."""
    ah, aq, at, ad, ae = Axis("h", h), Axis("q", q), Axis("t", t), Axis("d", d), Axis("e", d)
    g = Builder("attention")
    query = g.input("q", ((ah,), (aq,), (ad,)), "f32")
    key = g.input("k", ((ah,), (ad,), (at,)), "f32")
    value = g.input("v", ((ah,), (at,), (ae,)), "f32")
    s = g.map("mul", g.reduce("add", g.map("mul", query, key), [ad]), g.const(0.125))
    if causal is not None:
        keep = g.map("le", g.iota(at), g.map("add", g.iota(aq), g.const(causal, "i64")))
        s = g.map("where", keep, s, g.const(NEG_INF), dtype="f32")
    if banned is not None:
        keep = g.map("ge", g.iota(at), g.const(banned, "i64"))
        s = g.map("where", keep, s, g.const(NEG_INF), dtype="f32")
    p = g.map("exp", g.map("sub", s, g.reduce("max", s, [at])))
    out = g.map("div", g.reduce("add", g.map("mul", p, value), [at]), g.reduce("add", p, [at]))
    return g.build([("o", out, ((ah,), (aq,), (ae,)))])


def softmax(b: int = 5, t: int = 37) -> Graph:
    """A stable softmax over the last axis."""
    ab, at = Axis("b", b), Axis("t", t)
    g = Builder("softmax")
    x = g.input("x", ((ab,), (at,)), "f32")
    p = g.map("exp", g.map("sub", x, g.reduce("max", x, [at])))
    return g.build([("o", g.map("div", p, g.reduce("add", p, [at])), ((ab,), (at,)))])


def gated_mlp(b: int = 5, k: int = 40, n: int = 36, o: int | None = 20) -> Graph:
    """silu(x w) * (x u), then a product with d[n,o] unless ``o`` is None."""
    ab, ak, an = Axis("b", b), Axis("k", k), Axis("n", n)
    g = Builder("gated_mlp")
    x = g.input("x", ((ab,), (ak,)), "f32")
    w = g.input("w", ((ak,), (an,)), "f32")
    u = g.input("u", ((ak,), (an,)), "f32")
    gate = g.map("silu", g.reduce("add", g.map("mul", x, w), [ak]))
    hidden = g.map("mul", gate, g.reduce("add", g.map("mul", x, u), [ak]))
    if o is None:
        return g.build([("o", hidden, ((ab,), (an,)))])
    ao = Axis("o", o)
    d = g.input("d", ((an,), (ao,)), "f32")
    return g.build([("o", g.reduce("add", g.map("mul", hidden, d), [an]), ((ab,), (ao,)))])


PROGRAMS = {
    "rmsnorm_linear": rmsnorm_linear,
    "lora": lora,
    "attention": attention,
    "softmax": softmax,
    "gated_mlp": gated_mlp,
}


def tensors(graph: Graph, seed: int = 0) -> list[torch.Tensor]:
    """Random inputs of a graph with integer sizes, in call order."""
    gen = torch.Generator().manual_seed(seed)
    return [
        torch.randn([math.prod(a.size for a in dim) for dim in n.dims], generator=gen)
        for n in graph.inputs
    ]
