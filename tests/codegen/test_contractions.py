"""Contractions of every layout and dtype: register tiles, tails, thin cases, local blocks."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.codegen.backends.cpu import Isa, emit
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.placement import Lane, Split
from superopt.mugraph.tileir import Compute, Coord, Extent, Lit, Loop, Program
from tests.codegen.harness import ap, at, buf, check, dense, lit


def matmul(
    m: int,
    n: int,
    k: int,
    xa: str = "mk",
    wa: str = "kn",
    dtype: str = "f32",
    tiles: tuple[int, int, int] = (64, 64, 64),
    out: str = "mn",
    lane: Lane | None = None,
    sym: bool = False,
) -> Program:
    """``out = x @ w`` with an accumulator, for any order of the axes of each tensor."""
    ax = {
        "m": Axis("m", Sym("M", 0, 512) if sym else m),
        "n": Axis("n", n),
        "k": Axis("k", Sym("K", 0, 4096) if sym else k),
    }
    kind = "f64" if dtype == "f64" else "f32"
    x, w = (
        buf("x", "input", [ax[c] for c in xa], dtype),
        buf("w", "input", [ax[c] for c in wa], dtype),
    )
    o = buf("out0", "output", [ax[c] for c in out], dtype)
    acc = buf("acc", "tile", [ax["m"], ax["n"]], kind)
    kept = (ax["m"], ax["n"])
    product = ap("mul", at(x, dtype=kind), at(w, dtype=kind), dtype=kind)
    body = (
        Compute(acc, kept, lit(0.0, kind)),
        Loop(ax["k"], tiles[2], (Compute(acc, kept, product, "add", (ax["k"],), True),)),
        Compute(o, kept, at(acc)),
    )
    return Program(
        "matmul",
        (x, w, o),
        (acc,),
        (Split(ax["m"], tiles[0]), Split(ax["n"], tiles[1])),
        body,
        lane or Lane(),
    )


def tensors(program: Program, m: int, n: int, k: int) -> tuple[dict, dict]:
    """Inputs, and the product in float64 of what is stored."""
    size = {"m": m, "n": n, "k": k}
    given = {}
    for b in program.buffers[:2]:
        given[b.name] = torch.randn([size[a.name] for a in b.axes]).to(DTYPES[b.dtype].torch)
    x, w = given["x"].double(), given["w"].double()
    if program.buffers[0].axes[0].name == "k":
        x = x.T
    if program.buffers[1].axes[0].name == "n":
        w = w.T
    y = x @ w
    return given, {"out0": y if program.buffers[2].axes[0].name == "m" else y.T}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "f64"])
@pytest.mark.parametrize("layout", ["mk,kn,mn", "mk,nk,mn", "km,kn,mn", "km,nk,mn", "mk,kn,nm"])
def test_layouts_and_dtypes(layout: str, dtype: str) -> None:
    """All layouts: columns, dots and packed factors; sizes that divide nothing."""
    m, n, k = 37, 83, 129
    p = matmul(m, n, k, *layout.split(",")[:2], dtype=dtype, out=layout[-2:])
    given, want = tensors(p, m, n, k)
    check(p, given, want, tol={"f64": 1e-13}.get(dtype, 1e-5))


@pytest.mark.parametrize("dtype,wa", list(itertools.product(["f32", "bf16"], ["kn", "nk"])))
@pytest.mark.parametrize("m", [1, 2, 4, 5, 8, 17, 40])
def test_rows(m: int, dtype: str, wa: str) -> None:
    """Thin and thick: each number of rows has its own tile."""
    p = matmul(m, 70, 100, "mk", wa, dtype, (64, 48, 256))
    given, want = tensors(p, m, 70, 100)
    check(p, given, want)


def test_form_follows_structure() -> None:
    """Which form is printed is decided by layout and extents."""
    text = {
        wa: emit([matmul(8, 64, 64, "mk", wa, dt)], "f", Isa.named("avx512bf16")).text
        for wa, dt in (("kn", "f32"), ("nk", "f32"))
    }
    assert "so_mm<8" in text["kn"] and "so_mm_dot<4" in text["nk"]
    pairs = emit([matmul(8, 64, 64, "mk", "kn", "bf16")], "f", Isa.named("avx512bf16")).text
    assert "so_mm_bf16<8" in pairs
    other = emit([matmul(8, 64, 64, "mk", "kn", "bf16")], "f", Isa.named("avx2")).text
    assert "so_mm_bf16<8" not in other.split("static void f_k0")[1]
    lane = emit([matmul(64, 64, 64, lane=Lane(16, 6, 4))], "f", Isa.named("avx512")).text
    assert "so_mm<6, 4" in lane


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_other_instruction_sets(isa: str, dtype: str) -> None:
    """The same text for narrower vectors, and for AVX-512 without the bf16 unit."""
    for wa in ("kn", "nk"):
        p = matmul(13, 45, 67, "mk", wa, dtype)
        given, want = tensors(p, 13, 45, 67)
        check(p, given, want, isa=Isa.named(isa))


@settings(max_examples=12, deadline=None)
@given(
    m=st.integers(1, 70),
    n=st.integers(1, 140),
    k=st.integers(1, 140),
    dtype=st.sampled_from(["f32", "bf16"]),
    xa=st.sampled_from(["mk", "km"]),
    wa=st.sampled_from(["kn", "nk"]),
    tiles=st.tuples(
        st.sampled_from([1, 8, 64]), st.sampled_from([16, 37, 64]), st.sampled_from([32, 61, 512])
    ),
)
def test_any_extents(m: int, n: int, k: int, dtype: str, xa: str, wa: str, tiles: tuple) -> None:
    """Random extents and tiles, 1 and odd tails included."""
    p = matmul(m, n, k, xa, wa, dtype, tiles)
    given, want = tensors(p, m, n, k)
    check(p, given, want)


@pytest.mark.parametrize("m,k", [(0, 5), (1, 1), (5, 0), (70, 333)])
def test_symbolic_rows_and_sums(m: int, k: int) -> None:
    """One binary for any number of rows and any length of the sum."""
    p = matmul(m, 40, k, sym=True, tiles=(32, 32, 128))
    given, want = tensors(p, m, 40, k)
    check(p, given, want, {"M": m, "K": k})


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_direct_to_output(dtype: str) -> None:
    """No accumulator tile: the sum goes through a local block, in chunks, and is stored converted."""
    m, n, k = Axis("m", 70), Axis("n", 600), Axis("k", 90)
    x, w, o = (
        buf("x", "input", (m, k), dtype),
        buf("w", "input", (k, n), dtype),
        buf("out0", "output", (m, n), dtype),
    )
    stmt = Compute(o, (m, n), ap("mul", at(x, dtype="f32"), at(w, dtype="f32")), "add", (k,))
    p = Program("direct", (x, w, o), (), (), (stmt,))
    given, want = tensors(p, 70, 600, 90)
    check(p, given, want)


def test_rmsnorm_linear() -> None:
    """The program of the tile IR's own description: the division follows the contraction."""
    b, n, k = Axis("b", 13), Axis("n", 200), Axis("k", 1000)
    x, w, o = buf("x", "input", (b, k)), buf("w", "input", (k, n)), buf("out0", "output", (b, n))
    acc, ss = buf("acc", "tile", (b, n)), buf("ss", "tile", (b,))
    p = Program(
        "rmsnorm_linear",
        (x, w, o),
        (acc, ss),
        (Split(b, 8), Split(n, 64)),
        (
            Compute(acc, (b, n), lit(0.0)),
            Compute(ss, (b,), lit(0.0)),
            Loop(
                k,
                256,
                (
                    Compute(acc, (b, n), ap("mul", at(x), at(w)), "add", (k,), True),
                    Compute(ss, (b,), ap("mul", at(x), at(x)), "add", (k,), True),
                ),
            ),
            Compute(
                o,
                (b, n),
                ap(
                    "mul",
                    at(acc),
                    ap("rsqrt", ap("add", ap("div", at(ss), Extent(k, "f32")), lit(1e-6))),
                ),
            ),
        ),
    )
    tx, tw = torch.randn(13, 1000), torch.randn(1000, 200)
    want = torch.nn.functional.rms_norm(tx.double(), (1000,), eps=1e-6) @ tw.double()
    check(p, {"x": tx, "w": tw}, {"out0": want})


def test_computed_factors() -> None:
    """Factors that are expressions (a norm's scale, a mask) are computed into a local block first."""
    m, n, k = Axis("m", 20), Axis("n", 50), Axis("k", 300)
    x, g, w = buf("x", "input", (m, k)), buf("g", "input", (k,)), buf("w", "input", (n, k), "bf16")
    o = buf("out0", "output", (m, n))
    left = ap("mul", ap("silu", at(x)), at(g))
    right = ap(
        "where", ap("lt", Coord(k), Lit(123, "i64"), dtype="bool"), at(w, dtype="f32"), lit(0.0)
    )
    p = Program(
        "factors",
        (x, g, w, o),
        (),
        (Split(m, 8),),
        (Compute(o, (m, n), ap("mul", left, right), "add", (k,)),),
    )
    tx, tg, tw = torch.randn(20, 300), torch.randn(300), torch.randn(50, 300).bfloat16()
    want = (torch.nn.functional.silu(tx) * tg)[:, :123].double() @ tw[:, :123].double().T
    check(p, {"x": tx, "g": tg, "w": tw}, {"out0": want})


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_batched_grouped_and_several_sums(dtype: str) -> None:
    """Shared axes are looped, rows are flattened from several axes, sums run over two axes."""
    h, g, q, d, e, s = (Axis(c, n) for c, n in zip("hgqdes", (2, 3, 5, 6, 20, 37), strict=True))
    x = buf("x", "input", (h, g, q, d, e), dtype)
    y = buf("y", "input", (h, s, d, e), dtype)
    o = buf("out0", "output", (h, g, q, s))
    kept = (h, g, q, s)
    stmt = Compute(o, kept, ap("mul", at(x, dtype="f32"), at(y, dtype="f32")), "add", (d, e))
    tx, ty = torch.randn(2, 3, 5, 6, 20), torch.randn(2, 37, 6, 20)
    tx, ty = tx.to(DTYPES[dtype].torch), ty.to(DTYPES[dtype].torch)
    check(
        Program("grouped", (x, y, o), (), (Split(h, 1),), (stmt,)),
        {"x": tx, "y": ty},
        {"out0": torch.einsum("hgqde,hsde->hgqs", tx.double(), ty.double())},
    )
    z = buf("z", "input", (h, d, e, s), dtype)
    stmt = Compute(o, kept, ap("mul", at(z, dtype="f32"), at(x, dtype="f32")), "add", (d, e))
    tz = ty.permute(0, 2, 3, 1).contiguous()
    check(
        Program("grouped2", (x, z, o), (), (Split(h, 1), Split(s, 16)), (stmt,)),
        {"x": tx, "z": tz},
        {"out0": torch.einsum("hgqde,hdes->hgqs", tx.double(), tz.double())},
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_one_pass_attention(causal: bool, dtype: str) -> None:
    """A running maximum, a carried sum and a carried product; the query group shares K and V."""
    h, g, q, s, d, v = (
        Axis(c, n)
        for c, n in zip(("h", "g", "q", "s", "d", "v"), (2, 3, 19, 150, 40, 24), strict=True)
    )
    qb, kb = buf("q", "input", (h, g, q, d), dtype), buf("k", "input", (h, s, d), dtype)
    vb, ob = buf("v", "input", (h, s, v), dtype), buf("out0", "output", (h, g, q, v), dtype)
    row = (h, g, q)
    m, old, fix, total = (buf(n, "tile", row) for n in ("m", "old", "fix", "total"))
    acc, sc = buf("acc", "tile", (*row, v)), buf("sc", "tile", (*row, s))
    pr = buf("pr", "tile", (*row, s), dtype)
    score = ap("mul", at(sc), lit(40**-0.5))
    if causal:
        keep = ap(
            "le", Coord(s), ap("add", Coord(q), Lit(150 - 19, "i64"), dtype="i64"), dtype="bool"
        )
        score = ap("where", keep, score, lit(-torch.inf))
    empty = ap("eq", at(m), lit(-torch.inf), dtype="bool")
    safe = ap("where", empty, lit(0.0), at(m))
    body = (
        Compute(m, row, lit(-torch.inf)),
        Compute(total, row, lit(0.0)),
        Compute(acc, (*row, v), lit(0.0)),
        Loop(
            s,
            64,
            (
                Compute(
                    sc, (*row, s), ap("mul", at(qb, dtype="f32"), at(kb, dtype="f32")), "add", (d,)
                ),
                Compute(sc, (*row, s), score),
                Compute(old, row, at(m)),
                Compute(m, row, at(sc), "max", (s,), True),
                Compute(fix, row, ap("exp", ap("sub", at(old), safe))),
                Compute(acc, (*row, v), ap("mul", at(acc), at(fix))),
                Compute(total, row, ap("mul", at(total), at(fix))),
                Compute(pr, (*row, s), ap("exp", ap("sub", at(sc), safe))),
                Compute(total, row, at(pr, dtype="f32"), "add", (s,), True),
                Compute(
                    acc,
                    (*row, v),
                    ap("mul", at(pr, dtype="f32"), at(vb, dtype="f32")),
                    "add",
                    (s,),
                    True,
                ),
            ),
        ),
        Compute(ob, (*row, v), ap("div", at(acc), at(total))),
    )
    p = Program(
        "attention",
        (qb, kb, vb, ob),
        (m, old, fix, total, acc, sc, pr),
        (Split(h, 1), Split(q, 8)),
        body,
    )
    kind = DTYPES[dtype].torch
    tq, tk, tv = (torch.randn(*n).to(kind) for n in ((2, 3, 19, 40), (2, 150, 40), (2, 150, 24)))
    mask = torch.ones(19, 150, dtype=torch.bool).tril(131) if causal else None
    want = torch.nn.functional.scaled_dot_product_attention(
        tq.double(),
        tk.double()[:, None].expand(2, 3, 150, 40),
        tv.double()[:, None].expand(2, 3, 150, 24),
        attn_mask=mask,
    )
    check(p, {"q": tq, "k": tk, "v": tv}, {"out0": want}, tol=2e-5)


def test_large_tiles_leave_the_stack() -> None:
    """A tile beyond the stack limit lives in a block per thread."""
    m, n = Axis("m", 64), Axis("n", 3000)
    x, o, t = buf("x", "input", (m, n)), buf("out0", "output", (m, n)), buf("t", "tile", (m, n))
    p = Program(
        "big",
        (x, o),
        (t,),
        (Split(m, 32),),
        (Compute(t, (m, n), ap("exp", at(x))), Compute(o, (m, n), ap("mul", at(t), at(t)))),
    )
    assert "arena + " in emit([p], "f").text
    v = torch.randn(64, 3000)
    check(p, {"x": v}, {"out0": (2 * v).exp()})
    assert dense((m, n))[0].coef == 3000
