"""Truth values in their simplest spelling: a mask that went through numbers is the comparison it was.

``ones(n, n).tril().bool()`` is ``where(i >= j, 1, 0) != 0``, which is ``i >= j``.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from superopt.mugraph.algebras.floats import scalar
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Builder, Const, Graph, Map, Node, remap
from superopt.mugraph.scalars import SCALARS

_OPPOSITE = {"le": "lt", "lt": "le"}


def plain_flags(graph: Graph) -> Graph:
    """The same program: functions of a choice between literals are choices of their results."""
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        moved = remap(node, at)
        at[i] = _added(b, moved) if isinstance(moved, Map) else b.add(moved)
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


def _added(b: Builder, node: Map) -> int:
    if node.op == "where":
        cond = b.nodes[node.operands[0]]
        if isinstance(cond, Map) and cond.op == "not":
            _, x, y = node.operands
            return _added(b, replace(node, operands=(cond.operands[0], y, x)))
        if isinstance(cond, Map) and cond.op == "lt" and _exact(b, cond):
            _, x, y = node.operands
            other = b.add(replace(cond, op="le", operands=cond.operands[::-1]))
            return b.add(replace(node, operands=(other, y, x)))
    if node.op == "not":
        return _negated(b, node)
    if node.dtype == "bool" and node.op != "where":
        choice = _choice_of_literals(b, node)
        if choice is not None:
            flag, yes, no = choice
            if yes == no:
                return b.const(yes, "bool")
            return flag if yes else _negated(b, Map(b.axes(flag), "bool", "not", (flag,)))
    return b.add(node)


def _negated(b: Builder, node: Map) -> int:
    below = b.nodes[node.operands[0]]
    if isinstance(below, Map) and below.op == "not":
        return below.operands[0]
    if isinstance(below, Map) and below.op in _OPPOSITE and _exact(b, below):
        return b.add(replace(below, op=_OPPOSITE[below.op], operands=below.operands[::-1]))
    return b.add(node)


def _exact(b: Builder, node: Map) -> bool:
    """Whether a comparison is of no floats: of those, NaN is on neither side."""
    return all(DTYPES[b.dtype(k)].kind != "float" for k in node.args)


def _choice_of_literals(b: Builder, node: Map) -> tuple[int, bool, bool] | None:
    """The condition of the one choice among a function's literal arguments, and its two results."""
    args: list[Node] = [b.nodes[k] for k in node.operands]
    choices = [x for x in args if isinstance(x, Map) and x.op == "where"]
    if len(choices) != 1 or not all(isinstance(x, Const) for x in args if x not in choices):
        return None
    (choice,) = choices
    sides = [b.nodes[k] for k in choice.operands[1:]]
    if not all(isinstance(x, Const) for x in sides) or b.axes(choice.operands[0]) != node.axes:
        return None
    found = []
    for side in sides:
        given = [_value(side if x is choice else x) for x in args]
        if node.op == "cast":
            found.append(bool(given[0]))
        else:
            found.append(bool(scalar(SCALARS[node.op], given)))
    return choice.operands[0], found[0], found[1]


def _value(node: Node) -> torch.Tensor:
    kind = DTYPES[node.dtype]
    dtype = torch.float64 if kind.kind == "float" else kind.torch
    return torch.tensor(node.value if isinstance(node, Const) else 0, dtype=dtype)
