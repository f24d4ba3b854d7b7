"""Values of one cell of a pointwise program as terms of SMT-LIB: truth values, integers and reals.

An integer is written as it is before it wraps, since sums and products may wrap later or not at all
(``raw``), with an interval that it lies in; it is wrapped to its type, ``((r - lo) mod 2^w) + lo``,
where anything else asks for it and the interval does not show that it fits. A float is a real number,
a literal its exact dyadic value.

A value is *defined* under conditions (``When``): no zero divisor, no root or logarithm of a negative
number. A choice needs the conditions of the side that is taken alone. A comparison with an undefined
float has some truth value, of which nothing is known (in floats NaN compares false, and 1/0 does not),
and so is itself defined; but nothing is given where an integer is divided by zero. The logarithm of
zero, which is -inf, is any number: what holds of all numbers holds in the limit, but for comparisons
(r < r + 1), of which nothing is known there either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from superopt.mugraph.dtypes import DTYPES


@dataclass(frozen=True, slots=True)
class When:
    """Conditions: under which a float is defined, under which it is finite besides, and under which no
    integer is divided by zero."""

    defined: frozenset[str] = frozenset()
    finite: frozenset[str] = frozenset()
    divided: frozenset[str] = frozenset()

    def __or__(self, other: When) -> When:
        return When(
            self.defined | other.defined, self.finite | other.finite, self.divided | other.divided
        )

    def where(self, test: str) -> When:
        """The conditions of a side that is taken where a test holds."""
        return When(
            *(
                frozenset(f"(=> {test} {c})" for c in part)
                for part in (self.defined, self.finite, self.divided)
            )
        )

    @property
    def known(self) -> frozenset[str]:
        """The conditions under which a float can be compared."""
        return self.defined | self.finite

    @property
    def claimed(self) -> str:
        """The condition under which something is said of a value."""
        return all_of(self.defined | self.divided)


ALWAYS = When()


def together(values: Iterable[Value]) -> When:
    """The conditions of several values."""
    out = ALWAYS
    for x in values:
        out |= x.when
    return out


class Unwritten(Exception):
    """An operation has no exact form here."""


@dataclass(frozen=True, slots=True)
class Value:
    """One cell of a node. sort: "Bool", "Int" or "Real"; dtype: the graph's; term: SMT-LIB text.

    lo, hi: what the term is at least and at most, None for unknown (of reals alone); when: conditions;
    outside: a literal that its type does not hold.
    """

    sort: str
    dtype: str
    term: str
    lo: Fraction | None = None
    hi: Fraction | None = None
    when: When = ALWAYS
    outside: bool = False

    @property
    def literal(self) -> Fraction | None:
        """The number that the value is, where it is one."""
        return self.lo if self.lo == self.hi else None


def bounds_of(dtype: str) -> tuple[int, int]:
    """The least and the greatest integer of a type."""
    width = 8 * DTYPES[dtype].bytes
    return (0, 2**width - 1) if dtype == "u8" else (-(2 ** (width - 1)), 2 ** (width - 1) - 1)


def real(x: Fraction) -> str:
    """A literal of sort Real."""
    text = f"{abs(x.numerator)}.0"
    if x.denominator != 1:
        text = f"(/ {text} {x.denominator}.0)"
    return text if x >= 0 else f"(- {text})"


def all_of(conditions: Iterable[str]) -> str:
    """That each of some conditions holds."""
    given = sorted(conditions)
    return "true" if not given else given[0] if len(given) == 1 else f"(and {' '.join(given)})"


def least(*xs: Fraction | None) -> Fraction | None:
    """The least of some lower bounds, None (unknown) being below all."""
    return None if any(x is None for x in xs) else min(x for x in xs if x is not None)


def greatest(*xs: Fraction | None) -> Fraction | None:
    """The greatest of some upper bounds, None (unknown) being above all."""
    return None if any(x is None for x in xs) else max(x for x in xs if x is not None)


def product(a: Value, b: Value) -> tuple[Fraction | None, Fraction | None]:
    """What a product of two values is at least and at most."""
    if a.lo is None or a.hi is None or b.lo is None or b.hi is None:
        zero = Fraction(0)
        signed = all(x.lo is not None and x.lo >= 0 for x in (a, b))
        return (zero, None) if signed else (None, None)
    corners = [p * q for p in (a.lo, a.hi) for q in (b.lo, b.hi)]
    return min(corners), max(corners)
