"""How rare an order of the values that selections compare can be, below one cell of a result.

Any pattern of winners is implied by a total order of the compared values. Which values are compared
may depend on earlier winners, but a winner is one of the values that it was chosen from, so what is
chosen by a maximum adds none. With m values, and l literals that keep their own order, each total
order has probability l!/(m+l)!. Where values are compared with literals alone, the pattern is which
of the l+1 gaps each value falls into: l! k_0!...k_l!/(m+l)! with k_j values in gap j. Where all
selections are maxima (or all minima) of values, k of them that are not merely part of a larger one,
the pattern is implied by its winners, in their order, being above all others: (m-k)!/m!.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from superopt.mugraph.algebras.levels import ORDERED
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Gather, Graph, Map, Node, Reduce, View
from superopt.mugraph.scalars import SCALARS
from superopt.verify.bound import Congruence, Mark, Marks, gathered, merge, moved, reduced
from superopt.verify.probe import unfolded
from superopt.verify.sizes import Sizing

VALUE, LITERAL, BETWEEN, WINNER = "value", "literal", "between", "winner"

MOST_VALUES = 64
"""Values beyond which their order is as rare as can be."""


def rarest_order(a: Graph, b: Graph, sizing: Sizing) -> float:
    """W: every pattern of winners below a cell of a pair of outputs has probability at least 1/W."""
    congruence = Congruence()
    first, second = unfolded(a), unfolded(b)
    mine, other = (_count(g, congruence, sizing.sizes) for g in (first, second))
    pairs = zip(first.outputs, second.outputs, strict=True)
    return max((_rarest(merge([mine[p.node], other[q.node]])) for p, q in pairs), default=1.0)


def _rarest(marks: Marks) -> float:
    values = sum(m.count for m in marks.values() if m.kind == VALUE)
    literals = sum(1 for m in marks.values() if m.kind == LITERAL)
    if values > MOST_VALUES:
        return math.inf
    n = int(values)
    total = math.lgamma(n + literals + 1) - math.lgamma(literals + 1)
    if not any(m.kind == BETWEEN for m in marks.values()):
        each, more = divmod(n, literals + 1)
        alike = more * math.lgamma(each + 2) + (literals + 1 - more) * math.lgamma(each + 1)
        total -= alike
    return math.exp(min(total, _rarest_winners(marks, n) if not literals else total))


def _rarest_winners(marks: Marks, values: int) -> float:
    """The logarithm of W where there is one kind of selection, and it is a maximum or minimum."""
    kinds = {k[1] for k, m in marks.items() if m.kind == WINNER}
    winners = int(sum(m.count for m in marks.values() if m.kind == WINNER))
    if len(kinds) != 1 or not kinds <= {"max", "min"} or winners >= values:
        return math.inf
    return math.lgamma(values + 1) - math.lgamma(values - winners + 1)


def _count(graph: Graph, congruence: Congruence, sizes: Mapping[Axis, int]) -> list[Marks]:
    """For each node, the values that are compared below one of its cells."""
    numbers = congruence.numbers(graph)
    out: list[Marks] = []
    for i, node in enumerate(graph.nodes):
        selects = _selects(graph, node)
        below = merge(
            [_outer(graph, numbers, out, node, k) if selects else out[k] for k in node.args]
        )
        if selects:
            below = merge([below, _compared(graph, node, numbers, numbers[i])])
        if isinstance(node, Reduce):
            below = reduced(node, sizes, below)
            if selects:
                below[WINNER, node.op, numbers[i]] = Mark(WINNER, 1, 1, frozenset(node.axes))
        elif isinstance(node, View):
            below = moved(node, numbers[i], below)
        elif isinstance(node, Gather):
            below = merge([gathered(node, graph, numbers[i], out[node.operand]), out[node.at]])
        out.append(below)
    return out


def _outer(graph: Graph, numbers: list[int], out: list[Marks], node: Node, k: int) -> Marks:
    """The marks of an argument of a selection; a maximum of maxima is one maximum."""
    same = isinstance(node, Map | Reduce) and (WINNER, node.op, numbers[k])
    return {key: m for key, m in out[k].items() if key != same}


def _selects(graph: Graph, node: Node) -> bool:
    if not isinstance(node, Map | Reduce):
        return False
    if not any(is_float(graph.nodes[k].dtype) for k in node.args):
        return False
    field = SCALARS[node.op].field
    return field in ORDERED or (field == "cast" and node.dtype == "bool")


def _compared(graph: Graph, node: Node, numbers: list[int], number: int) -> Marks:
    """What one selection compares: values, literals, and whether values among one another."""
    found: dict[tuple[object, ...], Mark] = {}
    values = 0
    for k in node.args:
        side = graph.nodes[k]
        if isinstance(side, Const):
            found[LITERAL, float(side.value)] = Mark(LITERAL, 1, 1, frozenset())
            continue
        values += 1
        if isinstance(side, Map | Reduce) and side.op in ("max", "min"):
            continue
        found[VALUE, numbers[k]] = Mark(VALUE, 1, 1, frozenset(side.axes))
    if isinstance(node, Map) and SCALARS[node.op].field == "cast":
        found[LITERAL, 0.0] = Mark(LITERAL, 1, 1, frozenset())
    if values > 1 or isinstance(node, Reduce):
        found[BETWEEN, ""] = Mark(BETWEEN, 1, 1, frozenset())
    if isinstance(node, Map):
        found[WINNER, node.op, number] = Mark(WINNER, 1, 1, frozenset(node.axes))
    return found
