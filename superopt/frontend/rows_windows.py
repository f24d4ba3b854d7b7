"""Rows of windows and neighbours: pooling, unfolding, differences, shuffles of channels, one-hot."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows import ROWS, Row, row
from superopt.frontend.rows_layout import take
from superopt.frontend.tensors import NotSupported, Tensor, floating
from superopt.mugraph import ops
from superopt.mugraph.graph import Index

# -- windows -------------------------------------------------------------------------------------


def window(
    cx: Context, x: Tensor, dim: int, count: int, width: int, step: int, gap: int = 1
) -> Tensor:
    """``count`` windows of ``width`` elements, ``step`` apart; their elements are a new last dim."""
    dim %= len(x.dims)
    starts, within = cx.t.axis(count), cx.t.axis(width)
    if not x.dims[dim]:
        return replace(x, dims=(*x.dims, ()))
    if step == width and gap == 1:  # windows side by side: the dim is split
        x = take(cx, x, dim, 0, 1, count * width)
        x = cx.t.reshape_dim(x, dim, (count, width))
        return replace(x, dims=(*x.dims[: dim + 1], *x.dims[dim + 2 :], x.dims[dim + 1]))
    terms = (*((a, step) for a in starts), *((a, gap) for a in within))
    x = cx.t.flatten_dim(x, dim, Index(terms), (*starts, *within))
    return replace(x, dims=(*x.dims[:dim], starts, *x.dims[dim + 1 :], within))


@row("unfold")
def _unfold(cx: Context, out: torch.dtype, x: Tensor, dim: int, size: int, step: int) -> Tensor:
    if not x.dims:
        return replace(x, dims=((),))
    dim %= len(x.dims)
    return window(cx, x, dim, cx.result_shape[dim], size, step)


def _each(value: Any, rank: int) -> list[int]:
    """An argument of a pooling operator: a number for all dims, or one per dim."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * rank if len(numbers) == 1 else numbers


def _pooled(
    cx: Context,
    x: Tensor,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil: bool,
    rank: int,
) -> tuple[Tensor, list[int], int]:
    """The windows over the last dims, the dims of their elements, and how many there are in each."""
    kernel = _each(kernel, rank)
    stride = _each(stride, rank) if stride not in (None, [], ()) else kernel
    if any(_each(padding, rank)):
        raise NotSupported("pooling with padding")
    first, shape = len(x.dims) - rank, cx.result_shape
    for k, gap in enumerate(_each(dilation, rank)):
        count, reach = shape[first + k], gap * (kernel[k] - 1) + 1
        if ceil and (count - 1) * stride[k] + reach > cx.t.size(x.dims[first + k]):
            raise NotSupported("pooling with windows that reach over the end")
        x = window(cx, x, first + k, count, kernel[k], stride[k], gap)
    return x, list(range(first + rank, first + 2 * rank)), math.prod(kernel)


def _average(rank: int) -> Row:
    def convert(
        cx: Context,
        out: torch.dtype,
        x: Tensor,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil: bool = False,
        count_padding: bool = True,
        divisor: int | None = None,
    ) -> Tensor:
        if not floating(out):
            raise NotSupported(f"{cx.name} on integers")
        x, dims, size = _pooled(cx, x, kernel, stride, padding, 1, ceil, rank)
        total = ops.total(cx.b, x.node, cx.axes(x, dims))
        n = cx.b.const(float(divisor or size), cx.b.dtype(total))
        return cx.reduced(x, cx.b.map("div", total, n), dims, False, out)

    return convert


def _largest(rank: int) -> Row:
    def convert(
        cx: Context,
        out: torch.dtype,
        x: Tensor,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil: bool = False,
    ) -> Tensor:
        x, dims, _ = _pooled(cx, x, kernel, stride, padding, dilation, ceil, rank)
        return cx.reduced(x, ops.extreme(cx.b, x.node, cx.axes(x, dims)), dims, False, out)

    return convert


for _rank in (1, 2, 3):
    ROWS[f"avg_pool{_rank}d"] = _average(_rank)
    ROWS[f"max_pool{_rank}d"] = _largest(_rank)


def _adaptive(rank: int) -> Row:
    def convert(cx: Context, out: torch.dtype, x: Tensor, _size: Any) -> Tensor:
        first = len(x.dims) - rank
        kernel = []
        for d, count in enumerate(cx.result_shape[first:], first):
            n = cx.t.size(x.dims[d])
            if n % count:
                raise NotSupported("adaptive pooling by windows of several sizes")
            kernel.append(n // count)
        result: Tensor = _average(rank)(cx, out, x, kernel)
        return result

    return convert


for _rank in (1, 2, 3):
    ROWS[f"adaptive_avg_pool{_rank}d"] = _adaptive(_rank)


# -- neighbours ----------------------------------------------------------------------------------


@row("diff")
def _diff(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:
    parts = [p for p in (prepend, x, append) if p is not None]
    if len(parts) > 1:
        x = ROWS["cat"](cx, out, parts, dim)
    for _ in range(n):
        size = cx.t.size(x.dims[dim]) - 1
        late, early = (take(cx, x, dim, start, 1, size) for start in (1, 0))
        x = cx.elementwise("ne" if out == torch.bool else "sub", [late, early], out, out)
    return x


# -- channels ------------------------------------------------------------------------------------


@row("pixel_shuffle")
def _pixel_shuffle(cx: Context, out: torch.dtype, x: Tensor, factor: int) -> Tensor:
    rank = len(x.dims)
    channels = cx.t.size(x.dims[-3]) // factor**2
    x = cx.t.reshape_dim(x, rank - 3, (channels, factor, factor))
    *batch, c, r, s, h, w = x.dims
    return replace(x, dims=(*batch, c, h + r, w + s))


@row("pixel_unshuffle")
def _pixel_unshuffle(cx: Context, out: torch.dtype, x: Tensor, factor: int) -> Tensor:
    rank = len(x.dims)
    for d in (rank - 1, rank - 2):
        x = cx.t.reshape_dim(x, d, (cx.t.size(x.dims[d]) // factor, factor))
    *batch, c, h, r, w, s = x.dims
    return replace(x, dims=(*batch, c + r + s, h, w))


@row("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(cx: Context, out: torch.dtype, x: Tensor, groups: int) -> Tensor:
    x = cx.t.reshape_dim(x, 1, (groups, cx.t.size(x.dims[1]) // groups))
    batch, outer, inner, *rest = x.dims
    return replace(x, dims=(batch, inner + outer, *rest))


@row("glu")
def _glu(cx: Context, out: torch.dtype, x: Tensor, dim: int = -1) -> Tensor:
    half = cx.t.size(x.dims[dim]) // 2
    value, gate = (take(cx, x, dim, start, 1, half) for start in (0, half))
    gate = cx.apply("sigmoid", [gate], out, out)
    return cx.elementwise("mul", [value, gate], out, out)


@row("one_hot")
def _one_hot(cx: Context, out: torch.dtype, at: Tensor, classes: int = -1) -> Tensor:
    if classes < 2:
        raise NotSupported("one_hot whose number of classes depends on data, or is one")
    (table,) = cx.fresh(classes)
    # Read from the table of classes, so that one that is outside of it is noticed.
    found = replace(at, node=cx.b.gather(cx.b.iota(table), table, at.node), dims=(*at.dims, ()))
    (column,) = cx.fresh(classes)
    columns = Tensor(cx.b.iota(column), ((column,),), torch.int64)
    return cx.cast(cx.apply("eq", [found, columns], torch.bool, torch.int64), out)
