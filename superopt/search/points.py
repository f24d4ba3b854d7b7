"""The sizes at which a program with symbolic sizes is searched, and its explored space at one.

The algebra of a region does not depend on sizes: a space explored once serves every point, and only
extraction, cut and placement are made again there, on a program whose symbols have that one size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from superopt.mugraph.axes import Sym, extent
from superopt.mugraph.dispatch import middle
from superopt.mugraph.graph import Graph
from superopt.mugraph.resize import Resized, symbols, with_symbols
from superopt.search.enumerate import Derivation, Space
from superopt.search.regions import Region

T = TypeVar("T")

Point = Mapping[str, int]
"""A size for each symbol of a program, by name."""

MOST_POINTS = 9
"""Points at which a program is searched, and of one symbol at most ``ALONG``."""

ALONG = 5

RATIO = 8
"""How far apart the sizes of neighbouring points are, at least."""

LARGEST = 1 << 16
"""A size beyond which no point lies: what is best there is best above."""

ELEMENTS = 1 << 22
"""Elements of an input or output up to which a program is searched, run and timed at a size that is
not the caller's own."""


@dataclass(frozen=True)
class Span:
    """The range of a symbol; top: the largest size at which the program is looked at."""

    low: int
    top: int
    high: int

    def cut(self, pieces: int, ratio: float) -> list[int]:
        """Where at most so many pieces begin, at sizes in geometric progression, from ``low`` on."""
        low, top = max(self.low, 1), max(self.top, 1)
        while pieces > 1 and (top / low) < ratio ** (pieces - 1):
            pieces -= 1
        starts = {round(low * (top / low) ** (k / pieces)) for k in range(1, pieces)}
        return [self.low, *sorted(s for s in starts if self.low < s <= self.top)]


def spans(graph: Graph) -> dict[str, Span]:
    """The range of every symbol, and up to where the program fits in ``ELEMENTS``."""
    found = symbols(graph)
    tops = {s.name: max(s.lo, min(s.hi, LARGEST)) for s in found}
    lows = {s.name: s.lo for s in found}
    while too_large(graph, tops) and tops != lows:
        name = max(tops, key=lambda n: (tops[n] / max(lows[n], 1), n))
        tops[name] = max(tops[name] // 2, lows[name])
    return {s.name: Span(s.lo, tops[s.name], s.hi) for s in found}


def too_large(graph: Graph, sizes: Point) -> bool:
    """Whether an input or output has more than ``ELEMENTS`` elements that depend on these sizes."""
    for dims in (*(n.dims for n in graph.inputs), *(o.dims for o in graph.outputs)):
        axes = [a for dim in dims for a in dim]
        count = 1
        for a in axes:
            count *= extent(a.size, sizes)
        if count > ELEMENTS and any(isinstance(a.size, Sym) for a in axes):
            return True
    return False


def points(graph: Graph) -> tuple[dict[str, int], ...]:
    """The sizes at which a program is searched; none for a program without symbols."""
    ranges = spans(graph)
    if not ranges:
        return ()
    each = next((k for k in range(ALONG, 1, -1) if k ** len(ranges) <= MOST_POINTS), 1)
    along = {
        name: [middle(a, z) for a, z in _pieces(span, each if each > 1 else 3)]
        for name, span in ranges.items()
    }
    if each > 1:
        return tuple(
            dict(zip(along, sizes, strict=True)) for sizes in itertools.product(*along.values())
        )
    # Too many symbols for a product: small, middling and large together.
    longest = max(map(len, along.values()))
    return tuple(
        {name: sizes[min(k, len(sizes) - 1)] for name, sizes in along.items()}
        for k in range(longest)
    )


def _pieces(span: Span, most: int) -> list[tuple[int, int]]:
    starts = span.cut(most, RATIO)
    return list(zip(starts, [*(s - 1 for s in starts[1:]), span.top], strict=True))


def space_at(space: Space, names: Resized) -> Space:
    """An explored space over axes of other sizes."""

    def derivation(d: Derivation) -> Derivation:
        return replace(d, over=tuple(names[a] for a in d.over)) if d.over else d

    classes = (
        replace(
            c,
            axes=tuple(names[a] for a in c.axes),
            derivations=tuple(map(derivation, c.derivations)),
        )
        for c in space.classes
    )
    sizes = {c: tuple(names[a] for a in axes) for c, axes in space.sizes.items()}
    return replace(space, classes=tuple(classes), sizes=sizes)


def at_points(programs: Sequence[Graph], points: Sequence[Point]) -> tuple[list[Graph], list[int]]:
    """The programs at every point, and for each the position of the one whose algebra it shares."""
    if not points:
        return list(programs), list(range(len(programs)))
    made = []
    for point in points:
        given = {name: Sym(name, size, size) for name, size in point.items()}
        made += [with_symbols(g, given) for g in programs]
    return made, [n % len(programs) for n in range(len(made))]


def spaces_at(
    explored: Sequence[tuple[Region, Space]], program: Graph
) -> list[tuple[Region, Space]]:
    """What was explored of a program at one point, for the same program at another."""
    names = Resized({s.name: s for s in symbols(program)})
    return [(region, space_at(space, names)) for region, space in explored]


def once_each(
    lists: Sequence[Sequence[T]], key: Callable[[T], str]
) -> tuple[tuple[T, ...], tuple[tuple[int, ...], ...]]:
    """The members of all lists, once each in order of appearance, and each list by position."""
    first: dict[str, int] = {}
    members: list[T] = []
    at = []
    for some in lists:
        here: dict[int, None] = {}
        for x in some:
            n = first.setdefault(key(x), len(members))
            if n == len(members):
                members.append(x)
            here[n] = None
        at.append(tuple(here))
    return tuple(members), tuple(at)
