"""Named axes: every tensor dimension has a name and a size, and the size may be a symbol with a range."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from superopt.errors import IllFormedGraph


@dataclass(frozen=True, slots=True, order=True)
class Sym:
    """A size known only at run time, within ``lo <= size <= hi`` (both inclusive, in elements)."""

    name: str
    lo: int
    hi: int

    def __str__(self) -> str:
        return f"{self.name}:{self.lo}..{self.hi}"


Size = int | Sym


@dataclass(frozen=True, slots=True)
class Axis:
    """One named axis. Two axes are the same axis exactly when name and size agree."""

    name: str
    size: Size

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Callable[[str, Size], Axis], tuple[str, Size]]:
        return _one, (self.name, self.size)


@functools.lru_cache(maxsize=1 << 14)
def _one(name: str, size: Size) -> Axis:
    """The same object each time: sets of axes that came from another process compare fast."""
    return Axis(name, size)


@dataclass(frozen=True, slots=True)
class Stride:
    """A stride in elements: ``coef`` times the product of the run-time sizes ``syms``."""

    coef: int
    syms: tuple[Sym, ...] = ()

    def times(self, size: Size) -> Stride:
        """The stride of the next outer axis of a dense block: this stride times ``size``."""
        if isinstance(size, Sym):
            return Stride(self.coef, tuple(sorted((*self.syms, size))))
        return Stride(self.coef * size, self.syms)

    def value(self, sizes: Mapping[str, int]) -> int:
        """The stride in elements once each symbol has its run-time size."""
        out = self.coef
        for sym in self.syms:
            out *= sizes[sym.name]
        return out

    def __str__(self) -> str:
        return "*".join([str(self.coef), *(s.name for s in self.syms)])


def extent(size: Size, sizes: Mapping[str, int] | None = None) -> int:
    """The concrete size: an int is itself, a symbol is looked up in ``sizes`` (symbol name to int)."""
    if isinstance(size, int):
        return size
    if sizes is None or size.name not in sizes:
        raise IllFormedGraph(
            what=f"the size symbol {size.name!r} has no value",
            where=f"range {size.lo}..{size.hi}",
            fix="pass sizes={symbol: int} for every dynamic dimension",
        )
    return sizes[size.name]


def hint(size: Size) -> int:
    """A representative size for cost estimates: the number itself, or the geometric middle."""
    if isinstance(size, int):
        return size
    return max(1, round((max(size.lo, 1) * max(size.hi, 1)) ** 0.5))


def sort_axes(axes: set[Axis] | frozenset[Axis]) -> tuple[Axis, ...]:
    """The canonical order of a computed value's axes: by name."""
    return tuple(sorted(axes, key=lambda a: a.name))
