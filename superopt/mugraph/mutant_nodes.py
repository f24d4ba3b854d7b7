"""Single mutations of one operator of a graph: its row, its arguments, its axes, its constants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from superopt.errors import IllFormedGraph
from superopt.mugraph.axes import Axis, Stride, Sym
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import (
    Builder,
    Const,
    Gather,
    Graph,
    Index,
    Input,
    Map,
    Node,
    Output,
    Reduce,
    SizeOf,
    View,
    remap,
)
from superopt.mugraph.scalars import REDUCTIONS, SCALARS

Make = Callable[[Builder, Node], int]
"""What stands for a node, whose arguments are numbers of the builder's nodes."""

FAR = -1e4
"""What stands for minus infinity in masks that are written carelessly."""

Choice = Iterator[tuple[str, "Node | Make"]]


def node_edits(graph: Graph, i: int) -> Choice:
    """The mutations of node ``i``: the node that takes its place, or what makes it."""
    node = graph.nodes[i]
    for slot, a in enumerate(node.args):
        for b in range(i):
            like = graph.nodes[b]
            if b != a and (like.axes, like.dtype) == (graph.nodes[a].axes, graph.nodes[a].dtype):
                yield "wiring", _rewired(node, slot, b)
    for slot, a in enumerate(node.args):
        yield from _bypasses(graph, node, slot, graph.nodes[a])
    match node:
        case Input():
            yield from _input_edits(node)
        case Const():
            yield from _const_edits(node)
        case SizeOf():
            for axis in graph.axes:
                if axis != node.axis:
                    yield "size_of", replace(node, axis=axis)
            yield "size off by one", _sum_with(-1)
        case Map():
            yield from _map_edits(graph, node)
        case Reduce():
            yield from _reduce_edits(graph, node)
        case View():
            yield from _view_edits(node)
        case Gather():
            for axis in graph.nodes[node.operand].axes:
                if axis != node.along:
                    yield "gather axis", replace(node, along=axis)
            if isinstance(node.along.size, int):
                yield "gather off by one", _next_row


# -- graphs made anew --------------------------------------------------------------------------------


def rebuilt(graph: Graph, made: Mapping[int, Make], first: Sequence[Node] = ()) -> Graph:
    """The graph with some nodes made in another way, and the axes of the others derived anew.

    first: nodes that come before all others, in this order. Raises IllFormedGraph.
    """
    b = Builder(graph.name)
    for node in first:
        b.add(node)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        at[i] = made.get(i, rederived)(b, remap(node, at))
    outputs: list[Output] = [replace(o, node=at[o.node]) for o in graph.outputs]
    return Graph(graph.name, tuple(b.nodes), tuple(outputs))


def rederived(b: Builder, node: Node) -> int:
    """A node over arguments that may have fewer axes than before."""
    match node:
        case Map():
            made = b.map(node.op, *node.operands, dtype=node.dtype)
            return _as(b, made, node.dtype)
        case Reduce():
            return b.reduce(node.op, node.operand, [a for a in node.over if a in _axes(b, node)])
        case View():
            return b.view(node.operand, [(a, ix) for a, ix in node.index if a in _axes(b, node)])
        case Gather() if node.along not in _axes(b, node):
            return node.operand
        case Gather():
            return b.gather(node.operand, node.along, node.at)
    return b.add(node)


def _axes(b: Builder, node: Reduce | View | Gather) -> tuple[Axis, ...]:
    return b.axes(node.operand)


def _as(b: Builder, i: int, dtype: str) -> int:
    return i if b.dtype(i) == dtype else b.map("cast", i, dtype=dtype)


def _argument(slot: int) -> Make:
    """One argument alone."""

    def made(b: Builder, node: Node) -> int:
        return _as(b, node.args[slot], node.dtype)

    return made


def _sum_with(value: float) -> Make:
    """The node plus a number."""

    def made(b: Builder, node: Node) -> int:
        i = rederived(b, node)
        return b.map("add", i, b.const(value, node.dtype), dtype=node.dtype)

    return made


# -- kinds -------------------------------------------------------------------------------------------


def _rewired(node: Node, slot: int, b: int) -> Node:
    match node:
        case Map():
            return replace(node, operands=(*node.operands[:slot], b, *node.operands[slot + 1 :]))
        case Gather():
            return replace(node, operand=b) if slot == 0 else replace(node, at=b)
    return replace(node, operand=b)  # type: ignore[call-arg]


_LOST = {"sub": "shift lost", "mul": "rescale lost", "div": "rescale lost", "where": "mask lost"}


def _bypasses(graph: Graph, node: Node, slot: int, arg: Node) -> Choice:
    """One reader of a value reads what it was made from: a shift or a rescale lost in one place."""
    if not isinstance(arg, Map) or arg.op in ("cast", "round") or len(graph.users()) < 2:
        return
    for k, inner in enumerate(arg.operands):
        if DTYPES[graph.nodes[inner].dtype].kind != DTYPES[arg.dtype].kind:
            continue

        def made(b: Builder, new: Node, k: int = k) -> int:
            source = b.nodes[new.args[slot]]
            if not isinstance(source, Map) or k >= len(source.operands):
                raise IllFormedGraph("the value was made in another way", b.name, "leave it")
            value = _as(b, source.operands[k], source.dtype)
            return rederived(b, _rewired(new, slot, value))

        yield _LOST.get(arg.op, "operation lost"), made


def _input_edits(node: Input) -> Choice:
    for k, s in enumerate(node.strides):
        new = (*node.strides[:k], Stride(s.coef + 1, s.syms), *node.strides[k + 1 :])
        yield "stride", replace(node, strides=new)
    if len(node.dims) > 1:
        yield "dims", replace(node, dims=node.dims[::-1])
        dims = (node.dims[0] + node.dims[1], *node.dims[2:])
        yield "dims merged", replace(node, dims=dims, strides=node.strides[1:])


def _const_edits(node: Const) -> Choice:
    value = node.value
    if isinstance(value, bool):
        yield "constant", replace(node, value=not value)
    elif not is_float(node.dtype):
        for step in (1, -1):
            yield "constant off by one", replace(node, value=int(value) + step)
    elif math.isinf(value):
        yield "infinity made finite", replace(node, value=math.copysign(FAR, value))
        yield "sign", replace(node, value=-value)
    else:
        yield "constant", replace(node, value=value + 1e-9)
        yield "constant", replace(node, value=value * (1 + 1e-9) if value else 1e-30)
        yield "sign", replace(node, value=-value)
        yield "zero for one", replace(node, value=1.0 if value == 0 else 0.0)
        for factor in (2.0, 0.5):
            yield "power of two", replace(node, value=value * factor)


_TERMS = ("add", "sub")
_PARTS = (*_TERMS, "mul", "div", "max", "min", "and", "or")


def _map_edits(graph: Graph, node: Map) -> Choice:
    mine = SCALARS[node.op]
    for op, row in SCALARS.items():
        same = (row.arity, row.result) == (mine.arity, mine.result)
        if op != node.op and same and op not in ("cast", "round"):
            yield "row", replace(node, op=op)
    if len(node.operands) > 1 and "commutative" not in mine.laws:
        swapped = (*node.operands[:-2], node.operands[-1], node.operands[-2])
        yield "operands swapped", replace(node, operands=swapped)
    if node.op in _PARTS:
        kind = "term dropped" if node.op in _TERMS else "factor dropped"
        for slot in range(2):
            dropped = node.operands[1 - slot]
            sized = node.op in ("mul", "div") and _is_size(graph, dropped)
            yield "1/n dropped" if sized else kind, _argument(slot)
    if node.op == "where":
        yield "mask dropped", _argument(1)
        yield "mask dropped", _argument(2)
    if node.op in ("cast", "round"):
        yield from _moved_casts(graph, node)
        if node.op == "round":
            yield "rounding dropped", _argument(0)


def _is_size(graph: Graph, i: int) -> bool:
    """Whether a value is made of sizes of axes alone."""
    below = [graph.nodes[j] for j in graph.reachable([i])]
    return any(isinstance(n, SizeOf) for n in below) and not any(
        isinstance(n, Input) for n in below
    )


def _moved_casts(graph: Graph, node: Map) -> Choice:
    """A value is cast or rounded before the operation instead of after it, or the other way round."""
    inner = graph.nodes[node.operands[0]]
    if not isinstance(inner, Map | Reduce) or getattr(inner, "op", "") in ("cast", "round"):
        return
    fits = [DTYPES[graph.nodes[a].dtype].kind == DTYPES[inner.dtype].kind for a in inner.args]
    if not all(fits):
        return

    def before(b: Builder, new: Node) -> int:
        old, outer = b.nodes[new.args[0]], new
        if not isinstance(outer, Map) or not isinstance(old, Map | Reduce):
            raise IllFormedGraph("the value was made in another way", b.name, "leave it")
        args = [b.map(outer.op, a, dtype=outer.dtype) for a in old.args]
        if isinstance(old, Reduce):
            return _as(b, b.reduce(old.op, args[0], old.over), outer.dtype)
        return _as(b, b.map(old.op, *args, dtype=outer.dtype), outer.dtype)

    yield f"{node.op} moved", before


def _reduce_edits(graph: Graph, node: Reduce) -> Choice:
    for op in REDUCTIONS:
        if op != node.op:
            yield "reduction", replace(node, op=op)
    inner = graph.nodes[node.operand].axes
    for axis in node.over:
        for other in inner:
            if other not in node.over and other.size == axis.size:
                yield "reduced axis", _over(axis, other)
        yield "last element left out", _without_last(axis)
        if len(node.over) > 1:
            yield "reduced axis left out", _at_zero(axis)
    if not isinstance(REDUCTIONS[node.op].identity, bool):
        yield "stale accumulator", _sum_with(1)


def _over(axis: Axis, other: Axis) -> Make:
    """Reduces another axis of the same size, which then has the name of the first."""

    def made(b: Builder, node: Node) -> int:
        if not isinstance(node, Reduce):
            return rederived(b, node)
        over = [other if a == axis else a for a in node.over]
        return b.rename(b.reduce(node.op, node.operand, over), {axis: other})

    return made


def _without_last(axis: Axis) -> Make:
    """A bound that is off by one: the last element along an axis does not take part."""

    def made(b: Builder, node: Node) -> int:
        if not isinstance(node, Reduce) or axis not in b.axes(node.operand):
            return rederived(b, node)
        size = b.size_of(axis, "i64")
        taken = b.map("lt", b.iota(axis), b.map("add", size, b.const(-1, "i64")))
        identity = REDUCTIONS[node.op].identity
        if isinstance(identity, bool):
            rest = b.map("not", taken) if identity else taken
            value = b.map("or" if identity else "and", node.operand, rest)
        elif not is_float(node.dtype) and not math.isfinite(float(identity or 0)):
            return rederived(b, node)
        else:
            rest = b.const(float(identity or 0), node.dtype)
            value = b.map("where", taken, node.operand, rest, dtype=node.dtype)
        return b.reduce(node.op, value, node.over)

    return made


def _at_zero(axis: Axis) -> Make:
    """One of several axes is read at its first element instead of being reduced."""

    def made(b: Builder, node: Node) -> int:
        if not isinstance(node, Reduce) or axis not in b.axes(node.operand):
            return rederived(b, node)
        value = b.view(node.operand, [(axis, Index())])
        return b.reduce(node.op, value, [a for a in node.over if a != axis])

    return made


def _view_edits(node: View) -> Choice:
    for k, (axis, ix) in enumerate(node.index):

        def with_index(new: Index, k: int = k, axis: Axis = axis) -> View:
            return replace(node, index=(*node.index[:k], (axis, new), *node.index[k + 1 :]))

        for new in index_edits(ix):
            yield "index", with_index(new)
        if isinstance(axis.size, int):
            for step in (1, -1):
                clamped = replace(ix, offset=ix.offset + step, lo=0, hi=axis.size - 1)
                yield "index off by one", with_index(clamped)
    for p, q in itertools.combinations(node.axes, 2):
        if p.size == q.size:
            other = {p: q, q: p}
            yield (
                "axes transposed",
                replace(
                    node,
                    index=tuple(
                        (a, replace(ix, terms=tuple((other.get(t, t), c) for t, c in ix.terms)))
                        for a, ix in node.index
                    ),
                ),
            )


def index_edits(ix: Index) -> Iterator[Index]:
    """Indices that differ from one in one number."""
    yield replace(ix, offset=ix.offset + 1)
    yield replace(ix, offset=ix.offset - 1)
    yield replace(ix, div=ix.div + 1)
    yield replace(ix, mod=(ix.mod or 9) + 1)
    yield replace(ix, lo=(ix.lo or 0) - 1)
    yield replace(ix, hi=(ix.hi or 0) + 1)
    for k, (a, c) in enumerate(ix.terms):
        yield replace(ix, terms=(*ix.terms[:k], (a, c + 1), *ix.terms[k + 1 :]))


def _next_row(b: Builder, node: Node) -> int:
    """Reads the row after the one that is asked for, the first after the last."""
    if not isinstance(node, Gather) or isinstance(node.along.size, Sym):
        return rederived(b, node)
    dtype = b.dtype(node.at)
    ahead = b.map("add", node.at, b.const(1, dtype), dtype=dtype)
    size = b.const(node.along.size, dtype)
    return b.gather(node.operand, node.along, b.map("mod", ahead, size, dtype=dtype))
