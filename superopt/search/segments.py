"""A large program in segments that are searched one by one, those of one form once.

A segment ends at the values that the rest of the program reads more than once and that are stored
in any case: the sums of a residual stream. What a segment needs of an earlier one beside those, and
what only moves data or compares positions, is stored there or computed again here, whichever costs
no contraction twice. The segments of a model's layers are alike, so a model of 28 layers costs the
search of one (design: Kernels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from superopt.mugraph.alike import Alike, alike
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import (
    Builder,
    Dims,
    Graph,
    Input,
    Map,
    Output,
    Reduce,
    dense_strides,
    remap,
)
from superopt.mugraph.layout import axis_ranks, layout_order
from superopt.mugraph.placement import Kernel, MuGraph, Split
from superopt.mugraph.rewrite import in_order, with_axes
from superopt.mugraph.scalars import adds
from superopt.search.cut import compact, renumbered
from superopt.search.cut_points import reduces_below
from superopt.search.regions import is_algebraic, is_transparent, streams

SMALL = 64
"""Nodes up to which a program is one segment."""


@dataclass(frozen=True)
class Segment:
    """A part of a program as a program of its own.

    form: its quick normal form; reads: the program's nodes behind the form's inputs, in order;
    makes: the program's nodes behind its outputs, in order.
    """

    form: Alike
    reads: tuple[int, ...]
    makes: tuple[int, ...]


def segments(graph: Graph, small: int = SMALL) -> list[Segment]:
    """The segments of a program in execution order; one of a small program."""
    live = graph.reachable([o.node for o in graph.outputs])
    ends = _ends(graph, live) if len(live) > small else set()
    number = _numbers(graph, live, ends)
    outputs = {o.node for o in graph.outputs}
    stored = ends | {
        a
        for i in live
        for a in graph.nodes[i].args
        if number[a] < number[i] and reduces_below(graph, a, ends - {a})
    }
    ranks, out = axis_ranks(graph), []
    for k in range(max(number.values(), default=0) + 1):
        makes = sorted(i for i in (stored | outputs) if number[i] == k)
        makes = [i for i in makes if not isinstance(graph.nodes[i], Input) or i in outputs]
        if makes:
            out.append(_segment(graph, makes, stored, ranks))
    return out


def _ends(graph: Graph, live: list[int]) -> set[int]:
    """The sums that end a segment: each with a reduction since the one before it."""
    inner = [i for i in live if is_algebraic(graph, i)]
    sums = streams(graph, inner, set(live))
    ends: set[int] = set()
    fresh: dict[int, bool] = {}  # whether a reduction lies below, and no end in between
    for i in live:
        node = graph.nodes[i]
        fresh[i] = isinstance(node, Reduce) or any(fresh[a] for a in node.args if a not in ends)
        if i in sums and fresh[i] and is_float(node.dtype):
            ends.add(i)
    return ends


def _numbers(graph: Graph, live: list[int], ends: set[int]) -> dict[int, int]:
    """For each node, the segment that computes it: one more than the ends that lie below it."""
    out: dict[int, int] = {}
    for i in live:
        out[i] = max((out[a] + (a in ends) for a in graph.nodes[i].args), default=0)
    return out


def _segment(graph: Graph, makes: list[int], stored: set[int], ranks: dict[Axis, float]) -> Segment:
    """The program that makes these nodes, with inputs for what earlier segments store."""

    def dims(i: int) -> Dims:
        return tuple((x,) for x in layout_order(graph.nodes[i].axes, ranks))

    inside, edge = set[int](), set[int]()
    todo = list(makes)
    while todo:
        i = todo.pop()
        if i in inside or i in edge:
            continue
        if i in stored and i not in makes:
            edge.add(i)
        else:
            inside.add(i)
            todo.extend(graph.nodes[i].args)
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i in sorted(inside | edge):
        node = graph.nodes[i]
        if i in edge:
            # No input of a user has such a name.
            name = f"<stored {i}>"
            node = Input(node.axes, node.dtype, name, dims(i), dense_strides(dims(i)))
        at[i] = b.add(remap(node, at))
    back = {new: old for old, new in at.items()}
    results = tuple(Output(f"out{k}", at[i], dims(i)) for k, i in enumerate(makes))
    form = alike(_as_stored(Graph(graph.name, tuple(b.nodes), results)))
    return Segment(form, tuple(back[i] for i in form.inputs), tuple(makes))


def _as_stored(graph: Graph) -> Graph:
    """The segment with the input of a residual stream in the type and layout of the stream's sums.

    The first layer adds to an input, which it casts first, where the others add to a stored sum. The
    cast is made where the segments are joined.
    """
    users, nodes = graph.users(), list(graph.nodes)
    terms = {a for o in graph.outputs if _sums(graph, o.node) for a in graph.nodes[o.node].args}
    at = list(range(len(nodes)))
    for i, node in enumerate(graph.nodes):
        if not isinstance(node, Input) or node.strides != dense_strides(node.dims):
            continue
        casts = {*users[i]}
        if len(casts) != 1 or not is_transparent(graph, cast := casts.pop()) or cast not in terms:
            continue
        if all(isinstance(graph.nodes[u], Map | Reduce) for u in users[cast]):
            dims = tuple((a,) for dim in node.dims for a in dim)
            dtype = graph.nodes[cast].dtype
            nodes[i] = replace(node, dtype=dtype, dims=dims, strides=dense_strides(dims))
            at[cast] = i
    return Graph(graph.name, tuple(remap(n, at) for n in nodes), graph.outputs)


def _sums(graph: Graph, i: int) -> bool:
    node = graph.nodes[i]
    return isinstance(node, Map) and adds(node.op)


def joined(graph: Graph, parts: Sequence[tuple[Segment, MuGraph]]) -> MuGraph:
    """The placed program made of placed segments, each given in the names of its normal form.

    A value that a segment takes in another type is read through a cast.
    """
    b = Builder(graph.name)
    made: dict[int, int] = {}  # node of the program -> node of the placed one
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Input):
            made[i] = b.add(node)
    kernels: list[Kernel] = []
    for segment, placed in parts:
        names = segment.form.axes
        at: dict[int, int] = {}
        given = {f"in{k}": made[i] for k, i in enumerate(segment.reads)}
        for j, node in enumerate(placed.graph.nodes):
            if isinstance(node, Input):
                read = given[node.name]
                same = b.dtype(read) == node.dtype
                at[j] = read if same else b.map("cast", read, dtype=node.dtype)
            else:
                at[j] = b.add(in_order(with_axes(remap(node, at), names)))
        for i, out in zip(segment.makes, placed.graph.outputs, strict=True):
            made[i] = at[out.node]
        kernels += [_renamed(k, len(kernels) + n, names, at) for n, k in enumerate(placed.kernels)]
    outputs = [replace(o, node=made[o.node]) for o in graph.outputs]
    program, new = compact(Graph(graph.name, tuple(b.nodes), tuple(outputs)))
    return MuGraph(program, tuple(renumbered(k, new) for k in kernels))


def _renamed(kernel: Kernel, n: int, names: dict[Axis, Axis], at: dict[int, int]) -> Kernel:
    place = kernel.placement
    grid, loop = (
        tuple(Split(names[s.axis], s.tile) for s in level) for level in (place.grid, place.loop)
    )
    return Kernel(
        f"k{n}",
        tuple(at[i] for i in kernel.outputs),
        replace(place, grid=grid, loop=loop),
        tuple(replace(c, reduce=at[c.reduce], stat=at[c.stat]) for c in kernel.carries),
    )
