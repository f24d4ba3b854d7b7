"""The pruning rule against brute force: chains of merge-free steps, in universes that hold all of them.

Brute force says yes to (E, T) if merge-free steps lead from E to T (``universe``), and as a
universe holds every walk between its terms, its no is exact. The rule, in C++ and in Python, must
say yes wherever brute force does. Where the rule alone says yes it keeps a term for nothing; such
pairs are counted by their reason, and their share of brute force's noes is bounded.
"""

import dataclasses
import random
from collections import Counter
from fractions import Fraction

import pytest

from superopt.search.abstract import Algebra
from superopt.search.oracle import source_forms
from superopt.search.part import MAX_MULTIPLE, Targets, is_part
from superopt.search.problem import Step
from tests.search.universe import Setting, Universe, setting, universe

native = pytest.importorskip("superopt.search.native", exc_type=ImportError)

MINUS, HALF = Fraction(-1), Fraction(1, 2)
CHOSEN = (
    Setting(((), ()), ("exp",), reducible=()),  # exp(a + b) exp(a) takes 2 a + b apart
    Setting(((1,), (1,)), ("exp",), reducible=(1,)),
    Setting(((),), ("exp",), (MINUS,), reducible=()),
    Setting(((0, 1), (0,)), reducible=(1,), back=(1,)),  # means of terms that lack the axis
    Setting(((1,), (0,)), back=(0, 1)),  # and over two axes
    Setting(((0, 1),), reducible=(0, 1)),  # bound axes of one name
    Setting(((0,),), ("sqrt", "recip"), reducible=(0,)),
    Setting(((0,), ()), ("recip",), reducible=(0,), back=(0,)),
)
BOUNDS = {"literals": 0.15, "signs": 0.01, "sizes": 0.02, "other": 0.001}
"""The most of brute force's noes that the rule may let through, by reason."""


def reason(made_of):
    """Why the rule may keep terms that brute force does not reach.

    literals: a coefficient may be several copies of a part, and a literal used more often than T
    uses it; signs: which of the changes of sign is whose is not known; sizes: powers of a size that
    cancel are not attributed; other: exponentials of different sums count as one product.
    """
    if any(abs(c) != 1 for c in made_of.literals):
        return "literals"
    if made_of.literals:
        return "signs"
    return "sizes" if made_of.back else "other"


def many_copies(algebra, form):
    """Whether a power of an exponential is more copies of a literal than the rule looks for."""
    factors = [
        (a, e) for m, _ in form for a, e in (*m[0], *((a, e) for g in m[1] for a, _, e in g[1]))
    ]
    return any(algebra.atoms[a].kind == "exp" and e.numerator > MAX_MULTIPLE for a, e in factors)


def compare(made_of, most, every):
    """Counts over all pairs of a universe; Python is asked about the yeses and each ``every``-th."""
    here = universe(made_of, most)
    terms = range(len(here.forms))
    literals = [c for c in made_of.literals if abs(c) != 1] * here.heaviest
    negations = here.heaviest if MINUS in made_of.literals else 0
    questions = [((t,), terms) for t in terms]
    answers = native.are_parts(here.problem(), questions, literals, negations)
    rng = random.Random(len(here.forms))
    count = Counter()
    for t in terms:
        slow = Targets(here.algebra, [here.forms[t]], literals)
        slow.allow_negations(negations)
        for e in terms:
            brute = bool(here.parts[t] >> e & 1)
            count["yes" if brute else "no"] += 1
            pair = (made_of, here.steps[e], here.forms[e], here.forms[t])
            if brute and many_copies(here.algebra, here.forms[e]):
                count["copies"] += 1
                continue
            if brute:
                assert answers[t][e], ("C++ removes a term of a merge-free derivation", pair)
            elif answers[t][e]:
                count["kept for nothing"] += 1
            if rng.random() < (2 if brute else 1) / every:
                count["python"] += 1
                assert slow.is_part(here.forms[e]) == answers[t][e], ("the engines differ", pair)
    return count


def run(settings, most, every, at_least):
    noes, kept, total = Counter(), Counter(), Counter()
    for made_of in settings:
        count = compare(made_of, most, every)
        total += count
        noes[reason(made_of)] += count["no"]
        kept[reason(made_of)] += count["kept for nothing"]
    for name, number in at_least.items():
        assert total[name] >= number, (name, total)
    assert set(noes) == set(BOUNDS)
    for name, most_of_them in BOUNDS.items():
        assert kept[name] <= most_of_them * noes[name], (name, kept, noes)
    assert total["copies"] <= total["yes"] // 100
    return {**total, "kept by reason": dict(kept)}


def test_the_rule_agrees_with_brute_force(record_property):
    settings = [*CHOSEN, *map(setting, range(16))]
    counts = {"yes": 6_000, "no": 80_000, "python": 2_000}
    record_property("pairs", run(settings, 110, 40, counts))


@pytest.mark.full
def test_the_rule_agrees_with_brute_force_on_large_universes(record_property):
    settings = [*CHOSEN, *map(setting, range(90))]
    counts = {"yes": 80_000, "no": 3_000_000, "python": 30_000}
    record_property("pairs", run(settings, 350, 80, counts))


def asked(made_of, steps, term, target):
    """What both engines say of two numbered terms."""
    task = dataclasses.replace(Universe(made_of, 1, 9).problem(), steps=tuple(steps))
    al = Algebra()
    forms = source_forms(task, al)
    fast = native.are_parts(task, [((target,), (term,))])[0][0]
    assert is_part(al, forms[term], [forms[target]]) == fast
    return fast


def test_the_exponentials_of_a_product_share_their_powers():
    a, b, total = Step("leaf", index=0), Step("leaf", index=1), Step("add", (0, 1))
    steps = [a, b, total, Step("fn", (2,)), Step("fn", (0,)), Step("mul", (3, 4))]
    assert asked(CHOSEN[0], steps, 2, 5)  # exp(a + b) exp(a) is exp(a)^2 exp(b)


def test_an_exponential_and_its_reciprocal_may_come_from_one_sum():
    a, b, minus = Step("leaf", index=0), Step("leaf", index=1), Step("const", value=MINUS)
    less = [Step("mul", (0, 2)), Step("add", (1, 3))]
    steps = [a, b, minus, *less, Step("fn", (4,)), Step("fn", (0,)), Step("mul", (5, 6))]
    assert asked(Setting(((), ()), ("exp",), (MINUS,)), steps, 4, 7)  # exp(b - a) exp(a)


def test_a_factor_comes_out_of_a_mean_over_two_axes():
    x, b, w = (Step("leaf", index=n) for n in range(3))
    means = []
    for axis in (0, 1):
        means += [Step("size", index=axis), Step("fn", (3 + 2 * axis,), 0)]
    summed = [Step("add", (0, 1)), Step("mul", (2, 7)), Step("reduce", (8,), 0)]
    both = [Step("reduce", (9,), 1), Step("mul", (4, 10)), Step("mul", (6, 11))]
    steps = [x, b, w, *means, *summed, *both]
    made_of = Setting(((0,), (1,), ()), back=(0, 1))
    assert asked(made_of, steps, 8, 12)  # w (x + b) in w mean(x) + w mean(b)


def test_two_monomials_do_not_become_one():
    x, z, extra = (Step("leaf", index=n) for n in range(3))
    sums = [Step("reduce", (0,), 1), Step("reduce", (1,), 1)]
    both = [Step("mul", (0, 4)), Step("mul", (1, 3)), Step("add", (5, 6))]
    steps = [x, z, extra, *sums, *both, Step("mul", (3, 4)), Step("add", (2, 8))]
    made_of = Setting(((0, 1), (0, 1), ()))
    assert asked(made_of, steps, 5, 9)
    assert not asked(made_of, steps, 7, 9)  # sum(x sum(z) + z sum(x)) is twice sum(x) sum(z)
