"""Algebraic regions: the maximal parts of a graph that the algebra of the search understands.

A region holds sums, products, their composites (``neg``, ``sub``, ``div``, ``square``), unary
functions and additive reductions over floats. Everything else (inputs, layout operators,
selections, comparisons, integers, kept roundings) is a *leaf* of the regions above it: a shared
cut, where both sides of a later equality read the same fresh value, which is sound.

Casts between float types of one precision are the identity of the algebra: regions see through
them. Regions are convex (no path leaves a region and returns to it), so each can be replaced as a
whole: nodes are first layered by how many cuts lie below them, and a node that several layers could
hold goes to the layer of its users (a product moves up to the nonlinear value it multiplies).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from superopt.mugraph.dtypes import compute_dtype, is_float
from superopt.mugraph.graph import Const, Graph, Map, Node, Reduce
from superopt.mugraph.scalars import SCALARS, adds

MAX_NODES = 40
"""A region with more nodes than this is cut further, at residual sums and nonlinear arguments."""


@dataclass(frozen=True)
class Region:
    """A convex set of algebraic nodes of one graph (all ids ascending).

    nodes:   the nodes of the region, with the casts that only the region reads
    leaves:  what the region reads: nodes outside it (constants and sizes included)
    targets: nodes of the region that others read, or that are outputs of the graph
    """

    nodes: tuple[int, ...]
    leaves: tuple[int, ...]
    targets: tuple[int, ...]


def is_algebraic(graph: Graph, i: int) -> bool:
    """Whether node ``i`` is computed by an operator whose laws the algebra knows."""
    node = graph.nodes[i]
    if not is_float(node.dtype) or any(not is_float(graph.nodes[a].dtype) for a in node.args):
        return False
    if isinstance(node, Reduce):
        return SCALARS[node.op].abstract == "add"
    if isinstance(node, Map):
        row = SCALARS[node.op]
        if row.abstract == "fn":
            return row.arity == 1 and row.result == "same"
        return row.abstract in ("add", "mul", "expand")
    return False


def is_transparent(graph: Graph, i: int) -> bool:
    """Whether node ``i`` is a cast between float types that are computed in the same precision.

    A sum of single-precision values made double is not the double of their sum.
    """
    node = graph.nodes[i]
    if not isinstance(node, Map) or SCALARS[node.op].abstract != "cast":
        return False
    have, want = graph.nodes[node.operands[0]].dtype, node.dtype
    both = is_float(have) and is_float(want)
    return both and compute_dtype(have) == compute_dtype(want)


def through_casts(graph: Graph, i: int) -> int:
    """The node that ``i`` is once casts between float types are seen through."""
    while is_transparent(graph, i):
        i = graph.nodes[i].args[0]
    return i


def is_number(node: Node) -> bool:
    """Whether the node is a finite float literal (a coefficient, not a leaf)."""
    return isinstance(node, Const) and is_float(node.dtype) and math.isfinite(node.value)


def regions(graph: Graph, max_nodes: int = MAX_NODES) -> list[Region]:
    """The algebraic regions of a graph, in an order in which each can be replaced (see `schedule`).

    Nodes that no output needs belong to no region.
    """
    live = set(graph.reachable([o.node for o in graph.outputs]))
    inner = [i for i in sorted(live) if is_algebraic(graph, i)]
    level = _levels(graph, inner, live, streams(graph, inner, live))
    groups: dict[tuple[int, int, int], list[int]] = {}
    for component in _components(graph, inner, level):
        piece = _pieces(graph, component, max_nodes)
        if max(piece.values()) == 0:
            groups[level[component[0]], 0, component[0]] = component
            continue
        for part in _components(graph, component, piece):
            groups[level[part[0]], piece[part[0]], part[0]] = part
    found = [_region(graph, groups[k], live) for k in sorted(groups)]
    return [r for r in found if r.targets]


def schedule(graph: Graph, parts: list[Region]) -> Iterator[int | Region]:
    """All live nodes outside the regions, and the regions, each after what it reads."""
    owner = {i: r for r in parts for i in r.nodes}
    done: set[int] = set()
    for root in graph.reachable([o.node for o in graph.outputs]):
        todo = [root]
        while todo:
            i = todo[-1]
            region = owner.get(i)
            needs = graph.nodes[i].args if region is None else region.leaves
            waiting = [] if i in done else [a for a in needs if a not in done]
            if waiting:
                todo.extend(reversed(waiting))
                continue
            todo.pop()
            if i in done:
                continue
            yield i if region is None else region
            done.update((i,) if region is None else region.nodes)


def streams(graph: Graph, inner: list[int], live: set[int]) -> set[int]:
    """Sums of tensors that several nodes read: the residual stream, a centred row.

    Regions end there. Taken apart, such a sum multiplies the terms of all that is nonlinear in it
    (a norm of x + y w), and the search closes late if at all; what it could find in return reads
    both terms in place of one value, or cancels (a variance by difference of squares).
    """
    users: dict[int, set[int]] = {}
    for i in live:
        for a in graph.nodes[i].args:
            users.setdefault(through_casts(graph, a), set()).add(i)
    out = set()
    for i in inner:
        node = graph.nodes[i]
        readers = {u for u in users.get(i, ()) if not is_transparent(graph, u)}
        tensors = all(graph.nodes[a].axes for a in node.args)
        if len(readers) > 1 and tensors and isinstance(node, Map) and adds(node.op):
            out.add(i)
    return out


def _levels(graph: Graph, inner: list[int], live: set[int], streams: set[int]) -> dict[int, int]:
    """For each algebraic node, the number of cuts below it; as late as its users allow."""
    inside = set(inner)
    early: dict[int, int] = {}

    def parted(i: int, a: int) -> bool:
        """Whether node i lies above a cut that its argument a lies below."""
        base = through_casts(graph, a)
        cut = i not in inside and not is_transparent(graph, i)
        return (cut and base in inside) or (base in streams and not is_transparent(graph, i))

    for i in sorted(live):
        below = [early[a] + parted(i, a) for a in graph.nodes[i].args]
        early[i] = max(below, default=0)
    limit: dict[int, int] = {}
    outputs = {o.node for o in graph.outputs}
    level: dict[int, int] = {}
    for i in sorted(live, reverse=True):
        late = limit.get(i, early[i])
        if i in outputs:
            late = min(late, early[i])
        here = max(late, early[i])
        level[i] = here
        through = i in inside or is_transparent(graph, i)
        for a in graph.nodes[i].args:
            # A cut reads what lies at least one layer below its own value.
            bound = early[i] - 1 if not through else here - parted(i, a)
            limit[a] = min(limit.get(a, bound), bound)
    return {i: level[i] for i in inner}


def _components(graph: Graph, nodes: list[int], label: dict[int, int]) -> list[list[int]]:
    """Connected sets of nodes with one label, joined along arguments (casts seen through)."""
    inside = set(nodes)
    parent = {i: i for i in nodes}

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i in nodes:
        for a in graph.nodes[i].args:
            a = through_casts(graph, a)
            if a in inside and label[a] == label[i]:
                low, high = sorted((find(a), find(i)))
                parent[high] = low
    out: dict[int, list[int]] = {}
    for i in nodes:
        out.setdefault(find(i), []).append(i)
    return list(out.values())


def _pieces(graph: Graph, component: list[int], max_nodes: int) -> dict[int, int]:
    """Numbers that grow along arguments and cut a component into pieces of bounded size.

    A piece is closed at a sum of two tensors or at the argument of a nonlinear function once it
    holds half of the limit, and anywhere when it is full.
    """
    if len(component) <= max_nodes:
        return dict.fromkeys(component, 0)
    inside = set(component)
    natural: set[int] = set()
    for i in component:
        node = graph.nodes[i]
        if not isinstance(node, Map):
            continue
        kind = SCALARS[node.op].abstract
        if kind == "fn":
            natural.update(through_casts(graph, a) for a in node.operands)
        if kind == "add" and all(not is_number(graph.nodes[a]) for a in node.operands):
            natural.add(i)
    piece: dict[int, int] = {}
    count: dict[int, int] = {}
    for i in component:
        here = 0
        for a in graph.nodes[i].args:
            a = through_casts(graph, a)
            if a in inside:
                full = a in natural and count[piece[a]] >= max_nodes // 2
                here = max(here, piece[a] + full)
        while count.get(here, 0) >= max_nodes:
            here += 1
        piece[i] = here
        count[here] = count.get(here, 0) + 1
    return piece


def _region(graph: Graph, nodes: list[int], live: set[int]) -> Region:
    inside = set(nodes)
    users: dict[int, list[int]] = {}
    for i in live:
        for a in graph.nodes[i].args:
            users.setdefault(a, []).append(i)
    outputs = {o.node for o in graph.outputs}
    # A cast that only the region reads belongs to it; another cast stays beside the region.
    for i in sorted(live, reverse=True):
        if (
            is_transparent(graph, i)
            and i not in outputs
            and users.get(i)
            and all(u in inside for u in users[i])
        ):
            inside.add(i)
    # A cast that others read too stays outside; the region reads what it casts.
    reads = {through_casts(graph, a) for i in inside for a in graph.nodes[i].args}
    leaves = reads - inside
    targets = {i for i in nodes if i in outputs or any(u not in inside for u in users.get(i, ()))}
    return Region(tuple(sorted(inside)), tuple(sorted(leaves)), tuple(sorted(targets)))
