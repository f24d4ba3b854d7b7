"""A graph or placed program over other ranges of its size symbols: same nodes, same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from superopt.mugraph.axes import Axis, Stride, Sym
from superopt.mugraph.dispatch import Guard
from superopt.mugraph.graph import Graph, Input, Node
from superopt.mugraph.placement import Kernel, MuGraph, Placement, Split
from superopt.mugraph.rewrite import dims_with_axes, with_axes

Symbols = Mapping[str, Sym]
"""Symbol name -> the symbol that takes its place."""


def symbols(graph: Graph) -> tuple[Sym, ...]:
    """The size symbols of a program's inputs, by name."""
    found = {a.size for n in graph.inputs for d in n.dims for a in d if isinstance(a.size, Sym)}
    return tuple(sorted(found))


class Resized(dict[Axis, Axis]):
    """Each axis -> the same axis with the given symbols as its size."""

    def __init__(self, given: Symbols) -> None:
        super().__init__()
        self.given = given

    def __missing__(self, axis: Axis) -> Axis:
        size = axis.size
        there = self.given.get(size.name, size) if isinstance(size, Sym) else size
        found = self[axis] = axis if there == size else Axis(axis.name, there)
        return found


def with_symbols(graph: Graph, given: Symbols) -> Graph:
    """The program with other symbols of the same names."""
    names = Resized(given)
    nodes = tuple(_node(node, names) for node in graph.nodes)
    outputs = tuple(replace(o, dims=dims_with_axes(o.dims, names)) for o in graph.outputs)
    return Graph(graph.name, nodes, outputs)


def placed_with_symbols(mugraph: MuGraph, given: Symbols) -> MuGraph:
    """The placed program with other symbols of the same names."""
    names = Resized(given)
    return MuGraph(
        with_symbols(mugraph.graph, given), tuple(_kernel(k, names) for k in mugraph.kernels)
    )


def narrowed(mugraph: MuGraph, guard: Guard) -> MuGraph:
    """The placed program with its symbols in the ranges of a guard."""
    if not guard:
        return mugraph
    return placed_with_symbols(mugraph, {name: Sym(name, low, high) for name, low, high in guard})


def _node(node: Node, names: Resized) -> Node:
    node = with_axes(node, names)
    if isinstance(node, Input):
        return replace(node, strides=tuple(_stride(s, names.given) for s in node.strides))
    return node


def _stride(stride: Stride, given: Symbols) -> Stride:
    return Stride(stride.coef, tuple(sorted(given.get(s.name, s) for s in stride.syms)))


def _kernel(kernel: Kernel, names: Resized) -> Kernel:
    return replace(kernel, placement=placement_with_axes(kernel.placement, names))


def placement_with_axes(place: Placement, names: Mapping[Axis, Axis]) -> Placement:
    """The placement over other axes."""
    grid, loop = (
        tuple(Split(names[s.axis], s.tile) for s in level) for level in (place.grid, place.loop)
    )
    return replace(place, grid=grid, loop=loop)
