"""Selections as choices between cases, by comparisons of values that choose nothing.

    max(x, y) = (y < x ? x : y)         (c ? x : y) < z = (c ? x < z : y < z)
    log(c ? x : y) = (c ? log x : log y)

so a choice moves above what compares it and above functions that are not defined everywhere: there
each case is tested by itself. Comparisons are decided or simplified by the order of numbers
(``superopt.verify.order``).

Values that are compared with literals keep their place among them in the field, so cases that no
number has (x < 0 and 6 < x) do not come up. These are identities wherever both sides are defined, and
finite: programs that compute with infinities are left alone, and values with too many cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Graph, Map, Node
from superopt.mugraph.scalars import SCALARS, uses
from superopt.verify.infinite import infinities
from superopt.verify.linear import INCREASING, OTHER
from superopt.verify.order import Order, Tree, chosen, negated, pruned
from superopt.verify.probe import unfolded
from superopt.verify.ties import comparisons

MOST_CASES = 256
"""Cases that one value may have."""

MOST_NODES = 4000
"""Nodes of a program after which no more cases are told apart."""


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
    jumps = any(isinstance(n, Map) and jumps_at(whole, n) for n in whole.nodes)
    floats = all(is_float(whole.nodes[o.node].dtype) for o in whole.outputs)
    return floats and not jumps and not any(True for _ in comparisons(whole))


def jumps_at(graph: Graph, node: Map) -> bool:
    """Whether a function of floats has jumps; comparisons are told by ``comparisons``."""
    whole = node.op == "cast" and not is_float(node.dtype)
    return "jumps" in SCALARS[node.op].laws or (whole and is_float(graph.nodes[node.args[0]].dtype))


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
class _Cases(Order):
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
            return negated(self._lifted(self.less, (y, x)))
        if node.op == "cast" and self.b.dtype(node.operands[0]) == "bool" and is_float(node.dtype):
            one, zero = (self.b.const(x, node.dtype) for x in (1.0, 0.0))
            return chosen(self.tree(node.operands[0]), one, zero)
        if node.op == "eq" and self.floats(node.operands):
            return self._lifted(self.equal, node.operands)
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
            return chosen(condition, larger, smaller)

        return leaf

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
            return pruned(chosen(*(self.tree(k) for k in node.operands)), {})
        if node.op == "not":
            return negated(self.tree(node.operands[0]))
        if node.op in ("and", "or"):
            x, y = (self.tree(k) for k in node.operands)
            either = chosen(x, True, y) if node.op == "or" else chosen(x, y, False)
            return pruned(either, {})

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
            trees = [pruned(t, known) for t in trees]
            first = next((t for t in trees if isinstance(t, tuple)), None)
            if first is None:
                if next(count) > MOST_CASES:
                    raise _TooMany
                return pruned(leaf(*trees), known)
            test = first[0]
            yes, no = (go(trees, {**known, test: holds}) for holds in (True, False))
            return yes if yes == no else (test, yes, no)

        return go([self.tree(k) for k in nodes], {})

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
