"""The register tile of a placed kernel's contractions: which one takes the fewest cycles.

A tile of r rows and c vectors takes, for each step of the summed axis, r*c multiply-adds, r scalars
spread over a vector and c vectors loaded. Its r*c sums are independent, and each waits for its last
value; so small tiles wait for latency, flat ones for loads, and what the tile does not divide is
done by smaller tiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from superopt.cost.devices import Device
from superopt.cost.model import unit_of
from superopt.mugraph.axes import Axis, Sym, hint
from superopt.mugraph.dtypes import DTYPES, compute_dtype, is_float
from superopt.mugraph.graph import Graph, Input, Map, Reduce, View
from superopt.mugraph.lanes import (
    MOST_ROWS,
    SCATTERED,
    TURNED,
    copied,
    dot,
    fitted_tile,
    most_sums,
    steps_of,
    usual_tile,
    waste,
)
from superopt.mugraph.placement import Lane, Placement

LATENCY = 4
"""Cycles of a multiply-add."""

UNHIDDEN = 0.1
"""Part of the cycles of loads that multiply-adds do not hide; measured on Zen 4, with LATENCY."""

CLEAR = 0.96
"""A tile is taken in place of the usual one where it needs less than this part of its cycles."""

SLACK = 1.0 - 1e-9
"""Of tiles that take the same, the one of fewer rows is taken."""

CHUNK = 64
"""Rows that a result is made in at most at a time, where it goes through a local block."""


@dataclass(frozen=True, slots=True)
class Product:
    """One contraction in a task: its rows, its whole vectors of columns, and whether a part of one
    is left; times: how often it is made."""

    rows: int
    vectors: int
    part: bool
    times: float


class Lanes:
    """The lanes of the placements of one kernel body.

    wide: the axes that are contiguous in memory. Sizes that are not known, and the unit for pairs of
    16-bit numbers, are left to the backend.
    """

    def __init__(
        self, graph: Graph, body: Sequence[int], device: Device, wide: frozenset[Axis]
    ) -> None:
        self.device = device
        self.sums = list(_contractions(graph, body, wide))

    def __call__(self, placement: Placement) -> Lane:
        """The lane of a placement; the default where it is left to the backend."""
        cut: dict[Axis, int] = {}
        for s in (*placement.grid, *placement.loop):
            cut[s.axis] = min(s.tile, cut.get(s.axis, s.tile))
        found = [p for c in self.sums if (p := c.product(cut, self.device.vector)) is not None]
        if not found or any(p.times == 0.0 for p in found):
            return Lane()
        most = max(p.times for p in found)
        key = [replace(p, times=round(p.times / most, 9)) for p in found]
        device = self.device
        return _best(tuple(sorted(key, key=str)), device.vector, device.fma, device.loads)


def tiles(vector_bytes: int) -> list[tuple[int, int]]:
    """The register tiles that fit."""
    most = most_sums(vector_bytes)
    rows = range(1, min(MOST_ROWS, most) + 1)
    return [(r, c) for r in rows for c in range(1, most // r + 1)]


@functools.lru_cache(maxsize=4096)
def _best(products: tuple[Product, ...], vector: int, fma: float, loads: float) -> Lane:
    vector_bytes = 4 * vector
    rows = max(p.rows for p in products)
    usual = usual_tile(vector_bytes)

    def cycles(lane: Lane) -> float:
        return sum(
            p.times
            * tile_cycles(
                p,
                fitted_tile((lane.rows, lane.cols), vector_bytes, p.rows, max(p.vectors, 1)),
                steps_of(lane, vector_bytes, p.rows),
                fma,
                loads,
            )
            for p in products
        )

    # One contraction's lane can say all; several share what the backend fits to each.
    alone = len({(p.rows, p.vectors, p.part) for p in products}) == 1
    steps = steps_of(Lane(vector, *usual, 1), vector_bytes, rows) if alone else 1
    if alone:
        usual = fitted_tile(usual, vector_bytes, rows, max(products[0].vectors, 1))
    best = Lane(vector, *usual, steps)
    least = cycles(best) * CLEAR
    for r, c in tiles(vector_bytes):
        lane = Lane(vector, r, c, steps)
        if lane != Lane() and r <= rows and (there := cycles(lane)) < least * SLACK:
            best, least = lane, there
    return best


def tile_cycles(
    product: Product, tile: tuple[int, int], steps: int, fma: float, loads: float
) -> float:
    """Cycles of one step of the summed axis: of all register tiles of a product.

    fma, loads: vectors multiplied and added, and loaded, in a cycle; scalars load twice as fast.
    """
    r, c = tile
    total = 0.0
    # Vectors that are left over are done one by one.
    for wide, across in ((c, product.vectors // c), (1, product.vectors % c + product.part)):
        for high, down in ((r, product.rows // r), (product.rows % r, 1)):
            if across == 0 or down == 0 or high == 0:
                continue
            read = (high * 0.5 + wide) / loads
            # Sums are stored, and the last ones added, after so many steps.
            worked = max(high * wide / fma, LATENCY, read)
            total += across * down * (worked + UNHIDDEN * read + high * wide / steps)
    return total


@dataclass(frozen=True, slots=True)
class _Side:
    """A factor: its own axes that are kept; contiguous ones; whether it is read as it is stored."""

    kept: tuple[Axis, ...]
    along: frozenset[Axis]
    plain: bool


@dataclass(frozen=True, slots=True)
class _Contraction:
    """A sum of products of two factors."""

    sides: tuple[_Side, _Side]
    every: tuple[Axis, ...]
    over: tuple[Axis, ...]
    bytes: int
    pairs: bool
    wide: frozenset[Axis]

    def product(self, cut: Mapping[Axis, int], vector: int) -> Product | None:
        """What a task makes of it; no times where it is not known; None: no vectors of columns."""
        size = {a: min(n := hint(a.size), cut.get(a, n)) for a in self.every}
        form = self._columns(size)
        if form is None:
            return None
        rows, column = form
        if self.pairs or any(isinstance(a.size, Sym) and a not in cut for a in (*rows, column)):
            return Product(1, 1, False, 0.0)
        lanes = max(vector * 4 // self.bytes, 1)
        m, n = min(math.prod([size[a] for a in rows]), CHUNK), size[column]
        every = math.prod([size[a] for a in self.every])
        return Product(m, n // lanes, n % lanes > 0, every / (m * n))

    def _columns(self, size: Mapping[Axis, int]) -> tuple[list[Axis], Axis] | None:
        """(row axes, column axis) as the backend would choose them."""
        live = [[a for a in s.kept if size[a] > 1] for s in self.sides]
        found: list[tuple[float, int, list[Axis], Axis | None]] = []
        for k in (0, 1):
            rows, cols, left, right = live[k], live[1 - k], self.sides[k], self.sides[1 - k]
            copy = copied(min(math.prod([size[a] for a in rows]), CHUNK))
            for x in cols:
                price = waste(size[x]) + (0.0 if x in self.wide else TURNED)
                if x not in right.along or not right.plain:
                    price += min(copy, SCATTERED) if right.plain else SCATTERED
                found.append((price, len(found), rows, x))
            for x in self.over:
                both = left.plain and right.plain and x in left.along and x in right.along
                if both:
                    found.append((dot(size[x]) * waste(size[x]), len(found), rows, None))
        if not found:
            return None
        _, _, rows, column = min(found, key=lambda f: f[:2])
        return None if column is None else (rows, column)


def _contractions(
    graph: Graph, body: Sequence[int], wide: frozenset[Axis]
) -> Iterator[_Contraction]:
    inside = set(body)
    for i in body:
        node = graph.nodes[i]
        if not isinstance(node, Reduce) or node.op != "add" or node.operand not in inside:
            continue
        product = graph.nodes[node.operand]
        if not isinstance(product, Map) or product.op != "mul":
            continue
        a, b = (set(graph.nodes[j].axes) for j in product.args)
        sides = [
            _Side(tuple(x for x in node.axes if x in own), *_factor(graph, inside, j, wide))
            for j, own in zip(product.args, (a - b, b - a), strict=True)
        ]
        size = DTYPES[compute_dtype(node.dtype)].bytes
        pairs = unit_of(graph, node) == "narrow"
        yield _Contraction((sides[0], sides[1]), product.axes, node.over, size, pairs, wide)


def _factor(
    graph: Graph, inside: set[int], i: int, wide: frozenset[Axis]
) -> tuple[frozenset[Axis], bool]:
    """The axes that a factor is contiguous along, and whether it is read as it is stored."""
    node = graph.nodes[i]
    while i in inside and isinstance(node, Map) and node.op == "cast":
        i = node.operands[0]
        node = graph.nodes[i]
    renamed: Mapping[Axis, Axis] = {}
    if isinstance(node, View) and isinstance(graph.nodes[node.operand], Input):
        renamed = {a: to for a, ix in node.index if (to := ix.rename_of())}
        node = graph.nodes[node.operand]
    if isinstance(node, Input):
        last = node.dims[-1][-1] if node.dims and node.dims[-1] else None
        last = renamed.get(last, last) if last is not None else None
        return frozenset([last] if last is not None else []), is_float(node.dtype)
    # What is computed, or was stored by a kernel before, is laid out for its readers.
    return wide.intersection(node.axes), i not in inside or isinstance(node, Map | Reduce)
