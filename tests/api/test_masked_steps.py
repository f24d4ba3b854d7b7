"""Inputs whose mask leaves whole steps of a one-pass loop empty, met after the first call."""

from __future__ import annotations

import torch

from superopt import superoptimize


def unmasked_sum(s: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The maximum leaves out what is masked, the sum does not."""
    peak = s.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    return torch.exp(s - peak).sum(-1)


def masked_sum(s: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    peak = s.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    return (torch.exp(s - peak) * mask).sum(-1)


def test_terms_before_the_first_unmasked_one_count() -> None:
    gen = torch.Generator().manual_seed(0)
    s = torch.randn(8, 20000, generator=gen)
    mask = torch.rand(8, 20000, generator=gen) > 0.5
    late = mask.clone()
    late[:, :15000] = False
    for fn in (unmasked_sum, masked_sum):
        fast = superoptimize(fn, strict=True, fallbacks=(), budget="100c")
        for given in (mask, late):
            want = fn(s.double(), given)
            torch.testing.assert_close(fast(s, given).double(), want, rtol=1e-5, atol=0.0)
