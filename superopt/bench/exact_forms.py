"""Sums of products over the rational numbers, with unknowns, roots and exponentials, in a normal form."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction

Mono = tuple[tuple[int, Fraction], ...]
"""A product of unknowns, each with its exponent, by number."""

Poly = tuple[tuple[Mono, Fraction], ...]
"""A sum of products with their coefficients, in order."""

ONE: Fraction = Fraction(1)
HALF = Fraction(1, 2)


class TooMuch(Exception):
    """The forms of a graph took more work than was allowed."""


class Forms:
    """Forms by number, made once each.

    limit: terms of a sum beyond which it is an unknown; work: operations on terms that all values
    together may take, after which TooMuch is raised; undefined: set where a value is met, even if it
    is multiplied by zero later, that has no number: a difference of infinities, or zero times one.
    """

    def __init__(self, limit: int, work: int) -> None:
        self.limit, self.work = limit, work
        self.undefined = False
        self._undefined: set[int] = set()
        self.atoms: list[Hashable] = []
        self._atom_ids: dict[Hashable, int] = {}
        self.polys: list[Poly] = []
        self._poly_ids: dict[Poly, int] = {}
        self._memo: dict[tuple[Hashable, ...], int] = {}
        self.zero, self.one = self.number(0), self.number(1)
        self.high, self.low = self.unknown("infinite", 1), self.unknown("infinite", -1)

    # -- forms

    def number(self, value: Fraction | int) -> int:
        """The form of a rational number."""
        return self._form((((), Fraction(value)),) if value else ())

    def unknown(self, *key: Hashable) -> int:
        """The form of an unknown; the same for the same key."""
        found = self._form(((((self._atom(key), ONE),), ONE),))
        if key[0] in ("undefined", "product"):
            self._undefined.add(found)
            self.undefined = True
        return found

    def _atom(self, key: Hashable) -> int:
        found = self._atom_ids.get(key)
        if found is None:
            found = self._atom_ids[key] = len(self.atoms)
            self.atoms.append(key)
        return found

    def _form(self, poly: Poly) -> int:
        found = self._poly_ids.get(poly)
        if found is None:
            found = self._poly_ids[poly] = len(self.polys)
            self.polys.append(poly)
        return found

    def constant(self, form: int) -> Fraction | None:
        """The number that a form is, or None."""
        poly = self.polys[form]
        if not poly:
            return Fraction(0)
        return poly[0][1] if len(poly) == 1 and not poly[0][0] else None

    def _remember(self, key: tuple[Hashable, ...], make: Callable[[], int]) -> int:
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = make()
        if found in self._undefined:
            self.undefined = True
        return found

    def spend(self, terms: int) -> None:
        self.work -= terms
        if self.work < 0:
            raise TooMuch

    # -- the field

    def sum(self, forms: Sequence[int]) -> int:
        """The sum of some forms."""
        infinite = {f for f in forms if f in (self.high, self.low)}
        if infinite:
            return infinite.pop() if len(infinite) == 1 else self.unknown("undefined")
        key = ("sum", *sorted(forms))
        return self._remember(key, lambda: self._sum(forms))

    def _sum(self, forms: Sequence[int]) -> int:
        total: dict[Mono, Fraction] = {}
        for f in forms:
            self.spend(len(self.polys[f]))
            for mono, c in self.polys[f]:
                total[mono] = total.get(mono, Fraction(0)) + c
        return self._settled(total)

    def _settled(self, total: dict[Mono, Fraction]) -> int:
        poly = tuple(sorted((m, c) for m, c in total.items() if c))
        return self._form(poly if len(poly) <= self.limit else self._folded(poly))

    def _folded(self, poly: Poly) -> Poly:
        """A long sum as one term: its content times the unknown that stands for the rest."""
        coefficient, content, rest = self._content(poly)
        powers = dict(content)
        atom = self._atom(("power", rest))
        powers[atom] = powers.get(atom, Fraction(0)) + 1
        return ((_mono(powers), coefficient),)

    def _content(self, poly: Poly) -> tuple[Fraction, Mono, Poly]:
        """A sum as (number, common factors, what is left, with leading coefficient one)."""
        common = dict(poly[0][0])
        for mono, _ in poly[1:]:
            here = dict(mono)
            common = {a: min(e, here.get(a, Fraction(0))) for a, e in common.items()}
            for a, e in here.items():
                if a not in common and e < 0:
                    common[a] = e
            common = {a: e for a, e in common.items() if e}
        # What some terms lack has exponent zero there: a negative one is common to all.
        rest = []
        for mono, c in poly:
            powers = dict(mono)
            for a, e in common.items():
                powers[a] = powers.get(a, Fraction(0)) - e
            rest.append((_mono(powers), c))
        rest.sort()
        lead = rest[0][1]
        return lead, _mono(common), tuple((m, c / lead) for m, c in rest)

    def product(self, a: int, b: int) -> int:
        """The product of two forms."""
        if a > b:
            a, b = b, a
        return self._remember(("mul", a, b), lambda: self._product(a, b))

    def _product(self, a: int, b: int) -> int:
        for x, y in ((a, b), (b, a)):
            if x in (self.high, self.low):
                c = self.constant(y)
                if c is None or not c:
                    return self.unknown("product", *sorted((a, b)))
                return x if c > 0 else (self.low if x == self.high else self.high)
        p, q = self.polys[a], self.polys[b]
        if len(p) * len(q) > 2 * self.limit:
            p = self._folded(p) if len(p) > 1 else p
            q = self._folded(q) if len(q) > 1 else q
        self.spend(1 + len(p) * len(q))
        total: dict[Mono, Fraction] = {}
        open_: list[tuple[Mono, Fraction, list[tuple[int, int]]]] = []
        for m, c in p:
            for n, d in q:
                mono, whole = self._times(m, n)
                if whole:
                    open_.append((mono, c * d, whole))
                else:
                    total[mono] = total.get(mono, Fraction(0)) + c * d
        forms = [self._settled(total)]
        for mono, c, whole in open_:  # sums that were under a root stand alone again
            f = self._form(((mono, c),))
            for form, times in whole:
                for _ in range(times):
                    f = self.product(f, form)
            forms.append(f)
        return self.sum(forms) if len(forms) > 1 else forms[0]

    def _times(self, m: Mono, n: Mono) -> tuple[Mono, list[tuple[int, int]]]:
        powers, mine = dict(m), dict(m)
        for a, e in n:
            powers[a] = powers.get(a, Fraction(0)) + e
        whole = []
        for a, e in n:
            key, total = self.atoms[a], powers[a]
            # Roots that meet; a sum that is an unknown because it is long stays one.
            roots = e.denominator > 1 and mine.get(a, ONE).denominator > 1
            if isinstance(key, tuple) and key[0] == "power" and roots and total:
                rest = key[1]
                if len(rest) <= self.limit and total.denominator == 1:
                    base = self._form(rest)
                    whole.append((base if total > 0 else self.power(base, -ONE), abs(int(total))))
                    del powers[a]
        return _mono(powers), whole

    def power(self, form: int, exponent: Fraction) -> int:
        """A form to the power -1 or 1/2."""
        return self._remember(("power", form, exponent), lambda: self._power(form, exponent))

    def _power(self, form: int, exponent: Fraction) -> int:
        poly = self.polys[form]
        if not poly:
            return self.zero if exponent > 0 else self.unknown("undefined")
        if form in (self.high, self.low):
            return self.zero if exponent < 0 else self.unknown("power", form, exponent)
        coefficient, content, rest = self._content(poly)
        if exponent == -1:
            powers = {a: -e for a, e in content}
            if rest != (((), ONE),):
                atom = self._atom(("power", rest))
                powers[atom] = powers.get(atom, Fraction(0)) - 1
            return self._form(((_mono(powers), 1 / coefficient),))
        # The root of a square is not the base, but that of an exponential is.
        inside = [(a, e) for a, e in content if not self._is_exp(a)]
        powers = {a: e * exponent for a, e in content if self._is_exp(a)}
        under = self._form(rest)
        for a, e in inside:
            under = self.product(under, self._form(((((a, e),), ONE),)))
        under = self.product(under, self.number(coefficient))
        root = _exact_root(self.constant(under))
        if root is not None:
            return self._form(((_mono(powers), root),))
        atom = self._atom(("power", self.polys[under]))
        powers[atom] = powers.get(atom, Fraction(0)) + exponent
        return self._form(((_mono(powers), ONE),))

    def _is_exp(self, atom: int) -> bool:
        key = self.atoms[atom]
        return isinstance(key, tuple) and key[0] == "exp"

    def exp(self, form: int) -> int:
        """The exponential: that of a sum is the product of those of its terms."""
        if form == self.low:
            return self.zero
        if form == self.high:
            return self.high
        powers = {self._atom(("exp", m)): c for m, c in self.polys[form]}
        return self._form(((_mono(powers), ONE),))

    def log(self, form: int) -> int:
        """The logarithm; exponentials that are common to all terms come out."""
        poly = self.polys[form]
        if not poly or form in (self.high, self.low):
            self.undefined = True
            return self.unknown("log", form)
        coefficient, content, rest = self._content(poly)
        out = [(a, e) for a, e in content if self._is_exp(a)]
        inside = self._form(rest)
        for a, e in content:
            if not self._is_exp(a):
                inside = self.product(inside, self._form(((((a, e),), ONE),)))
        inside = self.product(inside, self.number(coefficient))
        terms = [] if inside == self.one else [self.unknown("log", inside)]
        terms += [self._form(((self.atoms[a][1], e),)) for a, e in out]  # type: ignore[index]
        return self.sum(terms)


def plain(poly: Poly) -> bool:
    """Whether a form is one unknown."""
    return len(poly) == 1 and poly[0][1] == 1 and len(poly[0][0]) == 1 and poly[0][0][0][1] == 1


def _mono(powers: dict[int, Fraction]) -> Mono:
    return tuple(sorted((a, e) for a, e in powers.items() if e))


def _exact_root(c: Fraction | None) -> Fraction | None:
    if c is None or c < 0:
        return None
    top, bottom = math.isqrt(c.numerator), math.isqrt(c.denominator)
    return (
        Fraction(top, bottom) if top * top == c.numerator and bottom**2 == c.denominator else None
    )
