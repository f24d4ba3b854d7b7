"""In which order the axes of a value lie that a program stores between its kernels."""

from __future__ import annotations

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Dims, Graph, Input, View, axis_strides


def axis_ranks(graph: Graph) -> dict[Axis, float]:
    """How far from the innermost position each axis is stored, on average over inputs and outputs.

    Tile buffers and scratch are laid out by it, so that the axis which is contiguous in memory is
    contiguous in them as well, and vector loads need no shuffles.
    """
    places: dict[Axis, list[int]] = {}

    def note(dims: Dims, names: dict[Axis, Axis] | None = None) -> None:
        flat = [a for dim in dims for a in dim]
        for i, a in enumerate(reversed(flat)):
            places.setdefault((names or {}).get(a, a), []).append(i)

    for node in graph.nodes:
        if isinstance(node, Input):
            note(
                tuple(
                    (a,)
                    for a, _ in sorted(
                        axis_strides(node.dims, node.strides).items(), key=lambda p: -p[1].coef
                    )
                )
            )
        if isinstance(node, View) and isinstance(graph.nodes[node.operand], Input):
            source = graph.nodes[node.operand]
            names = {a: r for a, ix in node.index if (r := ix.rename_of())}
            if isinstance(source, Input) and len(names) == len(node.index):
                note(source.dims, names)
    for out in graph.outputs:
        note(tuple(out.dims[d] for d in out.order) or out.dims)
    return {a: min(p) + 0.1 * sum(p) / len(p) for a, p in places.items()}


def layout_order(axes: tuple[Axis, ...], ranks: dict[Axis, float]) -> tuple[Axis, ...]:
    """The axes of a buffer, outermost first: the axis stored innermost elsewhere comes last."""
    return tuple(sorted(axes, key=lambda a: (-ranks.get(a, 9.0), a.name)))
