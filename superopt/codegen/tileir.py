"""The tile IR: what one kernel does, tile by tile; every backend prints or runs exactly this.

A program has global buffers (inputs, outputs, scratch between kernels), tile buffers (cache or
shared memory), a grid of independent tasks and a body of statements. An axis ranges, inside a
statement, over ``[base, min(base + tile, end))``: the step of the innermost enclosing ``Loop``
over it, else the grid tile if it is a grid axis, else the whole axis (base 0). Expressions speak
in absolute coordinates; a tile buffer is indexed relative to the current bases of its axes.

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


@dataclass(frozen=True, slots=True)
class Buffer:
    """Storage. ``space``: "input", "output", "scratch" (global) or "tile".

    Global buffers: ``strides`` in elements, one per axis of ``axes``; the axes are whole.
    Tile buffers: dense row-major over ``axes``, each with the extent of its current tile
    (``strides`` empty), indexed relative to the bases of the enclosing grid and loop tiles.
    ``dtype`` is the stored element type; values are computed in the dtype of the expression.
    """

    name: str
    space: str
    axes: tuple[Axis, ...]
    dtype: str
    strides: tuple[Stride, ...] = ()


# -- expressions: scalars at one point of a statement's iteration space --------------------------


@dataclass(frozen=True, slots=True)
class Lit:
    """A literal."""

    value: float | int | bool
    dtype: str


@dataclass(frozen=True, slots=True)
class Coord:
    """The absolute coordinate along an axis (i64)."""

    axis: Axis
    dtype: str = "i64"


@dataclass(frozen=True, slots=True)
class Extent:
    """The number of elements along an axis (whole, not the tile), in ``dtype``."""

    axis: Axis
    dtype: str


@dataclass(frozen=True, slots=True)
class Load:
    """One element of a buffer, converted to ``dtype``; ``index`` has one i64 expression per axis.

    A tile buffer is always loaded at its own coordinates. ``clamp`` axes (positions) hold run-time
    indices, which the backend clamps into the axis, so that a wild index cannot leave the buffer.
    """

    buffer: Buffer
    index: tuple[Expr, ...]
    dtype: str
    clamp: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Apply:
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
    row's identity). The result is converted to the buffer's dtype; sums are kept in ``acc``.
    ``axes`` holds every axis of ``dst``.
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
class Program:
    """One kernel: global buffers, tile buffers, grid of independent tasks, body of one task."""

    name: str
    buffers: tuple[Buffer, ...]
    tiles: tuple[Buffer, ...]
    grid: tuple[Split, ...]
    body: tuple[Stmt, ...]
    lane: Lane = Lane()

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


def affine(expr: Expr) -> tuple[dict[Axis, int], int] | None:
    """``(coefficient of each axis, constant)`` when the expression is affine in axes, else None."""
    match expr:
        case Lit():
            return {}, int(expr.value)
        case Coord():
            return {expr.axis: 1}, 0
        case Apply(op="add", args=(a, b)):
            x, y = affine(a), affine(b)
            if x is None or y is None:
                return None
            coefs = dict(x[0])
            for axis, c in y[0].items():
                coefs[axis] = coefs.get(axis, 0) + c
            return {k: v for k, v in coefs.items() if v}, x[1] + y[1]
        case Apply(op="mul", args=(a, b)):
            x, y = affine(a), affine(b)
            if x is None or y is None or (x[0] and y[0]):
                return None
            (coefs, const), scale = (x, y[1]) if x[0] else (y, x[1])
            return {k: v * scale for k, v in coefs.items() if v * scale}, const * scale
    return None


def expr_axes(expr: Expr) -> frozenset[Axis]:
    """The axes on whose coordinates an expression's value depends."""
    match expr:
        case Coord():
            return frozenset({expr.axis})
        case Load():
            return frozenset().union(*(expr_axes(e) for e in expr.index))
        case Apply():
            return frozenset().union(*(expr_axes(e) for e in expr.args))
    return frozenset()


def parts(expr: Expr) -> Iterator[Expr]:
    """An expression and all it is made of, those inside indices included."""
    yield expr
    inner = expr.index if isinstance(expr, Load) else expr.args if isinstance(expr, Apply) else ()
    for e in inner:
        yield from parts(e)


def loads(expr: Expr) -> Iterator[Load]:
    """All loads in an expression, those inside indices included."""
    return (e for e in parts(expr) if isinstance(e, Load))


def axes_used(program: Program) -> Iterator[Axis]:
    """Every axis that a program mentions: of buffers, grid, statements and extents; repeats."""
    for buffer in (*program.buffers, *program.tiles):
        yield from buffer.axes
    yield from (split.axis for split in program.grid)
    for stmt in statements(program.body):
        yield from (*stmt.axes, *stmt.over)
        yield from (e.axis for e in parts(stmt.expr) if isinstance(e, Coord | Extent))


def statements(body: tuple[Stmt, ...]) -> Iterator[Compute]:
    """All Compute statements of a body, in order."""
    for stmt in body:
        if isinstance(stmt, Loop):
            yield from statements(stmt.body)
        else:
            yield stmt


def print_expr(expr: Expr) -> str:
    """An expression as readable text."""
    match expr:
        case Lit():
            return repr(expr.value)
        case Coord():
            return expr.axis.name
        case Extent():
            return f"|{expr.axis.name}|"
        case Load():
            return f"{expr.buffer.name}[{','.join(print_expr(e) for e in expr.index)}]"
        case Apply():
            return f"{expr.op}({', '.join(print_expr(e) for e in expr.args)})"
    raise TypeError(f"unknown expression {expr!r}")


def print_program(program: Program) -> str:
    """A program as readable text, one statement a line."""

    def axes(b: Buffer) -> str:
        return ",".join(a.name for a in b.axes)

    out = [f"program {program.name}"]
    out += [
        f"  {b.space} {b.name}[{axes(b)}] {b.dtype}" for b in (*program.buffers, *program.tiles)
    ]
    out.append(
        "  grid " + (", ".join(f"{s.axis.name}:{s.tile}" for s in program.grid) or "one task")
    )

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
