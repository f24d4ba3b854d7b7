"""Values that are equal up to the names of their axes are computed once, and read under each name.

The frontend reads a value at other coordinates by computing it there, so a residual that one
operator reads along its rows and another along a contraction would be computed twice, with all
contractions below it. Here equal values are found by numbering (as hash-consing does, with axes in
place of bound variables): a class, and the order of the axes by which its members correspond. What
holds a reduction and is read under several names is computed under one and renamed by a view, which
the kernel cut stores (design: values equal under renaming of axes are one value with several access
maps). What holds none is cheap, and stays where it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import (
    Builder,
    Const,
    Gather,
    Graph,
    Input,
    Iota,
    Map,
    Node,
    Reduce,
    SizeOf,
    View,
    remap,
)
from superopt.mugraph.rewrite import commutes, in_order


@dataclass(frozen=True)
class Named:
    """A value as a member of its class: the axes in the order by which members correspond."""

    number: int
    axes: tuple[Axis, ...]


def share(graph: Graph) -> Graph:
    """The same program with values that hold a reduction computed once, whatever their axes' names."""
    named = classes(graph)
    live = graph.reachable([o.node for o in graph.outputs])
    heavy: set[int] = set()
    first: dict[int, int] = {}
    for i in live:
        first.setdefault(named[i].number, i)
        node = graph.nodes[i]
        if isinstance(node, Reduce) or any(named[a].number in heavy for a in node.args):
            heavy.add(named[i].number)
    origin = {i: first[named[i].number] if named[i].number in heavy else i for i in live}
    needed, todo = set[int](), [o.node for o in graph.outputs]
    while todo:
        i = todo.pop()
        if i not in needed:
            needed.add(i)
            todo.extend([origin[i]] if origin[i] != i else graph.nodes[i].args)
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Input):
            at[i] = b.add(node)
        elif i in needed and origin[i] == i:
            at[i] = b.add(in_order(remap(node, at)))
        elif i in needed:
            names = dict(zip(named[origin[i]].axes, named[i].axes, strict=True))
            at[i] = b.rename(at[origin[i]], {x: y for x, y in names.items() if x != y})
    return b.build([replace(o, node=at[o.node]) for o in graph.outputs])


def classes(graph: Graph) -> list[Named]:
    """For each node, its class: members of one are equal once their axes are matched in order."""
    known: dict[Hashable, int] = {}
    out: list[Named] = []
    for i, node in enumerate(graph.nodes):
        if isinstance(node, View) and (names := _renaming(node)) is not None:
            arg = out[node.operand]
            out.append(Named(arg.number, tuple(names[x] for x in arg.axes)))
            continue
        key, axes = _key(node, i, out)
        out.append(Named(known.setdefault(key, len(known)), axes))
    return out


def _renaming(view: View) -> dict[Axis, Axis] | None:
    """The new name of each axis where the view does nothing but rename, else None."""
    names = {x: ix.rename_of() for x, ix in view.index}
    if any(y is None or y.size != x.size for x, y in names.items()):
        return None
    out = {x: y for x, y in names.items() if y is not None}
    return out if len(set(out.values())) == len(out) else None


def _key(node: Node, i: int, known: list[Named]) -> tuple[Hashable, tuple[Axis, ...]]:
    """What a node computes over the classes of its arguments, and its axes in order."""
    match node:
        case Input():
            return ("input", i), tuple(a for dim in node.dims for a in dim)
        case Const():
            return ("const", node.dtype, repr(node.value)), ()
        case SizeOf():
            return ("size", node.dtype, node.axis.size), ()
        case Iota():
            return ("iota", node.axes[0].size), node.axes
        case Map():
            return min(
                (_applied(node, args) for args in _orders(node, [known[a] for a in node.operands])),
                key=lambda found: found[0][3],
            )
        case Reduce():
            arg = known[node.operand]
            axes = tuple(x for x in arg.axes if x not in node.over)
            over = tuple(k for k, x in enumerate(arg.axes) if x in node.over)
            return ("reduce", node.op, node.dtype, arg.number, over), axes
        case View():
            arg, index = known[node.operand], dict(node.index)
            rows = [(index[x], sorted(index[x].terms, key=_by_weight)) for x in arg.axes]
            axes = _distinct(x for _, terms in rows for x, _ in terms)
            read = tuple(
                (replace(ix, terms=()), tuple((axes.index(x), c) for x, c in terms))
                for ix, terms in rows
            )
            return ("view", arg.number, read, tuple(x.size for x in axes)), axes
        case Gather():
            arg, where = known[node.operand], known[node.at]
            axes = _distinct((*(x for x in arg.axes if x != node.along), *where.axes))
            places = tuple(axes.index(x) if x != node.along else -1 for x in arg.axes)
            at = tuple(map(axes.index, where.axes))
            return ("gather", arg.number, places, where.number, at), axes
    raise TypeError(f"unknown node {node!r}")


def _orders(node: Map, args: list[Named]) -> list[list[Named]]:
    """The orders of arguments to number axes by: of a commutative row, those by class."""
    if not commutes(node):
        return [args]
    orders = [args, args[::-1]]
    least = min([a.number for a in order] for order in orders)
    return [order for order in orders if [a.number for a in order] == least]


Applied = tuple[str, str, str, tuple[tuple[int, tuple[int, ...]], ...]]


def _applied(node: Map, args: list[Named]) -> tuple[Applied, tuple[Axis, ...]]:
    axes = _distinct(x for a in args for x in a.axes)
    parts = tuple((a.number, tuple(map(axes.index, a.axes))) for a in args)
    return ("map", node.op, node.dtype, parts), axes


def _by_weight(term: tuple[Axis, int]) -> tuple[int, str]:
    return -term[1], str(term[0].size)


def _distinct(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    return tuple(dict.fromkeys(axes))
