"""Identities of attention: scaled, shifted, masked, merged, grouped, with sinks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.bench.identities.entry import Identity

INF = math.inf


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax of the scaled scores, times the values; the head size is four."""
    return torch.softmax(q @ k.mT / 2.0, -1) @ v


def two_pass(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same with the maximum subtracted, and the division last."""
    s = q @ k.mT * 0.5
    p = torch.exp(s - s.amax(-1, keepdim=True))
    return (p @ v) / p.sum(-1, keepdim=True)


def online(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by blocks of two keys, with a running maximum (flash attention)."""
    top = q.new_full((*q.shape[:-1], 1), -INF)
    total, out = torch.zeros_like(top), 0.0
    for kb, vb in zip(k.split(2, -2), v.split(2, -2), strict=True):
        s = q @ kb.mT * 0.5
        new = torch.maximum(top, s.amax(-1, keepdim=True))
        p, rescale = torch.exp(s - new), torch.exp(top - new)
        total, out = total * rescale + p.sum(-1, keepdim=True), out * rescale + p @ vb
        top = new
    return out / total


def part(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over some of the keys, and the log-sum-exp of its scores."""
    s = q @ k.mT * 0.5
    return torch.softmax(s, -1) @ v, torch.logsumexp(s, -1, keepdim=True)


def merged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Split keys, merged by the log-sum-exps of the parts (flash decoding)."""
    (a, la), (b, lb) = part(q, k[..., :2, :], v[..., :2, :]), part(q, k[..., 2:, :], v[..., 2:, :])
    both = torch.logaddexp(la, lb)
    return a * torch.exp(la - both) + b * torch.exp(lb - both)


def merged_by_sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, the share of the second part being a sigmoid."""
    (a, la), (b, lb) = part(q, k[..., :2, :], v[..., :2, :]), part(q, k[..., 2:, :], v[..., 2:, :])
    return a + (b - a) * torch.sigmoid(lb - la)


def masked(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """Attention where ``keep`` is true."""
    s = (q @ k.mT / 2.0).masked_fill(~keep, -INF)
    return torch.softmax(s, -1) @ v


def causal_triu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by a mask above the diagonal."""
    n = q.shape[-2]
    return masked(q, k, v, ~torch.triu(torch.ones(n, n, dtype=torch.bool), 1))


def causal_where(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by a comparison of positions."""
    at = torch.arange(q.shape[-2])
    s = torch.where(at[:, None] >= at, q @ k.mT / 2.0, -INF)
    return torch.softmax(s, -1) @ v


def causal_added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by an additive mask of -inf."""
    n = q.shape[-2]
    mask = torch.full((n, n), -INF, dtype=q.dtype).triu(1)
    return torch.softmax(q @ k.mT / 2.0 + mask, -1) @ v


def causal_unnormalized(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by a product with a triangle of ones."""
    p = torch.exp(q @ k.mT / 2.0).tril()
    return (p @ v) / p.sum(-1, keepdim=True)


def causal_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention in two blocks of queries, the first of which sees the first keys alone."""
    first = causal_triu(q[..., :2, :], k[..., :2, :], v[..., :2, :])
    n = k.shape[-2]
    late = torch.ones(n, n, dtype=torch.bool).tril()[2:]
    return torch.cat([first, masked(q[..., 2:, :], k, v, late)], -2)


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Four query heads over two of keys, by repeat_interleave."""
    return attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))


def grouped_by_view(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same with the groups as a dimension."""
    b, h, t, d = q.shape
    return attention(q.view(b, 2, 2, t, d), k[:, :, None], v[:, :, None]).reshape(b, h, t, d)


def grouped_by_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same with the heads of a group as rows of one product."""
    b, h, t, d = q.shape
    return attention(q.reshape(b, 2, 2 * t, d), k, v).reshape(b, h, t, d)


def grouped_by_expand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by the helper of model code (repeat_kv)."""
    b, h, t, d = k.shape
    k, v = (x[:, :, None].expand(b, h, 2, t, d).reshape(b, 2 * h, t, d) for x in (k, v))
    return attention(q, k, v)


def with_sink(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    """Attention with a logit that takes weight and has no value, by a concatenation."""
    s = q @ k.mT / 2.0
    p = torch.softmax(torch.cat([s, sink.expand(*s.shape[:-1], 1)], -1), -1)
    return p[..., :-1] @ v


def with_sink_added(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    """The same, the sink being a term of the denominator."""
    p = torch.exp(q @ k.mT / 2.0)
    return (p @ v) / (p.sum(-1, keepdim=True) + torch.exp(sink))


def with_sink_shifted(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    """The same with the maximum of scores and sink subtracted."""
    s = q @ k.mT / 2.0
    m = torch.maximum(s.amax(-1, keepdim=True), sink)
    p = torch.exp(s - m)
    return (p @ v) / (p.sum(-1, keepdim=True) + torch.exp(sink - m))


def band(n: int, width: int) -> Tensor:
    """Where a query sees its own key and the ``width - 1`` before it."""
    back = torch.arange(n)[:, None] - torch.arange(n)
    return (back >= 0) & (back < width)


QKV = "f32[2,3,4],f32[2,5,4],f32[2,5,3]"
SELF = "f32[2,4,4],f32[2,4,4],f32[2,4,3]"
HEADS = "f32[2,4,3,4],f32[2,2,5,4],f32[2,2,5,4]"
SINK = QKV + ",f32[]"

# fmt: off
ATTENTION = (
    Identity("scale in the query", attention,
        lambda q, k, v: torch.softmax((q * 0.5) @ k.mT, -1) @ v, QKV, "numbers commute with products"),
    Identity("scale in the key", attention,
        lambda q, k, v: torch.softmax(q @ (k / 2).mT, -1) @ v, QKV, "numbers commute with products"),
    Identity("scale in both", attention,
        lambda q, k, v: torch.softmax((q * 4 ** -0.25) @ (k * 4 ** -0.25).mT, -1) @ v, QKV,
        "a root of the scale on each side"),
    Identity("scaled_dot_product_attention", attention,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v), QKV, "the definition"),
    Identity("attention by einsum", attention,
        lambda q, k, v: torch.einsum("bqk,bkd->bqd", torch.softmax(torch.einsum("bqd,bkd->bqk", q, k) *
            q.shape[-1] ** -0.5, -1), v),
        QKV, "the definition"),
    Identity("attention in two passes", attention, two_pass, QKV, "the division last"),
    Identity("attention without a shift", attention,
        lambda q, k, v: (lambda p: (p @ v) / p.sum(-1, keepdim=True))(torch.exp(q @ k.mT / 2)), QKV,
        "the shift cancels"),
    Identity("attention online", attention,
        online, "f32[2,3,4],f32[2,6,4],f32[2,6,3]", "rescaled block by block"),
    Identity("attention merged", attention, merged, QKV, "parts weighted by their log-sum-exps"),
    Identity("attention merged by a sigmoid", merged, merged_by_sigmoid, QKV, "the weights of two parts"),
    Identity("attention in chunks of queries", attention,
        lambda q, k, v: torch.cat([attention(c, k, v) for c in q.split([1, 2], 1)], 1), QKV,
        "rows do not meet"),
    Identity("attention transposed", attention,
        lambda q, k, v: (v.mT @ torch.softmax(k @ q.mT / 2, -2)).mT, QKV, "keys first"),
    Identity("keys in another order", attention,
        lambda q, k, v: attention(q, k.flip(1), v.flip(1)), QKV, "a set of keys"),
    Identity("projection of the values", lambda q, k, v, w: attention(q, k, v @ w),
        lambda q, k, v, w: attention(q, k, v) @ w, QKV + ",f32[3,2]", "products associate"),
    Identity("constant added to the values", lambda q, k, v, c: attention(q, k, v + c),
        lambda q, k, v, c: attention(q, k, v) + c, QKV + ",f32[3]", "weights sum to one"),
    Identity("constant added to the keys", lambda q, k, v, c: attention(q, k + c, v),
        lambda q, k, v, c: attention(q, k, v), QKV + ",f32[4]", "the same shift for all keys"),
    Identity("bias of the key projection", lambda q, x, w, b, v: attention(q, F.linear(x, w, b), v),
        lambda q, x, w, b, v: attention(q, x @ w.T, v), "f32[2,3,4],f32[2,5,2],f32[4,2],f32[4],f32[2,5,3]",
        "the same shift for all keys"),
    Identity("latent keys absorbed", lambda q, c, w: torch.softmax(q @ (c @ w).mT, -1) @ c,
        lambda q, c, w: torch.softmax((q @ w.T) @ c.mT, -1) @ c, "f32[2,3,4],f32[2,5,2],f32[2,4]",
        "multi-head latent attention"),
    Identity("alibi by distance or by position",
        lambda q, k, v: torch.softmax(q @ k.mT / 2 - 0.5 * (torch.arange(4)[:, None] -
            torch.arange(4)), -1) @ v,
        lambda q, k, v: torch.softmax(q @ k.mT / 2 + 0.5 * torch.arange(4), -1) @ v, SELF,
        "the shift of a row cancels"),
    Identity("capped scores", lambda q, k, v: torch.softmax(8 * torch.tanh(q @ k.mT / 16), -1) @ v,
        lambda q, k, v: torch.softmax(16 * torch.sigmoid(q @ k.mT / 8), -1) @ v, QKV,
        "a tanh is a sigmoid, shifted"),
    Identity("causal by triu and by where", causal_triu, causal_where, SELF, "the same mask"),
    Identity("causal by an additive mask", causal_triu, causal_added, SELF, "the same mask"),
    Identity("causal by a triangle", causal_triu, causal_unnormalized, SELF, "masked weights are zero"),
    Identity("causal by is_causal", causal_triu,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), SELF, "the definition"),
    Identity("causal in blocks of queries", causal_triu,
        causal_blocks, SELF, "the first queries see the first keys alone"),
    Identity("causal, first row", lambda q, k, v: causal_triu(q, k, v)[:, 0] * 2,
        lambda q, k, v: 2 * v[:, 0], SELF, "it sees one key"),
    Identity("causal, last row", lambda q, k, v: causal_triu(q, k, v)[:, -1:],
        lambda q, k, v: attention(q[:, -1:], k, v), SELF, "it sees all keys"),
    Identity("sliding window", lambda q, k, v: masked(q, k, v, band(4, 2)),
        lambda q, k, v: masked(q, k, v, torch.ones(4, 4, dtype=torch.bool).tril() & torch.ones(4, 4,
            dtype=torch.bool).triu(-1)),
        SELF, "the same mask"),
    Identity("wide window is causal", lambda q, k, v: masked(q, k, v, band(4, 4)),
        causal_triu, SELF, "all before it are within four"),
    Identity("masked softmax by a product", lambda s, m: torch.softmax(s.masked_fill(~m, -INF), -1),
        lambda s, m: s.exp() * m / (s.exp() * m).sum(-1, keepdim=True), "f32[4,6],bool[4,6]",
        "masked weights are zero; a row without any is NaN"),
    Identity("no key, by a larger denominator", lambda x, m: x.exp() * m / (x.exp() * m).sum(),
        lambda x, m: x.exp() * m / torch.where((x.exp() * m).sum() == 0, 1.0, (x.exp() * m).sum()),
        "f32[6],bool[6]", "where a key is there: else 0 / 0, a division by zero, or 0", partial=True),
    Identity("masked logsumexp", lambda s, m: torch.logsumexp(torch.where(m, s, -INF), -1),
        lambda s, m: torch.log((s.exp() * m).sum(-1)), "f32[4,6],bool[4,6]",
        "masked terms are zero; a row without any is -inf"),
    Identity("masked maximum", lambda s, m: torch.where(m, s, -INF).amax(-1).exp(),
        lambda s, m: (s.exp() * m).amax(-1), "f32[4,6],bool[4,6]", "exponentials are positive"),
    Identity("groups by view", grouped, grouped_by_view, HEADS, "heads are (group, member)"),
    Identity("groups by rows", grouped, grouped_by_rows, HEADS, "heads are (group, member)"),
    Identity("groups by expand", grouped, grouped_by_expand, HEADS, "copies next to each other"),
    Identity("groups by enable_gqa", grouped,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), HEADS, "the definition"),
    Identity("one head of keys", lambda q, k, v: attention(q, k, v),
        lambda q, k, v: attention(q.flatten(1, 2), k[:, 0], v[:, 0]).view(2, 4, 3, 4),
        "f32[2,4,3,4],f32[2,1,5,4],f32[2,1,5,4]", "multi-query attention: heads are rows"),
    Identity("sink by cat and by a term", with_sink, with_sink_added, SINK, "its weight is dropped"),
    Identity("sink shifted", with_sink, with_sink_shifted, SINK, "the shift cancels"),
    Identity("sink as a gate", with_sink,
        lambda q, k, v, s: attention(q, k, v) * torch.sigmoid(torch.logsumexp(q @ k.mT / 2, -1,
            keepdim=True) - s),
        SINK, "the share of the keys"),
    Identity("cached keys",
        lambda q, k, v, kc, vc: attention(q, torch.cat([kc, k], 1), torch.cat([vc, v], 1)),
        lambda q, k, v, kc, vc: (lambda a, b: (a @ vc + b @ v) / (a.sum(-1, keepdim=True) + b.sum(-1,
            keepdim=True)))(torch.exp(q @ kc.mT / 2), torch.exp(q @ k.mT / 2)),
        "f32[2,1,4],f32[2,1,4],f32[2,1,3],f32[2,5,4],f32[2,5,3]", "sums in two parts"),
    Identity("query and key norm",
        lambda q, k, v: attention(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v),
        lambda q, k, v: torch.softmax((q @ k.mT) / (2 * q.norm(dim=-1).clamp(min=1e-12)[..., None] *
            k.norm(dim=-1).clamp(min=1e-12)[:, None]), -1) @ v,
        QKV, "scales leave the sum"),
    Identity("retention by a decay",
        lambda q, k, v: ((q @ k.mT) * (0.5 ** (torch.arange(4)[:, None] -
            torch.arange(4)).to(q.dtype)).tril()) @ v,
        lambda q, k, v: torch.stack([sum((q[:, i] * k[:, j]).sum(-1, keepdim=True) * v[:, j] * 0.5 **
            (i - j) for j in range(i + 1)) for i in range(4)], 1),
        SELF, "the decay to the power of the distance"),
)
