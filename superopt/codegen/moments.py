"""The accumulators that are kept beside those which follow a running sum by Taylor's formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from superopt.codegen.accumulators import here
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Reduce
from superopt.mugraph.moments import summands
from superopt.mugraph.placement import Carry, Kernel
from superopt.mugraph.tileir import Apply, Buffer, Compute, Expr, Extent, Lit, Stmt


@dataclass(frozen=True)
class Moments:
    """A graph with the sums of derivatives added that a kernel's carries need.

    carry: every carried reduction, the added ones included; sums: for each of them, the reductions
    of its first, second, ... derivative.
    """

    graph: Graph
    carry: dict[int, Carry]
    sums: dict[int, tuple[int, ...]]

    @property
    def added(self) -> dict[int, int]:
        """Each added reduction with the one that it belongs to."""
        return {s: i for i, sums in self.sums.items() if not self.is_added(i) for s in sums}

    def is_added(self, i: int) -> bool:
        """Whether a reduction is no part of the program."""
        return any(i in sums for sums in self.sums.values())


def moments(graph: Graph, kernel: Kernel) -> Moments:
    """Adds what the carries of a kernel need to its graph; the numbers of nodes stay."""
    carry = {c.reduce: c for c in kernel.carries}
    if not any(c.rank for c in kernel.carries):
        return Moments(graph, carry, {})
    b = Builder(graph.name, list(graph.nodes))
    sums: dict[int, tuple[int, ...]] = {}
    for c in kernel.carries:
        node = graph.nodes[c.reduce]
        if not c.rank or not isinstance(node, Reduce):
            continue
        mine = [
            b.reduce(node.op, s, node.over)
            for s in summands(b, node.operand, c.stat, c.rank, node.over)
        ]
        for k, i in enumerate([c.reduce, *mine]):
            sums[i] = tuple(mine[k:])
            carry[i] = Carry(i, c.stat, 1.0, len(mine) - k)
    return Moments(Graph(graph.name, tuple(b.nodes), graph.outputs), carry, sums)


@dataclass(frozen=True)
class Running:
    """The buffers that follow a running sum, and the statements that move what is built on it.

    likely: what the sum over ``over`` comes to if the rest is like the ``count`` elements seen so
    far; old: what that was one step before; shift: the difference; rounded: the dtype of elements.
    """

    stat: Buffer
    likely: Buffer
    old: Buffer
    shift: Buffer
    count: Buffer
    over: Sequence[Axis]
    rounded: str

    def start(self) -> list[Stmt]:
        """Before the loop."""
        zero = Lit(0.0, self.likely.dtype)
        return [Compute(b, b.axes, zero) for b in (self.likely, self.count)]

    def before(self) -> list[Stmt]:
        """In the loop, before the elements of a step are added."""
        return [Compute(self.old, self.old.axes, here(self.likely))]

    def count_up(self) -> list[Stmt]:
        """In the loop, after that."""
        return [Compute(self.count, (), Lit(1.0, self.rounded), "add", tuple(self.over), True)]

    def move(
        self, moved: Sequence[tuple[Buffer, Sequence[Buffer]]], exact: bool = False
    ) -> list[Stmt]:
        """Moves accumulators, each given with its sums of derivatives, to the new likely sum.

        Values near the running mean are what makes the sums of their squares small, and so exact.
        Elements are worked on in their own dtype, so in the loop the likely mean is one that this
        dtype holds: what is moved is then what was added up. After it (``exact``) it is the sum
        itself.
        """
        out: list[Stmt] = self.before() if exact else []
        out.append(Compute(self.likely, self.likely.axes, self._whole(exact)))
        difference = Apply("sub", (here(self.likely), here(self.old)), self.shift.dtype)
        out.append(Compute(self.shift, self.shift.axes, difference))
        return out + [Compute(a, a.axes, taylor_terms(a, s, self.shift)) for a, s in moved]

    def _whole(self, exact: bool) -> Expr:
        dtype = self.likely.dtype
        seen = Apply("max", (here(self.count), Lit(1.0, dtype)), dtype)
        mean: Expr = Apply("div", (here(self.stat), seen), dtype)
        if not exact and self.rounded != dtype:
            mean = Apply("cast", (mean,), self.rounded)
        total: Expr = Extent(self.over[0], dtype)
        for axis in self.over[1:]:
            total = Apply("mul", (total, Extent(axis, dtype)), dtype)
        return Apply("mul", (mean, total), dtype)


def taylor_terms(acc: Buffer, sums: Sequence[Buffer], shift: Buffer) -> Expr:
    """An accumulator moved: ``acc + shift * sums[0] + shift^2 / 2 * sums[1] + ...``."""
    out: Expr = here(acc)
    power: Expr = here(shift)
    for k, s in enumerate(sums):
        if k:
            power = Apply("mul", (power, here(shift)), acc.dtype)
        factor = 1.0 / math.factorial(k + 1)
        scaled = (
            power if factor == 1.0 else Apply("mul", (power, Lit(factor, acc.dtype)), acc.dtype)
        )
        out = Apply("add", (out, Apply("mul", (here(s), scaled), acc.dtype)), acc.dtype)
    return out
