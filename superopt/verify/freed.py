"""Two programs with free values in place of their maxima: shifts that cancel need not be maxima.

An attention that is merged from parts follows the maximum of each part, where the program that it
came from has one maximum. Programs that are equal whatever these values are, are equal; then no
order of the scores has to be met. A maximum that may be infinite (of a row that is masked as a
whole) is one of them where only sums, products and functions read it: what they give is NaN then, or
an infinity, in both.
"""

from __future__ import annotations

from dataclasses import replace

from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import (
    Builder,
    Graph,
    Input,
    Map,
    Node,
    Reduce,
    dense_strides,
    remap,
)
from superopt.verify.bound import Congruence
from superopt.verify.infinite import infinities
from superopt.verify.sweep import is_algebraic


def freed(a: Graph, b: Graph, *, along: bool = False) -> tuple[Graph, Graph] | None:
    """Both programs with an input for each maximum or minimum of floats (``along``: along an axis).

    One that both programs take of the same values is one input of both. None where there is none.
    """
    congruence = Congruence()
    names: dict[int, Input] = {}
    at: list[dict[int, Input]] = []
    for graph in (a, b):
        which = _free(graph, along)
        mine: dict[int, Input] = {}
        for i, number in enumerate(congruence.numbers(graph)):
            node = graph.nodes[i]
            if i in which:
                dims = tuple((x,) for x in node.axes)
                fresh = Input(node.axes, node.dtype, f"<free {number}>", dims, dense_strides(dims))
                mine[i] = names.setdefault(number, fresh)
        at.append(mine)
    if not names:
        return None
    given = tuple(names.values())
    return _with(a, at[0], given), _with(b, at[1], given)


def _free(graph: Graph, along: bool) -> set[int]:
    """The extremes that may be replaced: finite ones, and those that no selection reads."""
    signs, users = infinities(graph), graph.users()
    out: set[int] = set()
    read: set[int] = set()  # by a selection that is left
    for i in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[i]
        left = [u for u in users[i] if u not in out]
        if any(u in read or not is_algebraic(graph, u) for u in left):
            read.add(i)
        if _is_extreme(node, along) and (not signs[i] or i not in read):
            out.add(i)
    return out


def _is_extreme(node: Node, along: bool) -> bool:
    return (
        isinstance(node, Reduce if along else Map | Reduce)
        and node.op in ("max", "min")
        and is_float(node.dtype)
        and bool(node.axes)
    )


def _with(graph: Graph, at: dict[int, Input], given: tuple[Input, ...]) -> Graph:
    b = Builder(graph.name)
    for known in (*graph.inputs, *given):
        b.add(known)
    moved: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        moved[i] = b.add(at.get(i, remap(node, moved)))
    outputs = tuple(replace(o, node=moved[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()
