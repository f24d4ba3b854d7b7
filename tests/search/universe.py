"""Small universes of terms, with every merge-free step between them, for the tests of the pruning rule.

A universe holds all terms up to a weight that merge-free steps make from a few leaves, literals and
functions. A step never lowers the weight (sizes that cancel aside), so the universe holds *every*
merge-free walk between two of its terms: E is on a merge-free derivation of T exactly if a chain of
steps leads from E to T. Nothing here asks, or knows, the rule that it is there to test.
"""

import math
import random
from dataclasses import dataclass
from fractions import Fraction

from superopt.mugraph.axes import Axis
from superopt.search.abstract import ONE, Algebra, TooLarge
from superopt.search.problem import Problem, Step

AXES = (0, 1)
SHAPES = ((0, 1), (0, 1), (0,), (1,), ())
CHAINS = {
    "exp": (("exp", 0),),
    "recip": (("recip", 0),),
    "sqrt": (("sqrt", 0),),
    "fn": (("fn", 77),),
}


@dataclass(frozen=True)
class Setting:
    """What the terms of a universe are made of; ``back``: axes whose size has a reciprocal."""

    leaves: tuple[tuple[int, ...], ...]
    functions: tuple[str, ...] = ()
    literals: tuple[Fraction, ...] = ()
    sums: bool = True
    reducible: tuple[int, ...] = AXES
    back: tuple[int, ...] = ()


def setting(seed):
    """A random setting."""
    rng = random.Random(seed)
    literals = []
    if rng.random() < 0.35:
        literals.append(rng.choice((Fraction(3), Fraction(1, 2))))
    if rng.random() < 0.35:
        literals.append(Fraction(-1))
    return Setting(
        tuple(rng.choice(SHAPES) for _ in range(rng.choice((1, 2, 2, 3)))),
        tuple(rng.sample(sorted(CHAINS), rng.choice((0, 0, 1, 1, 2)))),
        tuple(literals),
        rng.random() < 0.75,
        rng.choice(((0, 1), (0, 1), (0,), (1,), ())),
        (rng.choice(AXES),) if rng.random() < 0.25 else (),
    )


def universe(made_of, most):
    """The heaviest universe of a setting that has at most ``most`` terms."""
    found = None
    for heaviest in range(2, 12):
        here = Universe(made_of, heaviest, most)
        if not here.whole or (found is not None and len(here.forms) == len(found.forms)):
            break
        found = here
    found.close()
    return found


class Universe:
    """The terms of a setting, lightest first: ``forms``, ``steps`` (for the engine) and ``parts``.

    parts[t] is the set of terms with a chain of merge-free steps to t, as a bit mask. ``whole`` is
    False if the universe was cut off at ``most`` terms; walks may be missing then.
    """

    def __init__(self, made_of, heaviest, most):
        self.setting, self.heaviest, self.most = made_of, heaviest, most
        self.algebra = Algebra()
        self.steps = []
        self.forms = []
        self.number = {}
        self.edges = set()
        self.loose = set()
        self.whole = True
        self._seed()
        self._grow()

    def problem(self):
        """The terms as the steps of a problem (only what the pruning rule reads is filled in)."""
        names = self.setting.functions
        return Problem(
            tuple(Axis(f"a{k}", 2) for k in AXES),
            tuple(frozenset(a) for a in self.setting.leaves),
            (*(CHAINS[n] for n in names), CHAINS["recip"]),
            (*names, "of a size"),
            tuple(self.steps),
            {},
            frozenset(self.setting.reducible),
            self.setting.sums,
            (),
            len(AXES),
        )

    def _seed(self):
        for n, axes in enumerate(self.setting.leaves):
            self._meet(self.algebra.leaf(n, axes), Step("leaf", index=n))
        for c in self.setting.literals:
            self._meet(self.algebra.const(c), Step("const", value=c))
        for k in self.setting.back:
            n = self._meet(self.algebra.size(k), Step("size", index=k))
            back = Step("fn", (n,), len(self.setting.functions))
            self._meet(self.algebra.size(k, -1), back)

    def _grow(self):
        n = 0
        while self.whole and n < len(self.forms):
            p = self.forms[n]
            for f, name in enumerate(self.setting.functions):
                self._attempt("fn", f, (n,), self._function(name, p))
            for k in self.setting.reducible:
                if k in self.algebra.axes(p):
                    self._attempt("reduce", k, (n,), *self._reduced(p, k))
            for m in range(n + 1):
                q = self.forms[m]
                if weight(self.algebra, p) + weight(self.algebra, q) > self.heaviest:
                    continue
                self._attempt("mul", 0, (m, n), *self._product(q, p))
                if self.setting.sums:
                    self._attempt("add", 0, (m, n), self._sum(p, q))
            n += 1

    def _attempt(self, kind, index, args, form, through=None):
        """Notes a step; ``through``: the arguments that a size cancels in, but not everywhere."""
        if form is None or weight(self.algebra, form) > self.heaviest:
            return
        made = self._meet(form, Step(kind, args, index))
        if made is not None and through is None:
            self.edges |= {(a, made) for a in args}
        elif made is not None:
            self.loose |= {(args[i], made) for i in through}

    def _meet(self, form, step):
        if form not in self.number:
            if len(self.forms) >= self.most:
                self.whole = False
                return None
            self.number[form] = len(self.forms)
            self.forms.append(form)
            self.steps.append(step)
        return self.number[form]

    # -- merge-free steps: the form, or None ------------------------------------------------------

    def _product(self, p, q):
        try:
            form = self.algebra.mul(p, q)
        except TooLarge:
            return (None,)
        if len(form) != len(p) * len(q) or not (signs_stay(p, q) and signs_stay(q, p)):
            return (None,)
        if degree(form) == len(q) * degree(p) + len(p) * degree(q):
            return (form,)
        return form, [i for i, (x, y) in enumerate(((p, q), (q, p))) if self._some_stay(x, y)]

    def _some_stay(self, p, q):
        """Whether a monomial of q, of a sign that fits, cancels no size in some monomial of p."""
        return any(
            degree(self.algebra.mul(frozenset({m}), frozenset({n})))
            == degree(frozenset({m})) + degree(frozenset({n}))
            for n in q
            if n[1] > 0 or all(c > 0 for _, c in p)
            for m in p
        )

    def _sum(self, p, q):
        form = self.algebra.add(p, q)
        return form if len(form) == len(p) + len(q) else None

    def _reduced(self, p, axis):
        try:
            form = self.algebra.reduce(p, axis)
        except TooLarge:
            return (None,)
        lacking = sum(axis not in self.algebra.mono_axes(m) for m, _ in p)
        if len(form) != len(p):
            return (None,)
        if degree(form) == degree(p) + lacking:
            return (form,)
        # A size appears in the monomials that lack the axis, and cancels at once in some of them.
        return form, [0]

    def _function(self, name, p):
        ((law, key),) = CHAINS[name]
        form = self.algebra.apply(law, key, p)
        if form is None or law not in ("recip", "sqrt"):
            return form
        # One new atom of that law: nothing was taken apart.
        ((free, groups), c), *rest = form
        simple = not rest and not groups and c == 1 and [e for _, e in free] == [1]
        return form if simple and self.algebra.atoms[free[0][0]].kind == law else None

    # -- chains of steps --------------------------------------------------------------------------

    def close(self):
        """Finds ``parts``."""
        parts = [1 << t for t in range(len(self.forms))]
        moved = True
        while moved:
            moved = False
            for a, t in self.edges:
                more = parts[t] | parts[a]
                if more != parts[t]:
                    parts[t], moved = more, True
        through = {}
        for a, made in self.loose:
            through[made] = through.get(made, 0) | 1 << a
        self.parts = [
            p | sum_bits(mask for made, mask in through.items() if p >> made & 1) for p in parts
        ]


def sum_bits(masks):
    """The union of bit masks."""
    out = 0
    for mask in masks:
        out |= mask
    return out


def signs_stay(p, q):
    """Whether p can be multiplied by a monomial of q with no sign meeting another one."""
    return all(c > 0 for _, c in p) or any(c > 0 for _, c in q)


def degree(form):
    """Factors over all monomials, each with its exponent; a literal counts as a factor."""
    return sum(
        sum(e for _, e in m[0]) + sum(e for g in m[1] for *_, e in g[1]) + literals(c)
        for m, c in form
    )


def literals(c):
    """How many of the literals 3 and 1/2 a coefficient is made of, its sign aside."""
    n = 0
    while c.numerator % 3 == 0:
        c, n = c / 3, n + 1
    while c.denominator % 2 == 0:
        c, n = c * 2, n + 1
    return n


def weight(algebra, form):
    """Leaves, functions, sums, bound axes and literals, each as often as it occurs."""
    return len(form) - 1 + sum(_weight(algebra, m) + literals(c) + (c < 0) for m, c in form)


def _weight(algebra, mono):
    factors = [*mono[0], *((a, e) for g in mono[1] for a, _, e in g[1])]
    bound = sum(n for g in mono[1] for _, n in g[0])
    return bound + sum(_atom(algebra, algebra.atoms[a]) * math.ceil(e) for a, e in factors)


def _atom(algebra, atom):
    if atom.arg is None:
        return 1
    return 1 + (_weight(algebra, atom.arg) if atom.kind == "exp" else weight(algebra, atom.arg))


__all__ = ["AXES", "CHAINS", "ONE", "Setting", "Universe", "setting", "universe", "weight"]
