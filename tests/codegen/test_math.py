"""The vector functions against float64: errors in units of last place, over many points."""

from __future__ import annotations

import math

import pytest
import torch

from superopt.codegen.backends.cpu import Isa
from superopt.mugraph.axes import Axis
from superopt.mugraph.tileir import Compute, Program
from tests.codegen.harness import ap, at, buf, run_cpu

POINTS = 400_000

# row: (exact function, low, high, ulps allowed); inputs are spread over the range and over exponents
FUNCTIONS = {
    "exp": (torch.exp, -104.0, 89.0, 1.5),
    "expm1": (torch.expm1, -30.0, 89.0, 2.0),
    "log": (torch.log, 0.0, 3e38, 1.5),
    "log1p": (torch.log1p, -0.999, 1e30, 3.0),
    "tanh": (torch.tanh, -12.0, 12.0, 3.0),
    "erf": (torch.erf, -6.0, 6.0, 2.0),
    "sin": (torch.sin, -40000.0, 40000.0, 2.0),
    "cos": (torch.cos, -40000.0, 40000.0, 2.0),
    "sqrt": (torch.sqrt, 0.0, 3e38, 0.5),
    "sigmoid": (torch.sigmoid, -87.0, 90.0, 4.0),
}


def points(low: float, high: float, count: int) -> torch.Tensor:
    """Half uniform over the range, half uniform over the exponents of its values (denormals too)."""
    g = torch.Generator().manual_seed(7)
    even = low + (high - low) * torch.rand(count // 2, generator=g, dtype=torch.float64)
    bits = torch.randint(0, 2**31 - 2**23, (count,), generator=g).to(torch.int32)
    spread = bits.view(torch.float32).double() * (
        1 - 2 * torch.randint(0, 2, (count,), generator=g)
    )
    spread = spread[(spread >= low) & (spread <= high)][: count - count // 2]
    return torch.cat([even, spread]).float().clamp(low, high)


def ulps(got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """Distance in units of last place of float32 at the exact value, denormals included."""
    size = torch.frexp(want.abs())[1].clamp(min=-125).double() - 24
    return (got.double() - want).abs() / torch.pow(2.0, size)


@pytest.mark.parametrize("isa", ["native", "avx2", "native -O1"])
@pytest.mark.parametrize("row", FUNCTIONS)
def test_ulps(row: str, isa: str) -> None:
    """Each function stays within its stated error at all points tried, which must be enough.

    Compilers that optimize less join no multiplications and additions, which must not matter.
    """
    isa, *extra = isa.split()
    exact, low, high, allowed = FUNCTIONS[row]
    x = points(low, high, POINTS)
    n = Axis("n", x.numel())
    program = Program(
        row,
        (bx := buf("x", "input", (n,)), out := buf("out0", "output", (n,))),
        (),
        (),
        (Compute(out, (n,), ap(row, at(bx))),),
    )
    host = Isa.host() if isa == "native" else Isa.named(isa)
    got = run_cpu([program], {"x": x}, isa=host, extra=tuple(extra))["out0"]
    want = exact(x.double())
    rounded = want.float()
    edge = ~torch.isfinite(rounded) | (rounded == 0)  # overflow, and what rounds to zero
    assert torch.equal(
        got[edge & ~torch.isnan(rounded)].abs() == math.inf,
        rounded[edge & ~torch.isnan(rounded)].abs() == math.inf,
    )
    error = ulps(got[~edge], want[~edge])
    assert error.numel() > 0.6 * POINTS, f"too few points: {error.numel()}"
    worst = int(error.argmax())
    assert float(error.max()) <= allowed, (
        f"{row}: {float(error.max()):.2f} ulp at {x[~edge][worst].item()!r}, mean {float(error.mean()):.3f}"
    )


def test_scalar_is_the_vector_code() -> None:
    """One element alone is the same element in a row, but for how the compiler joins multiply-adds."""
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 3
    rows = ["exp", "log1p", "tanh", "erf", "sin", "expm1"]
    for size in (50, 1):
        n = Axis("n", size)
        bx = buf("x", "input", (n,))
        outs = [buf(f"o{k}", "output", (n,)) for k in range(len(rows))]
        program = Program(
            "s",
            (bx, *outs),
            (),
            (),
            tuple(
                Compute(o, (n,), ap(r, ap("abs", at(bx)))) for r, o in zip(rows, outs, strict=True)
            ),
        )
        if size == 50:
            whole = run_cpu([program], {"x": x})
        else:
            for k in range(0, 50, 7):
                alone = run_cpu([program], {"x": x[k : k + 1].clone()})
                for o in outs:
                    one, same = alone[o.name][0], whole[o.name][k]
                    torch.testing.assert_close(one, same, rtol=2.0**-22, atol=0.0)
