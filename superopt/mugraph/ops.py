"""The tensor-operator table: composites as rows, each written once over maps, reductions and views.

A row gives a name, its signature in index notation and the builder of its meaning; every other
meaning (field, abstract term, code) follows from the nodes it builds. A mean's 1/n and attention's
1/sqrt(d) are written with ``size_of``, so that they stay right at any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder


@dataclass(frozen=True, slots=True)
class TensorOp:
    """One row: its name, its signature (``o[..] = ...``), and what builds it."""

    name: str
    signature: str
    build: Callable[..., int]


def contract(b: Builder, x: int, y: int, over: Sequence[Axis]) -> int:
    """``o = sum(over) x * y``; an axis that neither factor has multiplies by its size."""
    return total(b, b.map("mul", x, y), over)


def total(b: Builder, x: int, over: Sequence[Axis]) -> int:
    """``o = sum(over) x``."""
    out = b.reduce("add", x, [a for a in over if a in b.axes(x)])
    for a in over:
        if a not in b.axes(x):
            out = b.map("mul", out, b.size_of(a, b.dtype(out)))
    return out


def count(b: Builder, over: Sequence[Axis], dtype: str) -> int:
    """The number of elements along several axes, as a scalar."""
    out = None
    for a in over:
        n = b.size_of(a, dtype)
        out = n if out is None else b.map("mul", out, n)
    return b.const(1.0, dtype) if out is None else out


def mean(b: Builder, x: int, over: Sequence[Axis]) -> int:
    """``o = sum(over) x / |over|``."""
    over = [a for a in over if a in b.axes(x)]
    return b.map("div", b.reduce("add", x, over), count(b, over, b.dtype(x))) if over else x


def var(b: Builder, x: int, over: Sequence[Axis], correction: float = 1.0) -> int:
    """``o = sum(over) (x - mean x)^2 / (|over| - correction)``."""
    d = b.map("sub", x, mean(b, x, over))
    n = count(b, over, b.dtype(x))
    if correction:
        n = b.map("sub", n, b.const(float(correction), b.dtype(x)))
    return b.map("div", total(b, b.map("mul", d, d), over), n)


def extreme(b: Builder, x: int, over: Sequence[Axis], op: str = "max") -> int:
    """``o = max(over) x`` (or min)."""
    return b.reduce(op, x, [a for a in over if a in b.axes(x)])


def softmax(b: Builder, x: int, over: Sequence[Axis]) -> int:
    """``o = exp(x - max(over) x) / sum(over) exp(x - max(over) x)``."""
    e = b.map("exp", b.map("sub", x, extreme(b, x, over)))
    return b.map("div", e, total(b, e, over))


def logsumexp(b: Builder, x: int, over: Sequence[Axis]) -> int:
    """``o = max(over) x + log sum(over) exp(x - max(over) x)``."""
    m = extreme(b, x, over)
    out = b.map("add", m, b.map("log", total(b, b.map("exp", b.map("sub", x, m)), over)))
    # An infinite maximum is the result, as in PyTorch, where inf - inf would give NaN.
    ends = b.map("eq", b.map("abs", m), b.const(float("inf"), b.dtype(x)))
    return b.map("where", ends, m, out, dtype=b.dtype(x))


def log_softmax(b: Builder, x: int, over: Sequence[Axis]) -> int:
    """``o = (x - m) - log sum(over) exp(x - m)``, m the maximum."""
    d = b.map("sub", x, extreme(b, x, over))
    return b.map("sub", d, b.map("log", total(b, b.map("exp", d), over)))


def rms_norm(b: Builder, x: int, over: Sequence[Axis], eps: float, gain: int | None = None) -> int:
    """``o = x * rsqrt(mean(over) x^2 + eps) * gain``."""
    root = b.map("rsqrt", b.map("add", mean(b, b.map("mul", x, x), over), b.const(eps, b.dtype(x))))
    out = b.map("mul", x, root)
    return out if gain is None else b.map("mul", out, gain)


def layer_norm(
    b: Builder,
    x: int,
    over: Sequence[Axis],
    eps: float,
    gain: int | None = None,
    bias: int | None = None,
) -> int:
    """``o = (x - mean x) * rsqrt(var x + eps) * gain + bias``."""
    d = b.map("sub", x, mean(b, x, over))
    v = mean(b, b.map("mul", d, d), over)
    out = b.map("mul", d, b.map("rsqrt", b.map("add", v, b.const(eps, b.dtype(x)))))
    if gain is not None:
        out = b.map("mul", out, gain)
    return out if bias is None else b.map("add", out, bias)


def attention(
    b: Builder,
    q: int,
    k: int,
    v: int,
    inner: Axis | None,
    keys: Axis | None,
    scale: float | None,
    causal: int | None = None,
    mask: int | None = None,
    bias: int | None = None,
) -> int:
    """``o[..,s,e] = sum(t) softmax_t(scale * sum(d) q[..,s,d] k[..,t,d] + bias) v[..,t,e]``.

    inner and keys are None where that dimension has one element; scale None is 1/sqrt(|inner|).
    causal and mask are booleans (True: the query may see the key), bias is added to the scores.
    """
    dtype = b.dtype(q)
    s = contract(b, q, k, [] if inner is None else [inner])
    if scale is not None:
        s = b.map("mul", s, b.const(scale, dtype))
    elif inner is not None:
        s = b.map("mul", s, b.map("rsqrt", b.size_of(inner, dtype)))
    if bias is not None:
        s = b.map("add", s, bias)
    for allowed in (causal, mask):
        if allowed is not None:
            s = b.map("where", allowed, s, b.const(float("-inf"), dtype), dtype=dtype)
    over = [] if keys is None else [keys]
    m = extreme(b, s, over)
    e = b.map("exp", b.map("sub", s, m))
    out = b.map("div", contract(b, e, v, over), total(b, e, over))
    if mask is None and bias is None:
        return out
    # A query that may see no key at all gives zeros, as in PyTorch, not 0/0.
    dead = b.map("eq", m, b.const(float("-inf"), dtype))
    return b.map("where", dead, b.const(0.0, dtype), out, dtype=dtype)


TENSOR_OPS: dict[str, TensorOp] = {
    row.name: row
    for row in (
        TensorOp("contract", "o[m..,n..] = sum(k..) x[m..,k..] * y[k..,n..]", contract),
        TensorOp("sum", "o[i..] = sum(k..) x[i..,k..]", total),
        TensorOp("mean", "o[i..] = sum(k..) x[i..,k..] / |k..|", mean),
        TensorOp("var", "o[i..] = sum(k..) (x - mean x)^2 / (|k..| - c)", var),
        TensorOp("extreme", "o[i..] = max(k..) x[i..,k..]", extreme),
        TensorOp("softmax", "o[i..,k] = exp(x - m[i..]) / sum(k) exp(x - m[i..])", softmax),
        TensorOp("logsumexp", "o[i..] = m[i..] + log sum(k) exp(x - m[i..])", logsumexp),
        TensorOp("log_softmax", "o[i..,k] = x - m - log sum(k) exp(x - m)", log_softmax),
        TensorOp("rms_norm", "o[i..,k] = x * rsqrt(mean(k) x^2 + eps) * g[k]", rms_norm),
        TensorOp(
            "layer_norm", "o[i..,k] = (x - mean x) * rsqrt(var x + eps) * g[k] + c[k]", layer_norm
        ),
        TensorOp(
            "attention", "o[..,s,e] = sum(t) softmax(t)(q[..,s,d] k[..,t,d]) v[..,t,e]", attention
        ),
    )
}
