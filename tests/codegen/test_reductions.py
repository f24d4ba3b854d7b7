"""Reductions of every row, along any axis, on odd sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.codegen.backends.cpu import Isa
from superopt.mugraph.axes import Axis, Stride, Sym
from superopt.mugraph.placement import Split
from superopt.mugraph.scalars import REDUCTIONS
from superopt.mugraph.tileir import Apply, Compute, Extent, Load, Loop, Program
from tests.codegen.harness import ap, at, buf, check, lit, run_cpu

NARROW = {"i8": torch.int8, "u8": torch.uint8, "i16": torch.int16, "i32": torch.int32}


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 64, 65, 70])
def test_every_reduction(size: int) -> None:
    """Every row that reduces: along the contiguous axis, along the other, along both."""
    m, n = Axis("m", 9), Axis("n", size)
    x, flag, big = (
        buf("x", "input", (m, n)),
        buf("flag", "input", (m, n), "bool"),
        buf("big", "input", (m, n), "i64"),
    )
    narrow = [buf(dtype, "input", (m, n), dtype) for dtype in NARROW]
    wide, outs, body = buf("wide", "input", (m, n), "f64"), [], []
    for op in REDUCTIONS:
        sources = [flag] if op in ("and", "or") else [x, wide, big] if op != "mul" else [x, wide]
        sources += narrow if op in ("max", "min") else []
        for source in sources:
            for k, (kept, over) in enumerate([((m,), (n,)), ((n,), (m,)), ((), (m, n))]):
                out = buf(f"{op}_{source.name}_{k}", "output", kept, source.dtype)
                outs.append(out)
                body.append(Compute(out, kept, at(source), op, over))
    g = torch.Generator().manual_seed(size)
    tensors = {
        "x": torch.randn(9, size, generator=g),
        "wide": torch.randn(9, size, generator=g).double(),
        "flag": torch.rand(9, size, generator=g) < 0.8,
        "big": torch.randint(-(2**50), 2**50, (9, size), generator=g),
    }
    for dtype, kind in NARROW.items():
        low = 0 if dtype == "u8" else -100
        tensors[dtype] = torch.randint(low, 100, (9, size), generator=g).to(kind)
    program = Program("reductions", (x, flag, big, wide, *narrow, *outs), (), (), tuple(body))
    check(program, tensors, tol=3e-6)
    narrower = Isa.named("avx2")
    if size in (17, 70) and narrower.runs_here:
        check(program, tensors, tol=3e-6, isa=narrower)
    assert len(outs) == 3 * (2 + 3 * (len(REDUCTIONS) - 3) + 2) + 3 * 2 * len(NARROW)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "f64"])
def test_norm_layer(dtype: str) -> None:
    """Mean and variance, two passes, any dtype; the accumulator of 16-bit inputs is f32."""
    b, d = Axis("b", 7), Axis("d", 1023)
    x, y = buf("x", "input", (b, d), dtype), buf("out0", "output", (b, d), dtype)
    mean, var = (
        buf("mean", "tile", (b,), "f64" if dtype == "f64" else "f32"),
        buf("var", "tile", (b,), "f64" if dtype == "f64" else "f32"),
    )
    kind = mean.dtype
    value = at(x, dtype=kind)
    shifted = ap("sub", value, at(mean), dtype=kind)
    body = (
        Compute(mean, (b,), value, "add", (d,)),
        Compute(mean, (b,), ap("div", at(mean), Extent(d, kind), dtype=kind)),
        Compute(var, (b,), ap("mul", shifted, shifted, dtype=kind), "add", (d,)),
        Compute(
            y,
            (b, d),
            ap(
                "mul",
                shifted,
                ap(
                    "rsqrt",
                    ap(
                        "add",
                        ap("div", at(var), Extent(d, kind), dtype=kind),
                        lit(1e-5, kind),
                        dtype=kind,
                    ),
                    dtype=kind,
                ),
                dtype=kind,
            ),
        ),
    )
    t = torch.randn(7, 1023, dtype=torch.float64).to(
        mean
        and {
            "f32": torch.float32,
            "f64": torch.float64,
            "bf16": torch.bfloat16,
            "f16": torch.float16,
        }[dtype]
    )
    want = torch.nn.functional.layer_norm(t.double(), (1023,))
    check(Program("norm", (x, y), (mean, var), (Split(b, 2),), body), {"x": t}, {"out0": want})


def test_accumulators_of_16_bit_values_are_wide() -> None:
    """An accumulator tile declared bf16 does not lose small terms between two steps of a loop."""
    k = Axis("k", 4096)
    x, y = buf("x", "input", (k,), "bf16"), buf("out0", "output", (), "bf16")
    acc = buf("acc", "tile", (), "bf16")
    body = (
        Compute(acc, (), lit(0.0)),
        Loop(k, 8, (Compute(acc, (), at(x, dtype="f32"), "add", (k,), True),)),
        Compute(y, (), at(acc, dtype="f32")),
    )
    check(
        Program("wide", (x, y), (acc,), (), body),
        {"x": torch.ones(4096, dtype=torch.bfloat16)},
        {"out0": torch.tensor(4096.0)},
        tol=0.0,
    )


@pytest.mark.parametrize("kept", ["none", "outer", "inner"])
@pytest.mark.parametrize("last", [3, 28, 32])
def test_many_short_rows_lose_nothing(kept: str, last: int) -> None:
    """Sums of 60000 numbers near 100 in short rows are as good as sums can be in float."""
    r, m, n = Axis("r", 3), Axis("m", 20000), Axis("n", last)
    axes = (m, r, n)
    over = {"none": axes, "outer": (m, n), "inner": (m, r)}[kept]
    left = tuple(a for a in axes if a not in over)
    x, out = buf("x", "input", axes), buf("out", "output", left)
    program = Program("rows", (x, out), (), (), (Compute(out, left, at(x), "add", over),))
    value = torch.randn(20000, 3, last, generator=torch.Generator().manual_seed(last)) / 128 + 100
    dims = tuple(axes.index(a) for a in over)
    got, want = run_cpu([program], {"x": value})["out"], value.double().sum(dims)
    error = ((got.double() - want) / want).abs().max()
    assert float(error) <= 2.0**-23, float(error)
    for special in (math.inf, -math.inf, math.nan):
        value[77, 1, 2] = special
        got = run_cpu([program], {"x": value})["out"]
        torch.testing.assert_close(got, value.sum(dims), equal_nan=True, rtol=1e-5, atol=0)
    huge = torch.full_like(value, 3e38)
    assert (run_cpu([program], {"x": huge})["out"] == math.inf).all()


def test_empty_reductions() -> None:
    """A reduction over nothing is the identity, or leaves an accumulator as it was."""
    s = Sym("n", 0, 64)
    m, n, zero = Axis("m", 5), Axis("n", s), Axis("z", 0)
    x, w = buf("x", "input", (m, n)), buf("w", "input", (n, zero))
    acc = buf("acc", "tile", (m,))
    outs = [buf(f"o{k}", "output", (m,)) for k in range(4)]
    empty = buf("o9", "output", (m, zero))
    body = (
        Compute(outs[0], (m,), at(x), "add", (n,)),
        Compute(outs[1], (m,), at(x), "max", (n,)),
        Compute(acc, (m,), lit(3.0)),
        Compute(acc, (m,), ap("exp", at(x)), "add", (n,), True),
        Compute(outs[2], (m,), at(acc)),
        Compute(empty, (m, zero), ap("mul", at(x), at(w)), "add", (n,)),
        Compute(outs[3], (m,), lit(7.0), "add", (zero,)),
    )
    program = Program("empty", (x, w, *outs, empty), (acc,), (Split(m, 2),), body)
    check(
        program,
        {"x": torch.zeros(5, 0), "w": torch.zeros(0, 0)},
        {
            "o0": torch.zeros(5),
            "o1": torch.full((5,), -torch.inf),
            "o2": torch.full((5,), 3.0),
            "o3": torch.zeros(5),
        },
        {"n": 0},
    )
    x3 = torch.randn(5, 3)
    check(program, {"x": x3, "w": torch.zeros(3, 0)}, {"o1": x3.amax(1)}, {"n": 3})


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    """Random extents, layouts, grids and loops: a reduction and a map that reads it."""
    sizes = [data.draw(st.integers(1, 40)) for _ in range(3)]
    axes = [Axis(n, s) for n, s in zip("abc", sizes, strict=True)]
    order = data.draw(st.permutations(axes))
    x, y = buf("x", "input", order), buf("out0", "output", axes)
    over = data.draw(st.sampled_from(axes))
    kept = tuple(a for a in axes if a != over)
    op = data.draw(st.sampled_from(["add", "max", "min"]))
    acc = buf("acc", "tile", kept)
    grid = tuple(
        Split(a, data.draw(st.integers(1, 17)))
        for a in data.draw(st.lists(st.sampled_from(kept), unique=True))
    )
    step = data.draw(st.integers(1, 20))
    identity = {"add": 0.0, "max": -torch.inf, "min": torch.inf}[op]
    body = (
        Compute(acc, kept, lit(identity)),
        Loop(over, step, (Compute(acc, kept, Apply("exp", (at(x),), "f32"), op, (over,), True),)),
        Compute(y, tuple(axes), ap("div", Load(x, at(x).index, "f32"), at(acc))),
    )
    t = torch.randn([a.size for a in order])
    check(Program("any", (x, y), (acc,), grid, body), {"x": t}, tol=2e-5)
    assert x.strides[-1] == Stride(1)
