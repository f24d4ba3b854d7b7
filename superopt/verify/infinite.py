"""Which values of a graph may be infinite although its float inputs are finite: masks by -inf.

A check that puts a fresh input in place of a value (``superopt.verify.sweep``) draws it finite, so
a value that may be infinite is not replaced. Which infinities a scalar row gives is read off its
float meaning, at representatives of its arguments. NaN is no infinity: a program is compared where
it is defined.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch

from superopt.mugraph.algebras.floats import scalar
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Graph, Input, Map, Node, Reduce
from superopt.mugraph.scalars import SCALARS, adds, uses

Signs = frozenset[float]
"""The infinities that a value may take."""

FINITE: Signs = frozenset()
_ORDINARY = (-2.5, -0.5, 0.5, 2.5)


def infinities(graph: Graph) -> list[Signs]:
    """For each node, the infinities that it may take where it is defined."""
    out: list[Signs] = []
    for node in graph.nodes:
        if not is_float(node.dtype):
            out.append(FINITE)
        elif isinstance(node, Const):
            out.append(frozenset({float(node.value)}) if math.isinf(node.value) else FINITE)
        elif isinstance(node, Map):
            given = tuple(out[a] for a in node.operands)
            kinds = tuple(graph.nodes[a].dtype == "bool" for a in node.operands)
            found = out[node.args[0]] if _keeps(node) else _of_row(node.op, given, kinds)
            out.append(found - {math.inf} if _below_own_maximum(graph, node) else found)
        elif isinstance(node, Reduce):
            # Of a prefix and the next term: closed under one more, since only signs are told apart.
            given = (out[node.operand],) * 2
            out.append(out[node.operand] | _of_row(node.op, given, (False, False)))
        else:
            out.append(out[node.args[0]] if node.args else FINITE)
    return out


def scales_infinity(graph: Graph) -> bool:
    """Whether a value that may be infinite is multiplied by one whose sign depends on the inputs."""
    signs = infinities(graph)
    depends: list[bool] = []
    for node in graph.nodes:
        depends.append(isinstance(node, Input) or any(depends[k] for k in node.args))
        if isinstance(node, Map) and uses(node.op, "mul") and not adds(node.op):
            for k in node.operands:
                if signs[k] and any(depends[j] for j in node.operands if j != k):
                    return True
    return False


def any_value(graph: Graph) -> list[bool]:
    """For each node, whether a fresh input may stand for it: a finite float, or a truth value."""
    return [
        not signs and (is_float(node.dtype) or node.dtype == "bool")
        for node, signs in zip(graph.nodes, infinities(graph), strict=True)
    ]


def _keeps(node: Map) -> bool:
    return SCALARS[node.op].field == "cast" or node.op == "round"


@lru_cache(maxsize=4096)
def _of_row(op: str, given: tuple[Signs, ...], truth: tuple[bool, ...]) -> Signs:
    """The infinities among a row's results; its arguments may take those given."""
    if not any(given):  # a result that overflows is no infinity of the program's
        return FINITE
    choices = [
        (0.0, 1.0) if is_truth else (*_ORDINARY, *sorted(signs))
        for signs, is_truth in zip(given, truth, strict=True)
    ]
    columns = torch.tensor(list(itertools.product(*choices)), dtype=torch.float64).T
    args = [c.bool() if t else c for c, t in zip(columns, truth, strict=True)]
    result = scalar(SCALARS[op], args)
    if result.dtype == torch.bool:
        return FINITE
    return frozenset(x for x in (-math.inf, math.inf) if bool((result == x).any()))


def _below_own_maximum(graph: Graph, node: Map) -> bool:
    """Whether the node is x - max x, which is at most 0."""
    sides = _difference(graph, node)
    if sides is None:
        return False
    x, top = (_through(graph, i) for i in sides)
    maximum = graph.nodes[top]
    return (
        isinstance(maximum, Reduce)
        and maximum.op == "max"
        and _through(graph, maximum.operand) == x
    )


def _difference(graph: Graph, node: Map) -> tuple[int, int] | None:
    """The x and y of x - y, also where that is x + (-1) y."""
    if node.op == "sub":
        return node.operands[0], node.operands[1]
    for x, other in (node.operands, node.operands[::-1]) if node.op == "add" else ():
        times = graph.nodes[other]
        if not isinstance(times, Map) or times.op not in ("mul", "neg"):
            continue
        minus = [k for k in times.args if getattr(graph.nodes[k], "value", None) == -1.0]
        rest = [k for k in times.args if k not in minus]
        if len(rest) == 1 and (times.op == "neg") != bool(minus):
            return x, rest[0]
    return None


def _through(graph: Graph, i: int) -> int:
    """The node that ``i`` is once casts are seen through."""
    node: Node = graph.nodes[i]
    while isinstance(node, Map) and _keeps(node):
        i = node.operands[0]
        node = graph.nodes[i]
    return i
