"""The one evaluator: a graph is run under an algebra, which says what a value is.

A new meaning of programs (floats, a finite field, abstract terms, text) is a new algebra, not a
new traversal. Composite scalar rows are unfolded here unless the algebra takes them directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from superopt.mugraph.axes import Axis, extent
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
from superopt.mugraph.scalars import SCALARS, Scalar

Axes = tuple[Axis, ...]


class Algebra(Protocol):
    """What a value is. Every value belongs to a node's axes, which are passed beside it."""

    def input(self, node: Input) -> Any:
        """The value of an input, its axes in the order ``node.axes``."""

    def const(self, node: Const) -> Any:
        """A literal (no axes)."""

    def size_of(self, node: SizeOf) -> Any:
        """The number of elements along an axis (no axes)."""

    def iota(self, node: Iota) -> Any:
        """The index along the node's one axis."""

    def map(self, row: Scalar, node: Map, args: list[Any], axes: list[Axes]) -> Any:
        """A scalar row applied to arguments that have the given axes; result on ``node.axes``."""

    def reduce(self, row: Scalar, node: Reduce, value: Any, axes: Axes) -> Any:
        """A reduction of ``value`` (on ``axes``) along ``node.over``."""

    def view(self, node: View, value: Any, axes: Axes) -> Any:
        """A layout operator."""

    def gather(self, node: Gather, value: Any, axes: Axes, at: Any, at_axes: Axes) -> Any:
        """A read at a run-time index."""


def evaluate(
    graph: Graph,
    algebra: Algebra,
    given: Mapping[int, Any] | None = None,
    roots: Iterable[int] | None = None,
) -> dict[int, Any]:
    """Runs the graph under an algebra; returns the value of every node that ``roots`` needs.

    ``given`` overrides the values of some nodes (a cut: they and what only they need are not
    computed). ``roots`` defaults to the graph's outputs.
    """
    out: dict[int, Any] = dict(given or {})
    wanted = [o.node for o in graph.outputs] if roots is None else list(roots)
    todo, needed = list(wanted), set()
    while todo:
        i = todo.pop()
        if i in needed or i in out:
            continue
        needed.add(i)
        todo.extend(graph.nodes[i].args)
    for i in sorted(needed):
        out[i] = apply_node(graph, algebra, graph.nodes[i], out)
    return out


def apply_node(graph: Graph, algebra: Algebra, node: Node, env: Mapping[int, Any]) -> Any:
    """The value of one node, given the values of its arguments by id."""
    axes = graph.nodes
    match node:
        case Input():
            return algebra.input(node)
        case Const():
            return algebra.const(node)
        case SizeOf():
            return algebra.size_of(node)
        case Iota():
            return algebra.iota(node)
        case Map():
            return algebra.map(
                SCALARS[node.op],
                node,
                [env[i] for i in node.operands],
                [axes[i].axes for i in node.operands],
            )
        case Reduce():
            return algebra.reduce(
                SCALARS[node.op], node, env[node.operand], axes[node.operand].axes
            )
        case View():
            return algebra.view(node, env[node.operand], axes[node.operand].axes)
        case Gather():
            return algebra.gather(
                node, env[node.operand], axes[node.operand].axes, env[node.at], axes[node.at].axes
            )
    raise TypeError(f"unknown node {node!r}")


# -- what array-valued algebras share ------------------------------------------------------------


def spread_shape(axes: Axes, to: Axes, shape: tuple[int, ...]) -> tuple[list[int], tuple[int, ...]]:
    """How to broadcast an array on ``axes`` to ``to``: (permutation, shape with 1s inserted).

    Every axis of ``axes`` must be in ``to``; the permutation sorts the array's dims as in ``to``.
    """
    order = sorted(range(len(axes)), key=lambda i: to.index(axes[i]))
    sizes = dict(zip(axes, shape, strict=True))
    return order, tuple(sizes.get(a, 1) for a in to)


def index_values(index: Index, axes: Axes, shape: tuple[int, ...]) -> np.ndarray:
    """The integer array that an Index denotes, broadcastable over ``axes`` (with that shape)."""
    total = np.full((1,) * len(axes), index.offset, dtype=np.int64)
    for axis, coef in index.terms:
        at = axes.index(axis)
        line = np.arange(shape[at], dtype=np.int64) * coef
        total = total + line.reshape([-1 if i == at else 1 for i in range(len(axes))])
    total = total // index.div
    if index.mod is not None:
        total = total % index.mod
    if index.lo is not None:
        total = np.maximum(total, index.lo)
    if index.hi is not None:
        total = np.minimum(total, index.hi)
    return np.asarray(total)  # with no axes, numpy's arithmetic has left the arrays


def shape_of(axes: Axes, sizes: Mapping[str, int] | None) -> tuple[int, ...]:
    """Concrete shape of a value on ``axes``; symbols are looked up by symbol name."""
    return tuple(extent(a.size, sizes) for a in axes)
