"""Reductions and products of matrices of the CPU backend's headers, over exact forms.

All terms of one sum are added up at once: the order, which real numbers do not have, is the header's
own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superopt.bench.cpp_parse import Type, Unreadable
from superopt.bench.exact_calls import Helpers, Lambda, pointer
from superopt.bench.exact_memory import Real, Scalar, Truth
from superopt.bench.exact_numbers import Numbers, Vec

Args = Sequence[Any]


class Total:
    """so_sum: what was added up, in every lane where it is one of vectors."""

    def __init__(self, numbers: Numbers, kind: Type) -> None:
        self.numbers = numbers
        of = kind.args[0]
        self.vector = isinstance(of, Type) and of.name == "so_vec"
        self.width = of.args[1] if self.vector else 1
        self.terms: list[list[int]] = [[] for _ in range(self.width)]

    def add(self, x: Any) -> None:
        """Adds a number, or a vector; lanes that it lacks are lost to the sum."""
        if self.vector != isinstance(x, Vec):
            raise Unreadable("another kind of term than the sum has")
        lanes = x.lanes if isinstance(x, Vec) else (x,)
        self.numbers.plain_lanes(lanes)
        self.width = min(self.width, len(lanes))
        self.take(lanes[: self.width])

    def take(self, lanes: Sequence[Scalar]) -> None:
        """Adds to the first lanes only."""
        for terms, x in zip(self.terms, lanes, strict=False):
            terms.append(self.numbers.form(x))

    def member(self, name: str, args: Args) -> Any:
        """value(), folded() or store(p, accumulate, part)."""
        exact = self.numbers.exact
        if name == "value" and not args:
            sums = [Real(exact.sum(terms)) for terms in self.terms[: self.width]]
            return Vec(tuple(sums)) if self.vector else sums[0]
        if name == "folded" and not args and self.vector and self.width == len(self.terms):
            return Real(exact.sum([f for terms in self.terms for f in terms]))
        if name == "store" and len(args) == 3 and self.vector:
            return self._store(*args)
        raise Unreadable(f"so_sum.{name}")

    def _store(self, p: Any, accumulate: Any, part: int | None) -> None:
        n = len(self.terms) if part is None else part
        if n > self.width or not isinstance(accumulate, bool):
            raise Unreadable("lanes beyond the end of a step")
        target, exact = pointer(p), self.numbers.exact
        if target.block.ctype != "double":
            raise Unreadable("a sum that is kept in another type")
        for k in range(n):
            made = exact.sum(self.terms[k])
            if accumulate:
                made = exact.sum([self.numbers.form(target.read(k)), made])
            target.write(k, Real(made))


class Reductions:
    """so_add, so_reduce, so_mm and their like; added to the table of the helpers."""

    def __init__(self, helpers: Helpers) -> None:
        self.numbers, self.helpers = helpers.numbers, helpers
        self.exact = helpers.numbers.exact
        helpers.table |= {
            "so_add": self._add,
            "so_add_lanes": self._add_lanes,
            "so_reduce": self._reduce,
            "so_reduce_lanes": self._reduce_lanes,
            "so_mm": self._mm,
            "so_mm_bf16": self._mm_bf16,
            "so_mm_dot": self._mm_dot,
            "so_mm_packed": self._mm_packed,
            "so_pack_panels": self._pack_panels,
            "so_transpose": self._transpose,
        }

    def _add(self, t: Args, a: Args) -> None:
        total, n, f = a
        for i in range(_integer(n)):
            total.add(f.call(i))

    def _add_lanes(self, t: Args, a: Args) -> None:
        (width, _), (total, n, f) = t, a
        n = _integer(n)
        if not total.vector or total.width != width:
            raise Unreadable("another kind of term than the sum has")
        for i in range(0, n, width):
            left = min(width, n - i)
            made = f.call(i, None if left == width else left)
            lanes = made.first(left)  # those beyond the end count as zero
            self.numbers.plain_lanes(lanes)
            total.take(lanes)

    # -- reductions by an operation

    def _folded(self, op: Lambda, terms: Sequence[Scalar]) -> Scalar:
        """All terms combined by an associative operation."""
        if not op.flat:
            raise Unreadable("a reduction by another operation than a known one")
        if all(isinstance(x, bool | Truth) for x in terms):
            made = self.exact.fold(op.flat, [self.numbers.form(x) for x in terms])
            if op.flat in ("and", "or"):
                return self.numbers.truth(made)
            raise Unreadable("a mask as a number")
        if op.flat in ("and", "or"):
            raise Unreadable("bits of numbers")
        made = self.exact.fold(op.flat, [self.numbers.form(x) for x in terms])
        if all(isinstance(x, int) for x in terms):
            return int(self.exact.constant(made) or 0)
        return Real(made)

    def _reduce(self, t: Args, a: Args) -> Any:
        n, start, op, f = a
        values = [start] * t[0] + [f.call(i) for i in range(_integer(n))]
        if not isinstance(start, Vec):
            return self._folded(op, values)
        if not all(isinstance(v, Vec) for v in values):
            raise Unreadable("a number where a vector is expected")
        width = min(len(v.lanes) for v in values)
        return Vec(tuple(self._folded(op, [v.lanes[k] for v in values]) for k in range(width)))

    def _reduce_lanes(self, t: Args, a: Args) -> Any:
        (width, chains), (n, start, op, f) = t, a
        n = _integer(n)
        terms = [start] * (width * chains)
        for i in range(0, n, width):
            left = min(width, n - i)
            terms += f.call(i, None if left == width else left).first(left)
            terms += [start] * (width - left)  # lanes beyond the end
        return self._folded(op, terms)

    # -- products of matrices

    def _mm(self, t: Args, a: Args) -> None:
        m, n, k, left, down, right, across, d, rows, load = a
        self._columns(t[3], m, n, k, (left, down), (right, across), d, rows, load)

    def _mm_bf16(self, t: Args, a: Args) -> None:
        m, n, k, left, right, across, d, rows, load = a
        self._columns(t[2], m, n, k, (left, 1), (right, across), d, rows, load)

    def _columns(
        self,
        block: int,
        m: int,
        n: int,
        k: int,
        left: tuple[Any, int],
        right: tuple[Any, int],
        d: Any,
        rows: Lambda,
        load: Any,
    ) -> None:
        """d[i][j] (+)= sum over k of a[i][k] * b[k][j], with columns that are contiguous."""
        at = [rows.call(i) for i in range(_integer(m))]
        (a, down), (b, across) = left, right
        steps = range(max(_integer(k), 0))
        down, across = _integer(down), _integer(across)
        columns = range(_integer(n))
        over_rows = [[(a, x + q * down) for q in steps] for x, _ in at]
        over_cols = [[(b, q * across + j) for q in steps] for j in columns]
        places = [[y + j for j in columns] for _, y in at]
        self._product(block, over_rows, over_cols, places, d, load)

    def _mm_dot(self, t: Args, a: Args) -> None:
        """The same with factors that are contiguous along k."""
        m, n, k, left, right, d, rows, cols, load = a
        i, j = ([f.call(x) for x in range(_integer(c))] for f, c in ((rows, m), (cols, n)))
        steps = range(max(_integer(k), 0))
        over_rows = [[(left, x + q) for q in steps] for x, _ in i]
        over_cols = [[(right, x + q) for q in steps] for x, _ in j]
        places = [[y + z for _, z in j] for _, y in i]
        self._product(t[3], over_rows, over_cols, places, d, load)

    def _mm_packed(self, t: Args, a: Args) -> None:
        """The same with a factor that lies in panels (``so_pack.h``)."""
        _, vectors, lanes, group, block, _ = t
        m, n, k, left, down, right, panel, d, rows, load = a
        width, panel, down = vectors * lanes, _integer(panel), _integer(down)
        at = [rows.call(i) for i in range(_integer(m))]
        steps, columns = range(max(_integer(k), 0)), range(_integer(n))
        over_rows = [[(left, x + q * down) for q in steps] for x, _ in at]
        over_cols = [
            [(right, j // width * panel + _in_panel(j % width, q, width, group)) for q in steps]
            for j in columns
        ]
        places = [[y + j for j in columns] for _, y in at]
        self._product(block, over_rows, over_cols, places, d, load)

    def _pack_panels(self, t: Args, a: Args) -> None:
        """Copies k x n elements into panels; what is beyond them is zero."""
        width, group = t
        n, k, source, sk, sn, to, panel = a
        n, k, sk, sn, panel = (_integer(v) for v in (n, k, sk, sn, panel))
        if pointer(source).block is pointer(to).block:
            raise Unreadable("a copy in one place")
        for j in range(-(-n // width) * width):
            for q in range(-(-k // group) * group):
                place = j // width * panel + _in_panel(j % width, q, width, group)
                within = j < n and q < k
                value = pointer(source).read(q * sk + j * sn) if within else Real(self.exact.zero)
                self.helpers.put(to, place, value)

    def _product(
        self,
        block: int,
        rows: list[list[tuple[Any, int]]],
        cols: list[list[tuple[Any, int]]],
        places: list[list[int]],
        d: Any,
        load: Any,
    ) -> None:
        """Sums of products, ``block`` of them at a time: each but the first adds to what is there."""
        target = pointer(d)
        flat = [x for row in places for x in row]
        if not flat:
            return
        if len({*flat}) != len(flat) or not isinstance(load, bool) or block < 1:
            raise Unreadable("sums that are kept in one place")
        for p, _ in (*rows[0][:1], *cols[0][:1]):
            if pointer(p).block is target.block:
                raise Unreadable("a product that is stored in its own factor")
        left, right = (
            [[self._read(p, x) for p, x in line] for line in side] for side in (rows, cols)
        )
        for first in range(0, max(len(left[0]), 1), block):
            for x, line in zip(left, places, strict=True):
                for y, place in zip(right, line, strict=True):
                    pairs = zip(x[first : first + block], y[first : first + block], strict=True)
                    terms = [self.exact.product(u, v) for u, v in pairs]
                    self.exact.spend(len(terms))
                    made = self.exact.sum(terms) if terms else self.exact.zero
                    if load or first:
                        made = self.exact.sum([self._read(target, place), made])
                    self.helpers.put(target, place, Real(made))

    def _read(self, p: Any, k: int) -> int:
        return self.numbers.form(pointer(p).read(k))

    def _transpose(self, t: Args, a: Args) -> None:
        """d[j * ds + i] = x[i * xs + j] for i < m, j < n."""
        d, ds, x, xs, m, n = a
        target, source = pointer(d), pointer(x)
        m, n, ds, xs = (_integer(v) for v in (m, n, ds, xs))
        pairs = [(j * ds + i, i * xs + j) for i in range(m) for j in range(n)]
        if len({to for to, _ in pairs}) != len(pairs) or target.block is source.block:
            raise Unreadable("a transposition in one place")
        for to, at in pairs:
            self.helpers.put(target, to, source.read(at))


def _integer(x: Any) -> int:
    if not isinstance(x, int):
        raise Unreadable("no integer where one is expected")
    return int(x)


def _in_panel(column: int, step: int, width: int, group: int) -> int:
    return step // group * width * group + column * group + step % group
