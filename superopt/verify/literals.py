"""Literals that stand for a number no float is: 0.1 for 1/10, 0.0883... for 1/sqrt(128).

In the field a literal is its exact dyadic value, so that a division by 10 and a product with 0.1
differ there, as they do by rounding in floats. Programs that are not shown equal are compared once
more with such literals read as what they are within one unit in the last place of; certificates name
that. Where sizes are fixed, they may be read as literals as well: then a program that divides by the
literal 64 may be equal to one that divides by a size of 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Const, Graph, Map, SizeOf, remap

MOST_BELOW = 4096
"""The largest denominator of a fraction that a literal is read as; powers of ten may be larger."""

MOST_ABOVE = 64
"""The largest numerator of a fraction that is no whole number."""


BASES = (math.log(2), math.log(10), math.pi, math.sqrt(math.pi), math.sqrt(2 * math.pi))
"""Numbers of which literals may be simple multiples, or multiples of their reciprocals."""


@dataclass(frozen=True)
class Meant:
    """What a literal stands for: a rational number or its root, times a base (1 for none) or below one."""

    number: Fraction
    root: bool = False
    base: float = 1.0
    below: bool = False


def meant(value: float) -> Meant | None:
    """What a literal stands for.

    None for a literal that is exact (a whole number, or a fraction with a small power of two), or
    that is near no simple number.
    """
    if value == 0 or not math.isfinite(value) or _is_exact(value):
        return None
    near = _near(value)
    if near is not None:
        return Meant(near)
    square = _near(value * value, slack=4)
    if square is not None and _same(math.sqrt(square), abs(value)):
        return Meant(square, root=True)
    for base in BASES:
        for below, rest in ((False, value / base), (True, value * base)):
            number = Fraction(rest).limit_denominator(16)
            again = float(number) / base if below else float(number) * base
            if number and abs(number.numerator) <= 16 and _same(again, value, slack=2):
                return Meant(number, base=base, below=below)
    return None


def _is_exact(value: float) -> bool:
    return Fraction(value).denominator <= MOST_BELOW


def _near(value: float, slack: int = 1) -> Fraction | None:
    for k in range(1, 13):  # 1e-6, 3e-5
        found = Fraction(round(value * 10**k), 10**k)
        if abs(found.numerator) <= 9 and found and _same(float(found), value, slack):
            return found
    found = Fraction(value).limit_denominator(MOST_BELOW)
    if found and abs(found.numerator) <= MOST_ABOVE and _same(float(found), value, slack):
        return found
    return None


def _same(exact: float, value: float, slack: int = 1) -> bool:
    """Whether a float is the other up to one unit in the last place, in double or single precision."""
    return abs(exact - value) <= slack * math.ulp(value)


def _logarithm_of(value: float) -> int:
    """The whole number of which this is the logarithm, 0 if there is none."""
    number = round(math.exp(value)) if value < math.log(MOST_BELOW) else 0
    return number if number > 1 and _same(math.log(number), value) else 0


def exact_casts(graph: Graph) -> Graph:
    """The graph without the roundings of double to single precision that it keeps."""
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        moved = remap(node, at)
        if isinstance(moved, Map) and (moved.op, moved.dtype) == ("round", "f32"):
            at[i] = b.map("cast", *moved.operands, dtype="f32")
        else:
            at[i] = b.add(moved)
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


def read(graph: Graph, *, sizes: bool, logarithms: bool = False) -> Graph:
    """The graph with its literals as what they stand for.

    sizes: sizes are literals, too; logarithms: those of whole numbers are written as such (then a
    result may be undefined in every other trial, and no bound is claimed).
    """
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node, SizeOf) and sizes and isinstance(node.axis.size, int):
            value = float(node.axis.size) if is_float(node.dtype) else node.axis.size
            at[i] = b.const(value, node.dtype)
        elif isinstance(node, Const) and is_float(node.dtype):
            at[i] = _literal(b, float(node.value), node.dtype, logarithms)
        else:
            at[i] = b.add(remap(node, at))
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


def _literal(b: Builder, value: float, dtype: str, logarithms: bool) -> int:
    if logarithms and (whole := _logarithm_of(abs(value))):
        out = b.map("log", b.const(float(whole), dtype))
        return out if value > 0 else b.map("neg", out)
    found = meant(value)
    if found is None:
        return b.const(value, dtype)
    top, below = (b.const(float(n), dtype) for n in found.number.as_integer_ratio())
    out = top if found.number.denominator == 1 else b.map("div", top, below)
    if found.root:
        out = b.map("sqrt", out)
        out = out if value > 0 else b.map("neg", out)
    if found.base != 1.0:
        out = b.map("div" if found.below else "mul", out, b.const(found.base, dtype))
    return out
