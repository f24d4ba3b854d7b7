"""Rows of operators that know positions: ranges, masks, fills, reads and writes at indices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows import ROWS, row
from superopt.frontend.rows_layout import take
from superopt.frontend.tensors import NotSupported, Tensor, compute_name
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Index


def position(cx: Context, dim: tuple[Axis, ...]) -> int:
    """The index along a dimension of at most one axis, as an i64 node."""
    return cx.b.iota(dim[0]) if dim else cx.b.const(0, "i64")


def _plus(cx: Context, node: int, n: int) -> int:
    return cx.b.map("add", node, cx.b.const(n, "i64")) if n else node


@row("arange")
def _arange(cx: Context, out: torch.dtype, *args: Any, **_: Any) -> Tensor:
    start, _end, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
    if not all(isinstance(v, int) for v in (start, step)):
        raise NotSupported("arange of floats")
    axes = cx.fresh(cx.result_shape[0])
    node = position(cx, axes)
    if step != 1:
        node = cx.b.map("mul", node, cx.b.const(step, "i64"))
    node = _plus(cx, node, start)
    if compute_name(out) != "i64":
        node = cx.b.map("cast", node, dtype=compute_name(out))
    return Tensor(node, (axes,), out)


_FILLS = {"zeros": 0, "ones": 1}


@row(
    "full",
    "zeros",
    "ones",
    "scalar_tensor",
    "full_like",
    "zeros_like",
    "ones_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "fill",
)
def _full(cx: Context, out: torch.dtype, *args: Any, **_: Any) -> Tensor:
    value: Any = _FILLS.get(cx.name.replace("_like", "").replace("new_", ""))
    value = args[-1] if value is None else value
    if isinstance(value, Tensor):
        if value.dims:
            raise NotSupported("a fill with more than one value")
        filled = cx.cast(value, out)
    elif isinstance(value, int | float):
        filled = cx.value(bool(value) if out == torch.bool else value, out)
    else:
        raise NotSupported(f"a fill with a {type(value).__name__}")
    return replace(filled, dims=tuple(cx.fresh(n) for n in cx.result_shape))


@row("eye")
def _eye(cx: Context, out: torch.dtype, *_: Any, **__: Any) -> Tensor:
    rows, columns = (cx.fresh(n) for n in cx.result_shape)
    same = cx.b.map("eq", position(cx, rows), position(cx, columns))
    return cx.cast(Tensor(same, (rows, columns), torch.bool), out)


def _triangle(upper: bool) -> Callable[..., Tensor]:
    def convert(cx: Context, out: torch.dtype, x: Tensor, diagonal: int = 0) -> Tensor:
        rank = len(x.dims)
        x = cx.t.single(cx.t.single(x, rank - 2), rank - 1)
        i, j = position(cx, x.dims[-2]), position(cx, x.dims[-1])
        edge = _plus(cx, i, diagonal)
        keep = cx.b.map("le", edge, j) if upper else cx.b.map("le", j, edge)
        zero = cx.value(False if out == torch.bool else 0, out)
        node = cx.b.map("where", keep, x.node, zero.node, dtype=compute_name(out))
        return replace(x, node=node)

    return convert


ROWS["triu"], ROWS["tril"] = _triangle(True), _triangle(False)


@row("diagonal")
def _diagonal(
    cx: Context, out: torch.dtype, x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    rank = len(x.dims)
    dim1, dim2 = dim1 % rank, dim2 % rank
    length = cx.t.size(cx.fresh(cx.result_shape[-1]))
    x = take(cx, x, dim1, max(-offset, 0), 1, length)
    x = take(cx, x, dim2, max(offset, 0), 1, length)
    # The diagonal becomes the last dim, as in PyTorch.
    order = [*(d for d in range(rank) if d not in (dim1, dim2)), dim1, dim2]
    return cx.t.diagonal(replace(x, dims=tuple(x.dims[d] for d in order)), rank - 2, rank - 1)


@row("constant_pad_nd", "pad")
def _pad(
    cx: Context, out: torch.dtype, x: Tensor, widths: list[int], *args: Any, **kw: Any
) -> Tensor:
    mode = args[0] if args and isinstance(args[0], str) else kw.get("mode", "constant")
    if mode != "constant":
        raise NotSupported(f"padding by {mode}")
    value = args[-1] if args and not isinstance(args[-1], str) else kw.get("value", 0)
    value = cx.value(0 if value is None else value, out)
    for k in range(len(widths) // 2):
        before, after = widths[2 * k], widths[2 * k + 1]
        dim = len(x.dims) - 1 - k
        n = cx.t.size(x.dims[dim])
        low, high = max(-before, 0), max(-after, 0)
        x = take(cx, x, dim, low, 1, n - low - high)
        n, before, after = n - low - high, max(before, 0), max(after, 0)
        if before or after:
            x = _window(cx, out, x, value, dim, n + before + after, before, before + n, 1)
    return x


def _window(
    cx: Context,
    out: torch.dtype,
    inner: Tensor,
    outer: Tensor,
    dim: int,
    size: int,
    start: int,
    end: int,
    step: int,
) -> Tensor:
    """``inner`` at positions start, start + step, ... before end of a dim, ``outer`` elsewhere."""
    fresh = cx.t.axis(size)
    inner = cx.t.single(inner, dim)
    n = cx.t.size(inner.dims[dim])
    if not fresh:
        return inner
    if n > 1:
        at = Index(((fresh[0], 1),), -start, step, None, 0, n - 1)
        inner = cx.t.flatten_dim(inner, dim, at, fresh)
    else:
        inner = replace(inner, dims=(*inner.dims[:dim], fresh, *inner.dims[dim + 1 :]))
    p = position(cx, fresh)
    tests = []
    if start > 0:
        tests.append(cx.b.map("le", cx.b.const(start, "i64"), p))
    if end < size:
        tests.append(cx.b.map("lt", p, cx.b.const(end, "i64")))
    if step > 1:
        phase = cx.b.map("mod", _plus(cx, p, -start), cx.b.const(step, "i64"))
        tests.append(cx.b.map("eq", phase, cx.b.const(0, "i64")))
    if not tests:
        return inner
    inside = tests[0]
    for test in tests[1:]:
        inside = cx.b.map("and", inside, test)
    dims = tuple(fresh if d == dim else () for d in range(len(inner.dims)))
    return cx.where(Tensor(inside, dims, torch.bool), inner, outer, out)


@row("slice_scatter")
def _slice_scatter(
    cx: Context,
    out: torch.dtype,
    x: Tensor,
    src: Tensor,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
) -> Tensor:
    dim %= len(x.dims)
    x = cx.t.single(x, dim)
    n = cx.t.size(x.dims[dim])
    start, end, step = slice(start, end, step).indices(n)
    return _window(cx, out, cx.cast(src, out), x, dim, n, start, max(end, start), step)


@row("select_scatter")
def _select_scatter(
    cx: Context, out: torch.dtype, x: Tensor, src: Tensor, dim: int, at: int
) -> Tensor:
    dim %= len(x.dims)
    x = cx.t.single(x, dim)
    n = cx.t.size(x.dims[dim])
    at %= n
    src = replace(src, dims=(*src.dims[:dim], (), *src.dims[dim:]))
    return _window(cx, out, cx.cast(src, out), x, dim, n, at, at + 1, 1)


@row("copy")
def _copy(cx: Context, out: torch.dtype, x: Tensor, src: Tensor, *_: Any) -> Tensor:
    src = cx.cast(src, out)
    missing = len(cx.result_shape) - len(src.dims)
    dims = ((),) * missing + src.dims
    shape = cx.result_shape
    spread = tuple(d if d or n == 1 else cx.fresh(n) for d, n in zip(dims, shape, strict=True))
    return replace(src, dims=spread)


# -- reads at run-time indices ---------------------------------------------------------------------


@row("embedding")
def _embedding(cx: Context, out: torch.dtype, table: Tensor, at: Tensor, *_: Any) -> Tensor:
    return _pick(cx, table, 0, at)


@row("index_select")
def _index_select(cx: Context, out: torch.dtype, x: Tensor, dim: int, at: Tensor) -> Tensor:
    at = at if at.dims else replace(at, dims=((),))
    return _pick(cx, x, dim % len(x.dims), at)


def _pick(cx: Context, x: Tensor, dim: int, at: Tensor) -> Tensor:
    """The dim read at an index tensor, whose dims take its place."""
    return _read(cx, x, [dim], [at])


def _read(cx: Context, x: Tensor, where: list[int], at: list[Tensor]) -> Tensor:
    """Some dims read at index tensors that are broadcast together; their dims come in one place.

    That place is the first of the dims when these are neighbours, else the front (as in PyTorch).
    """
    for d in where:
        x = cx.t.single(x, d)
    used = {a for d in x.dims for a in d}
    at, dims = cx.t.broadcast([cx.t.distinct(t, used) for t in at])
    node = x.node
    for d, t in zip(where, at, strict=True):
        if not x.dims[d] or x.dims[d][0] not in cx.b.axes(node):
            raise NotSupported("an index into a dimension of one element is not looked at")
        node = cx.b.gather(node, x.dims[d][0], t.node)
    first = where[0] if where == list(range(where[0], where[-1] + 1)) else 0
    rest = [dim for d, dim in enumerate(x.dims) if d not in where]
    return replace(x, node=node, dims=(*rest[:first], *dims, *rest[first:]))


@row("index", "_unsafe_index")
def _index(cx: Context, out: torch.dtype, x: Tensor, indices: list[Any]) -> Tensor:
    where = [d for d, t in enumerate(indices) if t is not None]
    at = []
    for d in where:
        t = indices[d]
        if t.dtype in (torch.bool, torch.uint8):
            raise NotSupported("a boolean index gives a size that depends on data")
        t = cx.cast(t, torch.int64)
        n = cx.t.size(x.dims[d])
        below = cx.apply("lt", [t, 0], torch.bool, torch.int64)
        wrapped = cx.apply("add", [t, n], torch.int64, torch.int64)
        at.append(cx.where(below, wrapped, t, torch.int64))
    return _read(cx, x, where, at)


@row("take")
def _take(cx: Context, out: torch.dtype, x: Tensor, at: Tensor) -> Tensor:
    flat = cx.t.reshape(x, (math.prod(cx.t.size(d) for d in x.dims),))
    return _index(cx, out, flat, [at])


@row("take_along_dim")
def _take_along_dim(
    cx: Context, out: torch.dtype, x: Tensor, at: Tensor, dim: int | None = None
) -> Tensor:
    if dim is None:
        flat = [cx.t.reshape(t, (math.prod(cx.t.size(d) for d in t.dims),)) for t in (x, at)]
        return _pick(cx, flat[0], 0, flat[1])
    dim %= len(x.dims)
    # Beside that dim the two are broadcast together; a gather would read a part of the first.
    wide = [
        d if d or k == dim or not x.dims[k] else cx.fresh(cx.t.size(x.dims[k]))
        for k, d in enumerate(at.dims)
    ]
    return _gather(cx, out, x, dim, replace(at, dims=tuple(wide)))


@row("gather")
def _gather(
    cx: Context, out: torch.dtype, x: Tensor, dim: int, at: Tensor, sparse_grad: bool = False
) -> Tensor:
    rank = len(x.dims)
    if rank == 0:
        return x
    dim %= rank
    for d in range(rank):
        if d != dim and cx.t.size(at.dims[d]) < cx.t.size(x.dims[d]):
            x = take(cx, x, d, 0, 1, cx.t.size(at.dims[d]))
    x, at = cx.t.single(x, dim), cx.t.single(at, dim)
    at = cx.t.distinct(at, {a for d in x.dims for a in d})
    x, at = cx.t.unify([x, at], [[d, d] for d in range(rank) if d != dim])
    along = x.dims[dim]
    if not along or along[0] not in cx.b.axes(x.node):
        raise NotSupported("an index into a dimension of one element is not looked at")
    return replace(x, node=cx.b.gather(x.node, along[0], at.node), dims=at.dims)
