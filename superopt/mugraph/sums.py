"""Which sums are kept in double, and what follows from them alone: a rule of the term graph.

A sum of n nearly equal numbers, added one after the other in single precision, is off by up to n/2
units, all in one direction. So a sum that is no contraction has a double accumulator, and what
follows from such sums by field operations alone (a mean) is computed in double. A contraction is
kept in single precision, as BLAS does.
"""

from __future__ import annotations

from functools import cache

from superopt.mugraph.dtypes import compute_dtype
from superopt.mugraph.graph import Const, Graph, Map, Reduce, SizeOf
from superopt.mugraph.scalars import SCALARS

WIDE = "f64"


def sum_dtype(graph: Graph, i: int) -> str:
    """The dtype in which a reduction's accumulators and parts are kept, where it is made in steps."""
    node = graph.nodes[i]
    if not isinstance(node, Reduce) or node.op != "add" or compute_dtype(node.dtype) != "f32":
        return node.dtype
    return node.dtype if contracts(graph, node) else WIDE


def contracts(graph: Graph, node: Reduce) -> bool:
    """Whether a sum multiplies two factors, each with or without axes of the result of its own."""
    operand = graph.nodes[node.operand]
    if not isinstance(operand, Map) or SCALARS[operand.op].field != "mul":
        return False
    a, b = (set(graph.nodes[x].axes) for x in operand.operands)
    return bool((a ^ b) & set(node.axes)) and bool(a & b & set(node.over))


def fixed(graph: Graph, i: int) -> bool:
    """Whether a value depends on sizes and literals alone."""
    todo = [i]
    while todo:
        node = graph.nodes[todo.pop()]
        if not isinstance(node, Const | SizeOf | Map):
            return False
        todo.extend(node.args)
    return True


def follows(node: Map) -> bool:
    """Whether a map stays in double where its arguments do."""
    return compute_dtype(node.dtype) == "f32" and rational(node.op)


@cache
def rational(op: str) -> bool:
    """Whether a row is made of field operations."""
    row = SCALARS[op]
    if row.field in ("add", "mul", "recip"):
        return True
    return row.body is not None and row.field is None and _rational_term(row.body)


def _rational_term(term: object) -> bool:
    if not isinstance(term, tuple):
        return True
    return rational(term[0]) and all(_rational_term(t) for t in term[1:])


def polynomial(graph: Graph) -> bool:
    """Whether all that a program computes are sums and products of its inputs, and of numbers."""
    for i in graph.reachable([o.node for o in graph.outputs]):
        node = graph.nodes[i]
        if isinstance(node, Reduce) and SCALARS[node.op].field != "add":
            return False
        if not isinstance(node, Map) or node.op == "cast" or fixed(graph, i):
            continue
        if node.op == "div" and fixed(graph, node.operands[1]):
            continue
        if _divides(node.op) or not rational(node.op):
            return False
    return True


def _divides(term: object) -> bool:
    if isinstance(term, str):
        return SCALARS[term].field == "recip" or _divides(SCALARS[term].body)
    return isinstance(term, tuple) and (_divides(term[0]) or any(map(_divides, term[1:])))
