"""Sizes at which the last tile of an axis holds one element, is full, or lacks one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from superopt.mugraph.axes import Sym
from superopt.mugraph.dispatch import Guard
from superopt.mugraph.placement import MuGraph

MOST_EDGES = 9
"""Further sizes that are tried for the tiles of one program; for each distinct tile there are three."""

OVER = (1, 0, -1)
"""Elements beyond a multiple of a tile: the last tile has one, all, or all but one of its elements."""

FEW = 3
"""Of a symbol whose axes are not cut."""


def tiles_of(mugraph: MuGraph) -> dict[str, list[int]]:
    """By symbol, the tiles above 1 into which axes of its size are cut, on a grid or in a loop."""
    found: dict[str, set[int]] = {}
    for kernel in mugraph.kernels:
        for s in (*kernel.placement.grid, *kernel.placement.loop):
            if isinstance(s.axis.size, Sym) and s.tile > 1:
                found.setdefault(s.axis.size.name, set()).add(s.tile)
    return {name: sorted(tiles) for name, tiles in sorted(found.items())}


def edge_sizes(
    mugraph: MuGraph,
    guard: Guard,
    known: Sequence[Mapping[str, int]],
    small: Callable[[Mapping[str, int]], bool],
) -> list[dict[str, int]]:
    """Sizes at the edges of a program's tiles, ``OVER`` a multiple of each, within a guard.

    A tile that is wanted has two or more before it where that fits. known: sizes that are tried
    anyway: what they have already is left out. small: whether sizes are small enough to be tried.
    Several symbols are at edges at a time. At most ``MOST_EDGES`` sizes.
    """
    ranges = {name: (low, high) for name, low, high in guard}
    wanted = {}
    for name, tiles in tiles_of(mugraph).items():
        if name in ranges:
            have = [p[name] for p in known if name in p]
            wanted[name] = _wanted(tiles, *ranges[name], have)
    out: list[dict[str, int]] = []
    for n in range(max((len(w) for w in wanted.values()), default=0)):
        for k in (0, 1):  # the second offers, fewer tiles long, where the first are too large
            there = {name: min(max(low, FEW), high) for name, (low, high) in ranges.items()}
            for place, (name, offers) in enumerate(wanted.items()):
                if offers:  # shifted, so that symbols of like tiles have different sizes
                    mine = offers[(n + place) % len(offers)]
                    there[name] = mine[min(k, len(mine) - 1)]
            if small(there):
                if there not in out and there not in known:
                    out.append(there)
                break
    return out[:MOST_EDGES]


def _wanted(tiles: Sequence[int], low: int, high: int, have: Sequence[int]) -> list[list[int]]:
    """For each edge of each tile that no size at hand has: the sizes that have it, best first.

    All tiles' edges of a kind come before those of the next kind.
    """
    out: list[list[int]] = []
    chosen = list(have)
    for over in OVER:
        for tile in tiles:
            offers = [tile * k + over for k in (2, 1)]
            first = -(-(low - over) // tile)  # the fewest tiles that the range allows
            if first > 2:
                offers = [tile * first + over]
            offers = [n for n in offers if low <= n <= high]
            if offers and not any(n % tile == over % tile and n >= offers[0] for n in chosen):
                out.append(offers)
                chosen.append(offers[0])
    return out
