"""What graphs mean, written a second time: scalar functions from numpy, one coordinate at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from superopt.mugraph.axes import Axis, extent
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import (
    Const,
    Gather,
    Graph,
    Index,
    Input,
    Iota,
    Map,
    Node,
    Reduce,
    SizeOf,
    View,
)


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[float])(x)


def _sigmoid(x: Any) -> Any:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), 1 - 1 / (1 + np.exp(-np.abs(x))))


SCALAR: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "mul": np.multiply,
    "neg": np.negative,
    "sub": np.subtract,
    "square": np.square,
    "recip": lambda x: 1 / x,
    "div": np.divide,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "exp": np.exp,
    "log": np.log,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "log1p": np.log1p,
    "expm1": np.expm1,
    "erf": _erf,
    "erfc": np.vectorize(math.erfc, otypes=[float]),
    "gelu": lambda x: x / 2 * (1 + _erf(x / math.sqrt(2))),
    "sin": np.sin,
    "cos": np.cos,
    "pow": np.power,
    "floor": np.floor,
    "ceil": np.ceil,
    "max": np.maximum,
    "min": np.minimum,
    "relu": lambda x: np.maximum(x, 0),
    "abs": np.abs,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "where": np.where,
    "not": np.logical_not,
    "and": np.logical_and,
    "or": np.logical_or,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "floordiv_real": np.floor_divide,
    "mod_real": np.mod,
}
"""The scalar functions, from numpy; ``cast`` and ``round`` depend on the node's dtype."""

Coordinates = dict[Axis, int]


def interpret(graph: Graph, tensors: list[torch.Tensor], sizes: dict[str, int]) -> list[np.ndarray]:
    """The outputs of a graph over float64, each element computed on its own."""
    given = dict(zip((n.name for n in graph.inputs), tensors, strict=True))
    values: list[dict[tuple[int, ...], Any]] = []

    def points(axes: tuple[Axis, ...]) -> Any:
        return itertools.product(*(range(extent(a.size, sizes)) for a in axes))

    def read(i: int, at: Coordinates) -> Any:
        return values[i][tuple(at[a] for a in graph.nodes[i].axes)]

    for node in graph.nodes:
        values.append(
            {
                p: _element(graph, node, dict(zip(node.axes, p, strict=True)), read, given, sizes)
                for p in points(node.axes)
            }
        )
    out = []
    for o in graph.outputs:
        flat = tuple(a for dim in o.dims for a in dim)
        data = [read(o.node, dict(zip(flat, p, strict=True))) for p in points(flat)]
        shape = [math.prod(extent(a.size, sizes) for a in dim) for dim in o.dims]
        out.append(np.array(data).reshape(shape))
    return out


def _element(
    graph: Graph,
    node: Node,
    at: Coordinates,
    read: Callable[[int, Coordinates], Any],
    given: dict[str, torch.Tensor],
    sizes: dict[str, int],
) -> Any:
    match node:
        case Input():
            where = []
            for dim in node.dims:
                k = 0
                for a in dim:
                    k = k * extent(a.size, sizes) + at[a]
                where.append(k)
            value = given[node.name][tuple(where)].item()
            return np.float64(value) if is_float(node.dtype) else value
        case Const():
            return np.float64(node.value) if is_float(node.dtype) else node.value
        case SizeOf():
            n = extent(node.axis.size, sizes)
            return np.float64(n) if is_float(node.dtype) else n
        case Iota():
            return at[node.axes[0]]
        case Map():
            args = [read(i, at) for i in node.operands]
            if node.op == "cast":
                return np.float64(args[0]) if is_float(node.dtype) else int(args[0])
            return SCALAR[node.op](*args)[()]
        case Reduce():
            over = itertools.product(*(range(extent(a.size, sizes)) for a in node.over))
            values = [
                read(node.operand, {**at, **dict(zip(node.over, p, strict=True))}) for p in over
            ]
            total = values[0]
            for value in values[1:]:
                total = SCALAR[node.op](total, value)
            return total
        case View():
            return read(node.operand, {a: _index(ix, at) for a, ix in node.index})
        case Gather():
            return read(node.operand, {**at, node.along: int(read(node.at, at))})
    raise TypeError(node)


def _index(ix: Index, at: Coordinates) -> int:
    k = (ix.offset + sum(c * at[a] for a, c in ix.terms)) // ix.div
    k = k if ix.mod is None else k % ix.mod
    k = k if ix.lo is None else max(k, ix.lo)
    return k if ix.hi is None else min(k, ix.hi)
