"""Rows of elementwise operators and reductions: ATen operator -> conversion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.tensors import NotSupported, Tensor, compute_name, floating
from superopt.mugraph import ops
from superopt.mugraph.scalars import SCALARS

Row = Callable[..., Any]
ROWS: dict[str, Row] = {}


def row(*names: str) -> Callable[[Row], Row]:
    """Registers a conversion ``(context, out_dtype, *args, **kwargs)`` under ATen names."""

    def add(fn: Row) -> Row:
        ROWS.update(dict.fromkeys(names, fn))
        return fn

    return add


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    return [a for a in args if isinstance(a, Tensor)]


def common(args: tuple[Any, ...]) -> torch.dtype:
    """The dtype torch promotes these arguments to."""
    proxies = [
        torch.empty((1,) * min(len(a.dims), 1), dtype=a.dtype) if isinstance(a, Tensor) else a
        for a in args
    ]
    out: Any = proxies[0]
    for p in proxies[1:]:
        out = (
            torch.empty(
                (1,) if getattr(out, "dim", lambda: 0)() or getattr(p, "dim", lambda: 0)() else (),
                dtype=torch.result_type(out, p),
            )
            if not (isinstance(out, int | float | bool) and isinstance(p, int | float | bool))
            else out
        )
    return out.dtype if isinstance(out, torch.Tensor) else torch.get_default_dtype()


def _scalar_row(name: str) -> Row:
    result = SCALARS[name].result

    def convert(cx: Context, out: torch.dtype, *args: Any, **kw: Any) -> Tensor:
        alpha = kw.pop("alpha", 1)
        if kw.get("rounding_mode") is not None:
            raise NotSupported("division with a rounding mode")
        if alpha != 1:
            args = (
                args[0],
                cx.elementwise("mul", [args[1], alpha], args[1].dtype, args[1].dtype)
                if isinstance(args[1], Tensor)
                else args[1] * alpha,
            )
        work = common(args) if result == "bool" else out
        if name in ("not", "and", "or"):
            if any(t.dtype != torch.bool for t in _tensors(args)):
                raise NotSupported("bitwise operators on integers")
            work = torch.bool
        if not floating(work) and name in (
            "recip",
            "div",
            "exp",
            "log",
            "sqrt",
            "rsqrt",
            "neg",
            "square",
        ):
            raise NotSupported(f"{name} on integers")
        return cx.elementwise(name, args[: SCALARS[name].arity], out, work)

    return convert


for _row in SCALARS.values():
    for _name in _row.torch:
        ROWS[_name] = _scalar_row(_row.name)


@row("rsub")
def _rsub(cx: Context, out: torch.dtype, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    return ROWS["sub"](cx, out, b, a, alpha=alpha)


@row("pow")
def _pow(cx: Context, out: torch.dtype, x: Any, e: Any) -> Tensor:
    if isinstance(e, Tensor) or not isinstance(x, Tensor) or not floating(out):
        if not floating(out):
            raise NotSupported("integer powers")
        return cx.elementwise("pow", [x, e], out, out)
    x = cx.cast(x, out)
    simple = {0.5: "sqrt", -0.5: "rsqrt", -1: "recip", 1: None}
    if e in simple:
        op = simple[e]
        return x if op is None else cx.elementwise(op, [x], out, out)
    if isinstance(e, int | float) and e == int(e) and 2 <= abs(e) <= 8:
        node = x.node
        for _ in range(int(abs(e)) - 1):
            node = cx.b.map("mul", node, x.node)
        if e < 0:
            node = cx.b.map("recip", node)
        return cx.rounded(replace(x, node=node, dtype=out))
    return cx.elementwise("pow", [x, float(e)], out, out)


@row("gelu")
def _gelu(cx: Context, out: torch.dtype, x: Tensor, approximate: str = "none") -> Tensor:
    return cx.elementwise("gelu_tanh" if approximate == "tanh" else "gelu", [x], out, out)


@row("clamp", "clamp_min", "clamp_max")
def _clamp(
    cx: Context, out: torch.dtype, x: Tensor, low: Any = None, high: Any = None, **kw: Any
) -> Tensor:
    low, high = kw.get("min", low), kw.get("max", high)
    for op, bound in (("max", low), ("min", high)):
        if bound is not None:
            x = cx.elementwise(op, [x, bound], out, out)
    return cx.cast(x, out)


ROWS["clamp_max"] = lambda cx, out, x, high: _clamp(cx, out, x, None, high)


@row("where")
def _where(cx: Context, out: torch.dtype, c: Tensor, a: Any = None, b: Any = None) -> Tensor:
    if a is None:
        raise NotSupported("where with one argument has a data-dependent shape")
    return cx.where(c, a, b, out)


@row("masked_fill")
def _masked_fill(cx: Context, out: torch.dtype, x: Tensor, mask: Tensor, value: Any) -> Tensor:
    return cx.where(mask, value, x, out)


@row("_to_copy", "to", "type_as")
def _to(cx: Context, out: torch.dtype, x: Tensor, *_: Any, **__: Any) -> Tensor:
    if floating(x.dtype) and not floating(out) and out != torch.bool:
        return cx.cast(x, out)
    return cx.cast(x, out)


@row(
    "clone",
    "contiguous",
    "detach",
    "alias",
    "lift_fresh_copy",
    "lift_fresh",
    "detach_",
    "dropout",
    "_assert_tensor_metadata",
)
def _same(cx: Context, out: torch.dtype, x: Tensor, *args: Any, **kw: Any) -> Tensor:
    if len(args) >= 2 and args[1] is True and args[0]:
        raise NotSupported("dropout in training draws random numbers")
    return x


# -- reductions ----------------------------------------------------------------------------------


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
    if not floating(out):
        raise NotSupported("sums of integers")
    return _reduction(cx, out, x, dim, keepdim, ops.total)


@row("mean")
def _mean(
    cx: Context, out: torch.dtype, x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> Tensor:
    return _reduction(cx, out, x, dim, keepdim, ops.mean)


@row("var")
def _var(
    cx: Context, out: torch.dtype, x: Tensor, dim: Any = None, *args: Any, **kw: Any
) -> Tensor:
    correction, keep = kw.get("correction", 1), kw.get("keepdim", False)
    if isinstance(dim, bool):
        dim, correction = None, float(dim)
    if args and isinstance(args[0], bool):
        correction, keep = float(args[0]), args[1] if len(args) > 1 else keep
    correction = float(kw.get("unbiased", 1 if correction is None else correction))
    return _reduction(cx, out, x, dim, keep, lambda b, n, a: ops.var(b, n, a, correction))


@row("amax", "amin", "max", "min")
def _max(cx: Context, out: torch.dtype, *_: Any) -> Tensor:
    raise NotSupported("max with indices")


ROWS["amax"] = lambda cx, out, x, dim=None, keepdim=False: _reduction(
    cx, out, x, dim, keepdim, lambda b, n, a: ops.extreme(b, n, a, "max")
)
ROWS["amin"] = lambda cx, out, x, dim=None, keepdim=False: _reduction(
    cx, out, x, dim, keepdim, lambda b, n, a: ops.extreme(b, n, a, "min")
)


def _minmax(op: str) -> Row:
    def convert(cx: Context, out: torch.dtype, x: Tensor, *args: Any, **kw: Any) -> Tensor:
        if not args and not kw:
            return _reduction(cx, out, x, None, False, lambda b, n, a: ops.extreme(b, n, a, op))
        if len(args) == 1 and isinstance(args[0], Tensor):
            return cx.elementwise("max" if op == "max" else "min", [x, args[0]], out, out)
        raise NotSupported(f"{op} along a dimension returns indices")

    return convert


ROWS["max"], ROWS["min"] = _minmax("max"), _minmax("min")


def _along(build: Callable[..., int]) -> Row:
    def convert(
        cx: Context, out: torch.dtype, x: Tensor, dim: int = -1, *_: Any, **__: Any
    ) -> Tensor:
        x = cx.cast(x, out)
        dims = cx.dims(x, dim)
        axes = [a for a in cx.axes(x, dims) if a in cx.b.axes(x.node)]
        if len(axes) != len(cx.axes(x, dims)) or not axes:
            raise NotSupported("a softmax over a broadcast or single element dimension")
        return cx.rounded(replace(x, node=build(cx.b, x.node, axes), dtype=out))

    return convert


ROWS["softmax"] = ROWS["_softmax"] = _along(ops.softmax)
ROWS["log_softmax"] = ROWS["_log_softmax"] = _along(ops.log_softmax)


@row("logsumexp")
def _logsumexp(cx: Context, out: torch.dtype, x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    return _reduction(cx, out, x, dim, keepdim, ops.logsumexp)


# -- norms ---------------------------------------------------------------------------------------


def _normed(
    cx: Context, out: torch.dtype, x: Tensor, shape: list[int], *params: Any
) -> tuple[Tensor, list, list]:
    x = cx.cast(x, out)
    rank = len(x.dims)
    dims = list(range(rank - len(shape), rank))
    got: list[int | None] = []
    for p in params:
        if p is None:
            got.append(None)
            continue
        pair = cx.t.unify([x, cx.cast(p, out)], [[d, d - dims[0]] for d in dims])
        x = pair[0]
        got.append(pair[1].node)
    return x, cx.axes(x, dims), got


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
        eps = torch.finfo(torch.float32 if compute_name(out) == "f32" else out).eps
    x, axes, (gain,) = _normed(cx, out, x, shape, weight)
    return cx.rounded(replace(x, node=ops.rms_norm(cx.b, x.node, axes, eps, gain), dtype=out))


@row("layer_norm")
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
    x, axes, (gain, shift) = _normed(cx, out, x, shape, weight, bias)
    return cx.rounded(
        replace(x, node=ops.layer_norm(cx.b, x.node, axes, eps, gain, shift), dtype=out)
    )


@row("batch_norm")
def _batch_norm(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Tensor,
    var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Tensor:
    if training:
        raise NotSupported("batch_norm in training updates its statistics")
    rank = len(x.dims)

    def channel(p: Tensor) -> Tensor:
        return replace(p, dims=(p.dims[0], *((),) * (rank - 2)))

    scale = cx.elementwise(
        "rsqrt",
        [cx.elementwise("add", [var, float(eps)], var.dtype, var.dtype)],
        var.dtype,
        var.dtype,
    )
    y = cx.elementwise(
        "mul", [cx.elementwise("sub", [x, channel(mean)], out, out), channel(scale)], out, out
    )
    for op, p in (("mul", weight), ("add", bias)):
        if p is not None:
            y = cx.elementwise(op, [y, channel(p)], out, out)
    return y


@row("isinf_", "isnan_")
def _refuse(cx: Context, *_: Any) -> Tensor:
    raise NotSupported("no row")


def is_finite(value: Any) -> bool:
    """Whether a literal is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
