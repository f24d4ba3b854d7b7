"""Rewrites that are right are shown equal; the list is written without looking at the search."""

import math

import pytest

from superopt.mugraph.algebras.chain import CHAINS
from superopt.mugraph.graph import Builder, Graph
from superopt.verify.equal import check_equal
from tests.verify.terms import B, K, N, T, float_values, program

IDENTITIES = {
    "commute add": (lambda p: p.x + p.y, lambda p: p.y + p.x),
    "commute mul": (lambda p: p.x * p.g, lambda p: p.g * p.x),
    "associate add": (lambda p: (p.x + p.y) + p.z, lambda p: p.x + (p.y + p.z)),
    "associate mul": (lambda p: (p.x * p.y) * p.z, lambda p: p.x * (p.y * p.z)),
    "distribute": (lambda p: (p.x + p.y) * p.z, lambda p: p.x * p.z + p.y * p.z),
    "binomial": (
        lambda p: (p.x + p.y).square(),
        lambda p: p.x.square() + 2.0 * p.x * p.y + p.y.square(),
    ),
    "difference of squares": (
        lambda p: (p.x - p.y) * (p.x + p.y),
        lambda p: p.x.square() - p.y.square(),
    ),
    "double negation": (lambda p: p.x.neg().neg(), lambda p: p.x),
    "subtract itself": (lambda p: p.x - p.x + p.y, lambda p: p.y * 1.0),
    "literals add up": (lambda p: 0.5 * p.x + 0.5 * p.x, lambda p: p.x),
    "divide by itself": (lambda p: p.x * p.y / p.y, lambda p: p.x),
    "quotient of quotients": (
        lambda p: (p.x / p.y) / (p.z / p.g),
        lambda p: p.x * p.g / (p.y * p.z),
    ),
    "common denominator": (
        lambda p: p.x / p.y + p.z / p.g,
        lambda p: (p.x * p.g + p.z * p.y) / (p.y * p.g),
    ),
    "recip of recip": (lambda p: p.x.recip().recip(), lambda p: p.x),
    "partial fractions": (
        lambda p: 1.0 / (p.x * (p.x + 1.0)),
        lambda p: 1.0 / p.x - 1.0 / (p.x + 1.0),
    ),
    "sum of sums": (lambda p: (p.x + p.y).sum(K), lambda p: p.x.sum(K) + p.y.sum(K)),
    "factor out of a sum": (lambda p: (p.x * p.h).sum(K), lambda p: p.h * p.x.sum(K)),
    "sum order": (lambda p: (p.x * p.w).sum(K).sum(N), lambda p: (p.x * p.w).sum(N).sum(K)),
    "sum of two axes": (lambda p: (p.x * p.w).sum(K, N), lambda p: (p.x * p.w).sum(N).sum(K)),
    "sum of a constant": (lambda p: (p.h + 0.0 * p.x).sum(K), lambda p: p.h * p.size(K)),
    "mean of a shift": (
        lambda p: (p.x + p.h).sum(K) / p.size(K),
        lambda p: p.x.sum(K) / p.size(K) + p.h,
    ),
    "variance": (
        lambda p: (p.x - p.x.sum(K) / p.size(K)).square().sum(K),
        lambda p: p.x.square().sum(K) - p.x.sum(K).square() / p.size(K),
    ),
    "product before sum": (
        lambda p: (p.x * p.w).sum(K) + (p.x * p.v).sum(K),
        lambda p: (p.x * (p.w + p.v)).sum(K),
    ),
    "reassociated contraction": (
        lambda p: ((p.x * p.m).sum(K) * p.s).sum(T),
        lambda p: ((p.m * p.s).sum(T) * p.x).sum(K),
    ),
    "gain in the weight": (
        lambda p: ((p.x * p.g) * p.w).sum(K),
        lambda p: (p.x * (p.g * p.w)).sum(K),
    ),
    "exp of a sum": (lambda p: (p.x + p.y).exp(), lambda p: p.x.exp() * p.y.exp()),
    "exp of a difference": (lambda p: (p.x - p.y).exp(), lambda p: p.x.exp() / p.y.exp()),
    "exp of twice": (lambda p: (2.0 * p.x).exp(), lambda p: p.x.exp().square()),
    "exp of the negative": (lambda p: (-p.x).exp(), lambda p: 1.0 / p.x.exp()),
    "exp of zero": (lambda p: (p.x - p.x).exp() * p.y, lambda p: p.y),
    "exp of half": (lambda p: (0.5 * p.x).exp().square(), lambda p: p.x.exp()),
    "log of exp": (lambda p: p.x.exp().log(), lambda p: p.x),
    "log of a product": (lambda p: (p.x.exp() * p.y.exp()).log(), lambda p: p.x + p.y),
    "log of the sum shifted": (
        lambda p: p.s.exp().sum(T).log(),
        lambda p: (p.s - p.s.reduce("max", T)).exp().sum(T).log() + p.s.reduce("max", T),
    ),
    "sigmoid": (lambda p: p.x.sigmoid(), lambda p: 1.0 / (1.0 + (-p.x).exp())),
    "sigmoid reflected": (lambda p: (-p.x).sigmoid(), lambda p: 1.0 - p.x.sigmoid()),
    "sigmoid by exp": (lambda p: p.x.sigmoid(), lambda p: p.x.exp() / (1.0 + p.x.exp())),
    "silu": (lambda p: p.x.silu(), lambda p: p.x * p.x.sigmoid()),
    "tanh by sigmoid": (lambda p: p.x.tanh(), lambda p: 2.0 * (2.0 * p.x).sigmoid() - 1.0),
    "tanh is odd": (lambda p: (-p.x).tanh(), lambda p: -p.x.tanh()),
    "gelu_tanh": (
        lambda p: p.x.gelu_tanh(),
        lambda p: (
            p.x * 0.5 * (1.0 + (math.sqrt(2 / math.pi) * (p.x + 0.044715 * p.x * p.x * p.x)).tanh())
        ),
    ),
    "gelu by erf": (
        lambda p: p.x.gelu(),
        lambda p: 0.5 * p.x * (1.0 + (math.sqrt(0.5) * p.x).erf()),
    ),
    "expm1": (lambda p: p.x.expm1(), lambda p: p.x.exp() - 1.0),
    "softmax shift": (
        lambda p: p.s.exp() / p.s.exp().sum(T),
        lambda p: (p.s - p.s.reduce("max", T)).exp() / (p.s - p.s.reduce("max", T)).exp().sum(T),
    ),
    "softmax by another shift": (
        lambda p: (p.s - p.h).exp() / (p.s - p.h).exp().sum(T),
        lambda p: p.s.exp() / p.s.exp().sum(T),
    ),
    "late division": (
        lambda p: ((p.s.exp() / p.s.exp().sum(T)) * p.m).sum(T),
        lambda p: (p.s.exp() * p.m).sum(T) / p.s.exp().sum(T),
    ),
    "root of a product": (lambda p: (p.x * p.y).sqrt(), lambda p: p.x.sqrt() * p.y.sqrt()),
    "square of a root": (lambda p: p.x.sqrt().square(), lambda p: p.x),
    "quotient by a root": (lambda p: p.x / p.x.sqrt(), lambda p: p.x.sqrt()),
    "rsqrt": (lambda p: p.x.rsqrt(), lambda p: 1.0 / p.x.sqrt()),
    "rms scale moved": (
        lambda p: (p.x * (p.x.square().sum(K) / p.size(K) + 1e-6).rsqrt() * p.g * p.w).sum(K),
        lambda p: (p.x * p.g * p.w).sum(K) * (p.x.square().sum(K) / p.size(K) + 1e-6).rsqrt(),
    ),
    "rms by division": (
        lambda p: p.x * (p.x.square().sum(K) / p.size(K) + 1e-6).rsqrt(),
        lambda p: p.x / (p.x.square().sum(K) / p.size(K) + 1e-6).sqrt(),
    ),
    "max commutes": (lambda p: p.x.max(p.y), lambda p: p.y.max(p.x)),
    "max associates": (lambda p: p.x.max(p.y).max(p.z), lambda p: p.x.max(p.y.max(p.z))),
    "max is idempotent": (lambda p: p.x.max(p.x), lambda p: p.x),
    "max of a reduction": (
        lambda p: p.x.max(p.y).reduce("max", K),
        lambda p: p.x.reduce("max", K).max(p.y.reduce("max", K)),
    ),
    "min and max": (lambda p: p.x.min(p.y) + p.x.max(p.y), lambda p: p.x + p.y),
    "relu by where": (
        lambda p: p.x.relu(),
        lambda p: p.map("where", p.map("gt", p.x, 0.0), p.x, p.const(0.0), dtype="f32"),
    ),
    "abs by relu": (lambda p: p.x.abs(), lambda p: p.x.max(-p.x)),
    "where of one value": (
        lambda p: p.map("where", p.x.lt(p.y), p.z, p.z, dtype="f32"),
        lambda p: p.z,
    ),
    "where of swapped sides": (
        lambda p: p.map("where", p.x.lt(p.y), p.z, p.g, dtype="f32"),
        lambda p: p.map("where", p.x.ge(p.y), p.g, p.z, dtype="f32"),
    ),
    "mask by minus infinity": (
        lambda p: p.map("where", p.x.lt(p.y), p.x, p.const(-math.inf), dtype="f32").exp(),
        lambda p: p.map("where", p.x.lt(p.y), p.x.exp(), p.const(0.0), dtype="f32"),
    ),
    "not of less": (lambda p: p.map("not", p.x.lt(p.y)), lambda p: p.x.ge(p.y)),
    "two outputs": (lambda p: (p.x + p.y, p.x - p.y), lambda p: (p.y + p.x, -(p.y - p.x))),
}
POSITIVE = {"quotient by a root", "square of a root", "root of a product", "rsqrt"}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_right_rewrite_is_accepted(name):
    a, b = (program(make) for make in IDENTITIES[name])
    found = check_equal(a, b, seed=11)
    assert found, found.reason
    assert found.kind == "sampled" or found.bound_log2 >= 64
    for x, y in zip(
        float_values(a, 1, name in POSITIVE), float_values(b, 1, name in POSITIVE), strict=True
    ):
        assert x.shape == y.shape
        assert (
            ((x - y).abs() <= 1e-9 * (1 + y.abs())).logical_or(x.isnan() & y.isnan()).all()
            if x.is_floating_point()
            else (x == y).all()
        )


def test_there_are_many_identities():
    assert len(IDENTITIES) >= 40


@pytest.mark.parametrize(
    "name",
    [
        "distribute",
        "variance",
        "softmax shift",
        "late division",
        "rms scale moved",
        "silu",
        "relu by where",
        "square of a root",
        "max commutes",
        "tanh by sigmoid",
        "gelu by erf",
    ],
)
def test_a_bound_is_claimed(name):
    a, b = (program(make) for make in IDENTITIES[name])
    found = check_equal(a, b, seed=11)
    assert found.kind == "bound", found.reason
    assert found.bound_log2 >= 64


def test_both_evaluators_say_the_same():
    for name in ("softmax shift", "rms scale moved", "log of the sum shifted"):
        a, b = (program(make) for make in IDENTITIES[name])
        mine, other = (check_equal(a, b, seed=3, using=u) for u in ("python", "core"))
        assert (mine.clean, mine.total, mine.trials) == (other.clean, other.total, other.trials)


def test_a_root_that_a_field_lacks_is_checked_over_another():
    """5 is no square in the first field: one output is never defined there, the other always."""

    def graph(swap: bool) -> Graph:
        g = Builder("two")
        x, y = (g.input(name, ((B,),), "f32") for name in "xy")
        scale = g.map("rsqrt", g.const(5.0))
        scaled = g.map("mul", scale, x) if swap else g.map("mul", x, scale)
        return g.build([("o", scaled, ((B,),)), ("p", g.map("neg", y), ((B,),))])

    found = check_equal(graph(True), graph(False), seed=3)
    assert found, found.reason
    assert found.field != (CHAINS[0].name, CHAINS[0].primes)
