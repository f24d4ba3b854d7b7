"""Rows of integer arithmetic: what rounds, remainders, and rows whose bodies have real numbers."""

from __future__ import annotations

from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows import row
from superopt.frontend.tensors import NotSupported, Tensor, floating
from superopt.mugraph.scalars import A, B, Term


def on_integers(cx: Context, name: str, x: Tensor, out: torch.dtype) -> Tensor:
    """A row whose body has a real number, without it."""
    if name == "square":
        return cx.apply("mul", [x, x], out, out)
    if name == "relu":
        return cx.apply("max", [x, 0], out, out)
    if name == "abs" and out == torch.uint8:
        return x
    minus = cx.apply("mul", [x, -1], out, out)
    return minus if name == "neg" else cx.apply("max", [x, minus], out, out)


@row("floor_divide")
def floor_divide(cx: Context, out: torch.dtype, a: Any, b: Any) -> Tensor:
    """The quotient rounded down."""
    if floating(out):
        return cx.apply("floordiv_real", [a, b], out, out)
    if not isinstance(b, int) or b <= 0:
        raise NotSupported("integer division by a tensor")
    return cx.apply("floordiv", [a, b], out, out)


def trunc_divide(cx: Context, out: torch.dtype, a: Any, b: Any) -> Tensor:
    """The quotient rounded towards zero."""
    if floating(out):
        ratio: Term = ("div", A, B)
        term = ("where", ("lt", ratio, 0.0), ("ceil", ratio), ("floor", ratio))
        return cx.formula(term, [a, b], out)
    if not isinstance(b, int) or b <= 0:
        raise NotSupported("integer division by a tensor")
    down = cx.apply("floordiv", [a, b], out, out)
    return cx.where(_cut(cx, out, a, b), cx.apply("add", [down, 1], out, out), down, out)


def _cut(cx: Context, out: torch.dtype, a: Any, b: int) -> Tensor:
    """Where an integer is negative and b does not divide it: rounding down is not to zero there."""
    rest = cx.apply("mod", [a, b], out, out)
    negative = cx.apply("lt", [a, 0], torch.bool, out)
    uneven = cx.apply("ne", [rest, 0], torch.bool, out)
    return cx.apply("and", [negative, uneven], torch.bool, torch.bool)


@row("fmod")
def _fmod(cx: Context, out: torch.dtype, a: Any, b: Any) -> Tensor:
    """The remainder that has the sign of the dividend."""
    if floating(out):
        rest: Term = ("mod_real", ("abs", A), ("abs", B))
        return cx.formula(("where", ("lt", A, 0.0), ("neg", rest), rest), [a, b], out)
    if not isinstance(b, int) or b == 0:
        raise NotSupported("an integer remainder by a tensor")
    up = cx.apply("mod", [a, abs(b)], out, out)
    down = cx.apply("sub", [up, abs(b)], out, out)
    return cx.where(_cut(cx, out, a, abs(b)), down, up, out)


@row("remainder")
def _remainder(cx: Context, out: torch.dtype, a: Any, b: Any) -> Tensor:
    if floating(out):
        return cx.apply("mod_real", [a, b], out, out)
    if not isinstance(b, int) or b <= 0:
        raise NotSupported("an integer remainder by a tensor")
    return cx.apply("mod", [a, b], out, out)
