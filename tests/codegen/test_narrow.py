"""Integers of few bits: vector arithmetic that wraps, and weights unpacked inside contractions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tileir import Apply, Compute, Expr, Lit, Program
from superopt.pipeline.search_only import search_function
from tests.codegen.harness import ap, at, buf, run_cpu

Tensor = torch.Tensor

ISAS = ("avx512", "avx2", "generic")


def terms(x: Expr, dtype: str) -> dict[str, tuple[Expr, Callable[[Tensor], Tensor]]]:
    """Terms over a narrow integer with what PyTorch makes of them."""
    two = Lit(2, dtype)
    low = -128 if dtype == "i8" else 0
    kind = DTYPES[dtype].torch

    def f32(e: Expr) -> Expr:
        return ap("cast", e)

    def up(n: int) -> Apply:
        return ap("mul", x, Lit(n, dtype), dtype=dtype)

    def div(e: Expr, n: int) -> Apply:
        return ap("floordiv", e, Lit(n, dtype), dtype=dtype)

    def mod(e: Expr, n: int) -> Apply:
        return ap("mod", e, Lit(n, dtype), dtype=dtype)

    return {
        "as it is": (f32(x), lambda t: t.float()),
        "low half": (f32(mod(x, 16)), lambda t: (t & 15).float()),
        "high half": (f32(div(x, 16)), lambda t: (t >> 4).float()),
        "low half moved": (
            ap("sub", f32(mod(x, 16)), Lit(8.0, "f32")),
            lambda t: (t & 15).float() - 8,
        ),
        "high half moved": (
            ap("sub", f32(div(x, 16)), Lit(8.0, "f32")),
            lambda t: (t >> 4).float() - 8,
        ),
        "high half scaled": (
            ap("mul", Lit(0.3, "f32"), ap("add", f32(div(x, 16)), Lit(0.1, "f32"))),
            lambda t: torch.tensor(0.3) * ((t >> 4).float() + torch.tensor(0.1)),
        ),
        "signed low half": (f32(div(up(16), 16)), lambda t: ((t << 4) >> 4).float()),
        "two bits": (f32(div(mod(x, 64), 16)), lambda t: ((t >> 4) & 3).float()),
        "three bits up": (f32(div(up(8), 8)), lambda t: ((t << 3) >> 3).float()),
        "by three": (f32(ap("mod", x, Lit(3, dtype), dtype=dtype)), lambda t: (t % 3).float()),
        "sum wraps": (
            f32(ap("add", x, ap("add", x, two, dtype=dtype), dtype=dtype)),
            lambda t: (t + (t + 2)).float(),
        ),
        "product wraps": (f32(ap("mul", x, x, dtype=dtype)), lambda t: (t * t).float()),
        "larger": (
            f32(ap("max", x, Lit(low + 3, dtype), dtype=dtype)),
            lambda t: t.clamp(min=low + 3).float(),
        ),
        "chosen": (
            f32(ap("where", ap("lt", x, two, dtype="bool"), up(3), x, dtype=dtype)),
            lambda t: torch.where(t < 2, t * 3, t).float(),
        ),
        "there and back": (
            f32(ap("cast", ap("add", f32(x), Lit(0.75, "f32")), dtype="i16")),
            lambda t: (t.float() + 0.75).to(torch.int16).float(),
        ),
        "wider and back": (
            f32(
                ap(
                    "cast",
                    ap("mul", ap("cast", x, dtype="i64"), Lit(1000, "i64"), dtype="i64"),
                    dtype=dtype,
                )
            ),
            lambda t: (t.long() * 1000).to(kind).float(),
        ),
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_every_byte_in_vectors(dtype: str, isa: str) -> None:
    """Each term at all 256 values, and at a rest of five lanes."""
    i = Axis("i", 261)
    info = torch.iinfo(DTYPES[dtype].torch)
    every = torch.arange(info.min, info.max + 1).repeat(2)[:261].to(DTYPES[dtype].torch)
    x = buf("x", "input", [i], dtype)
    found = terms(at(x), dtype)
    outs = {name: buf(f"out{k}", "output", [i]) for k, name in enumerate(found)}
    body = tuple(Compute(outs[name], (i,), e) for name, (e, _) in found.items())
    program = Program("bytes", (x, *outs.values()), (), (), body)
    got = run_cpu([program], {"x": every}, isa=cpu.Isa.named(isa))
    assert len(found) == 16
    for name, (_, reference) in found.items():
        assert torch.equal(got[outs[name].name], reference(every)), name


# -- whole programs ----------------------------------------------------------------------------------


def int8(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
    return F.linear(x, w.to(x.dtype) * s[:, None])


def int8_zero(x: Tensor, w: Tensor, s: Tensor, z: Tensor) -> Tensor:
    return F.linear(x, (w.to(x.dtype) - z[:, None]) * s[:, None])


def int8_by_rows(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
    return x @ (w.to(x.dtype) * s)


def after(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
    return (x @ w.to(x.dtype)) * s


def scaled(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
    n, k = w.shape
    return F.linear(x, (w.view(n, s.shape[1], -1) * s[..., None]).view(n, k))


def halves(w: Tensor) -> tuple[Tensor, Tensor]:
    return w & 0xF, w >> 4


def int4(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
    return scaled(x, torch.stack(halves(w), -1).flatten(-2).to(x.dtype) - 8, s)


def int4_apart(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
    return scaled(x, torch.cat(halves(w), -1).to(x.dtype) - 8, s)


def int4_signed(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
    return scaled(x, torch.stack(((w << 4) >> 4, w >> 4), -1).flatten(-2).to(x.dtype), s)


def int4_zero(x: Tensor, w: Tensor, s: Tensor, z: Tensor) -> Tensor:
    n, k = w.shape[0], 2 * w.shape[1]
    q = torch.stack(halves(w), -1).view(n, s.shape[1], -1).to(x.dtype)
    return F.linear(x, ((q - z[..., None]) * s[..., None]).view(n, k))


def int4_channel(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
    q = torch.stack(halves(w), -1).flatten(-2).to(x.dtype) - 8
    return F.linear(x, q) * s


def weights(form: str, n: int, k: int, groups: int) -> tuple[Tensor, ...]:
    """What a form takes beside the activations."""
    if form.startswith("int4"):
        w = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8)
        if form == "int4_signed":
            w = w.view(torch.int8)
        shape = (n,) if form == "int4_channel" else (n, groups)
    else:
        shape = (n,)
        w = torch.randint(-128, 128, (n, k), dtype=torch.int8)
        if form in ("int8_by_rows", "after"):
            w = w.T.contiguous()
    zeros = (torch.randint(0, 16, shape).float(),) if form.endswith("zero") else ()
    return (w, torch.rand(shape) + 0.1, *zeros)


CASES = [
    # form, rows, columns, summed, groups, dtype, instruction set, whether it is one nest in registers
    (int8, 3, 21, 131, 1, "bf16", "avx512", True),
    (int8_zero, 1, 9, 77, 1, "f32", "avx2", True),
    (int8_by_rows, 3, 45, 67, 1, "f32", "avx512", False),
    (int4, 1, 21, 384, 3, "f32", "avx512", True),
    (int4, 3, 10, 120, 4, "f32", "avx2", True),
    (int4, 16, 7, 256, 2, "bf16", "avx512", True),
    (int4_apart, 1, 13, 256, 4, "f32", "avx512", True),
    (int4_signed, 1, 97, 320, 2, "f32", "avx512", True),
    (int4_zero, 3, 11, 72, 2, "bf16", "generic", True),
]
MORE = [
    (int8, 1, 37, 131, 1, "f32", "avx512", True),
    (int8, 16, 19, 100, 1, "f32", "avx2", True),
    (after, 1, 130, 33, 1, "bf16", "avx2", False),
    (int4, 1, 5, 96, 2, "f32", "generic", True),
    (int4_signed, 3, 6, 80, 2, "f32", "avx2", True),
    (int4_zero, 1, 18, 256, 2, "f32", "avx512", True),
    (int4_channel, 1, 23, 90, 1, "f32", "avx512", True),
    (int4, 40, 9, 128, 2, "f32", "avx512", False),
]


def named(case: tuple[object, ...]) -> str:
    return f"{case[0].__name__}-{case[1]}x{case[2]}x{case[3]}-{case[5]}-{case[6]}"


@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(c, marks=pytest.mark.full) for c in MORE)],
    ids=[named(c) for c in (*CASES, *MORE)],
)
def test_weights_are_unpacked_where_they_are_read(case: tuple[object, ...]) -> None:
    """The first choice of the search against float64, and that it is one nest in registers."""
    form, m, n, k, groups, dtype, isa, fused = case
    torch.manual_seed(m * n + k)
    kind = DTYPES[dtype].torch
    x = torch.randn(m, k).to(kind)
    w, *rest = weights(form.__name__, n, k, groups)
    rest = [r.to(kind) for r in rest]
    found = search_function(form, (x, w, *rest))
    assert not found.boundaries
    (piece,) = found.pieces
    best = piece.candidates[0]
    programs = lower(best)
    inputs = dict(zip([i.name for i in best.graph.inputs], (x, w, *rest), strict=True))
    got = run_cpu(programs, inputs, isa=cpu.Isa.named(isa))
    (out,) = [t for name, t in got.items() if name.startswith("out")]
    wide = [t.double() if t.is_floating_point() else t for t in (x, w, *rest)]
    want = form(*wide)
    size = form(wide[0].abs(), *wide[1:]).abs().max() + want.abs().max()
    limit = 2e-6 if dtype == "f32" else 8e-3
    assert (out.double().view_as(want) - want).abs().max() <= limit * size
    text = cpu.emit(programs, "kernel", cpu.Isa.named(isa)).text
    assert ("so_sums<" in text) == fused
