"""The normal forms of the abstract algebra, and what can be part of what."""

from fractions import Fraction

import pytest

from superopt.search.abstract import Algebra
from superopt.search.part import is_part

B, K, N, T = range(4)
MINUS = Fraction(-1)


@pytest.fixture
def al():
    return Algebra()


def exp(al, p):
    return al.apply("exp", None, p)


def test_distribution_and_commutativity(al):
    x, y, z = (al.leaf(n, {B}) for n in "xyz")
    assert al.mul(al.add(x, y), z) == al.add(al.mul(z, y), al.mul(x, z))


def test_sums_float_over_factors_that_lack_their_axis(al):
    x, y = al.leaf("x", {B, K}), al.leaf("y", {B})
    assert al.reduce(al.mul(x, y), K) == al.mul(al.reduce(x, K), y)
    assert al.reduce(y, K) == al.mul(al.size(K), y)
    assert al.mul(al.size(K), al.size(K, -1)) == al.const(Fraction(1))


def test_sums_commute_and_split(al):
    x, y = al.leaf("x", {B, K}), al.leaf("y", {N})
    both = al.reduce(al.reduce(al.mul(x, y), K), N)
    assert both == al.reduce(al.reduce(al.mul(x, y), N), K)
    assert both == al.mul(al.reduce(x, K), al.reduce(y, N))


def test_bound_axes_of_one_name_stay_apart(al):
    y, z = al.leaf("y", {T, K}), al.leaf("z", {T, K})
    apart = al.reduce(al.mul(al.reduce(y, K), al.reduce(z, K)), T)
    joint = al.reduce(al.reduce(al.mul(y, z), K), T)
    assert apart != joint
    assert apart == al.reduce(al.reduce(al.mul(y, al.reduce(z, K)), K), T)
    assert not is_part(al, al.reduce(al.mul(y, z), K), [apart])
    assert not is_part(al, al.mul(y, z), [apart])
    assert is_part(al, al.mul(y, al.reduce(z, K)), [apart])
    assert is_part(al, al.mul(al.reduce(z, K), al.reduce(y, K)), [apart])


def test_numbering_of_bound_axes_is_canonical(al):
    y, z, w = (al.leaf(n, {T, K}) for n in "yzw")
    one = al.mul(al.mul(al.reduce(y, K), al.reduce(z, K)), al.reduce(w, K))
    two = al.mul(al.reduce(w, K), al.mul(al.reduce(z, K), al.reduce(y, K)))
    assert al.reduce(one, T) == al.reduce(two, T)


def test_exponentials(al):
    a, b = al.leaf("a", {B}), al.leaf("b", {B})
    assert exp(al, al.add(a, b)) == al.mul(exp(al, a), exp(al, b))
    assert exp(al, al.mul(al.const(Fraction(2)), a)) == al.mul(exp(al, a), exp(al, a))
    assert al.recip(exp(al, a)) == exp(al, al.mul(al.const(MINUS), a))
    assert al.mul(exp(al, a), al.recip(exp(al, a))) != al.const(Fraction(1))


def test_reciprocals_and_roots(al):
    a, b, c = (al.leaf(n, {B}) for n in "abc")
    assert al.recip(al.mul(a, b)) == al.mul(al.recip(a), al.recip(b))
    assert al.recip(al.recip(a)) == a
    content = al.recip(al.add(al.mul(a, b), al.mul(a, c)))
    assert content == al.mul(al.recip(a), al.recip(al.add(b, c)))
    assert al.sqrt(al.mul(a, b)) == al.mul(al.sqrt(a), al.sqrt(b))
    assert al.sqrt(al.recip(a)) == al.recip(al.sqrt(a))
    assert al.sqrt(al.mul(a, a)) != a
    assert al.recip(al.const(Fraction(0))) is None


def test_parts_of_a_normalized_product(al):
    x, g, w = al.leaf("x", {B, K}), al.leaf("g", {K}), al.leaf("w", {K, N})
    eps = Fraction(1, 1000)
    ss = al.reduce(al.mul(x, x), K)
    r = al.recip(al.sqrt(al.add(al.mul(ss, al.size(K, -1)), al.const(eps))))
    target = al.reduce(al.mul(al.mul(al.mul(x, r), g), w), K)

    def part(e):
        return is_part(al, e, [target, r], [eps])

    late = al.reduce(al.mul(al.mul(x, g), w), K)
    assert al.mul(late, r) == target
    for e in (late, al.mul(x, g), al.mul(g, w), al.mul(x, al.mul(r, w)), ss, al.mul(x, x)):
        assert part(e)
    # A sum that bound k while a factor with k is still to come is dead.
    for e in (
        al.reduce(al.mul(x, g), K),
        al.reduce(w, K),
        al.add(x, x),
        al.mul(r, r),
        al.mul(al.const(eps), x),
        al.mul(al.const(1 / eps), x),
    ):
        assert not part(e)


def test_a_sum_needs_one_common_cofactor(al):
    x, y, u, v = (al.leaf(n, {B}) for n in "xyuv")
    target = al.add(al.mul(x, u), al.mul(y, v))
    assert not is_part(al, al.add(x, y), [target])
    assert is_part(al, al.add(x, y), [al.add(al.mul(x, u), al.mul(y, u))])
    assert is_part(al, al.add(x, y), [al.reduce(al.mul(al.add(x, y), al.leaf("q", {B, K})), K)])
    two = al.const(Fraction(2))
    assert not is_part(al, al.add(x, y), [al.add(al.mul(two, x), y)])
    assert is_part(al, al.add(x, y), [al.mul(two, al.add(x, y))], [Fraction(2)])


def test_a_summand_that_lacks_a_bound_axis(al):
    x, y, q = al.leaf("x", {B, K}), al.leaf("y", {B}), al.leaf("q", {K})
    inside = al.add(x, y)
    assert is_part(al, inside, [al.reduce(inside, K)])
    assert is_part(al, inside, [al.reduce(al.mul(inside, q), K)])


def test_difference_inside_a_difference_of_squares(al):
    a, b = al.leaf("a", {B}), al.leaf("b", {B})
    diff = al.add(a, al.mul(al.const(MINUS), b))
    target = al.mul(diff, al.add(a, b))
    assert target == al.add(al.mul(a, a), al.mul(al.const(MINUS), al.mul(b, b)))
    assert is_part(al, diff, [diff, target])
    assert not is_part(al, al.mul(a, b), [diff, target])  # it would have to cancel


def test_exponential_inside_a_doubled_one(al):
    x = al.leaf("x", {B})
    target = exp(al, al.add(x, x))
    assert is_part(al, exp(al, x), [target])
    assert is_part(al, al.add(x, x), [target])
    assert not is_part(al, exp(al, al.add(x, al.add(x, x))), [target])


def test_argument_of_a_product_of_exponentials(al):
    a, b = al.leaf("a", {B}), al.leaf("b", {B, K})
    target = al.reduce(al.mul(exp(al, a), exp(al, b)), K)
    assert is_part(al, al.add(a, b), [target])


def test_variance(al):
    x = al.leaf("x", {B, K})
    rn = al.size(K, -1)
    mean = al.mul(al.reduce(x, K), rn)
    dev = al.add(x, al.mul(al.const(MINUS), mean))
    var = al.mul(al.reduce(al.mul(dev, dev), K), rn)
    moment = al.mul(al.reduce(al.mul(x, x), K), rn)
    assert var == al.add(moment, al.mul(al.const(MINUS), al.mul(mean, mean)))
    for e in (moment, al.mul(mean, mean), al.reduce(al.mul(x, x), K), mean):
        assert is_part(al, e, [var])
    assert not is_part(al, al.mul(moment, moment), [var])
