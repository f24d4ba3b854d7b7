"""Rows of reductions, softmax, norms and losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from superopt.errors import StaysWhole
from superopt.frontend.context import Context
from superopt.frontend.rows import ROWS, Row, row
from superopt.frontend.tensors import NotSupported, Tensor, compute_name, floating
from superopt.mugraph import ops
from superopt.mugraph.axes import Axis


def _reduction(
    cx: Context, out: torch.dtype, x: Tensor, dim: Any, keep: bool, build: Callable[..., int]
) -> Tensor:
    x = cx.cast(x, out)
    dims = cx.dims(x, dim)
    return cx.reduced(x, build(cx.b, x.node, cx.axes(x, dims)), dims, keep, out)


@row("sum")
def _sum(
    cx: Context, out: torch.dtype, x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> Tensor:
    if out == torch.bool:
        raise NotSupported("a sum that is a boolean")
    return _reduction(cx, out, x, dim, keepdim, ops.total)


@row("mean")
def _mean(
    cx: Context, out: torch.dtype, x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> Tensor:
    return _reduction(cx, out, x, dim, keepdim, ops.mean)


def _correction(args: tuple[Any, ...], kw: dict[str, Any]) -> tuple[Any, float, bool]:
    """(dim, correction, keepdim) of any overload of var and std."""
    dim = args[0] if args else kw.get("dim")
    correction, keep = kw.get("correction", 1), kw.get("keepdim", False)
    if isinstance(dim, bool):
        dim, correction = None, dim
    elif len(args) > 1:
        correction, keep = args[1], args[2] if len(args) > 2 else keep
    correction = kw.get("unbiased", 1 if correction is None else correction)
    return dim, float(correction), keep


def _spread_row(root: bool, with_mean: bool) -> Row:
    def convert(cx: Context, out: torch.dtype, x: Tensor, *args: Any, **kw: Any) -> Any:
        dim, correction, keep = _correction(args, kw)

        def build(b: Any, n: int, over: Any) -> int:
            most = math.prod(a.size if isinstance(a.size, int) else a.size.hi for a in over)
            if most <= correction:
                # Not a boundary: outside of Python PyTorch would warn of it at every call.
                raise StaysWhole(
                    f"variance of {most} elements with correction {correction:g}", "var, std"
                )
            v = ops.var(b, n, over, correction)
            return b.map("sqrt", v) if root else v

        spread = _reduction(cx, out, x, dim, keep, build)
        return [spread, _mean(cx, out, x, dim, keep)] if with_mean else spread

    return convert


ROWS["var"], ROWS["std"] = _spread_row(False, False), _spread_row(True, False)
ROWS["var_mean"], ROWS["std_mean"] = _spread_row(False, True), _spread_row(True, True)


def _extreme(op: str) -> Callable[..., int]:
    return lambda b, n, over: ops.extreme(b, n, over, op)


def _extreme_row(op: str) -> Row:
    def convert(
        cx: Context, out: torch.dtype, x: Tensor, dim: Any = None, keepdim: bool = False
    ) -> Tensor:
        way = op if out != torch.bool else {"max": "or", "min": "and"}[op]
        return _reduction(cx, out, x, dim, keepdim, _extreme(way))

    return convert


def _max_row(op: str) -> Row:
    values = _extreme_row(op)

    def convert(cx: Context, out: torch.dtype, x: Tensor, *args: Any, **kw: Any) -> Any:
        if not args and not kw:
            return values(cx, out, x)
        if len(args) == 1 and isinstance(args[0], Tensor):
            return cx.elementwise(op, [x, args[0]], out, out)
        if cx.read <= {0}:
            return [values(cx, out, x, *args, **kw), None]
        raise NotSupported(f"the positions of a {op} are read; amax and amin give none")

    return convert


for _op in ("max", "min"):
    ROWS[f"a{_op}"], ROWS[_op] = _extreme_row(_op), _max_row(_op)


@row("linalg_vector_norm", "norm", "frobenius_norm")
def _norm(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    order: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    **_: Any,
) -> Tensor:
    if not floating(x.dtype):
        raise NotSupported("norms of integers")
    if order is None or order == 2:
        return _reduction(
            cx,
            out,
            x,
            dim,
            keepdim,
            lambda b, n, over: b.map("sqrt", ops.total(b, b.map("mul", n, n), over)),
        )
    if order == 1:
        build = ops.total
    elif order in (float("inf"), float("-inf")):
        build = _extreme("max" if order > 0 else "min")
    else:
        raise NotSupported(f"a norm of order {order}")
    return _reduction(cx, out, x, dim, keepdim, lambda b, n, over: build(b, b.map("abs", n), over))


# -- softmax -------------------------------------------------------------------------------------


def _along(build: Callable[..., int]) -> Row:
    def convert(
        cx: Context, out: torch.dtype, x: Tensor, dim: int = -1, *_: Any, **__: Any
    ) -> Tensor:
        x = cx.cast(x, out)
        node = build(cx.b, x.node, cx.axes(x, cx.dims(x, dim)))
        return cx.rounded(replace(x, node=node))

    return convert


ROWS["softmax"] = ROWS["_softmax"] = _along(ops.softmax)
ROWS["log_softmax"] = ROWS["_log_softmax"] = _along(ops.log_softmax)


@row("logsumexp")
def _logsumexp(cx: Context, out: torch.dtype, x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    return _reduction(cx, out, x, dim, keepdim, ops.logsumexp)


# -- norms ---------------------------------------------------------------------------------------


def _normed(
    cx: Context, out: torch.dtype, x: Tensor, shape: list[int], *params: Any
) -> tuple[Tensor, list[Axis], list[int | None]]:
    x = cx.cast(x, out)
    first = len(x.dims) - len(shape)
    dims = list(range(first, len(x.dims)))
    given = [cx.cast(p, out) for p in params if p is not None]
    meetings: list[list[int | None]] = [[d, *([d - first] * len(given))] for d in dims]
    x, *moved = cx.t.unify([x, *given], meetings)
    rest = iter(moved)
    return x, cx.axes(x, dims), [None if p is None else next(rest).node for p in params]


@row("rms_norm")
def _rms_norm(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    shape: list[int],
    weight: Any = None,
    eps: float | None = None,
) -> Tensor:
    if eps is None:
        eps = torch.finfo(torch.float32 if compute_name(x.dtype) == "f32" else x.dtype).eps
    x, axes, (gain,) = _normed(cx, out, x, shape, weight)
    return cx.rounded(replace(x, node=ops.rms_norm(cx.b, x.node, axes, eps, gain)))


@row("layer_norm", "native_layer_norm")
def _layer_norm(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    shape: list[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    if cx.name == "native_layer_norm":
        raise NotSupported("a layer_norm that gives its statistics")
    x, axes, (gain, shift) = _normed(cx, out, x, shape, weight, bias)
    return cx.rounded(replace(x, node=ops.layer_norm(cx.b, x.node, axes, eps, gain, shift)))


@row("group_norm")
def _group_norm(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    x = cx.cast(x, out)
    channels = cx.t.size(x.dims[1])
    split = cx.t.reshape_dim(x, 1, (groups, channels // groups))
    over = cx.axes(split, range(2, len(split.dims)))
    y = replace(split, node=ops.layer_norm(cx.b, split.node, over, eps))
    y = replace(y, dims=(y.dims[0], y.dims[1] + y.dims[2], *y.dims[3:]))
    return cx.rounded(_affine(cx, out, y, weight, bias))


@row("instance_norm")
def _instance_norm(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Tensor:
    if not use_input_stats or mean is not None or var is not None:
        raise NotSupported("instance_norm with running statistics")
    x = cx.cast(x, out)
    over = cx.axes(x, range(2, len(x.dims)))
    y = replace(x, node=ops.layer_norm(cx.b, x.node, over, eps))
    return cx.rounded(_affine(cx, out, y, weight, bias))


def _affine(cx: Context, out: torch.dtype, y: Tensor, weight: Any, bias: Any) -> Tensor:
    """``y * weight + bias`` along the channels, dim 1."""
    for op, p in (("mul", weight), ("add", bias)):
        if p is not None:
            y = cx.apply(op, [y, _channel(p, len(y.dims))], out, out)
    return y


def _channel(p: Tensor, rank: int) -> Tensor:
    return replace(p, dims=(p.dims[0], *((),) * (rank - 2)))


@row("batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    *rest: Any,
) -> Any:
    legit = cx.name != "batch_norm"
    training, eps = (False, rest[1]) if legit else (rest[0], rest[2])
    if training or mean is None or var is None:
        raise NotSupported("batch_norm in training updates its statistics")
    scale = cx.apply("rsqrt", [cx.apply("add", [var, float(eps)], out, out)], out, out)
    rank = len(x.dims)
    y = cx.apply("sub", [x, _channel(mean, rank)], out, out)
    y = cx.apply("mul", [y, _channel(scale, rank)], out, out)
    y = cx.rounded(_affine(cx, out, y, weight, bias))
    if not legit:
        return y
    raise NotSupported("a batch_norm that gives its statistics")


# -- losses --------------------------------------------------------------------------------------


@row("cross_entropy_loss")
def _cross_entropy(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    target: Tensor,
    weight: Any = None,
    reduction: int = 1,
    ignore: int = -100,
    smoothing: float = 0.0,
) -> Tensor:
    if weight is not None or smoothing:
        raise NotSupported("cross entropy with class weights or label smoothing")
    x = cx.cast(x, out)
    classes = 1 if len(x.dims) > 1 else 0
    logp = replace(x, node=ops.log_softmax(cx.b, x.node, list(x.dims[classes])), exact=False)
    if not floating(target.dtype):
        return _nll(cx, out, logp, target, None, reduction, ignore)
    picked = cx.apply("mul", [logp, target], out, out)
    loss = cx.b.map("neg", ops.total(cx.b, picked.node, list(picked.dims[classes])))
    rest = tuple(d for k, d in enumerate(picked.dims) if k != classes)
    if reduction == 0:
        return cx.rounded(Tensor(loss, rest, out))
    axes = [a for d in rest for a in d]
    return cx.rounded(Tensor((ops.total, ops.mean)[reduction == 1](cx.b, loss, axes), (), out))


@row("nll_loss", "nll_loss_nd", "nll_loss2d")
def _nll(
    cx: Context,
    out: torch.dtype,
    logp: Tensor,
    target: Tensor,
    weight: Any = None,
    reduction: int = 1,
    ignore: int = -100,
) -> Tensor:
    if weight is not None:
        raise NotSupported("a loss with class weights")
    logp, b = cx.cast(logp, out), cx.b
    classes = 1 if len(logp.dims) > 1 else 0
    counted = cx.apply("ne", [target, ignore], torch.bool, target.dtype)
    at = cx.where(counted, target, 0, target.dtype)
    at = replace(at, dims=(*at.dims[:classes], (), *at.dims[classes:]))
    picked = ROWS["gather"](cx, out, logp, classes, at)
    picked = replace(picked, dims=tuple(d for k, d in enumerate(picked.dims) if k != classes))
    loss = cx.where(counted, cx.apply("neg", [picked], out, out), 0.0, out)
    if reduction == 0:
        return cx.rounded(loss)
    axes = [a for d in loss.dims for a in d]
    node = ops.total(b, loss.node, axes)
    if reduction == 1:
        (counted,), _ = cx.t.broadcast([counted])
        ones = cx.where(counted, 1.0, 0.0, out)
        node = b.map("div", node, ops.total(b, ones.node, [a for d in ones.dims for a in d]))
    return cx.rounded(Tensor(node, (), out))
