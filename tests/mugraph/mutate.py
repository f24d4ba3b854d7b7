"""Changes to graphs that keep them well-formed: harmless ones, and single mutations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import networkx as nx

from superopt.errors import IllFormedGraph
from superopt.mugraph.axes import Axis, Stride, Sym, sort_axes
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import (
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
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.wellformed import check_graph


def with_axes(graph: Graph, f: Callable[[Axis], Axis]) -> Graph:
    """The graph with each axis replaced; ``f`` must not merge axes."""

    def node(n: Node) -> Node:
        n = replace(n, axes=sort_axes({f(a) for a in n.axes}))
        match n:
            case Input():
                return replace(n, dims=tuple(tuple(f(a) for a in d) for d in n.dims))
            case SizeOf():
                return replace(n, axis=f(n.axis))
            case Reduce():
                return replace(n, over=sort_axes({f(a) for a in n.over}))
            case Gather():
                return replace(n, along=f(n.along))
            case View():
                index = [
                    (f(a), replace(ix, terms=tuple((f(t), c) for t, c in ix.terms)))
                    for a, ix in n.index
                ]
                return replace(n, index=tuple(sorted(index, key=lambda x: x[0].name)))
        return n

    outs = tuple(
        replace(o, dims=tuple(tuple(f(a) for a in d) for d in o.dims)) for o in graph.outputs
    )
    return Graph(graph.name, tuple(node(n) for n in graph.nodes), outs)


def renamed(graph: Graph, rng: random.Random) -> Graph:
    """The graph with axes, inputs, outputs and itself renamed at random."""
    fresh = [f"r{k}" for k in range(len(graph.axes))]
    rng.shuffle(fresh)
    names = dict(zip(graph.axes, fresh, strict=True))
    graph = with_axes(graph, lambda a: Axis(names[a], a.size))
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


# -- single mutations ----------------------------------------------------------------------------


def mutations(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """Each graph that one change makes of this one, and that is still well-formed."""
    for kind, mutant in _mutations(graph):
        try:
            check_graph(mutant)
        except IllFormedGraph:
            continue
        yield kind, mutant.pruned()


def _mutations(graph: Graph) -> Iterator[tuple[str, Graph]]:
    for i, node in enumerate(graph.nodes):
        for kind, new in _node_mutations(graph, i, node):
            nodes = (*graph.nodes[:i], new, *graph.nodes[i + 1 :])
            yield kind, Graph(graph.name, nodes, graph.outputs)
    for axis in graph.axes:
        if isinstance(axis.size, Sym):
            bigger: object = replace(axis.size, hi=axis.size.hi + 1)
            if graph.inputs and any(
                n.strides and any(s.syms for s in n.strides) for n in graph.inputs
            ):
                continue
        else:
            bigger = axis.size + 1
        yield (
            "size",
            with_axes(
                graph, lambda a, axis=axis, bigger=bigger: Axis(a.name, bigger) if a == axis else a
            ),
        )
    floats = {n.dtype for n in graph.nodes if is_float(n.dtype)}
    for dtype in floats:
        other = "f64" if dtype != "f64" else "f32"
        yield (
            "dtype",
            Graph(
                graph.name,
                tuple(replace(n, dtype=other) if n.dtype == dtype else n for n in graph.nodes),
                graph.outputs,
            ),
        )
    for k, out in enumerate(graph.outputs):
        for kind, new in _output_mutations(graph, out):
            yield kind, replace(graph, outputs=(*graph.outputs[:k], new, *graph.outputs[k + 1 :]))
    if len(graph.outputs) > 1:
        yield "outputs reordered", replace(graph, outputs=graph.outputs[::-1])
        yield "output dropped", replace(graph, outputs=graph.outputs[:-1])
    for i, node in enumerate(graph.nodes[:-1]):
        after = graph.nodes[i + 1]
        if isinstance(node, Input) and isinstance(after, Input):
            nodes = (*graph.nodes[:i], after, node, *graph.nodes[i + 2 :])
            at = [*range(i), i + 1, i, *range(i + 2, len(nodes))]
            yield (
                "inputs reordered",
                Graph(
                    graph.name,
                    tuple(remap(n, at) for n in nodes),
                    tuple(replace(o, node=at[o.node]) for o in graph.outputs),
                ),
            )


def _node_mutations(graph: Graph, i: int, node: Node) -> Iterator[tuple[str, Node]]:
    for slot, a in enumerate(node.args):
        for b in range(i):
            if (
                b != a
                and graph.nodes[b].axes == graph.nodes[a].axes
                and graph.nodes[b].dtype == graph.nodes[a].dtype
            ):
                yield "wiring", _rewired(node, slot, b)
    match node:
        case Input():
            for k, s in enumerate(node.strides):
                new = (*node.strides[:k], Stride(s.coef + 1, s.syms), *node.strides[k + 1 :])
                yield "stride", replace(node, strides=new)
            if len(node.dims) > 1:
                yield "dims", replace(node, dims=node.dims[::-1])
                yield (
                    "dims merged",
                    replace(
                        node,
                        dims=(node.dims[0] + node.dims[1], *node.dims[2:]),
                        strides=node.strides[1:],
                    ),
                )
        case Const():
            if is_float(node.dtype):
                yield "constant", replace(node, value=node.value + 1e-9)
                yield "sign", replace(node, value=-node.value)
        case SizeOf():
            for axis in graph.axes:
                if axis != node.axis:
                    yield "size_of", replace(node, axis=axis)
        case Map():
            for op, row in SCALARS.items():
                mine = SCALARS[node.op]
                if (
                    op != node.op
                    and (row.arity, row.result) == (mine.arity, mine.result)
                    and op not in ("cast", "round")
                ):
                    yield "row", replace(node, op=op)
            if len(node.operands) > 1 and "commutative" not in SCALARS[node.op].laws:
                yield (
                    "operands swapped",
                    replace(
                        node, operands=(*node.operands[:-2], node.operands[-1], node.operands[-2])
                    ),
                )
        case Reduce():
            for op in ("add", "mul", "max", "min", "and", "or"):
                if op != node.op:
                    yield "reduction", replace(node, op=op)
        case View():
            for k, (a, ix) in enumerate(node.index):
                for new in _index_mutations(ix):
                    yield (
                        "index",
                        replace(node, index=(*node.index[:k], (a, new), *node.index[k + 1 :])),
                    )
        case Gather():
            for axis in graph.nodes[node.operand].axes:
                if axis != node.along:
                    yield "gather axis", replace(node, along=axis)


def _index_mutations(ix: Index) -> Iterator[Index]:
    yield replace(ix, offset=ix.offset + 1)
    yield replace(ix, offset=ix.offset - 1)
    yield replace(ix, div=ix.div + 1)
    yield replace(ix, mod=(ix.mod or 9) + 1)
    yield replace(ix, lo=(ix.lo or 0) - 1)
    yield replace(ix, hi=(ix.hi or 0) + 1)
    for k, (a, c) in enumerate(ix.terms):
        yield replace(ix, terms=(*ix.terms[:k], (a, c + 1), *ix.terms[k + 1 :]))


def _output_mutations(graph: Graph, out: Output) -> Iterator[tuple[str, Output]]:
    if len(out.dims) > 1:
        yield "output dims", replace(out, dims=out.dims[::-1])
        merged = (out.dims[0] + out.dims[1], *out.dims[2:])
        yield "output merged", replace(out, dims=merged, order=())
        turned = tuple(reversed(range(len(out.dims))))
        yield "output order", replace(out, order=() if out.order == turned else turned)
    yield "output dim of one", replace(out, dims=(*out.dims, ()), order=())
    mine = graph.nodes[out.node]
    for j, node in enumerate(graph.nodes):
        if j != out.node and node.axes == mine.axes and node.dtype == mine.dtype:
            yield "output node", replace(out, node=j)


def _rewired(node: Node, slot: int, b: int) -> Node:
    match node:
        case Map():
            return replace(node, operands=(*node.operands[:slot], b, *node.operands[slot + 1 :]))
        case Gather():
            return replace(node, operand=b) if slot == 0 else replace(node, at=b)
    return replace(node, operand=b)


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
