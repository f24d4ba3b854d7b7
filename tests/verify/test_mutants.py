"""Wrong programs are rejected: single mutations of real ones, and mistakes that others made."""

from collections import Counter

import pytest
import torch

from superopt.mugraph.graph import Graph
from superopt.mugraph.mutants import mutations
from superopt.verify.equal import check_equal
from tests.programs import attention, gated_mlp, lora, rmsnorm_linear, softmax
from tests.verify.terms import K, N, T, float_values, program

SMALL = {
    "rmsnorm_linear": rmsnorm_linear(3, 4, 5),
    "rmsnorm_linear early": rmsnorm_linear(3, 4, 5, late=False),
    "lora": lora(3, 4, 5, 2),
    "attention": attention(2, 3, 5, 4),
    "causal attention": attention(2, 3, 5, 4, causal=2),
    "softmax": softmax(3, 5),
    "gated_mlp": gated_mlp(3, 4, 5, 2),
    "variance": program(lambda p: (p.x - p.x.sum(K) / p.size(K)).square().sum(K) / p.size(K)),
    "log-sum-exp": program(
        lambda p: (p.s - p.s.reduce("max", T)).exp().sum(T).log() + p.s.reduce("max", T)
    ),
    "clamp": program(lambda p: p.x.max(-1.0).min(1.0) * p.y),
    "masked": program(lambda p: p.map("where", p.x.lt(p.y), p.z, p.g * 2.0, dtype="f32").sum(K)),
    "rotary": program(lambda p: (p.x * p.g - p.y * p.h, p.x * p.h + p.y * p.g)),
}


def differ(a: Graph, b: Graph) -> bool:
    """Whether two graphs that take the same inputs differ in float64 where both are finite."""
    if [(n.name, n.dims) for n in a.inputs] != [(n.name, n.dims) for n in b.inputs]:
        return True
    for seed in range(3):
        for x, y in zip(float_values(a, seed), float_values(b, seed), strict=True):
            if x.shape != y.shape or x.dtype != y.dtype:
                return True
            both = x.isfinite() & y.isfinite()
            if not torch.allclose(x[both].double(), y[both].double(), rtol=1e-9, atol=1e-10):
                return True
    return False


@pytest.mark.parametrize("name", SMALL)
def test_no_wrong_mutant_is_accepted(name):
    graph = SMALL[name]
    wrongly, tried = [], Counter()
    for kind, mutant in mutations(graph):
        accepted = bool(check_equal(graph, mutant, seed=5))
        tried["accepted" if accepted else "rejected"] += 1
        if accepted and differ(graph, mutant):
            wrongly.append((kind, str(mutant)))
    assert not wrongly
    assert tried["rejected"] >= 40, tried
    assert tried["accepted"] > 0, "equivalent mutants exist; a check that accepts none is broken"


WRONG = {
    "the 1/n dropped": (lambda p: p.x.sum(K) / p.size(K), lambda p: p.x.sum(K)),
    "another axis's n": (lambda p: p.x.sum(K) / p.size(K), lambda p: p.x.sum(K) / p.size(N)),
    "n as a literal": (lambda p: p.x.sum(K) / p.size(K), lambda p: p.x.sum(K) / 2.0),
    "n minus one": (
        lambda p: p.x.square().sum(K) / p.size(K),
        lambda p: p.x.square().sum(K) / (p.size(K) - 1.0),
    ),
    "eps outside the root": (lambda p: (p.x + 1e-6).sqrt(), lambda p: p.x.sqrt() + 1e-6),
    "eps dropped": (
        lambda p: (p.x.square().sum(K) + 1e-6).rsqrt(),
        lambda p: p.x.square().sum(K).rsqrt(),
    ),
    "eps of another size": (lambda p: (p.x + 1e-6).rsqrt(), lambda p: (p.x + 1e-5).rsqrt()),
    "root of a square": (lambda p: p.x.square().sqrt(), lambda p: p.x),
    "root of a square, scaled": (lambda p: (p.x.square() * p.y).sqrt(), lambda p: p.x * p.y.sqrt()),
    "absolute value dropped": (lambda p: p.x.abs(), lambda p: p.x),
    "shift in one place": (
        lambda p: p.s.exp() / p.s.exp().sum(T),
        lambda p: (p.s - p.s.reduce("max", T)).exp() / p.s.exp().sum(T),
    ),
    "shift by a varying value": (
        lambda p: p.s.exp() / p.s.exp().sum(T),
        lambda p: (p.s - p.s).exp() / (p.s - p.s).exp().sum(T),
    ),
    "lost rescale": (
        lambda p: (p.s.exp() * p.m).sum(T) / p.s.exp().sum(T),
        lambda p: (p.s.exp() * p.m).sum(T),
    ),
    "less or equal": (
        lambda p: p.map("where", p.x.lt(p.y), p.z, p.g, dtype="f32"),
        lambda p: p.map("where", p.x.le(p.y), p.z, p.g, dtype="f32"),
    ),
    "comparison turned": (
        lambda p: p.map("where", p.x.lt(p.y), p.z, p.g, dtype="f32"),
        lambda p: p.map("where", p.y.lt(p.x), p.z, p.g, dtype="f32"),
    ),
    "max for min": (lambda p: p.x.max(p.y), lambda p: p.x.min(p.y)),
    "max of sums": (
        lambda p: (p.x + p.y).reduce("max", K),
        lambda p: p.x.reduce("max", K) + p.y.reduce("max", K),
    ),
    "mean of squares": (lambda p: p.x.square().sum(K), lambda p: p.x.sum(K).square()),
    "exp of a product": (lambda p: (p.x * p.y).exp(), lambda p: p.x.exp() * p.y.exp()),
    "log of a sum": (lambda p: (p.x.exp() + p.y.exp()).log(), lambda p: p.x + p.y),
    "silu for sigmoid": (lambda p: p.x.silu(), lambda p: p.x.sigmoid()),
    "gelu by tanh": (lambda p: p.x.gelu(), lambda p: p.x.gelu_tanh()),
    "inputs exchanged": (lambda p: p.x - p.y, lambda p: p.y - p.x),
    "weights exchanged": (
        lambda p: (p.x * p.w).sum(K) * (p.x * p.v).sum(K).sigmoid(),
        lambda p: (p.x * p.v).sum(K) * (p.x * p.w).sum(K).sigmoid(),
    ),
    "outputs permuted": (lambda p: (p.x + p.y, p.x * p.y), lambda p: (p.x * p.y, p.x + p.y)),
    "equal shapes, other sum": (lambda p: (p.s * p.s).sum(T), lambda p: p.s.sum(T) * p.s.sum(T)),
    "a constant in the ninth place": (lambda p: p.x * 0.1, lambda p: p.x * 0.100000001),
    "keyed functions differ": (lambda p: p.x.sin(), lambda p: p.x.cos()),
    "erf is not linear": (lambda p: (p.x + p.y).erf(), lambda p: p.x.erf() + p.y.erf()),
    "relu of a sum": (lambda p: p.x.sum(K).relu(), lambda p: p.x.relu().sum(K)),
    "mask with zero before exp": (
        lambda p: p.map("where", p.x.lt(p.y), p.x, p.const(float("-inf")), dtype="f32").exp(),
        lambda p: p.map("where", p.x.lt(p.y), p.x, p.const(0.0), dtype="f32").exp(),
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("using", ["python", "core"])
def test_a_mistake_is_rejected(name, using):
    a, b = (program(make) for make in WRONG[name])
    for seed in (1, 2):
        assert not check_equal(a, b, seed=seed, using=using)
        assert not check_equal(b, a, seed=seed, using=using)
    assert differ(a, b) or name == "less or equal"
