"""Split reductions: a reduced axis on the grid, of which each task sees a part.

Every task stores what its reductions over the axis come to on its part; a merge joins the parts and
computes what follows. A plain reduction is joined by its own row. One that is carried by a
statistic (``Carry``: the value built on m is moved to m' by a factor) is first moved from its
part's statistic to that of all parts, by the factor that moves accumulators inside a loop. So
flash-decoding is what becomes of attention when the axis of the keys is placed on the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Gather, Graph, Input, Reduce, View
from superopt.mugraph.placement import Kernel, Placement
from superopt.mugraph.scalars import Arg


def reduced_over(graph: Graph, body: Sequence[int], axis: Axis) -> list[int]:
    """The reductions of a kernel body over an axis, ascending."""
    return [i for i in body if isinstance(n := graph.nodes[i], Reduce) and axis in n.over]


def split_axes(graph: Graph, body: Sequence[int], placement: Placement) -> list[Axis]:
    """The grid axes of a placement that the kernel reduces."""
    reduced = {a for i in body if isinstance(n := graph.nodes[i], Reduce) for a in n.over}
    return [s.axis for s in placement.grid if s.axis in reduced]


def why_not_split(
    graph: Graph,
    body: Sequence[int],
    outputs: Sequence[int],
    axis: Axis,
    stat_of: Mapping[int, int],
) -> str | None:
    """Why the reductions over ``axis`` cannot be made in parts, or None when they can.

    stat_of: carried reduction -> the statistic that it follows.
    """
    if any(axis in graph.nodes[i].axes for i in outputs):
        return f"an output has the axis {axis.name!r}"
    nodes = graph.nodes
    partial = {i: 1 << k for k, i in enumerate(reduced_over(graph, body, axis))}
    below: dict[int, int] = {}  # the partial reductions that each value depends on
    for i in body:
        node = nodes[i]
        mine = 0
        if isinstance(node, View | Gather):
            a = node.args[0]
            # An input is there as a whole.
            if a in below and not isinstance(nodes[a], Input) and axis in nodes[a].axes:
                return f"%{i} reads other places of the axis {axis.name!r} than its own"
        for a in node.args:
            mine |= below.get(a, 0)
        if i in partial:
            stat = stat_of.get(i)
            if stat is not None and stat not in partial:
                return f"the reduction %{i} follows a statistic that is not over {axis.name!r}"
            if mine & ~(partial[stat] if stat is not None else 0):
                return f"the reduction %{i} over {axis.name!r} needs another one to be complete"
            mine |= partial[i]
        below[i] = mine
    return None


def build_term(b: Builder, term: object, args: Sequence[int]) -> int:
    """A term over the scalar table as nodes of a graph; ``args`` stand for its arguments."""
    if isinstance(term, Arg):
        return args[term.index]
    if isinstance(term, tuple):
        return b.map(term[0], *(build_term(b, t, args) for t in term[1:]))
    return b.const(float(term))  # type: ignore[arg-type]


def stats_of(kernel: Kernel) -> dict[int, int]:
    """Each reduction that a factor carries, with its statistic; polynomials have no merge yet."""
    return {c.reduce: c.stat for c in kernel.carries if not c.rank}


__all__ = ["build_term", "reduced_over", "split_axes", "stats_of", "why_not_split"]
