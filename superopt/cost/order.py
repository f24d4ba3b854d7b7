"""What tasks that follow each other on a core find near, because the one before has read it.

A tile that lacks the grid's last axes is read again and again while these change. It stays in the
second cache as far as it fits beside others of its kind, and as far as its place in memory lets it:
short rows, a power of two apart, share a few sets of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from superopt.mugraph.axes import Axis, Stride, hint
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Input, Node, View, axis_strides
from superopt.mugraph.placement import Split

if TYPE_CHECKING:
    from superopt.cost.model import KernelShape

Steps = tuple[tuple[Axis, int], ...]
"""The axes of a stored value with the bytes from one element to the next, ascending."""

WAYS = 8
"""Lines that share a set of the second cache."""


def steps_of(node: Node, reader: Node) -> Steps:
    """The steps of a stored value as one node reads it; none where it is dense, or not known."""
    if not isinstance(node, Input):
        return ()
    size = DTYPES[node.dtype].bytes
    strides = {a: _bytes(s, size) for a, s in axis_strides(node.dims, node.strides).items()}
    if isinstance(reader, View):
        renamed = {to: strides[a] for a, ix in reader.index if (to := ix.rename_of()) is not None}
        if len(renamed) != len(reader.axes):
            return ()
        strides = renamed
    return tuple(sorted(strides.items(), key=lambda e: (e[1], e[0].name)))


def _bytes(stride: Stride, size: int) -> int:
    return stride.coef * math.prod([hint(s) for s in stride.syms]) * size


def staying(steps: Steps, tile: Mapping[Axis, float], size: float, own: float, l2: float) -> float:
    """The part of a tile of ``own`` bytes that stays in the second cache; size: of an element."""
    run, share = size, 1.0
    for axis, step in steps:
        if tile[axis] <= 1:
            continue
        if step != run:
            share = min(1.0, run / min(step & -step, l2 / WAYS)) if step else 1.0
            break
        run = step * tile[axis]
    return min(1.0, l2 / 2 * share / own)


def in_a_row(
    grid: Sequence[Split],
    tile: Mapping[Axis, int],
    whole: Mapping[Axis, int],
    axes: Iterable[Axis],
) -> float:
    """How many tasks that follow each other read the same tile of a value with these axes."""
    run = 1.0
    for s in reversed(grid):
        if s.axis in axes and tile[s.axis] < whole[s.axis]:
            break
        run *= math.ceil(whole[s.axis] / tile[s.axis])
    return run


def task_order(
    shape: KernelShape, l2: float, grid: Sequence[Split], sizes: Mapping[Axis, int] | None = None
) -> tuple[Split, ...]:
    """The grid, the fastest axis last: neighbouring tasks share the most bytes that stay near.

    A simple rule, for ranking tiles; which order is best of all is asked of few placements only.
    """
    whole = shape.sizes if sizes is None else sizes
    tile = {**whole, **{s.axis: min(s.tile, whole[s.axis]) for s in grid}}
    near = []
    for (axes, b), steps in zip(shape.reads, shape.steps, strict=True):
        own = math.prod([tile[a] for a in axes]) * b
        near.append((axes, own * staying(steps, tile, b, own, l2)))

    def shared(axis: Axis) -> float:
        return sum(n for axes, n in near if axis not in axes)

    return tuple(sorted(grid, key=lambda s: shared(s.axis)))
