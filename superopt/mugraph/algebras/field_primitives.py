"""The primitives of the field algebra on floats: arithmetic, exponentials, order, keyed functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from superopt.mugraph.algebras import chain as ch
from superopt.mugraph.algebras import field_values as fv
from superopt.mugraph.algebras.chain import GOLDEN, U64, Chain
from superopt.mugraph.algebras.field_values import (
    NAN,
    NEG,
    OK,
    POISON,
    POS,
    Draw,
    Exact,
    Real,
    Value,
    clear,
    levels_of,
    restrict,
)
from superopt.mugraph.dtypes import is_float


class Primitives:
    """The field primitives over one chain, with this draw's omegas, order and keyed functions."""

    def __init__(self, chain: Chain, draw: Draw) -> None:
        self.chain, self.draw = chain, draw
        self.omega = ch.generators(chain, draw.keys)

    def real(self, x: Value, want: int) -> Real:
        """The value as a float, at the levels ``want`` that it has."""
        if isinstance(x, Real):
            return restrict(x, want)  # type: ignore[return-value]
        res = {i: (x.data % self.chain.primes[i]).astype(U64) for i in levels_of(want)}
        return clear(res, x.status, int(np.sign(x.data.flat[0])) if x.literal else 0)

    def truth(self, x: Value) -> Exact:
        return x if isinstance(x, Exact) else self.cast(0, x, "bool")  # type: ignore[return-value]

    def add(self, a: Real, b: Real) -> Real:
        status = fv.ADD_STATUS[a.status, b.status]
        return clear({i: (a.res[i] + b.res[i]) % self.prime(i) for i in a.res}, status)

    def mul(self, a: Real, b: Real) -> Real:
        x, y = a.status, b.status
        if (x >= NEG).any() or (y >= NEG).any():  # only an infinity asks for signs
            p = self.chain.primes[min(a.res)]
            x, y = fv.signed(a, p), fv.signed(b, p)
        status = fv.MUL_STATUS[x, y]
        product = {i: a.res[i] * b.res[i] % self.prime(i) for i in a.res}
        return clear(product, status, a.sign * b.sign)

    def recip(self, a: Real) -> Real:
        status = np.where(a.status >= NEG, OK, a.status)
        for r in a.res.values():
            # 1/inf is 0, and no reason to poison.
            status = np.where((a.status == OK) & (r == 0), POISON, status)
        res = {
            i: ch.power(r, self.chain.primes[i] - 2, self.chain.primes[i]) for i, r in a.res.items()
        }
        return clear(res, status, a.sign)

    def sqrt(self, a: Real) -> Real:
        status, res = np.where(a.status == NEG, NAN, a.status), {}
        for i, r in a.res.items():
            p = self.chain.primes[i]
            res[i] = ch.power(r, (p + 1) // 4, p)
            status = np.where((status == OK) & (res[i] * res[i] % U64(p) != r), POISON, status)
        return clear(res, status, max(a.sign, 0))

    def exp(self, a: Real, want: int) -> Real:
        res = {}
        for i in levels_of(want):
            value = ch.exponential(self.omega[:, i], a.res[i + 1], self.chain.primes[i])
            res[i] = np.where(a.status == NEG, U64(0), value)
        return clear(res, np.where(a.status == NEG, OK, a.status))

    def log(self, a: Real, want: int) -> Real:
        status = np.where(a.status == NEG, NAN, a.status)
        for i in levels_of(want):
            p = self.chain.primes[i - 1]
            square = ch.power(a.res[i - 1], (p - 1) // 2, p) == 1
            no_square = np.where(a.res[i - 1] == 0, NEG, POISON)  # log 0 is -inf
            status = np.where((status == OK) & ~square, no_square, status)
        res, full = {}, np.broadcast_shapes(status.shape, (len(self.omega), *status.shape[1:]))
        for i in levels_of(want):
            # Cells without a logarithm look up that of 1, which is found at once.
            r = np.broadcast_to(np.where(status == OK, a.res[i - 1], U64(1)), full)
            p = self.chain.primes[i - 1]
            res[i] = ch.logarithm(self.omega[:, i - 1], r, p, self.chain.primes[i])
        return clear(res, status)

    # -- order and keyed functions

    def key(self, name: str, ndim: int) -> np.ndarray:
        return fv.column(ch.mix(self.draw.keys ^ U64(ch.text_hash(name))), ndim)

    def order(self, a: Real) -> np.ndarray:
        """Where a value stands in this trial's total order, uint64; -inf lowest, +inf highest."""
        res, p = a.res[min(a.res)], self.chain.primes[min(a.res)]
        key = self.key("order", res.ndim)

        def place(x: np.ndarray) -> np.ndarray:
            return np.clip(ch.mix(x * U64(GOLDEN) + key), U64(1), U64(ch.MASK - 1))

        at = place(res)
        # The places of the literals, given to them in their own order.
        numbers = [np.array([ch.dyadic(x, p)], dtype=U64) for x in self.draw.literals]
        places = np.sort(np.stack([place(x) for x in numbers]), 0) if numbers else ()
        for x, there in zip(numbers, places, strict=True):
            at = np.where(res == x, there, at)
        return np.where(a.status == NEG, U64(0), np.where(a.status == POS, U64(ch.MASK), at))

    def compare(self, kind: str, a: Real, b: Real) -> Exact:
        x, y = self.order(a), self.order(b)
        data = x < y if kind == "lt" else x <= y if kind == "le" else x == y
        bad = fv.undefined(a, b)  # a comparison with NaN is false
        data = data & (bad != NAN)
        return fv.exact(data.astype(np.int64), np.where(bad == POISON, POISON, OK))

    def hash(self, name: str, args: Sequence[Real]) -> tuple[np.ndarray, np.ndarray]:
        """Random bits of a function's name and arguments; infinities are arguments like others."""
        h = self.key(name, args[0].status.ndim)
        for a in args:
            res = a.res[min(a.res)]
            res = np.where(a.status >= NEG, a.status.astype(U64) + U64(ch.INFINITE), res)
            h = ch.mix(h ^ ch.mix(res + U64(GOLDEN)))
        return h, fv.undefined(*args)

    def keyed(self, name: str, args: Sequence[Real], want: int, keeps: bool = False) -> Real:
        """A random function; keeps: whether it leaves infinities as they are, as roundings do."""
        h, status = self.hash(name, args)
        if keeps:
            status = np.where(args[0].status >= NEG, args[0].status, status)
        return clear(
            {i: ch.mix(h + U64(ch.level_salt(i))) % self.prime(i) for i in levels_of(want)}, status
        )

    def cast(self, want: int, x: Value, dtype: str) -> Value:
        if is_float(dtype):
            return self.real(x, want)
        if isinstance(x, Exact):
            return Exact(fv.wrap(x.data, dtype), x.status)
        if dtype == "bool":
            low = x.res[min(x.res)]
            return fv.exact(
                ((low != 0) | (x.status >= NAN)).astype(np.int64),
                np.where(x.status == POISON, POISON, OK),
            )
        h, status = self.hash(f"cast:{dtype}", [x])
        # Half of the numbers are small: they may be indices.
        small, large = h % U64(12), h % U64(1 << 16)
        data = np.where(h >> U64(63), small + U64((1 << 15) - 2), large).astype(np.int64)
        return fv.exact(fv.wrap(data - (1 << 15), dtype), np.where(status != OK, POISON, OK))

    def where(self, want: int, args: list[Value]) -> Value:
        cond = self.truth(args[0])
        picks = cond.data != 0
        if isinstance(args[1], Exact) and isinstance(args[2], Exact):
            data = np.where(picks, args[1].data, args[2].data)
            status = np.where(picks, args[1].status, args[2].status)
            return fv.exact(data, np.where(cond.status == OK, status, POISON))
        return fv.choose(picks, self.real(args[1], want), self.real(args[2], want), poisoned=[cond])

    def prime(self, level: int) -> Any:
        return U64(self.chain.primes[level])
