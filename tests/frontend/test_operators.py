"""Operators of PyTorch through the frontend: the graph, in floats, gives PyTorch's answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from superopt.errors import MutatesInput, UnsupportedOperator
from superopt.frontend.capture import capture
from superopt.frontend.identity import identity
from superopt.frontend.partition import Program, Supported, partition
from superopt.mugraph.algebras.floats import run

Case = tuple[str, Callable[..., Any], tuple[Any, ...]]


def r(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * cos + torch.cat((-b, a), -1) * sin


def layer(x, g, wq, wk, wv, wo, cos, sin):  # type: ignore[no-untyped-def]
    batch, tokens, width = x.shape
    h = F.rms_norm(x, (width,), g, 1e-6)
    q = F.linear(h, wq).view(batch, tokens, 4, 8).transpose(1, 2)
    k = F.linear(h, wk).view(batch, tokens, 2, 8).transpose(1, 2)
    v = F.linear(h, wv).view(batch, tokens, 2, 8).transpose(1, 2)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    k = k[:, :, None].expand(batch, 2, 2, tokens, 8).reshape(batch, 4, tokens, 8)
    v = v[:, :, None].expand(batch, 2, 2, tokens, 8).reshape(batch, 4, tokens, 8)
    o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return x + F.linear(o.transpose(1, 2).reshape(batch, tokens, 32), wo)


MASK = torch.rand(6, 7, generator=torch.Generator().manual_seed(1)) > 0.3
MASK[2] = False
AT = torch.tensor([[0, 3, 9], [7, 7, 1]])
SDPA = F.scaled_dot_product_attention

WHOLE: list[Case] = [
    ("rms_norm @", lambda x, g, w: F.rms_norm(x, (16,), g) @ w, (r(4, 16), r(16), r(16, 12))),
    ("rms_norm rank 3", lambda x, w: F.rms_norm(x, (16,)) @ w, (r(2, 4, 16), r(16, 12))),
    ("linear", F.linear, (r(2, 3, 8), r(5, 8), r(5))),
    ("linear vector", F.linear, (r(8), r(5, 8))),
    ("mm", torch.mm, (r(3, 4), r(4, 5))),
    ("bmm", torch.bmm, (r(2, 3, 4), r(2, 4, 5))),
    ("matmul broadcast", torch.matmul, (r(4, 4), r(2, 4, 4))),
    ("matmul vector", torch.matmul, (r(2, 3, 4), r(4))),
    ("dot", torch.matmul, (r(4), r(4))),
    ("addmm", torch.addmm, (r(5), r(3, 4), r(4, 5))),
    ("x x^T", lambda x: x @ x.T, (r(4, 6),)),
    ("x^T x x", lambda x: (x.T @ x) @ x.T, (r(4, 6),)),
    ("einsum", lambda x, y: torch.einsum("bij,bjk->bik", x, y), (r(2, 3, 4), r(2, 4, 5))),
    ("einsum dots", lambda x, y: torch.einsum("...ij,...jk", x, y), (r(2, 3, 4), r(2, 4, 5))),
    ("einsum sum", lambda x: torch.einsum("bij->bj", x), (r(2, 3, 4),)),
    ("add", lambda x, y: x + y, (r(3, 1, 8), r(4, 1))),
    ("sub alpha", lambda x, y: torch.sub(x, y, alpha=2), (r(3, 8), r(8))),
    ("rsub", lambda x: 2 - x, (r(3, 8),)),
    ("mul", lambda x, y: x * y, (r(3, 8), r(1, 8))),
    ("div", lambda x, y: x / (y.abs() + 1), (r(3, 8), r(8))),
    ("neg", lambda x: -x, (r(3, 8),)),
    ("reciprocal", torch.reciprocal, (r(3, 8),)),
    ("pow 2", lambda x: x.pow(2), (r(3, 8),)),
    ("pow 3", lambda x: x**3, (r(3, 8),)),
    ("pow -1", lambda x: x**-1, (r(3, 8),)),
    ("pow half", lambda x: x.abs() ** 0.5, (r(3, 8),)),
    ("pow 1.7", lambda x: x.abs() ** 1.7, (r(3, 8),)),
    ("exp", torch.exp, (r(3, 8),)),
    ("log", lambda x: torch.log(x.abs()), (r(3, 8),)),
    ("sqrt", lambda x: torch.sqrt(x.abs()), (r(3, 8),)),
    ("rsqrt", lambda x: torch.rsqrt(x * x + 1), (r(3, 8),)),
    ("sigmoid", torch.sigmoid, (r(3, 8),)),
    ("tanh", torch.tanh, (r(3, 8),)),
    ("silu", F.silu, (r(3, 8),)),
    ("gelu", F.gelu, (r(3, 8),)),
    ("gelu tanh", lambda x: F.gelu(x, approximate="tanh"), (r(3, 8),)),
    ("relu", F.relu, (r(3, 8),)),
    ("clamp", lambda x: torch.clamp(x, -0.5, 0.5), (r(3, 8),)),
    ("clamp min", lambda x: torch.clamp(x, min=-0.5), (r(3, 8),)),
    ("maximum", torch.maximum, (r(3, 8), r(8))),
    ("minimum", torch.minimum, (r(3, 8), r(8))),
    ("abs", torch.abs, (r(3, 8),)),
    ("where", lambda x, y: torch.where(x > y, x, y * 2), (r(3, 8), r(8))),
    ("where <=", lambda x, y: torch.where(x <= y, x, 0.5), (r(3, 8), r(8))),
    ("masked_fill", lambda x: x.masked_fill(x < 0, 1.5), (r(3, 8),)),
    ("sum", lambda x: x.sum(), (r(3, 8),)),
    ("sum dim", lambda x: x.sum(0, keepdim=True), (r(3, 8),)),
    ("mean", lambda x: x.mean((0, 1)), (r(3, 8),)),
    ("var", lambda x: x.var(-1), (r(3, 8),)),
    ("var biased", lambda x: x.var(0, unbiased=False), (r(3, 8),)),
    ("amax", lambda x: x.amax(1), (r(3, 8),)),
    ("amin", lambda x: x.amin((0, 1)), (r(3, 8),)),
    ("max", lambda x: x.max(), (r(3, 8),)),
    ("softmax", lambda x: torch.softmax(x, -1), (r(3, 8),)),
    ("softmax dim 0", lambda x: torch.softmax(x, 0), (r(3, 8),)),
    ("log_softmax", lambda x: F.log_softmax(x, -1), (r(3, 9),)),
    ("logsumexp", lambda x: torch.logsumexp(x, 0), (r(3, 8),)),
    ("layer_norm", lambda x, g, b: F.layer_norm(x, (8,), g, b), (r(3, 8), r(8) + 1, r(8))),
    ("layer_norm 2 dims", lambda x: F.layer_norm(x, (4, 8)), (r(3, 4, 8),)),
    (
        "batch_norm",
        lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b),
        (r(2, 3, 4), r(3), r(3), r(3), r(3).abs()),
    ),
    (
        "softmax attention",
        lambda q, k, v: torch.softmax(q @ k * 0.125, -1) @ v,
        (r(2, 6, 8), r(2, 8, 10), r(2, 10, 8)),
    ),
    ("sdpa", SDPA, (r(2, 3, 6, 8), r(2, 3, 7, 8), r(2, 3, 7, 8))),
    ("sdpa scale", lambda q, k: SDPA(q, k, k, scale=0.3), (r(3, 6, 8), r(3, 7, 8))),
    (
        "sdpa causal",
        lambda q, k, v: SDPA(q, k, v, is_causal=True),
        (r(2, 3, 6, 8), r(2, 3, 6, 8), r(2, 3, 6, 8)),
    ),
    (
        "sdpa gqa",
        lambda q, k, v: SDPA(q, k, v, is_causal=True, enable_gqa=True),
        (r(2, 4, 6, 8), r(2, 2, 6, 8), r(2, 2, 6, 8)),
    ),
    ("sdpa mask", SDPA, (r(2, 3, 6, 8), r(2, 3, 7, 8), r(2, 3, 7, 8), MASK)),
    (
        "sdpa gqa mask",
        lambda q, k, v, m: SDPA(q, k, v, m, enable_gqa=True),
        (r(2, 4, 6, 8), r(2, 2, 7, 8), r(2, 2, 7, 8), MASK),
    ),
    ("sdpa bias", SDPA, (r(2, 3, 6, 8), r(2, 3, 7, 8), r(2, 3, 7, 8), r(2, 1, 6, 7))),
    ("rope", rotate, (r(2, 3, 5, 8), r(5, 8), r(5, 8))),
    (
        "decoder layer",
        layer,
        (r(2, 5, 24), r(24), r(32, 24), r(16, 24), r(16, 24), r(24, 32), r(5, 8), r(5, 8)),
    ),
    (
        "gated mlp",
        lambda x, w, u, d: F.linear(F.silu(F.linear(x, w)) * F.linear(x, u), d) + x,
        (r(2, 3, 8), r(12, 8), r(12, 8), r(8, 12)),
    ),
    ("lora", lambda x, w, a, c: x @ w + (x @ a) @ c, (r(3, 8), r(8, 9), r(8, 2), r(2, 9))),
    ("cat", lambda x, y: torch.cat([x, y], 1), (r(3, 4), r(3, 5))),
    ("stack", lambda x: torch.stack([x, x * 2], 0), (r(3, 4),)),
    ("split", lambda x: [p * 2 for p in x.split(3, -1)], (r(3, 8),)),
    ("chunk", lambda x: [p * 2 for p in x.chunk(2, 1)], (r(3, 8),)),
    ("slice", lambda x: x[..., 2:7] * 2, (r(3, 8),)),
    ("strided slice", lambda x: x[:, ::2] * 2, (r(3, 8),)),
    ("first of a dim", lambda x: x[:, :3] * 2, (r(3, 8),)),
    ("first of a gather", lambda x: x.gather(0, AT[:, :2] % 3) * 2, (r(4, 4),)),
    ("select", lambda x: x[1] * 2, (r(3, 8),)),
    ("reshape", lambda x: (x * 2).reshape(6, 4), (r(4, 6),)),
    ("reshape odd", lambda x: (x * 2).reshape(3, 2).reshape(2, 3), (r(2, 3),)),
    ("permute", lambda x: (x + 1).reshape(2, 3, 4).permute(2, 0, 1).reshape(4, 6), (r(4, 6),)),
    ("flatten", lambda x: (x * 1).flatten(), (r(4, 6),)),
    ("squeeze", lambda x: (x * 2).unsqueeze(0).squeeze(0) + x[:, None].squeeze(1), (r(4, 6),)),
    ("expand", lambda x: x[:, None].expand(3, 2, 4) * 2, (r(3, 4),)),
    ("repeat_interleave", lambda x: x.repeat_interleave(2, 1) * 2, (r(3, 4),)),
    ("repeat", lambda x: x.repeat(2, 3) * 2, (r(3, 4),)),
    ("roll", lambda x: torch.roll(x, 1, 0) * 2, (r(3, 4),)),
    ("flip", lambda x: torch.flip(x, (1,)) * 2, (r(3, 4),)),
    ("triu", lambda x: torch.triu(x, 1), (r(4, 5),)),
    ("tril", torch.tril, (r(4, 5),)),
    (
        "arange mask",
        lambda x: x * (torch.arange(5)[None, :] <= torch.arange(4)[:, None]),
        (r(4, 5),),
    ),
    ("embedding", lambda t: F.embedding(AT, t), (r(10, 4),)),
    ("index_select", lambda t: torch.index_select(t, 0, AT[0]) * 2, (r(10, 4),)),
    ("to double and back", lambda x: (x.double() * 2).float(), (r(3, 4),)),
    ("x with itself", lambda x: (x[:, None] * x).sum(1), (r(4),)),
    ("pairs", lambda x: (x[:, None] - x[None]).abs(), (r(4, 3),)),
    ("stacked with its transpose", lambda x: torch.stack([x, x.T, x], 1) * 2, (r(4, 4),)),
    ("logaddexp", torch.logaddexp, (r(3, 8), r(8))),
    ("logaddexp of infinities", lambda x: torch.logaddexp(x / 0, x / 0), (r(3, 8),)),
    ("threshold of NaN", lambda x: F.threshold(x.sqrt(), 0.5, 20.0), (r(3, 8),)),
    ("size one", lambda x, y: x @ y + 1, (r(1, 1), r(1, 7))),
    ("transposed input", lambda x, w: x.t() @ w, (r(8, 3), r(8, 5))),
]


def answer(program: Program, args: tuple[Any, ...], work: torch.dtype | None) -> Any:
    def call(piece: Supported, xs: Any) -> list[torch.Tensor]:
        out = run(piece.graph, xs, work=work)
        return [y.to(o.meta["val"].dtype) for y, o in zip(out, piece.outputs, strict=True)]

    return program.run(args, {}, call)


def compare(got: Any, want: Any, tolerance: float) -> None:
    for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert torch.allclose(
            a.double(), b.double(), rtol=tolerance, atol=tolerance, equal_nan=True
        )


@pytest.mark.parametrize("case", WHOLE, ids=[c[0] for c in WHOLE])
def test_operator(case: Case) -> None:
    _, fn, args = case
    program = partition(capture(fn, args, {}))
    assert not program.boundaries, [(b.op, b.reason) for b in program.boundaries]
    compare(answer(program, args, None), fn(*args), 2e-4)
    strided = tuple(
        a.transpose(0, -1).contiguous().transpose(0, -1) if a.dim() > 1 else a for a in args
    )
    compare(answer(partition(capture(fn, strided, {})), strided, None), fn(*args), 2e-4)


def test_enough_operators_are_tried() -> None:
    assert len(WHOLE) >= 95


BOUNDARIES: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("cumsum", lambda x: (torch.cumsum(x * 2, 0) + 1) * 3, (r(3, 4),)),
    ("topk", lambda x: torch.topk(x * 2, 2)[0] + 1, (r(3, 4),)),
    ("sort", lambda x: torch.sort(x * 2)[0] + 1, (r(3, 4),)),
    ("argmax", lambda x: (x * 2).argmax(-1) + 1, (r(3, 4),)),
    ("conv2d", lambda x, w: F.conv2d(x * 2, w) + 1, (r(1, 2, 5, 5), r(3, 2, 3, 3))),
    ("max_pool2d", lambda x: F.max_pool2d(x * 2, 3, 1, 1) + 1, (r(1, 2, 4, 4),)),
    ("scatter", lambda x, i: (x * 2).scatter(1, i, 0.0) + 1, (r(2, 4), AT[:, :1] % 4)),
    ("randn_like", lambda x: torch.randn_like(x * 2) * 0 + x, (r(2, 10),)),
]


@pytest.mark.parametrize("case", BOUNDARIES, ids=[c[0] for c in BOUNDARIES])
def test_boundary(case: Case) -> None:
    name, fn, args = case
    program = partition(capture(fn, args, {}))
    assert any(name in b.op for b in program.boundaries), [b.op for b in program.boundaries]
    assert all(b.reason and b.where for b in program.boundaries)
    compare(answer(program, args, None), fn(*args), 1e-4)


def test_an_operator_without_results() -> None:
    def fn(x: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
        return x * 2 + len(empty.unbind(0))

    program = partition(capture(fn, (r(3, 4), r(0, 4)), {}))
    compare(answer(program, (r(3, 4), r(0, 4)), None), fn(r(3, 4), r(0, 4)), 1e-6)


def test_what_cannot_be_cut_is_refused() -> None:
    def mutates(x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2

    def branches(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x

    for fn, error in (
        (mutates, MutatesInput),
        (branches, UnsupportedOperator),
    ):
        with pytest.raises(error):
            partition(capture(fn, (r(3, 4),), {}))


def test_identity_covers_what_a_function_means() -> None:
    def make(scale: float) -> Callable[..., Any]:
        return lambda x: x * scale

    assert identity(make(2.0)) == identity(make(2.0))
    assert identity(make(2.0)) != identity(make(3.0))
    assert identity(lambda x: x + 1) != identity(lambda x: x + 2)
    tensor = r(3)
    assert identity(lambda x: x + tensor) is None
    assert identity(torch.nn.Linear(2, 2)) is None
