"""The canonical form of graphs and placed graphs, and the structural hashes that stand on it.

Two graphs that differ only in the names of axes and tensors, the order of nodes, or the order of
commutative operands have one canonical form. Inputs and outputs are told apart by their position,
so nearly every axis is known by where it occurs in them. The others (axes of an iota, or bound
inside) are told apart by colour refinement: an axis is coloured by the nodes it occurs in, a node
by what it computes and who reads it. Axes that are still alike are individualized in turn, and
the least text is taken (McKay and Piperno, Practical Graph Isomorphism II, 2014); a swap of two
axes that maps the graph onto itself saves a branch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from superopt.mugraph.axes import Axis, Stride
from superopt.mugraph.graph import (
    Const,
    Dims,
    Gather,
    Graph,
    Index,
    Input,
    Iota,
    Map,
    Node,
    Output,
    Reduce,
    SizeOf,
    View,
    remap,
)
from superopt.mugraph.placement import Carry, Kernel, MuGraph, Split
from superopt.mugraph.rewrite import commutes, dims_with_axes, in_order, with_axes
from superopt.mugraph.text import literal, print_graph, print_mugraph

_LEAVES = 200  # labellings compared before ties are broken by the order at hand
Colors = Mapping[Axis, str]


def canonical(graph: Graph) -> Graph:
    """The canonical form of a well-formed graph; equal nodes become one, dead ones are dropped.

    Inputs stay in call order and are renamed by position, as outputs are; symbols keep their
    names, because callers give their values by name.
    """
    return _Labelling(graph, ()).best().graph


def canonical_mugraph(mugraph: MuGraph) -> MuGraph:
    """The canonical form of a placed graph; kernels stay in order and are renamed by position."""
    return _Labelling(mugraph.graph, mugraph.kernels).best()


def graph_hash(graph: Graph) -> str:
    """The sha256 (hex) of a graph's structure.

    Covers wiring, sizes, symbols, dtypes, strides, scalars, attributes, and the outputs' dims and
    order; not covered are the names of the graph, its axes and its tensors.
    """
    return _sha("graph 1", print_graph(canonical(graph)))


def mugraph_hash(mugraph: MuGraph) -> str:
    """The sha256 (hex) of a placed graph: its graph, its kernels, their placement and carries."""
    return _sha("mugraph 1", print_mugraph(canonical_mugraph(mugraph)))


def _sha(kind: str, text: str) -> str:
    return hashlib.sha256(f"superopt {kind}\n{text}".encode()).hexdigest()


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


@dataclass
class _Labelling:
    """The search for the least labelling of a graph's axes."""

    graph: Graph
    kernels: tuple[Kernel, ...]
    leaves: int = 0
    live: list[int] = field(init=False)
    roots: list[int] = field(init=False)
    position: dict[int, int] = field(init=False)
    seeds: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.graph
        self.roots = [o.node for o in graph.outputs] + [i for k in self.kernels for i in k.outputs]
        inputs = [i for i, n in enumerate(graph.nodes) if isinstance(n, Input)]
        self.live = sorted({*graph.reachable(self.roots), *inputs})
        self.position = {i: k for k, i in enumerate(inputs)}
        said: dict[int, list[object]] = {}
        for k, kernel in enumerate(self.kernels):
            for i in kernel.outputs:
                said.setdefault(i, []).append((k, "stored"))
            for c in kernel.carries:
                said.setdefault(c.reduce, []).append((k, "carried", _move(c)))
                said.setdefault(c.stat, []).append((k, "stat", _move(c)))
        self.seeds = {i: repr(sorted(map(repr, s))) for i, s in said.items()}

    def best(self) -> MuGraph:
        """The canonical form."""
        return self._search(self._start())[1]

    def _start(self) -> dict[Axis, str]:
        """Axes by size, by place in inputs and outputs, and by placement."""
        said: dict[Axis, list[str]] = {}

        def see(axis: Axis, *what: object) -> None:
            said.setdefault(axis, []).append(repr(what))

        def see_dims(dims: Dims, *what: object) -> None:
            for d, dim in enumerate(dims):
                for p, axis in enumerate(dim):
                    see(axis, *what, d, p)

        for i in self.live:
            node = self.graph.nodes[i]
            for axis in {*node.axes, *(a for a, *_ in _roles(node, {}))}:
                said.setdefault(axis, [])
            if isinstance(node, Input):
                see_dims(node.dims, "input", self.position[i])
        for k, out in enumerate(self.graph.outputs):
            see_dims(out.dims, "output", k, out.order)
        for k, kernel in enumerate(self.kernels):
            for level in ("grid", "loop"):
                for p, split in enumerate(getattr(kernel.placement, level)):
                    see(split.axis, level, k, p, split.tile)
        return {a: _digest(str(a.size), sorted(what)) for a, what in said.items()}

    def _search(self, colors: dict[Axis, str]) -> tuple[str, MuGraph]:
        """The least text, and its graph, among the labellings that refine ``colors``."""
        colors = self._refine(colors)
        count = Counter(colors.values())
        tied = min((c for c, n in count.items() if n > 1), default=None)
        if tied is None:
            self.leaves += 1
            out = self._build(colors)
            return print_mugraph(out), out
        cell = sorted((a for a, c in colors.items() if c == tied), key=lambda a: a.name)
        picks: list[Axis] = []
        for axis in cell:
            if not any(self._swaps(colors, axis, pick) for pick in picks):
                picks.append(axis)
        found: list[tuple[str, MuGraph]] = []
        for axis in picks:
            if not found or self.leaves < _LEAVES:
                found.append(self._search({**colors, axis: _digest(tied, "first")}))
        return min(found, key=lambda f: f[0])

    def _swaps(self, colors: Colors, a: Axis, b: Axis) -> bool:
        """Whether exchanging two axes maps the graph onto itself."""
        own = {x: repr((x.name, str(x.size))) for x in colors}
        other = {**own, a: own[b], b: own[a]}
        keys = [self._keys(c) for c in (own, other)]
        return [keys[0][i] for i in self.roots] == [keys[1][i] for i in self.roots]

    def _refine(self, colors: dict[Axis, str]) -> dict[Axis, str]:
        """Colours axes by the nodes they occur in, until that tells no more of them apart."""
        while True:
            classes = len(set(colors.values()))
            if classes == len(colors):
                return colors
            contexts = self._contexts(colors)
            said: dict[Axis, list[str]] = {a: [] for a in colors}
            for i in self.live:
                for axis, *role in _roles(self.graph.nodes[i], colors):
                    said[axis].append(_digest(contexts[i], role))
            finer = {a: _digest(colors[a], sorted(said[a])) for a in colors}
            if len(set(finer.values())) == classes:
                return colors
            colors = finer

    def _keys(self, colors: Colors) -> dict[int, str]:
        """What each node computes, bottom up: equal nodes get equal keys."""
        out: dict[int, str] = {}
        for i in self.live:
            node = self.graph.nodes[i]
            args = [out[a] for a in node.args]
            if commutes(node):
                args.sort()
            axes = sorted(colors[a] for a in node.axes)
            out[i] = _digest(
                type(node).__name__,
                node.dtype,
                axes,
                self._attributes(i, colors),
                args,
                self.seeds.get(i),
            )
        return out

    def _attributes(self, i: int, colors: Colors) -> object:
        match self.graph.nodes[i]:
            case Input() as node:
                dims = [[colors[a] for a in dim] for dim in node.dims]
                return self.position[i], dims, [str(_stride(s)) for s in node.strides]
            case Const() as node:
                return literal(node.value)
            case SizeOf() as node:
                return colors[node.axis]
            case Map() as node:
                return node.op
            case Reduce() as node:
                return node.op, sorted(colors[a] for a in node.over)
            case View() as node:
                return sorted((colors[a], _index_key(ix, colors)) for a, ix in node.index)
            case Gather() as node:
                return colors[node.along]
        return None

    def _contexts(self, colors: Colors) -> dict[int, str]:
        """What each node computes and who reads it, top down."""
        keys = self._keys(colors)
        read: dict[int, list[str]] = {i: [] for i in self.live}
        for k, o in enumerate(self.graph.outputs):
            read[o.node].append(_digest("output", k))
        out: dict[int, str] = {}
        for i in reversed(self.live):
            out[i] = _digest(keys[i], sorted(read[i]))
            node = self.graph.nodes[i]
            for slot, a in enumerate(node.args):
                read[a].append(_digest(out[i], 0 if commutes(node) else slot))
        return out

    # -- the graph under a labelling

    def _build(self, colors: Colors) -> MuGraph:
        """The graph with nodes ordered and axes named by a labelling that tells all axes apart."""
        graph, keys = self.graph, self._keys(colors)
        order, at = self._order(keys)
        names = self._names(order, colors)
        nodes = tuple(self._renamed(i, names, at) for i in order)
        outputs = tuple(
            Output(f"out{k}", at[o.node], dims_with_axes(o.dims, names), o.order)
            for k, o in enumerate(graph.outputs)
        )
        return MuGraph(
            Graph("graph", nodes, outputs),
            tuple(_kernel(k, kern, names, at) for k, kern in enumerate(self.kernels)),
        )

    def _order(self, keys: Mapping[int, str]) -> tuple[list[int], dict[int, int]]:
        """One node per key, inputs first, then in postorder from the roots; and old id -> new."""
        order = [i for i in self.live if isinstance(self.graph.nodes[i], Input)]
        placed = {keys[i]: p for p, i in enumerate(order)}
        todo = [(i, False) for i in reversed(self.roots)]
        while todo:
            i, ready = todo.pop()
            if keys[i] in placed:
                continue
            if ready:
                placed[keys[i]] = len(order)
                order.append(i)
                continue
            args = list(self.graph.nodes[i].args)
            if commutes(self.graph.nodes[i]):
                args.sort(key=lambda a: keys[a])
            todo.append((i, True))
            todo += [(a, False) for a in reversed(args)]
        return order, {i: placed[keys[i]] for i in self.live}

    def _names(self, order: list[int], colors: Colors) -> dict[Axis, Axis]:
        """New names by first appearance: in the outputs' dims, then in the nodes in order."""
        seen: dict[Axis, None] = {}
        for out in self.graph.outputs:
            seen.update(dict.fromkeys(a for dim in out.dims for a in dim))
        for i in order:
            node = self.graph.nodes[i]
            if isinstance(node, Input):
                seen.update(dict.fromkeys(a for dim in node.dims for a in dim))
            axes = {*node.axes, *(a for a, *_ in _roles(node, {}))}
            seen.update(dict.fromkeys(sorted(axes, key=lambda a: colors[a])))
        seen.update(dict.fromkeys(sorted(colors, key=lambda a: colors[a])))
        width = len(str(max(len(seen) - 1, 0)))
        return {a: Axis(f"a{k:0{width}}", a.size) for k, a in enumerate(seen)}

    def _renamed(self, i: int, names: Mapping[Axis, Axis], at: dict[int, int]) -> Node:
        node = remap(self.graph.nodes[i], at)
        node = with_axes(node, names)
        if isinstance(node, Input):
            strides = tuple(_stride(s) for s in node.strides)
            return replace(node, name=f"in{self.position[i]}", strides=strides)
        if isinstance(node, View):
            return replace(node, index=tuple((a, _index(ix)) for a, ix in node.index))
        return in_order(node)


def _roles(node: Node, colors: Colors) -> list[tuple[Axis, object, object]]:
    """The axes that occur in a node, each with what it does there."""
    out: list[tuple[Axis, object, object]] = [(a, "in", "") for a in node.axes]
    match node:
        case Reduce():
            out += [(a, "over", "") for a in node.over]
        case SizeOf():
            out.append((node.axis, "size", ""))
        case Gather():
            out.append((node.along, "along", ""))
        case View():
            for a, ix in node.index:
                key = _index_key(ix, colors)
                out.append((a, "from", key))
                out += [(t, ("to", coef), (colors.get(a), key)) for t, coef in ix.terms]
        case Iota() | Input() | Const() | Map():
            pass
    return out


def _index_key(index: Index, colors: Colors) -> tuple[object, ...]:
    terms = sorted((colors.get(a, ""), coef) for a, coef in index.terms)
    # As text: optional bounds do not compare with numbers.
    return tuple(map(repr, (terms, index.offset, index.div, index.mod, index.lo, index.hi)))


def _index(index: Index) -> Index:
    return replace(index, terms=tuple(sorted(index.terms, key=lambda t: t[0].name)))


def _stride(stride: Stride) -> Stride:
    return Stride(stride.coef, tuple(sorted(stride.syms)))


def _kernel(k: int, kernel: Kernel, names: Mapping[Axis, Axis], at: Mapping[int, int]) -> Kernel:
    place = kernel.placement
    grid, loop = (
        tuple(Split(names[s.axis], s.tile) for s in level) for level in (place.grid, place.loop)
    )
    carries = {
        (at[c.reduce], at[c.stat], _move(c)): replace(c, reduce=at[c.reduce], stat=at[c.stat])
        for c in kernel.carries
    }
    return Kernel(
        f"k{k}",
        tuple(sorted({at[i] for i in kernel.outputs})),
        replace(place, grid=grid, loop=loop),
        tuple(carries[key] for key in sorted(carries)),
    )


def _move(carry: Carry) -> str:
    """How a carry moves its accumulator, as text."""
    return repr((carry.factor, carry.rank))
