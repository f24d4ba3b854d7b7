"""Step *packing*: contractions read a constant input from a copy in panels, which calls share.

Down a column of ``w[k,n]`` neighbours are a row apart: each is in another page, rows a power of two
apart share a few sets of each cache, and two rows of 16-bit floats must be interleaved for the unit that
multiplies pairs. A copy in panels (``Panels``) is read as one run of memory. It pays as long as the input
stays what it is, which the runtime looks after; so this step leaves the programs alone and gives, beside
them, what packs and what reads packed inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from superopt.codegen.accumulators import buffers_used, here
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.placement import Lane, Split
from superopt.mugraph.tile_analysis import expr_axes
from superopt.mugraph.tile_edit import expressions, places, replaced
from superopt.mugraph.tile_panels import fixed, panel_elements
from superopt.mugraph.tileir import (
    Apply,
    Buffer,
    Compute,
    Coord,
    Expr,
    Load,
    Loop,
    Panels,
    Program,
    statements,
)

LEAST_BYTES = 256 * 1024
"""Bytes of an input below which it is not packed: it stays in the cache of a core, and is read from there."""

TASK_BYTES = 512 * 1024
"""Bytes that one task packs, where that many columns are a whole number of panels."""

SUFFIX = "_panels"


@dataclass(frozen=True)
class Packing:
    """What packing makes of programs.

    packs: programs that store a packed buffer each; reads: for each program, one that reads packed
    buffers in place of inputs, or the program itself where it reads none.
    """

    packs: tuple[Program, ...]
    reads: tuple[Program, ...]

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The packed buffers, in the order of the programs that store them."""
        return tuple(next(statements(p.body)).dst for p in self.packs)

    @property
    def inputs(self) -> tuple[Buffer, ...]:
        """The inputs that they are copies of."""
        return tuple(_source(p).buffer for p in self.packs)


@dataclass(frozen=True)
class _Use:
    """A contraction that may read an input in panels: where, its load, and the axes of the input."""

    program: int
    path: tuple[int, ...]
    load: Load
    columns: Axis
    steps: Axis
    cuts: tuple[int, ...]
    groups: tuple[int, ...]

    def width(self, vector_bytes: int) -> int:
        """Columns of a panel that its tiles are whole numbers of; 0 where there is none."""
        vector = vector_bytes // 4
        for w in (2 * vector, vector):
            if all(c % w == 0 for c in self.cuts) and (w == vector or fixed(self.columns) > vector):
                return w
        return 0


def packing(
    programs: Sequence[Program], vector_bytes: int, least: int = LEAST_BYTES
) -> Packing | None:
    """What packing makes of programs for vectors of so many bytes; None where nothing is to be packed.

    least: bytes of an input from which it is packed.
    """
    found: dict[tuple[str, Axis, Axis], list[_Use]] = {}
    for k, program in enumerate(programs):
        for use in _uses(k, program, least):
            found.setdefault((use.load.buffer.name, use.columns, use.steps), []).append(use)
    reads = list(programs)
    packs: list[Program] = []
    names = {b.name for p in programs for b in (*p.buffers, *p.tiles)}
    for uses in found.values():
        width = min(use.width(vector_bytes) for use in uses)
        if not width:
            continue
        first = uses[0]
        packed = _packed(first, width, names)
        names.add(packed.name)
        packs.append(_pack(first.load.buffer, packed))
        for use in uses:
            reads[use.program] = _reading(reads[use.program], use, packed)
    if not packs:
        return None
    pairs = zip(programs, reads, strict=True)
    return Packing(tuple(packs), tuple(p if p is q else _declared(q) for p, q in pairs))


def unpacked(packing: Packing) -> tuple[Program, ...]:
    """The programs with every load of a packed buffer turned back into one of its input."""
    source = dict(zip((b.name for b in packing.buffers), packing.inputs, strict=True))

    def back(expr: Expr) -> Expr:
        if not isinstance(expr, Load) or expr.buffer.name not in source:
            return expr
        return Load(source[expr.buffer.name], expr.index, expr.dtype, expr.clamp)

    def turned(program: Program) -> Program:
        for place in places(program.body):
            if isinstance(stmt := place.stmt, Compute):
                new = replace(stmt, expr=expressions(stmt.expr, back))
                program = replaced(program, place.path, [new])
        return program

    return tuple(map(turned, packing.reads))


# -- what can be packed --------------------------------------------------------------------------


def _uses(k: int, program: Program, least: int) -> Iterator[_Use]:
    """The contractions of a program that read an input which is worth packing."""
    for place in places(program.body):
        stmt = place.stmt
        if not isinstance(stmt, Compute) or stmt.reduce != "add":
            continue
        if not isinstance(stmt.expr, Apply) or stmt.expr.op != "mul" or stmt.expr.dtype == "f64":
            continue
        a, b = stmt.expr.args
        for load, other in ((a, b), (b, a)):
            use = _use(k, program, place.path, place.loops, stmt, load, other, least)
            if use is not None:
                yield use
                break


def _use(
    k: int,
    program: Program,
    path: tuple[int, ...],
    loops: Sequence[Loop],
    stmt: Compute,
    load: Expr,
    other: Expr,
    least: int,
) -> _Use | None:
    if not isinstance(load, Load) or not _plain(load) or not is_float(other.dtype):
        return None
    buffer = load.buffer
    size = math.prod(fixed(a) for a in buffer.axes)
    if size * DTYPES[buffer.dtype].bytes < least or buffer.dtype == "f64":
        return None
    own = {x.axis: a for x, a in zip(load.index, buffer.axes, strict=True) if isinstance(x, Coord)}
    columns = [x for x in stmt.axes if x in own and x not in expr_axes(other)]
    sums = [x for x in stmt.over if x in own and x in expr_axes(other)]
    rows = [x for x in stmt.axes if x not in own]
    # Vectors run along the columns, so these must be neighbours in the result as well.
    column = next((x for x in columns if _near(here(stmt.dst), x)), None)
    if column is None or not sums or not rows:
        return None
    if isinstance(other, Load) and other.buffer.space == "input" and size < _elements(other.buffer):
        return None  # what is larger is the weight
    step = max(sums, key=lambda x: (_near(other, x), fixed(own[x])))
    group = _group(buffer)
    use = _Use(
        k,
        path,
        load,
        own[column],
        own[step],
        _cuts(program, loops, column),
        _cuts(program, loops, step),
    )
    return use if all(g % group == 0 for g in use.groups) else None


def _plain(load: Load) -> bool:
    """Whether a load reads an input of fixed sizes at one coordinate an axis."""
    buffer = load.buffer
    at = [x.axis for x in load.index if isinstance(x, Coord)]
    return (
        buffer.space == "input"
        and is_float(buffer.dtype)
        and not load.clamp
        and len(buffer.axes) >= 2
        and len(set(at)) == len(buffer.axes)
        and all(isinstance(a.size, int) and a.size > 0 for a in buffer.axes)
        and all(x.size == a.size for x, a in zip(at, buffer.axes, strict=True))
        and all(s.coef > 0 for s in buffer.strides)
    )


def _elements(buffer: Buffer) -> int:
    return math.prod(a.size for a in buffer.axes if isinstance(a.size, int))


def _near(factor: Expr, axis: Axis) -> bool:
    """Whether neighbours along an axis are neighbours in a factor that is stored."""
    if not isinstance(factor, Load) or factor.buffer.panels is not None:
        return False
    for d, index in enumerate(factor.index):
        if isinstance(index, Coord) and index.axis == axis:
            if factor.buffer.space == "tile":
                return d == len(factor.index) - 1
            return factor.buffer.strides[d].coef == 1 and not factor.buffer.strides[d].syms
    return False


def _cuts(program: Program, loops: Sequence[Loop], axis: Axis) -> tuple[int, ...]:
    """The tiles that an axis is cut into, those that hold all of it left out."""
    tiles = [loop.tile for loop in loops if loop.axis == axis]
    if axis in program.task_tiles:
        tiles.append(program.task_tiles[axis])
    return tuple(t for t in tiles if not isinstance(axis.size, int) or t < axis.size)


def _group(buffer: Buffer) -> int:
    return 2 if buffer.dtype == "bf16" else 1


# -- what becomes of it --------------------------------------------------------------------------


def _packed(use: _Use, width: int, names: set[str]) -> Buffer:
    source = use.load.buffer
    name = source.name + SUFFIX
    while name in names:
        name += "_"
    panels = Panels(use.columns, use.steps, width, _group(source))
    return Buffer(name, "packed", source.axes, source.dtype, (), panels)


def _pack(source: Buffer, packed: Buffer) -> Program:
    """The program that copies an input into panels: its tasks are parts of the columns."""
    panels = packed.panels
    if panels is None:
        raise TypeError("a buffer that is not packed")
    count = max(TASK_BYTES // (panel_elements(panels) * DTYPES[packed.dtype].bytes), 1)
    grid = [Split(a, 1) for a in packed.axes if a not in (panels.columns, panels.steps)]
    grid.append(Split(panels.columns, panels.width * count))
    load = Load(source, tuple(Coord(a) for a in source.axes), source.dtype)
    body = (Compute(packed, packed.axes, load),)
    return Program(f"pack {source.name}", (source, packed), (), tuple(grid), body, Lane())


def _source(pack: Program) -> Load:
    expr = next(statements(pack.body)).expr
    if not isinstance(expr, Load):
        raise TypeError("a program that packs stores what it loads")
    return expr


def _reading(program: Program, use: _Use, packed: Buffer) -> Program:
    """The program with one contraction reading the packed buffer."""
    stmt = next(p.stmt for p in places(program.body) if p.path == use.path)
    if not isinstance(stmt, Compute) or not isinstance(stmt.expr, Apply):
        raise TypeError("a contraction is a product")
    new = Load(packed, use.load.index, use.load.dtype)
    args = tuple(new if a is use.load else a for a in stmt.expr.args)
    changed = replace(stmt, expr=Apply(stmt.expr.op, args, stmt.expr.dtype, stmt.expr.attr))
    return replaced(program, use.path, [changed])


def _declared(program: Program) -> Program:
    """The program declaring the buffers that it uses: those it had, then packed ones by first use."""
    used = buffers_used(program.body)
    kept = [b for b in program.buffers if b.name in used]
    kept += [b for b in used.values() if b.space in ("packed", "input") and b not in kept]
    return replace(program, buffers=tuple(kept))
