"""The pruning rule against Z3: Z3 looks for the context, given only what a context is.

E is part of a polynomial T if there are factors R, axes B and a rational k such that each monomial
of k * sum_B(R * E) is a monomial of T. Per T this is decidable: which monomial of T each one of E
becomes (an injective map), which factor of it each factor of E is, what each bound variable of T
is (a bound variable of E, or one of the context), what becomes of E's free axes, and the integer
powers of sizes in R. The encoding is quantifier-free over small integers. It asks for all monomials
at once, has no order of search, and shares no code with the rule.
"""

import itertools
import random
from collections import Counter
from fractions import Fraction

import pytest
import z3

from superopt.search.part import Targets
from tests.search.universe import AXES, Setting, setting, universe

native = pytest.importorskip("superopt.search.native", exc_type=ImportError)

FREE, CONTEXT = -1, 100
MINUS = Fraction(-1)
CHOSEN = (
    Setting(((), ()), ("exp",), reducible=()),
    Setting(((0, 1), (0,)), reducible=(1,), back=(1,)),
    Setting(((1,), (0,)), back=(0, 1)),
    Setting(((0, 1),), reducible=(0, 1)),
    Setting(((1,), (1,)), ("exp",), reducible=(1,)),
    Setting(((0,),), ("sqrt", "recip"), (MINUS,), reducible=(0,)),
)


class Flat:
    """A monomial as a list of factors (atom, exponent, {axis: variable}), its variables, its sizes."""

    def __init__(self, algebra, mono):
        self.factors, self.variables = [], []
        self.sizes = dict.fromkeys(AXES, 0)
        for a, e in mono[0]:
            if algebra.atoms[a].kind == "size":
                self.sizes[algebra.atoms[a].name] += algebra.atoms[a].sign * int(e)
            else:
                self.factors.append((a, e, {}))
        for bound, factors in mono[1]:
            first = {}
            for axis, count in bound:
                first[axis] = len(self.variables)
                self.variables += [axis] * count
            for a, binding, e in factors:
                self.factors.append((a, e, {axis: first[axis] + n for axis, n in binding}))


def polynomials(algebra, target, literals):
    """The target and all arguments inside it, each as {monomial: coefficients it may have}."""
    found, todo, seen, products = [], [target], set(), []
    while todo:
        p = todo.pop()
        if p in seen:
            continue
        seen.add(p)
        found.append({m: [c] for m, c in p})
        for mono, _ in p:
            powers = Counter()
            for a, e in (*mono[0], *((a, e) for g in mono[1] for a, _, e in g[1])):
                atom = algebra.atoms[a]
                if atom.kind == "exp":
                    powers[a] += e
                    todo.append(frozenset({(atom.arg, Fraction(atom.sign))}))
                elif atom.arg is not None:
                    todo.append(algebra.as_met.get(a, atom.arg))
            products.append(powers)
    known = powers_of(algebra, found)
    for powers in filter(None, products):
        shared = {}
        for a, e in powers.items():
            atom = algebra.atoms[a]
            fits = [v for v in products_of(literals) if v < e and copies(e - v, literals, known[a])]
            shared.setdefault(atom.arg, []).extend(atom.sign * v for v in {e, *fits})
        found.append(shared)
    return found


def products_of(literals):
    """All products of some of the literals' magnitudes."""
    out = {Fraction(1)}
    for c in literals:
        out |= {abs(c) * x for x in out}
    return out


def copies(value, literals, powers=()):
    """Whether a magnitude is at most eight copies of a product of literals, or of a known power."""
    return any(value == x * n for x in (*products_of(literals), *powers) for n in range(1, 9))


def made(there, own, literals):
    """Whether a coefficient of T can be one of E's with a ratio, of the literals there are.

    What is a product of literals is that alone, and not also copies of another one.
    """
    parts = abs(own), abs(there / own)
    if abs(there) in products_of(literals):
        return all(x in products_of(literals) for x in parts)
    return all(copies(x, literals) for x in parts)


def powers_of(algebra, polys):
    """The powers of each exponential, factor by factor."""
    out = {}
    for p in polys:
        for mono in p:
            for a, e in (*mono[0], *((a, e) for g in mono[1] for a, _, e in g[1])):
                if algebra.atoms[a].kind == "exp":
                    out.setdefault(a, set()).add(e)
    return out


def divided_by(algebra, polys):
    atoms = (algebra.atoms[a] for p in polys for m in p for a, _ in m[0])
    return {x.name for x in atoms if x.kind == "size" and x.sign < 0}


def literal_enough(algebra, term, polys, literals):
    """Whether E's own coefficients and powers of exponentials are made of literals or known."""
    known = powers_of(algebra, polys)
    mine = powers_of(algebra, [dict(term)])
    return all(copies(abs(c), literals) for _, c in term) and all(
        copies(e, literals, known.get(a, ())) for a, es in mine.items() for e in es
    )


class Context:
    """The constraints of one context of E in one polynomial T."""

    def __init__(self, algebra, term, poly, divided, literals):
        self.algebra, self.solver, self.literals = algebra, z3.Solver(), literals
        self.term = [(Flat(algebra, m), c) for m, c in sorted(term)]
        self.poly = [(Flat(algebra, m), cs) for m, cs in sorted(poly.items())]
        self.names = itertools.count()
        contexts = max(len(t.variables) for t, _ in self.poly) + len(AXES)
        self.axis = [self.int("axis", 0, len(AXES) - 1) for _ in range(contexts)]
        self.active = [z3.Bool(f"active{c}") for c in range(contexts)]
        self.place = {k: self.int("place", FREE, contexts - 1) for k in AXES}
        self.power = {k: self.int("power", -20, 20) for k in AXES}
        self.k = z3.Real("k")
        for axis in AXES:
            if axis not in divided:
                self.solver.add(self.power[axis] >= 0)
            for c in range(contexts):
                here = z3.And(self.active[c], self.axis[c] == axis)
                self.solver.add(z3.Implies(self.place[axis] == c, here))
        self.monomials = [self.monomial(e, c) for e, c in self.term]
        for a, b in itertools.combinations([x[0] for x in self.monomials], 2):
            self.solver.add(a != b)
        self.same_rest()
        self.no_size_cancels_everywhere()

    def int(self, name, low, high):
        x = z3.Int(f"{name}{next(self.names)}")
        self.solver.add(x >= low, x <= high)
        return x

    def monomial(self, e, coefficient):
        """Which monomial of T one of E is, and how: (which, per choice: roles, left, loose)."""
        which = self.int("mono", 0, len(self.poly) - 1)
        choices = []
        for j, (t, coefficients) in enumerate(self.poly):
            fit = [v for v in coefficients if made(v, coefficient, self.literals)]
            rules = [z3.Or([self.k * q(coefficient) == q(v) for v in fit])]
            roles = [self.int("role", 0, CONTEXT + len(self.axis) - 1) for _ in t.variables]
            for axis, role in zip(t.variables, roles, strict=True):
                mine = [role == u for u, a in enumerate(e.variables) if a == axis]
                theirs = [
                    z3.And(role == CONTEXT + c, self.active[c], self.axis[c] == axis)
                    for c in range(len(self.axis))
                ]
                rules.append(z3.Or(mine + theirs))
            if len(roles) > 1:
                rules.append(z3.Distinct(roles))
            spent = [[] for _ in t.factors]
            for a, x, binding in e.factors:
                options = []
                for n, (b, y, there) in enumerate(t.factors):
                    if a == b and x <= y:
                        chosen = z3.Bool(f"chosen{next(self.names)}")
                        rules.append(z3.Implies(chosen, self.fits(a, binding, there, roles)))
                        spent[n].append(z3.If(chosen, q(x), q(0)))
                        options.append(chosen)
                rules.append(z3.PbEq([(o, 1) for o in options], 1) if options else False)
            left = [
                q(y) - z3.Sum(s) if s else q(y)
                for (_, y, _), s in zip(t.factors, spent, strict=True)
            ]
            for (_, _, there), rest in zip(t.factors, left, strict=True):
                outside = z3.And([roles[v] >= CONTEXT for v in there.values()])
                rules += [rest >= 0, z3.Implies(rest > 0, outside)]
            loose = {k: self.loose(k, roles) for k in AXES}
            for k in AXES:
                total = e.sizes[k] + self.power[k] + loose[k]
                rules.append(total == t.sizes[k])
            self.solver.add(z3.Implies(which == j, z3.And(rules)))
            choices.append((roles, left, loose))
        return which, choices

    def fits(self, atom, binding, there, roles):
        """Whether a factor of E can be this factor of T."""
        rules = []
        for axis in self.algebra.atoms[atom].axes:
            mine, theirs = binding.get(axis), there.get(axis)
            if mine is not None:
                rules.append(roles[theirs] == mine if theirs is not None else False)
            elif theirs is None:
                rules.append(self.place[axis] == FREE)
            else:
                rules.append(roles[theirs] == CONTEXT + self.place[axis])
                rules.append(self.place[axis] != FREE)
        return z3.And(rules)

    def loose(self, axis, roles):
        """How many variables of the context sum over this axis with nothing that carries them."""
        return z3.Sum(
            [
                z3.If(
                    z3.And(
                        self.active[c],
                        self.axis[c] == axis,
                        *(role != CONTEXT + c for role in roles),
                    ),
                    1,
                    0,
                )
                for c in range(len(self.axis))
            ]
        )

    def same_rest(self):
        """The factors that are left are the same ones around every monomial of E."""
        (one, one_choices), *others = self.monomials
        for other, choices in others:
            for i, a in enumerate(one_choices):
                for j, b in enumerate(choices):
                    both = z3.And(one == i, other == j)
                    same = z3.And(self.found(i, a, j, b), self.found(j, b, i, a))
                    self.solver.add(z3.Implies(both, same))

    def found(self, i, one, j, other):
        """Whether each factor left in T's monomial i has its like in monomial j."""
        rules = []
        for (a, _, mine), left in zip(self.poly[i][0].factors, one[1], strict=True):
            likes = [
                z3.And(rest == left, *(one[0][v] == other[0][there[k]] for k, v in mine.items()))
                for (b, _, there), rest in zip(self.poly[j][0].factors, other[1], strict=True)
                if a == b and mine.keys() == there.keys()
            ]
            rules.append(z3.Or(left == 0, *likes))
        return z3.And(rules)

    def no_size_cancels_everywhere(self):
        for k in AXES:
            kept = []
            for (e, _), (which, choices) in zip(self.term, self.monomials, strict=True):
                for j, (_, _, loose) in enumerate(choices):
                    more = z3.Or(e.sizes[k] > 0, self.power[k] > 0, loose[k] > 0)
                    less = z3.Or(e.sizes[k] < 0, self.power[k] < 0)
                    kept.append(z3.And(which == j, z3.Not(z3.And(more, less))))
            self.solver.add(z3.Or(kept))

    def exists(self, ratios):
        self.solver.add(z3.Or([self.k == q(r) for r in ratios]))
        self.solver.set("timeout", 20_000)
        return self.solver.check()


def q(x):
    x = Fraction(x)
    return z3.RealVal(f"{x.numerator}/{x.denominator}")


def ask(algebra, term, target, literals, negations):
    """Z3's answer: sat, unsat or unknown."""
    polys = polynomials(algebra, target, literals)
    if not literal_enough(algebra, term, polys, literals):
        return z3.unsat
    answer = z3.unsat
    positive = all(c > 0 for _, c in term)
    c0 = min(term)[1]
    for poly in polys:
        ratios = {v / c0 for vs in poly.values() for v in vs if copies(abs(v / c0), literals)}
        if not positive and (len(term) == 1 or negations < 2):
            ratios = {r for r in ratios if r > 0}
        if len(poly) < len(term) or not ratios:
            continue
        context = Context(algebra, term, poly, divided_by(algebra, polys), literals)
        found = context.exists(ratios)
        if found == z3.sat:
            return found
        answer = found if found == z3.unknown else answer
    return answer


def pairs(here, answers, number, rng):
    """Pairs worth asking about: as many that the rule accepts as that it does not, E not trivial."""
    groups = {True: [], False: []}
    for t in range(len(here.forms)):
        atoms = {a for m, _ in here.forms[t] for a, *_ in (*m[0], *(f for g in m[1] for f in g[1]))}
        for e in range(len(here.forms)):
            mine = {
                a for m, _ in here.forms[e] for a, *_ in (*m[0], *(f for g in m[1] for f in g[1]))
            }
            if e != t and mine & atoms:
                groups[answers[t][e]].append((e, t))
    return [x for g in groups.values() for x in rng.sample(g, min(number // 2, len(g)))]


def run(settings, most, number):
    """Compares ``number`` pairs of each setting's universe; counts by answer."""
    count = Counter()
    for n, made_of in enumerate(settings):
        here = universe(made_of, most)
        terms = range(len(here.forms))
        literals = [c for c in made_of.literals if abs(c) != 1] * 2
        negations = n % 4
        questions = [((t,), terms) for t in terms]
        answers = native.are_parts(here.problem(), questions, literals, negations)
        for e, t in pairs(here, answers, number, random.Random(n)):
            term, target = here.forms[e], here.forms[t]
            found = ask(here.algebra, term, target, literals, negations)
            count[str(found)] += 1
            if found == z3.unknown:
                continue
            slow = Targets(here.algebra, [target], literals)
            slow.allow_negations(negations)
            said = (found == z3.sat, answers[t][e], slow.is_part(term))
            assert len(set(said)) == 1, ("Z3, C++ and Python", said, made_of, term, target)
    return count


def check(count, at_least):
    assert count["sat"] + count["unsat"] >= at_least, count
    assert min(count["sat"], count["unsat"]) >= at_least // 4, count
    assert count["unknown"] <= at_least // 100, count


def test_the_rule_agrees_with_z3(record_property):
    count = run([*CHOSEN, *map(setting, range(300, 314))], 80, 16)
    record_property("pairs", dict(count))
    check(count, 300)


@pytest.mark.full
def test_the_rule_agrees_with_z3_on_thousands_of_pairs(record_property):
    count = run([*CHOSEN, *map(setting, range(400, 494))], 350, 60)
    record_property("pairs", dict(count))
    check(count, 5_000)


def test_z3_says_no_as_well_as_yes():
    here = universe(CHOSEN[3], 60)
    al = here.algebra
    x = al.leaf(0, (0, 1))
    apart = al.mul(al.reduce(x, 1), al.reduce(x, 1))
    assert ask(al, al.mul(x, al.reduce(x, 1)), al.reduce(apart, 0), [], 0) == z3.sat
    assert ask(al, al.mul(x, x), al.reduce(apart, 0), [], 0) == z3.unsat
