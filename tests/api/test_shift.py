"""A softmax, an attention and a log-sum-exp written without a shift do not overflow as kernels."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from superopt import pipeline

SHARED_CACHE = True


def softmax(x: torch.Tensor) -> torch.Tensor:
    e = torch.exp(x)
    return e / e.sum(-1, keepdim=True)


def log_sum(x: torch.Tensor) -> torch.Tensor:
    return torch.log(torch.exp(x).sum(-1))


def attention(x: torch.Tensor) -> torch.Tensor:
    p = torch.exp(x @ x.mT)
    return (p @ x) / p.sum(-1, keepdim=True)


def base_two(x: torch.Tensor) -> torch.Tensor:
    e = 2**x
    return e / e.sum(-1, keepdim=True)


EXACT: dict[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]] = {
    softmax: lambda x: torch.softmax(x, -1),
    log_sum: lambda x: torch.logsumexp(x, -1),
    base_two: lambda x: torch.softmax(x * math.log(2), -1),
    attention: lambda x: torch.softmax(x @ x.mT, -1) @ x,
}


@pytest.mark.parametrize("fn", EXACT, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_exponents_do_not_overflow(
    fn: Callable[..., torch.Tensor], dtype: torch.dtype
) -> None:
    x = torch.randn(40, 70, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = pipeline.optimize(fn, (x,), {})
    assert result.certificate is not None
    for scale in (1.0, 40.0, 1000.0):
        given = x * scale
        if scale > 1 and fn is not log_sum:
            assert not fn(given).isfinite().all()  # as it was written
        mine = result.generated(given)
        want = EXACT[fn](given.double())
        assert mine.isfinite().all()
        tolerance = 2e-5 if dtype == torch.float32 else 2.0**-6
        torch.testing.assert_close(
            mine.double(), want, rtol=tolerance, atol=tolerance * float(want.abs().max())
        )
