"""The field algebra: a graph evaluated over residues modulo a chain of safe primes, in numpy.

Values (design section 6; axes are those of the node, with one leading axis of independent trials):

* a float is a ``Real``: a residue at each wanted level, and a status per cell: ok, poison (a
  division by zero, a root or logarithm of a non-residue, an undefined operation on infinities),
  or a symbolic -inf or +inf. Residues of cells that are not ok are zero.
* an integer, index or truth value is an ``Exact``: int64, wrapped to its dtype, with a status.

exp is omega^x, log its inverse (a discrete logarithm), so exp(a+b) = exp(a)exp(b) and
log(exp(x)) = x hold by construction. sqrt is x^((p+1)/4), the root that is itself a square.
Selections order floats by a keyed bijection of the residue at the lowest common level, drawn anew
each trial; the winner brings its residues at every level, and the first of equals wins. A row whose
field column is "keyed" is a random function of (its name, the trial, the arguments' residues).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from superopt.mugraph.algebras import chain as ch
from superopt.mugraph.algebras import field_values as fv
from superopt.mugraph.algebras.chain import GOLDEN, U64, Chain
from superopt.mugraph.algebras.field_values import (
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
from superopt.mugraph.algebras.levels import (
    EXACT,
    Info,
    Levels,
    keyed_move,
    node_term,
    term_info,
    term_wants,
    wants,
)
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.evaluate import Axes, index_values
from superopt.mugraph.graph import (
    Const,
    Gather,
    Graph,
    Input,
    Iota,
    Map,
    Node,
    Reduce,
    SizeOf,
    View,
)
from superopt.mugraph.scalars import SCALARS, Arg, Scalar, Term

POOL = 3
"""Distinct values that an input takes in a trial that is to have ties."""


class FieldAlgebra:
    """Evaluates one graph over a chain, at the levels that ``levels`` wants of each node.

    ``sizes`` gives every axis its size: it may differ from the axis's own, and then the graph is
    evaluated as if its axes had these sizes.
    """

    def __init__(
        self, graph: Graph, chain: Chain, draw: Draw, sizes: Mapping[Axis, int], levels: Levels
    ) -> None:
        self.chain, self.draw, self.sizes, self.info = chain, draw, sizes, levels.info
        self.want: dict[Node, int] = {}
        for node, want in zip(graph.nodes, levels.want, strict=True):
            self.want[node] = self.want.get(node, 0) | want
        self.omega = ch.generators(chain, draw.keys)

    def shape(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        """The sizes of these axes."""
        return tuple(self.sizes[a] for a in axes)

    # -- leaves

    def input(self, node: Input) -> Value:
        flat = [a for dim in node.dims for a in dim]
        shape = self.shape(flat)
        cell = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
        cell = cell.transpose([flat.index(a) for a in node.axes])[None]
        key, pooled = (fv.column(x, cell.ndim) for x in (self.draw.keys, self.draw.pooled))
        base = ch.mix(key ^ U64(ch.text_hash(node.name)))
        pool = ch.mix(base + (cell + U64(1)) * U64(GOLDEN)) % U64(POOL)
        # Pools are shared by all inputs, so that different tensors tie as well.
        base = np.where(pooled, ch.mix(key ^ U64(ch.text_hash("pool"))), base)
        cell = np.where(pooled, pool, cell)
        status = np.zeros(cell.shape, dtype=np.uint8)

        def drawn(level: int) -> np.ndarray:
            salt = U64(ch.level_salt(level))
            return ch.mix(ch.mix(base + salt) + (cell + U64(1)) * U64(GOLDEN))

        if is_float(node.dtype):
            levels = levels_of(self.want[node])
            return Real({i: drawn(i) % U64(self.chain.primes[i]) for i in levels}, status)
        lo, hi = (0, 1) if node.dtype == "bool" else self.draw.ranges.get(node.name, (-4, 4))
        data = (drawn(0) % U64(max(hi - lo + 1, 1))).astype(np.int64) + lo
        return Exact(fv.wrap(data, node.dtype), status)

    def const(self, node: Const) -> Value:
        return self._number(node.value, is_float(node.dtype), self.want[node])

    def size_of(self, node: SizeOf) -> Value:
        return self._number(self.sizes[node.axis], is_float(node.dtype), self.want[node])

    def iota(self, node: Iota) -> Exact:
        data = np.arange(self.sizes[node.axes[0]], dtype=np.int64)[None]
        return Exact(data, np.zeros(data.shape, dtype=np.uint8))

    def _number(self, value: float | int | bool, real: bool, want: int) -> Value:
        if not real:
            data = np.full(1, int(value), dtype=np.int64)
            return Exact(data, np.zeros(1, dtype=np.uint8), literal=True)
        inf = isinstance(value, float) and math.isinf(value)
        status = np.full(1, (POS if value > 0 else NEG) if inf else OK, dtype=np.uint8)
        res = {
            i: np.full(1, 0 if inf else ch.dyadic(value, self.chain.primes[i]), dtype=U64)
            for i in levels_of(want)
        }
        return Real(res, status, 0 if inf or value == 0 else (1 if value > 0 else -1))

    # -- map

    def map(self, row: Scalar, node: Map, args: list[Value], axes: list[Axes]) -> Value:
        full = [fv.spread(x, a, node.axes) for x, a in zip(args, axes, strict=True)]
        info = [self.info[i] for i in node.operands]
        want = self.want[node]
        out = self._term(node_term(node), want, full, info, node.dtype)
        if is_float(node.dtype):
            return self._real(out, want)
        return Exact(fv.wrap(out.data, node.dtype), out.status) if isinstance(out, Exact) else out

    def _term(
        self, term: Term, want: int, args: list[Value], info: list[Info], dtype: str
    ) -> Value:
        """A body term at the levels ``want``; what it wants of its parts is derived on the way."""
        full = self.chain.full
        if isinstance(term, Arg):
            return restrict(args[term.index], want)
        if not isinstance(term, tuple):
            whole = not isinstance(term, float) or term.is_integer()
            # A literal broadcasts over the trials and axes of the arguments beside it.
            number = self._number(int(term) if whole else term, not whole, want)
            return fv.lifted(number, args[0].status.ndim)
        inner = [term_info(t, info, dtype, full) for t in term[1:]]
        row = SCALARS[term[0]]
        if row.body is not None:
            parts = [0] * len(inner)
            term_wants(row.body, want, inner, dtype, full, parts)
            values = [
                self._term(t, w, args, info, dtype) for t, w in zip(term[1:], parts, strict=True)
            ]
            return self._term(row.body, want, values, inner, dtype)
        parts = wants(row.name, want, inner, dtype, full)
        values = [self._term(t, w, args, info, dtype) for t, w in zip(term[1:], parts, strict=True)]
        return self._primitive(row, want, values, inner, parts, dtype)

    def _primitive(
        self,
        row: Scalar,
        want: int,
        args: list[Value],
        info: list[Info],
        parts: list[int],
        dtype: str,
    ) -> Value:
        kind = row.field
        if kind == "where":
            return self._where(want, args)
        if kind == "cast":
            return self._cast(want, args[0], dtype)
        if kind in ("not", "and", "or"):
            return fv.BOOLEAN[kind](*(self._truth(a) for a in args))
        if kind in fv.INTEGER and all(isinstance(a, Exact) for a in args):
            return fv.INTEGER[kind](*args)
        real = [self._real(a, w) for a, w in zip(args, parts, strict=True)]
        match kind:
            case "add":
                return self._add(real[0], real[1])
            case "mul":
                return self._mul(real[0], real[1])
            case "recip":
                return self._recip(real[0])
            case "sqrt":
                return self._sqrt(real[0])
            case "exp" | "log":
                if keyed_move(row.name, info[0], self.chain.full):
                    return self._keyed(row.name, real, want)
                return self._exp(real[0], want) if kind == "exp" else self._log(real[0], want)
            case "max" | "min":
                picks = (
                    self._order(real[1]) > self._order(real[0])
                    if kind == "max"
                    else self._order(real[1]) < self._order(real[0])
                )
                return fv.choose(picks, real[1], real[0], poisoned=real)
        if kind in EXACT:
            return self._compare(kind, real[0], real[1])
        return self._keyed(row.name + (f":{dtype}" if row.name == "round" else ""), real, want)

    def _real(self, x: Value, want: int) -> Real:
        """The value as a float, at the levels ``want`` that it has."""
        if isinstance(x, Real):
            return restrict(x, want)  # type: ignore[return-value]
        res = {i: (x.data % self.chain.primes[i]).astype(U64) for i in levels_of(want)}
        return clear(res, x.status, int(np.sign(x.data.flat[0])) if x.literal else 0)

    def _truth(self, x: Value) -> Exact:
        return x if isinstance(x, Exact) else self._cast(0, x, "bool")  # type: ignore[return-value]

    def _add(self, a: Real, b: Real) -> Real:
        status = fv.ADD_STATUS[a.status, b.status]
        return clear({i: (a.res[i] + b.res[i]) % self._p(i) for i in a.res}, status)

    def _mul(self, a: Real, b: Real) -> Real:
        status = fv.MUL_STATUS[fv.signed(a), fv.signed(b)]
        product = {i: a.res[i] * b.res[i] % self._p(i) for i in a.res}
        return clear(product, status, a.sign * b.sign)

    def _recip(self, a: Real) -> Real:
        status = np.where(a.status >= NEG, OK, a.status)
        for r in a.res.values():
            # 1/inf is 0, and no reason to poison.
            status = np.where((a.status == OK) & (r == 0), POISON, status)
        res = {
            i: ch.power(r, self.chain.primes[i] - 2, self.chain.primes[i]) for i, r in a.res.items()
        }
        return clear(res, status, a.sign)

    def _sqrt(self, a: Real) -> Real:
        status, res = np.where(a.status == NEG, POISON, a.status), {}
        for i, r in a.res.items():
            p = self.chain.primes[i]
            res[i] = ch.power(r, (p + 1) // 4, p)
            status = np.where((status == OK) & (res[i] * res[i] % U64(p) != r), POISON, status)
        return clear(res, status, max(a.sign, 0))

    def _exp(self, a: Real, want: int) -> Real:
        res = {}
        for i in levels_of(want):
            value = ch.exponential(self.omega[:, i], a.res[i + 1], self.chain.primes[i])
            res[i] = np.where(a.status == NEG, U64(0), value)
        return clear(res, np.where(a.status == NEG, OK, a.status))

    def _log(self, a: Real, want: int) -> Real:
        status = np.where(a.status == NEG, POISON, a.status)
        for i in levels_of(want):
            p = self.chain.primes[i - 1]
            square = ch.power(a.res[i - 1], (p - 1) // 2, p) == 1
            status = np.where((status == OK) & ~square, POISON, status)
        res, full = {}, np.broadcast_shapes(status.shape, (len(self.omega), *status.shape[1:]))
        for i in levels_of(want):
            # Cells without a logarithm look up that of 1, which is found at once.
            r = np.broadcast_to(np.where(status == OK, a.res[i - 1], U64(1)), full)
            p = self.chain.primes[i - 1]
            res[i] = ch.logarithm(self.omega[:, i - 1], r, p, self.chain.primes[i])
        return clear(res, status)

    # -- order and keyed functions

    def _key(self, name: str, ndim: int) -> np.ndarray:
        return fv.column(ch.mix(self.draw.keys ^ U64(ch.text_hash(name))), ndim)

    def _order(self, a: Real) -> np.ndarray:
        """Where a value stands in this trial's total order, uint64; -inf lowest, +inf highest."""
        res = a.res[min(a.res)]
        at = ch.mix(res * U64(GOLDEN) + self._key("order", res.ndim))
        at = np.clip(at, U64(1), U64(ch.MASK - 1))
        return np.where(a.status == NEG, U64(0), np.where(a.status == POS, U64(ch.MASK), at))

    def _compare(self, kind: str, a: Real, b: Real) -> Exact:
        x, y = self._order(a), self._order(b)
        data = x < y if kind == "lt" else x <= y if kind == "le" else x == y
        status = np.where((a.status == POISON) | (b.status == POISON), POISON, OK)
        return fv.exact(data.astype(np.int64), status)

    def _hash(self, name: str, args: Sequence[Real]) -> tuple[np.ndarray, np.ndarray]:
        h = self._key(name, args[0].status.ndim)
        status = np.zeros(1, dtype=np.uint8)
        for a in args:
            res = a.res[min(a.res)]
            h = ch.mix(h ^ ch.mix(res + U64(GOLDEN)))
            status = np.where((status != OK) | (a.status != OK), POISON, OK)
        return h, status

    def _keyed(self, name: str, args: Sequence[Real], want: int) -> Real:
        h, status = self._hash(name, args)
        return clear(
            {i: ch.mix(h + U64(ch.level_salt(i))) % self._p(i) for i in levels_of(want)}, status
        )

    def _cast(self, want: int, x: Value, dtype: str) -> Value:
        if is_float(dtype):
            return self._real(x, want)
        if isinstance(x, Exact):
            return Exact(fv.wrap(x.data, dtype), x.status)
        if dtype == "bool":
            low = x.res[min(x.res)]
            return fv.exact(
                ((low != 0) | (x.status >= NEG)).astype(np.int64),
                np.where(x.status == POISON, POISON, OK),
            )
        h, status = self._hash(f"cast:{dtype}", [x])
        return fv.exact(fv.wrap((h % U64(1 << 16)).astype(np.int64) - (1 << 15), dtype), status)

    def _where(self, want: int, args: list[Value]) -> Value:
        cond = self._truth(args[0])
        picks = cond.data != 0
        if isinstance(args[1], Exact) and isinstance(args[2], Exact):
            data = np.where(picks, args[1].data, args[2].data)
            status = np.where(picks, args[1].status, args[2].status)
            return fv.exact(data, np.where(cond.status == OK, status, POISON))
        return fv.choose(
            picks, self._real(args[1], want), self._real(args[2], want), poisoned=[cond]
        )

    def _p(self, level: int) -> Any:
        return U64(self.chain.primes[level])

    # -- reductions and layout

    def reduce(self, row: Scalar, node: Reduce, value: Value, axes: Axes) -> Value:
        dims = [axes.index(a) + 1 for a in node.over]
        dims.sort()  # all reduced axes become one, row-major: the first of equals is well defined
        if isinstance(value, Exact):
            data, status = fv.tail(value.data, dims), fv.tail(value.status, dims)
            return fv.exact(fv.FOLD[row.name](data), np.where(status.any(-1), POISON, OK))
        want = self.want[node]
        res = {i: fv.tail(r, dims) for i, r in self._real(value, want).res.items()}
        status = fv.tail(value.status, dims)
        poison = (status == POISON).any(-1)
        neg, pos = (status == NEG).any(-1), (status == POS).any(-1)
        if row.name in ("max", "min"):
            return self._extreme(row, Real(res, status), poison)
        if row.name == "add":
            poison = poison | (neg & pos)
            out = {i: r.sum(-1, dtype=U64) % self._p(i) for i, r in res.items()}
        else:
            poison, neg, pos = poison | neg | pos, neg & False, pos & False
            out = {i: self._product(r, i) for i, r in res.items()}
        return clear(out, np.where(poison, POISON, np.where(neg, NEG, np.where(pos, POS, OK))))

    def _product(self, r: np.ndarray, level: int) -> np.ndarray:
        out = np.ones(r.shape[:-1], dtype=U64)
        for k in range(r.shape[-1]):
            out = out * r[..., k] % self._p(level)
        return out

    def _extreme(self, row: Scalar, value: Real, poison: np.ndarray) -> Real:
        if value.status.shape[-1] == 0:
            status = np.full(poison.shape, NEG if row.name == "max" else POS, dtype=np.uint8)
            return Real({i: np.zeros(poison.shape, dtype=U64) for i in value.res}, status)
        order = self._order(value)
        at = (order.argmax(-1) if row.name == "max" else order.argmin(-1))[..., None]

        def pick(x: np.ndarray) -> np.ndarray:
            x = np.broadcast_to(x, np.broadcast_shapes(x.shape[:-1], at.shape[:-1]) + x.shape[-1:])
            return np.take_along_axis(x, at, -1)[..., 0]

        status = np.where(poison, POISON, pick(value.status))
        return clear({i: pick(r) for i, r in value.res.items()}, status)

    def view(self, node: View, value: Value, axes: Axes) -> Value:
        shape = self.shape(node.axes)
        places = dict(node.index)
        at = [index_values(places[a], node.axes, shape) for a in axes]
        return fv.index(restrict(value, self.want[node]), at, shape)

    def gather(self, node: Gather, value: Value, axes: Axes, at: Value, at_axes: Axes) -> Value:
        places = fv.spread(self._truth(at), at_axes, node.axes)
        return fv.gather(
            restrict(value, self.want[node]), node.along, axes, node.axes, places, self.sizes
        )  # type: ignore[arg-type]
