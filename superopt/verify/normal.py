"""Selections in a normal form, by the laws that an order of field elements does not have.

The field orders values at random (``superopt.mugraph.algebras.field``), so that a maximum there is
commutative and associative, but knows nothing of how the order of numbers goes with their sums:

    max(x + c, y + c) = c + max(x, y)     max(s x, s y) = s max(x, y) for s > 0, s min(x, y) for s < 0
    max(f x, f y) = f(max(x, y)), f increasing          x + c < y + c  as  x < y
    max(x, y) = (u > 0 ? x : y) where x - y = c u, c > 0, of one term          sqrt(x x) = max(x, -x)
    max(x, y) = x where x - y is a sum of what is never negative     f(-x) = -f(x), f odd; f(x), f even

Both programs are rewritten from left to right by these, for reductions as well, where c and s lack
the axes that are reduced. s is a literal, or a value that is never negative. Rewriting both changes
neither's meaning, so what is then shown equal is equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from superopt.mugraph.axes import Axis, sort_axes
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Const, Graph, Map, Reduce, SizeOf, remap
from superopt.mugraph.scalars import SCALARS
from superopt.verify.probe import unfolded

Linear = dict[int, Fraction]
"""A sum of multiples of nodes; the literal part is a multiple of the node ONE."""

ONE = -1
INCREASING = frozenset(name for name, row in SCALARS.items() if "increasing" in row.laws)
OTHER = {"max": "min", "min": "max"}

MOST_TERMS = 32
"""Terms of a sum that are looked through."""


def normalized(graph: Graph) -> Graph:
    """The same program with its selections in normal form; composite rows are unfolded."""
    run = _Normal(unfolded(graph, keep=INCREASING))
    return run.graph()


def selects_floats(graph: Graph) -> bool:
    """Whether there is anything to normalize: a selection or comparison of floats."""
    return any(
        isinstance(n, Map | Reduce)
        and SCALARS[n.op].abstract == "atom"
        and any(is_float(graph.nodes[k].dtype) for k in n.args)
        for n in graph.nodes
    )


@dataclass
class _Normal:
    """Rebuilds a graph; ``forms``: the linear form of each new node."""

    source: Graph
    b: Builder = field(default_factory=Builder)
    at: dict[int, int] = field(default_factory=dict)
    forms: dict[int, Linear] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)

    def graph(self) -> Graph:
        self.b.name = self.source.name
        for i, node in enumerate(self.source.nodes):
            moved = remap(node, self.at)
            if isinstance(moved, Map) and self._is_float(moved.operands):
                self.at[i] = self._map(moved)
            elif isinstance(moved, Reduce) and moved.op in OTHER and is_float(moved.dtype):
                self.at[i] = self._extreme(moved)
            else:
                self.at[i] = self.b.add(moved)
        outputs = tuple(replace(o, node=self.at[o.node]) for o in self.source.outputs)
        return Graph(self.source.name, tuple(self.b.nodes), outputs).pruned()

    def key(self, i: int) -> str:
        """What a node is, in a text that is the same in both programs: terms are ordered by it."""
        if i not in self.keys:
            node = self.b.nodes[i]
            args = [self.key(k) for k in node.args]
            if isinstance(node, Map) and "commutative" in SCALARS[node.op].laws:
                args.sort()
            text = f"{remap(node, dict.fromkeys(node.args, 0))} {args}"
            self.keys[i] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self.keys[i]

    def _terms(self, *forms: Linear) -> list[tuple[int, Fraction]]:
        """The terms of several forms but the literal ones, in the order that both programs have."""
        found = ((k, c) for f in forms for k, c in f.items() if k != ONE)
        return sorted(found, key=lambda term: (self.key(term[0]), term[1] < 0))

    def _is_float(self, nodes: tuple[int, ...]) -> bool:
        return all(is_float(self.b.dtype(k)) for k in nodes)

    def _map(self, node: Map) -> int:
        if node.op in OTHER:
            return self._choice(node)
        if node.op == "sqrt" and (x := self._squared(node.operands[0])) is not None:
            minus = self._sum(_times(self.form(x), Fraction(-1)), node.dtype)
            return self._choice(Map((), node.dtype, "max", (x, minus)))
        if node.op in ("lt", "le", "eq"):
            return self._comparison(node)
        laws = SCALARS[node.op].laws & {"odd", "even"}
        return self._mirrored(node, "odd" in laws) if laws else self.b.add(node)

    def _mirrored(self, node: Map, odd: bool) -> int:
        """A function that is odd or even, of an argument whose first coefficient is positive."""
        form = self.form(node.operands[0])
        terms = self._terms(form)
        if not terms or terms[0][1] > 0:
            return self.b.add(node)
        inner = self.b.map(node.op, self._sum(_times(form, Fraction(-1)), node.dtype))
        return self._sum({inner: Fraction(-1)}, node.dtype) if odd else inner

    def _squared(self, i: int) -> int | None:
        """The x of a node that is x x."""
        node = self.b.nodes[i]
        square = isinstance(node, Map) and node.op == "mul" and len(set(node.args)) == 1
        return node.args[0] if square else None

    # -- linear forms

    def form(self, i: int) -> Linear:
        """A node as a sum of multiples of others."""
        if i not in self.forms:
            self.forms[i] = self._form(i)
        return self.forms[i]

    def _form(self, i: int) -> Linear:
        node = self.b.nodes[i]
        if isinstance(node, Const) and abs(float(node.value)) != float("inf"):
            return {ONE: Fraction(node.value)} if node.value else {}
        if isinstance(node, Map) and is_float(node.dtype):
            if node.op == "add":
                out = _plus(*(self.form(k) for k in node.operands))
                return out if len(out) <= MOST_TERMS else {i: Fraction(1)}
            if node.op == "recip":
                below = self.form(node.operands[0])
                if set(below) == {ONE}:
                    return {ONE: 1 / below[ONE]}
            if node.op == "mul":
                forms = [self.form(k) for k in node.operands]
                for literal, rest in (forms, forms[::-1]):
                    if set(literal) <= {ONE}:
                        return _times(rest, literal.get(ONE, Fraction(0)))
        return {i: Fraction(1)}

    def _sum(self, form: Linear, dtype: str) -> int:
        """A node that computes a linear form."""
        total: int | None = None
        literal = [(ONE, form[ONE])] if ONE in form else []
        for k, c in [*self._terms(form), *literal]:
            term = self._literal(c, dtype) if k == ONE else k
            if k != ONE and c != 1:
                term = self.b.map("mul", k, self._literal(c, dtype))
            total = term if total is None else self.b.map("add", total, term)
        return self.b.const(0.0, dtype) if total is None else total

    def _literal(self, value: Fraction, dtype: str) -> int:
        """A literal; a fraction that no float is becomes a quotient of two."""
        if Fraction(float(value)) == value:
            return self.b.const(float(value), dtype)
        top, below = (self.b.const(float(n), dtype) for n in value.as_integer_ratio())
        return self.b.map("mul", top, self.b.map("recip", below))

    # -- selections

    def _choice(self, node: Map) -> int:
        x, y = (self.form(k) for k in node.operands)
        common = {k: c for k, c in x.items() if y.get(k) == c}
        x, y = (_plus(f, _times(common, Fraction(-1))) for f in (x, y))
        op, scale = self._scale(node.op, [x, y])
        x, y = (_times(f, 1 / scale) for f in (x, y))
        sides = [self._sum(f, node.dtype) for f in (x, y)]
        inner = self._by_size(op, x, y, sides)
        if inner is None:
            inner = self._by_sign(op, _plus(x, _times(y, Fraction(-1))), sides)
        if inner is None:
            inner = self._increasing(op, sides)
        if inner is None:
            inner = self.b.map(op, *sides)
        return self._sum(_plus(_times({inner: Fraction(1)}, scale), common), node.dtype)

    def _scale(self, op: str, forms: list[Linear]) -> tuple[str, Fraction]:
        """What to divide by so that the first coefficient is 1, and which selection is left."""
        terms = self._terms(*forms)
        if not terms:
            return op, Fraction(1)
        first = terms[0][1]
        return (op, first) if first > 0 else (OTHER[op], first)

    def _by_size(self, op: str, x: Linear, y: Linear, sides: list[int]) -> int | None:
        """The side that is never smaller (for a minimum: larger), if that is known."""
        for k, (p, q) in enumerate(((x, y), (y, x))):
            difference = _plus(p, _times(q, Fraction(-1)))
            if all(c > 0 and (t == ONE or self._not_negative(t)) for t, c in difference.items()):
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
        return self.b.map("where", positive, *(sides if larger else sides[::-1]), dtype=dtype)

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
        inside = self._sum(_times(rest, 1 / scale), node.dtype)
        if set(self.b.axes(inside)) & over != over:
            return self.b.add(node)
        inner = self._monotone_extreme(op, inside, node.over)
        return self._sum(_plus(_times({inner: Fraction(1)}, scale), outside), node.dtype)

    def _monotone_extreme(self, op: str, i: int, over: tuple[Axis, ...]) -> int:
        node = self.b.nodes[i]
        if isinstance(node, Reduce) and node.op == op:
            return self._extreme(replace(node, over=sort_axes({*node.over, *over})))
        if isinstance(node, Map) and node.op in INCREASING:
            below = self.b.nodes[node.operands[0]].axes
            if set(over) <= set(below):
                inner = Reduce((), node.dtype, op, node.operands[0], over)
                return self.b.map(node.op, self._extreme(inner))
        if isinstance(node, Map) and node.op == "mul":
            for factor, rest in (node.operands, node.operands[::-1]):
                lacks = not set(over) & set(self.b.axes(factor))
                if lacks and set(over) <= set(self.b.axes(rest)) and self._not_negative(factor):
                    inner = Reduce((), node.dtype, op, rest, over)
                    return self.b.map("mul", factor, self._extreme(inner))
        return self.b.reduce(op, i, over)

    def _not_negative(self, i: int) -> bool:
        node = self.b.nodes[i]
        if isinstance(node, Const):
            return float(node.value) >= 0
        if isinstance(node, SizeOf):
            return True
        if isinstance(node, Reduce):
            return node.op in ("add", "mul", "max", "min") and self._not_negative(node.operand)
        if not isinstance(node, Map):
            return False
        if "not negative" in SCALARS[node.op].laws:
            return True
        if node.op == "max" and any(self._not_negative(k) for k in node.operands):
            return True
        if node.op == "mul" and node.operands[0] == node.operands[1]:
            return True
        if node.op in ("add", "mul", "recip", "max", "min", "cast"):
            return all(self._not_negative(k) for k in node.operands)
        return False

    def _comparison(self, node: Map) -> int:
        """x < y by their difference, divided by the first coefficient's size."""
        x, y = (self.form(k) for k in node.operands)
        whole = _plus(x, _times(y, Fraction(-1)))
        terms = self._terms(whole)
        if not terms:
            return self.b.add(node)
        scale = abs(terms[0][1]) if node.op != "eq" else terms[0][1]
        whole = _times(whole, 1 / scale)
        dtype = self.b.dtype(node.operands[0])
        left = self._sum({k: c for k, c in whole.items() if c > 0}, dtype)
        right = self._sum({k: -c for k, c in whole.items() if c < 0}, dtype)
        return self.b.map(node.op, left, right)


def _plus(x: Mapping[int, Fraction], y: Mapping[int, Fraction]) -> Linear:
    out = dict(x)
    for k, c in y.items():
        out[k] = out.get(k, Fraction(0)) + c
    return {k: c for k, c in out.items() if c}


def _times(x: Mapping[int, Fraction], factor: Fraction) -> Linear:
    return {k: c * factor for k, c in x.items() if factor}
