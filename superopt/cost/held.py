"""The bytes of tile buffers that one task of a kernel holds: never less than what is allocated.

Lowering decides what gets a buffer when it writes the statements; here is counted what may get one,
at the largest tile that it can have, once for each loop that may compute it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES, compute_dtype
from superopt.mugraph.graph import Graph, Input, Map, Reduce
from superopt.mugraph.moments import MOST_RANK, degree
from superopt.mugraph.placement import Placement
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.sums import WIDE, fixed, follows, sum_dtype

if TYPE_CHECKING:
    from superopt.cost.model import KernelShape

ALIGN = 64
"""Bytes that buffers and their rows are aligned to."""

PER_STAT = 3
"""Buffers beside a running statistic: its old value, one that is safe to read, and its shift."""


@dataclass(frozen=True)
class Held:
    """A value that may get a tile buffer: bytes per element, and what it reduces, if it does."""

    axes: frozenset[Axis]
    bytes: int
    over: frozenset[Axis] = frozenset()


def held_in(
    graph: Graph, body: Sequence[int], outputs: tuple[int, ...], readers: Mapping[int, list[int]]
) -> tuple[tuple[Held, ...], tuple[tuple[frozenset[Axis], int], ...]]:
    """What may get a tile buffer in a kernel, and the factors that correct its accumulators."""
    held: list[Held] = []
    factors: list[tuple[frozenset[Axis], int]] = []
    costs, several, wide = costly(graph), stored_twice(graph), in_double(graph)
    sums = [i for i in body if isinstance(graph.nodes[i], Reduce)]
    below = {i: set(graph.reachable([i])) for i in sums}
    # What is read through a layout operator is read at other coordinates, and never held.
    here = {*outputs, *sums}
    for i in reversed(body):
        if i in here and isinstance(graph.nodes[i], Map | Reduce):
            here.update(graph.nodes[i].args)
    for i in body:
        node = graph.nodes[i]
        axes = frozenset(node.axes)
        if isinstance(node, Reduce):
            held.append(Held(axes, kept_bytes(graph, i), frozenset(node.over)))
            follow = [j for j in sums if j != i and i in below[j] and carries(graph, j, i)]
            if follow:
                held += [Held(axes, kept_bytes(graph, i))] * PER_STAT
            for j in follow:
                factors.append((axes, kept_bytes(graph, j)))
                held += moved_with(graph, j, i)
        elif isinstance(node, Map) and costs[i] and i in here:
            by = set(readers.get(i, []))
            wider = any(
                isinstance(n := graph.nodes[j], Map) and not set(n.axes) <= axes for j in by
            )
            if len(by) > 1 or wider or (i in several and i in outputs):
                held.append(Held(axes, 8 if wide[i] else DTYPES[node.dtype].bytes))
    return tuple(held), tuple(factors)


def kept_bytes(graph: Graph, i: int) -> int:
    """Bytes of an element of a reduction's accumulator."""
    dtypes = graph.nodes[i].dtype, compute_dtype(graph.nodes[i].dtype), sum_dtype(graph, i)
    return max(DTYPES[d].bytes for d in dtypes)


def in_double(graph: Graph) -> list[bool]:
    """Of each node whether it may be kept in double though its own dtype is narrower."""
    out: list[bool] = []
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Map) and follows(node):
            own = any(out[a] for a in node.args)
            out.append(own and all(out[a] or fixed(graph, a) for a in node.args))
        else:
            out.append(sum_dtype(graph, i) == WIDE != node.dtype)
    return out


def carries(graph: Graph, reduce: int, stat: int) -> bool:
    """Whether a reduction may be carried by another that it depends on: they share an axis."""
    nodes = (graph.nodes[reduce], graph.nodes[stat])
    over = [set(n.over) for n in nodes if isinstance(n, Reduce)]
    return len(over) == 2 and not over[0].isdisjoint(over[1])


def moved_with(graph: Graph, reduce: int, stat: int) -> list[Held]:
    """What is summed beside a reduction that follows a sum by Taylor's formula."""
    node, other = graph.nodes[reduce], graph.nodes[stat]
    if not isinstance(node, Reduce) or not isinstance(other, Reduce):
        return []
    sums = node.op == other.op == "add"
    rank = min(degree(graph, node.operand, stat) or 0, MOST_RANK) if sums else 0
    if not rank:
        return []
    inner = graph.nodes[node.operand]
    added = [Held(frozenset(node.axes), kept_bytes(graph, reduce), frozenset(node.over))] * rank
    between = [Held(frozenset(inner.axes), 8)] * rank
    return [*added, *between, Held(frozenset(), 8)]


def costly(graph: Graph) -> list[bool]:
    """Of each node whether an element takes arithmetic, from the last stored or reduced value on."""
    out: list[bool] = []
    for node in graph.nodes:
        own = isinstance(node, Map) and SCALARS[node.op].flops > 0
        inlined = not isinstance(node, Input | Reduce)
        out.append(own or (inlined and any(out[a] for a in node.args)))
    return out


def stored_twice(graph: Graph) -> set[int]:
    """The nodes that are written to several buffers, by way of a tile."""
    seen: set[int] = set()
    out: set[int] = set()
    for o in graph.outputs:
        if o.node in seen or sum(len(d) for d in o.dims) != len(graph.nodes[o.node].axes):
            out.add(o.node)
        seen.add(o.node)
    return out


def tile_bytes(
    shape: KernelShape, placement: Placement, sizes: Mapping[Axis, int] | None = None
) -> float:
    """Bytes of tile buffers that one task holds at most.

    A value that a loop walks along is held one step at a time, unless a reduction over two looped
    axes reads it; what is no accumulator may be computed in each pass over a loop again.
    """
    whole = shape.sizes if sizes is None else sizes
    extents: dict[Axis, float] = {**whole}
    parts, parted = 1.0, False
    for s in placement.grid:
        if s.tile < whole[s.axis] and s.axis in shape.reduced:
            parts, parted = parts * math.ceil(whole[s.axis] / s.tile), True
        extents[s.axis] = min(s.tile, whole[s.axis])
    looped = frozenset(s.axis for s in placement.loop)
    both = any(len(over & looped) > 1 for _, over, _ in shape.parts)
    passes = 1.0
    for k, s in enumerate(placement.loop):
        if k == 0 or not both:
            extents[s.axis] = min(s.tile, extents[s.axis])
        stores = any(s.axis in axes for axes, _ in shape.writes)
        passes *= max(sum(s.axis in over for _, over, _ in shape.parts) + stores, 1)
    total = 0.0
    for h in shape.held:
        once = not h.over.isdisjoint(looped) and h.axes.isdisjoint(looped)
        total += _padded(extents, h.axes, h.bytes) * (1.0 if once else passes)
    for axes, size in shape.factors:
        total += _padded(extents, axes, size) * (passes + (parts if parted else 0.0))
    return total


def _padded(extents: Mapping[Axis, float], axes: frozenset[Axis], size: int) -> float:
    """Bytes of a buffer, whichever of its axes is the last, whose rows are padded."""
    per = ALIGN // size
    count = math.prod([extents[a] for a in axes])
    least = min([extents[a] for a in axes if extents[a] > per], default=0.0)
    if least > 0.0 and len(axes) > 1:
        # A row is padded to whole vectors, and by one more.
        count *= (least + 2 * per) / least
    return count * size + ALIGN
