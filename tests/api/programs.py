"""Functions as users write them, small tensors for them, and how close an answer must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 4e-2}


def rmsnorm_linear(x: torch.Tensor, g: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), g) @ w


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / 4.0, -1) @ v


def gated_mlp(x: torch.Tensor, w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return F.silu(x @ w) * (x @ u)


def lora(x: torch.Tensor, w: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return x @ w + (x @ a) @ b


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


WORKLOADS: dict[str, tuple[Callable[..., torch.Tensor], tuple[tuple[int, ...], ...]]] = {
    "rmsnorm_linear": (rmsnorm_linear, ((8, 64), (64,), (64, 48))),
    "attention": (attention, ((2, 8, 16), (2, 40, 16), (2, 40, 16))),
    "gated_mlp": (gated_mlp, ((8, 64), (64, 48), (64, 48))),
    "lora": (lora, ((8, 64), (64, 48), (64, 4), (4, 48))),
    "softmax": (softmax, ((8, 77),)),
}


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Random tensors, matrices scaled as weights are."""
    return [(torch.randn(s) / (s[0] ** 0.5 if len(s) == 2 else 1)).to(dtype) for s in shapes]


def assert_same(got: Any, want: Any) -> None:
    """Both have one structure, and their tensors agree in dtype, shape and value."""
    got_leaves, got_spec = pytree.tree_flatten(got)
    want_leaves, want_spec = pytree.tree_flatten(want)
    assert got_spec == want_spec
    for a, b in zip(got_leaves, want_leaves, strict=True):
        if isinstance(b, torch.Tensor):
            tolerance = TOLERANCE.get(b.dtype, 0.0)
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            assert a == b
