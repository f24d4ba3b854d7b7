"""What every backend must agree on: the dtype a scalar is computed in, and where sums are kept."""

from __future__ import annotations

import math

import torch

from superopt.mugraph.dtypes import DTYPES, compute_dtype, promote
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.tile_analysis import reads
from superopt.mugraph.tileir import Apply, Buffer, Compute, Expr, Program, statements


def value_dtype(expr: Expr) -> str:
    """The dtype in which an expression's value is held: 16-bit floats are held in f32."""
    return compute_dtype(expr.dtype)


def operand_dtypes(expr: Apply) -> tuple[str, ...]:
    """The dtype each argument of an application is converted to before the row is applied.

    Rows that give booleans compare in the promoted dtype of their arguments, as PyTorch does; all
    other rows work in the dtype of their result. Conversions take their argument as it is.
    """
    if expr.op in ("cast", "round"):
        return (value_dtype(expr.args[0]),)
    if expr.op == "where":
        return ("bool", value_dtype(expr), value_dtype(expr))
    row = SCALARS[expr.op]
    if expr.op in ("and", "or", "not"):
        return (value_dtype(expr),) * len(expr.args)
    if row.result == "bool":
        common = compute_dtype(promote(*(a.dtype for a in expr.args)))
        return (common,) * len(expr.args)
    return (value_dtype(expr),) * len(expr.args)


def stored_dtype(program: Program, buffer: Buffer) -> str:
    """The element type that a buffer is stored in.

    A tile that is added to step by step is kept in the dtype it is computed in: rounding it to 16
    bits between two steps would lose what the next step adds.
    """
    if buffer.space != "tile":
        return buffer.dtype
    for stmt in statements(program.body):
        if stmt.dst.name == buffer.name and (stmt.accumulate or buffer.name in reads(stmt.expr)):
            return compute_dtype(buffer.dtype)
    return buffer.dtype


def sum_dtype(stmt: Compute) -> str:
    """The dtype in which a reduction is made within one statement: double for a sum of floats.

    A backend may add a few neighbours in single precision first, and may make a contraction (a sum
    of products of two factors, as of matrices) in single precision as a whole.
    """
    dtype = value_dtype(stmt.expr)
    return "f64" if stmt.reduce == "add" and dtype == "f32" else dtype


def exact_literal(value: float | int | bool, dtype: str) -> float | int | bool:
    """A literal as a value of ``dtype``; an infinity of an integer type is its last value."""
    kind = DTYPES[dtype].kind
    if kind == "bool":
        return bool(value)
    if kind == "float":
        return float(value)
    if math.isinf(value):
        info = torch.iinfo(DTYPES[dtype].torch)
        return info.max if value > 0 else info.min
    return int(value)
