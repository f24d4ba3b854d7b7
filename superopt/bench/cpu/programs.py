"""The programs of the suite that no other suite has, written in PyTorch as their users write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 128
"""Weights of four bits that share one step."""


def gqa_decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention whose heads share keys and values: q [h, m, d], k and v [kv, t, d] -> [h, m, d]."""
    (h, _, d), (kv, t, _) = q.shape, k.shape
    k = k[:, None].expand(kv, h // kv, t, d).reshape(h, t, d)
    v = v[:, None].expand(kv, h // kv, t, d).reshape(h, t, d)
    return torch.softmax(q @ k.transpose(-1, -2) * d**-0.5, -1) @ v


def gqa_decode_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``gqa_decode`` by PyTorch's operator."""
    return F.scaled_dot_product_attention(q[None], k[None], v[None], enable_gqa=True)[0]


def moe_dense(x: Tensor, w_router: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    """The two best of some experts for each token, by masking all: x [t, h] -> [t, h].

    w_router [h, experts], w_gate and w_up [experts, h, inter], w_down [experts, inter, h]. Weights
    of the two are scaled to sum to one.
    """
    scores = torch.softmax(x @ w_router, -1, dtype=torch.promote_types(x.dtype, torch.float32))
    best = scores.amax(-1, keepdim=True)
    second = torch.where(scores < best, scores, 0.0).amax(-1, keepdim=True)
    kept = torch.where(scores >= second, scores, 0.0)
    kept = (kept / kept.sum(-1, keepdim=True)).to(x.dtype)
    out = (F.silu(x @ w_gate) * (x @ w_up)) @ w_down
    return (out * kept.t()[:, :, None]).sum(0)


def chain(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A chain of scalar functions and a softmax over columns: x [m, n], a and b [n] -> [m, n]."""
    return torch.softmax(F.gelu(x * a + b, approximate="tanh") + torch.tanh(x), -1)


def linear_int8(x: Tensor, w: Tensor, step: Tensor) -> Tensor:
    """A linear layer of 8-bit weights, one step per output: x [m, k], w [n, k], step [n]."""
    return F.linear(x, w.to(x.dtype) * step[:, None])


def linear_int4(x: Tensor, w: Tensor, step: Tensor) -> Tensor:
    """A linear layer of 4-bit weights: x [m, k], w [n, k / 2] (uint8), step [n, k / group].

    A byte holds two values, the first in its low half, each less 8.
    """
    n, groups = step.shape
    values = torch.stack((w & 15, w >> 4), -1).reshape(n, groups, -1)
    return F.linear(x, ((values.to(x.dtype) - 8) * step[:, :, None]).reshape(n, -1))
