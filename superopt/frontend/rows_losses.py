"""Rows of losses and distances: elementwise terms, and what they are summed or averaged over.

Those that count classes (cross entropy, nll) are beside the softmax, in ``rows_reduce``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows import ROWS, Row, row
from superopt.frontend.rows_scalar import FORMULAS
from superopt.frontend.tensors import NotSupported, Tensor, floating
from superopt.mugraph import ops
from superopt.mugraph.scalars import A, B, C, Term

_NONE, _MEAN = 0, 1
"""PyTorch's numbers for ``reduction``; 2 is the sum."""


def loss(cx: Context, out: torch.dtype, each: Tensor, reduction: int) -> Tensor:
    """The loss of every element, as they are, averaged or summed; rounded once."""
    if reduction == _NONE:
        return cx.rounded(each)
    over = [a for d in each.dims for a in d]
    node = (ops.mean if reduction == _MEAN else ops.total)(cx.b, each.node, over)
    return cx.rounded(Tensor(node, (), out))


def _term(cx: Context, term: Term, args: Sequence[Any], out: torch.dtype) -> Tensor:
    """A term over broadcast arguments: a step inside a loss, not rounded."""
    if not floating(out):
        raise NotSupported(f"{cx.name} on integers")
    return cx.unrounded(term, args, out)


_GAP: Term = ("abs", ("sub", A, B))


def _between(term: Term) -> Row:
    """The loss of two tensors by a term over their elements."""

    def convert(cx: Context, out: torch.dtype, x: Tensor, y: Tensor, reduction: int = 1) -> Tensor:
        return loss(cx, out, _term(cx, term, [x, y], out), reduction)

    return convert


ROWS["mse_loss"] = _between(("square", ("sub", A, B)))
ROWS["l1_loss"] = _between(_GAP)
ROWS["soft_margin_loss"] = _between(("log1p", ("exp", ("mul", ("neg", B), A))))


@row("huber_loss")
def _huber(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    y: Tensor,
    reduction: int = 1,
    delta: float = 1.0,
) -> Tensor:
    near: Term = ("mul", 0.5, ("square", _GAP))
    far = ("mul", float(delta), ("sub", _GAP, 0.5 * delta))
    each = _term(cx, ("where", ("le", _GAP, float(delta)), near, far), [x, y], out)
    return loss(cx, out, each, reduction)


@row("smooth_l1_loss")
def _smooth_l1(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    y: Tensor,
    reduction: int = 1,
    beta: float = 1.0,
) -> Tensor:
    term: Term = _GAP
    if beta:
        near = ("div", ("mul", 0.5, ("square", _GAP)), float(beta))
        term = ("where", ("lt", _GAP, float(beta)), near, ("sub", _GAP, 0.5 * beta))
    return loss(cx, out, _term(cx, term, [x, y], out), reduction)


@row("binary_cross_entropy_with_logits")
def _logits(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    target: Tensor,
    weight: Any = None,
    positive: Any = None,
    reduction: int = 1,
) -> Tensor:
    """``(1 - t) x - (1 + (p - 1) t) log sigmoid(x)``, p the weight of positive answers."""
    likely = FORMULAS["log_sigmoid"][0]
    args = [x, target]
    if positive is not None:
        likely = ("mul", ("add", ("mul", ("sub", C, 1.0), B), 1.0), likely)
        args.append(positive)
    each = _term(cx, ("sub", ("mul", ("sub", 1.0, B), A), likely), args, out)
    if weight is not None:
        each = cx.apply("mul", [each, weight], out, out)
    return loss(cx, out, each, reduction)


@row("kl_div")
def _kl_div(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    target: Tensor,
    reduction: int = 1,
    log_target: bool = False,
) -> Tensor:
    if log_target:
        term: Term = ("mul", ("exp", B), ("sub", B, A))
    else:  # 0 log 0 is 0
        entropy = ("where", ("eq", B, 0.0), 0.0, ("mul", B, ("log", B)))
        term = ("sub", entropy, ("mul", B, A))
    return loss(cx, out, _term(cx, term, [x, target], out), reduction)


@row("margin_ranking_loss")
def _margin_ranking(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    margin: float = 0.0,
    reduction: int = 1,
) -> Tensor:
    gap: Term = ("add", ("mul", ("neg", C), ("sub", A, B)), float(margin))
    return loss(cx, out, _term(cx, ("max", gap, 0.0), [x, y, target], out), reduction)


@row("hinge_embedding_loss")
def _hinge_embedding(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    target: Tensor,
    margin: float = 1.0,
    reduction: int = 1,
) -> Tensor:
    """x where the target is 1, ``max(margin - x, 0)`` where it is -1 (both, where it is neither)."""
    apart = ("where", ("eq", B, 1.0), 0.0, ("max", ("sub", float(margin), A), 0.0))
    alike = ("where", ("eq", B, -1.0), 0.0, A)
    return loss(cx, out, _term(cx, ("add", apart, alike), [x, target], out), reduction)


# -- distances -----------------------------------------------------------------------------------


@row("cosine_similarity")
def _cosine(
    cx: Context, out: torch.dtype, x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8
) -> Tensor:
    if not floating(out):
        raise NotSupported("cosine_similarity on integers")
    (x, y), dims = cx.t.broadcast([cx.cast(x, out), cx.cast(y, out)])
    whole = replace(x, dims=dims)
    along = cx.dims(whole, dim)
    over = cx.axes(whole, along)

    def unit(v: int) -> int:
        length = cx.b.map("sqrt", ops.total(cx.b, cx.b.map("mul", v, v), over))
        floor = cx.b.const(float(eps), cx.b.dtype(v))
        return cx.b.map("div", v, cx.b.map("max", length, floor))

    node = ops.contract(cx.b, unit(x.node), unit(y.node), over)
    return cx.reduced(whole, node, along, False, out)


@row("pairwise_distance")
def _pairwise_distance(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    y: Tensor,
    order: float = 2.0,
    eps: float = 1e-6,
    keepdim: bool = False,
) -> Tensor:
    gap = _term(cx, ("add", ("sub", A, B), float(eps)), [x, y], out)
    result: Tensor = ROWS["linalg_vector_norm"](cx, out, gap, order, [-1], keepdim)
    return result
