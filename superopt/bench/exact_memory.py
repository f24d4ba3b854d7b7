"""Memory of a kernel that is read over exact forms: every access is checked, nothing is made up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from superopt.bench.cpp_parse import Unreadable
from superopt.bench.exact import Exact
from superopt.bench.exact_tiles import Stray
from superopt.mugraph.axes import extent
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tile_panels import packed_elements
from superopt.mugraph.tileir import Buffer

FLOATS = ("float", "double", "so_bf16", "so_f16")
HALVES = ("so_bf16", "so_f16")
INTEGERS = {"int": 32, "int8_t": 8, "int16_t": 16, "int32_t": 32, "int64_t": 64}
"""Integer types that kernels compute in, with their bits; uint8_t is the one without a sign."""

BYTES = {d.c: d.bytes for d in DTYPES.values()}


@dataclass(frozen=True, slots=True)
class Real:
    """A real number, by its form."""

    form: int


@dataclass(frozen=True, slots=True)
class Truth:
    """A truth value that depends on inputs, by its form, which is one or zero."""

    form: int


Scalar = int | bool | Real | Truth
"""What a cell holds. Integers are numbers that are known: they say where something is read."""


@dataclass
class Block:
    """An array: its element type, how many elements it has, and what they hold.

    key: what tells it from other arrays in the unknowns that stand for cells never written; constant:
    whether it may only be read; elements: those there are, where they do not lie side by side; unset:
    where the names of arrays go that are read before they were written.
    """

    exact: Exact
    key: tuple[Any, ...]
    ctype: str
    size: int
    cells: dict[int, Scalar] = field(default_factory=dict)
    constant: bool = False
    elements: frozenset[int] | None = None
    unset: set[str] = field(default_factory=set)

    def _check(self, at: int) -> None:
        inside = 0 <= at < self.size if self.elements is None else at in self.elements
        if not inside:
            raise Stray

    def read(self, at: int) -> Scalar:
        """The content of a cell; raises Stray."""
        self._check(at)
        found = self.cells.get(at)
        if found is None:
            found = self.cells[at] = self._unknown(at)
        return found

    def _unknown(self, at: int) -> Scalar:
        self.unset.add(str(self.key[0]))
        if self.ctype in FLOATS:
            return Real(self.exact.unknown("never written", *self.key, at))
        raise Unreadable("an integer that was never written")

    def write(self, at: int, value: Scalar) -> None:
        """Stores a value of the array's own type; raises Stray."""
        self._check(at)
        if self.constant:
            raise Stray
        self.cells[at] = value


@dataclass(frozen=True, slots=True)
class Pointer:
    """An element of an array, or a place beside it that must not be read."""

    block: Block
    at: int

    def read(self, k: int) -> Scalar:
        """The content of the cell ``k`` elements on."""
        return self.block.read(self.at + k)

    def write(self, k: int, value: Scalar) -> None:
        """Stores a value in the cell ``k`` elements on."""
        self.block.write(self.at + k, value)


@dataclass
class Arena:
    """A block of bytes in which arrays of a task lie one after the other; each ends where one starts."""

    size: int
    starts: set[int] = field(default_factory=set)


@dataclass
class Part(Block):
    """An array in an arena, from a byte on: it ends where the next one starts."""

    arena: Arena = field(default_factory=lambda: Arena(0))
    start: int = 0

    def _check(self, at: int) -> None:
        later = [s for s in self.arena.starts if s > self.start]
        end = min([*later, self.arena.size])
        if at < 0 or self.start + (at + 1) * BYTES[self.ctype] > end:
            raise Stray


# -- buffers -----------------------------------------------------------------------------------------


def buffer(exact: Exact, b: Buffer, sizes: Mapping[str, int]) -> Block:
    """The memory of an input, an output, a scratch or a packed buffer.

    Raises Unreadable for an input of integers that are not given.
    """
    if b.panels is not None:
        return Block(exact, (b.name,), DTYPES[b.dtype].c, packed_elements(b))
    places = _places(b, sizes)
    reached = frozenset(places.values())
    dense = len(reached) == max(reached, default=-1) + 1
    block = Block(
        exact,
        (b.name,),
        DTYPES[b.dtype].c,
        len(reached),
        elements=None if dense else reached,
        constant=b.space == "input",
    )
    if b.space == "input":
        for at, place in places.items():
            block.cells.setdefault(place, _cell(exact, b, at))
    return block


def _cell(exact: Exact, b: Buffer, at: tuple[int, ...]) -> Scalar:
    form = exact.cell(b.name, at)
    kind, known = DTYPES[b.dtype].kind, exact.constant(form)
    if kind == "float":
        return Real(form)
    if known is not None:
        return int(known) if kind == "int" else bool(known)
    if kind == "int":
        raise Unreadable("an input of integers that are not given")
    return Truth(form)


def _places(b: Buffer, sizes: Mapping[str, int]) -> dict[tuple[int, ...], int]:
    """The element of memory of every index."""
    shape = [extent(a.size, sizes) for a in b.axes]
    strides = [s.value(sizes) for s in b.strides]
    return {at: sum(map(math.prod, zip(at, strides, strict=True))) for at in np.ndindex(*shape)}


def contents(block: Block, b: Buffer, sizes: Mapping[str, int]) -> np.ndarray:
    """The forms that a buffer holds, over its axes."""
    exact, forms = block.exact, []
    places = _places(b, sizes)
    for at, place in places.items():
        found = block.cells.get(place)
        if found is None:
            forms.append(exact.unknown("never written", b.name, at))
        else:
            forms.append(
                found.form if isinstance(found, Real | Truth) else exact.number(int(found))
            )
    return np.array(forms, dtype=np.int64).reshape([extent(a.size, sizes) for a in b.axes])


def ordered(names: Sequence[str], programs: Sequence[Any]) -> list[Buffer]:
    """The buffers of programs in the order of their pointers."""
    known: dict[str, Buffer] = {}
    for program in programs:
        for b in program.buffers:
            known.setdefault(b.name, b)
    return [known[n] for n in names]
