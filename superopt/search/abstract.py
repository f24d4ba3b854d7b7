"""The abstract algebra: terms over named axes in a normal form of sums of products.

Axioms (design: Algebra and Abstract pruning; Mirage OSDI'25, section 4.3, states the pruning rule
over a weaker theory). Terms are equal in the abstract algebra exactly if their normal forms are:

* ``+`` and ``*`` are associative and commutative, ``*`` distributes over ``+``; coefficients are
  exact rationals, and literals are coefficients, not atoms;
* ``sum_k`` is linear, sums commute, a factor that lacks ``k`` moves out of ``sum_k``, and the sum
  over ``k`` of a term that lacks ``k`` is the term times the size of ``k``; a bound axis is
  renamed freely and never identified with another bound axis of the same name;
* ``exp(a + b) = exp(a) exp(b)``, ``exp(c u) = exp(u)^c`` for rational c, ``1/exp(u) = exp(-u)``,
  ``sqrt(exp(u)) = exp(u/2)``;
* ``1/(a b) = (1/a)(1/b)``, ``1/(1/a) = a``, ``sqrt(a b) = sqrt(a) sqrt(b)``,
  ``sqrt(1/a) = 1/sqrt(a)``, with the common factors (content) of a sum taken out first, a rational
  one only where all coefficients of the sum have one magnitude, a sign only where they share it;
* a size times its reciprocal is one. No other product cancels: ``x * (1/x)`` and
  ``exp(u) * exp(-u)`` stay as they are, and ``sqrt(x)^2`` is not ``x``;
* any other function is known by its name alone (congruence).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from fractions import Fraction

from superopt.search.ring import ONE, UNIT, Atom, Mono, Part, Poly, Ring, TooLarge


class Algebra(Ring):
    """The ring with functions.

    ``as_met`` holds, for a reciprocal or root of a sum, its argument with the coefficients that it
    had when it was first formed (the atom itself has them scaled to a leading one): literals that
    nobody wrote must not be looked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.as_met: dict[int, Poly] = {}

    def apply(self, law: str, name: Hashable, p: Poly) -> Poly | None:
        """A unary function: law "exp", "recip", "sqrt", or "fn" (``name`` alone); None at a pole."""
        if law == "exp":
            return self._exp(p)
        if law == "recip":
            return self.recip(p)
        if law == "sqrt":
            return self.sqrt(p)
        return self.of(self.intern(Atom("fn", self.axes(p), name=name, arg=p)))

    def _exp(self, p: Poly) -> Poly:
        powers: dict[int, Fraction] = {}
        for m, c in p:
            a = self.intern(Atom("exp", self.mono_axes(m), 1 if c > 0 else -1, arg=m))
            powers[a] = abs(c)
        return frozenset({((tuple(sorted(powers.items())), ()), ONE)})

    def recip(self, p: Poly) -> Poly | None:
        """1/p, with the content of p inverted factor by factor."""
        if not p:
            return None
        content, scale, rest = self._content(p)
        out = self.const(1 / scale)
        for a, e in content[0]:
            out = self.mul(out, self._inverse(a, e))
        for g in content[1]:
            out = self.mul(out, self._function("recip", frozenset({(((), (g,)), ONE)})))
        return out if rest is None else self.mul(out, self._function("recip", rest, scale))

    def sqrt(self, p: Poly) -> Poly:
        """The square root of p, with the content of p taken out factor by factor."""
        if not p:
            return p
        content, scale, rest = self._content(p)
        if scale < 0 and rest is not None:
            scale, rest = -scale, frozenset((m, -c) for m, c in rest)
        out = self._sqrt_const(scale)
        for a, e in content[0]:
            out = self.mul(out, self._root(a, e))
        for g in content[1]:
            out = self.mul(out, self._function("sqrt", frozenset({(((), (g,)), ONE)})))
        return out if rest is None else self.mul(out, self._function("sqrt", rest, scale))

    def _function(self, law: str, arg: Poly, scale: Fraction = ONE) -> Poly:
        a = self.intern(Atom(law, self.axes(arg), arg=arg))
        self.as_met.setdefault(a, frozenset((m, c * scale) for m, c in arg))
        return self.of(a)

    def _sqrt_const(self, c: Fraction) -> Poly:
        return self.const(c) if c == 1 else self._function("sqrt", self.const(c))

    def _inverse(self, a: int, e: Fraction) -> Poly:
        atom = self.atoms[a]
        if atom.kind in ("size", "exp"):
            flipped = Atom(atom.kind, atom.axes, -atom.sign, atom.name, atom.arg)
            return self.of(self.intern(flipped), e)
        if atom.kind == "recip":
            return self._power(atom.arg, e)  # type: ignore[arg-type]
        return self._power(self._function("recip", self.of(a)), e)

    def _root(self, a: int, e: Fraction) -> Poly:
        atom = self.atoms[a]
        if atom.kind == "exp":
            return self.of(a, e / 2)
        if atom.kind == "recip" or (atom.kind == "size" and atom.sign < 0):
            inner = self.recip(self.of(a))
            root = None if inner is None else self.recip(self.sqrt(inner))
            return self._power(root or frozenset(), e)
        return self._power(self._function("sqrt", self.of(a)), e)

    def _power(self, p: Poly, e: Fraction) -> Poly:
        out = self.const(ONE)
        for _ in range(int(e)):
            out = self.mul(out, p)
        return out

    def _content(self, p: Poly) -> tuple[Mono, Fraction, Poly | None]:
        """p = content * scale * rest; rest is None for one monomial."""
        if len(p) == 1:
            ((mono, c),) = p
            return mono, c, None
        monos = sorted(p)
        powers = dict(monos[0][0][0])
        shared = Counter(monos[0][0][1])
        for (free, groups), _ in monos[1:]:
            here = dict(free)
            powers = {a: min(e, here[a]) for a, e in powers.items() if a in here}
            shared &= Counter(groups)
        # A sum like u + eps has no rational content: taking eps out would invent literals.
        sizes = {abs(c) for _, c in p}
        scale = sizes.pop() if len(sizes) == 1 else ONE
        scale = -scale if all(c < 0 for _, c in p) else scale
        rest = []
        for (free, groups), c in monos:
            left = {a: e - powers.get(a, 0) for a, e in free}
            kept = Counter(groups) - shared
            rest.append(
                (
                    (
                        tuple(sorted((a, e) for a, e in left.items() if e)),
                        tuple(sorted(kept.elements())),
                    ),
                    c / scale,
                )
            )
        content = (tuple(sorted(powers.items())), tuple(sorted(shared.elements())))
        return content, scale, frozenset(rest)


__all__ = ["ONE", "UNIT", "Algebra", "Atom", "Mono", "Part", "Poly", "TooLarge"]
