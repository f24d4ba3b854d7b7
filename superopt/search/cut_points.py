"""Cut points: the values that a kernel may store, those that one must, and what one kernel may hold."""

from __future__ import annotations

from superopt.mugraph.graph import Gather, Graph, Input, Map, Reduce, View
from superopt.mugraph.scalars import SCALARS


def _live(graph: Graph) -> tuple[list[int], dict[int, list[int]]]:
    """The nodes that the outputs need, and for each the ones among them that read it."""
    live = graph.reachable([o.node for o in graph.outputs])
    users: dict[int, list[int]] = {i: [] for i in live}
    for i in live:
        for a in graph.nodes[i].args:
            users[a].append(i)
    return live, users


def cut_points(graph: Graph) -> list[int]:
    """The values worth storing: reductions, and computed values that a reduction reads."""
    live, users = _live(graph)
    out = []
    for i in live:
        node = graph.nodes[i]
        if isinstance(node, Reduce):
            out.append(i)
        elif isinstance(node, Map) and SCALARS[node.op].flops and node.axes:
            feeds = any(
                isinstance(graph.nodes[u], Reduce)
                or (isinstance(n := graph.nodes[u], Map) and set(n.axes) > set(node.axes))
                for u in users[i]
            )
            heavy = any(isinstance(graph.nodes[j], Reduce) for j in graph.reachable([i]))
            product = any(
                isinstance(n := graph.nodes[u], Reduce) and node.op == "mul" and n.op == "add"
                for u in users[i]
            )
            if heavy and not product and (feeds or len(users[i]) > 1):
                out.append(i)
    return out


def forced_cuts(graph: Graph) -> frozenset[int]:
    """Values that must be stored: those read at other coordinates and not pure in stored ones."""
    out: set[int] = set()
    for i in _live(graph)[0]:
        node = graph.nodes[i]
        if isinstance(node, Gather) and not isinstance(graph.nodes[node.operand], Input):
            out.add(node.operand)
        if isinstance(node, View) and reduces_below(graph, node.operand, out):
            out.add(node.operand)
    return frozenset(out)


def reduces_below(graph: Graph, i: int, stored: set[int]) -> bool:
    """Whether computing a value from stored ones reduces."""
    todo, seen = [i], set()
    while todo:
        j = todo.pop()
        if j in seen or j in stored:
            continue
        seen.add(j)
        if isinstance(graph.nodes[j], Reduce):
            return True
        todo.extend(graph.nodes[j].args)
    return False


def fusible(graph: Graph, body: list[int], reads: set[int]) -> bool:
    """Whether the lowering can hold this body in one kernel."""
    reduces: set[int] = set()  # nodes that a reduction of this kernel is or lies below
    for i in body:
        node = graph.nodes[i]
        args = node.args
        if isinstance(node, Reduce):
            reduces.add(i)
        elif not reduces.isdisjoint(args):
            if isinstance(node, View):
                return False
            reduces.add(i)
        if isinstance(node, Gather) and node.operand not in reads:
            return False
    return True


def computes(graph: Graph, i: int) -> bool:
    """Whether a node computes: a reduction, or a scalar row that is no cast."""
    node = graph.nodes[i]
    return isinstance(node, Reduce) or (
        isinstance(node, Map) and SCALARS[node.op].abstract != "cast"
    )
