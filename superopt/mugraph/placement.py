"""The placed uGraph: a term graph cut into kernels, each with its axes placed on the hierarchy.

A kernel materializes some nodes of the graph; every other node it needs is computed inside it, at
tile granularity, and never stored. Each axis of a kernel is placed on one or more levels:

* ``grid``: parallel tiles (a core's or an SM's task); at most one tile size per axis. A reduced
  axis on the grid is a split reduction: each task makes a part, and the parts are merged (``parts``),
* ``loop``: serial tiles inside a task (carries accumulators); one tile size per axis,
* ``tile``: what is left of an axis inside a task and loop step (held in cache or shared memory),
* ``lane``: how the tile is spread over vector lanes and registers (``Lane``; chosen per statement).

The Mirage paper's ``imap``/``omap`` (which grid axis partitions which tensor dimension) and
``fmap`` (which for-loop axis does) are this table read per tensor (OSDI'25, section 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph, Reduce


@dataclass(frozen=True, slots=True)
class Split:
    """An axis cut into consecutive tiles of ``tile`` elements; the last one may be shorter."""

    axis: Axis
    tile: int


@dataclass(frozen=True, slots=True)
class Lane:
    """Thread-level schedule of a kernel's contractions: vector width and register tile.

    vector: lanes of one vector (4-byte elements); rows, cols: register tile in rows and in vectors,
    fitted to what a statement has (``lanes``); unroll: steps of the reduced axis that are summed in
    registers, 1 for the backend's number. The default as a whole leaves the tile to the backend, as
    does a lane for vectors of another length than the backend's.
    """

    vector: int = 16
    rows: int = 4
    cols: int = 4
    unroll: int = 1


@dataclass(frozen=True, slots=True)
class Carry:
    """A one-pass accumulator that is corrected whenever the value it depends on moves.

    ``reduce`` (a Reduce node) reads ``stat`` (a Reduce node over the same axis, accumulated in the
    same loop). When stat moves from m to m', the accumulator is multiplied by ``factor``, a term
    over the scalar table whose Arg(0) is m and Arg(1) is m' (design: one pass, carried form).

    rank: the degree of the summand in m, where it is a polynomial (``moments``): then the sums of so
    many of its derivatives are kept as well, and their Taylor terms are added when m moves.
    """

    reduce: int
    stat: int
    factor: object
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the axes of one kernel live; an axis in neither list is whole inside the tile.

    The order of the grid is that of the tasks, of which a core does a stretch: the last axis changes
    first. The order of the loops is from the outermost to the innermost.
    """

    grid: tuple[Split, ...] = ()
    loop: tuple[Split, ...] = ()
    lane: Lane = Lane()


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: the nodes it materializes, its placement and its one-pass accumulators."""

    name: str
    outputs: tuple[int, ...]
    placement: Placement
    carries: tuple[Carry, ...] = ()


@dataclass(frozen=True)
class MuGraph:
    """A placed program: the term graph and its kernels in execution order.

    Every output of the graph is materialized by exactly one kernel; a kernel may read inputs and
    nodes that earlier kernels materialized.
    """

    graph: Graph
    kernels: tuple[Kernel, ...]

    def materialized(self) -> dict[int, int]:
        """Node id -> position of the kernel that stores it."""
        return {node: k for k, kernel in enumerate(self.kernels) for node in kernel.outputs}

    def __str__(self) -> str:
        from superopt.mugraph.text import print_mugraph

        return print_mugraph(self)


def kernel_body(mugraph: MuGraph, position: int) -> list[int]:
    """The nodes computed inside a kernel: all it needs beyond inputs and earlier kernels' outputs.

    Ascending ids, hence topological; a node recomputed by several kernels is in each body.
    """
    stored = mugraph.materialized()
    graph = mugraph.graph
    mine = set(mugraph.kernels[position].outputs)
    seen: set[int] = set()
    todo = list(mine)
    while todo:
        i = todo.pop()
        if i in seen or (i in stored and i not in mine):
            continue
        seen.add(i)
        todo.extend(graph.nodes[i].args)
    return sorted(seen)


def reductions(graph: Graph, body: list[int]) -> Iterator[tuple[int, Reduce]]:
    """The Reduce nodes of a kernel body."""
    for i in body:
        node = graph.nodes[i]
        if isinstance(node, Reduce):
            yield i, node
