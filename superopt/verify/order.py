"""The order of numbers: comparisons of values that choose nothing, decided or in a normal form.

    x < y by the terms of x - y alone, divided by the first coefficient's size
    0 < x y by the signs of x and y     x x < c by x and sqrt(c)     f(x) < f(c) as x < c
    f(x) < f(y) as x < y, f increasing     what is a sum of positive terms is positive

An answer is a tree of comparisons (``Tree``), in each of which both sides are sums of terms, and a
literal stands alone where it can, since the field keeps the order of literals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import TypeAlias

from superopt.mugraph.graph import Const, Map
from superopt.verify.linear import INCREASING, ONE, Forms, Linear, plus, times

POINTS: Mapping[str, tuple[int, Fraction]] = {
    "exp": (0, Fraction(1)),
    "sigmoid": (0, Fraction(1, 2)),
    "tanh": (0, Fraction(0)),
    "erf": (0, Fraction(0)),
    "expm1": (0, Fraction(0)),
    "log1p": (0, Fraction(0)),
    "log": (1, Fraction(0)),
}
"""Of increasing functions, a point at which the value is a simple number."""

Tree: TypeAlias = "int | bool | tuple[int, Tree, Tree]"
"""A number by cases, (condition, where it holds, where it does not), with nodes as its leaves; or a
truth value by cases, whose leaves are True and False alone (a node 1 would be equal to True)."""


def chosen(condition: Tree, yes: Tree, no: Tree) -> Tree:
    """The tree that is ``yes`` where a condition holds."""
    if not isinstance(condition, tuple):
        return yes if condition else no
    test, then, other = condition
    mine, theirs = chosen(then, yes, no), chosen(other, yes, no)
    return mine if mine == theirs else (test, mine, theirs)


def pruned(tree: Tree, known: Mapping[int, bool]) -> Tree:
    """The tree without the cases that what is known rules out."""
    if not isinstance(tree, tuple):
        return tree
    test, yes, no = tree
    if test in known:
        return pruned(yes if known[test] else no, known)
    yes = pruned(yes, {**known, test: True})
    no = pruned(no, {**known, test: False})
    return yes if yes == no else (test, yes, no)


def negated(tree: Tree) -> Tree:
    """The opposite truth value."""
    if not isinstance(tree, tuple):
        return not tree
    test, yes, no = tree
    return test, negated(yes), negated(no)


class Order(Forms):
    """Rebuilds a graph, and compares its new nodes."""

    def equal(self, x: int, y: int) -> Tree:
        if (infinite := self._infinities(x, y)) is not None:
            return infinite[0] == infinite[1]
        whole = plus(self.form(x), times(self.form(y), Fraction(-1)))
        if not self.terms(whole):
            return not whole
        return (self.compared("eq", whole, self.b.dtype(x)), True, False)

    def _infinities(self, *nodes: int) -> list[float] | None:
        """The infinities among two values, with 0 for a finite one; None if both are finite."""
        values = [getattr(self.b.nodes[k], "value", 0.0) for k in nodes]
        found = [float(x) if math.isinf(x) else 0.0 for x in values]
        return found if any(found) else None

    def less(self, x: int, y: int) -> Tree:
        """Whether x < y, of nodes that choose nothing."""
        if (infinite := self._infinities(x, y)) is not None:
            return infinite[0] < infinite[1]
        return self._below_zero(
            plus(self.form(x), times(self.form(y), Fraction(-1))), self.b.dtype(x)
        )

    def _below_zero(self, whole: Linear, dtype: str) -> Tree:
        """Whether a sum of multiples is negative."""
        signs = [self._sign(k, c) for k, c in whole.items()]
        if all(s >= 0 for s, _ in signs):
            return False
        if all(s <= 0 for s, _ in signs) and any(strict for _, strict in signs):
            return True
        found = self._by_rule(whole, dtype)
        return (self.compared("lt", whole, dtype), True, False) if found is None else found

    def _sign(self, k: int, c: Fraction) -> tuple[float, bool]:
        """The sign of a multiple of a node (NaN if it may have either), and whether it is not 0."""
        sign = 1.0 if c > 0 else -1.0
        if k == ONE or self._positive(k):
            return sign, True
        return (sign, False) if self.not_negative(k) else (math.nan, False)

    def _positive(self, i: int) -> bool:
        """Whether a value is known to be above 0, where it is defined."""
        node = self.b.nodes[i]
        if isinstance(node, Const):
            return float(node.value) > 0
        if not isinstance(node, Map):
            return False
        if node.op in ("exp", "sigmoid"):
            return True
        if node.op == "recip":
            return self.not_negative(node.operands[0])
        if node.op == "mul":
            return all(self._positive(k) for k in node.operands)
        if node.op == "add":
            one = any(self._positive(k) for k in node.operands)
            return one and all(self.not_negative(k) for k in node.operands)
        return False

    def _by_rule(self, whole: Linear, dtype: str) -> Tree | None:
        terms = self.terms(whole)
        literal = whole.get(ONE, Fraction(0))
        if not literal and (found := self._divided(whole, dtype)) is not None:
            return self._product(*found, dtype)
        if len(terms) == 2 and not literal and terms[0][1] == -terms[1][1]:
            lower, upper = (k for k, _ in sorted(terms, key=lambda t: -t[1]))
            return self._both(lower, upper, dtype)
        if len(terms) != 1:
            return None
        ((k, c),) = terms
        op, args = self._row(k)
        bound = -literal / c  # c f < -literal
        rises = c > 0
        if op in POINTS and POINTS[op][1] == bound:
            inner = plus(
                self.form(args[0]), {ONE: Fraction(-POINTS[op][0])} if POINTS[op][0] else {}
            )
            return self._below_zero(inner if rises else times(inner, Fraction(-1)), dtype)
        if op == "recip" and not literal:
            sign = {args[0]: Fraction(1 if rises else -1)}
            return self._below_zero(sign, dtype)
        if op == "mul" and args[0] == args[1] and bound > 0:
            return self._square(args[0], bound, rises, dtype)
        return None

    def _row(self, i: int) -> tuple[str, tuple[int, ...]]:
        node = self.b.nodes[i]
        return (node.op, node.operands) if isinstance(node, Map) else ("", ())

    def _both(self, x: int, y: int, dtype: str) -> Tree | None:
        """Whether f(u) < f(v), as u < v."""
        (f, (*u,)), (g, (*v,)) = self._row(x), self._row(y)
        if f == g and f in INCREASING:
            return self.less(u[0], v[0])
        base, other = self._cubed(x), self._cubed(y)
        return None if base is None or other is None else self.less(base, other)

    def _cubed(self, i: int) -> int | None:
        """The x of a node that is (x x) x."""
        op, args = self._row(i)
        for square, x in (args, args[::-1]) if op == "mul" else ():
            if self._row(square) == ("mul", (x, x)):
                return x
        return None

    def _divided(self, whole: Linear, dtype: str) -> tuple[Linear, Linear] | None:
        """A sum as a product of two, where all terms have a factor in common."""
        factors = {k: self._row(k)[1] if self._row(k)[0] == "mul" else (k,) for k in whole}
        common = set.intersection(*(set(f) for f in factors.values()))
        if not common or (len(whole) == 1 and len(factors[next(iter(whole))]) == 1):
            return None
        by = min(common, key=self.key)
        rest: Linear = {}
        for k, c in whole.items():
            left = list(factors[k])
            left.remove(by)
            rest = plus(rest, times(self.form(left[0]) if left else {ONE: Fraction(1)}, c))
        return rest, self.form(by)

    def _product(self, x: Linear, y: Linear, dtype: str) -> Tree:
        """Whether x y < 0: one of them is negative, the other positive."""
        below, above = (
            [self._below_zero(times(f, Fraction(s)), dtype) for f in (x, y)] for s in (1, -1)
        )
        first = chosen(below[0], above[1], False)
        second = chosen(above[0], below[1], False)
        return pruned(chosen(first, True, second), {})

    def _square(self, x: int, bound: Fraction, inside: bool, dtype: str) -> Tree | None:
        """Whether x x < bound, as -r < x and x < r (or x x > bound), where the root r is a fraction."""
        root = Fraction(math.isqrt(bound.numerator), math.isqrt(bound.denominator))
        if root * root != bound:
            return None
        form, minus = self.form(x), times(self.form(x), Fraction(-1))
        if inside:
            sides = [self._below_zero(plus(f, {ONE: -root}), dtype) for f in (form, minus)]
            return pruned(chosen(sides[0], sides[1], False), {})
        sides = [
            self._below_zero(plus({ONE: root}, times(f, Fraction(-1))), dtype)
            for f in (form, minus)
        ]
        return pruned(chosen(sides[0], True, sides[1]), {})
