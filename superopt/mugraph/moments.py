"""Values that are polynomials in a statistic: how sums of them follow when the statistic moves.

If f(t, m) has degree r in m, then f(t, m') is its Taylor polynomial around m, so a sum of f built
on m is moved to m' by the sums of f's derivatives built on m, which follow in the same way (a
unipotent transition; for (x - mean)^2 it is the update of Chan, Golub and LeVeque, 1983). Nothing
here knows a variance: the degree and the derivatives are read off the operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Map, Node, Reduce
from superopt.mugraph.scalars import SCALARS, inline

MOST_RANK = 2
"""Derivatives that are summed beside an accumulator at most."""


def degree(graph: Graph, root: int, stat: int) -> int | None:
    """The degree of a value as a polynomial in node ``stat``; None where it is none."""
    return _Degree(graph.nodes, stat).of(root)


@dataclass
class _Degree:
    nodes: Sequence[Node]
    stat: int
    known: dict[int, int | None] = field(default_factory=dict)

    def of(self, root: int) -> int | None:
        todo = [root]
        while todo:
            i = todo[-1]
            # Nodes are in topological order: what comes before the statistic does not read it.
            below = [] if i <= self.stat else self.nodes[i].args
            waiting = [a for a in below if a not in self.known]
            if waiting:
                todo.extend(waiting)
                continue
            todo.pop()
            if i not in self.known:
                self.known[i] = self._node(i)
        return self.known[root]

    def _node(self, i: int) -> int | None:
        if i <= self.stat:
            return int(i == self.stat)
        node = self.nodes[i]
        args = [self.known[a] for a in node.args]
        if not any(a != 0 for a in args):
            return 0
        if isinstance(node, Reduce) and SCALARS[node.op].field == "add":
            return args[0]
        return self._map(node.op, args) if isinstance(node, Map) else None

    def _map(self, op: str, args: Sequence[int | None]) -> int | None:
        row = SCALARS[op]
        if not any(a != 0 for a in args):
            return 0
        known = [a for a in args if a is not None]
        if len(known) < len(args):
            return None
        if row.field == "add" or row.abstract == "cast":
            return max(known)
        if row.field == "mul":
            return sum(known)
        if row.field == "where":
            return max(known[1:]) if known[0] == 0 else None
        if row.body is None:
            return None
        made = inline(row.body, list(args), self._map, lambda c: 0)
        return made if isinstance(made, int) else None


class Derivatives:
    """Makes derivatives with respect to node ``stat``, as nodes of the same builder."""

    def __init__(self, b: Builder, stat: int) -> None:
        self.b, self.stat = b, stat
        self._known: dict[int, int | None] = {}

    def of(self, root: int) -> int | None:
        """The derivative of a polynomial; None where it is zero."""
        todo = [root]
        while todo:
            i = todo[-1]
            below = [] if i <= self.stat else self.b.nodes[i].args
            waiting = [a for a in below if a not in self._known]
            if waiting:
                todo.extend(waiting)
                continue
            todo.pop()
            if i not in self._known:
                self._known[i] = self._node(i)
        return self._known[root]

    def _node(self, i: int) -> int | None:
        if i == self.stat:
            return self.b.const(1.0, self.b.dtype(i))
        node = self.b.nodes[i]
        if i < self.stat or not any(self._known[a] is not None for a in node.args):
            return None
        if isinstance(node, Reduce):
            inner = self._known[node.operand]
            return None if inner is None else self._sum(node, inner)
        if not isinstance(node, Map):
            raise TypeError(f"%{i} is no polynomial in %{self.stat}")
        made = self._map(node.op, [(a, self._known[a]) for a in node.args], node.dtype)
        return made[1]

    def _sum(self, node: Reduce, inner: int) -> int:
        """The sum of a derivative, which may lack axes that the sum runs over."""
        return self.b.reduce(node.op, _spread(self.b, inner, node.over), node.over)

    def _map(
        self, op: str, args: Sequence[tuple[int, int | None]], dtype: str | None = None
    ) -> tuple[int, int | None]:
        """A row applied to values with their derivatives (dual numbers)."""
        b, row = self.b, SCALARS[op]
        values = [v for v, _ in args]
        value = b.map(op, *values, dtype=dtype)
        if not any(d is not None for _, d in args):
            return value, None
        if row.abstract == "cast":
            return value, b.map(op, args[0][1] or 0, dtype=dtype)
        if row.field == "add":
            terms = [d for _, d in args if d is not None]
            return value, terms[0] if len(terms) == 1 else b.map(op, *terms)
        if row.field == "mul":
            (x, dx), (y, dy) = args
            parts = [
                b.map(op, p, q) for p, q in ((dx, y), (x, dy)) if p is not None and q is not None
            ]
            return value, parts[0] if len(parts) == 1 else b.map("add", *parts)
        if row.field == "where":
            zero = b.const(0.0, b.dtype(value))
            sides = [zero if d is None else d for _, d in args[1:]]
            return value, b.map(op, values[0], *sides)
        if row.body is None:
            raise TypeError(f"{op} is no polynomial")
        made: tuple[int, int | None] = inline(
            row.body,
            list(args),
            lambda o, a: self._map(o, a),
            lambda c: (b.const(float(c), b.dtype(value)), None),
        )
        return value, made[1]


def _spread(b: Builder, value: int, over: Sequence[Axis]) -> int:
    """A value with these axes; along those that it lacks, it is the same everywhere."""
    for axis in over:
        if axis not in b.axes(value):
            along = b.map("cast", b.iota(axis), dtype=b.dtype(value))
            value = b.map("add", value, b.map("mul", along, b.const(0.0, b.dtype(value))))
    return value


def summands(b: Builder, operand: int, stat: int, rank: int, over: Sequence[Axis]) -> list[int]:
    """The derivatives of a summand of this degree, the first one first, to be summed as it is."""
    out, value = [], operand
    for _ in range(rank):
        made = Derivatives(b, stat).of(value)
        if made is None:
            break
        value = made
        out.append(_spread(b, made, over))
    return out


def taylor(b: Builder, value: int, sums: Sequence[int], shift: int) -> int:
    """``value + shift * sums[0] + shift^2 / 2 * sums[1] + ...``."""
    power, factorial = shift, 1.0
    for k, s in enumerate(sums):
        if k:
            power, factorial = b.map("mul", power, shift), factorial * (k + 1)
        scaled = power if factorial == 1.0 else b.map("mul", power, b.const(1.0 / factorial))
        value = b.map("add", value, b.map("mul", s, scaled))
    return value
