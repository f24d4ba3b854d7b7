"""The field algebra: a graph evaluated over residues modulo a chain of safe primes, in numpy.

Values (design section 6; axes are those of the node, with one leading axis of independent trials):

* a float is a ``Real``: a residue at each wanted level, and a status per cell: ok, poison (a
  division by zero, a root or logarithm of a non-residue: the field cannot say what it is), NaN by an
  operation on infinities, which comparisons and selections treat as PyTorch does, or a symbolic
  -inf or +inf. Residues of cells that are not ok are zero. The sign of an infinity that is scaled by
  x is that of x: its quadratic character.
* an integer, index or truth value is an ``Exact``: int64, wrapped to its dtype, with a status.

exp is omega^x, log its inverse (a discrete logarithm), so exp(a+b) = exp(a)exp(b) and
log(exp(x)) = x hold by construction. sqrt is x^((p+1)/4), the root that is itself a square.
Selections order floats by a keyed bijection of the residue at the lowest common level, drawn anew
each trial, but that literals keep their own order; the winner brings its residues at every level, and
the first of equals wins. A row whose field column is "keyed" is a random function of (its name, the
trial, the arguments' residues).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from superopt.errors import IllFormedGraph
from superopt.mugraph.algebras import chain as ch
from superopt.mugraph.algebras import field_values as fv
from superopt.mugraph.algebras.chain import GOLDEN, U64, Chain
from superopt.mugraph.algebras.field_primitives import Primitives
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


class FieldAlgebra(Primitives):
    """Evaluates one graph over a chain, at the levels that ``levels`` wants of each node.

    ``sizes`` gives every axis its size: it may differ from the axis's own, and then the graph is
    evaluated as if its axes had these sizes.
    """

    def __init__(
        self, graph: Graph, chain: Chain, draw: Draw, sizes: Mapping[Axis, int], levels: Levels
    ) -> None:
        super().__init__(chain, draw)
        self.sizes, self.info = sizes, levels.info
        self.want: dict[Node, int] = {}
        for node, want in zip(graph.nodes, levels.want, strict=True):
            self.want[node] = self.want.get(node, 0) | want

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
        given = self.draw.literals if is_float(node.dtype) else ()
        special = pooled & ((key >> U64(63)) == 1)
        choices = np.where(special, U64(POOL + len(given)), U64(POOL))
        pool = ch.mix(base + (cell + U64(1)) * U64(GOLDEN)) % choices
        # Pools are shared by all inputs, so that different tensors tie as well.
        base = np.where(pooled, ch.mix(key ^ U64(ch.text_hash("pool"))), base)
        cell = np.where(pooled, pool, cell)
        status = np.zeros(cell.shape, dtype=np.uint8)

        def drawn(level: int) -> np.ndarray:
            salt = U64(ch.level_salt(level))
            return ch.mix(ch.mix(base + salt) + (cell + U64(1)) * U64(GOLDEN))

        def residues(level: int) -> np.ndarray:
            p = self.chain.primes[level]
            table = np.array([0, *(ch.dyadic(x, p) for x in given)], dtype=U64)
            beyond = pooled & (pool >= POOL)
            return np.where(
                beyond, table[np.where(beyond, pool - POOL + 1, 0)], drawn(level) % U64(p)
            )

        if is_float(node.dtype):
            return Real({i: residues(i) for i in levels_of(self.want[node])}, status)
        values = fv.integers(self.draw.ranges, node)
        data = (drawn(0) % U64(values.count)).astype(np.int64)
        more = np.array((0, *values.more), dtype=np.int64)
        beyond = more[np.maximum(data - values.span + 1, 0)]
        data = np.where(data < values.span, data + values.lo, beyond)
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
            return self.real(out, want)
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
            return self.where(want, args)
        if kind == "cast":
            return self.cast(want, args[0], dtype)
        if kind in ("not", "and", "or"):
            return fv.BOOLEAN[kind](*(self.truth(a) for a in args))
        if kind in fv.INTEGER and all(isinstance(a, Exact) for a in args):
            return fv.INTEGER[kind](*args)
        real = [self.real(a, w) for a, w in zip(args, parts, strict=True)]
        match kind:
            case "add":
                return self.add(real[0], real[1])
            case "mul":
                return self.mul(real[0], real[1])
            case "recip":
                return self.recip(real[0])
            case "sqrt":
                return self.sqrt(real[0])
            case "exp" | "log":
                if keyed_move(row.name, info[0], self.chain.full):
                    return self.keyed(row.name, real, want)
                return self.exp(real[0], want) if kind == "exp" else self.log(real[0], want)
            case "max" | "min":
                picks = (
                    self.order(real[1]) > self.order(real[0])
                    if kind == "max"
                    else self.order(real[1]) < self.order(real[0])
                )
                return fv.choose(picks, real[1], real[0], poisoned=real)
        if kind in EXACT:
            return self.compare(kind, real[0], real[1])
        name = row.name + (f":{dtype}" if row.name == "round" else "")
        return self.keyed(name, real, want, row.keeps_infinities)

    # -- reductions and layout

    def reduce(self, row: Scalar, node: Reduce, value: Value, axes: Axes) -> Value:
        dims = [axes.index(a) + 1 for a in node.over]
        dims.sort()  # all reduced axes become one, row-major: the first of equals is well defined
        if isinstance(value, Exact):
            data, status = fv.tail(value.data, dims), fv.tail(value.status, dims)
            data = fv.wrap(fv.FOLD[row.name](data), node.dtype)
            return fv.exact(data, np.where(status.any(-1), POISON, OK))
        want = self.want[node]
        res = {i: fv.tail(r, dims) for i, r in self.real(value, want).res.items()}
        status = fv.tail(value.status, dims)
        poison, nan = (status == POISON).any(-1), (status == NAN).any(-1)
        neg, pos = (status == NEG).any(-1), (status == POS).any(-1)
        if row.name in ("max", "min"):
            return self._extreme(row, Real(res, status), poison, nan)
        if row.name == "add":
            nan = nan | (neg & pos)
            out = {i: r.sum(-1, dtype=U64) % self.prime(i) for i, r in res.items()}
        else:
            poison, neg, pos = poison | neg | pos, neg & False, pos & False
            out = {i: self._product(r, i) for i, r in res.items()}
        infinite = np.where(neg, NEG, np.where(pos, POS, OK))
        return clear(out, np.where(poison, POISON, np.where(nan, NAN, infinite)))

    def _product(self, r: np.ndarray, level: int) -> np.ndarray:
        out = np.ones(r.shape[:-1], dtype=U64)
        for k in range(r.shape[-1]):
            out = out * r[..., k] % self.prime(level)
        return out

    def _extreme(self, row: Scalar, value: Real, poison: np.ndarray, nan: np.ndarray) -> Real:
        if value.status.shape[-1] == 0:
            status = np.full(poison.shape, NEG if row.name == "max" else POS, dtype=np.uint8)
            return Real({i: np.zeros(poison.shape, dtype=U64) for i in value.res}, status)
        order = self.order(value)
        at = (order.argmax(-1) if row.name == "max" else order.argmin(-1))[..., None]

        def pick(x: np.ndarray) -> np.ndarray:
            x = np.broadcast_to(x, np.broadcast_shapes(x.shape[:-1], at.shape[:-1]) + x.shape[-1:])
            return np.take_along_axis(x, at, -1)[..., 0]

        status = np.where(poison, POISON, np.where(nan, NAN, pick(value.status)))
        return clear({i: pick(r) for i, r in value.res.items()}, status)

    def view(self, node: View, value: Value, axes: Axes) -> Value:
        shape = self.shape(node.axes)
        places = dict(node.index)
        at = [index_values(places[a], node.axes, shape) for a in axes]
        return fv.index(restrict(value, self.want[node]), at, shape)

    def gather(self, node: Gather, value: Value, axes: Axes, at: Value, at_axes: Axes) -> Value:
        places = fv.spread(at, at_axes, node.axes)
        if isinstance(places, Real):
            raise IllFormedGraph(
                what="a gather at floats", where=node.along.name, fix="gather at integers"
            )
        value = restrict(value, self.want[node])
        return fv.gather(value, node.along, axes, node.axes, places, self.sizes)
