"""The tile IR: what one kernel does, tile by tile; every backend prints or runs exactly this.

A program has global buffers (inputs, outputs, scratch between kernels), tile buffers (cache or
shared memory), a grid of independent tasks and a body of statements. An axis ranges, inside a
statement, over ``[base, min(base + tile, end))``: the step of the innermost enclosing ``Loop``
over it, else the grid tile if it is a grid axis, else the task's part of it (``Part``), else the
whole axis (base 0). Expressions speak in absolute coordinates; a tile buffer is indexed relative to
the current bases of its axes.

    grid b:8, n:64
    tile acc[b,n] f32; tile ss[b] f32
    acc[b,n] = 0 ; ss[b] = 0
    for k step 512:
        acc[b,n] += sum(k) x[b,k] * w[k,n]
        ss[b] += sum(k) x[b,k] * x[b,k]
    o[b,n] = acc[b,n] * rsqrt(ss[b] / 4096 + 1e-6)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from superopt.mugraph.axes import Axis, Stride
from superopt.mugraph.graph import Index
from superopt.mugraph.placement import Lane, Split
from superopt.mugraph.tile_shared import Shared


@dataclass(frozen=True, slots=True)
class Panels:
    """How a packed buffer lies in memory: in panels of ``width`` neighbours along ``columns``.

    Inside a panel, groups of ``group`` steps along ``steps`` follow each other, in each group column by
    column, and a column's steps are neighbours. With n columns and k steps, element (i, j) of column i
    and step j lies at ``(i div width) * panel + (j div group) * width * group + (i mod width) * group +
    j mod group``, where ``panel = ceil(k / group) * group * width``; what is beyond n or k is zero.
    The other axes lie outside, row-major.
    """

    columns: Axis
    steps: Axis
    width: int
    group: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """Storage. ``space``: "input", "output", "scratch", "packed" (global) or "tile".

    Global buffers: ``strides`` in elements, one per axis of ``axes``; the axes are whole.
    Packed buffers: a copy of an input in ``panels``, kept between calls (``strides`` empty); they are
    indexed by coordinates as all are, and begin at multiples of 64 bytes.
    Tile buffers: dense row-major over ``axes``, each with the extent of its current tile
    (``strides`` empty), indexed relative to the bases of the enclosing grid and loop tiles.
    ``dtype`` is the stored element type; values are computed in the dtype of the expression.
    """

    name: str
    space: str
    axes: tuple[Axis, ...]
    dtype: str
    strides: tuple[Stride, ...] = ()
    panels: Panels | None = None


# -- expressions: scalars at one point of a statement's iteration space; equal ones are one object -


class _Expression:
    """Common to expressions: short text, and copies that are the same object."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return print_expr(self)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), tuple(getattr(self, name) for name in self.__match_args__)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False, repr=False)
class Lit(_Expression, metaclass=Shared):
    """A literal."""

    value: float | int | bool
    dtype: str


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False, repr=False)
class Coord(_Expression, metaclass=Shared):
    """The absolute coordinate along an axis (i64)."""

    axis: Axis
    dtype: str = "i64"


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False, repr=False)
class Extent(_Expression, metaclass=Shared):
    """The number of elements along an axis (whole, not the tile), in ``dtype``."""

    axis: Axis
    dtype: str


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False, repr=False)
class Load(_Expression, metaclass=Shared):
    """One element of a buffer, converted to ``dtype``; ``index`` has one i64 expression per axis.

    A tile buffer is always loaded at its own coordinates. ``clamp`` axes (positions) hold run-time
    indices, which the backend clamps into the axis, so that a wild index cannot leave the buffer.
    """

    buffer: Buffer
    index: tuple[Expr, ...]
    dtype: str
    clamp: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False, repr=False)
class Apply(_Expression, metaclass=Shared):
    """A scalar row applied to expressions; ``dtype`` is the result's type.

    For ``cast`` it is the target; ``round`` rounds to ``attr`` and returns to ``dtype``.
    """

    op: str
    args: tuple[Expr, ...]
    dtype: str
    attr: str | None = None


Expr = Lit | Coord | Extent | Load | Apply


# -- statements ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compute:
    """``dst[axes] (op)= reduce(op, over) expr``, over the current tile of ``axes`` and ``over``.

    ``dst`` is indexed by its own axes. With ``reduce`` None the value is stored. With a reduction,
    ``accumulate`` says whether the old content takes part (True) or not (False: starts from the
    row's identity). A sum of floats is kept in double while the statement makes it, unless it is a
    contraction; the result is converted to the buffer's dtype. ``axes`` holds every axis of ``dst``.
    """

    dst: Buffer
    axes: tuple[Axis, ...]
    expr: Expr
    reduce: str | None = None
    over: tuple[Axis, ...] = ()
    accumulate: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """The body once per tile of ``tile`` elements along ``axis``, in ascending order, serially."""

    axis: Axis
    tile: int
    body: tuple[Stmt, ...]


Stmt = Compute | Loop


@dataclass(frozen=True, slots=True)
class Part:
    """A task sees elements [p * tile, (p + 1) * tile) of ``axis``, p its place on a grid axis.

    ``number`` is that grid axis, placed with one element a task. A part may be cut off at the end
    of the axis, or lie beyond it and be empty.
    """

    axis: Axis
    tile: int
    number: Axis


@dataclass(frozen=True, slots=True)
class Program:
    """One kernel: global buffers, tile buffers, grid of independent tasks, body of one task."""

    name: str
    buffers: tuple[Buffer, ...]
    tiles: tuple[Buffer, ...]
    grid: tuple[Split, ...]
    body: tuple[Stmt, ...]
    lane: Lane = Lane()
    parts: tuple[Part, ...] = ()

    @property
    def task_tiles(self) -> dict[Axis, int]:
        """The axes of which a task does not see all, and how many elements it sees at most."""
        return {s.axis: s.tile for s in self.grid} | {p.axis: p.tile for p in self.parts}

    def __str__(self) -> str:
        return print_program(self)


# -- tools ---------------------------------------------------------------------------------------


def index_expr(index: Index, at: Callable[[Axis], Expr]) -> Expr:
    """An Index of the graph as an expression; ``at`` gives the coordinate of each axis."""
    total: Expr | None = None
    for axis, coef in index.terms:
        term = at(axis)
        if coef != 1:
            term = Apply("mul", (term, Lit(coef, "i64")), "i64")
        total = term if total is None else Apply("add", (total, term), "i64")
    if total is None:
        total = Lit(index.offset, "i64")
    elif index.offset:
        total = Apply("add", (total, Lit(index.offset, "i64")), "i64")
    for op, value in (
        ("floordiv", index.div if index.div != 1 else None),
        ("mod", index.mod),
        ("max", index.lo),
        ("min", index.hi),
    ):
        if value is not None:
            total = Apply(op, (total, Lit(value, "i64")), "i64")
    return total


def statements(body: tuple[Stmt, ...]) -> Iterator[Compute]:
    """All Compute statements of a body, in order."""
    for stmt in body:
        if isinstance(stmt, Loop):
            yield from statements(stmt.body)
        else:
            yield stmt


MOST_TEXT = 1000
"""Characters after which the text of an expression is cut: a shared part is written at each use."""


def print_expr(expr: Expr) -> str:
    """An expression as readable text of at most ``MOST_TEXT`` characters."""
    out: list[str] = []
    length = 0
    todo: list[Expr | str] = [expr]
    while todo and length <= MOST_TEXT:
        match todo.pop():
            case str(text):
                out.append(text)
                length += len(text)
            case Lit(value=value):
                todo.append(repr(value))
            case Coord(axis=axis):
                todo.append(axis.name)
            case Extent(axis=axis):
                todo.append(f"|{axis.name}|")
            case Load(buffer=buffer, index=index):
                todo += [*reversed(_listed(f"{buffer.name}[", index, ",", "]"))]
            case Apply(op=op, args=args):
                todo += [*reversed(_listed(f"{op}(", args, ", ", ")"))]
    text = "".join(out)
    return text if length <= MOST_TEXT else text[:MOST_TEXT] + " ..."


def _listed(head: str, items: tuple[Expr, ...], comma: str, tail: str) -> list[Expr | str]:
    between: list[Expr | str] = [head]
    for k, item in enumerate(items):
        between += [comma, item] if k else [item]
    return [*between, tail]


def print_program(program: Program) -> str:
    """A program as readable text, one statement a line."""

    def axes(b: Buffer) -> str:
        return ",".join(a.name for a in b.axes)

    out = [f"program {program.name}"]
    out += [
        f"  {b.space} {b.name}[{axes(b)}] {b.dtype}{_panels(b)}"
        for b in (*program.buffers, *program.tiles)
    ]
    out.append(
        "  grid " + (", ".join(f"{s.axis.name}:{s.tile}" for s in program.grid) or "one task")
    )
    out += [f"  part {p.number.name} of {p.axis.name}:{p.tile}" for p in program.parts]

    def stmt(s: Stmt, pad: str) -> None:
        if isinstance(s, Loop):
            out.append(f"{pad}for {s.axis.name} step {s.tile}:")
            for inner in s.body:
                stmt(inner, pad + "  ")
            return
        over = f"{s.reduce}({','.join(a.name for a in s.over)}) " if s.reduce else ""
        eq = f"{s.reduce}=" if s.accumulate else "="
        out.append(
            f"{pad}{s.dst.name}[{','.join(a.name for a in s.axes)}] {eq} {over}{print_expr(s.expr)}"
        )

    for s in program.body:
        stmt(s, "  ")
    return "\n".join(out)


def _panels(buffer: Buffer) -> str:
    p = buffer.panels
    return f" in panels of {p.width} {p.columns.name} by {p.group} {p.steps.name}" if p else ""
