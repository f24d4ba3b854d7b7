"""Whether a mutant differs from its graph: by a counterexample in float64, or not, by an argument."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from superopt.bench.exact import Exact
from superopt.bench.exact_forms import TooMuch
from superopt.errors import SuperoptError
from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import extent
from superopt.mugraph.canonical import graph_hash
from superopt.mugraph.dims import dense_strides
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import Graph, Input, Map, Node, remap
from superopt.mugraph.mutants import interface

CLOSE = 1e-9
"""Relative difference of two results in float64, of a row's largest, that rounding does not explain."""

LIMITS = ((1, 400_000), (6, 400_000), (100, 3_000_000))
"""Terms of a sum, and operations on terms, with which exact values are tried in turn."""

INDICES = 64
"""Values of an index up to which all are tried; of more, so many are drawn at random."""


# -- counterexamples ---------------------------------------------------------------------------------


def _draws(graph: Graph) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Inputs in float64: ordinary ones, ties, special values, extremes of indices, masks."""
    spread = {
        "normal": lambda x: x,
        "other normal": lambda x: x,
        "positive": lambda x: x.abs() + 0.1,
        "ties": lambda x: x.sign(),
        "few values": lambda x: (2 * x).round().clamp(-1, 1),
        "zeros": lambda x: x.zero_(),
        "ones": lambda x: x.fill_(1.0),
        "large": lambda x: x * 30,
        "small": lambda x: x * 1e-4,
    }
    most_of = reach(graph)
    for seed, (name, fill) in enumerate(spread.items()):
        generator = torch.Generator().manual_seed(seed)
        tensors = []
        for n in graph.inputs:
            shape = [math.prod(extent(a.size) for a in dim) for dim in n.dims]
            if is_float(n.dtype):
                drawn = fill(torch.randn(shape, generator=generator, dtype=torch.float64))
            elif n.dtype == "bool":
                drawn = torch.randint(0, 2, shape, generator=generator).bool()
            else:
                most = most_of.get(n.name, 8)
                drawn = torch.randint(0, most, shape, generator=generator)
                if seed % 3:
                    drawn[...] = 0 if seed % 3 == 1 else most - 1
                drawn = drawn.to(DTYPES[n.dtype].torch)
            tensors.append(drawn)
        yield name, tensors


def reach(graph: Graph, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """For integer inputs that index an axis, how long the shortest of these axes is."""
    out: dict[str, int] = {}
    for node in graph.nodes:
        along = getattr(node, "along", None)
        if along is None:
            continue
        for i in graph.reachable([node.args[1]]):
            source = graph.nodes[i]
            if isinstance(source, Input):
                out[source.name] = min(out.get(source.name, 1 << 30), extent(along.size, sizes))
    return out


@dataclass
class Judge:
    """Judges the mutants of one graph, whose sizes are numbers."""

    graph: Graph
    _draws: list[tuple[str, list[torch.Tensor], list[torch.Tensor]]] = field(default_factory=list)
    _exact: list[Exact | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, tensors in _draws(self.graph):
            self._draws.append((name, tensors, floats.run(self.graph, tensors)))
        self._exact = [Exact(*limit) for limit in LIMITS]

    def defined(self) -> bool:
        """Whether every element of every result is finite for some of the draws."""
        return all(
            bool(torch.stack([mine[k].isfinite() for *_, mine in self._draws]).any(0).all())
            for k in range(len(self.graph.outputs))
        )

    def differs(self, other: Graph) -> str:
        """Where the other graph gives another result in float64, or the empty string.

        Only where both are finite: beyond that, both are undefined somewhere.
        """
        if (found := interface(self.graph, other)) != "":
            return found
        for name, tensors, mine in self._draws:
            by_name = {n.name: t for n, t in zip(self.graph.inputs, tensors, strict=True)}
            try:
                theirs = floats.run(other, [by_name[n.name] for n in other.inputs])
            except (IndexError, RuntimeError, SuperoptError):
                continue  # an index is beyond its axis for these values alone, or a divisor is zero
            for k, (x, y) in enumerate(zip(mine, theirs, strict=True)):
                if (off := _apart(x, y)) is not None:
                    return f"output {k} is off by {off:.2e} on {name} inputs"
        return ""

    def argument(self, other: Graph) -> str:
        """Why the other graph computes the same, in words; the empty string where none was found."""
        mine, theirs = self.graph, other
        if interface(mine, theirs):
            return ""
        if graph_hash(mine) == graph_hash(theirs):
            return "the same canonical form: commuted operands, equal nodes, dead code"
        if graph_hash(_laid_out(mine)) == graph_hash(_laid_out(theirs)):
            return "the layout in memory alone: every value is the same"
        if graph_hash(_plain(mine)) == graph_hash(_plain(theirs)):
            return "casts between float types alone: the same function of real numbers"
        for k, exact in enumerate(self._exact):
            if exact is None:
                continue
            limit, work = LIMITS[k]
            exact.work = work
            try:
                pairs = list(zip(exact.outputs(mine), exact.outputs(theirs), strict=True))
            except TooMuch:
                if exact.work < 0 and k:
                    self._exact[k] = Exact(limit, work)
                continue
            if all(x.shape == y.shape and bool((x == y).all()) for x, y in pairs):
                return "equal in exact arithmetic, cell by cell"
        if reach(mine) and all(self._equal_given(other, x) for x in index_draws(mine)):
            return "equal in exact arithmetic, cell by cell" + drawn(mine)
        return ""

    def _equal_given(self, other: Graph, numbers: Mapping[str, np.ndarray]) -> bool:
        """Whether the forms are the same when the inputs of integers are these numbers."""
        for limit in LIMITS:
            exact, outputs = Exact(*limit), []
            try:
                for graph in (self.graph, other):
                    exact.given = {
                        n.name: numbers[n.name].reshape([extent(a.size) for d in n.dims for a in d])
                        for n in graph.inputs
                        if n.name in numbers
                    }
                    outputs.append(exact.outputs(graph))
            except TooMuch:
                continue
            pairs = zip(*outputs, strict=True)
            if all(x.shape == y.shape and bool((x == y).all()) for x, y in pairs):
                return True
        return False


def index_draws(
    graph: Graph, sizes: Mapping[str, int] | None = None
) -> list[dict[str, np.ndarray]]:
    """Numbers for the inputs of integers, over their axes, that are valid indices.

    Where there are few values, every place of an input has every one in turn.
    """
    most, out = reach(graph, sizes), []
    for k in range(_values(graph, sizes)):
        numbers = {}
        for n in graph.inputs:
            if DTYPES[n.dtype].kind == "int":
                shape = [extent(a.size, sizes) for dim in n.dims for a in dim]
                values, m = np.arange(math.prod(shape)) + k, most.get(n.name, 8)
                if m > INDICES:
                    values = np.random.default_rng(k).integers(0, m, math.prod(shape))
                numbers[n.name] = (values % m).reshape(shape)
        out.append(numbers)
    return out


def _values(graph: Graph, sizes: Mapping[str, int] | None = None) -> int:
    """How many draws of indices there are."""
    return min(max(reach(graph, sizes).values(), default=8), INDICES)


def drawn(graph: Graph, sizes: Mapping[str, int] | None = None) -> str:
    """What an argument says of the indices that were drawn."""
    every = max(reach(graph, sizes).values(), default=8) <= INDICES
    places = ", every value at every place" if every else ""
    return f", for {_values(graph, sizes)} draws of the indices{places}"


def _apart(x: torch.Tensor, y: torch.Tensor) -> float | None:
    """The largest relative difference where both are finite, if it is no rounding."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return math.inf
    if not x.is_floating_point():
        return None if torch.equal(x, y) else math.inf
    both = x.isfinite() & y.isfinite()
    if not both.any():
        return None
    x, y = x[both].double(), y[both].double()
    off = float(((x - y).abs() / (x.abs().max() + y.abs() + 1e-6)).max())
    return off if off > CLOSE else None


def _laid_out(graph: Graph) -> Graph:
    """The graph with dense inputs and row-major outputs."""
    nodes = tuple(
        replace(n, strides=dense_strides(n.dims)) if isinstance(n, Input) else n
        for n in graph.nodes
    )
    return Graph(graph.name, nodes, tuple(replace(o, order=()) for o in graph.outputs))


def _plain(graph: Graph) -> Graph:
    """The graph without casts between float types, everything in double but inputs and outputs."""
    at: dict[int, int] = {}
    nodes: list[Node] = []
    for i, node in enumerate(graph.nodes):
        new = remap(node, at)
        cast = isinstance(node, Map) and node.op == "cast"
        if cast and is_float(node.dtype) and is_float(graph.nodes[node.args[0]].dtype):
            at[i] = new.args[0]
            continue
        if is_float(node.dtype):
            new = replace(new, dtype="f64")
        at[i] = len(nodes)
        nodes.append(new)
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return _laid_out(Graph(graph.name, tuple(nodes), outputs))
