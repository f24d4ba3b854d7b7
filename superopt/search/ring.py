"""The ring of the abstract algebra: atoms, groups with bound axes, sums, products, reductions.

A polynomial is a frozen set of (monomial, coefficient). A monomial is a sorted tuple of free
factors (atom, exponent) and a sorted tuple of *groups*; a group is one connected sum: its bound
axes with their number, and factors (atom, binding, exponent), where the binding says which of the
atom's axes are bound, each as (axis, number). Atoms are interned, so that a factor holds an int.
The axioms are stated in ``abstract``.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

Free = tuple[tuple[int, Fraction], ...]
Binding = tuple[tuple[int, int], ...]
Group = tuple[tuple[tuple[int, int], ...], tuple[tuple[int, Binding, Fraction], ...]]
Mono = tuple[Free, tuple[Group, ...]]
Poly = frozenset[tuple[Mono, Fraction]]

ONE = Fraction(1)
UNIT: Mono = ((), ())
MAX_MONOMIALS = 512
"""No polynomial has more: a larger sum or product is not formed, and so no source term is larger."""


@dataclass(frozen=True, slots=True)
class Atom:
    """What a factor is made of.

    kind: "leaf", "size", "exp", "recip", "sqrt" or "fn"; sign is -1 for the reciprocal of a size
    or of an exponential; name identifies a leaf, a size (its axis) or a function; arg is a
    monomial for "exp" and a polynomial for the other functions; axes are those it depends on.
    """

    kind: str
    axes: frozenset[int] = frozenset()
    sign: int = 1
    name: Hashable = None
    arg: Mono | Poly | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A factor during assembly: its variables are (axis -> any hashable), axes not in it are free."""

    atom: int
    exponent: Fraction
    variables: Mapping[int, Hashable]


class TooLarge(Exception):
    """A normal form outgrew ``MAX_MONOMIALS``; the term is left out of the search."""


class Ring:
    """Makes normal forms. Axes are small integers; one instance interns the atoms of one search."""

    def __init__(self) -> None:
        self.atoms: list[Atom] = []
        self._ids: dict[Atom, int] = {}

    # -- atoms -----------------------------------------------------------------------------------

    def intern(self, atom: Atom) -> int:
        """The number of an atom."""
        if atom not in self._ids:
            self._ids[atom] = len(self.atoms)
            self.atoms.append(atom)
        return self._ids[atom]

    def leaf(self, name: Hashable, axes: Iterable[int]) -> Poly:
        """An unknown value on these axes."""
        return self.of(self.intern(Atom("leaf", frozenset(axes), name=name)))

    def size(self, axis: int, sign: int = 1) -> Poly:
        """The number of elements along an axis, or (sign -1) its reciprocal."""
        return self.of(self.intern(Atom("size", name=axis, sign=sign)))

    def const(self, value: Fraction) -> Poly:
        """A literal."""
        return frozenset({(UNIT, value)}) if value else frozenset()

    def of(self, atom: int, exponent: Fraction = ONE) -> Poly:
        return frozenset({((((atom, exponent),), ()), ONE)})

    # -- axes ------------------------------------------------------------------------------------

    def group_axes(self, group: Group) -> frozenset[int]:
        """The free axes of a group."""
        return frozenset(
            x for a, binding, _ in group[1] for x in self.atoms[a].axes - {k for k, _ in binding}
        )

    def mono_axes(self, mono: Mono) -> frozenset[int]:
        """The free axes of a monomial."""
        out: set[int] = set()
        for a, _ in mono[0]:
            out |= self.atoms[a].axes
        for g in mono[1]:
            out |= self.group_axes(g)
        return frozenset(out)

    def axes(self, poly: Poly) -> frozenset[int]:
        """The free axes of a polynomial."""
        return frozenset().union(*(self.mono_axes(m) for m, _ in poly))

    # -- ring ------------------------------------------------------------------------------------

    def add(self, a: Poly, b: Poly) -> Poly:
        """a + b; raises TooLarge."""
        out = _collect(itertools.chain(a, b))
        if len(out) > MAX_MONOMIALS:
            raise TooLarge
        return out

    def mul(self, a: Poly, b: Poly) -> Poly:
        """a * b, expanded; raises TooLarge."""
        if len(a) * len(b) > MAX_MONOMIALS:
            raise TooLarge
        return _collect((self.mono_mul(m, n), x * y) for m, x in a for n, y in b)

    def mono_mul(self, m: Mono, n: Mono) -> Mono:
        """The product of two monomials."""
        if not n[0] and not n[1]:
            return m
        if not m[0] and not m[1]:
            return n
        powers: dict[int, Fraction] = dict(m[0])
        for a, e in n[0]:
            powers[a] = powers.get(a, Fraction(0)) + e
        return self._cancel(powers), tuple(sorted(m[1] + n[1]))

    def _cancel(self, powers: dict[int, Fraction]) -> Free:
        """Sorted factors; a size cancels against its reciprocal."""
        for a in [a for a in powers if self.atoms[a].kind == "size" and self.atoms[a].sign > 0]:
            back = self._ids.get(Atom("size", name=self.atoms[a].name, sign=-1))
            if back is not None and back in powers:
                least = min(powers[a], powers[back])
                powers[a] -= least
                powers[back] -= least
        return tuple(sorted((a, e) for a, e in powers.items() if e))

    def reduce(self, p: Poly, axis: int) -> Poly:
        """The sum over ``axis``: it binds the factors that carry the axis, and no others."""
        out = []
        for mono, c in p:
            tag = ("sum", axis)
            parts = [
                Part(
                    x.atom,
                    x.exponent,
                    {
                        **x.variables,
                        **(
                            {axis: tag}
                            if axis in self.atoms[x.atom].axes and axis not in x.variables
                            else {}
                        ),
                    },
                )
                for x in self.parts(mono, 0)
            ]
            bound = self.variables(mono, 0)
            out.append((self.assemble(parts, {**bound, tag: axis}), c))
        return _collect(out)

    # -- taking apart and putting together ---------------------------------------------------------

    def parts(self, mono: Mono, tag: Hashable) -> list[Part]:
        """The factors of a monomial; the bound variable (tag, group, axis, number) is unique."""
        out = [Part(a, e, {}) for a, e in mono[0]]
        for i, (_, factors) in enumerate(mono[1]):
            out += [
                Part(a, e, {k: (tag, i, k, n) for k, n in binding}) for a, binding, e in factors
            ]
        return out

    def variables(self, mono: Mono, tag: Hashable) -> dict[Hashable, int]:
        """The bound variables of ``parts``, each with its axis."""
        return {
            (tag, i, k, n): k
            for i, (bound, _) in enumerate(mono[1])
            for k, count in bound
            for n in range(count)
        }

    def assemble(self, parts: list[Part], bound: Mapping[Hashable, int]) -> Mono:
        """The monomial of these factors, summed over the variables ``bound`` (variable -> axis).

        Factors that share a variable form one group; a variable that no factor carries gives the
        size of its axis.
        """
        powers: dict[int, Fraction] = {}
        groups: list[tuple[set[Hashable], list[Part]]] = []
        for x in parts:
            mine = set(x.variables.values())
            if not mine:
                powers[x.atom] = powers.get(x.atom, Fraction(0)) + x.exponent
                continue
            joined, members, apart = mine, [x], []
            for variables, others in groups:
                if variables & mine:
                    joined, members = joined | variables, others + members
                else:
                    apart.append((variables, others))
            groups = [*apart, (joined, members)]
        carried: set[Hashable] = set().union(*(v for v, _ in groups))
        for v, axis in bound.items():
            if v not in carried:
                a = self.intern(Atom("size", name=axis))
                powers[a] = powers.get(a, Fraction(0)) + 1
        return self._cancel(powers), tuple(sorted(self._group(m, bound) for _, m in groups))

    def _group(self, members: list[Part], bound: Mapping[Hashable, int]) -> Group:
        """The canonical form of one connected sum: the least over all numberings of its variables."""
        by_axis: dict[int, list[Hashable]] = {}
        for x in members:
            for v in x.variables.values():
                known = by_axis.setdefault(bound[v], [])
                if v not in known:
                    known.append(v)
        axes = sorted(by_axis)
        counts = tuple((k, len(by_axis[k])) for k in axes)
        best: tuple[tuple[int, Binding, Fraction], ...] | None = None
        orders = [itertools.permutations(range(len(by_axis[k]))) for k in axes]
        if math.prod(math.factorial(n) for _, n in counts) > 5040:
            raise TooLarge
        for choice in itertools.product(*orders):
            number = {
                v: n
                for k, order in zip(axes, choice, strict=True)
                for v, n in zip(by_axis[k], order, strict=True)
            }
            factors: Counter[tuple[int, Binding]] = Counter()
            for x in members:
                binding = tuple(sorted((k, number[v]) for k, v in x.variables.items()))
                factors[x.atom, binding] += x.exponent  # type: ignore[assignment]
            here = tuple(sorted((a, b, Fraction(e)) for (a, b), e in factors.items()))
            if best is None or here < best:
                best = here
        return counts, best or ()


def _collect(terms: Iterable[tuple[Mono, Fraction]]) -> Poly:
    out: dict[Mono, Fraction] = {}
    for m, c in terms:
        out[m] = out.get(m, Fraction(0)) + c
    return frozenset((m, c) for m, c in out.items() if c)
