"""Names, extents and addresses of a program as C text: what every statement printer shares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from superopt.codegen.backends.types import stored_dtype
from superopt.mugraph.axes import Axis, Size, Stride, Sym
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tile_analysis import axes_used, reads
from superopt.mugraph.tile_panels import packed_strides
from superopt.mugraph.tileir import Buffer, Compute, Loop, Panels, Program, Stmt

ALIGN = 64
"""Bytes to which tile buffers and their rows are aligned."""

Tiles = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Num:
    """An integer as C text; ``value`` when it is known now."""

    text: str
    value: int | None = None

    @staticmethod
    def of(value: int) -> Num:
        """A known integer."""
        return Num(str(value), value)

    def __mul__(self, other: Num) -> Num:
        if self.value is not None and other.value is not None:
            return Num.of(self.value * other.value)
        for a, b in ((self, other), (other, self)):
            if a.value == 0:
                return a
            if a.value == 1:
                return b
        return Num(f"{self.text} * {other.text}")

    def __add__(self, other: Num) -> Num:
        if self.value is not None and other.value is not None:
            return Num.of(self.value + other.value)
        if self.value == 0:
            return other
        if other.value == 0:
            return self
        return Num(f"({self.text} + {other.text})")


ZERO, ONE = Num.of(0), Num.of(1)


@dataclass(frozen=True, slots=True)
class Range:
    """Where an axis runs at one place of the program: ``extent`` elements from ``base``.

    most: an upper bound of extent; known: every value that extent can have, when that is known.
    """

    base: Num
    extent: Num
    most: Num
    known: Tiles | None

    @property
    def single(self) -> bool:
        """Whether the axis has exactly one element here."""
        return self.extent.value == 1


_OWN = re.compile(r"(so|s|i|b\d*|n\d*|bc\d*|nc\d*|sum|pack\d*)_|[vpk]\d+$|_")
_WORDS = """
alignas alignof and asm auto bitand bitor bool break case catch char class compl concept const
continue default delete do double else enum explicit export extern false float for friend goto if
inline int int8_t int16_t int32_t int64_t uint8_t uint16_t long mutable namespace new noexcept not
nullptr operator or private protected public register requires return short signed sizeof static
std struct switch template this throw true try typedef typename union unsigned using virtual void
volatile wchar_t while xor main abs exp log sin cos floor ceil sqrt pow erf tanh y0 y1 yn j0 j1 jn
arena bufs ints lane memory op part status sum task tasks threads total wide gamma index time div
"""
_RESERVED = frozenset(_WORDS.split())


class Names:
    """C identifiers for axes and buffers, without collisions, in order of first use."""

    def __init__(self) -> None:
        self._taken: dict[str, object] = {}
        self._of: dict[object, str] = {}

    def of(self, key: object, wish: str) -> str:
        """The identifier of ``key``; made from ``wish`` when first asked for."""
        if key not in self._of:
            name = re.sub(r"\W", "_", wish) or "x"
            clash = name[0].isdigit() or name in _RESERVED or _OWN.match(name)
            name = base = f"x_{name}" if clash else name
            k = 1
            while name in self._taken:
                k += 1
                name = f"{base}_{k}"
            self._taken[name] = key
            self._of[key] = name
        return self._of[key]

    def axis(self, axis: Axis) -> str:
        """The identifier of an axis, to be prefixed with i_ (index), b_ (base) or n_ (extent)."""
        return self.of(("axis", axis), axis.name)


def size_num(size: Size) -> Num:
    """A size as C text: a literal, or the variable of a symbol."""
    return Num.of(size) if isinstance(size, int) else Num(symbol(size.name))


def stride_num(stride: Stride) -> Num:
    """A stride in elements as C text."""
    out = Num.of(stride.coef)
    for sym in stride.syms:
        out = out * size_num(sym)
    return out


def symbol(name: str) -> str:
    """The C variable that holds a symbolic size."""
    return "s_" + re.sub(r"\W", "_", name)


def whole(axis: Axis) -> Range:
    """An axis that is neither on the grid nor in an open loop."""
    n = size_num(axis.size)
    return Range(ZERO, n, n, None if n.value is None else (n.value,))


def tiles_of(known: Tiles | None, tile: int) -> Tiles | None:
    """The extents that the tiles of an axis with one of these extents can have."""
    if known is None:
        return None
    out: set[int] = set()
    for n in known:
        out |= {tile} if n >= tile else set()
        out |= {n % tile} if n % tile else set()
    return tuple(sorted(out))


def tile_of(outer: Range, tile: int, base: str, extent: str) -> tuple[Range, str]:
    """One tile of ``outer`` at variable ``base``, and the C expression of its extent."""
    known = tiles_of(outer.known, tile)
    most = Num.of(tile if outer.most.value is None else min(tile, outer.most.value))
    if known is not None and len(known) == 1:
        return Range(Num(base), Num.of(known[0]), most, known), ""
    end = outer.base + outer.extent
    return (Range(Num(base), Num(extent), most, known), f"so_least({tile}, {end.text} - {base})")


@dataclass
class Place:
    """Where a buffer lives: C variable, element type, strides per axis (elements), elements.

    origin: for a tile, the coordinate of its first element along axes that were cut further since;
    along all others a tile starts at the current base.
    """

    var: str
    dtype: str
    axes: tuple[Axis, ...]
    strides: tuple[Num, ...]
    tile: bool
    elements: Num = field(default_factory=lambda: ZERO)
    panels: Panels | None = None
    origin: Mapping[Axis, Num] = field(default_factory=dict)

    @property
    def c(self) -> str:
        """The C element type."""
        return DTYPES[self.dtype].c

    def stride(self, axis: Axis) -> Num:
        """The stride of one of the buffer's own axes."""
        return self.strides[self.axes.index(axis)]


def place_global(buffer: Buffer, names: Names) -> Place:
    """A global buffer, with the strides that the program gives."""
    strides = buffer.strides if buffer.panels is None else packed_strides(buffer)
    return Place(
        names.of(("buffer", buffer.name), buffer.name),
        buffer.dtype,
        buffer.axes,
        tuple(stride_num(s) for s in strides),
        False,
        panels=buffer.panels,
    )


def place_tile(program: Program, buffer: Buffer, names: Names) -> Place:
    """A tile buffer: row-major over the largest tiles of its axes, rows padded to whole vectors."""
    dtype = stored_dtype(program, buffer)
    return place_local(
        names.of(("buffer", buffer.name), buffer.name),
        dtype,
        buffer.axes,
        [largest(program, buffer, a) for a in buffer.axes],
    )


def place_local(var: str, dtype: str, axes: tuple[Axis, ...], most: list[Num]) -> Place:
    """A dense block over axes of these extents, the last one padded to the alignment."""
    per = ALIGN // DTYPES[dtype].bytes
    strides: list[Num] = []
    step = ONE
    for k, n in reversed(list(enumerate(most))):
        strides.insert(0, step)
        last = k == len(most) - 1
        if last and n.value is None:
            n = Num(f"(({n.text} + {per - 1}) / {per} * {per})")
        elif last and n.value is not None and n.value > per and len(most) > 1:
            # Rows whose distance is a power of two would share one set of the first cache.
            padded = -(-n.value // per) * per
            n = Num.of(padded + per * (padded % (8 * per) == 0))
        step = step * n
    return Place(var, dtype, axes, tuple(strides), True, step)


def largest(program: Program, buffer: Buffer, axis: Axis) -> Num:
    """The largest extent that an axis of a tile buffer has at any statement that uses it."""
    found: list[Num] = []

    def visit(body: tuple[Stmt, ...], now: Num) -> None:
        for stmt in body:
            if isinstance(stmt, Loop):
                visit(stmt.body, _capped(now, stmt.tile) if stmt.axis == axis else now)
            elif uses(stmt, buffer):
                found.append(now)

    start = size_num(axis.size)
    tile = program.task_tiles.get(axis)
    if tile is not None:
        start = _capped(start, tile)
    visit(program.body, start)
    dynamic = [n for n in found if n.value is None]
    if dynamic:
        return dynamic[0]
    return Num.of(max((n.value or 0 for n in found), default=0))


def uses(stmt: Compute, buffer: Buffer) -> bool:
    """Whether a statement reads or writes a buffer."""
    return stmt.dst.name == buffer.name or buffer.name in reads(stmt.expr)


def _capped(n: Num, tile: int) -> Num:
    return Num.of(tile if n.value is None else min(n.value, tile))


def symbols(programs: Iterable[Program]) -> tuple[str, ...]:
    """The names of all size symbols that programs use, sorted."""
    out: set[str] = set()
    for program in programs:
        out |= {a.size.name for a in axes_used(program) if isinstance(a.size, Sym)}
        for buffer in program.buffers:
            out |= {s.name for stride in buffer.strides for s in stride.syms}
    return tuple(sorted(out))


def padded_bytes(place: Place) -> Num:
    """Bytes of a tile buffer, rounded up to the alignment."""
    size = place.elements * Num.of(DTYPES[place.dtype].bytes)
    if size.value is not None:
        return Num.of(max(-(-size.value // ALIGN) * ALIGN, ALIGN))
    return Num(f"(({size.text} + {ALIGN - 1}) / {ALIGN} * {ALIGN})")


def extents(ranges: Mapping[Axis, Range], axes: Iterable[Axis]) -> Num:
    """The product of the current extents of axes."""
    out = ONE
    for a in axes:
        out = out * ranges[a].extent
    return out
