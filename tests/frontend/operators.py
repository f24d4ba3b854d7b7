"""The operators of random programs: each family draws one step on a value, or None if none fits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from tests.frontend.test_programs import Maker

Tensor = torch.Tensor


@dataclass(frozen=True)
class Step:
    """One operator on earlier values; ``cast`` is the target of a conversion."""

    text: str
    fn: Callable[..., Any]
    args: tuple[int, ...]
    cast: torch.dtype | None = None
    exact: bool = False  # moves elements, and makes no new ones

    def __call__(self, values: Sequence[Tensor], wide: bool) -> list[Tensor]:
        xs = [values[k] for k in self.args]
        if self.cast is not None:
            wider = torch.float64 if wide and self.cast.is_floating_point else self.cast
            return [xs[0].to(wider)]
        out = self.fn(*xs)
        return list(out) if isinstance(out, list | tuple) else [out]


Family = Callable[["Maker", int], "Step | None"]
FAMILIES: dict[str, Family] = {}


def family(fn: Family) -> Family:
    """Registers a family under the name of its function."""
    FAMILIES[fn.__name__] = fn
    return fn


def step(
    text: str,
    fn: Callable[..., Any],
    *args: int,
    cast: torch.dtype | None = None,
    exact: bool = False,
) -> Step:
    """A step of a program."""
    return Step(text, fn, args, cast, exact)


def named(module: Any, names: str) -> dict[str, Callable[..., Any]]:
    """Functions of a module by their names."""
    return {name: getattr(module, name) for name in names.split()}


SMOOTH: dict[str, Callable[..., Any]] = {
    **named(torch, "neg abs relu square sigmoid tanh exp expm1 exp2 sin cos erf cosh"),
    **named(F, "silu gelu softplus elu selu hardtanh hardswish hardsigmoid relu6 mish"),
    **named(F, "logsigmoid softsign"),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.25),
    "clamp": lambda x: x.clamp(-1, 0.5),
    "clamp_min": lambda x: x.clamp(min=0.25),
    "clamp_max": lambda x: x.clamp(max=0.25),
    "add number": lambda x: x + 1.5,
    "rsub": lambda x: 2 - x,
    "mul number": lambda x: 0.75 * x,
    "div number": lambda x: x / 4,
    "pow 2": lambda x: x**2,
    "pow 3": lambda x: x**3,
    "pow 0": lambda x: x**0,
}

SINGULAR: dict[str, Callable[..., Any]] = {
    "reciprocal": torch.reciprocal,
    "log": torch.log,
    "log2": torch.log2,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sign": torch.sign,
    "pow -1": lambda x: x**-1,
    "pow -2": lambda x: x**-2,
    "pow half": lambda x: x**0.5,
    "number / x": lambda x: 2 / x,
}


@family
def unary(m: Maker, k: int) -> Step | None:
    name = m.pick([*SMOOTH, *SINGULAR])
    if name in SINGULAR and not m.clear(k, 0.0):
        return None
    return step(name, SMOOTH.get(name) or SINGULAR[name], k)


BINARY: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "sub alpha": lambda x, y: torch.sub(x, y, alpha=2),
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
    "lerp": lambda x, y: torch.lerp(x, y.to(x.dtype), 0.25),
}


PAIRS: dict[str, Callable[..., Any]] = {
    "x * x pairs": lambda x: x[:, None] * x,
    "x - x pairs": lambda x: x[None] - x.unsqueeze(-1),
    "x + x.mT": lambda x: x + x.mT,
    "x.mT * row": lambda x: x.mT * x[..., :1, :],
}


@family
def binary(m: Maker, k: int) -> Step | None:
    name = m.pick([*BINARY, *PAIRS])
    if name in PAIRS:
        return step(name, PAIRS[name], k)
    other = m.other(lambda y: _broadcast(m.values[k], y))
    if other is None or (name == "div" and not m.clear(other, 0.0)):
        return None
    return step(
        name, BINARY[name], *((other, k) if m.pick([0, 1]) and name != "div" else (k, other))
    )


def _broadcast(x: Tensor, y: Tensor) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(x.shape[::-1], y.shape[::-1], strict=False))


def _dims(m: Maker, k: int) -> Any:
    """None, one dim or several, counted from either end."""
    rank = m.values[k].dim()
    dims = [d for d in range(rank) if m.pick([0, 1])]
    if not dims:
        return m.pick([None, -1] if rank else [None])
    if len(dims) == 1 and m.pick([0, 1]):
        return dims[0] - rank
    return dims


@family
def reduction(m: Maker, k: int) -> Step | None:
    x, dim, keep = m.values[k], _dims(m, k), m.pick([False, True])
    every = list(range(x.dim())) if dim is None else dim
    options: dict[str, Callable[..., Any]] = {
        "sum": lambda x: x.sum(dim, keepdim=keep),
        "sum wide": lambda x: x.sum(dim, keepdim=keep, dtype=x.dtype),
        "mean": lambda x: x.mean(dim, keepdim=keep),
        "amax": lambda x: x.amax(every, keepdim=keep),
        "amin": lambda x: x.amin(every, keepdim=keep),
        "var": lambda x: x.var(dim, correction=0, keepdim=keep),
        "var 1": lambda x: x.var(dim, keepdim=keep),
        "logsumexp": lambda x: x.logsumexp(every, keepdim=keep),
        "norm 1": lambda x: torch.linalg.vector_norm(x, 1, dim, keepdim=keep),
        "norm inf": lambda x: torch.linalg.vector_norm(x, float("inf"), dim, keepdim=keep),
        "max": lambda x: x.max(),
        "min": lambda x: x.min(),
    }
    name = m.pick(list(options))
    return step(f"{name} {dim} keep {keep}", options[name], k)


@family
def softmax(m: Maker, k: int) -> Step | None:
    dim = m.pick(range(-max(m.values[k].dim(), 1), max(m.values[k].dim(), 1)))
    name = m.pick(["softmax", "log_softmax"])
    return step(f"{name} {dim}", functools.partial(getattr(torch, name), dim=dim), k)


@family
def norm(m: Maker, k: int) -> Step | None:
    x = m.values[k]
    count = m.pick([1, 1, 2])
    if x.dim() < count or x.numel() == 0:
        return None
    over = list(range(x.dim() - count, x.dim()))
    shape = tuple(x.shape[-count:])
    wide = m.wide[k]
    if bool((wide.var(over, correction=0) < 0.02).any()):
        return None
    weight = m.other(lambda w: tuple(w.shape) == shape and w.dtype == x.dtype)
    if m.pick([0, 1]):
        if weight is not None and m.pick([0, 1]):
            return step(f"rms_norm {shape}", lambda x, w: F.rms_norm(x, shape, w, 1e-5), k, weight)
        return step(f"rms_norm {shape}", lambda x: F.rms_norm(x, shape, None, 1e-5), k)
    if weight is not None and m.pick([0, 1]):
        return step(f"layer_norm {shape}", lambda x, w: F.layer_norm(x, shape, w, w), k, weight)
    return step(f"layer_norm {shape}", lambda x: F.layer_norm(x, shape), k)


@family
def product(m: Maker, k: int) -> Step | None:
    x = m.values[k]
    if x.dim() == 0:
        return None
    kind = m.pick(["matmul", "linear", "gram", "bmm", "einsum", "einsum dots", "addmm", "outer"])
    same = [j for j in m.floats() if m.values[j].dtype == x.dtype]
    if kind == "gram":
        return step("x @ x.mT", lambda x: x @ x.mT, k) if x.dim() > 1 else None
    if kind == "einsum" and x.dim() == 2:
        form = m.pick(["ij,ij->i", "ij,kj->ik", "ij,kj->ki", "ij,ij->", "ij,kl->il", "ij,ij->ji"])
        return step(f"einsum {form}", lambda x, y: torch.einsum(form, x, y), k, m.pick(same))
    if kind == "einsum dots":
        form = m.pick(["...i,...i->...", "...i,...i->...i", "...i,...j->...ij"])
        return step(f"einsum {form}", lambda x, y: torch.einsum(form, x, y), k, m.pick(same))
    last = [j for j in same if m.values[j].dim() and m.values[j].shape[-1] == x.shape[-1]]
    flat = [j for j in last if m.values[j].dim() in (1, 2)]
    if kind == "linear" and flat:
        return step("linear", F.linear, k, m.pick(flat))
    if kind == "outer" and x.dim() == 1:
        ones = [j for j in same if m.values[j].dim() == 1]
        return step("outer", torch.outer, k, m.pick(ones))
    partners = [j for j in same if (s := m.values[j].shape) and s[-2:][0] == x.shape[-1]]
    if not partners:
        return None
    y = m.pick(partners)
    if kind == "bmm":
        return step("bmm", torch.bmm, k, y)
    if kind == "addmm":
        return step("addmm", lambda x, y: torch.addmm(x[:, :1], x, y, beta=2, alpha=0.5), k, y)
    return step("matmul", torch.matmul, k, y)


@family
def view(m: Maker, k: int) -> Step | None:
    x = m.values[k]
    rank, n = x.dim(), x.numel()
    kind = m.pick(["reshape", "transpose", "permute", "unsqueeze", "squeeze", "expand", "flatten"])
    if kind == "reshape":
        ways = [(-1,), (n,), (n, 1), (1, n)]
        ways += [(a, n // a) for a in (2, 3, 5) if n and n % a == 0]
        ways += [(2, n // 4, 2)] if n and n % 4 == 0 else []
        shape = m.pick(ways)
        return step(f"reshape {shape}", lambda x: x.reshape(shape), k, exact=True)
    if kind == "transpose" and rank:
        a, b = m.pick(range(-rank, rank)), m.pick(range(-rank, rank))
        return step(f"transpose {a} {b}", lambda x: x.transpose(a, b), k, exact=True)
    if kind == "permute":
        order = list(range(rank))
        for at in range(rank):
            to = m.pick(range(at, rank))
            order[at], order[to] = order[to], order[at]
        return step(f"permute {order}", lambda x: x.permute(order), k, exact=True)
    if kind == "unsqueeze":
        at = m.pick(range(-rank - 1, rank + 1))
        return step(f"unsqueeze {at}", lambda x: x.unsqueeze(at), k, exact=True)
    if kind == "squeeze":
        return step("squeeze", lambda x: x.squeeze(), k, exact=True)
    if kind == "expand":
        shape = tuple(m.pick([2, 3]) if s == 1 else s for s in x.shape)
        shape = (*m.pick([(), (2,), (1, 3)]), *shape)
        return step(f"expand {shape}", lambda x: x.expand(shape), k, exact=True)
    return step("flatten", lambda x: x.flatten(), k, exact=True)


@family
def part(m: Maker, k: int) -> Step | None:
    x = m.values[k]
    if x.dim() == 0:
        return None
    dim = m.pick(range(-x.dim(), x.dim()))
    n = x.shape[dim]
    kind = m.pick(["slice", "select", "split", "chunk", "unbind", "flip", "roll", "narrow"])
    if kind == "slice":
        start, end = m.pick([None, 0, 1, -2]), m.pick([None, 2, -1, 100])
        cut = slice(start, end, m.pick([1, 1, 2, 3]))
        where = (slice(None),) * (dim % x.dim())
        return step(f"{where} {cut}", lambda x: x[(*where, cut)], k, exact=True)
    if kind == "select":
        at = m.pick([0, -1, n // 2])
        return step(f"select {dim} {at}", lambda x: x.select(dim, at), k, exact=True)
    if kind == "split":
        size = m.pick([1, 2, 3])
        return step(f"split {size} {dim}", lambda x: x.split(size, dim), k, exact=True)
    if kind == "narrow":
        return step(f"narrow {dim}", lambda x: x.narrow(dim, n // 2, n - n // 2), k, exact=True)
    if kind == "flip":
        return step(f"flip {dim}", lambda x: x.flip(dim), k, exact=True)
    if kind == "roll":
        by = m.pick([1, -1, 2, 9])
        return step(f"roll {by} {dim}", lambda x: x.roll(by, dim), k, exact=True)
    if kind == "unbind":
        return step(f"unbind {dim}", lambda x: x.unbind(dim), k, exact=True)
    return step(f"chunk 2 {dim}", lambda x: x.chunk(2, dim), k, exact=True)


@family
def join(m: Maker, k: int) -> Step | None:
    x = m.values[k]
    dim = m.pick(range(-max(x.dim(), 1), max(x.dim(), 1)))
    kind = m.pick(["cat", "stack", "repeat", "repeat_interleave", "pad"])
    if kind == "pad":
        widths = m.pick([(1, 2), (0, 1), (2, -1), (-1, 0)])
        return step(f"pad {widths}", lambda x: F.pad(x, widths, value=0.5), k)
    if kind == "repeat":
        times = (*m.pick([(), (2,)]), *(m.pick([1, 2]) for _ in x.shape))
        return step(f"repeat {times}", lambda x: x.repeat(times), k, exact=True)
    if kind == "repeat_interleave":
        return step(f"interleave {dim}", lambda x: x.repeat_interleave(2, dim), k, exact=True)
    other = m.other(lambda y: y.dim() == x.dim() and (kind == "cat" or y.shape == x.shape))
    if other is None:
        return None
    join = torch.cat if kind == "cat" else torch.stack
    return step(f"{kind} {dim}", lambda x, y: join([x, y, x], dim), k, other, exact=True)


@family
def selection(m: Maker, k: int) -> Step | None:
    x, c = m.values[k], m.pick([0.0, 0.3125, -1])
    if not m.clear(k, c):
        return None
    kind = m.pick(["where", "masked_fill", "mask", "and", "out", "triu", "tril"])
    if kind in ("triu", "tril"):
        at = m.pick([-1, 0, 1])
        return step(f"{kind} {at}", lambda x: getattr(torch, kind)(x, at), k)
    test = m.pick([torch.lt, torch.le, torch.gt, torch.ge, torch.eq, torch.ne])
    name = f"{kind} {test.__name__} {c}"
    if kind == "where":
        other = m.other(lambda y: _broadcast(x, y))
        if other is None or m.pick([0, 1]):
            return step(name, lambda x: torch.where(test(x, c), x, -0.5), k)
        return step(name, lambda x, y: torch.where(test(x, c), x, y), k, other)
    if kind == "masked_fill":
        fill = m.pick([0.25, 1, float("-inf")])
        return step(f"{name} {fill}", lambda x: x.masked_fill(test(x, c), fill), k)
    if kind == "and":
        return step(name, lambda x: torch.where(test(x, c) & ~(x > c), x * 2, x), k)
    if kind == "out":
        return step(name, lambda x: test(x, c), k)
    return step(name, lambda x: x * test(x, c), k)


@family
def conversion(m: Maker, k: int) -> Step | None:
    to = m.pick([torch.float32, torch.bfloat16, torch.int32, torch.bool, torch.int64])
    if to.is_floating_point:
        return step(f"to {to}", torch.Tensor.to, k, cast=to)
    x = m.wide[k]
    if not bool(torch.isfinite(x).all()):
        return None  # what PyTorch makes of them is undefined
    if to == torch.bool:
        return step("to bool", lambda x: x.bool(), k) if m.clear(k, 0.0) else None
    if not m.exact[k] and bool(((x - x.round()).abs() < 0.1).any()):
        return None
    return step(f"x * to {to}", lambda x: x * x.to(to), k)


@family
def attention(m: Maker, k: int) -> Step | None:
    x = m.values[k]
    if x.dim() not in (3, 4) or x.numel() == 0 or not bool(torch.isfinite(x).all()):
        return None  # PyTorch's own kernels disagree about where infinities and NaN lead
    kind = m.pick(["plain", "causal", "mask", "scale", "other"])
    sdpa = F.scaled_dot_product_attention
    if kind == "other":
        y = m.other(lambda y: y.shape == x.shape and y.dtype == x.dtype)
        if y is not None and not bool(torch.isfinite(m.values[y]).all()):
            return None
        return step("sdpa y", lambda x, y: sdpa(x, y, x), k, k if y is None else y)
    if kind == "mask":
        if not m.clear(k, 0.0):
            return None
        return step("sdpa mask", lambda x: sdpa(x, x, x, (x[..., :1] > 0) | (x @ x.mT > 1e3)), k)
    if kind == "scale":
        return step("sdpa scale", lambda x: sdpa(x, x, x, scale=0.25), k)
    return step(f"sdpa {kind}", lambda x: sdpa(x, x, x, is_causal=kind == "causal"), k)


@family
def index(m: Maker, k: int) -> Step | None:
    at = next(j for j, v in enumerate(m.values) if v.dtype == torch.int64)
    x = m.values[k]
    if x.dim() == 0 or x.shape[0] < 3:
        return None
    kind = m.pick(["embedding", "index_select", "index", "gather"])
    if kind == "embedding":
        return step(kind, lambda x, i: F.embedding(i, x), k, at) if x.dim() == 2 else None
    if kind == "index_select":
        return step(kind, lambda x, i: x.index_select(0, i[0]), k, at, exact=True)
    if kind == "index":
        return step(kind, lambda x, i: x[i], k, at, exact=True)
    if x.dim() != 2:
        return None
    return step(kind, lambda x, i: x.gather(0, i[:, : x.shape[1]]), k, at, exact=True)
