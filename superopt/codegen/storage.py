"""Where the values of a placed graph are stored: global buffers and the order of their axes."""

from __future__ import annotations

from superopt.codegen.expressions import unrounded
from superopt.mugraph.axes import Axis, sort_axes
from superopt.mugraph.dtypes import short_float
from superopt.mugraph.graph import (
    Graph,
    Input,
    Map,
    Reduce,
    axis_strides,
    dense_strides,
    read_from,
)
from superopt.mugraph.layout import axis_ranks as axis_ranks
from superopt.mugraph.layout import layout_order as layout_order
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.tileir import Buffer

OUTPUT_PREFIX, SCRATCH_PREFIX = "out", "tmp"


def input_buffers(graph: Graph) -> dict[int, Buffer]:
    """One buffer per input node: its axes and their strides in elements."""
    out: dict[int, Buffer] = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Input):
            strides = axis_strides(node.dims, node.strides)
            axes = tuple(strides)
            out[i] = Buffer(node.name, "input", axes, node.dtype, tuple(strides[a] for a in axes))
    return out


def output_buffers(graph: Graph) -> dict[int, list[Buffer]]:
    """The output buffers that each node must be written to (several outputs may share a node)."""
    out: dict[int, list[Buffer]] = {}
    for k, output in enumerate(graph.outputs):
        strides = axis_strides(output.dims, output.strides)
        buffer = Buffer(
            f"{OUTPUT_PREFIX}{k}",
            "output",
            tuple(strides),
            graph.nodes[output.node].dtype,
            tuple(strides.values()),
        )
        out.setdefault(output.node, []).append(buffer)
    return out


def scratch_buffers(mugraph: MuGraph, ranks: dict[Axis, float]) -> dict[int, Buffer]:
    """Global buffers for values that one kernel stores and a later one reads."""
    graph = mugraph.graph
    short = _factors(graph)
    results = {o.node for o in graph.outputs}
    out: dict[int, Buffer] = {}
    for kernel in mugraph.kernels:
        for i in kernel.outputs:
            if i not in results or any(
                len([a for d in o.dims for a in d]) != len(graph.nodes[i].axes)
                for o in graph.outputs
                if o.node == i
            ):
                axes = layout_order(graph.nodes[i].axes, ranks)
                strides = axis_strides(
                    tuple((a,) for a in axes), dense_strides(tuple((a,) for a in axes))
                )
                out[i] = Buffer(
                    f"{SCRATCH_PREFIX}{i}",
                    "scratch",
                    axes,
                    short.get(i, graph.nodes[i].dtype),
                    tuple(strides[a] for a in axes),
                )
    return out


def _factors(graph: Graph) -> dict[int, str]:
    """Values that are read as factors of contractions alone, with the 16-bit type of the other factor.

    They are stored in that type, where eager rounds them too, for the reasons that ``Expressions._narrow``
    gives; the numeric gate judges it.
    """
    exact = unrounded(graph)
    users: dict[int, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for a in node.args:
            users.setdefault(a, []).append(i)

    def beside(i: int, product: int) -> str | None:
        """The 16-bit type of the other factor of a product that is summed at once."""
        node, sums = graph.nodes[product], users.get(product, [])
        added = all(isinstance(s := graph.nodes[j], Reduce) and s.op == "add" for j in sums)
        if not isinstance(node, Map) or node.op != "mul" or not sums or not added:
            return None
        others = [a for a in node.operands if a != i]
        return short_float(read_from(graph, others[0])) if len(others) == 1 else None

    out: dict[int, str] = {}
    for i, node in enumerate(graph.nodes):
        if i in exact or not isinstance(node, Map) or node.dtype != "f32":
            continue
        kinds = {beside(i, j) for j in users.get(i, [])}
        if len(kinds) == 1 and (kind := kinds.pop()) is not None:
            out[i] = kind
    return out


def tile_buffer(
    name: str, axes: frozenset[Axis] | tuple[Axis, ...], dtype: str, ranks: dict[Axis, float]
) -> Buffer:
    """A buffer of one task, dense over the current tiles of its axes."""
    return Buffer(name, "tile", layout_order(sort_axes(frozenset(axes)), ranks), dtype, ())
