"""Pushes layout operators down to the inputs, so that the search never sees a reshape.

Reading a computed value at other coordinates is the same as computing it at those coordinates:
``view(f(x))`` becomes ``f(view(x))``. A reduction's own axes are renamed where they would clash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from superopt.mugraph import ops
from superopt.mugraph.axes import Axis, sort_axes
from superopt.mugraph.graph import (
    Builder,
    Dims,
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
    remap,
)
from superopt.mugraph.scalars import REDUCTIONS, SCALARS

Reading = Mapping[Axis, Index]


def read_at(b: Builder, node: int, at: Reading) -> int:
    """The value of ``node`` with each axis of ``at`` read at its index, views at the leaves."""
    memo: dict[tuple[int, tuple[tuple[Axis, Index], ...]], int] = {}

    def go(i: int, reading: Reading) -> int:
        reading = {a: ix for a, ix in reading.items() if a in b.axes(i) and ix.rename_of() != a}
        if not reading:
            return i
        key = (i, tuple(sorted(reading.items(), key=lambda p: p[0].name)))
        if key not in memo:
            memo[key] = step(i, reading)
        return memo[key]

    def step(i: int, reading: Reading) -> int:
        node = b.nodes[i]
        match node:
            case Map():
                args = [go(a, reading) for a in node.operands]
                return b.map(node.op, *args, dtype=node.dtype)
            case Reduce():
                new = {a for ix in reading.values() for a, _ in ix.terms}
                operand, over = node.operand, list(node.over)
                clash = [a for a in over if a in new]
                if clash:
                    fresh = {a: b.fresh_axis(a.size, a.name) for a in clash}
                    operand = go(operand, {a: Index(((f, 1),)) for a, f in fresh.items()})
                    over = [fresh.get(a, a) for a in over]
                return reduced(b, node.op, go(operand, reading), over)
            case View():
                inner: dict[Axis, Index] = {}
                for axis, ix in node.index:
                    composed = _compose(ix, reading)
                    if composed is None:
                        return b.view(i, list(reading.items()))
                    inner[axis] = composed
                return (
                    go(node.operand, inner)
                    if _moves(b, node.operand)
                    else b.view(node.operand, list(inner.items()))
                )
            case Gather():
                at = go(node.at, {a: ix for a, ix in reading.items() if a in b.axes(node.at)})
                kept = {
                    a: ix
                    for a, ix in reading.items()
                    if a in b.axes(node.operand) and a != node.along
                }
                along = node.along
                if any(along == t for ix in reading.values() for t, _ in ix.terms):
                    # An axis of the result takes the name of the one that is read at ``at``.
                    along = b.fresh_axis(along.size, along.name)
                    kept[node.along] = Index(((along, 1),))
                operand = go(node.operand, kept) if kept else node.operand
                return b.gather(operand, along, at)
            case Iota():
                return _index_value(b, reading[node.axes[0]])
        return b.view(i, list(reading.items()))

    return go(node, at)


def reduced(b: Builder, op: str, operand: int, over: Sequence[Axis]) -> int:
    """A reduction also over axes that the operand lacks, along which it is the same everywhere."""
    if op == "add":
        return ops.total(b, operand, over)
    if "idempotent" in REDUCTIONS[op].laws:
        return ops.extreme(b, operand, over, op)
    return b.reduce(op, operand, over)


Rule = Callable[[Builder, Mapping[int, int], int], int | None]
"""What stands for a node of the old program in the new one: builder, old -> new node, the node."""


def rewritten(graph: Graph, rule: Rule) -> Graph:
    """The program with what a rule puts in place of its nodes; itself where the rule has nothing.

    Nodes are tried in order, so that the rule finds what they read in the new program already.
    """
    b, at, moved = Builder(graph.name), dict[int, int](), False
    for i, node in enumerate(graph.nodes):
        new = rule(b, at, i)
        moved |= new is not None
        at[i] = b.add(remap(node, at)) if new is None else new
    if not moved:
        return graph
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


def _moves(b: Builder, i: int) -> bool:
    return isinstance(b.nodes[i], Map | Reduce | View | Gather | Iota)


def _compose(outer: Index, reading: Reading) -> Index | None:
    """The index ``outer`` with its axes read at ``reading``, or None if that is no Index."""
    touched = [a for a, _ in outer.terms if a in reading]
    if not touched:
        return outer
    if (name := outer.rename_of()) is not None:
        return reading[name]
    terms: dict[Axis, int] = {}
    offset = outer.offset
    for axis, coef in outer.terms:
        ix = reading.get(axis, Index(((axis, 1),)))
        if (ix.div, ix.mod, ix.lo, ix.hi) != (1, None, None, None):
            return None
        offset += coef * ix.offset
        for a, c in ix.terms:
            terms[a] = terms.get(a, 0) + coef * c
    kept = tuple((a, c) for a, c in terms.items() if c)
    return Index(kept, offset, outer.div, outer.mod, outer.lo, outer.hi)


def _index_value(b: Builder, ix: Index) -> int:
    """An index as an integer node over iotas."""
    total = b.const(ix.offset, "i64")
    for axis, coef in ix.terms:
        term = b.iota(axis)
        if coef != 1:
            term = b.map("mul", term, b.const(coef, "i64"))
        total = term if total == b.const(0, "i64") else b.map("add", total, term)
    for op, value in (
        ("floordiv", None if ix.div == 1 else ix.div),
        ("mod", ix.mod),
        ("max", ix.lo),
        ("min", ix.hi),
    ):
        if value is not None:
            total = b.map(op, total, b.const(value, "i64"))
    return total


def absorb_renames(graph: Graph) -> Graph:
    """Gives an input the axis names under which all its readers read it: fewer views to look at."""
    users = graph.users()
    nodes = list(graph.nodes)
    at = list(range(len(nodes)))
    outputs = {o.node for o in graph.outputs}
    for i, node in enumerate(graph.nodes):
        if not isinstance(node, Input) or i in outputs or len(set(users[i])) != 1:
            continue
        (reader,) = set(users[i])
        view = graph.nodes[reader]
        if not isinstance(view, View):
            continue
        # A view of an axis's first elements looks like a renaming, but for the size.
        names = {a: r for a, ix in view.index if (r := ix.rename_of()) and r.size == a.size}
        if len(names) != len(view.index) or len(set(names.values())) != len(names):
            continue
        dims = tuple(tuple(names[a] for a in dim) for dim in node.dims)
        nodes[i] = replace(node, dims=dims, axes=sort_axes(set(names.values())))
        at[reader] = i
    moved = tuple(remap(n, at) for n in nodes)
    results = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, moved, results).pruned()


def with_axes(node: Node, names: Mapping[Axis, Axis]) -> Node:
    """The node over other axes: each axis that it speaks of is replaced by ``names[axis]``."""
    node = replace(node, axes=sort_axes({names[a] for a in node.axes}))
    match node:
        case Input():
            return replace(node, dims=dims_with_axes(node.dims, names))
        case SizeOf():
            return replace(node, axis=names[node.axis])
        case Reduce():
            return replace(node, over=sort_axes({names[a] for a in node.over}))
        case View():
            index = [(names[a], _index_with_axes(ix, names)) for a, ix in node.index]
            return replace(node, index=tuple(sorted(index, key=lambda x: x[0].name)))
        case Gather():
            return replace(node, along=names[node.along])
    return node


def dims_with_axes(dims: Dims, names: Mapping[Axis, Axis]) -> Dims:
    """The dims over other axes."""
    return tuple(tuple(names[a] for a in dim) for dim in dims)


def _index_with_axes(index: Index, names: Mapping[Axis, Axis]) -> Index:
    return replace(index, terms=tuple((names[a], c) for a, c in index.terms))


def commutes(node: Node) -> bool:
    """Whether the order of a node's arguments does not matter."""
    return isinstance(node, Map) and "commutative" in SCALARS[node.op].laws


def in_order(node: Node) -> Node:
    """The node with the arguments of a commutative row ascending, as the builder makes it."""
    if isinstance(node, Map) and commutes(node):
        return replace(node, operands=tuple(sorted(node.operands)))
    return node
