"""Rows of contractions and attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows_math import ROWS, row
from superopt.frontend.tensors import NotSupported, Tensor
from superopt.mugraph import ops
from superopt.mugraph.graph import Dims


def product(cx: Context, out: torch.dtype, x: Tensor, y: Tensor) -> Tensor:
    """``x[.., m, k] @ y[.., k, n]`` with broadcast batch dims (torch.matmul, every rank)."""
    if torch.float32 not in (out, torch.float32) and not out.is_floating_point:
        raise NotSupported("products of integer matrices")
    x, y = cx.cast(x, out), cx.cast(y, out)
    left, right = len(x.dims), len(y.dims)
    if left == 1:
        x = Tensor(x.node, ((), *x.dims), x.dtype)
    if right == 1:
        y = Tensor(y.node, (*y.dims, ()), y.dtype)
    batch = max(len(x.dims), len(y.dims)) - 2
    y = cx.t.distinct(y, {a for d in x.dims for a in d})
    meetings: list[list[int | None]] = [[-1 % len(x.dims), len(y.dims) - 2]]
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
    return cx.rounded(Tensor(node, tuple(dims), out))


@row("mm", "bmm", "matmul", "mv", "dot")
def _matmul(cx: Context, out: torch.dtype, x: Tensor, y: Tensor) -> Tensor:
    return product(cx, out, x, y)


@row("linear")
def _linear(
    cx: Context, out: torch.dtype, x: Tensor, w: Tensor, bias: Tensor | None = None
) -> Tensor:
    y = product(cx, out, x, Tensor(w.node, tuple(reversed(w.dims)), w.dtype))
    return y if bias is None else cx.elementwise("add", [y, bias], out, out)


@row("addmm", "baddbmm")
def _addmm(
    cx: Context, out: torch.dtype, c: Tensor, x: Tensor, y: Tensor, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    p = product(cx, out, x, y)
    if alpha != 1:
        p = cx.elementwise("mul", [p, float(alpha)], out, out)
    if beta != 1:
        c = cx.elementwise("mul", [c, float(beta)], out, out)
    return cx.elementwise("add", [c, p], out, out)


@row("einsum")
def _einsum(
    cx: Context, out: torch.dtype, equation: str, operands: list[Tensor], *_: Any, **__: Any
) -> Tensor:
    text = equation.replace(" ", "")
    ins, _, result = text.partition("->")
    names = ins.split(",")
    if "." in text:
        names, result = _ellipsis(
            names, result if "->" in text else None, [len(t.dims) for t in operands]
        )
    elif "->" not in text:
        letters = "".join(names)
        result = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    ts = [cx.cast(t, out) for t in operands]
    for t, name in zip(ts, names, strict=True):
        if len(set(name)) != len(name) or len(name) != len(t.dims):
            raise NotSupported("an einsum with a repeated letter in one operand")
    for k in range(1, len(ts)):
        ts[k] = cx.t.distinct(ts[k], {a for t in ts[:k] for d in t.dims for a in d})
    letters = sorted(set("".join(names)))
    meetings = [[name.index(c) if c in name else None for name in names] for c in letters]
    ts = cx.t.unify(ts, meetings)
    axes = {
        c: next((t.dims[d] for t, d in zip(ts, m, strict=True) if d is not None and t.dims[d]), ())
        for c, m in zip(letters, meetings, strict=True)
    }
    node = ts[0].node
    for t in ts[1:]:
        node = cx.b.map("mul", node, t.node)
    over = [a for c in letters if c not in result for a in axes[c]]
    return cx.rounded(Tensor(ops.total(cx.b, node, over), tuple(axes[c] for c in result), out))


def _ellipsis(names: list[str], result: str | None, ranks: list[int]) -> tuple[list[str], str]:
    """The equation with letters that do not occur in the place of its ellipses."""
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if all(c not in n for n in names)]
    most = max(
        r - len(n.replace("...", "")) for n, r in zip(names, ranks, strict=True) if "..." in n
    )
    dots = "".join(spare[:most])
    out = []
    for n, r in zip(names, ranks, strict=True):
        k = r - len(n.replace("...", ""))
        out.append(n.replace("...", dots[most - k :] if k else ""))
    if result is None:
        letters = "".join(n.replace("...", "") for n in names)
        result = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return out, result.replace("...", dots)


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
) -> Tensor:
    if dropout:
        raise NotSupported("dropout draws random numbers")
    q, k, v = (cx.cast(t, out) for t in (q, k, v))
    rank = len(q.dims)
    if rank < 2 or len(k.dims) != rank or len(v.dims) != rank:
        raise NotSupported("attention over tensors of different ranks")
    keys, groups = cx.t.size(k.dims[-2]), ()
    if enable_gqa and rank >= 3 and k.dims[-3] != q.dims[-3]:
        heads, shared = cx.t.size(q.dims[-3]), cx.t.size(k.dims[-3])
        if heads != shared:
            split = cx.t.reshape_dim(q, rank - 3, (shared, heads // shared))
            q, groups = split, split.dims[rank - 2]
            # The query group shares its keys and values: it becomes a dim of its own.
            k = Tensor(k.node, (*k.dims[:-2], (), *k.dims[-2:]), out)
            v = Tensor(v.node, (*v.dims[:-2], (), *v.dims[-2:]), out)
            rank += 1
    if keys == 1:
        raise NotSupported("attention over a single key")
    used = {a for d in q.dims for a in d}
    k = cx.t.distinct(k, used)
    v = cx.t.distinct(v, used | {a for d in k.dims for a in d})
    q, k = cx.t.single(q, rank - 1), cx.t.single(cx.t.single(k, rank - 1), rank - 2)
    v = cx.t.single(v, rank - 2)
    meetings: list[list[int | None]] = [[d, d, d] for d in range(rank - 2)]
    meetings += [[rank - 1, rank - 1, None], [None, rank - 2, rank - 2]]
    q, k, v = cx.t.unify([q, k, v], meetings)
    (inner,), (t,) = q.dims[-1], k.dims[-2]
    bias = allowed = below = None
    if causal:
        if not q.dims[-2]:
            below = cx.b.map("le", cx.b.iota(t), cx.b.const(0, "i64"))
        else:
            q = cx.t.single(q, rank - 2)
            below = cx.b.map("le", cx.b.iota(t), cx.b.iota(q.dims[-2][0]))
    if mask is not None:
        dims: Dims = mask.dims
        if groups and len(dims) >= 3:
            m = (
                cx.t.reshape_dim(
                    mask, len(dims) - 3, (cx.t.size(k.dims[-4] or q.dims[-4]), cx.t.size(groups))
                )
                if dims[-3]
                else Tensor(mask.node, (*dims[:-2], (), *dims[-2:]), mask.dtype)
            )
        else:
            m = mask
        scores = Tensor(q.node, (*q.dims[:-1], (t,)), out)
        pairs = [[rank - len(m.dims) + d, d] for d in range(len(m.dims))]
        m = cx.t.distinct(m, {a for d in scores.dims for a in d} | {inner})
        moved = cx.t.unify_to(scores.dims, m, pairs)
        if mask.dtype == torch.bool:
            allowed = moved.node
        else:
            bias = cx.cast(moved, out).node
    node = ops.attention(cx.b, q.node, k.node, v.node, inner, t, scale, below, allowed, bias)
    batch = [next((x.dims[d] for x in (q, k, v) if x.dims[d]), ()) for d in range(rank - 2)]
    dims = (*batch, q.dims[-2], v.dims[-1])
    if groups:
        dims = (*dims[: rank - 4], dims[rank - 4] + dims[rank - 3], *dims[rank - 2 :])
    return cx.rounded(Tensor(node, dims, out))


@row("cross_entropy_loss")
def _refuse(cx: Context, *_: Any) -> Tensor:
    raise NotSupported("cross_entropy_loss; write it with log_softmax and gather")


ROWS["outer"] = lambda cx, out, x, y: cx.elementwise(
    "mul", [Tensor(x.node, (x.dims[0], ()), x.dtype), y], out, out
)

EPSILON = math.ulp(1.0)
