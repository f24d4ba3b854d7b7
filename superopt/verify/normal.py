"""Selections in a normal form, by the laws that an order of field elements does not have.

The field orders values at random (``superopt.mugraph.algebras.field``), so that a maximum there is
commutative and associative, but knows nothing of how the order of numbers goes with their sums:

    max(x + c, y + c) = c + max(x, y)     max(s x, s y) = s max(x, y) for s > 0, s min(x, y) for s < 0
    max(f x, f y) = f(max(x, y)), f increasing          x + c < y + c  as  x < y
    max(x, y) = (u > 0 ? x : y) where x - y = c u, c > 0, of one term          sqrt(x x) = max(x, -x)
    max(x, y) = x where x - y is a sum of what is never negative     f(-x) = -f(x), f odd; f(x), f even
    max over k of max(x, y) = max(max over k of x, max over k of y)     x^(n + 1/2) = x^n sqrt(x)

Both programs are rewritten from left to right by these, for reductions as well, where c and s lack
the axes that are reduced. s is a literal, or a value that is never negative. Rewriting both changes
neither's meaning, so what is then shown equal is equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from superopt.mugraph.axes import Axis, sort_axes
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Graph, Map, Node, Reduce
from superopt.mugraph.scalars import SCALARS
from superopt.verify.linear import INCREASING, ONE, OTHER, Forms, Linear, plus, times
from superopt.verify.probe import unfolded

MIRRORED = frozenset({"odd", "even"})

MOST_POWER = 9
"""The exponent up to which a power is written out, with a square root."""


def normalized(graph: Graph) -> Graph:
    """The same program with its selections in normal form; composite rows are unfolded."""
    run = _Normal(unfolded(graph, keep=INCREASING))
    return run.graph()


def has_laws(graph: Graph) -> bool:
    """Whether there is anything to normalize: a selection or comparison of floats, an odd function."""
    plain = unfolded(graph)
    return any(
        isinstance(n, Map | Reduce)
        and (SCALARS[n.op].abstract == "atom" or SCALARS[n.op].laws & MIRRORED or n.op == "pow")
        and any(is_float(plain.nodes[k].dtype) for k in n.args)
        for n in plain.nodes
    )


@dataclass
class _Normal(Forms):
    """Rebuilds a graph by the laws; extremes: choices by a sign, as the maximum or minimum they are."""

    extremes: dict[int, Map] = field(default_factory=dict)

    def rebuilt(self, node: Node) -> int:
        if isinstance(node, Map) and self.floats(node.operands):
            return self._map(node)
        if isinstance(node, Reduce) and node.op in OTHER and is_float(node.dtype):
            return self._extreme(node)
        return self.b.add(node)

    def _map(self, node: Map) -> int:
        if node.op in OTHER:
            return self._choice(node)
        if node.op == "sqrt" and (x := self._squared(node.operands[0])) is not None:
            minus = self.sum(times(self.form(x), Fraction(-1)), node.dtype)
            return self._choice(Map((), node.dtype, "max", (x, minus)))
        if node.op in ("lt", "le", "eq"):
            return self._comparison(node)
        if node.op == "pow" and (found := self._half_power(node)) is not None:
            return found
        laws = SCALARS[node.op].laws & MIRRORED
        return self._mirrored(node, "odd" in laws) if laws else self.b.add(node)

    def _mirrored(self, node: Map, odd: bool) -> int:
        """A function that is odd or even, of an argument whose first coefficient is positive."""
        form = self.form(node.operands[0])
        terms = self.terms(form)
        if not terms or terms[0][1] > 0:
            return self.b.add(node)
        inner = self.b.map(node.op, self.sum(times(form, Fraction(-1)), node.dtype))
        return self.sum({inner: Fraction(-1)}, node.dtype) if odd else inner

    def _half_power(self, node: Map) -> int | None:
        """x^(k + 1/2) as x ... x sqrt(x)."""
        x, power = node.operands
        exponent = self.form(power)
        whole = exponent.get(ONE, Fraction(0)) - Fraction(1, 2)
        if set(exponent) != {ONE} or whole.denominator != 1 or not 0 <= whole < MOST_POWER:
            return None
        out = self.b.map("sqrt", x)
        for _ in range(int(whole)):
            out = self.b.map("mul", out, x)
        return out

    def _squared(self, i: int) -> int | None:
        """The x of a node that is x x."""
        node = self.b.nodes[i]
        square = isinstance(node, Map) and node.op == "mul" and len(set(node.args)) == 1
        return node.args[0] if square else None

    # -- selections

    def _choice(self, node: Map) -> int:
        x, y = (self.form(k) for k in node.operands)
        common = {k: c for k, c in x.items() if y.get(k) == c}
        x, y = (plus(f, times(common, Fraction(-1))) for f in (x, y))
        op, scale = self._scale(node.op, [x, y])
        x, y = (times(f, 1 / scale) for f in (x, y))
        sides = [self.sum(f, node.dtype) for f in (x, y)]
        inner = self._by_size(op, x, y, sides)
        if inner is None:
            inner = self._by_sign(op, plus(x, times(y, Fraction(-1))), sides)
        if inner is None:
            inner = self._increasing(op, sides)
        if inner is None:
            inner = self.b.map(op, *sides)
        return self.sum(plus(times({inner: Fraction(1)}, scale), common), node.dtype)

    def _scale(self, op: str, forms: list[Linear]) -> tuple[str, Fraction]:
        """What to divide by so that the first coefficient is 1, and which selection is left."""
        terms = self.terms(*forms)
        if not terms:
            return op, Fraction(1)
        first = terms[0][1]
        return (op, first) if first > 0 else (OTHER[op], first)

    def _by_size(self, op: str, x: Linear, y: Linear, sides: list[int]) -> int | None:
        """The side that is never smaller (for a minimum: larger), if that is known."""
        for k, (p, q) in enumerate(((x, y), (y, x))):
            difference = plus(p, times(q, Fraction(-1)))
            if all(c > 0 and (t == ONE or self.not_negative(t)) for t, c in difference.items()):
                return sides[k if op == "max" else 1 - k]
        return None

    def _by_sign(self, op: str, difference: Linear, sides: list[int]) -> int | None:
        """A choice by the sign of one term, where that decides which side is larger."""
        if len(difference) != 1 or ONE in difference:
            return None
        ((u, c),) = difference.items()
        if self._zero(sides[0]) or self._zero(sides[1]):
            return None  # max(u, 0) is its own normal form
        larger = c > 0 if op == "max" else c < 0
        dtype = self.b.dtype(sides[0])
        positive = self.b.map("lt", self.b.const(0.0, dtype), u)
        out = self.b.map("where", positive, *(sides if larger else sides[::-1]), dtype=dtype)
        self.extremes[out] = Map((), dtype, op, tuple(sides))
        return out

    def _zero(self, i: int) -> bool:
        node = self.b.nodes[i]
        return isinstance(node, Const) and node.value == 0

    def _increasing(self, op: str, sides: list[int]) -> int | None:
        """f(max(x, y)) for max(f x, f y)."""
        nodes = [self.b.nodes[k] for k in sides]
        ops = {n.op if isinstance(n, Map) else "" for n in nodes}
        if len(ops) != 1 or not ops <= INCREASING:
            return None
        below = Map((), nodes[0].dtype, op, tuple(n.args[0] for n in nodes))
        return self.b.map(ops.pop(), self._choice(below))

    def _extreme(self, node: Reduce) -> int:
        over = set(node.over)
        axes = tuple(x for x in self.b.axes(node.operand) if x not in over)
        node = replace(node, axes=axes)
        form = self.form(node.operand)
        outside = {k: c for k, c in form.items() if k == ONE or not over & set(self.b.axes(k))}
        rest = {k: c for k, c in form.items() if k not in outside}
        if not rest:
            return self.b.add(node)
        op, scale = self._scale(node.op, [rest])
        inside = self.sum(times(rest, 1 / scale), node.dtype)
        if set(self.b.axes(inside)) & over != over:
            return self.b.add(node)
        inner = self._monotone_extreme(op, inside, node.over)
        return self.sum(plus(times({inner: Fraction(1)}, scale), outside), node.dtype)

    def _monotone_extreme(self, op: str, i: int, over: tuple[Axis, ...]) -> int:
        node = self.extremes.get(i, self.b.nodes[i])
        if isinstance(node, Reduce) and node.op == op:
            return self._extreme(replace(node, over=sort_axes({*node.over, *over})))
        if isinstance(node, Map) and node.op == op and self._along(over, node.operands):
            parts = (Reduce((), node.dtype, op, k, over) for k in node.operands)
            return self._choice(Map((), node.dtype, op, tuple(map(self._extreme, parts))))
        if isinstance(node, Map) and node.op in INCREASING and self._along(over, node.operands):
            inner = Reduce((), node.dtype, op, node.operands[0], over)
            return self.b.map(node.op, self._extreme(inner))
        if isinstance(node, Map) and node.op == "mul":
            for factor, rest in (node.operands, node.operands[::-1]):
                lacks = not set(over) & set(self.b.axes(factor))
                if lacks and self._along(over, (rest,)) and self.not_negative(factor):
                    inner = Reduce((), node.dtype, op, rest, over)
                    return self.b.map("mul", factor, self._extreme(inner))
        return self.b.reduce(op, i, over)

    def _along(self, over: tuple[Axis, ...], nodes: tuple[int, ...]) -> bool:
        """Whether all of these have the axes that are reduced."""
        return all(set(over) <= set(self.b.axes(k)) for k in nodes)

    def _comparison(self, node: Map) -> int:
        """x < y by their difference, divided by the first coefficient's size."""
        x, y = (self.form(k) for k in node.operands)
        whole = plus(x, times(y, Fraction(-1)))
        if not self.terms(whole):
            return self.b.add(node)
        return self.compared(node.op, whole, self.b.dtype(node.operands[0]))
