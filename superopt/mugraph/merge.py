"""Gives the axes of a program as few names as it can have.

Where a value is read under another name for one of its axes, and no value has both axes, they may
as well be one: the view that renames goes, and with it the need to store what it reads. Which names
a layer came with depends on what stands before it in the program (the first layer reads an input,
the second a sum), and must not decide whether the layer is searched again.
"""

from __future__ import annotations

from dataclasses import replace

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Gather, Graph, Input, Node, Reduce, View, remap
from superopt.mugraph.rewrite import dims_with_axes, in_order, with_axes


def merge_axes(graph: Graph) -> Graph:
    """The same program with merged axes.

    Axes that two views rename into each other in ways that cannot both be are left as they are.
    """
    names = _names(graph)
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        new = in_order(with_axes(remap(node, at), names))
        if isinstance(new, View) and all(ix.rename_of() == a for a, ix in new.index):
            at[i] = new.operand
        else:
            at[i] = b.add(new)
    outputs = tuple(
        replace(o, node=at[o.node], dims=dims_with_axes(o.dims, names)) for o in graph.outputs
    )
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


def _names(graph: Graph) -> dict[Axis, Axis]:
    """The one name of each axis."""
    apart = [_together(graph, node) for node in graph.nodes]
    apart += [{a for dim in o.dims for a in dim} for o in graph.outputs]
    parent = {a: a for axes in (*apart, graph.axes) for a in axes}

    def find(a: Axis) -> Axis:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    where: dict[Axis, set[int]] = {a: set() for a in parent}
    for i, axes in enumerate(apart):
        for a in axes:
            where[a].add(i)
    for node in graph.nodes:
        if not isinstance(node, View):
            continue
        for a, ix in node.index:
            other = ix.rename_of()
            if other is None or other.size != a.size:
                continue
            # A program's input keeps no name of its own: what reads it says what it is called.
            own = isinstance(graph.nodes[node.operand], Input)
            keep, gone = (find(other), find(a)) if own else (find(a), find(other))
            if keep != gone and where[keep].isdisjoint(where[gone]):
                parent[gone] = keep
                where[keep] |= where.pop(gone)
    return {a: find(a) for a in parent}


def _together(graph: Graph, node: Node) -> set[Axis]:
    """Axes that a node needs apart."""
    out = set(node.axes)
    match node:
        case Input():
            out.update(a for dim in node.dims for a in dim)
        case Reduce():
            out.update(node.over)
        case Gather():
            out.add(node.along)
            for arg in node.args:
                out.update(graph.nodes[arg].axes)
    return out
