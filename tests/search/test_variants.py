"""The best known graphs are found however a program is spelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.cost.devices import Device
from superopt.mugraph.graph import Reduce, View
from superopt.mugraph.placement import MuGraph
from superopt.pipeline.search_only import Budget, search_function
from tests.search.test_known_best import (
    EIGHT,
    WIDE,
    flash,
    late_root,
    one_accumulator,
    one_pass,
    reductions,
    shared_pass,
    split_keys,
)


def gated_after_norm(m: MuGraph) -> bool:
    """Both contractions and the mean of squares in one pass: the root scales what was summed."""
    contractions = [i for i in reductions(m) if len(m.graph.nodes[i].axes) == 2]
    roots = {i for i, n in enumerate(m.graph.nodes) if getattr(n, "op", "") == "rsqrt"}
    late = all(roots.isdisjoint(m.graph.reachable([i])) for i in contractions)
    return one_pass(m) and len(contractions) == 2 and late


def one_kernel(m: MuGraph) -> bool:
    """All results in one kernel, though some need others, or have fewer axes."""
    return len(m.kernels) == 1


def held_row(m: MuGraph) -> bool:
    """One kernel that reads every input under its own names."""
    views = [n for n in m.graph.nodes if isinstance(n, View)]
    sums = [n for n in m.graph.nodes if isinstance(n, Reduce)]
    return len(m.kernels) == 1 and not views and len(sums) == 2


def rms(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))


def gated(x: Tensor, w: Tensor, u: Tensor) -> Tensor:
    h = rms(x)
    return F.silu(h @ w) * (h @ u)


def normalized_gated(x: Tensor, g: Tensor, w: Tensor, u: Tensor) -> Tensor:
    h = F.rms_norm(x, (x.shape[-1],), g)
    return (h @ u.T) * F.silu(F.linear(h, w))


def attended(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    q, k = F.rms_norm(q, (64,), a), F.rms_norm(k, (64,), b)
    return torch.softmax(q @ k.mT / 8, -1) @ v


def one_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    e = (q @ k.mT).exp()
    return (e @ v) / e.sum(-1, keepdim=True)


def by_concatenation(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    s = torch.cat([q @ k.mT / 8, sink[:, None, None].expand(-1, q.shape[1], 1)], -1)
    s = s - s.max(-1, keepdim=True).values
    return torch.softmax(s, -1)[..., :-1] @ v


def by_hand(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    s, t = q @ k.mT / 8, sink[:, None, None]
    m = torch.maximum(s.amax(-1, keepdim=True), t)
    p = torch.exp(s - m)
    return p @ v / (p.sum(-1, keepdim=True) + torch.exp(t - m))


def ones_column(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    o = torch.exp(q @ k.mT / 8) @ torch.cat([v, torch.ones_like(v[..., :1])], -1)
    return o[..., :-1] / o[..., -1:]


X, W, G = (16, 4096), (4096, 6144), (4096,)
KEYS = ((2, 256, 64), (2, 4096, 64), (2, 4096, 64))
LORA = ((16, 256), (256, 4096), (256, 16), (16, 4096))
SQUARE = ((16, 4096), (4096, 4096), (4096, 4096))
ROWS = ((8, 4096),) * 3

VARIANTS: dict[str, tuple[Callable[..., Any], tuple, Device, Callable[[MuGraph], bool]]] = {
    "transposed weight": (
        lambda x, g, w: F.linear(F.rms_norm(x, (4096,), g), w),
        (X, G, W[::-1]),
        WIDE,
        late_root,
    ),
    "one plus the gain": (lambda x, g, w: (rms(x) * (1 + g)) @ w, (X, G, W), WIDE, late_root),
    "normalized, linear": (lambda x, w: F.normalize(x, dim=-1) @ w, (X, W), WIDE, late_root),
    "gated after a norm": (gated, SQUARE, WIDE, gated_after_norm),
    "gated after a norm with gain": (
        normalized_gated,
        (X, G, SQUARE[1], SQUARE[2]),
        WIDE,
        gated_after_norm,
    ),
    "normalized twice": (
        lambda x, h, a: F.normalize(x + a * (F.normalize(h, dim=-1) - x), dim=-1),
        ROWS,
        WIDE,
        held_row,
    ),
    "merged low rank": (lambda x, w, a, b: x @ (w + a @ b), LORA, WIDE, one_accumulator),
    "scaled low rank": (
        lambda x, w, a, b: torch.addmm(x @ w, x @ a, b, alpha=0.5),
        LORA,
        WIDE,
        one_accumulator,
    ),
    "gelu": (lambda x, w, u: F.gelu(x @ w) * (x @ u), SQUARE, WIDE, shared_pass),
    "heads inside": (
        lambda q, k, v: torch.einsum(
            "hqk,khd->qhd", torch.softmax(torch.einsum("qhd,khd->hqk", q, k), -1), v
        ),
        ((256, 2, 64), (4096, 2, 64), (4096, 2, 64)),
        EIGHT,
        flash,
    ),
    "causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        KEYS,
        EIGHT,
        flash,
    ),
    "by a log-sum-exp": (
        lambda q, k, v: torch.exp((s := q @ k.mT) - torch.logsumexp(s, -1, keepdim=True)) @ v,
        KEYS,
        EIGHT,
        flash,
    ),
    "by a log-softmax": (
        lambda q, k, v: F.log_softmax(q @ k.mT / 8, -1).exp() @ v,
        KEYS,
        EIGHT,
        flash,
    ),
    "beside a score of 0": (
        lambda q, k, v: (p := (q @ k.mT / 8).exp()) @ v / (1 + p.sum(-1, keepdim=True)),
        KEYS,
        EIGHT,
        flash,
    ),
    "sink by concatenation": (by_concatenation, (*KEYS, (2,)), EIGHT, flash),
    "sink by hand": (by_hand, (*KEYS, (2,)), EIGHT, flash),
    "column of ones": (ones_column, KEYS, EIGHT, flash),
    "concatenated low rank": (
        lambda x, w, a, b: torch.cat([x, x @ a], -1) @ torch.cat([w, b]),
        LORA,
        WIDE,
        one_accumulator,
    ),
    "two inputs side by side": (
        lambda x, y, w: F.linear(torch.cat([x, y], -1), w),
        ((16, 4096), (16, 1024), (4096, 5120)),
        WIDE,
        one_accumulator,
    ),
    "normalized q and k with gains": (attended, (*KEYS, (64,), (64,)), WIDE, flash),
    "residual and norm": (
        lambda x, y, g: (h := x + y, F.rms_norm(h, (4096,), g)),
        (X, X, G),
        EIGHT,
        one_kernel,
    ),
    "mean, variance and the rest": (
        lambda x: (m := x.mean(-1, keepdim=True), x.var(-1, keepdim=True), x - m),
        (X,),
        EIGHT,
        one_kernel,
    ),
    "attention and its log-sum-exp": (
        lambda q, k, v: (torch.softmax(s := q @ k.mT / 8, -1) @ v, torch.logsumexp(s, -1)),
        KEYS,
        EIGHT,
        lambda m: one_kernel(m) and one_pass(m),
    ),
    "moments of a step": (
        lambda p, g, m, v: (
            n := 0.9 * m + 0.1 * g,
            w := 0.99 * v + 0.01 * g * g,
            p - n / (w.sqrt() + 1e-8),
        ),
        ((1000, 300),) * 4,
        EIGHT,
        one_kernel,
    ),
    "one query, no shift": (one_query, ((2, 1, 64), *((2, 32767, 64),) * 2), EIGHT, split_keys),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_best_known_graph_is_found(name: str) -> None:
    fn, shapes, device, best = VARIANTS[name]
    inputs = tuple(torch.empty(s) for s in shapes)
    (piece,) = search_function(
        fn, inputs, budget=Budget(region_seconds=600.0), device=device
    ).pieces
    assert piece.closed
    assert piece.values < 200_000
    assert any(best(m) for m in piece.candidates)


def test_there_are_enough_of_them() -> None:
    assert len(VARIANTS) >= 25
