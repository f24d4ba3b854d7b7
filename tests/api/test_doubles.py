"""Double precision beside single: no rounding is dropped, and no sum is made in the lesser one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from superopt import pipeline

SHARED_CACHE = True

Program = Callable[..., Any]


def halves(d: torch.Tensor) -> Any:
    high = d.float()
    return high * 2, (d - high.double()).float() * 2


def sums(x: torch.Tensor) -> Any:
    z = x.double()
    return z.sum(), (z - z.amax()).exp()


def means(x: torch.Tensor) -> Any:
    z = x.double()
    return z.mean(1), (z - z.amax(1, True)).exp().sum(1).log()


ROUNDED: dict[str, Program] = {
    "residual": lambda d: (d - d.float().double()).abs().amax(1),
    "difference": lambda d: d - d.float(),
    "round trip": lambda d: d.float().double() == d,
    "comparison": lambda d: d.float() == d,
    "halves": halves,
    "overflow": lambda d: (d * 1e300).float().double() * 0.5 + 1,
    "narrower": lambda d: (d.bfloat16() * 2, d.half().double()),
}
WIDENED: dict[str, Program] = {
    "sums": sums,
    "means": means,
    "dtype": lambda x: (x.sum(dtype=torch.float64), x.log_softmax(1, torch.float64)),
    "mean and sum": lambda x: (x.double().mean(1), x + x.double().amax()),
    "and back": lambda x: (x.double().square().sum(1) * 1e-3).float().exp(),
}


def check(fn: Program, x: torch.Tensor) -> None:
    result = pipeline.optimize(fn, (x,), {})
    for given in (x, x * 3 + 1, torch.zeros_like(x).index_fill_(1, torch.tensor([0]), 1e8) + 1):
        mine, theirs = (
            r if isinstance(r, tuple) else (r,) for r in (result.generated(given), fn(given))
        )
        for y, e in zip(mine, theirs, strict=True):
            assert y.dtype == e.dtype
            if e.dtype == torch.bool:
                assert torch.equal(y, e)
            else:
                tight = 1e-13 if e.dtype == torch.float64 else 1e-6
                torch.testing.assert_close(y, e, rtol=tight, atol=tight * 1e-3, equal_nan=True)


@pytest.mark.parametrize("name", ROUNDED)
def test_a_rounding_to_single_precision_is_kept(name: str) -> None:
    gen = torch.Generator().manual_seed(0)
    check(ROUNDED[name], torch.randn(33, 40, generator=gen, dtype=torch.float64))


@pytest.mark.parametrize("name", WIDENED)
def test_what_the_program_adds_up_in_double_precision_is(name: str) -> None:
    check(WIDENED[name], torch.randn(33, 40, generator=torch.Generator().manual_seed(0)))


def test_the_order_of_a_result_and_shared_results_are_the_function_s() -> None:
    x = torch.randn(2, 5, 7)
    y = torch.randn(7, 5, 2).permute(2, 1, 0)

    def floors(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x // y

    def both(x: torch.Tensor) -> Any:
        z = x.exp()
        return z, torch.einsum("ijk->kji", z)

    for fn, args in ((floors, (x, y)), (both, (x,))):
        try:
            result = pipeline.optimize(fn, args, {})
        except pipeline.SuperoptError:
            continue  # then PyTorch runs it
        mine, theirs = result.generated(*args), fn(*args)
        if isinstance(theirs, tuple):
            mine[0].zero_()
            assert torch.equal(mine[1], torch.zeros_like(mine[1]))
        else:
            assert mine.stride() == theirs.stride()


def test_an_interpolation_ends_at_its_ends() -> None:
    def mixed(a: torch.Tensor, b: torch.Tensor, w: torch.Tensor) -> Any:
        return torch.lerp(a, b, w), torch.lerp(a, b, 0.9) + a

    a = torch.tensor([[1e8, 1.0, torch.inf, 2.0] * 8])
    b = torch.tensor([[1e-8, -torch.inf, 1.0, 5.0] * 8])
    w = torch.tensor([[1.0, 0.9, 0.9, 0.25] * 8])
    result = pipeline.optimize(mixed, (a, b, w), {})
    for y, e in zip(result.generated(a, b, w), mixed(a, b, w), strict=True):
        torch.testing.assert_close(y, e, rtol=1e-6, atol=0.0, equal_nan=True)
