"""A product is one number wherever it is read: compilers must not fuse it into what reads it."""

from __future__ import annotations

import pytest
import torch

from superopt import superoptimize
from superopt.codegen.backends.cpu import Isa
from superopt.mugraph.axes import Axis
from superopt.mugraph.tileir import Compute, Expr, Program
from tests.codegen.harness import ap, at, buf, run_cpu


@pytest.mark.parametrize("isa", ["native", "avx2", "generic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 5, 16, 1003])
def test_a_product_less_itself_is_zero(isa: str, dtype: torch.dtype, size: int) -> None:
    n, kind = Axis("n", size), "f32" if dtype == torch.float32 else "f64"
    names = ("product", "square", "apart", "alone", "sums")
    x, y = (buf(k, "input", (n,), kind) for k in "xy")
    outs = [buf(k, "output", (n,), kind) for k in names]

    def of(op: str, *args: Expr) -> Expr:
        return ap(op, *args, dtype=kind)

    product, square = of("mul", at(x), at(y)), of("square", at(x))
    texts = (
        product,
        square,
        of("sub", product, at(outs[0])),
        of("add", of("neg", at(outs[1])), square),
        of("sub", of("add", product, square), of("add", at(outs[0]), at(outs[1]))),
    )
    steps = tuple(Compute(o, (n,), t) for o, t in zip(outs, texts, strict=True))
    g = torch.Generator().manual_seed(3)
    given = {k: torch.randn(size, generator=g, dtype=dtype) * 1e4 for k in "xy"}
    host = Isa.host() if isa == "native" else Isa.named(isa)
    got = run_cpu([Program("p", (x, y, *outs), (), (), steps)], given, isa=host)
    assert torch.equal(got["product"], given["x"] * given["y"])
    for name in names[2:]:
        assert not got[name].any(), f"{name}: {got[name].abs().max()}"


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("squared", [True, False])
def test_the_largest_exponent_is_zero(scale: float, squared: bool) -> None:
    """Of exp(s - max(s)) with s a product, the sum is at least 1, and as PyTorch's."""

    def fn(x: torch.Tensor) -> torch.Tensor:
        s = x * x if squared else x * 0.7
        return (s - s.amax(-1, keepdim=True)).exp().sum(-1)

    fast = superoptimize(fn, fallbacks=(), strict=True, budget="100c")
    x = torch.randn(8, 130, generator=torch.Generator().manual_seed(0))
    fast(x)
    torch.testing.assert_close(fast(x * scale), fn(x * scale), rtol=1e-5, atol=0.0)
