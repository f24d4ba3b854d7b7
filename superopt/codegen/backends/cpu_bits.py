"""Integers of few bits: shifts in place of divisions, and tables in place of arithmetic."""

from __future__ import annotations

import math

import torch

from superopt.codegen.backends.cpu_values import bounds
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.tileir import Apply, Expr, Lit

TABLE = 16
"""Entries of a table that one register holds."""

EXPONENT = 2.0**19
"""Where the unit of a single-precision number is its fourth bit."""


def power_of_two(expr: Expr) -> int:
    """The exponent of a literal that is a power of two, -1 for anything else."""
    n = int(expr.value) if isinstance(expr, Lit) and math.isfinite(expr.value) else 0
    return n.bit_length() - 1 if n > 0 and n & (n - 1) == 0 else -1


def shifted(expr: Apply, text: str) -> str | None:
    """A quotient or remainder of integers by a power of two, as what it is of the bits."""
    field = SCALARS[expr.op].field
    if field not in ("floordiv", "mod") or DTYPES[expr.dtype].kind != "int":
        return None
    n = power_of_two(expr.args[1])
    if n < 0:
        return None
    return f"({text} >> {n})" if field == "floordiv" else f"({text} & {(1 << n) - 1})"


def looked_up(expr: Apply) -> tuple[Expr, str] | None:
    """A single-precision function of an integer of four bits as (an integer, code over its vector).

    None for anything else: sums and products with literals are the same numbers in a table, as each
    is rounded by itself.
    """
    if expr.dtype != "f32" or (leaf := _leaf(expr)) is None:
        return None
    span = bounds(leaf)
    if span is None or span[1] - span[0] >= TABLE:
        return None
    numbers = torch.zeros(TABLE, dtype=torch.float32)
    for value in range(span[0], span[1] + 1):
        numbers[value % TABLE] = value
    table = _value(expr, leaf, numbers)
    if not bool(torch.isfinite(table).all()):
        return None
    low = _low(leaf)
    if low is leaf and (upper := _upper(leaf)) is not None:
        # Conversions and tables compete for the same units of a processor, so each half of a byte
        # takes another way where both can.
        more = {table[v % TABLE].item() - v for v in range(span[0], span[1] + 1)}
        if len(more) == 1 and abs(c := more.pop()) <= EXPONENT / 2 and c == int(c):
            flip, base = (0x80, 8) if span[0] < 0 else (0, 0)
            return upper, f"so_upper({{}}, {0x49000000 + flip}, float({EXPONENT + base - c!r}))"
    values = ", ".join(f"float({v!r})" for v in table.tolist())
    return low, f"so_table({{}}, so_vec<float, 16>{{{{{values}}}}})"


def _upper(leaf: Expr) -> Expr | None:
    """The byte of which an integer is the upper half."""
    if not isinstance(leaf, Apply) or SCALARS[leaf.op].field != "floordiv":
        return None
    byte = leaf.args[0]
    return byte if byte.dtype in ("i8", "u8") and power_of_two(leaf.args[1]) == 4 else None


def _leaf(expr: Expr) -> Expr | None:
    """The one integer that a term of sums, products and literals in single precision is made of."""
    if not isinstance(expr, Apply) or expr.dtype != "f32":
        return None
    if expr.op == "cast":
        return expr.args[0] if DTYPES[expr.args[0].dtype].kind == "int" else None
    row = SCALARS[expr.op]
    if row.flops != 1 or row.abstract not in ("add", "mul", "expand") or row.fn is None:
        return None
    found = {_leaf(a) for a in expr.args if not isinstance(a, Lit)}
    return found.pop() if len(found) == 1 else None


def _value(expr: Expr, leaf: Expr, numbers: torch.Tensor) -> torch.Tensor:
    if isinstance(expr, Lit):
        return torch.full((TABLE,), float(expr.value), dtype=torch.float32)
    if not isinstance(expr, Apply) or (expr.op == "cast" and expr.args[0] == leaf):
        return numbers
    fn = SCALARS[expr.op].fn
    args = [_value(a, leaf, numbers) for a in expr.args]
    return fn(*args) if fn is not None else args[0]


def _low(expr: Expr) -> Expr:
    """What has the lowest four bits of an integer: the remainder by 16 of it is of no effect."""
    while isinstance(expr, Apply):
        field = SCALARS[expr.op].field
        if field == "mod" and power_of_two(expr.args[1]) >= 4:
            expr = expr.args[0]
        elif field == "floordiv" and (inner := _moved_up(expr)) is not None:
            expr = inner
        else:
            break
    return expr


def _moved_up(expr: Apply) -> Expr | None:
    """What was shifted left and back, if that kept its four lowest bits."""
    inner, by = expr.args
    if not isinstance(inner, Apply) or SCALARS[inner.op].field != "mul":
        return None
    n = power_of_two(by)
    for x, factor in (inner.args, inner.args[::-1]):
        if n >= 0 and power_of_two(factor) == n and 8 * DTYPES[expr.dtype].bytes - n >= 4:
            return x
    return None
