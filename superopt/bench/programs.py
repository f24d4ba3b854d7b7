"""The programs of the workloads, written in PyTorch as their users write them.

Each takes tensors only and reads every size from their shapes, so that one function serves all
sizes and dtypes, float64 (the reference of the benchmarks) among them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def _wide(x: Tensor) -> torch.dtype:
    """float32, in which the model code of Llama and Qwen3 normalizes; float64 stays float64."""
    return torch.promote_types(x.dtype, torch.float32)


# The set of the Mirage paper (OSDI'25, section 8). Weights are [k, n].


def gqa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with scale 1/sqrt(d): q [b, m, d], k [b, d, t], v [b, t, d] -> [b, m, d]."""
    return torch.softmax(q @ k * q.shape[-1] ** -0.5, -1) @ v


def qk_norm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``gqa`` with q and k normalized over the head dimension: k is stored [b, d, t]."""
    d = q.shape[-1]
    q = F.rms_norm(q, (d,), eps=EPS)
    k = F.rms_norm(k.transpose(-1, -2), (d,), eps=EPS).transpose(-1, -2)
    return torch.softmax(q @ k * d**-0.5, -1) @ v


def rmsnorm_linear(x: Tensor, g: Tensor, w: Tensor) -> Tensor:
    """RMSNorm with a gain, then a projection: x [b, k], g [k], w [k, n] -> [b, n]."""
    return F.rms_norm(x, (x.shape[-1],), g, EPS) @ w


def lora(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A projection and its low-rank update: x [m, k], w [k, n], a [k, r], b [r, n] -> [m, n]."""
    return x @ w + (x @ a) @ b


def gated_mlp(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """silu(x w1) * (x w2): x [b, k], w1 and w2 [k, n] -> [b, n]."""
    return F.silu(x @ w1) * (x @ w2)


def ntrans(x: Tensor, h: Tensor, alpha: Tensor) -> Tensor:
    """The normalized residual of nGPT, norm(x + alpha (norm(h) - x)); all [b, n]."""
    n = (x.shape[-1],)
    return F.rms_norm(x + alpha * (F.rms_norm(h, n, eps=EPS) - x), n, eps=EPS)


# Blocks of decoder layers, as the model code of transformers writes them. Weights are [n, k].


def llama_rms_norm(x: Tensor, gain: Tensor, eps: float = EPS) -> Tensor:
    """RMSNorm over the last dimension as in LlamaRMSNorm and Qwen3RMSNorm, in float32."""
    dtype = x.dtype
    y = x.to(_wide(x))
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return gain * y.to(dtype)


def rotate_half(x: Tensor) -> Tensor:
    """Half of the rotation by 90 degrees: (-x2, x1) of the halves x1, x2 of the last dimension."""
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def apply_rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary embedding of q and k [b, h, s, d] by cos and sin [b, s, d]."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def repeat_kv(x: Tensor, groups: int) -> Tensor:
    """[b, kv, t, d] -> [b, kv * groups, t, d], each head ``groups`` times."""
    b, kv, t, d = x.shape
    if groups == 1:
        return x
    return x[:, :, None].expand(b, kv, groups, t, d).reshape(b, kv * groups, t, d)


def eager_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of every query over every key: q [b, h, s, d], k, v [b, kv, t, d] -> [b, s, h d]."""
    b, h, s, d = q.shape
    k, v = repeat_kv(k, h // k.shape[1]), repeat_kv(v, h // v.shape[1])
    weights = torch.matmul(q, k.transpose(2, 3)) * d**-0.5
    weights = F.softmax(weights, dim=-1, dtype=_wide(q)).to(q.dtype)
    return torch.matmul(weights, v).transpose(1, 2).reshape(b, s, h * d)


def qkv_projection(
    x: Tensor, gain: Tensor, wq: Tensor, wk: Tensor, wv: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """RMSNorm, then the three projections: x [b, s, h] -> q, k and v [b, s, heads d]."""
    y = llama_rms_norm(x, gain)
    return F.linear(y, wq), F.linear(y, wk), F.linear(y, wv)


def decode_attention(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, past_k: Tensor, past_v: Tensor
) -> Tensor:
    """One step of attention over a cache: q, k, v [b, 1, heads d], past [b, kv, t, d]."""
    return attend(q, k, v, cos, sin, past_k, past_v, None, None)[0]


def decode_attention_qk_norm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gain_q: Tensor,
    gain_k: Tensor,
    cos: Tensor,
    sin: Tensor,
    past_k: Tensor,
    past_v: Tensor,
) -> Tensor:
    """``decode_attention`` with each head of q and k normalized first (Qwen3); gains [d]."""
    return attend(q, k, v, cos, sin, past_k, past_v, gain_q, gain_k)[0]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    past_k: Tensor,
    past_v: Tensor,
    gain_q: Tensor | None,
    gain_k: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``decode_attention``, and the k and v to be cached; q and k normalized if there are gains."""
    b, s, d = q.shape[0], q.shape[1], past_k.shape[-1]
    q, k, v = q.view(b, s, -1, d), k.view(b, s, -1, d), v.view(b, s, -1, d)
    if gain_q is not None and gain_k is not None:
        q, k = llama_rms_norm(q, gain_q), llama_rms_norm(k, gain_k)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    q, k = apply_rope(q, k, cos, sin)
    out = eager_attention(q, torch.cat([past_k, k], dim=-2), torch.cat([past_v, v], dim=-2))
    return out, k, v


def gated_mlp_block(
    x: Tensor, gain: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor
) -> Tensor:
    """RMSNorm, gated MLP, down projection and residual: x [b, s, h] -> [b, s, h]."""
    y = llama_rms_norm(x, gain)
    return x + F.linear(F.silu(F.linear(y, w_gate)) * F.linear(y, w_up), w_down)


def decoder_layer(
    x: Tensor,
    gain_in: Tensor,
    wq: Tensor,
    wk: Tensor,
    wv: Tensor,
    wo: Tensor,
    gain_out: Tensor,
    w_gate: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    cos: Tensor,
    sin: Tensor,
    past_k: Tensor,
    past_v: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """A whole decode step of a Llama layer: the new x [b, 1, h], and the k and v to be cached."""
    q, k, v = qkv_projection(x, gain_in, wq, wk, wv)
    out, k, v = attend(q, k, v, cos, sin, past_k, past_v, None, None)
    return gated_mlp_block(x + F.linear(out, wo), gain_out, w_gate, w_up, w_down), k, v


def decoder_layer_qk_norm(
    x: Tensor,
    gain_in: Tensor,
    wq: Tensor,
    wk: Tensor,
    wv: Tensor,
    wo: Tensor,
    gain_out: Tensor,
    w_gate: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    gain_q: Tensor,
    gain_k: Tensor,
    cos: Tensor,
    sin: Tensor,
    past_k: Tensor,
    past_v: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """``decoder_layer`` of Qwen3, with the heads of q and k normalized."""
    q, k, v = qkv_projection(x, gain_in, wq, wk, wv)
    out, k, v = attend(q, k, v, cos, sin, past_k, past_v, gain_q, gain_k)
    return gated_mlp_block(x + F.linear(out, wo), gain_out, w_gate, w_up, w_down), k, v


# Other programs.


def causal_prefill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with a mask, by hand: q, k, v [h, t, d] -> [h, t, d]."""
    t = q.shape[-2]
    mask = torch.triu(torch.ones(t, t, dtype=torch.bool, device=q.device), 1)
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(mask, float("-inf"))
    return torch.softmax(scores, -1) @ v


def causal_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with grouped heads by PyTorch's operator: q [1, h, t, d], k, v [1, kv, t, d]."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def gelu_mlp(
    x: Tensor, gain: Tensor, shift: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """The MLP of GPT-2 with its layer norm and residual: x [m, h], w1 [4h, h], w2 [h, 4h]."""
    y = F.layer_norm(x, (x.shape[-1],), gain, shift)
    return x + F.linear(F.gelu(F.linear(y, w1, b1), approximate="tanh"), w2, b2)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean negative log-likelihood: logits [m, vocabulary], target [m] (int64) -> a scalar."""
    return -torch.log_softmax(logits, -1).gather(-1, target[:, None]).mean()


def softmax_rows(x: Tensor) -> Tensor:
    """Softmax over the last dimension."""
    return torch.softmax(x, -1)
