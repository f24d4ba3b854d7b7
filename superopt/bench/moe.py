"""A decoder layer with a mixture of experts, as the model code of Qwen3-MoE computes it.

Its top-k router is an operator that superopt leaves to PyTorch, so the layer is searched in the
pieces on both sides of it. The experts of a token are read through a gather of their weights, which
a step with few tokens can afford; the weights of the whole layer take gigabytes, so the layer is a
workload of the search alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.bench.blocks import attention_specs, decode_step_flops
from superopt.bench.programs import attend, llama_rms_norm, qkv_projection
from superopt.bench.workload import Params, Spec, Workload, batches

TOP_K = 8
"""Experts of one token, as in the configuration of Qwen3-30B-A3B."""


def moe_block(
    x: Tensor, gain: Tensor, w_router: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor
) -> Tensor:
    """RMSNorm, router, experts and residual: x [b, s, h] -> [b, s, h].

    w_router [experts, h]; w_gate and w_up [experts, inter, h], w_down [experts, h, inter]. The
    weights of the ``TOP_K`` chosen experts are scaled to sum to one (norm_topk_prob).
    """
    y = llama_rms_norm(x, gain).flatten(0, 1)
    scores = F.softmax(F.linear(y, w_router), -1, dtype=torch.promote_types(x.dtype, torch.float32))
    scores, chosen = torch.topk(scores, TOP_K, -1)
    scores = (scores / scores.sum(-1, keepdim=True)).to(x.dtype)
    gate = torch.einsum("th,teih->tei", y, w_gate[chosen])
    up = torch.einsum("th,teih->tei", y, w_up[chosen])
    out = torch.einsum("tei,tehi->teh", F.silu(gate) * up, w_down[chosen])
    return x + (out * scores[..., None]).sum(1).view_as(x)


def moe_decoder_layer(
    x: Tensor,
    gain_in: Tensor,
    wq: Tensor,
    wk: Tensor,
    wv: Tensor,
    wo: Tensor,
    gain_out: Tensor,
    w_router: Tensor,
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
    """A whole decode step of a Qwen3-MoE layer: the new x [b, 1, h], and the k and v to be cached."""
    q, k, v = qkv_projection(x, gain_in, wq, wk, wv)
    out, k, v = attend(q, k, v, cos, sin, past_k, past_v, gain_q, gain_k)
    return moe_block(x + F.linear(out, wo), gain_out, w_router, w_gate, w_up, w_down), k, v


def _specs(p: Params) -> tuple[Spec, ...]:
    e, h, i = p["experts"], p["h"], p["inter"]
    before, after = attention_specs(p, qk_norm=True)
    return (
        *before,
        Spec("w_router", (e, h), scale=h**-0.5),
        Spec("w_gate", (e, i, h), scale=h**-0.5),
        Spec("w_up", (e, i, h), scale=h**-0.5),
        Spec("w_down", (e, h, i), scale=i**-0.5),
        *after,
    )


def _flops(p: Params) -> int:
    t, h = p["tokens"], p["h"]
    experts = t * TOP_K * (p["inter"] * (6 * h + 3) + 2 * h)
    return decode_step_flops(p) + experts + t * (2 * h * p["experts"] + 5 * h + 4 * p["experts"])


MOE_LAYER = Workload(
    "qwen3-30b-a3b.layer",
    ("search",),
    moe_decoder_layer,
    _specs,
    _flops,
    batches(
        {
            "h": 2048,
            "heads": 32,
            "kv": 4,
            "d": 128,
            "inter": 768,
            "experts": 128,
            "ctx": 256,
        },
        "tokens",
        (1,),
    ),
    {
        "tokens": 2,
        "h": 12,
        "heads": 4,
        "kv": 2,
        "d": 6,
        "inter": 20,
        "experts": 10,
        "ctx": 5,
    },
    "sizes of the configuration of Qwen3-30B-A3B; program as in transformers, experts gathered",
)
