"""What is asked of tile-IR expressions and programs; each distinct part is looked at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

from superopt.mugraph.axes import Axis
from superopt.mugraph.tile_shared import once
from superopt.mugraph.tileir import Apply, Coord, Expr, Extent, Lit, Load, Program, statements


def inner(expr: Expr) -> tuple[Expr, ...]:
    """What an expression is made of, one level down."""
    if isinstance(expr, Load):
        return expr.index
    return expr.args if isinstance(expr, Apply) else ()


def parts(expr: Expr) -> Iterator[Expr]:
    """An expression and all it is made of, those inside indices included, each once."""
    seen: set[Expr] = set()
    todo = [expr]
    while todo:
        e = todo.pop()
        if e not in seen:
            seen.add(e)
            yield e
            todo.extend(reversed(inner(e)))


def loads(expr: Expr) -> Iterator[Load]:
    """All loads in an expression, those inside indices included, each once."""
    return (e for e in parts(expr) if isinstance(e, Load))


@once(inner)
def reads(expr: Expr) -> frozenset[str]:
    """The names of the buffers that an expression reads."""
    own = frozenset({expr.buffer.name}) if isinstance(expr, Load) else frozenset[str]()
    return own.union(*(reads(e) for e in inner(expr)))


@once(inner)
def expr_axes(expr: Expr) -> frozenset[Axis]:
    """The axes on whose coordinates an expression's value depends."""
    if isinstance(expr, Coord):
        return frozenset({expr.axis})
    return frozenset[Axis]().union(*(expr_axes(e) for e in inner(expr)))


@once(inner)
def affine(expr: Expr) -> tuple[dict[Axis, int], int] | None:
    """``(coefficient of each axis, constant)`` when the expression is affine in axes, else None."""
    match expr:
        case Lit() if math.isfinite(expr.value):
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


def axes_used(program: Program) -> Iterator[Axis]:
    """Every axis that a program mentions: of buffers, grid, statements and extents; repeats."""
    for buffer in (*program.buffers, *program.tiles):
        yield from buffer.axes
    yield from program.task_tiles
    for stmt in statements(program.body):
        yield from (*stmt.axes, *stmt.over)
        yield from (e.axis for e in parts(stmt.expr) if isinstance(e, Coord | Extent))
