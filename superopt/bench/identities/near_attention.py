"""Near misses of softmax, its losses, and attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.bench.identities.attention import (
    HEADS,
    INF,
    QKV,
    SELF,
    SINK,
    attention,
    band,
    causal_triu,
    grouped,
    masked,
    merged,
    part,
    with_sink,
    with_sink_added,
)
from superopt.bench.identities.entry import NearMiss
from superopt.bench.identities.softmax import cross_entropy_by_mask, cross_entropy_ignoring


def online_lost_rescale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Flash attention of two blocks that rescales the sum and not the output."""
    s, t = q @ k[:, :2].mT * 0.5, q @ k[:, 2:].mT * 0.5
    m = s.amax(-1, keepdim=True)
    n = torch.maximum(m, t.amax(-1, keepdim=True))
    p, r = torch.exp(s - m), torch.exp(t - n)
    total = p.sum(-1, keepdim=True) * torch.exp(m - n) + r.sum(-1, keepdim=True)
    return (p @ v[:, :2] + r @ v[:, 2:]) / total


def merged_by_mean(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Parts of two and three keys, merged by their sizes."""
    a, b = attention(q, k[:, :2], v[:, :2]), attention(q, k[:, 2:], v[:, 2:])
    return (2 * a + 3 * b) / 5


def merged_swapped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The weights of the two parts exchanged."""
    (a, la), (b, lb) = part(q, k[:, :2], v[:, :2]), part(q, k[:, 2:], v[:, 2:])
    return a + (b - a) * torch.sigmoid(la - lb)


# fmt: off
NEAR_ATTENTION = (
    NearMiss("padding mask, rows without a key", lambda q, k, v, m: masked(q, k, v, m[:, None]),
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=torch.where(m, 0.0,
            -INF)[:, None]),
        "f32[2,3,4],f32[2,5,4],f32[2,5,3],bool[2,5]", "NaN or 0", at=(1.0, 1.0, 1.0, False)),
    NearMiss("softmax over the wrong dimension", lambda x: torch.softmax(x, 0),
        lambda x: torch.softmax(x, 1), "f32[5,5]", "a square hides which"),
    NearMiss("softmax shifted by the column maximum", lambda x: torch.softmax(x, 1),
        lambda x: (lambda e: e / e.sum(1, keepdim=True))((x - x.amax(0)).exp()), "f32[5,5]",
        "the shift is not the row's"),
    NearMiss("softmax denominator unshifted", lambda x: torch.softmax(x, 1),
        lambda x: (x - x.amax(1, keepdim=True)).exp() / x.exp().sum(1, keepdim=True), "f32[4,6]",
        "a maximum that is not zero"),
    NearMiss("softmax with one more", lambda x: torch.softmax(x, 1),
        lambda x: x.exp() / (1 + x.exp().sum(1, keepdim=True)), "f32[4,6]", "softmax off by one"),
    NearMiss("logsumexp without the shift", lambda x: torch.logsumexp(x, 1),
        lambda x: (x - x.amax(1, keepdim=True)).exp().sum(1).log(), "f32[4,6]",
        "a maximum that is not zero"),
    NearMiss("logsumexp and logmeanexp", lambda x: torch.logsumexp(x, 1),
        lambda x: x.exp().mean(1).log(), "f32[4,6]", "log of six"),
    NearMiss("logsumexp and maximum", lambda x: torch.logsumexp(x, 1),
        lambda x: x.amax(1), "f32[4,6]", "between 0 and log of six above"),
    NearMiss("temperature outside", lambda x: torch.softmax(x / 2, 1),
        lambda x: torch.softmax(x, 1) / 2, "f32[4,6]", "weights sum to one"),
    NearMiss("cross entropy by sum", lambda x, t: F.cross_entropy(x, t),
        lambda x, t: F.cross_entropy(x, t, reduction="sum"), "f32[4,6],i64[4]", "one over four",
        below=(0, 6)),
    NearMiss("cross entropy by a mask", lambda x, t: F.cross_entropy(x, t), cross_entropy_by_mask,
        "f32[4,6],i64[4]", "class -100 is ignored in one", at=(1.0, [-100, 1, 2, 3])),
    NearMiss("label smoothing by hand", lambda x, t: F.cross_entropy(x, t, label_smoothing=0.25),
        lambda x, t: 0.75 * F.cross_entropy(x, t) - 0.25 * torch.log_softmax(x, 1).mean(),
        "f32[4,6],i64[4]", "class -100 is ignored in one",
        at=([[1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 9], [1, 1, 1, 1, 1, 1], [0, 3, 0, 3, 0, 3]],
            [-100, 1, 2, 3])),
    NearMiss("cross entropy counts ignored rows", cross_entropy_ignoring,
        lambda x, t: torch.where(t != 0, F.cross_entropy(x, t, reduction="none"), 0.0).mean(),
        "f32[4,6],i64[4]", "a row of class 0", at=(1.0, [0, 1, 2, 3]), below=(0, 6)),
    NearMiss("cross entropy of probabilities", lambda x, t: F.nll_loss(torch.log_softmax(x, 1), t),
        lambda x, t: F.nll_loss(torch.softmax(x, 1), t), "f32[4,6],i64[4]", "the logarithm is missing",
        below=(0, 6)),
    NearMiss("label smoothing that leaves the class out",
        lambda x, t: F.cross_entropy(x, t, label_smoothing=0.25),
        lambda x, t: F.cross_entropy(x, t) - 0.25 * torch.log_softmax(x, 1).mean(), "f32[4,6],i64[4]",
        "the share of the class stays one", below=(0, 6)),
    NearMiss("divergence the other way",
        lambda x, y: (x.softmax(1) * (x.log_softmax(1) - y.log_softmax(1))).sum(1),
        lambda x, y: (y.softmax(1) * (y.log_softmax(1) - x.log_softmax(1))).sum(1), "f32[4,6],f32[4,6]",
        "it is not symmetric"),
    NearMiss("binary cross entropy with the sign lost", lambda x, y: torch.log1p(torch.exp(x)) - x * y,
        lambda x, y: torch.log1p(torch.exp(-x)) - x * y, "f32[6],f32[6]", "x that is not zero"),
    NearMiss("scale by the head size", attention,
        lambda q, k, v: torch.softmax(q @ k.mT / 4, -1) @ v, QKV, "d or its root"),
    NearMiss("scale forgotten", attention,
        lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v, QKV, "d or its root"),
    NearMiss("scale on both sides", attention,
        lambda q, k, v: torch.softmax((q / 2) @ (k / 2).mT, -1) @ v, QKV, "it counts twice"),
    NearMiss("scale after the softmax", attention,
        lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v / 2, QKV, "softmax is not linear"),
    NearMiss("attention over queries", lambda q, k, v: torch.softmax(q @ k.mT / 2, -1) @ v,
        lambda q, k, v: torch.softmax(q @ k.mT / 2, -2) @ v, SELF, "a square hides which"),
    NearMiss("keys and values exchanged", attention,
        lambda q, k, v: attention(q, v, k), "f32[2,3,4],f32[2,5,4],f32[2,5,4]",
        "keys and values that differ"),
    NearMiss("values in another order", attention,
        lambda q, k, v: attention(q, k, v.flip(1)), QKV, "values that differ"),
    NearMiss("query bias dropped", lambda q, k, v, c: attention(q + c, k, v),
        lambda q, k, v, c: attention(q, k, v), QKV + ",f32[4]",
        "of the two biases the key's alone cancels"),
    NearMiss("value bias dropped", lambda q, k, v, c: attention(q, k, v + c),
        lambda q, k, v, c: attention(q, k, v), QKV + ",f32[3]", "a bias that is not zero"),
    NearMiss("flash output not rescaled", attention,
        online_lost_rescale, QKV, "a later maximum that is larger"),
    NearMiss("merged by size", merged, merged_by_mean, QKV, "parts of unequal weight"),
    NearMiss("merged the other way", merged, merged_swapped, QKV, "parts of unequal weight"),
    NearMiss("causal off by one", causal_triu,
        lambda q, k, v: masked(q, k, v, ~torch.ones(4, 4, dtype=torch.bool).triu(2)), SELF,
        "it sees the next key"),
    NearMiss("causal transposed",
        lambda q, k, v: masked(q, k, v, torch.ones(4, 4, dtype=torch.bool).tril()),
        lambda q, k, v: masked(q, k, v, torch.ones(4, 4, dtype=torch.bool).triu()), SELF, "past or future"),
    NearMiss("causal of a cache aligned to the start",
        lambda q, k, v: masked(q, k, v, torch.ones(3, 5, dtype=torch.bool).tril(2)),
        lambda q, k, v: masked(q, k, v, torch.ones(3, 5, dtype=torch.bool).tril()), QKV,
        "two keys were there before"),
    NearMiss("causal weights masked after the softmax", causal_triu,
        lambda q, k, v: torch.softmax(q @ k.mT / 2, -1).tril() @ v, SELF,
        "the denominator counts the future"),
    NearMiss("masked with zero", causal_triu,
        lambda q, k, v: torch.softmax((q @ k.mT / 2).tril(), -1) @ v, SELF, "a score of zero has a weight"),
    NearMiss("masked with the wrong infinity", lambda s, m: torch.where(m, s, -INF).amax(1),
        lambda s, m: torch.where(m, s, INF).amax(1), "f32[4,6],bool[4,6]", "a score that is masked",
        at=(1.0, [True, False, True, True, True, True])),
    NearMiss("masked with a large number", lambda s, m: torch.softmax(torch.where(m, s, -INF), -1),
        lambda s, m: torch.softmax(torch.where(m, s, -10.0), -1), "f32[4,6],bool[4,6]",
        "weights of exp(-10)", at=(1.0, [True, False, True, True, True, True])),
    NearMiss("rows without a key", lambda s, m: torch.softmax(torch.where(m, s, -INF), -1),
        lambda s, m: torch.softmax(torch.where(m, s, -1e9), -1), "f32[4,6],bool[4,6]",
        "NaN or a uniform row", at=(1.0, False)),
    NearMiss("rows without a key are zero", lambda s, m: torch.softmax(torch.where(m, s, -INF), -1),
        lambda s, m: torch.where(m.any(-1, keepdim=True), torch.softmax(torch.where(m, s, -INF), -1), 0.0),
        "f32[4,6],bool[4,6]", "NaN or zero", at=(1.0, False)),
    NearMiss("weights of no key by an eps",
        lambda s, m: (s.exp() * m) / (s.exp() * m).sum(-1, keepdim=True),
        lambda s, m: (s.exp() * m) / ((s.exp() * m).sum(-1, keepdim=True) + 1e-6), "f32[4,6],bool[4,6]",
        "small exponentials", at=(-12.0, True)),
    NearMiss("mask inverted", lambda q, k, v, m: masked(q, k, v, m),
        lambda q, k, v, m: masked(q, k, v, ~m), QKV + ",bool[2,3,5]", "which of the two is kept",
        at=([[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]], 1.0, [[1], [2], [3], [4], [5]],
            [True, False, True, True, False])),
    NearMiss("additive mask before the scale", lambda q, k, v, b: torch.softmax(q @ k.mT / 2 + b, -1) @ v,
        lambda q, k, v, b: torch.softmax((q @ k.mT + b) / 2, -1) @ v, QKV + ",f32[3,5]",
        "a finite bias is halved"),
    NearMiss("window wider by one", lambda q, k, v: masked(q, k, v, band(4, 2)),
        lambda q, k, v: masked(q, k, v, band(4, 3)), SELF, "keys two before"),
    NearMiss("alibi by the wrong sign",
        lambda q, k, v: torch.softmax(q @ k.mT / 2 + 0.5 * torch.arange(4), -1) @ v,
        lambda q, k, v: torch.softmax(q @ k.mT / 2 - 0.5 * torch.arange(4), -1) @ v, SELF,
        "near or far keys"),
    NearMiss("alibi by absolute distance",
        lambda q, k, v: torch.softmax(q @ k.mT / 2 - 0.5 * (torch.arange(4)[:, None] -
            torch.arange(4)).abs(), -1) @ v,
        lambda q, k, v: torch.softmax(q @ k.mT / 2 + 0.5 * torch.arange(4), -1) @ v, SELF, "keys ahead"),
    NearMiss("capped scores without the cap",
        lambda q, k, v: torch.softmax(8 * torch.tanh(q @ k.mT / 16), -1) @ v,
        lambda q, k, v: torch.softmax(torch.tanh(q @ k.mT / 16), -1) @ v, QKV, "eight or one"),
    NearMiss("groups repeated", grouped,
        lambda q, k, v: attention(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)), HEADS,
        "heads 0 0 1 1 or 0 1 0 1"),
    NearMiss("groups viewed the other way", grouped,
        lambda q, k, v: attention(q.view(2, 2, 2, 3, 4), k[:, None], v[:, None]).reshape(2, 4, 3, 4), HEADS,
        "(group, member) or (member, group)"),
    NearMiss("sink with a value", with_sink,
        lambda q, k, v, s: with_sink(q, k, v, s) + torch.exp(s), SINK, "the sink has no value"),
    NearMiss("sink forgotten", with_sink,
        lambda q, k, v, s: attention(q, k, v), SINK, "its weight is missing"),
    NearMiss("sink not exponentiated", with_sink_added,
        lambda q, k, v, s: (lambda p: (p @ v) / (p.sum(-1, keepdim=True) + s))(torch.exp(q @ k.mT / 2)),
        SINK, "exp(s) or s"),
    NearMiss("dropout-like scale", lambda x, m: torch.where(m, x, 0.0) / 0.75,
        lambda x, m: torch.where(m, x, 0.0) * 0.75, "f32[4,6],bool[4,6]", "kept values that are not zero",
        at=(1.0, True)),
    NearMiss("average of heads or sum", lambda x: x.view(2, 3, 4).mean(1),
        lambda x: x.view(2, 3, 4).sum(1) / math.sqrt(3), "f32[2,12]", "three or its root"),
)
