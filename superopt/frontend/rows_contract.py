"""Rows of contractions: products of matrices, einsum, and attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows import row
from superopt.frontend.tensors import NotSupported, Tensor, floating
from superopt.mugraph import ops
from superopt.mugraph.graph import Dims

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def product(cx: Context, out: torch.dtype, x: Tensor, y: Tensor) -> Tensor:
    """``x[.., m, k] @ y[.., k, n]`` with broadcast batch dims (torch.matmul, every rank), unrounded."""
    if not floating(out):
        raise NotSupported("products of integer matrices")
    x, y = cx.cast(x, out), cx.cast(y, out)
    left, right = len(x.dims), len(y.dims)
    if left == 1:
        x = replace(x, dims=((), *x.dims))
    if right == 1:
        y = replace(y, dims=(*y.dims, ()))
    batch = max(len(x.dims), len(y.dims)) - 2
    y = cx.t.distinct(y, {a for d in x.dims for a in d})
    meetings: list[list[int | None]] = [[len(x.dims) - 1, len(y.dims) - 2]]
    for d in range(batch):
        at = [d - (batch + 2 - len(t.dims)) for t in (x, y)]
        meetings.append([a if a >= 0 else None for a in at])
    x, y = cx.t.unify([x, y], meetings)
    dims: list[Any] = []
    for meeting in meetings[1:]:
        own = [t.dims[d] for t, d in zip((x, y), meeting, strict=True) if d is not None]
        dims.append(next((d for d in own if d), ()))
    over = list(dict.fromkeys([*x.dims[-1], *y.dims[-2]]))
    node = ops.contract(cx.b, x.node, y.node, over)
    if left > 1:
        dims.append(x.dims[-2])
    if right > 1:
        dims.append(y.dims[-1])
    return Tensor(node, tuple(dims), out)


@row("mm", "bmm", "matmul", "mv", "dot", "vdot", "inner", "linalg_vecdot", "__matmul__")
def _matmul(cx: Context, out: torch.dtype, x: Tensor, y: Tensor) -> Tensor:
    if cx.name == "inner" and len(y.dims) > 1:
        raise NotSupported("an inner product of matrices")
    return cx.rounded(product(cx, out, x, y))


@row("linear")
def _linear(
    cx: Context, out: torch.dtype, x: Tensor, w: Tensor, bias: Tensor | None = None
) -> Tensor:
    y = product(cx, out, x, replace(w, dims=tuple(reversed(w.dims))))
    return cx.rounded(y if bias is None else cx.apply("add", [y, bias], out, out))


@row("addmm", "baddbmm", "addmv", "addbmm")
def _addmm(
    cx: Context, out: torch.dtype, c: Tensor, x: Tensor, y: Tensor, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    if cx.name == "addbmm":
        raise NotSupported("a product summed over its batch")
    p = product(cx, out, x, y)
    if alpha != 1:
        p = cx.apply("mul", [p, float(alpha)], out, out)
    if beta == 0:  # the addend is not even read
        return cx.rounded(p)
    if beta != 1:
        c = cx.apply("mul", [c, float(beta)], out, out)
    return cx.rounded(cx.apply("add", [c, p], out, out))


@row("outer", "ger")
def _outer(cx: Context, out: torch.dtype, x: Tensor, y: Tensor) -> Tensor:
    y = cx.t.distinct(y, {a for d in x.dims for a in d})
    return cx.elementwise("mul", [replace(x, dims=(x.dims[0], ())), y], out, out)


# -- einsum ----------------------------------------------------------------------------------------


@row("einsum")
def _einsum(
    cx: Context, out: torch.dtype, equation: str, operands: list[Tensor], *_: Any, **__: Any
) -> Tensor:
    if not floating(out):
        raise NotSupported("products of integers")
    names, result = spelled(equation, [len(t.dims) for t in operands])
    ts: list[Tensor] = []
    for k, (t, name) in enumerate(zip(operands, names, strict=True)):
        t, names[k] = _diagonals(cx, cx.cast(t, out), name)
        ts.append(cx.t.distinct(t, {a for u in ts for d in u.dims for a in d}))
    letters = list(dict.fromkeys("".join(names)))
    meetings = [[name.index(c) if c in name else None for name in names] for c in letters]
    ts = cx.t.unify(ts, meetings)
    axes: dict[str, Any] = {
        c: next((t.dims[d] for t, d in zip(ts, m, strict=True) if d is not None and t.dims[d]), ())
        for c, m in zip(letters, meetings, strict=True)
    }
    node = ts[0].node
    for t in ts[1:]:
        node = cx.b.map("mul", node, t.node)
    over = [a for c in letters if c not in result for a in axes[c]]
    return cx.rounded(Tensor(ops.total(cx.b, node, over), tuple(axes[c] for c in result), out))


def spelled(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """An equation's operands and result, letter by letter, with letters in place of ellipses."""
    text = equation.replace(" ", "")
    left, arrow, result = text.partition("->")
    names = left.split(",")
    spare = [c for c in _LETTERS if c not in text]
    dots = {
        k: r - len(n.replace("...", "")) for k, (n, r) in enumerate(zip(names, ranks, strict=True))
    }
    most = max((dots[k] for k, n in enumerate(names) if "..." in n), default=0)
    stand = "".join(spare[:most])
    for k, n in enumerate(names):
        if "..." in n:
            names[k] = n.replace("...", stand[most - dots[k] :])
        elif len(n) != ranks[k]:
            raise NotSupported("an einsum whose letters do not fit an operand")
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        result = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return names, result.replace("...", stand)


def _diagonals(cx: Context, t: Tensor, name: str) -> tuple[Tensor, str]:
    """Repeated letters of one operand read its diagonal; each letter is left once."""
    for c in dict.fromkeys(name):
        first = name.index(c)
        while (again := name.find(c, first + 1)) >= 0:
            t = cx.t.diagonal(t, first, again)
            name = name[:again] + name[again + 1 :]
    return t, name


# -- attention -------------------------------------------------------------------------------------


@row("scaled_dot_product_attention")
def _attention(
    cx: Context,
    out: torch.dtype,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    **kw: Any,
) -> Tensor:
    mask, dropout = kw.get("attn_mask", mask), kw.get("dropout_p", dropout)
    causal = kw.get("is_causal", causal)
    if dropout:
        raise NotSupported("dropout draws random numbers")
    q, k, v = (cx.cast(t, out) for t in (q, k, v))
    rank = len(q.dims)
    if rank < 2 or len(k.dims) != rank or len(v.dims) != rank:
        raise NotSupported("attention over tensors of different ranks")
    q, k, v, mask, groups = _grouped(cx, q, k, v, mask) if enable_gqa else (q, k, v, mask, False)
    rank = len(q.dims)
    q, k, v = _aligned(cx, q, k, v)
    (queries,), (keys,) = (q.dims[-2] or (None,)), (k.dims[-2] or (None,))
    inner = q.dims[-1][0] if q.dims[-1] else None
    bias = allowed = below = None
    if causal and keys is not None:
        row_number = cx.b.const(0, "i64") if queries is None else cx.b.iota(queries)
        below = cx.b.map("le", cx.b.iota(keys), row_number)
    if mask is not None:
        batch = _batch(rank, q, k, v)
        m = cx.t.single(cx.t.single(mask, -1 % len(mask.dims)), max(len(mask.dims) - 2, 0))
        m = cx.t.distinct(m, {a for t in (q, k, v) for d in t.dims for a in d})
        scores: Dims = (*batch, q.dims[-2], k.dims[-2])
        m = cx.t.unify_to(scores, m)
        if mask.dtype == torch.bool:
            allowed = m.node
        else:
            bias = cx.cast(m, out).node
    node = ops.attention(cx.b, q.node, k.node, v.node, inner, keys, scale, below, allowed, bias)
    dims: Dims = (*_batch(rank, q, k, v), q.dims[-2], v.dims[-1])
    if groups:
        dims = (*dims[: rank - 4], dims[rank - 4] + dims[rank - 3], *dims[rank - 2 :])
    return cx.rounded(Tensor(node, dims, out))


def _grouped(
    cx: Context, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, bool]:
    """Query heads split into (head of the keys, group); keys and values get a group dim of size 1."""
    rank = len(q.dims)
    if rank < 3:
        raise NotSupported("grouped attention without a dimension of heads")
    heads, shared = cx.t.size(q.dims[-3]), cx.t.size(k.dims[-3])
    if heads == shared:
        return q, k, v, mask, False
    sizes = (shared, heads // shared)
    q = cx.t.reshape_dim(q, rank - 3, sizes)
    k, v = (replace(t, dims=(*t.dims[:-2], (), *t.dims[-2:])) for t in (k, v))
    if mask is not None and len(mask.dims) >= 3:
        if mask.dims[-3]:
            mask = cx.t.reshape_dim(mask, len(mask.dims) - 3, sizes)
        else:
            mask = replace(mask, dims=(*mask.dims[:-2], (), *mask.dims[-2:]))
    return q, k, v, mask, True


def _aligned(cx: Context, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three with common batch, inner and key axes, each of the last two dims one axis."""
    rank = len(q.dims)
    used = {a for d in q.dims for a in d}
    k = cx.t.distinct(k, used)
    v = cx.t.distinct(v, used | {a for d in k.dims for a in d})
    q = cx.t.single(cx.t.single(q, rank - 1), rank - 2)
    k = cx.t.single(cx.t.single(k, rank - 1), rank - 2)
    v = cx.t.single(v, rank - 2)
    meetings: list[list[int | None]] = [[d, d, d] for d in range(rank - 2)]
    meetings += [[rank - 1, rank - 1, None], [None, rank - 2, rank - 2]]
    q, k, v = cx.t.unify([q, k, v], meetings)
    return q, k, v


def _batch(rank: int, *ts: Tensor) -> Dims:
    return tuple(next((t.dims[d] for t in ts if t.dims[d]), ()) for d in range(rank - 2))
