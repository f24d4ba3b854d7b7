"""How far the quotient of two forms may be from one: sums of positive terms that are alike."""

from __future__ import annotations

from fractions import Fraction

from superopt.bench.exact import Exact
from superopt.bench.exact_forms import ONE, Mono, Poly


def within(exact: Exact, a: int, b: int, most: Fraction) -> bool:
    """Whether b / a is shown to be within 1 - most and 1 + most wherever a is not zero.

    The quotient must be a number times powers of quotients of sums, in each of which both sums have
    the same terms, all positive, with other coefficients: then the quotient of the sums lies between
    the least and the largest of those of the coefficients.
    """
    if a == b:
        return True
    if a in (exact.zero, exact.high, exact.low):
        return False
    poly = exact.polys[exact.product(b, exact.power(a, -ONE))]
    if len(poly) != 1:
        return False
    mono, number = poly[0]
    low = high = number
    if number <= 0:
        return False
    above = [(exact.atoms[x], e) for x, e in mono if e > 0]
    below = [(exact.atoms[x], -e) for x, e in mono if e < 0]
    for atom, e in above:
        found = [(other, d) for other, d in below if d == e and _ratio(exact, atom, other)]
        if not found or e.denominator > 1:
            return False
        below.remove(found[0])
        least, largest = _ratio(exact, atom, found[0][0]) or (ONE, ONE)
        low, high = low * least ** int(e), high * largest ** int(e)
    return not below and 1 - most <= low and high <= 1 + most


def _ratio(exact: Exact, a: object, b: object) -> tuple[Fraction, Fraction] | None:
    """The least and the largest quotient of the coefficients of two sums of the same positive terms."""
    p, q = _terms(exact, a), _terms(exact, b)
    if p is None or q is None or p.keys() != q.keys():
        return None
    quotients = [p[m] / q[m] for m in p]
    return min(quotients), max(quotients)


def _terms(exact: Exact, atom: object) -> dict[Mono, Fraction] | None:
    """The terms of an unknown that is a sum of exponentials and numbers, if all are positive."""
    if not (isinstance(atom, tuple) and atom[0] == "power" and len(atom) == 2):
        return None
    poly: Poly = atom[1]
    for mono, c in poly:
        keys = [exact.atoms[x] for x, _ in mono]
        if c <= 0 or not all(isinstance(k, tuple) and k[0] == "exp" for k in keys):
            return None
    return dict(poly)
