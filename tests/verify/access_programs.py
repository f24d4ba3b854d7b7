"""Placed graphs whose tile programs the tests of proofs are about, and how to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from superopt.codegen.backends import python
from superopt.codegen.lower import NotLowerable, lower
from superopt.mugraph.axes import Axis, Sym, extent
from superopt.mugraph.graph import Builder, Graph, Index
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.text import parse_mugraph
from superopt.mugraph.tileir import Program
from tests.codegen import test_lower, test_moments, test_split
from tests.codegen.test_split import placed
from tests.mugraph.placed import attention_placed
from tests.programs import attention, gated_mlp, lora, rmsnorm_linear, softmax

Sizes = Mapping[str, int]
GOLDEN = Path(__file__).parents[1] / "search" / "known_best"


def long(hi: int = 40) -> Graph:
    """A weighted mean by softmax along an axis of run-time size."""
    b, t = Axis("b", 3), Axis("t", Sym("T", 1, hi))
    g = Builder("long")
    x, v = g.input("x", ((b,), (t,)), "f32"), g.input("v", ((t,),), "f32")
    p = g.map("exp", g.map("sub", x, g.reduce("max", x, [t])))
    top = g.reduce("add", g.map("mul", p, v), [t])
    return g.build([("o", g.map("div", top, g.reduce("add", p, [t])), ((b,),))])


def product(lo: int = 1) -> Graph:
    """A product of two matrices, three run-time sizes."""
    b, k, n = (Axis(x, Sym(x.upper(), lo, 70)) for x in "bkn")
    g = Builder("product")
    x, w = g.input("x", ((b,), (k,)), "f32"), g.input("w", ((k,), (n,)), "f32")
    return g.build([("o", g.reduce("add", g.map("mul", x, w), [k]), ((b,), (n,)))])


def joined(size: int | Sym) -> Graph:
    """Two tensors one after the other, three zeros before them, and a shift: views that clamp."""
    b, a = Axis("b", 4), Axis("a", size)
    g = Builder("joined")
    if isinstance(size, int):
        c, t = Axis("c", 5), Axis("t", size + 8)
        x, y = g.input("x", ((b,), (a,)), "f32"), g.input("y", ((b,), (c,)), "f32")
        at = g.iota(t)
        first = g.view(x, [(a, Index(((t, 1),), -3, 1, None, 0, size - 1)), (b, Index(((b, 1),)))])
        last = g.view(y, [(b, Index(((b, 1),))), (c, Index(((t, 1),), -3 - size, 1, None, 0, 4))])
        tail = g.map("where", g.map("lt", at, g.const(3 + size, "i64")), first, last, dtype="f32")
        head = g.map("lt", at, g.const(3, "i64"))
        whole = g.map("where", head, g.const(0.0), tail, dtype="f32")
        return g.build([("o", whole, ((b,), (t,))), ("s", g.reduce("add", whole, [t]), ((b,),))])
    x = g.input("x", ((b,), (a,)), "f32")
    before = g.view(x, [(a, Index(((a, 1),), -1, 1, None, 0)), (b, Index(((b, 1),)))])
    half = g.view(x, [(a, Index(((a, 1),), 0, 2)), (b, Index(((b, 1),)))])
    total = g.map("add", g.map("sub", x, before), half)
    return g.build([("o", total, ((b,), (a,))), ("s", g.reduce("max", total, [a]), ((b,),))])


def gathered() -> Graph:
    """Rows of a table at run-time indices, one result a scaled sum, the other a product."""
    r, d, v = Axis("r", Sym("R", 1, 50)), Axis("d", 6), Axis("v", 9)
    g = Builder("gathered")
    table, ids = g.input("table", ((v,), (d,)), "f32"), g.input("ids", ((r,),), "i64")
    other = g.input("other", ((r,), (d,)), "f32")
    picked = g.gather(table, v, ids)
    total = g.map("add", picked, g.map("div", other, g.size_of(d)))
    return g.build([("a", total, ((r,), (d,))), ("b", g.map("mul", picked, other), ((r,), (d,)))])


SMALL: dict[str, tuple[MuGraph, Sequence[Sizes]]] = {
    "softmax": (placed(softmax(t=21), {"b": 2}, {"t": 8}), [{}]),
    "causal parts": (
        placed(attention(1, 5, 21, 4, causal=3), {"h": 1, "q": 4, "t": 16}, {"t": 8}),
        [{}],
    ),
    "gated mlp": (placed(gated_mlp(k=20, n=21, o=7), {"b": 3, "o": 4}, {"n": 8, "k": 8}), [{}]),
    "rmsnorm": (placed(rmsnorm_linear(k=20, n=9), {"b": 3, "n": 4}, {"k": 8}), [{}]),
    "rmsnorm parts": (
        placed(rmsnorm_linear(k=20, n=9), {"b": 3, "n": 4, "k": 8}, {"k": 3}),
        [{}],
    ),
    "lora": (placed(lora(k=20, n=9), {"b": 3, "n": 4}, {"k": 8}), [{}]),
    "variance": (placed(test_moments.made(test_moments._variance), {}, {"t": 16}), [{}]),
    "gathered": (placed(gathered(), {"r": 2}, {}), [{"R": n} for n in (1, 2, 5)]),
    "joined": (placed(joined(6), {"b": 3}, {"t": 4}), [{}]),
    "long parts": (placed(long(), {"t": 16}, {"t": 8}), [{"T": n} for n in (1, 16, 17, 33, 40)]),
    "long": (placed(long(), {"b": 2}, {"t": 8}), [{"T": n} for n in (1, 7, 8, 17, 40)]),
}
"""Placed graphs that the interpreter runs fast, each with the sizes to run it at."""


def every() -> dict[str, MuGraph]:
    """Placed graphs of every shape: one kernel, parts, moments, views, gathers, the best known."""
    out = {name: mugraph for name, (mugraph, _) in SMALL.items()}
    out |= {f"lower {k}": test_lower.placed(*c) for k, c in enumerate(test_lower.CASES)}
    out |= {f"split {k}": placed(*c) for k, c in enumerate(test_split.CASES)}
    for name, (build, _) in test_moments.PROGRAMS.items():
        out[name] = placed(test_moments.made(build), {"b": 2}, {"t": 16})
    out["attention"] = attention_placed()
    for tile in (1, 7, 64, 128):
        out[f"product {tile}"] = placed(product(), {"b": tile, "n": 16}, {"k": tile})
        out[f"product parts {tile}"] = placed(product(), {"k": tile, "n": 16}, {"k": 5})
        out[f"shifted {tile}"] = placed(joined(Sym("A", 1, 90)), {"b": 2}, {"a": tile})
    for path in sorted(GOLDEN.glob("*.txt")):
        out[path.stem] = parse_mugraph(path.read_text())
    return out


def lowered(mugraph: MuGraph) -> tuple[Program, ...] | None:
    """The tile programs of a placed graph, or None where it has none."""
    try:
        return lower(mugraph)
    except NotLowerable:
        return None


def inputs(graph: Graph, sizes: Sizes, seed: int = 0) -> dict[str, torch.Tensor]:
    """A tensor for each input buffer; integers are indices that may be wild."""
    gen = torch.Generator().manual_seed(seed)
    out = {}
    for n in graph.inputs:
        shape = [extent(a.size, sizes) for d in n.dims for a in d]
        if n.dtype == "i64":
            out[n.name] = torch.randint(-2, 12, shape, generator=gen)
        else:
            out[n.name] = torch.randn(shape, generator=gen)
    return out


def outcome(
    mugraph: MuGraph, programs: Sequence[Program], sizes: Sizes, seed: int | None = None
) -> dict[str, torch.Tensor]:
    """The outputs of tile programs by the interpreter, tasks in a random order for a seed."""
    given = {n: x.clone() for n, x in inputs(mugraph.graph, sizes).items()}
    got = python.run(programs, given, sizes, seed=seed)
    return {name: x for name, x in got.items() if name.startswith("out")}
