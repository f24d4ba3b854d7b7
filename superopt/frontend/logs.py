"""An exponential of a difference with a logarithm is a quotient: exp(a - log b) = exp(a) / b.

So a softmax by way of a log-sum-exp is the softmax it is, and an attention written so is one pass
over its keys. It is done where b is a sum of exponentials, which is no negative number, of the same
argument or of one that has its maximum subtracted, so that b is infinite only where exp(a) is as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Const, Graph, Map, Node, Reduce, View
from superopt.mugraph.rewrite import rewritten
from superopt.mugraph.scalars import SCALARS

DEEPEST = 16
"""Operators between an exponential and the logarithm in it."""


def quotients(graph: Graph) -> Graph:
    """The same program with such exponentials as quotients; itself where there are none."""

    def rule(b: Builder, at: Mapping[int, int], i: int) -> int | None:
        node = graph.nodes[i]
        return _Quotients(graph, b, at).quotient(node.args[0]) if _is(node, "exp") else None

    return rewritten(graph, rule)


Stripped = tuple[int | None, int, int | None]
"""An exponent without its logarithm (None: nothing is left), what its exponential is multiplied by
instead, and the exponent that it must be, if any; all nodes of the new program."""


class _Quotients:
    """The program that is built; at: old node -> new node."""

    def __init__(self, graph: Graph, b: Builder, at: Mapping[int, int]) -> None:
        self.graph, self.b, self.at = graph, b, at

    def quotient(self, exponent: int) -> int | None:
        """The exponential of a value as a quotient; None where no logarithm is subtracted in it."""
        found = self._stripped(exponent, 1)
        if found is None:
            return None
        rest, factor, wanted = found
        if wanted is not None and rest != wanted:
            return None
        if rest is None:
            return factor
        top, over = self.b.map("exp", rest), self.b.nodes[factor]
        if isinstance(over, Map) and over.op == "recip":
            return self.b.map("div", top, over.args[0])
        return self.b.map("mul", top, factor)

    def _stripped(self, i: int, sign: int, depth: int = 0) -> Stripped | None:
        """A value that is added (sign 1) or subtracted (-1) in an exponent."""
        node = self.graph.nodes[i]
        if not isinstance(node, Map) or depth > DEEPEST or not is_float(node.dtype):
            return None
        if node.op == "log":
            return self._logarithm(node.args[0]) if sign < 0 else None
        if node.op == "neg":
            found = self._stripped(node.args[0], -sign, depth + 1)
            if found is None or found[0] is None:
                return found
            return self.b.map("neg", found[0]), *found[1:]
        if node.op in ("add", "sub"):
            for k in (0, 1):
                own = -sign if node.op == "sub" and k == 1 else sign
                if found := self._stripped(node.args[k], own, depth + 1):
                    return self._rest(node, k, found[0]), *found[1:]
        if SCALARS[node.op].field == "where":
            return self._chosen(node, sign, depth)
        return None

    def _rest(self, node: Map, k: int, rest: int | None) -> int:
        """The sum or difference whose operand ``k`` has lost its logarithm."""
        kept = self.at[node.args[1 - k]]
        if rest is None:
            return self.b.map("neg", kept) if node.op == "sub" and k == 0 else kept
        return self.b.map(node.op, *((rest, kept) if k == 0 else (kept, rest)))

    def _chosen(self, node: Map, sign: int, depth: int) -> Stripped | None:
        """Where one of two values has a logarithm, and they are the same without it."""
        one = self.b.const(1.0, node.dtype)
        for k in (1, 2):
            found = self._stripped(node.args[k], sign, depth + 1)
            if found is None or found[0] != self.at[node.args[3 - k]]:
                continue
            pair = (found[1], one) if k == 1 else (one, found[1])
            condition = self._above(node.args[0], node.args[3 - k])
            return found[0], self.b.map(node.op, condition, *pair), found[2]
        return None

    def _above(self, condition: int, value: int) -> int:
        """A condition that a value is infinite: that it is so above.

        Below, all exponents are -inf, and the quotient is NaN as the difference was: 0 by 0.
        """
        node, b = self.graph.nodes[condition], self.b
        if _is(node, "eq"):
            left, right = (self.graph.nodes[a] for a in node.args)
            infinite = isinstance(right, Const) and right.value == math.inf
            if infinite and _is(left, "abs") and left.args[0] == value:
                return b.map("eq", self.at[value], self.at[node.args[1]])
        return self.at[condition]

    def _logarithm(self, inside: int) -> Stripped | None:
        """The logarithm of a sum of exponentials, subtracted."""
        node = self.graph.nodes[inside]
        if not isinstance(node, Reduce) or SCALARS[node.op].abstract != "add":
            return None
        term = self.graph.nodes[node.operand]
        if not _is(term, "exp"):
            return None
        wanted = None if self._shifted(term.args[0]) else self.at[term.args[0]]
        return None, self.b.map("recip", self.at[inside]), wanted

    def _shifted(self, i: int, depth: int = 0) -> bool:
        """Whether a maximum is a term of an exponent."""
        node = self.graph.nodes[i]
        if isinstance(node, Reduce):
            return SCALARS[node.op].field == "max"
        if isinstance(node, View) or (isinstance(node, Map) and node.op in ("add", "sub", "neg")):
            return depth < DEEPEST and any(self._shifted(a, depth + 1) for a in node.args)
        return False


def _is(node: Node, op: str) -> bool:
    return isinstance(node, Map) and node.op == op
