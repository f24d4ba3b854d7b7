"""A kernel with a split reduction as two: one that stores the parts, and one that merges them.

The first computes the reductions over the split axis, each task on its part. The second is the
rest of the kernel, where each of these reductions is replaced by one over the parts (see
``mugraph/parts.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import compute_dtype
from superopt.mugraph.graph import (
    Builder,
    Dims,
    Graph,
    Input,
    Output,
    Reduce,
    axis_strides,
    dense_strides,
    remap,
)
from superopt.mugraph.layout import layout_order
from superopt.mugraph.parts import build_term, reduced_over, split_axes
from superopt.mugraph.placement import Kernel, MuGraph, Placement, Split, kernel_body
from superopt.mugraph.sums import WIDE, sum_dtype
from superopt.mugraph.tileir import Buffer, Part


@dataclass(frozen=True)
class Piece:
    """What one kernel is lowered from: a placed graph, a position in it, and where values live."""

    mugraph: MuGraph
    position: int
    stored: Mapping[int, Buffer]
    outputs: Mapping[int, list[Buffer]]
    scratch: Mapping[int, Buffer]
    ranks: Mapping[Axis, float]
    part: Part | None = None


def pieces(piece: Piece) -> tuple[Piece, ...]:
    """The kernel itself, or the two that a split reduction makes of it."""
    body = kernel_body(piece.mugraph, piece.position)
    kernel = piece.mugraph.kernels[piece.position]
    axes = split_axes(piece.mugraph.graph, body, kernel.placement)
    if not axes:
        return (piece,)
    return _Splitting(piece, axes[0], body).pieces()


class _Splitting:
    def __init__(self, piece: Piece, axis: Axis, body: list[int]) -> None:
        self.piece, self.axis, self.body = piece, axis, body
        self.graph = piece.mugraph.graph
        self.kernel = piece.mugraph.kernels[piece.position]
        self.partial = reduced_over(self.graph, body, axis)
        place = self.kernel.placement
        self.tile = next(s.tile for s in place.grid if s.axis == axis)
        self.grid = tuple(s for s in place.grid if s.axis != axis)
        self.at = next(k for k, s in enumerate(place.grid) if s.axis == axis)
        size = axis.size.hi if isinstance(axis.size, Sym) else axis.size
        self.number = Axis(self._name(), max(-(-size // self.tile), 1))
        # The parts lie outside of all else: a task writes one block.
        self.ranks = {**piece.ranks, self.number: float("inf")}
        self.buffers = {i: self._buffer(i) for i in self.partial}

    def pieces(self) -> tuple[Piece, Piece]:
        """The kernel that stores the parts, and the one that merges them."""
        return self._parts(), self._merge()

    def _name(self) -> str:
        taken = {a.name for a in self.graph.axes}
        name = f"{self.axis.name}_part"
        while name in taken:
            name += "_"
        return name

    def _buffer(self, i: int) -> Buffer:
        """The parts of one reduction; kept in the type that they are added up in."""
        node = self.graph.nodes[i]
        axes = (self.number, *layout_order(node.axes, dict(self.piece.ranks)))
        dims: Dims = tuple((a,) for a in axes)
        strides = axis_strides(dims, dense_strides(dims))
        return Buffer(
            f"part{self.piece.position}_{i}",
            "scratch",
            axes,
            compute_dtype(sum_dtype(self.graph, i)),
            tuple(strides[a] for a in axes),
        )

    def _parts(self) -> Piece:
        before = self.piece.mugraph.kernels[: self.piece.position]
        place = self.kernel.placement
        needed = set(self.graph.reachable(self.partial)) & set(self.body)
        carries = tuple(c for c in self.kernel.carries if c.reduce in needed)
        # A statistic and what follows it are made in one pass: no loop over kept axes parts them.
        reduced = {
            a for i in needed if isinstance(n := self.graph.nodes[i], Reduce) for a in n.over
        }
        loop = tuple(s for s in place.loop if s.axis in reduced)
        if self.axis not in [s.axis for s in loop] and any(
            c.reduce in self.buffers for c in carries
        ):
            # A part in which the statistic stays at its identity (all keys masked) is legal, though
            # the whole may not be so: one step of a loop treats it as an empty prefix.
            loop = (*loop, Split(self.axis, self.tile))
        # Tasks follow each other in the order that the grid gives.
        grid = (*self.grid[: self.at], Split(self.number, 1), *self.grid[self.at :])
        place = replace(place, grid=grid, loop=loop)
        kernel = Kernel(f"{self.kernel.name} parts", tuple(self.partial), place, carries)
        return replace(
            self.piece,
            mugraph=MuGraph(self.graph, (*before, kernel)),
            outputs={i: [self.buffers[i]] for i in self.partial},
            scratch={},
            ranks=self.ranks,
            part=Part(self.axis, self.tile, self.number),
        )

    def _merge(self) -> Piece:
        b = Builder(self.graph.name)
        stored: dict[int, Buffer] = {}
        at: dict[int, int] = {}
        for i in self._after():
            node = self.graph.nodes[i]
            if i in self.partial:
                at[i] = self._joined(b, i, at, stored)
            elif i in set(self.body) and not isinstance(node, Input):
                at[i] = b.add(remap(node, at))
            else:
                at[i] = b.add(node if isinstance(node, Input) else _given(node.axes, node.dtype, i))
                if i in self.piece.stored:
                    stored[at[i]] = self.piece.stored[i]
        place = self.kernel.placement
        here = {a for i in at.values() for a in b.nodes[i].axes}
        loop = tuple(s for s in place.loop if s.axis in here and s.axis != self.axis)
        kernel = Kernel(
            f"{self.kernel.name} merge",
            tuple(at[i] for i in self.kernel.outputs),
            Placement(self.grid, loop, place.lane),
            tuple(
                replace(c, reduce=at[c.reduce], stat=at[c.stat])
                for c in self.kernel.carries
                if c.reduce in at and c.reduce not in self.partial
            ),
        )
        results = tuple(
            Output(f"out{k}", at[i], tuple((a,) for a in self.graph.nodes[i].axes))
            for k, i in enumerate(self.kernel.outputs)
        )
        merged = MuGraph(Graph(self.graph.name, tuple(b.nodes), results), (kernel,))
        return Piece(
            merged,
            0,
            stored,
            {at[i]: x for i, x in self.piece.outputs.items() if i in self.kernel.outputs},
            {at[i]: x for i, x in self.piece.scratch.items() if i in self.kernel.outputs},
            self.ranks,
        )

    def _after(self) -> list[int]:
        """What the merge computes or reads: from the outputs down to the partial reductions."""
        inside = set(self.body)
        seen: set[int] = set()
        todo = list(self.kernel.outputs)
        while todo:
            i = todo.pop()
            if i in seen:
                continue
            seen.add(i)
            if i in self.partial:
                todo += [c.stat for c in self.kernel.carries if c.reduce == i]
            elif i in inside:
                todo.extend(self.graph.nodes[i].args)
        return sorted(seen)

    def _joined(self, b: Builder, i: int, at: dict[int, int], stored: dict[int, Buffer]) -> int:
        """A reduction over the parts, each moved to the statistic of all of them."""
        node = self.graph.nodes[i]
        if not isinstance(node, Reduce):
            raise TypeError("only reductions are made in parts")
        carry = next((c for c in self.kernel.carries if c.reduce == i), None)
        value = self._parts_of(b, i, stored)
        wide = b.dtype(value) != node.dtype
        if carry is not None:
            moved = (self._parts_of(b, carry.stat, stored), at[carry.stat])
            factor = build_term(b, carry.factor, moved)
            value = b.map("mul", value, b.map("cast", factor, dtype=b.dtype(value)))
        joined = b.reduce(node.op, value, [self.number])
        # Parts in double are added up as they are; the sum is what the whole one would be.
        return b.add(replace(b.nodes[joined], dtype=node.dtype)) if wide else joined

    def _parts_of(self, b: Builder, i: int, stored: dict[int, Buffer]) -> int:
        buffer = self.buffers[i]
        dtype = WIDE if buffer.dtype == WIDE else self.graph.nodes[i].dtype
        node = b.add(_given(buffer.axes, dtype, buffer.name))
        stored[node] = buffer
        return node


def _given(axes: tuple[Axis, ...], dtype: str, name: object) -> Input:
    """A leaf for a value that lies in a buffer already."""
    dims: Dims = tuple((a,) for a in axes)
    by_name = tuple(sorted(axes, key=lambda a: a.name))
    return Input(by_name, dtype, f"<stored {name}>", dims, dense_strides(dims))
