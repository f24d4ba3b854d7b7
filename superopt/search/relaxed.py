"""What a kernel of which not all is decided takes at least, whatever becomes of the open cut points.

A kernel that computes more than another, under the same tiles, takes no less. So the least over all
tiles that any of its completions may be given, each axis looped as finely as a loop can be, and no
step charged, bounds them all; its completions never have tiles that it is not tried with.

The rest of the program must be computed too, by this kernel or by others: the bounds are given for
several prices of that (weak duality). A kernel of compute time c and memory time m that takes in
more costs at least what is paid for it, beyond ``(1 + overlap) max(c, m) - p (m - c)+ - q (c - m)+``,
for prices with overlap <= p, q <= 1 and p + q <= 1 + overlap: it hides behind the greater first.
"""

from __future__ import annotations

from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.graph import Reduce
from superopt.mugraph.placement import Split
from superopt.search import place
from superopt.search.blocks import Blocks, Body, bits


class Relaxed:
    """Bounds for the kernels over the cut points of one graph. wide: see ``place.Axes``."""

    def __init__(self, blocks: Blocks, wide: frozenset[Axis]) -> None:
        self.blocks, self.wide = blocks, wide
        r = blocks.least.overlap
        self.prices = ((r, r), (1.0, r), (r, 1.0), ((1 + r) / 2, (1 + r) / 2))
        self._known: dict[tuple[int, int, int, int], list[float]] = {}
        self._own = [self._reduced(nodes) for nodes in blocks.nodes]
        self._below: list[frozenset[Axis]] = []  # per point: the axes reduced there and below
        for own, args in zip(self._own, blocks.args, strict=True):
            self._below.append(own.union(*(self._below[k] for k in bits(args))))

    def _reduced(self, nodes: tuple[int, ...]) -> frozenset[Axis]:
        graph = self.blocks.graph
        return frozenset(
            a for i in nodes if isinstance(n := graph.nodes[i], Reduce) for a in n.over
        )

    def kernel(self, outputs: int, body: Body, open_points: int, mates: int) -> list[float]:
        """The least, for each price, of a kernel that stores ``outputs`` and perhaps some ``mates``."""
        key = outputs, body.blocks, body.reads & ~open_points, mates
        if key not in self._known:
            self._known[key] = self._placed(outputs, body, open_points, mates) or self.together(
                outputs, body, open_points
            )
        return self._known[key]

    def together(self, outputs: int, body: Body, open_points: int) -> list[float]:
        """The least, for each price, of any kernels that store ``outputs`` between them."""
        c, m = self.blocks.floor(outputs, body, open_points)
        least = self.blocks.least
        both = least.launch + (1 + least.overlap) * max(c, m)
        return [both - p * max(m - c, 0.0) - q * max(c - m, 0.0) for p, q in self.prices]

    def _placed(self, outputs: int, body: Body, open_points: int, mates: int) -> list[float] | None:
        blocks = self.blocks
        undecided = body.reads & open_points | mates
        reduced = frozenset[Axis]().union(*(self._own[k] for k in bits(body.blocks)))
        later = frozenset[Axis]().union(*(self._below[k] for k in bits(undecided)))
        ids = tuple(blocks.points[k] for k in bits(outputs))
        first, *others = (blocks.graph.nodes[i].axes for i in ids)
        own = [a for a in first if all(a in axes for axes in others)]
        over = [a for a in own if a not in reduced and hint(a.size) > 1]
        grids, _ = place.choices(place.Axes(tuple(over), (), self.wide), True)
        for axis, tiles in zip(over, grids, strict=True):
            whole = Split(axis, hint(axis.size))
            if axis in later and whole not in tiles:
                tiles.append(whole)
        split = sorted((reduced | later) - set(own), key=lambda a: (a.name, hint(a.size)))
        every = [grids]
        for axis in split:
            if hint(axis.size) >= 2 * place.LEAST_PART:
                parts, _ = place.choices(place.Axes((), (), self.wide, (axis,)), True)
                every.append([*parts, *grids])
        nodes, reads = blocks.kernel(Body(body.blocks, body.args & ~open_points))
        settled = blocks.points[undecided.bit_length() - 1] if undecided else -1
        return blocks.least.placed(
            nodes, reads, ids, settled, split, every, min(place.QUICK_STEPS), self.prices
        )
