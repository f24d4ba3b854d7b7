"""The pruning rule: whether an abstract term can still be part of a target's derivation.

``is_part(E)`` holds if one polynomial of the sources (a source term, the argument of a function
inside one, or the combined argument of a product of exponentials), say T, has a *context* that
turns E into some of its monomials: factors R, axes B to sum over, and a rational k with every
monomial of ``k * sum_B(R * E)`` found in T with the same coefficient. A factor that carries an axis
which E has already bound cannot come from outside E, so it must lie inside E's own group: a partial
sum whose remaining cofactor still has the axis is dead. The search for the context backtracks over
all ways of placing the first monomial of E.

Completeness (sketch). Call a derivation *merge-free* if, whenever it adds or multiplies normal
forms, no two monomials cancel or merge. Let E occur in a merge-free derivation of a target's normal
form. Walk from E towards the target, up to the first function application or the target itself:
each step adds a term (E's monomials stay), multiplies by a term (pick one of its monomials:
distributivity keeps that multiple of every monomial of E, since none merges), or sums over an axis
(which binds the axis in E and in the chosen factors, and in nothing that E bound before). So at the
end of the walk a polynomial holds all monomials of E under one common context, which is what is
tested; that polynomial is the target, or a function's argument. By the axioms of ``abstract`` an
argument of a function in the derivation is an argument inside the target's normal form or, for an
exponential, a combination of such arguments, or a source term; content taken out of a reciprocal or
a root only removes common factors. A reciprocal or a root counts as merge-free if its argument has
no common factors and is no exponential, reciprocal or size, or if the source applies it: those laws
are used to take functions apart, and to join them only where the source does. Literals are consumed
like atoms: k, E's own coefficients and the powers of its exponentials must be products of literals
that the sources hold (or multiples of powers found there), and a sign is not introduced twice.
Hence the space of a region is finite. Nothing is claimed beyond merge-free derivations.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from superopt.search.abstract import ONE, UNIT, Algebra, Mono, Part, Poly

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
        self._polys: list[dict[Mono, Fraction]] = []
        seen: set[Poly] = set()
        for p in sources:
            self._close(p, seen)
        self._where: dict[int, list[tuple[int, Mono]]] = {}
        for t, poly in enumerate(self._polys):
            for mono in poly:
                for a in {x.atom for x in algebra.parts(mono, 0)}:
                    self._where.setdefault(a, []).append((t, mono))
        literals = [abs(c) for c in literals if c]
        self._ratios = _ratios(literals)
        self._negations = 0
        self._powers: dict[int, set[Fraction]] = {}
        for poly in self._polys:
            for mono in poly:
                for x in algebra.parts(mono, 0):
                    if algebra.atoms[x.atom].kind == "exp":
                        multiples = (x.exponent * n for n in range(1, MAX_MULTIPLE + 1))
                        self._powers.setdefault(x.atom, set()).update(multiples)

    def allow_negations(self, count: int) -> None:
        """How many times the sources change a sign; two or more allow the negation of a difference."""
        self._negations = count

    def _close(self, p: Poly, seen: set[Poly]) -> None:
        """Adds a polynomial and, recursively, the arguments inside it."""
        todo = [p]
        while todo:
            p = todo.pop()
            if p in seen or not p:
                continue
            seen.add(p)
            self._polys.append(dict(p))
            for mono, _ in sorted(p):
                exponents: dict[Mono, Fraction] = {}
                for x in self.algebra.parts(mono, 0):
                    atom = self.algebra.atoms[x.atom]
                    if atom.kind == "exp":
                        exponents[atom.arg] = (  # type: ignore[index]
                            exponents.get(atom.arg, Fraction(0))  # type: ignore[arg-type]
                            + atom.sign * x.exponent
                        )
                        todo.append(frozenset({(atom.arg, Fraction(atom.sign))}))  # type: ignore[arg-type]
                    elif isinstance(atom.arg, frozenset):
                        todo.append(self.algebra.as_met.get(x.atom, atom.arg))
                if exponents:
                    todo.append(frozenset((m, e) for m, e in exponents.items() if e))

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
        atoms = {x.atom for x in algebra.parts(first, 0)}
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
            k = poly[mono] / coefficient[first]
            if abs(k) not in self._ratios:
                continue
            if k < 0 and not all_positive and (not others or self._negations < 2):
                continue
            if coefficient[first] < 0 and poly[mono] > 0 and not others:
                continue
            for context in self._contexts(first, mono, algebra.axes(term)):
                if all(poly.get(self._placed(m, context)) == k * c for m, c in others):
                    return True
        return False

    def _plausible(self, mono: Mono) -> bool:
        """Whether the powers of exponentials in a monomial could come from the sources' literals."""
        return all(
            self.algebra.atoms[x.atom].kind != "exp"
            or x.exponent in self._ratios
            or x.exponent in self._powers.get(x.atom, ())
            for x in self.algebra.parts(mono, 0)
        )

    def _placed(self, mono: Mono, context: _Context) -> Mono:
        """``sum_B(R * mono)`` for the context (R, B)."""
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
        return algebra.assemble([*parts, *context.rest], bound)

    def _contexts(self, first: Mono, mono: Mono, axes: frozenset[int]) -> Iterator[_Context]:
        """All ways of placing ``first`` in ``mono``, and of binding E's axes that ``first`` lacks."""
        algebra = self.algebra
        want = sorted(algebra.parts(first, "e"), key=lambda x: not x.variables)
        have = algebra.parts(mono, "t")
        bound = algebra.variables(mono, "t")
        for places, captured, left in _embeddings(algebra, want, have):
            rest = tuple(Part(x.atom, e, x.variables) for x, e in zip(have, left, strict=True) if e)
            kept = {v: a for v, a in bound.items() if v not in captured}
            missing = sorted(axes - places.keys())
            options = [self._bindings(axis, rest, kept, places) for axis in missing]
            for choice in itertools.product(*options):
                more = dict(zip(missing, choice, strict=True))
                spent = tuple(("size", k) for k, v in more.items() if v == ("size", k))
                left_over = _without_sizes(algebra, rest, [k for _, k in spent])
                yield _Context({**places, **more}, left_over, {**kept, **{s: s[1] for s in spent}})

    def _bindings(
        self,
        axis: int,
        rest: tuple[Part, ...],
        kept: dict[Hashable, int],
        places: dict[int, Hashable],
    ) -> list[Hashable]:
        """What an axis of E that its first monomial lacks may be in the context."""
        out: list[Hashable] = [FREE]
        out += [v for v, a in kept.items() if a == axis and v not in places.values()]
        if any(
            self.algebra.atoms[x.atom].kind == "size"
            and self.algebra.atoms[x.atom].sign > 0
            and self.algebra.atoms[x.atom].name == axis
            for x in rest
        ):
            out.append(("size", axis))
        return out


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


def _without_sizes(algebra: Algebra, parts: tuple[Part, ...], axes: list[int]) -> tuple[Part, ...]:
    """The factors with one size of each of ``axes`` taken away."""
    out = list(parts)
    for axis in axes:
        for i, x in enumerate(out):
            atom = algebra.atoms[x.atom]
            if atom.kind == "size" and atom.sign > 0 and atom.name == axis:
                out[i] = Part(x.atom, x.exponent - ONE, x.variables)
                break
    return tuple(x for x in out if x.exponent)


def _degree(mono: Mono) -> Fraction:
    return sum((e for _, e in mono[0]), Fraction(0)) + sum(
        (e for g in mono[1] for _, _, e in g[1]), Fraction(0)
    )


def _ratios(literals: Iterable[Fraction]) -> frozenset[Fraction]:
    """All products of some of the literals, times a small number of copies."""
    out = {ONE}
    for c in literals:
        if len(out) < MAX_RATIOS:
            out |= {r * c for r in out}
    return frozenset(r * n for r in out for n in range(1, MAX_MULTIPLE + 1))


__all__ = ["MAX_MULTIPLE", "UNIT", "Targets", "is_part"]
