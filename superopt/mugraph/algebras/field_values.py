"""The values of the field algebra, their status rules, and what moves their cells about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from superopt.mugraph.algebras.chain import power
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.evaluate import Axes, spread_shape
from superopt.mugraph.graph import Input

OK, POISON, NAN, NEG, POS = 0, 1, 2, 3, 4
"""Status of a cell: a residue, undefined in the field, NaN by an operation on infinities, -inf, +inf."""


@dataclass(frozen=True, eq=False, slots=True)
class Real:
    """A float value: ``res[level]`` uint64 and ``status`` uint8, both [trials or 1, *axes].

    sign: +1 or -1 where the value is a known nonzero constant, else 0.
    """

    res: dict[int, np.ndarray]
    status: np.ndarray
    sign: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Exact:
    """An integer or truth value: int64 and status, both [trials or 1, *axes]; a literal or not."""

    data: np.ndarray
    status: np.ndarray
    literal: bool = False


Value = Real | Exact


@dataclass(frozen=True)
class Integers:
    """The values that an integer input takes: lo..hi, both included, and more beyond them.

    complete: whether a caller gives no others (indices into an axis).
    """

    lo: int = -4
    hi: int = 4
    more: tuple[int, ...] = ()
    complete: bool = False

    @property
    def count(self) -> int:
        """How many values there are."""
        return self.span + len(self.more)

    @property
    def span(self) -> int:
        """How many values lo..hi holds; one at least."""
        return max(self.hi - self.lo + 1, 1)


def integers(ranges: Mapping[str, Integers], node: Input) -> Integers:
    """The values of an integer or truth-valued input."""
    whole = Integers(0, 1, complete=True)
    return whole if node.dtype == "bool" else ranges.get(node.name, Integers())


@dataclass(frozen=True)
class Draw:
    """How inputs are drawn: trial keys [trials], which trials use pools, values of integer inputs.

    ranges: input name -> its values, for those that do not take the usual ones; literals: numbers,
    ascending, that float inputs take besides in half of the trials that use pools, so that they tie
    with what a program compares them with; the order of floats in a trial keeps to theirs.
    """

    keys: np.ndarray
    pooled: np.ndarray
    ranges: Mapping[str, Integers] = field(default_factory=dict)
    literals: tuple[float, ...] = ()


def levels_of(mask: int) -> list[int]:
    """The levels in a mask, lowest first."""
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def column(x: np.ndarray, ndim: int) -> np.ndarray:
    """One number per trial, shaped to broadcast over ``ndim - 1`` axes."""
    return x.reshape((-1,) + (1,) * (ndim - 1))


def clear(res: Mapping[int, np.ndarray], status: np.ndarray, sign: int = 0) -> Real:
    """A float value in normal form: one shape for all, zero residues in cells that are not ok."""
    shape = np.broadcast_shapes(status.shape, *(r.shape for r in res.values()))
    status = np.broadcast_to(status, shape).astype(np.uint8)
    if not status.any():
        return Real({i: np.broadcast_to(r, shape) for i, r in res.items()}, status, sign)
    return Real({i: np.where(status == OK, r, np.uint64(0)) for i, r in res.items()}, status, sign)


def exact(data: np.ndarray, status: np.ndarray) -> Exact:
    """An exact value in normal form: one shape, zero in poisoned cells."""
    shape = np.broadcast_shapes(data.shape, status.shape)
    status = np.broadcast_to(status, shape).astype(np.uint8)
    return Exact(np.where(status == OK, data, 0), status)


def restrict(x: Value, mask: int) -> Value:
    """A float value with the levels of ``mask`` alone."""
    if isinstance(x, Exact) or not set(x.res) - set(levels_of(mask)):
        return x
    return Real({i: r for i, r in x.res.items() if mask >> i & 1}, x.status, x.sign)


def choose(picks: np.ndarray, x: Real, y: Real, poisoned: Sequence[Value]) -> Real:
    """``x`` where ``picks``, else ``y``; undefined where one of ``poisoned`` is."""
    status, bad = np.where(picks, x.status, y.status), undefined(*poisoned)
    status = np.where(bad != OK, bad, status)
    return clear({i: np.where(picks, x.res[i], y.res[i]) for i in x.res}, status)


def _table(size: int, rule: Callable[[int, int], int]) -> np.ndarray:
    return np.array([[rule(i, j) for j in range(size)] for i in range(size)], dtype=np.uint8)


def _add_status(a: int, b: int) -> int:
    if POISON in (a, b):
        return POISON
    if NAN in (a, b) or {a, b} == {NEG, POS}:
        return NAN
    return max(a, b)


_PLUS, _MINUS = 5, 6


def _mul_status(a: int, b: int) -> int:
    signs = {OK: 0, NEG: -1, POS: 1, _PLUS: 1, _MINUS: -1}  # OK: zero, next to an infinity
    if POISON in (a, b):
        return POISON
    if NAN in (a, b):
        return NAN
    if a not in (NEG, POS) and b not in (NEG, POS):
        return OK
    return {0: NAN, 1: POS, -1: NEG}[signs[a] * signs[b]]


ADD_STATUS = _table(5, _add_status)
"""Status of a sum by the statuses of its terms: -inf + inf is NaN."""

MUL_STATUS = _table(7, _mul_status)
"""Status of a product by ``signed`` codes: an infinity times zero is NaN."""


def undefined(*values: Value) -> np.ndarray:
    """POISON where one of several values is, else NAN where one is, else OK."""
    out: np.ndarray = np.zeros(1, dtype=np.uint8)
    for x in values:
        bad = np.where((x.status == POISON) | (x.status == NAN), x.status, OK)
        out = np.where((out == OK) | (bad == POISON), bad, out)
    return out


def signed(a: Real, p: int) -> np.ndarray:
    """The status, with ok cells told apart by sign: that of a constant, or the quadratic character.

    p: the prime of the residues' lowest level. As p = 3 mod 4, the character is a sign: that of a
    product is the product's, -1 is negative, and squares, roots and exponentials are positive. Which
    of the other residues are positive is as good as random, so nothing else is known of an infinity
    that is scaled.
    """
    if a.sign:
        return np.where(a.status == OK, _PLUS if a.sign > 0 else _MINUS, a.status)
    low = a.res[min(a.res)]
    square = power(low, (p - 1) // 2, p) == 1
    return np.where((a.status == OK) & (low != 0), np.where(square, _PLUS, _MINUS), a.status)


def wrap(data: np.ndarray, dtype: str) -> np.ndarray:
    """Integers wrapped to a dtype's width, as torch does; truth values as 0 and 1."""
    kind = DTYPES[dtype]
    if kind.kind == "bool":
        return (data != 0).astype(np.int64)
    if kind.kind == "int" and kind.bytes < 8:
        name = ("uint" if dtype == "u8" else "int") + str(8 * kind.bytes)
        return data.astype(name).astype(np.int64)
    return data


def _divide(fn: Callable[..., np.ndarray]) -> Callable[[Exact, Exact], Exact]:
    def apply(a: Exact, b: Exact) -> Exact:
        data = fn(a.data, np.where(b.data == 0, 1, b.data))
        bad = (a.status != OK) | (b.status != OK) | (b.data == 0)
        return exact(data, np.where(bad, POISON, OK))

    return apply


def _exactly(fn: Callable[..., np.ndarray]) -> Callable[[Exact, Exact], Exact]:
    def apply(a: Exact, b: Exact) -> Exact:
        bad = (a.status != OK) | (b.status != OK)
        return exact(fn(a.data, b.data).astype(np.int64), np.where(bad, POISON, OK))

    return apply


INTEGER: dict[str, Callable[..., Exact]] = {
    "add": _exactly(np.add),
    "mul": _exactly(np.multiply),
    "max": _exactly(np.maximum),
    "min": _exactly(np.minimum),
    "lt": _exactly(np.less),
    "le": _exactly(np.less_equal),
    "eq": _exactly(np.equal),
    "floordiv": _divide(np.floor_divide),
    "mod": _divide(np.mod),
}
"""Field primitives on exact values."""

BOOLEAN: dict[str, Callable[..., Exact]] = {
    "not": lambda a: exact((a.data == 0).astype(np.int64), a.status),
    "and": _exactly(np.logical_and),
    "or": _exactly(np.logical_or),
}
"""Field primitives on truth values."""

FOLD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "add": lambda x: x.sum(-1),
    "mul": lambda x: x.prod(-1),
    "max": lambda x: x.max(-1, initial=np.iinfo(np.int64).min),
    "min": lambda x: x.min(-1, initial=np.iinfo(np.int64).max),
    "and": lambda x: (x != 0).all(-1).astype(np.int64),
    "or": lambda x: (x != 0).any(-1).astype(np.int64),
}
"""Reductions of exact values along the last axis."""


# -- moving cells ----------------------------------------------------------------------------------


def _each(x: Value, move: Callable[[np.ndarray], np.ndarray]) -> Value:
    if isinstance(x, Exact):
        return Exact(move(x.data), move(x.status), x.literal)
    return Real({i: move(r) for i, r in x.res.items()}, move(x.status), x.sign)


def lifted(x: Value, ndim: int) -> Value:
    """A value of one cell with ``ndim`` dimensions."""
    return _each(x, lambda r: r.reshape((1,) * ndim))


def spread(x: Value, axes: Axes, to: Axes) -> Value:
    """A value on ``axes`` as one that broadcasts over ``to``."""

    def move(r: np.ndarray) -> np.ndarray:
        order, shape = spread_shape(axes, to, r.shape[1:])
        return r.transpose([0, *(i + 1 for i in order)]).reshape(r.shape[0], *shape)

    return _each(x, move)


def tail(x: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    """The array with ``dims`` (ascending) merged into one last axis, row-major."""
    kept = [i for i in range(x.ndim) if i not in dims]
    moved = x.transpose([*kept, *dims])
    return (
        moved.reshape(*moved.shape[: len(kept)], -1)
        if x.size
        else moved.reshape(*moved.shape[: len(kept)], int(np.prod([x.shape[i] for i in dims])))
    )


def index(x: Value, at: Sequence[np.ndarray], shape: tuple[int, ...]) -> Value:
    """The value read at one index array per axis, on axes of this shape."""

    def move(r: np.ndarray) -> np.ndarray:
        places: tuple[Any, ...] = (slice(None), *at)
        read = r[places] if at else r.reshape(r.shape[:1] + (1,) * len(shape))
        return np.broadcast_to(read, (r.shape[0], *shape))

    return _each(x, move)


def reach(axis: Axis, sizes: Mapping[Axis, int]) -> int:
    """How many positions an axis has at most, whatever the sizes of an evaluation."""
    return max(axis.size.hi if isinstance(axis.size, Sym) else axis.size, sizes[axis])


def gather(
    x: Value, where: Axis, axes: Axes, to: Axes, at: Exact, sizes: Mapping[Axis, int]
) -> Value:
    """Reads axis ``where`` of ``x`` (on ``axes``) at ``at``, which broadcasts over ``to``.

    What an index outside of the axis reads is undefined; of one that is inside the axis, but not at
    these sizes, it is the end.
    """
    shape = tuple(sizes[a] for a in to)
    picks = np.clip(at.data, 0, max(sizes[where] - 1, 0))
    trials = max(picks.shape[0], x.status.shape[0])
    places: list[np.ndarray] = [np.arange(trials).reshape((-1,) + (1,) * len(shape))]
    for a in axes:
        line = np.arange(sizes[a])
        places.append(
            picks if a == where else line.reshape([1] + [-1 if a == b else 1 for b in to])
        )

    def move(r: np.ndarray) -> np.ndarray:
        r = np.broadcast_to(r, (trials, *(sizes[a] for a in axes)))
        return np.broadcast_to(r[tuple(places)], (trials, *shape))

    out = _each(x, move)
    inside = (at.status == OK) & (at.data >= 0) & (at.data < reach(where, sizes))
    status = np.where(inside, out.status, POISON)
    return exact(out.data, status) if isinstance(out, Exact) else clear(out.res, status, out.sign)
