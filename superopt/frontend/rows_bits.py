"""Rows of bits: masks and shifts of integers, written with the quotients and remainders they are.

In two's complement ``x >> c`` is ``x // 2**c`` and ``x & (2**c - 1)`` is ``x % 2**c``, of either sign,
and sums wrap as the type does. So a packed weight is unpacked by rows that every stage knows.
"""

from __future__ import annotations

from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows import row
from superopt.frontend.tensors import NotSupported, Tensor, floating


def bits(dtype: torch.dtype) -> int:
    """The width of an integer type."""
    return torch.iinfo(dtype).bits


def wrapped(value: int, dtype: torch.dtype) -> int:
    """A number as an integer type holds it."""
    span, info = 1 << bits(dtype), torch.iinfo(dtype)
    value %= span
    return value - span if value > info.max else value


def _low(cx: Context, x: Tensor, n: int) -> Tensor | int:
    """The lowest n bits of x, those above as zeros; all of them as x itself."""
    dtype, width = x.dtype, bits(x.dtype)
    if n == 0:
        return 0
    if n == width:
        return x
    if dtype != torch.uint8 and n == width - 1:  # 2**n is no number of the type
        negative = cx.apply("lt", [x, 0], torch.bool, dtype)
        top = wrapped(1 << n, dtype)
        return cx.where(negative, cx.apply("add", [x, top], dtype, dtype), x, dtype)
    return cx.apply("mod", [x, 1 << n], dtype, dtype)


def _runs(mask: int) -> list[tuple[int, int]]:
    """The runs of ones in a mask, as (first bit, one beyond the last)."""
    runs, at = [], 0
    while mask >> at:
        first = at
        while mask >> at & 1:
            at += 1
        if at > first:
            runs.append((first, at))
        at += at == first
    return runs


def masked(cx: Context, x: Tensor, mask: int) -> Tensor:
    """The bits of x that a mask has."""
    dtype = x.dtype
    full = (1 << bits(dtype)) - 1
    runs, rest = _runs(mask & full), _runs(~mask & full)
    if len(rest) < len(runs):
        return _minus(cx, x, masked(cx, x, ~mask)) if rest else x
    out: Tensor | None = None
    for first, end in runs:
        part = _minus(cx, _low(cx, x, end), _low(cx, x, first))
        out = part if out is None else cx.apply("add", [out, part], dtype, dtype)
    return cx.value(0, dtype).spread(x.dims) if out is None else out


def _minus(cx: Context, x: Any, y: Any) -> Tensor:
    return x if y == 0 else cx.apply("sub", [x, y], x.dtype, x.dtype)


def bitwise(cx: Context, name: str, out: torch.dtype, args: tuple[Any, ...]) -> Tensor:
    """``not``, ``and``, ``or`` and ``xor`` of an integer tensor and a number."""
    x = next(a for a in args if isinstance(a, Tensor))
    others = [a for a in args if a is not x]
    x = cx.cast(x, out)
    if not others and name == "not":
        return cx.apply("sub", [-1 if out != torch.uint8 else 255, x], out, out)
    if len(others) != 1 or not isinstance(others[0], int):
        raise NotSupported(f"bitwise {name} of two tensors of integers")
    mask = wrapped(int(others[0]), out)
    if name == "and":
        return masked(cx, x, mask)
    if name == "or":
        return cx.apply("add", [masked(cx, x, ~mask), mask], out, out)
    if mask == wrapped(
        1 << bits(out) - 1, out
    ):  # the highest bit: what is carried out of it is lost
        return cx.apply("add", [x, mask], out, out)
    both = cx.apply("mul", [masked(cx, x, mask), wrapped(-2, out)], out, out)
    return cx.apply("add", [cx.apply("add", [x, mask], out, out), both], out, out)


def _shifted(cx: Context, out: torch.dtype, x: Any, by: Any) -> tuple[Tensor, int]:
    if floating(out) or not isinstance(x, Tensor):
        raise NotSupported(f"{cx.name} of what is no tensor of integers")
    if out == torch.bool or not isinstance(by, int):
        raise NotSupported(
            "a shift by a tensor" if isinstance(by, Tensor) else "a shift of booleans"
        )
    return cx.cast(x, out), int(by)


@row("bitwise_left_shift", "__lshift__")
def _left(cx: Context, out: torch.dtype, a: Any, b: Any) -> Tensor:
    x, by = _shifted(cx, out, a, b)
    factor = wrapped(1 << by, out) if 0 <= by < bits(out) else 0
    return cx.apply("mul", [x, factor], out, out)


@row("bitwise_right_shift", "__rshift__")
def _right(cx: Context, out: torch.dtype, a: Any, b: Any) -> Tensor:
    """Rounded down; a shift by the whole width (or a negative one, as in PyTorch) leaves the sign."""
    x, by = _shifted(cx, out, a, b)
    if not 0 <= by < bits(out):
        by = bits(out)
    if 1 << by <= torch.iinfo(out).max:
        return x if by == 0 else cx.apply("floordiv", [x, 1 << by], out, out)
    if out == torch.uint8:
        return cx.apply("mul", [x, 0], out, out)
    return cx.where(cx.apply("lt", [x, 0], torch.bool, out), -1, 0, out)
