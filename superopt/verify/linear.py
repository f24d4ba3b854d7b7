"""Values of a program as sums of multiples of others, for laws that an order of numbers has.

A graph is rebuilt node by node; of each new node its linear form over the others is known, which
of two terms comes first in both programs, and whether it can be negative.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Const, Graph, Iota, Map, Node, Reduce, SizeOf, remap
from superopt.mugraph.scalars import SCALARS

Linear = dict[int, Fraction]
"""A sum of multiples of nodes; the literal part is a multiple of the node ONE."""

ONE = -1
INCREASING = frozenset(name for name, row in SCALARS.items() if "increasing" in row.laws)
OTHER = {"max": "min", "min": "max"}

MOST_TERMS = 32
"""Terms of a sum that are looked through."""


@dataclass
class Forms:
    """Rebuilds a graph in ``b``; at: the new node of each old one; forms: of the new nodes."""

    source: Graph
    b: Builder = field(default_factory=Builder)
    at: dict[int, int] = field(default_factory=dict)
    forms: dict[int, Linear] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)

    def graph(self) -> Graph:
        """The program rebuilt."""
        self.b.name = self.source.name
        for i, node in enumerate(self.source.nodes):
            moved = remap(node, self.at)
            self.at[i] = self._spread(self.rebuilt(moved), moved)
        outputs = tuple(replace(o, node=self.at[o.node]) for o in self.source.outputs)
        return Graph(self.source.name, tuple(self.b.nodes), outputs).pruned()

    def rebuilt(self, node: Node) -> int:
        """The new node for one whose arguments are new nodes already."""
        return self.b.add(node)

    def _spread(self, new: int, node: Node) -> int:
        """A value along all axes of the node in whose place it is.

        What lost an axis (a choice that is decided) would be summed over it once alone.
        """
        if self.b.axes(new) == node.axes:
            return new
        if not is_float(node.dtype) or not self.floats(node.args):
            return self.b.add(node)
        total = node.args[0]
        for k in node.args[1:]:
            total = self.b.map("add", total, k)
        if isinstance(node, Reduce):
            total = self.b.reduce("add", total, node.over)
        zero = self.b.map("mul", total, self.b.const(0.0, node.dtype))
        return self.b.map("add", new, zero)

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

    def terms(self, *forms: Linear) -> list[tuple[int, Fraction]]:
        """The terms of several forms but the literal ones, in the order that both programs have."""
        found = ((k, c) for f in forms for k, c in f.items() if k != ONE)
        return sorted(found, key=lambda term: (self.key(term[0]), term[1] < 0))

    def floats(self, nodes: Iterable[int]) -> bool:
        """Whether all of these are floats."""
        return all(is_float(self.b.dtype(k)) for k in nodes)

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
                out = plus(*(self.form(k) for k in node.operands))
                return out if len(out) <= MOST_TERMS else {i: Fraction(1)}
            if node.op == "recip":
                below = self.form(node.operands[0])
                if set(below) == {ONE}:
                    return {ONE: 1 / below[ONE]}
            if node.op == "mul":
                forms = [self.form(k) for k in node.operands]
                for literal, rest in (forms, forms[::-1]):
                    if set(literal) <= {ONE}:
                        return times(rest, literal.get(ONE, Fraction(0)))
                if all(len(f) == 1 for f in forms):
                    (x, c), (y, d) = (next(iter(f.items())) for f in forms)
                    return {self.b.map("mul", x, y): c * d}
        return {i: Fraction(1)}

    def sum(self, form: Linear, dtype: str) -> int:
        """A node that computes a linear form."""
        total: int | None = None
        literal = [(ONE, form[ONE])] if ONE in form else []
        for k, c in [*self.terms(form), *literal]:
            term = self.literal(c, dtype) if k == ONE else k
            if k != ONE and c != 1:
                term = self.b.map("mul", k, self.literal(c, dtype))
            total = term if total is None else self.b.map("add", total, term)
        return self.b.const(0.0, dtype) if total is None else total

    def literal(self, value: Fraction, dtype: str) -> int:
        """A literal; a fraction that no float is becomes a quotient of two."""
        if Fraction(float(value)) == value:
            return self.b.const(float(value), dtype)
        top, below = (self.b.const(float(n), dtype) for n in value.as_integer_ratio())
        return self.b.map("mul", top, self.b.map("recip", below))

    def compared(self, op: str, whole: Linear, dtype: str) -> int:
        """``whole op 0``, divided by the first coefficient's size, with no minus on either side.

        A literal stands alone where it can: the field keeps the order of literals.
        """
        first = self.terms(whole)[0][1]
        whole = times(whole, 1 / (abs(first) if op != "eq" else first))
        left = {k: c for k, c in whole.items() if c > 0 and k != ONE}
        right = {k: -c for k, c in whole.items() if c < 0 and k != ONE}
        literal = whole.get(ONE, Fraction(0))
        on_left = not left or (bool(right) and literal > 0)
        left, right = (
            (plus(left, {ONE: literal}), right) if on_left else (left, plus(right, {ONE: -literal}))
        )
        return self.b.map(op, self.sum(left, dtype), self.sum(right, dtype))

    def not_negative(self, i: int) -> bool:
        """Whether a value is known to be at least 0, where it is defined; sums of integers wrap."""
        node = self.b.nodes[i]
        if isinstance(node, Const):
            return float(node.value) >= 0
        if isinstance(node, SizeOf | Iota) or node.dtype in ("bool", "u8"):
            return True
        if not is_float(node.dtype):
            return False
        if isinstance(node, Reduce):
            return node.op in ("add", "mul", "max", "min") and self.not_negative(node.operand)
        if not isinstance(node, Map):
            return False
        if "not negative" in SCALARS[node.op].laws:
            return True
        if node.op == "max" and any(self.not_negative(k) for k in node.operands):
            return True
        if node.op == "mul" and node.operands[0] == node.operands[1]:
            return True
        if node.op in ("add", "mul", "recip", "max", "min", "cast"):
            return all(self.not_negative(k) for k in node.operands)
        return False


def plus(x: Mapping[int, Fraction], y: Mapping[int, Fraction]) -> Linear:
    """The sum of two forms."""
    out = dict(x)
    for k, c in y.items():
        out[k] = out.get(k, Fraction(0)) + c
    return {k: c for k, c in out.items() if c}


def times(x: Mapping[int, Fraction], factor: Fraction) -> Linear:
    """A multiple of a form."""
    return {k: c * factor for k, c in x.items() if factor}
