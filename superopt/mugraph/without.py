"""A program with symbolic sizes beside the same function captured at size 1, made comparable.

PyTorch gives a dimension of one element no axis here: it is not there, or it is broadcast. So the
inputs of the second program are read at the first place of such axes, and so are the outputs of the
first one; then both take and give the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Builder, Dims, Graph, Index, Input, Output, remap
from superopt.mugraph.resize import with_symbols
from superopt.mugraph.rewrite import dims_with_axes, with_axes

FIRST = Index(())
"""The first place of an axis."""


def at_one(
    graph: Graph, names: Sequence[str], static: Graph, inputs: Mapping[str, str]
) -> tuple[Graph, Graph] | None:
    """The two programs, to be shown equal where the symbols ``names`` are 1.

    static: the program captured with those sizes 1; inputs: each of its inputs, and the input of
    ``graph`` that it is. None where inputs or outputs have other shapes or another order in memory.
    """
    symbolic = with_symbols(graph, {name: Sym(name, 1, 1) for name in names})
    apart = {a: Axis(f"at1_{a.name}", a.size) for a in static.axes}
    nodes = tuple(with_axes(node, apart) for node in static.nodes)
    given = {node.name: node for node in symbolic.inputs}
    other, at = Builder(static.name), dict[int, int]()
    for i, node in enumerate(nodes):
        if not isinstance(node, Input):
            at[i] = other.add(remap(node, at))
            continue
        whole = given[inputs[node.name]]
        reading = _reading(whole.axes, whole.dims, node.dims)
        if reading is None or whole.dtype != node.dtype:
            return None
        at[i] = other.view(other.add(whole), reading)
    outputs = [
        replace(o, node=at[o.node], dims=dims_with_axes(o.dims, apart)) for o in static.outputs
    ]
    mine, cut = Builder(graph.name, list(symbolic.nodes)), list[Output]()
    if len(outputs) != len(symbolic.outputs):
        return None
    for whole_out, out in zip(symbolic.outputs, outputs, strict=True):
        node = symbolic.nodes[whole_out.node]
        reading = _reading(node.axes, whole_out.dims, out.dims)
        if reading is None or _order(whole_out, out) != _order(out, out):
            return None
        cut.append(replace(out, node=mine.view(whole_out.node, reading)))
    return (
        Graph(graph.name, tuple(mine.nodes), tuple(cut)),
        Graph(graph.name, tuple(other.nodes), tuple(outputs)),
    )


def _reading(axes: Sequence[Axis], dims: Dims, without: Dims) -> list[tuple[Axis, Index]] | None:
    """Where each axis is read: at the first place, or all along the axis of the other program."""
    if len(dims) != len(without):
        return None
    index = dict.fromkeys(axes, FIRST)
    for dim, less in zip(dims, without, strict=True):
        kept = [a for a in dim if a.size != 1 and not (isinstance(a.size, Sym) and a.size.hi == 1)]
        if [a.size for a in kept] != [a.size for a in less]:
            return None
        index.update((a, Index(((b, 1),))) for a, b in zip(kept, less, strict=True))
    return [(a, index[a]) for a in axes]


def _order(out: Output, long: Output) -> list[int]:
    """The order in memory of the dims that have more than one element in ``long``."""
    return [d for d in out.order or range(len(out.dims)) if long.dims[d]]
