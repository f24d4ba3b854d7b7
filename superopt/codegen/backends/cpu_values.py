"""Printed values, literals of C++, and intervals that show which integers fit 32 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from superopt.mugraph.axes import Sym
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tile_analysis import inner
from superopt.mugraph.tile_shared import once
from superopt.mugraph.tileir import Apply, Coord, Expr, Extent, Lit

INT32 = 2**31 - 1

NARROW: dict[str, tuple[int, int]] = {
    "i16": (-(2**15), 2**15 - 1),
    "i8": (-(2**7), 2**7 - 1),
    "u8": (0, 2**8 - 1),
}
"""Integer types that vectors hold as i32, and their ends."""


@dataclass(frozen=True, slots=True)
class Value:
    """A printed value: its text, the dtype it is held in, and whether it has one per lane.

    Vector booleans are int32 masks (0 or -1); vector integers that fit are held as i32.
    """

    text: str
    dtype: str
    vec: bool


def literal(value: float | int | bool, dtype: str) -> str:
    """A literal of C++ that has exactly this value in the dtype."""
    if dtype == "bool":
        return "true" if value else "false"
    if DTYPES[dtype].kind == "int":
        if value == -(2**63):
            return "INT64_MIN"
        return f"INT64_C({value})" if dtype == "i64" else f"{DTYPES[dtype].c}({value})"
    c = DTYPES[dtype].c
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}std::numeric_limits<{c}>::infinity()"
    if math.isnan(value):
        return f"std::numeric_limits<{c}>::quiet_NaN()"
    text = repr(float(value))
    # The decimal is read as a double, then rounded once to float, as PyTorch does.
    return f"float({text})" if dtype == "f32" else text


def fits32(expr: Expr) -> bool:
    """Whether an integer expression, and all it is made of, provably fits 32 bits."""
    return bounds(expr) is not None


def wraps(expr: Apply) -> bool:
    """Whether a result of a narrow type may be beyond it before it wraps."""
    ends = NARROW.get(expr.dtype)
    known = [bounds(a) for a in (expr.args[1:] if expr.op == "where" else expr.args)]
    inside = [p for p in known if p is not None]
    if ends is None or len(inside) < len(known):
        return ends is not None
    out = _interval(expr.op, inside)
    return out is None or out[0] < ends[0] or out[1] > ends[1]


@once(inner)
def bounds(expr: Expr) -> tuple[int, int] | None:
    """An interval that holds an integer expression, None when unknown or beyond 32 bits."""
    out: tuple[int, int] | None = None
    match expr:
        case Lit():
            if math.isfinite(expr.value) and expr.value == int(expr.value):
                out = (int(expr.value), int(expr.value))
        case Coord() | Extent():
            size = expr.axis.size
            out = (0, size.hi if isinstance(size, Sym) else size)
        case Apply():
            if expr.op == "where":
                parts = [bounds(a) for a in expr.args[1:]]
            else:
                parts = [bounds(a) for a in expr.args]
            known = [p for p in parts if p is not None]
            if len(known) == len(parts):
                out = _interval(expr.op, known)
    ends = NARROW.get(expr.dtype)
    if ends and (out is None or out[0] < ends[0] or out[1] > ends[1]):
        out = ends  # whatever it is: it wraps
    return out if out and out[0] >= -INT32 and out[1] <= INT32 else None


def _interval(op: str, parts: list[tuple[int, int]]) -> tuple[int, int] | None:
    a, b = parts[0], parts[-1]
    match op:
        case "add":
            return a[0] + b[0], a[1] + b[1]
        case "sub":
            return a[0] - b[1], a[1] - b[0]
        case "neg":
            return -a[1], -a[0]
        case "mul":
            ends = [x * y for x in a for y in b]
            return min(ends), max(ends)
        case "max" | "min" | "where":
            return min(a[0], b[0]), max(a[1], b[1])
        case "floordiv" if b[0] == b[1] and b[0] > 0:
            return a[0] // b[0], a[1] // b[0]
        case "mod" if b[0] == b[1] and b[0] > 0:
            return 0, b[0] - 1
        case "cast":
            return a
    return None
