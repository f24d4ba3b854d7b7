"""A quick normal form: the same for programs that are alike but for the names of axes and tensors.

Nodes are numbered in postorder from the outputs, with the arguments of commutative rows ordered by
what they compute, and axes by their first appearance. Unlike ``canonical`` it does not settle what
is still tied, so it may tell apart programs that are alike, and never takes others for alike. The
layers of a model, which one piece of code wrote, come out equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import (
    Const,
    Gather,
    Graph,
    Input,
    Iota,
    Map,
    Node,
    Output,
    Reduce,
    SizeOf,
    View,
    remap,
)
from superopt.mugraph.rewrite import commutes, dims_with_axes, in_order, with_axes


@dataclass(frozen=True)
class Alike:
    """A graph in its quick normal form, and what its parts were called.

    axes: axis of the normal form -> the graph's own; inputs: the graph's own input nodes, of which
    the k-th is called ``in{k}`` there.
    """

    graph: Graph
    axes: dict[Axis, Axis]
    inputs: tuple[int, ...]


def alike(graph: Graph) -> Alike:
    """The quick normal form of a graph; inputs that no output needs are left out."""
    digests = _digests(graph)
    order = _postorder(graph, digests)
    names: dict[Axis, Axis] = {}
    for i in order:
        for axis in _introduced(graph.nodes[i], names):
            names.setdefault(axis, Axis(f"a{len(names):03}", axis.size))
    for out in graph.outputs:
        for axis in (x for dim in out.dims for x in dim):
            names.setdefault(axis, Axis(f"a{len(names):03}", axis.size))
    inputs = tuple(i for i in order if isinstance(graph.nodes[i], Input))
    at: dict[int, int] = {}
    nodes: list[Node] = []
    for i in order:
        node = with_axes(remap(graph.nodes[i], at), names)
        if isinstance(node, Input):
            node = replace(node, name=f"in{inputs.index(i)}")
        at[i] = len(nodes)
        nodes.append(in_order(node))
    outputs = tuple(
        Output(f"out{k}", at[o.node], dims_with_axes(o.dims, names), o.order)
        for k, o in enumerate(graph.outputs)
    )
    return Alike(
        Graph("graph", tuple(nodes), outputs), {new: old for old, new in names.items()}, inputs
    )


def _digests(graph: Graph) -> dict[int, bytes]:
    """What each node computes, the names of axes left out."""
    out: dict[int, bytes] = {}
    for i in graph.reachable([o.node for o in graph.outputs]):
        node = graph.nodes[i]
        args = [out[a] for a in node.args]
        own: tuple[object, ...] = (type(node).__name__, node.dtype, _sizes(node.axes))
        match node:
            case Input():
                own += ([[a.size for a in dim] for dim in node.dims], node.strides)
            case Const():
                own += (repr(node.value),)
            case SizeOf():
                own += (node.axis.size,)
            case Map():
                own += (node.op,)
            case Reduce():
                own += (node.op, _sizes(node.over))
            case View():
                index = ((a.size, replace(ix, terms=()), len(ix.terms)) for a, ix in node.index)
                own += (sorted(map(repr, index)),)
            case Gather():
                own += (node.along.size,)
        parts = sorted(args) if commutes(node) else args
        out[i] = hashlib.blake2b(repr((own, parts)).encode(), digest_size=16).digest()
    return out


def _sizes(axes: Iterable[Axis]) -> list[str]:
    return sorted(str(a.size) for a in axes)


def _postorder(graph: Graph, digests: dict[int, bytes]) -> list[int]:
    """The nodes that the outputs need, arguments first."""
    order: dict[int, None] = {}
    todo = [(o.node, False) for o in reversed(graph.outputs)]
    while todo:
        i, ready = todo.pop()
        if i in order:
            continue
        if ready:
            order[i] = None
            continue
        args = list(graph.nodes[i].args)
        if commutes(graph.nodes[i]):
            args.sort(key=lambda a: digests[a])
        todo.append((i, True))
        todo += [(a, False) for a in reversed(args)]
    return list(order)


def _introduced(node: Node, known: dict[Axis, Axis]) -> Iterable[Axis]:
    """The axes that a node brings in, in an order that does not depend on their names."""
    match node:
        case Input():
            return [a for dim in node.dims for a in dim]
        case Iota():
            return node.axes
        case SizeOf():
            return (node.axis,)
        case View():
            index = sorted(node.index, key=lambda e: known[e[0]].name)
            return [
                a
                for _, ix in index
                for a, _ in sorted(ix.terms, key=lambda t: (-t[1], str(t[0].size)))
            ]
    return ()
