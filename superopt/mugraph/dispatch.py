"""The dispatch rule of a program with symbolic sizes: buckets of its domain, and what runs in each.

A guard is a box: a range of sizes for every symbol. The guards of a rule are disjoint and cover the
domain, which is checked whenever a rule is made or read, over the grid that their ends cut the
domain into: inside a cell of that grid no guard changes its mind.
"""

from __future__ import annotations

import itertools
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TypeVar

from superopt.errors import CacheCorrupt

T = TypeVar("T")

Guard = tuple[tuple[str, int, int], ...]
"""For every symbol, by name: its lowest and its highest size, both included."""

ORIGINAL = -1
"""Stands for no program: the original runs."""


@dataclass(frozen=True)
class Bucket:
    """The sizes of a guard, and the program (its position) that serves them.

    slower: whether eager PyTorch was faster at the size at which the two were timed.
    """

    guard: Guard
    program: int
    slower: bool = False


@dataclass(frozen=True)
class Dispatch:
    """A rule: the domain, and its buckets. Raises ValueError unless every size has one bucket."""

    domain: Guard
    buckets: tuple[Bucket, ...]

    def __post_init__(self) -> None:
        names = [s for s, _, _ in self.domain]
        if names != sorted(set(names)):
            raise ValueError(f"symbols {names} are not in order")
        for b in self.buckets:
            if [s for s, _, _ in b.guard] != names:
                raise ValueError(f"a guard is not about the symbols {names}: {b.guard}")
            if any(a > z for _, a, z in b.guard) or not within(b.guard, self.domain):
                raise ValueError(f"a guard is empty or beyond the domain: {guard_text(b.guard)}")
        _ = self._table

    @cached_property
    def _starts(self) -> tuple[list[int], ...]:
        """Per symbol, the sizes at which a cell of the grid begins."""
        out = []
        for k, (_, low, high) in enumerate(self.domain):
            ends = {low} | {b.guard[k][1] for b in self.buckets}
            ends |= {b.guard[k][2] + 1 for b in self.buckets}
            out.append(sorted(x for x in ends if x <= high))
        return tuple(out)

    @cached_property
    def _table(self) -> tuple[int, ...]:
        """The bucket of each cell of the grid, row-major."""
        table = []
        for corner in itertools.product(*self._starts):
            here = [n for n, b in enumerate(self.buckets) if holds(b.guard, corner)]
            if len(here) != 1:
                raise ValueError(f"the sizes {corner} have {len(here)} buckets")
            table += here
        return tuple(table)

    def find(self, sizes: Mapping[str, int]) -> int:
        """The position of the bucket of these sizes, which lie in the domain."""
        return self.chooser(range(len(self.buckets)))(sizes)

    def chooser(self, of_buckets: Sequence[T]) -> Callable[[Mapping[str, int]], T]:
        """``find``, prepared: from the size of every symbol to what belongs to its bucket."""
        cells = [of_buckets[n] for n in self._table]
        names = [name for name, _, _ in self.domain]
        if len(names) == 1:
            name, starts = names[0], self._starts[0]
            return lambda sizes: cells[bisect_right(starts, sizes[name]) - 1]
        along = [
            (name, starts, len(starts)) for name, starts in zip(names, self._starts, strict=True)
        ]

        def choose(sizes: Mapping[str, int]) -> T:
            at = 0
            for name, starts, count in along:
                at = at * count + bisect_right(starts, sizes[name]) - 1
            return cells[at]

        return choose

    def to_json(self) -> str:
        """The rule as JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Dispatch:
        """Reads what ``to_json`` wrote; raises CacheCorrupt on anything else."""
        try:
            raw = json.loads(text)
            buckets = tuple(
                Bucket(_guard(b["guard"]), int(b["program"]), bool(b["slower"]))
                for b in raw["buckets"]
            )
            return Dispatch(_guard(raw["domain"]), buckets)
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise CacheCorrupt(
                f"a dispatch rule cannot be read ({e})", "dispatch.json", "the entry is rebuilt"
            ) from e


def _guard(raw: Sequence[Sequence[str | int]]) -> Guard:
    return tuple((str(name), int(low), int(high)) for name, low, high in raw)


def holds(guard: Guard, sizes: Sequence[int]) -> bool:
    """Whether the sizes, of the symbols by name, fulfil a guard."""
    return all(low <= n <= high for (_, low, high), n in zip(guard, sizes, strict=True))


def within(guard: Guard, other: Guard) -> bool:
    """Whether all sizes of a guard fulfil another about the same symbols."""
    pairs = zip(guard, other, strict=True)
    return all(s == t and low <= a and z <= high for (s, a, z), (t, low, high) in pairs)


def hull(guards: Sequence[Guard]) -> Guard:
    """The smallest guard that all of these, of the same symbols, are within."""
    return tuple(
        (same[0][0], min(low for _, low, _ in same), max(high for _, _, high in same))
        for same in zip(*guards, strict=True)
    )


def guard_text(guard: Guard) -> str:
    """``2 <= n <= 16 and 3 <= m <= 9``; of a program without symbols ``always``."""
    return " and ".join(f"{low} <= {name} <= {high}" for name, low, high in guard) or "always"


Box = tuple[tuple[int, int], ...]
"""A first and a last position along each of several dimensions."""


def joined(boxes: Sequence[tuple[Box, T]]) -> list[tuple[Box, T]]:
    """Disjoint boxes, those of equal values joined that make up a box together; in order."""
    out = list(boxes)
    while True:
        for x, y in itertools.permutations(out, 2):
            both = _together(x[0], y[0]) if x[1] == y[1] else None
            if both is not None:
                out = [b for b in out if b is not x and b is not y] + [(both, x[1])]
                break
        else:
            return sorted(out, key=lambda b: b[0])


def _together(a: Box, b: Box) -> Box | None:
    """The box that two boxes make up, the first before the second, or None."""
    apart = [k for k in range(len(a)) if a[k] != b[k]]
    if len(apart) != 1 or a[apart[0]][1] + 1 != b[apart[0]][0]:
        return None
    k = apart[0]
    return (*a[:k], (a[k][0], b[k][1]), *a[k + 1 :])


def middle(low: int, high: int) -> int:
    """The geometric middle of a range of sizes."""
    return min(max(round(math.sqrt(max(low, 1) * max(high, 1))), low), high)


def by_name(guard: Guard) -> Mapping[str, tuple[int, int]]:
    """Symbol -> its range."""
    return {name: (low, high) for name, low, high in guard}
