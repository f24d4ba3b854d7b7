"""Maps: every scalar row on odd sizes, layouts, masks, gathers, dtypes and symbolic sizes."""

from __future__ import annotations

import math

import pytest
import torch

from superopt.mugraph.axes import Axis, Stride, Sym
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.placement import Split
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.tileir import Apply, Compute, Coord, Expr, Extent, Lit, Load, Loop, Program
from tests.codegen.harness import ap, at, buf, check, lit, run_cpu

POSITIVE = {"log", "sqrt", "rsqrt", "recip", "log1p", "pow"}
FLOAT_ROWS = [
    r
    for r in SCALARS.values()
    if r.name not in ("cast", "round", "where", "not", "and", "or", "floordiv", "mod")
]


def program(expr: Expr, out_dtype: str, inputs: tuple, axes: tuple, grid: tuple = ()) -> Program:
    """``out[axes] = expr``."""
    out = buf("out0", "output", axes, out_dtype)
    return Program("map", (*inputs, out), (), grid, (Compute(out, axes, expr),))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("size", [1, 7, 70])
def test_every_row(dtype: str, size: int) -> None:
    """All float rows in one program per size; each writes its own output."""
    m, n = Axis("m", 3), Axis("n", size)
    x, y = buf("x", "input", (m, n), dtype), buf("y", "input", (m, n), dtype)
    p, q = buf("p", "input", (m, n), dtype), buf("q", "input", (n,), dtype)
    outs, body = [], []
    for row in FLOAT_ROWS:
        a, b = (p, q) if row.name in POSITIVE else (x, y)
        args = [at(a), at(b)][: row.arity]
        kind = "bool" if row.result == "bool" else dtype
        out = buf(f"o_{row.name}", "output", (m, n), kind)
        outs.append(out)
        body.append(Compute(out, (m, n), ap(row.name, *args, dtype=kind)))
    g = torch.Generator().manual_seed(size)
    kind = torch.float32 if dtype == "f32" else torch.float64
    tensors = {name: torch.randn(3, size, generator=g).to(kind) * 2 for name in "xyp"}
    tensors["y"][0] = tensors["x"][0]  # ties
    tensors["p"] = tensors["p"].abs() + 0.1
    tensors["q"] = torch.randn(size, generator=g).to(kind).abs() + 0.1
    check(
        Program("rows", (x, y, p, q, *outs), (), (Split(m, 2),), tuple(body)),
        tensors,
        tol=2e-6 if dtype == "f32" else 1e-13,
    )
    assert len(outs) >= 30


def test_nan_and_infinities() -> None:
    """maximum and minimum pass NaN on; exp, log, sqrt at the ends of their range."""
    n = Axis("n", 21)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan] * 3)
    x, y = buf("x", "input", (n,)), buf("y", "input", (n,))
    rows = ["max", "min", "add", "mul", "lt", "le", "eq", "ne", "gt", "ge"]
    unary = [
        "exp",
        "log",
        "sqrt",
        "tanh",
        "erf",
        "abs",
        "neg",
        "recip",
        "sigmoid",
        "floor",
        "relu",
        "expm1",
        "log1p",
        "sin",
        "cos",
    ]
    outs = {
        r: buf(f"o_{r}", "output", (n,), "bool" if SCALARS[r].result == "bool" else "f32")
        for r in (*rows, *unary)
    }
    body = [
        Compute(outs[r], (n,), ap(r, *([at(x), at(y)][: SCALARS[r].arity]), dtype=outs[r].dtype))
        for r in outs
    ]
    check(
        Program("special", (x, y, *outs.values()), (), (), tuple(body)),
        {"x": special, "y": special.roll(3).clone()},
    )


@pytest.mark.parametrize("n", [1, 5, 16, 33])
def test_transposed_and_strided(n: int) -> None:
    """Any strides on inputs, zero (broadcast) and gaps included."""
    a, b = Axis("a", 13), Axis("b", n)
    x = buf("x", "input", (a, b), strides=(1, 13))
    y = buf("y", "input", (a, b), strides=(3 * n, 3))
    z = buf("z", "input", (a, b), strides=(0, 1))
    expr = ap("add", ap("mul", at(x), at(y)), at(z))
    tx, ty, tz = torch.randn(n, 13), torch.randn(13, 3 * n), torch.randn(n)
    check(
        program(expr, "f32", (x, y, z), (a, b), (Split(a, 4),)),
        {"x": tx, "y": ty, "z": tz},
        {"out0": tx.T * ty[:, ::3] + tz},
    )


@pytest.mark.parametrize(
    "src,dst",
    [
        ("bf16", "f32"),
        ("f16", "f32"),
        ("f32", "bf16"),
        ("f32", "f16"),
        ("bf16", "bf16"),
        ("f16", "f64"),
        ("i32", "f32"),
        ("i8", "f32"),
        ("u8", "bf16"),
        ("bool", "f32"),
        ("i64", "f64"),
        ("f32", "i32"),
        ("f64", "i64"),
        ("i64", "i32"),
        ("f32", "bool"),
        ("i16", "i64"),
    ],
)
def test_casts(src: str, dst: str) -> None:
    """Stored and computed dtypes in every direction that programs use."""
    a, b = Axis("a", 3), Axis("b", 37)
    x = buf("x", "input", (a, b), src)
    values = torch.randn(3, 37) * 50
    t = (values > 0) if src == "bool" else values.abs().to(DTYPES[src].torch)
    expr = ap("cast", at(x), dtype=dst)
    got = check(
        program(expr, dst, (x,), (a, b)), {"x": t}, {"out0": t.to(DTYPES[dst].torch)}, tol=0.0
    )
    assert torch.equal(got["out0"].float(), t.to(DTYPES[dst].torch).float())


@pytest.mark.parametrize("dst", ["i8", "u8", "i16", "i32", "i64"])
@pytest.mark.parametrize("src", ["f32", "bf16", "f64"])
def test_casts_beyond_the_range(src: str, dst: str) -> None:
    """Infinities, NaN and too large numbers become what PyTorch makes of them, and back."""
    a, b = Axis("a", 10), Axis("b", 2)
    edge = [3e9, math.inf, -math.inf, math.nan, 300.0, -300.0, 1e20, -3e9, 4.3e9, 1.5]
    t = torch.tensor(edge, dtype=DTYPES[src].torch)
    want = t.to(DTYPES[dst].torch)
    for axes in ((a,), (a, b)):  # vectors, and one number at a time
        x = buf("x", "input", (a,), src)
        back = ap("cast", ap("cast", at(x), dtype=dst), dtype="f32")
        expr = ap("mul", back, lit(2.0)) if len(axes) == 1 else ap("add", back, back)
        p = program(expr, "f32", (x,), axes)
        full = (2 * want.float()).reshape(10, *[1] * (len(axes) - 1)).expand([n.size for n in axes])
        assert torch.equal(run_cpu([p], {"x": t})["out0"], full), (src, dst, axes)


@pytest.mark.parametrize("to", ["bf16", "f16"])
def test_round_to_nearest_even(to: str) -> None:
    """Conversion to 16 bits is exact: all kinds of float32 bit patterns, ties among them."""
    bits = torch.randint(-(2**31), 2**31, (40000,), dtype=torch.int64).to(torch.int32)
    ties = (torch.arange(-30000, 30000, dtype=torch.int32) << 16) + (
        0x8000 if to == "bf16" else 0x1000
    )
    t = torch.cat([bits, ties]).view(torch.float32)
    n = Axis("n", t.numel())
    x = buf("x", "input", (n,))
    for expr in (at(x), ap("round", at(x), dtype="f32", attr=to)):
        got = check(program(expr, to, (x,), (n,)), {"x": t})["out0"]
        want = t.to(DTYPES[to].torch)
        same = (got.view(torch.int16) == want.view(torch.int16)) | (got.isnan() & want.isnan())
        assert bool(same.all()), t[~same][:5]


@pytest.mark.parametrize("q,k", [(5, 5), (17, 33), (1, 70)])
def test_causal_mask_by_coordinates(q: int, k: int) -> None:
    """A comparison of coordinates inside a vectorized map."""
    a, b = Axis("q", q), Axis("k", k)
    s = buf("s", "input", (a, b))
    mask = ap("le", Coord(b), ap("add", Coord(a), Lit(k - q, "i64"), dtype="i64"), dtype="bool")
    expr = ap("where", mask, at(s), lit(-math.inf))
    t = torch.randn(q, k)
    keep = torch.ones(q, k, dtype=torch.bool).tril(k - q)
    check(
        program(expr, "f32", (s,), (a, b), (Split(a, 4), Split(b, 32))),
        {"s": t},
        {"out0": t.masked_fill(~keep, -math.inf)},
    )


def test_integer_coordinates() -> None:
    """floordiv, mod, min and max of coordinates, as layout operators make them."""
    a = Axis("a", 70)
    x = buf("x", "input", (Axis("h", 10), Axis("d", 7)))
    i = Coord(a)
    h = ap("floordiv", i, Lit(7, "i64"), dtype="i64")
    d = ap("mod", i, Lit(7, "i64"), dtype="i64")
    t = torch.randn(10, 7)
    check(program(Load(x, (h, d), "f32"), "f32", (x,), (a,)), {"x": t}, {"out0": t.reshape(70)})
    value = ap(
        "cast", ap("mul", h, ap("max", d, Lit(3, "i64"), dtype="i64"), dtype="i64"), dtype="f32"
    )
    index = torch.arange(70)
    check(
        program(value, "f32", (), (a,)),
        {},
        {"out0": (index // 7 * (index % 7).clamp(min=3)).float()},
    )


def test_rotate_half_by_clamped_reads() -> None:
    """The two halves of a concatenation: reads outside a part are clamped and not selected."""
    a, d = Axis("a", 5), Axis("d", 64)
    x = buf("x", "input", (a, d))
    lo = ap("min", ap("add", Coord(d), Lit(32, "i64"), dtype="i64"), Lit(63, "i64"), dtype="i64")
    hi = ap("max", ap("add", Coord(d), Lit(-32, "i64"), dtype="i64"), Lit(0, "i64"), dtype="i64")
    first = ap("lt", Coord(d), Lit(32, "i64"), dtype="bool")
    expr = ap(
        "where", first, ap("neg", Load(x, (Coord(a), lo), "f32")), Load(x, (Coord(a), hi), "f32")
    )
    t = torch.randn(5, 64)
    check(
        program(expr, "f32", (x,), (a, d)),
        {"x": t},
        {"out0": torch.cat([-t[:, 32:], t[:, :32]], 1)},
    )


def test_gather_clamps_wild_indices() -> None:
    """An embedding: run-time indices are clamped into the table."""
    v, t, d = Axis("v", 11), Axis("t", 9), Axis("d", 20)
    table, ids = buf("table", "input", (v, d)), buf("ids", "input", (t,), "i64")
    expr = at(table, ap("cast", at(ids), dtype="i64"), Coord(d), clamp=(0,))
    w = torch.randn(11, 20)
    i = torch.tensor([0, 10, 3, -5, 10**12, 7, -(2**62), 11, 1])
    check(
        program(expr, "f32", (table, ids), (t, d), (Split(t, 4),)),
        {"table": w, "ids": i},
        {"out0": w[i.clamp(0, 10)]},
        status=2,
    )
    i = i.clamp(0, 10)
    check(program(expr, "f32", (table, ids), (t, d)), {"table": w, "ids": i}, {"out0": w[i]})
    along = at(table, ap("cast", at(ids), dtype="i64"), lit(3, "i64"), clamp=(0,))
    check(
        program(along, "f32", (table, ids), (t,)),
        {"table": w, "ids": i},
        {"out0": w[i.clamp(0, 10), 3]},
    )


def test_large_integers_stay_exact() -> None:
    """i64 arithmetic beyond 32 bits, in vectors of 8 and in scalars."""
    n = Axis("n", 19)
    x, y = buf("x", "input", (n,), "i64"), buf("y", "input", (n,), "i64")
    t = torch.randint(-(2**40), 2**40, (19,))
    u = torch.randint(1, 2**20, (19,))
    for op, want in (
        ("add", t + u),
        ("mul", t * u),
        ("floordiv", t // u),
        ("mod", t % u),
        ("max", t.maximum(u)),
    ):
        got = check(
            program(ap(op, at(x), at(y), dtype="i64"), "i64", (x, y), (n,)), {"x": t, "y": u}
        )
        assert torch.equal(got["out0"], want)


@pytest.mark.parametrize("size", [0, 1, 31, 64, 200])
def test_symbolic_sizes(size: int) -> None:
    """One binary for all sizes of a symbol, zero included; strides are products of symbols."""
    s = Sym("tokens", 0, 4096)
    t, d = Axis("t", s), Axis("d", 24)
    x = buf("x", "input", (d, t))
    y = buf("out0", "output", (t, d))
    tile = buf("tile", "tile", (t,))
    whole = buf("whole", "tile", (d, t))
    assert x.strides == (Stride(1, (s,)), Stride(1))
    body = (
        Compute(whole, (d, t), ap("mul", at(x), lit(2.0))),
        Compute(tile, (t,), at(whole), "add", (d,)),
        Compute(
            y,
            (t, d),
            ap("div", at(whole), ap("add", at(tile), ap("cast", Extent(t, "f32"), dtype="f32"))),
        ),
    )
    v = torch.rand(24, size)
    want = (2 * v).T / ((2 * v).sum(0)[:, None] + size)
    check(
        Program("sym", (x, y), (tile, whole), (), body), {"x": v}, {"out0": want}, {"tokens": size}
    )
    tiled = Program("sym2", (x, y), (tile, whole), (Split(t, 32),), body)
    check(tiled, {"x": v}, {"out0": want}, {"tokens": size})
    inner = (Loop(t, 16, body),)
    check(
        Program("sym3", (x, y), (tile, whole), (), inner),
        {"x": v},
        {"out0": want},
        {"tokens": size},
    )


def test_scratch_between_programs() -> None:
    """Two programs share a scratch buffer; all run in one call."""
    a, b = Axis("a", 37), Axis("b", 21)
    x, t, y = buf("x", "input", (a, b)), buf("t", "scratch", (a, b)), buf("out0", "output", (b,))
    first = Program("p1", (x, t), (), (Split(a, 8),), (Compute(t, (a, b), ap("exp", at(x))),))
    second = Program("p2", (t, y), (), (Split(b, 16),), (Compute(y, (b,), at(t), "add", (a,)),))
    v = torch.randn(37, 21)
    check([first, second], {"x": v}, {"out0": v.exp().sum(0)})


def test_names_do_not_collide() -> None:
    """Axes and buffers may be called like C++ keywords, the backend's own names or each other."""
    a, b = Axis("int", 5), Axis("sum", 18)
    other = Axis("int", 18)
    x, y = buf("float", "input", (a, b)), buf("p1", "input", (other,))
    expr = ap("add", at(x), at(y, b))
    out = buf("acc.0", "output", (a, b))
    v, w = torch.randn(5, 18), torch.randn(18)
    check(
        Program("std", (x, y, out), (), (), (Compute(out, (a, b), expr),)),
        {"float": v, "p1": w},
        {"acc.0": v + w},
    )


def test_composites_unfold() -> None:
    """Rows without C text are printed through their bodies."""
    assert SCALARS["gelu"].c is None and SCALARS["relu"].c is None
    n = Axis("n", 40)
    x = buf("x", "input", (n,))
    v = torch.randn(40)
    check(
        program(Apply("gelu", (at(x),), "f32"), "f32", (x,), (n,)),
        {"x": v},
        {"out0": torch.nn.functional.gelu(v)},
    )
