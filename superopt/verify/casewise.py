"""Selections as choices between cases, by comparisons of values that choose nothing.

    max(x, y) = (y < x ? x : y)         (c ? x : y) < z = (c ? x < z : y < z)
    log(c ? x : y) = (c ? log x : log y)

so a choice moves above what compares it and above functions that are not defined everywhere: there
each case is tested by itself. Comparisons are decided or simplified by what the order of numbers says:

    x < y by the terms of x - y alone, divided by the first coefficient's size
    0 < x y by the signs of x and y     x x < c by x and sqrt(c)     f(x) < f(c) as x < c
    f(x) < f(y) as x < y, f increasing     what is a sum of positive terms is positive

Values that are compared with literals keep their place among them in the field, so cases that no
number has (x < 0 and 6 < x) do not come up. These are identities wherever both sides are defined, and
finite: programs that compute with infinities are left alone, and values with too many cases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Graph, Map, Node
from superopt.mugraph.scalars import SCALARS, uses
from superopt.verify.infinite import infinities
from superopt.verify.linear import INCREASING, ONE, OTHER, Forms, Linear, plus, times
from superopt.verify.probe import unfolded
from superopt.verify.ties import comparisons

MOST_CASES = 256
"""Cases that one value may have."""

MOST_NODES = 4000
"""Nodes of a program after which no more cases are told apart."""

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


def by_cases(graph: Graph) -> Graph | None:
    """The same program with choices in place of its selections of floats; composite rows are unfolded.

    None where there is no selection, or where something is computed of a value that may be infinite.
    """
    plain = unfolded(graph, keep=INCREASING)
    selects = any(_compares(plain, n) for n in plain.nodes)
    if not selects or any(not _stays(plain, i) for i, s in enumerate(infinities(plain)) if s):
        return None
    return _Cases(plain).graph()


def continuous(graph: Graph) -> bool:
    """Whether a program's outputs are continuous where they are defined, by its operators alone.

    Two such programs that agree wherever no two compared values are equal agree there too.
    """
    whole = unfolded(graph)
    jumps = any(
        isinstance(n, Map) and (n.op == "pow" or SCALARS[n.op].keeps_infinities)
        for n in whole.nodes
    )
    floats = all(is_float(whole.nodes[o.node].dtype) for o in whole.outputs)
    return floats and not jumps and not any(True for _ in comparisons(whole))


def _stays(graph: Graph, i: int) -> bool:
    """Whether a value that may be infinite is a literal, or one of several values as it is."""
    node = graph.nodes[i]
    return isinstance(node, Const) or (isinstance(node, Map) and node.op in ("where", "max", "min"))


def _compares(graph: Graph, node: Node) -> bool:
    return (
        isinstance(node, Map)
        and node.op in ("max", "min", "lt", "le", "eq")
        and all(is_float(graph.nodes[k].dtype) for k in node.operands)
    )


class _TooMany(Exception):
    """A value has more cases than are told apart."""


@dataclass
class _Cases(Forms):
    """Rebuilds a graph; trees: of the new nodes that choose."""

    trees: dict[int, Tree] = field(default_factory=dict)

    def rebuilt(self, node: Node) -> int:
        if not isinstance(node, Map) or len(self.b.nodes) > MOST_NODES:
            return self.b.add(node)
        try:
            tree = self._map(node)
        except _TooMany:
            tree = None
        if tree is None:
            return self.b.add(node)
        i = self._node(tree, node.dtype)
        if self.b.axes(i) != node.axes:  # what is decided may lack an axis
            i = self.b.add(node)
        if isinstance(tree, bool) or i != tree:
            self.trees.setdefault(i, tree)
        return i

    def _map(self, node: Map) -> Tree | None:
        """A selection by cases, or a function that is not defined everywhere; None for all else."""
        if node.op in OTHER and self.floats(node.operands):
            return self._lifted(self._extreme(node.op), node.operands)
        if node.op in ("lt", "le") and self.floats(node.operands):
            x, y = node.operands
            if node.op == "lt":
                return self._lifted(self.less, (x, y))
            return _negated(self._lifted(self.less, (y, x)))
        if node.op == "cast" and self.b.dtype(node.operands[0]) == "bool" and is_float(node.dtype):
            one, zero = (self.b.const(x, node.dtype) for x in (1.0, 0.0))
            return self._choice(self.tree(node.operands[0]), one, zero)
        if node.op == "eq" and self.floats(node.operands):
            return self._lifted(self._equal, node.operands)
        if node.op == "where" and isinstance(decided := self.tree(node.operands[0]), bool):
            return node.operands[1 if decided else 2]
        if uses(node.op, "sqrt", "log") and any(self._chooses(k) for k in node.operands):

            def leaf(*args: int) -> Tree:
                return self.b.map(node.op, *args)

            return self._lifted(leaf, node.operands)
        return None

    def _extreme(self, op: str) -> Callable[[int, int], Tree]:
        def leaf(x: int, y: int) -> Tree:
            larger, smaller = (x, y) if op == "max" else (y, x)
            condition = self.less(y, x)
            return self._choice(condition, larger, smaller)

        return leaf

    def _choice(self, condition: Tree, yes: Tree, no: Tree) -> Tree:
        """The tree that is ``yes`` where a condition holds."""
        if isinstance(condition, bool):
            return yes if condition else no
        assert isinstance(condition, tuple)
        test, then, other = condition
        mine, theirs = self._choice(then, yes, no), self._choice(other, yes, no)
        return mine if mine == theirs else (test, mine, theirs)

    # -- trees

    def tree(self, i: int) -> Tree:
        """A node by cases: what chooses below sums, products and functions is moved above them."""
        if i not in self.trees:
            self.trees[i] = self._tree(i)
        return self.trees[i]

    def _tree(self, i: int) -> Tree:
        node = self.b.nodes[i]
        if isinstance(node, Const) and node.dtype == "bool":
            return bool(node.value)
        if not isinstance(node, Map) or not self._chooses(i):
            return (i, True, False) if node.dtype == "bool" else i
        if node.op == "where":
            return self._pruned(self._choice(*(self.tree(k) for k in node.operands)), {})
        if node.op == "not":
            return _negated(self.tree(node.operands[0]))
        if node.op in ("and", "or"):
            x, y = (self.tree(k) for k in node.operands)
            either = self._choice(x, True, y) if node.op == "or" else self._choice(x, y, False)
            return self._pruned(either, {})

        def leaf(*args: int) -> Tree:
            return self.b.map(node.op, *args, dtype=node.dtype)

        return self._lifted(leaf, node.operands)

    def _chooses(self, i: int) -> bool:
        """Whether a node is a choice, or a function of one without a choice of its own kind."""
        node = self.b.nodes[i]
        if not isinstance(node, Map):
            return False
        if node.op in ("where", "not", "and", "or"):
            return True
        plain = is_float(node.dtype) and self.floats(node.operands)
        algebra = plain and SCALARS[node.op].abstract != "atom"
        return algebra and any(self._chooses(k) for k in node.operands)

    def _lifted(self, leaf: Callable[..., Tree], nodes: Sequence[int]) -> Tree:
        """What ``leaf`` gives of nodes that choose nothing, in each case."""
        count = itertools.count(1)

        def go(trees: Sequence[Tree], known: Mapping[int, bool]) -> Tree:
            trees = [self._pruned(t, known) for t in trees]
            first = next((t for t in trees if isinstance(t, tuple)), None)
            if first is None:
                if next(count) > MOST_CASES:
                    raise _TooMany
                return self._pruned(leaf(*trees), known)
            test = first[0]
            yes, no = (go(trees, {**known, test: holds}) for holds in (True, False))
            return yes if yes == no else (test, yes, no)

        return go([self.tree(k) for k in nodes], {})

    def _pruned(self, tree: Tree, known: Mapping[int, bool]) -> Tree:
        """The tree without the cases that what is known rules out."""
        if not isinstance(tree, tuple):
            return tree
        test, yes, no = tree
        if test in known:
            return self._pruned(yes if known[test] else no, known)
        yes = self._pruned(yes, {**known, test: True})
        no = self._pruned(no, {**known, test: False})
        return yes if yes == no else (test, yes, no)

    def _node(self, tree: Tree, dtype: str) -> int:
        if isinstance(tree, bool):
            return self.b.const(tree, "bool")
        if isinstance(tree, int):
            return tree
        test, yes, no = tree
        if dtype != "bool":
            return self.b.map(
                "where", test, self._node(yes, dtype), self._node(no, dtype), dtype=dtype
            )
        if (yes, no) == (True, False):
            return test
        if (yes, no) == (False, True):
            return self.b.map("not", test)
        sides = []
        for holds, side in ((test, yes), (self.b.map("not", test), no)):
            if side is not False:
                sides.append(
                    holds if side is True else self.b.map("and", holds, self._node(side, dtype))
                )
        return sides[0] if len(sides) == 1 else self.b.map("or", *sides)

    # -- the order of numbers

    def _equal(self, x: int, y: int) -> Tree:
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
        nodes = [self._row(k) for k, _ in terms]
        if len(terms) == 2 and not literal and terms[0][1] == -terms[1][1]:
            lower, upper = (k for k, _ in sorted(terms, key=lambda t: -t[1]))
            return self._both(lower, upper, dtype)
        if len(terms) != 1:
            return None
        c = terms[0][1]
        op, args = nodes[0]
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
        first = self._choice(below[0], above[1], False)
        second = self._choice(above[0], below[1], False)
        return self._pruned(self._choice(first, True, second), {})

    def _square(self, x: int, bound: Fraction, inside: bool, dtype: str) -> Tree | None:
        """Whether x x < bound, as -r < x and x < r (or x x > bound), where the root r is a fraction."""
        root = Fraction(math.isqrt(bound.numerator), math.isqrt(bound.denominator))
        if root * root != bound:
            return None
        form, minus = self.form(x), times(self.form(x), Fraction(-1))
        if inside:
            sides = [self._below_zero(plus(f, {ONE: -root}), dtype) for f in (form, minus)]
            return self._pruned(self._choice(sides[0], sides[1], False), {})
        sides = [
            self._below_zero(plus({ONE: root}, times(f, Fraction(-1))), dtype)
            for f in (form, minus)
        ]
        return self._pruned(self._choice(sides[0], True, sides[1]), {})


def _negated(tree: Tree) -> Tree:
    if isinstance(tree, bool):
        return not tree
    assert isinstance(tree, tuple)
    test, yes, no = tree
    return test, _negated(yes), _negated(no)
