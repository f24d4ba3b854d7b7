"""Rows of layout operators: nothing is moved; dims and readings change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows import ROWS, row
from superopt.frontend.tensors import NotSupported, Tensor, compute_name
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Index


@row("view", "reshape", "_unsafe_view", "view_as", "reshape_as")
def _reshape(cx: Context, out: torch.dtype, x: Tensor, shape: Any) -> Tensor:
    return cx.t.reshape(x, cx.result_shape)


ROWS["flatten"] = ROWS["unflatten"] = ROWS["ravel"] = lambda cx, out, x, *_: cx.t.reshape(
    x, cx.result_shape
)


@row("permute")
def _permute(cx: Context, out: torch.dtype, x: Tensor, order: list[int]) -> Tensor:
    return replace(x, dims=tuple(x.dims[d] for d in order))


@row("transpose", "swapaxes", "swapdims")
def _transpose(cx: Context, out: torch.dtype, x: Tensor, a: int, b: int) -> Tensor:
    dims = list(x.dims)
    if dims:
        dims[a], dims[b] = dims[b], dims[a]
    return replace(x, dims=tuple(dims))


@row("t", "mT", "matrix_H", "adjoint")
def _t(cx: Context, out: torch.dtype, x: Tensor) -> Tensor:
    return x if len(x.dims) < 2 else _transpose(cx, out, x, -1, -2)


@row("numpy_T")
def _reversed(cx: Context, out: torch.dtype, x: Tensor) -> Tensor:
    return replace(x, dims=tuple(reversed(x.dims)))


@row("unsqueeze")
def _unsqueeze(cx: Context, out: torch.dtype, x: Tensor, dim: int) -> Tensor:
    dim %= len(x.dims) + 1
    return replace(x, dims=(*x.dims[:dim], (), *x.dims[dim:]))


@row("squeeze")
def _squeeze(cx: Context, out: torch.dtype, x: Tensor, dim: Any = None) -> Tensor:
    dims = cx.dims(x, dim)
    return replace(x, dims=tuple(axes for d, axes in enumerate(x.dims) if axes or d not in dims))


@row("movedim", "moveaxis")
def _movedim(cx: Context, out: torch.dtype, x: Tensor, source: Any, to: Any) -> Tensor:
    rank = len(x.dims)
    pairs = [([d] if isinstance(d, int) else d) for d in (source, to)]
    at = dict(zip((d % rank for d in pairs[1]), (d % rank for d in pairs[0]), strict=True))
    rest = iter(d for d in range(rank) if d not in at.values())
    return replace(x, dims=tuple(x.dims[at[d] if d in at else next(rest)] for d in range(rank)))


@row("meshgrid")
def _meshgrid(
    cx: Context, out: torch.dtype, parts: list[Tensor], *_: Any, **kw: Any
) -> list[Tensor]:
    if kw.get("indexing", _[0] if _ else "ij") != "ij":
        raise NotSupported("meshgrid in the order xy")
    apart: list[Tensor] = []
    for p in parts:
        p = p if p.dims else replace(p, dims=((),))
        apart.append(cx.t.distinct(p, {a for q in apart for d in q.dims for a in d}))
    dims = tuple(p.dims[0] for p in apart)
    return [replace(p, dims=dims) for p in apart]


@row("expand", "expand_as", "broadcast_to")
def _expand(cx: Context, out: torch.dtype, x: Tensor, *_: Any, **__: Any) -> Tensor:
    shape = cx.result_shape
    dims = ((),) * (len(shape) - len(x.dims)) + x.dims
    return replace(
        x,
        dims=tuple(d if d or n == 1 else cx.fresh(n) for d, n in zip(dims, shape, strict=True)),
    )


@row("broadcast_tensors")
def _broadcast(cx: Context, out: torch.dtype, parts: list[Tensor]) -> list[Tensor]:
    shapes, whole = cx.result_shape, []
    for x, shape in zip(parts, shapes, strict=True):
        cx.result_shape = shape
        whole.append(_expand(cx, out, x))
    cx.result_shape = shapes
    return whole


@row("repeat", "tile")
def _repeat(cx: Context, out: torch.dtype, x: Tensor, times: list[int]) -> Tensor:
    times = [1] * (len(x.dims) - len(times)) + list(times)
    dims = ((),) * (len(times) - len(x.dims)) + x.dims
    return replace(x, dims=tuple((*cx.t.axis(n), *d) for n, d in zip(times, dims, strict=True)))


@row("repeat_interleave")
def _repeat_interleave(
    cx: Context, out: torch.dtype, x: Tensor, n: Any, dim: Any = None, **_: Any
) -> Tensor:
    if not isinstance(n, int) or dim is None:
        raise NotSupported("repeat_interleave by a tensor, or of a flattened tensor")
    dim %= len(x.dims)
    return replace(x, dims=(*x.dims[:dim], (*x.dims[dim], *cx.t.axis(n)), *x.dims[dim + 1 :]))


def take(cx: Context, x: Tensor, dim: int, start: int, step: int, length: int) -> Tensor:
    """``length`` elements of a dim from ``start`` in steps of ``step`` (possibly negative)."""
    dim %= len(x.dims)
    if not x.dims[dim]:
        return x
    n = cx.t.size(x.dims[dim])
    if (start, step, length) == (0, 1, n):
        return x
    if step == 1 and len(x.dims[dim]) > 1:
        # A slice on the boundary of the outermost factor keeps the factors.
        inner = cx.t.size(x.dims[dim][1:])
        if start % inner == 0 and length % inner == 0:
            outer = replace(
                x, dims=(*x.dims[:dim], x.dims[dim][:1], x.dims[dim][1:], *x.dims[dim + 1 :])
            )
            cut = take(cx, outer, dim, start // inner, 1, length // inner)
            return replace(
                cut, dims=(*cut.dims[:dim], cut.dims[dim] + cut.dims[dim + 1], *cut.dims[dim + 2 :])
            )
    fresh = cx.t.axis(length)
    terms = ((fresh[0], step),) if fresh else ()
    return cx.t.flatten_dim(x, dim, Index(terms, start), fresh)


@row("slice")
def _slice(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
) -> Tensor:
    dim %= len(x.dims)
    whole = start in (None, 0) and step == 1
    if whole and cx.result_shape[dim] == cx.shape_of(x)[dim]:
        return x
    n = cx.t.size(x.dims[dim])
    start, end, step = slice(start, end, step).indices(n)
    return take(cx, x, dim, start, step, cx.result_shape[dim])


@row("narrow")
def _narrow(cx: Context, out: torch.dtype, x: Tensor, dim: int, start: int, length: int) -> Tensor:
    return take(cx, x, dim, start % cx.t.size(x.dims[dim]), 1, length)


@row("select")
def _select(cx: Context, out: torch.dtype, x: Tensor, dim: int, at: int) -> Tensor:
    dim %= len(x.dims)
    n = cx.t.size(x.dims[dim])
    cut = take(cx, x, dim, at % n, 1, 1)
    return replace(cut, dims=(*cut.dims[:dim], *cut.dims[dim + 1 :]))


@row("flip")
def _flip(cx: Context, out: torch.dtype, x: Tensor, dims: list[int]) -> Tensor:
    for d in cx.dims(x, dims):
        n = cx.t.size(x.dims[d])
        x = take(cx, x, d, n - 1, -1, n)
    return x


@row("roll")
def _roll(cx: Context, out: torch.dtype, x: Tensor, shifts: Any, dims: Any = ()) -> Tensor:
    if not dims and dims != 0:
        flat = cx.t.reshape(x, (math.prod(cx.t.size(d) for d in x.dims),))
        return cx.t.reshape(_roll(cx, out, flat, shifts, 0), cx.result_shape)
    for s, d in zip(
        [shifts] if isinstance(shifts, int) else shifts,
        [dims] if isinstance(dims, int) else dims,
        strict=True,
    ):
        x = cx.t.single(x, d % len(x.dims))
        n = cx.t.size(x.dims[d])
        if n > 1:
            fresh = cx.t.axis(n)
            x = cx.t.flatten_dim(x, d % len(x.dims), Index(((fresh[0], 1),), -s % n, 1, n), fresh)
    return x


def _pieces(cx: Context, x: Tensor, dim: int, sizes: list[int]) -> list[Tensor]:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [take(cx, x, dim, s, 1, n) for s, n in zip(starts, sizes, strict=True)]


@row("split", "split_with_sizes", "chunk", "unsafe_chunk", "unsafe_split", "tensor_split")
def _split(cx: Context, out: torch.dtype, x: Tensor, sizes: Any, dim: int = 0) -> list[Tensor]:
    dim %= len(x.dims)
    return _pieces(cx, x, dim, [shape[dim] for shape in cx.result_shape])


@row("unbind")
def _unbind(cx: Context, out: torch.dtype, x: Tensor, dim: int = 0) -> list[Tensor]:
    return [_select(cx, out, x, dim, k) for k in range(cx.t.size(x.dims[dim]))]


@row("cat", "concat", "concatenate")
def _cat(cx: Context, out: torch.dtype, parts: list[Tensor], dim: int = 0) -> Tensor:
    parts = [cx.cast(p, out) for p in parts if p.dims]
    rank = len(parts[0].dims)
    dim %= rank
    sizes = [cx.t.size(p.dims[dim]) for p in parts]
    parts = [p for p, n in zip(parts, sizes, strict=True) if n]
    sizes = [n for n in sizes if n]
    if len(parts) == 1:
        return parts[0]
    fresh = cx.b.fresh_axis(sum(sizes))
    start, placed = 0, []
    for p, n in zip(parts, sizes, strict=True):
        p = cx.t.single(p, dim)
        placed.append(_window(cx, p, dim, fresh, start, n))
        start += n
    return _join(cx, placed, sizes, fresh, out)


def _window(cx: Context, p: Tensor, dim: int, fresh: Axis, start: int, n: int) -> Tensor:
    """A part of a concatenation read along the whole axis, clamped outside its own range."""
    if n == 1:
        return replace(p, dims=(*p.dims[:dim], (fresh,), *p.dims[dim + 1 :]))
    return cx.t.flatten_dim(p, dim, Index(((fresh, 1),), -start, 1, None, 0, n - 1), (fresh,))


def _join(
    cx: Context, placed: list[Tensor], sizes: list[int], fresh: Axis, out: torch.dtype
) -> Tensor:
    ts, dims = cx.t.broadcast(placed)
    at = cx.b.iota(next(a for d in dims for a in d if a == fresh))
    node, end = ts[-1].node, sum(sizes[:-1])
    for t, n in zip(reversed(ts[:-1]), reversed(sizes[:-1]), strict=True):
        inside = cx.b.map("lt", at, cx.b.const(end, "i64"))
        node = cx.b.map("where", inside, t.node, node, dtype=compute_name(out))
        end -= n
    return Tensor(node, dims, out)


@row("stack")
def _stack(cx: Context, out: torch.dtype, parts: list[Tensor], dim: int = 0) -> Tensor:
    dim %= len(parts[0].dims) + 1
    return _cat(cx, out, [_unsqueeze(cx, out, p, dim) for p in parts], dim)
