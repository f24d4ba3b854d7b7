"""Harmless changes to graphs, and an independent judge of whether two are one up to names."""

from __future__ import annotations

import random
from dataclasses import replace

import networkx as nx

from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import (
    Const,
    Gather,
    Graph,
    Input,
    Map,
    Node,
    Reduce,
    SizeOf,
    View,
    remap,
)
from superopt.mugraph.mutants import renamed_axes
from superopt.mugraph.scalars import SCALARS


def renamed(graph: Graph, rng: random.Random) -> Graph:
    """The graph with axes, inputs, outputs and itself renamed at random."""
    fresh = [f"r{k}" for k in range(len(graph.axes))]
    rng.shuffle(fresh)
    names = dict(zip(graph.axes, fresh, strict=True))
    graph = renamed_axes(graph, lambda a: Axis(names[a], a.size))
    nodes = tuple(
        replace(n, name=f"in {n.name} {rng.random()}") if isinstance(n, Input) else n
        for n in graph.nodes
    )
    return Graph("other", nodes, tuple(replace(o, name=f"other {o.name}") for o in graph.outputs))


def reordered(graph: Graph, rng: random.Random) -> Graph:
    """Another topological order of the nodes; inputs keep their order among themselves."""
    order: list[int] = []
    inputs = [i for i, n in enumerate(graph.nodes) if isinstance(n, Input)]
    left = set(range(len(graph.nodes)))
    while left:
        ready = [
            i
            for i in sorted(left)
            if all(a in order for a in graph.nodes[i].args)
            and not any(j in left and j < i for j in inputs if i in inputs)
        ]
        pick = rng.choice(ready)
        order.append(pick)
        left.remove(pick)
    at = {old: new for new, old in enumerate(order)}
    nodes = tuple(remap(graph.nodes[i], at) for i in order)
    return Graph(graph.name, nodes, tuple(replace(o, node=at[o.node]) for o in graph.outputs))


def commuted(graph: Graph, rng: random.Random) -> Graph:
    """Operands of commutative rows, and terms of indices, in another order."""

    def node(n: Node) -> Node:
        if isinstance(n, Map) and "commutative" in SCALARS[n.op].laws:
            return replace(n, operands=tuple(rng.sample(n.operands, len(n.operands))))
        if isinstance(n, View):
            return replace(
                n,
                index=tuple(
                    (a, replace(ix, terms=tuple(rng.sample(ix.terms, len(ix.terms)))))
                    for a, ix in n.index
                ),
            )
        return n

    return Graph(graph.name, tuple(node(n) for n in graph.nodes), graph.outputs)


def with_dead_code(graph: Graph, rng: random.Random) -> Graph:
    """The graph with a value that nothing reads, and one that is computed twice."""
    last = len(graph.nodes)
    floats = [i for i, n in enumerate(graph.nodes) if is_float(n.dtype)]
    nodes = list(graph.nodes)
    if floats:
        i = rng.choice(floats)
        nodes.append(Map(nodes[i].axes, nodes[i].dtype, "exp", (i,)))
    computed = [o for o in graph.outputs if not isinstance(graph.nodes[o.node], Input)]
    if computed:
        old = rng.choice(computed)
        nodes.append(nodes[old.node])
        outs = tuple(replace(o, node=len(nodes) - 1) if o == old else o for o in graph.outputs)
        return Graph(graph.name, tuple(nodes), outs)
    return Graph(graph.name, tuple(nodes[: last + 1]), graph.outputs)


# -- an independent judge ------------------------------------------------------------------------


def same_structure(a: Graph, b: Graph) -> bool:
    """Whether two graphs are equal up to names, order and commutation, decided by networkx."""
    ga, gb = _network(a), _network(b)
    return nx.is_isomorphic(ga, gb, node_match=lambda x, y: x["label"] == y["label"])


def _deduped(graph: Graph) -> Graph:
    at: dict[int, int] = {}
    nodes: list[Node] = []
    seen: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        new = remap(node, at)
        if isinstance(new, Map) and "commutative" in SCALARS[new.op].laws:
            new = replace(new, operands=tuple(sorted(new.operands)))
        if isinstance(new, View):
            new = replace(
                new,
                index=tuple(
                    (a, replace(ix, terms=tuple(sorted(ix.terms, key=lambda t: t[0].name))))
                    for a, ix in new.index
                ),
            )
        at[i] = seen.setdefault(repr(new), len(nodes))
        if at[i] == len(nodes):
            nodes.append(new)
    outs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(nodes), outs).pruned()


def _network(graph: Graph) -> nx.DiGraph:
    """Nodes and axes as vertices; every relation between them as a labelled vertex between."""
    graph = _deduped(graph)
    net = nx.DiGraph()

    def relate(source: object, target: object, label: object) -> None:
        mid = ("edge", net.number_of_nodes())
        net.add_node(mid, label=repr(label))
        net.add_edge(source, mid)
        net.add_edge(mid, target)

    for axis in graph.axes:
        net.add_node(axis.name, label=repr(("axis", str(axis.size))))
    inputs = 0
    for i, node in enumerate(graph.nodes):
        label: tuple[object, ...] = (type(node).__name__, node.dtype)
        match node:
            case Input():
                label += (inputs, [len(d) for d in node.dims], [str(s) for s in node.strides])
                inputs += 1
            case Const():
                label += (repr(node.value),)
            case Map() | Reduce():
                label += (node.op,)
        net.add_node(i, label=repr(label))
        ordered = not (isinstance(node, Map) and "commutative" in SCALARS[node.op].laws)
        for slot, a in enumerate(node.args):
            relate(i, a, ("arg", slot if ordered else 0))
        for axis in node.axes:
            relate(i, axis.name, "axes")
        match node:
            case Input():
                for d, dim in enumerate(node.dims):
                    for p, axis in enumerate(dim):
                        relate(i, axis.name, ("dim", d, p))
            case SizeOf():
                relate(i, node.axis.name, "size")
            case Reduce():
                for axis in node.over:
                    relate(i, axis.name, "over")
            case Gather():
                relate(i, node.along.name, "along")
            case View():
                for a, ix in node.index:
                    here = ("index", i, a.name)
                    net.add_node(here, label=repr((ix.offset, ix.div, ix.mod, ix.lo, ix.hi)))
                    relate(i, here, "index")
                    relate(here, a.name, "from")
                    for t, c in ix.terms:
                        relate(here, t.name, ("to", c))
    for k, out in enumerate(graph.outputs):
        net.add_node(("out", k), label=repr(("out", k, [len(d) for d in out.dims], out.order)))
        relate(("out", k), out.node, "node")
        for d, dim in enumerate(out.dims):
            for p, axis in enumerate(dim):
                relate(("out", k), axis.name, ("dim", d, p))
    return net
