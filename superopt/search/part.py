"""The pruning rule: whether an abstract term can still be part of a target's derivation.

``is_part(E)`` holds if one polynomial of the sources (a source term, the argument of a function
inside one, or the arguments of exponentials that were multiplied), say T, has a *context* that
turns E into some of its monomials: factors R, axes B to sum over, and a rational k with every
monomial of ``k * sum_B(R * E)`` found in T with the same coefficient, each another one. A factor
that carries an axis which E has already bound cannot come from outside E, so it must lie inside E's
own group: a partial sum whose remaining cofactor still has the axis is dead. The search for the
context backtracks over all ways of placing the first monomial of E; which one is first is of no
consequence.

*Merge-free.* A derivation is merge-free if no step lets monomials or factors vanish:

* no two monomials cancel or merge where normal forms are added, multiplied or summed over an axis,
  and no literal meets its inverse (so literals are consumed like atoms);
* of two factors p and q, p has no negative monomial or q has a positive one, and the other way
  round: no sign meets another on every way from p into the product;
* a size meets its reciprocal at most in some monomials of a term: for each axis, in one monomial of
  each term on its way to the target none does (the mean of ``x + b``, where b lacks the axis);
* the argument of a reciprocal or a root has no common factors and is no reciprocal, exponential or
  size, unless the source applies the function to this very term: those laws take functions apart,
  and join them only where the source does;
* a monomial is a product of literals and of what literals are not, or else, as a power of an
  exponential may be in any case, at most ``MAX_MULTIPLE`` copies of one such product; at most
  ``MAX_RATIOS`` products of literals are looked at.

*Completeness (sketch).* Let E occur in a merge-free derivation of a target's normal form. Walk from
E towards the target, up to the first function application or the target itself. Each step adds a
term (E's monomials stay), multiplies by a term (pick one of its monomials, a positive one unless E
has no negative ones: distributivity keeps that multiple of every monomial of E, since none merges),
or sums over an axis (which binds the axis in E and in the chosen factors, and in nothing that E
bound before). So at the end of the walk a polynomial holds all monomials of E under one common
context: the product of what was picked, R, with the literals taken out as k, and the axes summed
over, B. Powers of sizes in R may be negative, or come from an axis that nothing carries; as long as
one monomial of E cancels none, they are bounded by those in T. That polynomial is the target, or a
function's argument. An argument of a keyed function, a reciprocal or a root stays whole in its
atom, and the atom in the target (or in an argument inside it, or a source term). The argument q of
an exponential is taken apart: exp(q) leaves one power of an exponential for each monomial of q, and
other exponentials may raise these powers. So what the target's monomial holds is q's coefficients
or more, and ``_shares`` allows for each monomial of q the whole power, or a product of literals with
a rest that others can supply; a positive and a negative power of one exponential are kept apart.
The context is therefore among those tested. Its k, E's coefficients and its powers of exponentials
are products of the literals that the sources hold, or of powers found there, and a single negative
monomial is never turned into a positive one. Hence the space of a region is finite.

Nothing is claimed beyond merge-free derivations. The converse does not hold either: the rule does
not ask whether the sources have literals, signs and sizes enough for E *and* its context, nor
whether exponentials under different sums could have had one argument, so it keeps some terms for
nothing. ``tests/search/test_part_brute.py`` counts them; ``test_part_z3.py`` has Z3 look for the
context.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from superopt.search.abstract import ONE, UNIT, Algebra, Atom, Mono, Part, Poly

MAX_MULTIPLE = 8
"""A monomial of a target may be this many copies of a part (x + x holds x)."""
MAX_RATIOS = 2048
"""At most this many products of literals are formed as allowed ratios."""

FREE = None


@dataclass(frozen=True)
class _Context:
    """A way of placing E's first monomial in a monomial of T, and what is left around it."""

    places: dict[int, Hashable]  # free axis of E -> variable of T, or FREE
    rest: tuple[Part, ...]
    sizes: dict[int, Fraction]  # axis -> power of its size among the factors that are left
    bound: dict[Hashable, int]  # T's variables that are still to be summed


def is_part(
    algebra: Algebra, term: Poly, sources: Sequence[Poly], literals: Iterable[Fraction] = ()
) -> bool:
    """Whether ``term`` can be part of a derivation of the sources; ``literals`` may be consumed."""
    return Targets(algebra, sources, literals).is_part(term)


class Targets:
    """The polynomials of all source terms, indexed for repeated questions."""

    def __init__(
        self, algebra: Algebra, sources: Iterable[Poly], literals: Iterable[Fraction] = ()
    ) -> None:
        self.algebra = algebra
        self.queries = 0
        self.distinct = 0
        self._memo: dict[Poly, bool] = {}
        self._polys: list[dict[Mono, tuple[Fraction, ...]]] = []  # allowed coefficients
        seen: set[Poly] = set()
        combined: dict[Poly, None] = {}
        for p in sources:
            self._close(p, seen, combined)
        self._where: dict[int, list[tuple[int, Mono]]] = {}
        self._powers: dict[int, set[Fraction]] = {}
        self._divided: set[int] = set()  # axes whose size the sources divide by
        for poly in self._polys:
            for x in (x for mono in poly for x in algebra.parts(mono, 0)):
                atom = algebra.atoms[x.atom]
                if atom.kind == "exp":
                    multiples = (x.exponent * n for n in range(1, MAX_MULTIPLE + 1))
                    self._powers.setdefault(x.atom, set()).update(multiples)
                elif atom.kind == "size" and atom.sign < 0:
                    self._divided.add(atom.name)  # type: ignore[arg-type]
        products = self._products = _products([abs(c) for c in literals if c])
        self._ratios = frozenset(r * n for r in products for n in range(1, MAX_MULTIPLE + 1))
        for q in combined:
            allowed: dict[Mono, tuple[Fraction, ...]] = {}
            for m, e in sorted(q):
                allowed[m] = (*allowed.get(m, ()), *self._shares(m, e, products))
            self._polys.append(allowed)
        for t, poly in enumerate(self._polys):
            for mono in poly:
                for a in {x.atom for x in algebra.parts(mono, 0)}:
                    self._where.setdefault(a, []).append((t, mono))
        self._negations = 0

    def allow_negations(self, count: int) -> None:
        """How many times the sources change a sign; two or more allow the negation of a difference."""
        self._negations = count

    def _close(self, p: Poly, seen: set[Poly], combined: dict[Poly, None]) -> None:
        """Adds a polynomial and, recursively, the arguments inside it.

        ``combined``: for each product of exponentials, their arguments with the exponents.
        """
        todo = [p]
        while todo:
            p = todo.pop()
            if p in seen or not p:
                continue
            seen.add(p)
            self._polys.append({m: (c,) for m, c in p})
            for mono, _ in sorted(p):
                exponents: dict[tuple[Mono, int], Fraction] = {}
                for x in self.algebra.parts(mono, 0):
                    atom = self.algebra.atoms[x.atom]
                    if atom.kind == "exp":
                        key: tuple[Mono, int] = (atom.arg, atom.sign)  # type: ignore[assignment]
                        exponents[key] = exponents.get(key, Fraction(0)) + x.exponent
                        todo.append(frozenset({(key[0], Fraction(atom.sign))}))
                    elif isinstance(atom.arg, frozenset):
                        todo.append(self.algebra.as_met.get(x.atom, atom.arg))
                if exponents:
                    combined[frozenset((m, sign * e) for (m, sign), e in exponents.items())] = None

    def _shares(self, arg: Mono, power: Fraction, products: Iterable[Fraction]) -> list[Fraction]:
        """What one of several exponentials may contribute to ``power``: all of it, or a literal."""
        sign = 1 if power > 0 else -1
        atom = Atom("exp", self.algebra.mono_axes(arg), sign, arg=arg)
        rest = self._ratios | self._powers.get(self.algebra.intern(atom), set())
        shares = [sign * v for v in sorted(products) if abs(power) - v in rest]
        return [power, *(v for v in shares if v != power)]

    def is_part(self, term: Poly) -> bool:
        """Whether ``term`` can be part of a derivation of a source term."""
        self.queries += 1
        known = self._memo.get(term)
        if known is None:
            self.distinct += 1
            known = self._memo[term] = bool(term) and self._search(term)
        return known

    def _search(self, term: Poly) -> bool:
        algebra = self.algebra
        coefficient = dict(term)
        first = max(coefficient, key=lambda m: (len(algebra.mono_axes(m)), _degree(m), m))
        others = [(m, c) for m, c in term if m != first]
        atoms = {x.atom for x in _without_sizes(algebra, algebra.parts(first, 0))}
        if atoms:
            places = min((self._where.get(a, []) for a in atoms), key=len)
        else:
            places = [(t, mono) for t, poly in enumerate(self._polys) for mono in poly]
        if any(abs(c) not in self._ratios or not self._plausible(m) for m, c in term):
            return False
        all_positive = all(c > 0 for _, c in term)
        for t, mono in places:
            poly = self._polys[t]
            if len(poly) < len(term):
                continue
            for there in poly[mono]:
                k = there / coefficient[first]
                if not self._made(there, coefficient[first], k):
                    continue
                if k < 0 and not all_positive and (not others or self._negations < 2):
                    continue
                for context in self._contexts(first, mono, algebra.axes(term)):
                    if self._holds(poly, k, context, first, others):
                        return True
        return False

    def _holds(
        self,
        poly: dict[Mono, tuple[Fraction, ...]],
        k: Fraction,
        context: _Context,
        first: Mono,
        others: list[tuple[Mono, Fraction]],
    ) -> bool:
        """Whether the context turns all of E into monomials of T, and no size cancels in all."""
        there, cancelled = self._placed(first, context)
        met = {there}
        for m, c in others:
            there, gone = self._placed(m, context)
            if there in met or k * c not in poly.get(there, ()) or not self._made(k * c, c, k):
                return False
            met.add(there)
            cancelled &= gone
        return not cancelled

    def _made(self, there: Fraction, own: Fraction, k: Fraction) -> bool:
        """Whether a coefficient of a target can be ``k`` times a term's own, of the literals there are.

        What is a product of literals is not also made of copies: eight times 1/8 would be one.
        """
        allowed = self._products if abs(there) in self._products else self._ratios
        return abs(k) in allowed and abs(own) in allowed

    def _plausible(self, mono: Mono) -> bool:
        """Whether the powers of exponentials in a monomial could come from the sources' literals."""
        return all(
            self.algebra.atoms[x.atom].kind != "exp"
            or x.exponent in self._ratios
            or x.exponent in self._powers.get(x.atom, ())
            for x in self.algebra.parts(mono, 0)
        )

    def _placed(self, mono: Mono, context: _Context) -> tuple[Mono, set[int]]:
        """``sum_B(R * mono)`` for the context (R, B), and the axes whose size cancels in it."""
        algebra = self.algebra
        parts = [
            Part(
                x.atom,
                x.exponent,
                {
                    **x.variables,
                    **{
                        k: context.places[k]
                        for k in algebra.atoms[x.atom].axes
                        if k not in x.variables and context.places.get(k) is not FREE
                    },
                },
            )
            for x in algebra.parts(mono, "e")
        ]
        bound = {**context.bound, **algebra.variables(mono, "e")}
        sizes = [
            Part(algebra.intern(Atom("size", name=k, sign=1 if e > 0 else -1)), abs(e), {})
            for k, e in context.sizes.items()
            if e
        ]
        carried = {v for x in (*parts, *context.rest) for v in x.variables.values()}
        more: set[int] = {axis for v, axis in bound.items() if v not in carried}
        less: set[int] = set()
        for x in (*parts, *sizes):
            atom = algebra.atoms[x.atom]
            if atom.kind == "size":
                (more if atom.sign > 0 else less).add(atom.name)  # type: ignore[arg-type]
        return algebra.assemble([*parts, *context.rest, *sizes], bound), more & less

    def _contexts(self, first: Mono, mono: Mono, axes: frozenset[int]) -> Iterator[_Context]:
        """All ways of placing ``first`` in ``mono``, and of binding E's axes that ``first`` lacks."""
        algebra = self.algebra
        want = _without_sizes(algebra, algebra.parts(first, "e"))
        want.sort(key=lambda x: not x.variables)
        have = _without_sizes(algebra, algebra.parts(mono, "t"))
        sizes = _sizes(algebra, mono)
        for k, e in _sizes(algebra, first).items():
            sizes[k] = sizes.get(k, Fraction(0)) - e
        bound = algebra.variables(mono, "t")
        for places, captured, left in _embeddings(algebra, want, have):
            rest = tuple(Part(x.atom, e, x.variables) for x, e in zip(have, left, strict=True) if e)
            kept = {v: a for v, a in bound.items() if v not in captured}
            missing = sorted(axes - places.keys())
            # An axis may be free, summed with a factor that is left, or summed with none.
            options = [
                [FREE, *(v for v, a in kept.items() if a == k), ("size", k)] for k in missing
            ]
            for choice in itertools.product(*options):
                more = dict(zip(missing, choice, strict=True))
                alone = [k for k, v in more.items() if v == ("size", k)]
                powers = {k: sizes.get(k, Fraction(0)) - (k in alone) for k in {*sizes, *alone}}
                if all(e >= 0 or k in self._divided for k, e in powers.items()):
                    summed: dict[Hashable, int] = {("size", k): k for k in alone}
                    yield _Context({**places, **more}, rest, powers, {**kept, **summed})


def _embeddings(
    algebra: Algebra,
    want: list[Part],
    have: list[Part],
) -> Iterator[tuple[dict[int, Hashable], set[Hashable], list[Fraction]]]:
    """Ways of finding the factors ``want`` among ``have``: places of free axes, captured, left."""
    left = [x.exponent for x in have]
    places: dict[int, Hashable] = {}
    images: dict[Hashable, Hashable] = {}  # bound variable of E -> variable of T

    def fits(e: Part, t: Part) -> tuple[dict[int, Hashable], dict[Hashable, Hashable]] | None:
        new_places: dict[int, Hashable] = {}
        new_images: dict[Hashable, Hashable] = {}
        for k in algebra.atoms[e.atom].axes:
            mine, theirs = e.variables.get(k), t.variables.get(k)
            if mine is None:
                if k in places:
                    if places[k] != theirs:
                        return None
                elif theirs is not None and theirs in images.values():
                    return None
                else:
                    new_places[k] = theirs
            elif theirs is None:
                return None
            elif mine in images:
                if images[mine] != theirs:
                    return None
            elif theirs in images.values() or theirs in places.values():
                return None
            else:
                new_images[mine] = theirs
        return new_places, new_images

    def place(i: int) -> Iterator[tuple[dict[int, Hashable], set[Hashable], list[Fraction]]]:
        if i == len(want):
            captured = set(images.values())
            if not any(
                e and captured & set(x.variables.values()) for x, e in zip(have, left, strict=True)
            ):
                yield dict(places), captured, list(left)
            return
        for j, t in enumerate(have):
            if t.atom != want[i].atom or left[j] < want[i].exponent:
                continue
            new = fits(want[i], t)
            if new is None:
                continue
            places.update(new[0])
            images.update(new[1])
            left[j] -= want[i].exponent
            yield from place(i + 1)
            left[j] += want[i].exponent
            for k in new[0]:
                del places[k]
            for v in new[1]:
                del images[v]

    return place(0)


def _without_sizes(algebra: Algebra, parts: list[Part]) -> list[Part]:
    return [x for x in parts if algebra.atoms[x.atom].kind != "size"]


def _sizes(algebra: Algebra, mono: Mono) -> dict[int, Fraction]:
    """The power of each axis's size in a monomial; the size in a denominator counts down."""
    out: dict[int, Fraction] = {}
    for a, e in mono[0]:
        atom = algebra.atoms[a]
        if atom.kind == "size":
            out[atom.name] = atom.sign * e  # type: ignore[index]
    return out


def _degree(mono: Mono) -> Fraction:
    return sum((e for _, e in mono[0]), Fraction(0)) + sum(
        (e for g in mono[1] for _, _, e in g[1]), Fraction(0)
    )


def _products(literals: Iterable[Fraction]) -> frozenset[Fraction]:
    """All products of some of the literals."""
    out = {ONE}
    for c in literals:
        if len(out) < MAX_RATIOS:
            out |= {r * c for r in out}
    return frozenset(out)


__all__ = ["MAX_MULTIPLE", "UNIT", "Targets", "is_part"]
