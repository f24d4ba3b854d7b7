"""Which signs the values of a graph may have, in real numbers, read off its structure."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import Const, Graph, Input, Iota, Map, Reduce, SizeOf
from superopt.mugraph.scalars import SCALARS
from superopt.verify.bound import Congruence
from superopt.verify.infinite import infinities

Signs = frozenset[int]
"""Of -1, 0 and 1, those that a value may have where it is defined."""

ANY: Signs = frozenset({-1, 0, 1})
_NOT_NEGATIVE: Signs = frozenset({0, 1})
_POSITIVE: Signs = frozenset({1})


def signs(graph: Graph) -> list[Signs]:
    """For each node, the signs that it may have; a composite row is of any sign (``probe.unfolded``)."""
    numbers = Congruence().numbers(graph)
    known, infinite = _numbers(graph), infinities(graph)
    out: list[Signs] = []
    for i, node in enumerate(graph.nodes):
        if (value := known[i]) is not None:
            out.append(frozenset({(value > 0) - (value < 0)}))
        elif isinstance(node, Const):  # infinite
            out.append(_POSITIVE if node.value > 0 else frozenset({-1}))
        elif isinstance(node, SizeOf | Iota):
            positive = isinstance(node, SizeOf) and _least(node.axis) > 0
            out.append(_POSITIVE if positive else _NOT_NEGATIVE)
        elif isinstance(node, Input):
            out.append(_NOT_NEGATIVE if node.dtype == "bool" else ANY)
        elif DTYPES[node.dtype].kind == "int" and getattr(node, "op", "") in ("add", "mul"):
            out.append(ANY)  # they wrap
        elif isinstance(node, Map):
            given = [out[k] for k in node.operands]
            same = len({numbers[k] for k in node.operands}) == 1
            if node.op == "max" and _opposite(graph, *node.operands):
                given = [frozenset(abs(s) for s in g) for g in given]
            if node.op == "where" and (guard := _guarded(graph, numbers, node)):
                given[guard] = given[guard] - {0}
            found = _of_row(node, given, same)
            if node.op in ("exp", "recip") and infinite[node.operands[0]]:
                found |= {0}  # exp(-inf), 1 / inf
            out.append(found)
        elif isinstance(node, Reduce):
            found = _of_reduction(SCALARS[node.op].field, out[node.operand])
            out.append(found if all(map(_least, node.over)) else ANY)  # of nothing, it is a literal
        else:
            out.append(out[node.args[0]] | {0} if node.args else ANY)  # zeros beside what is read
    return out


def _numbers(graph: Graph) -> list[Fraction | None]:
    """The values of nodes that are made of literals and of sizes that are numbers."""
    out: list[Fraction | None] = []
    for node in graph.nodes:
        value: Fraction | None = None
        if isinstance(node, Const) and math.isfinite(node.value):
            value = Fraction(node.value)
        elif isinstance(node, SizeOf) and not isinstance(node.axis.size, Sym):
            value = Fraction(node.axis.size)
        elif isinstance(node, Map):
            given = [x for k in node.operands if (x := out[k]) is not None]
            op = SCALARS[node.op].field
            if len(given) < len(node.operands):
                pass
            elif op in ("add", "mul"):
                value = given[0] + given[1] if op == "add" else given[0] * given[1]
            elif op == "recip" and given[0]:
                value = 1 / given[0]
            elif op == "cast" and is_float(node.dtype):
                value = given[0]
        out.append(value)
    return out


def _opposite(graph: Graph, i: int, j: int) -> bool:
    """Whether one of two values is the other times -1."""
    for x, y in ((i, j), (j, i)):
        node = graph.nodes[y]
        if isinstance(node, Map) and node.op == "mul" and x in node.operands:
            other = graph.nodes[node.operands[node.operands[0] == x]]
            if isinstance(other, Const) and other.value == -1.0:
                return True
    return False


def _guarded(graph: Graph, numbers: list[int], node: Map) -> int:
    """Which operand of a choice is taken only where it is not zero; 0 where none is."""
    test, taken = graph.nodes[node.operands[0]], 2
    while isinstance(test, Map) and test.op == "not":
        test, taken = graph.nodes[test.operands[0]], 3 - taken
    if (
        isinstance(test, Map)
        and test.op == "cast"
        and is_float(graph.nodes[test.operands[0]].dtype)
    ):
        compared, taken = numbers[test.operands[0]], 3 - taken
    elif isinstance(test, Map) and test.op == "eq":
        zeros = [k for k in test.operands if getattr(graph.nodes[k], "value", None) == 0]
        others = [k for k in test.operands if k not in zeros]
        if len(others) != 1:
            return 0
        compared = numbers[others[0]]
    else:
        return 0
    return taken if numbers[node.operands[taken]] == compared else 0


def _least(axis: Axis) -> int:
    return axis.size.lo if isinstance(axis.size, Sym) else axis.size


def _of_row(node: Map, given: list[Signs], same: bool) -> Signs:
    match SCALARS[node.op].field:
        case "add":
            return _sum(*given)
        case "mul" if same:
            return frozenset(s * s for s in given[0])
        case "mul":
            return frozenset(s * t for s, t in itertools.product(*given))
        case "recip":
            return given[0] - {0}
        case "exp":
            return _POSITIVE
        case "sqrt":
            return given[0] & _NOT_NEGATIVE
        case "max":
            return frozenset(max(s, t) for s, t in itertools.product(*given))
        case "min":
            return frozenset(min(s, t) for s, t in itertools.product(*given))
        case "where":
            return given[1] | given[2]
        case "cast" if is_float(node.dtype):
            return given[0]
        case "eq" | "lt" | "le" | "not" | "and" | "or":
            return _NOT_NEGATIVE
    return ANY


def _of_reduction(op: str | None, given: Signs) -> Signs:
    if op == "add":
        return _sum(given, given) | given
    return given if op in ("max", "min") else _product(given) if op == "mul" else ANY


def _product(given: Signs) -> Signs:
    return given | frozenset(s * t for s, t in itertools.product(given, given))


def _sum(x: Signs, y: Signs) -> Signs:
    found: set[int] = set()
    for s, t in itertools.product(x, y):
        found |= {s, t} - {0} if s * t >= 0 else ANY
        found |= {0} if s == t == 0 else set()
    return frozenset(found)
