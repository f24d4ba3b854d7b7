"""Arithmetic of the C++ of kernels over exact forms: scalars, and vectors lane by lane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from superopt.bench.cpp_parse import Unreadable
from superopt.bench.exact import Exact
from superopt.bench.exact_forms import plain
from superopt.bench.exact_memory import FLOATS, HALVES, INTEGERS, Real, Scalar, Truth

_OPS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
_ORDER = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
_BOTH = {"&": "and", "|": "or"}
_OF_TRUTHS = ("eq", "lt", "not", "and", "or")


@dataclass(frozen=True, slots=True)
class Vec:
    """The lanes of a vector that exist; those beyond a partial step are left out, and may not be read."""

    lanes: tuple[Scalar, ...]

    def first(self, n: int) -> tuple[Scalar, ...]:
        """So many lanes; raises Unreadable where there are fewer."""
        if n > len(self.lanes):
            raise Unreadable("lanes beyond the end of a step")
        return self.lanes[:n]


@dataclass
class Numbers:
    """What operators and conversions of C++ do to forms.

    rounds: whether a number that is stored in 16 bits is another one, of which nothing is known but
    what it was made from; else conversions between floats leave a real number as it is.
    """

    exact: Exact
    rounds: bool = False

    # -- scalars

    def form(self, x: Any) -> int:
        """The form of a number or a truth value."""
        if isinstance(x, Real | Truth):
            return x.form
        if isinstance(x, int):
            return self.exact.number(int(x))
        raise Unreadable(f"{type(x).__name__} where a number is expected")

    def real(self, value: Fraction) -> Real:
        """A literal."""
        return Real(self.exact.number(value))

    def apply(self, op: str, *args: Any, dtype: str = "f32") -> Real:
        """A row of the scalar table applied to numbers."""
        return Real(self.exact.apply(op, [self.form(x) for x in args], dtype))

    def truth(self, form: int) -> Scalar:
        """A truth value from its form."""
        known = self.exact.constant(form)
        return Truth(form) if known is None else bool(known)

    def boolean(self, x: Any) -> Scalar:
        """A number converted to a truth value."""
        if isinstance(x, Truth):
            return x
        if isinstance(x, int):
            return bool(x)
        form = self.form(x)
        poly = self.exact.polys[form]
        key = self.exact.atoms[poly[0][0][0][0]] if plain(poly) else None
        if isinstance(key, tuple) and key[0] in _OF_TRUTHS:
            return Truth(form)
        return self.truth(self.exact.apply("ne", [form, self.exact.zero], "bool"))

    def arithmetic(self, sign: str, a: Any, b: Any) -> Scalar:
        """A sum, difference, product or quotient, a remainder, or a bit of two truth values."""
        whole = isinstance(a, int) and isinstance(b, int)
        if sign in _BOTH:
            if whole:
                return (a & b) if sign == "&" else (a | b)
            if isinstance(a, bool | Truth) and isinstance(b, bool | Truth):
                return self.truth(self.exact.extreme(_BOTH[sign], [self.form(a), self.form(b)]))
            raise Unreadable("bits of numbers")
        if whole:
            return _of_integers(sign, int(a), int(b))
        if sign == "%":
            raise Unreadable("the remainder of numbers that are not known")
        return self.apply(_OPS[sign], a, b)

    def compared(self, sign: str, a: Any, b: Any) -> Scalar:
        """A comparison."""
        if isinstance(a, int) and isinstance(b, int):
            return bool(
                {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[
                    sign
                ]
            )
        if sign == "!=" and isinstance(b, int) and b == 0:
            return self.boolean(a)
        forms = [self.form(a), self.form(b)]
        return self.truth(self.exact.apply(_ORDER[sign], forms, "bool"))

    def extreme(self, op: str, a: Any, b: Any) -> Scalar:
        """so_max and so_min."""
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b) if op == "max" else min(a, b)
        return self.apply(op, a, b)

    def where(self, condition: Any, yes: Any, no: Any) -> Scalar:
        """so_where."""
        if isinstance(condition, Real):
            raise Unreadable("a number as a condition")
        chosen = self.boolean(condition)
        if isinstance(chosen, int):
            return yes if chosen else no
        made = self.exact.apply("where", [self.form(chosen), self.form(yes), self.form(no)], "f32")
        if isinstance(yes, Real) and isinstance(no, Real):
            return Real(made)
        if isinstance(yes, bool | Truth) and isinstance(no, bool | Truth):
            return self.truth(made)
        raise Unreadable("an integer that depends on a number")

    def negative(self, x: Any) -> Scalar:
        """-x."""
        return -int(x) if isinstance(x, int) else self.apply("neg", x)

    def inverse(self, x: Any) -> Scalar:
        """!x."""
        found = self.boolean(x)
        if isinstance(found, int):
            return not found
        return self.truth(self.exact.negated(self.form(found)))

    def convert(self, ctype: str, x: Any) -> Scalar:
        """A number converted to a C++ type; raises Unreadable where an integer does not fit."""
        if ctype in FLOATS:
            return self._rounded(ctype, self.form(x))
        if ctype == "bool":
            return self.boolean(x)
        if ctype in INTEGERS or ctype == "uint8_t":
            if isinstance(x, Real) and (known := self.exact.constant(x.form)) is not None:
                x = int(known)  # towards zero, as C++ does
            if not isinstance(x, int):
                raise Unreadable("an integer made of a number that is not known")
            half = 1 << (INTEGERS.get(ctype, 9) - 1)
            if not (0 if ctype == "uint8_t" else -half) <= x < half:
                raise Unreadable("an integer beyond the range of its type")
            return int(x)
        raise Unreadable(f"a conversion to {ctype}")

    def _rounded(self, ctype: str, form: int) -> Real:
        if not self.rounds or ctype not in HALVES:
            return Real(form)
        poly = self.exact.polys[form]
        key = self.exact.atoms[poly[0][0][0][0]] if plain(poly) else None
        if isinstance(key, tuple) and key[0] == "stored" and key[1] == ctype:
            return Real(form)
        return Real(self.exact.unknown("stored", ctype, form))

    # -- vectors

    def lanes(self, f: Callable[..., Scalar], *args: Any, masks: bool = False) -> Any:
        """A function of scalars, on every lane where an argument is a vector.

        masks: whether it may be given truth values, which in vectors are no numbers: true is -1 there.
        """
        widths = [len(a.lanes) for a in args if isinstance(a, Vec)]
        if not widths:
            return f(*args)
        n = min(widths)
        columns = [a.lanes[:n] if isinstance(a, Vec) else (a,) * n for a in args]
        if not masks:
            for column in columns:
                self.plain_lanes(column)
        return Vec(tuple(f(*lane) for lane in zip(*columns, strict=True)))

    def plain_lanes(self, lanes: Sequence[Scalar]) -> None:
        """Raises Unreadable where a lane holds a truth value: it is no number."""
        if any(isinstance(x, bool | Truth) for x in lanes):
            raise Unreadable("a mask as a number")

    def binary(self, sign: str, a: Any, b: Any) -> Any:
        """An operator between scalars or vectors."""
        if sign in _ORDER:
            masks = sign == "!=" and isinstance(b, int) and not isinstance(b, bool) and b == 0
            return self.lanes(lambda x, y: self.compared(sign, x, y), a, b, masks=masks)
        return self.lanes(lambda x, y: self.arithmetic(sign, x, y), a, b, masks=sign in _BOTH)


def _of_integers(sign: str, a: int, b: int) -> int:
    match sign:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
    if b == 0:
        raise Unreadable("a division of integers by zero")
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # towards zero
    return quotient if sign == "/" else a - quotient * b
