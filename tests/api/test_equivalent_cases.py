"""superopt.equivalent where cases decide: ties, orders of many values, positions, undefined results."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

import superopt

X, Y = torch.randn(8, 12), torch.randn(8, 12)


def test_inputs_on_which_one_alone_is_undefined_are_told():
    first, second = lambda x, y: (x * y).sqrt(), lambda x, y: x.sqrt() * y.sqrt()
    found = superopt.equivalent(first, second, X.abs(), Y.abs(), seed=5)
    assert found
    assert "where-defined" in found.assumptions
    mine, other = found.undefined.values
    assert math.isnan(mine) != math.isnan(other)
    assert "one alone is undefined" in str(found)
    assert json.loads(found.to_json())["undefined"]["drawn"]
    assert superopt.equivalent(lambda x: x + x, lambda x: 2 * x, X).undefined is None


@pytest.mark.parametrize(
    ("first", "second", "given"),
    [
        (lambda x, y: (x * y).sqrt(), lambda x, y: x.sqrt() * y.sqrt(), (X, Y)),
        (lambda x, y: (x * y).log(), lambda x, y: x.log() + y.log(), (X, Y)),
        (lambda x: x.sqrt() ** 2, lambda x: x, (X,)),
        (lambda x: x, lambda x: x * x / x, (X.round(),)),
        (lambda x: x.log().exp(), lambda x: x, (X.double(),)),
    ],
)
def test_one_alone_is_undefined_on_the_given_inputs(first, second, given):
    found = superopt.equivalent(first, second, *given, seed=5)
    assert found.verdict == "different"
    assert found.counterexample.drawn == "as given"
    assert sum(map(math.isnan, found.counterexample.values)) == 1
    within = tuple(x.abs() + 0.1 for x in given)
    assert superopt.equivalent(first, second, *within, seed=5)


def test_a_value_beyond_the_type_is_not_undefined():
    """In double precision both have one; single precision alone makes it inf - inf."""
    x = X * 100
    found = superopt.equivalent(
        lambda x: x.exp() / x.exp().sum(-1, keepdim=True), lambda x: x.softmax(-1), x, seed=5
    )
    assert found


@pytest.mark.parametrize("seed", range(4))
def test_large_values_that_cancel_are_no_counterexample(seed):
    """From about 20 on single and double precision both give 0 for cosh^2 - sinh^2, which is 1."""
    found = superopt.equivalent(
        lambda x: x.cosh() ** 2 - x.sinh() ** 2, lambda x: torch.ones_like(x), X, seed=seed
    )
    assert found
    other = superopt.equivalent(
        lambda x: x.cosh() ** 2 - x.sinh() ** 2, lambda x: torch.ones_like(x) * 1.01, X, seed=seed
    )
    assert other.verdict == "different"


def test_cases_that_cannot_all_be_met_are_no_equality():
    def every(x):
        out = x[:, 0]
        for k in range(1, 14):
            out = out & x[:, k]
        return out

    flags = torch.rand(3, 14) > 0.5
    found = superopt.equivalent(every, lambda x: x[:, 0] & ~x[:, 0], flags, seed=5)
    assert not found

    def rising(x):
        return (x[:, :-1] < x[:, 1:]).to(x.dtype).amin(1)

    def also(x):
        return torch.where(x[:, 0] < x[:, 1], rising(x), torch.zeros(1))

    found = superopt.equivalent(rising, also, X, seed=5)
    assert found.verdict == "undecided"
    assert "cases" in found.reason or "every case" in found.reason
    assert superopt.equivalent(rising, also, X, seed=5, sampled=True)


def window(size):
    def attention_within(q, k, v):
        i = torch.arange(q.shape[0])
        apart = i[:, None] - i
        seen = (apart >= 0) & (apart < size)
        return torch.softmax((q @ k.T / 4).masked_fill(~seen, -math.inf), -1) @ v

    return attention_within


def test_positions_along_unknown_sizes():
    dim = torch.export.Dim("n", min=2, max=4096)
    dynamic = {name: {0: dim} for name in "qkv"}
    args = [torch.randn(16, 16) for _ in range(3)]
    found = superopt.equivalent(window(512), window(1024), *args, dynamic=dynamic, seed=5)
    assert found.verdict == "different", str(found)
    assert found.counterexample.inputs[0].shape[0] > 512
    assert superopt.equivalent(window(512), window(512), *args, dynamic=dynamic, seed=5)
    far = superopt.equivalent(
        lambda x: torch.where(torch.arange(x.shape[1]) ** 3 > 50**4, 1.5, x),
        lambda x: x * 1.0,
        X,
        dynamic={"x": {1: torch.export.Dim("n", min=2, max=10000)}},
        seed=5,
    )
    assert not far


def test_ties_of_comparisons_that_both_make():
    for f, g in (
        (
            lambda x: torch.where(x.sum(1) == 77.5, 0.0, 1.0),
            lambda x: torch.where(x.sum(1) == 77.5, 5.0, 1.0),
        ),
        (
            lambda x: torch.where(x.sum(1, True) <= 0, x, 0.0),
            lambda x: torch.where(x.sum(1, True) < 0, x, 0.0),
        ),
        (
            lambda x: torch.where(x**3 == x.sum(1, True) ** 3 + 2, 0.0, x),
            lambda x: torch.where(x**3 == x.sum(1, True) ** 3 + 2, 1.0, x),
        ),
    ):
        assert not superopt.equivalent(f, g, X, seed=5)


def test_random_numbers_and_complex_ones_are_undecided():
    for f in (lambda x: F.dropout(x, 0.5), lambda x: x + torch.rand(12)):
        found = superopt.equivalent(f, f, X, seed=5)
        assert found.verdict == "undecided", str(found)
        assert "random numbers" in found.reason
    found = superopt.equivalent(lambda x: x * 2, lambda x: x + x, X.to(torch.complex64))
    assert found.verdict == "undecided"
    assert "complex64" in found.reason


def softmaxed(scores, v):
    return torch.softmax(scores, -1) @ v


def parts(s, v):
    """Attention of two halves of the keys, weighted by their log-sum-exps."""
    halves = [
        (softmaxed(a, b), a.logsumexp(-1)) for a, b in zip(s.split(6, 1), v.split(6), strict=True)
    ]
    total = torch.logaddexp(halves[0][1], halves[1][1])
    return sum(o * (m - total).exp()[:, None] for o, m in halves)


V = torch.randn(12, 5)
DECIDED = {
    "stable softplus": (
        lambda x: x.relu() + torch.log1p((-x.abs()).exp()),
        lambda x: x.exp().log1p(),
    ),
    "logsumexp in two parts": (
        lambda x: x.logsumexp(1),
        lambda x: torch.logaddexp(x[:, :5].logsumexp(1), x[:, 5:].logsumexp(1)),
    ),
    "logsumexp less a logarithm": (
        lambda x: x.logsumexp(1) - math.log(12),
        lambda x: x.exp().mean(1).log(),
    ),
    "attention of parts": (lambda x: softmaxed(x, V), lambda x: parts(x, V)),
    "maximum in parts": (
        lambda x: x.amax(1),
        lambda x: torch.maximum(x[:, :3].amax(1), x[:, 3:].amax(1)),
    ),
    "largest size": (lambda x: x.abs().amax(1), lambda x: torch.maximum(x.amax(1), -x.amin(1))),
    "less its own maximum": (lambda x: (x - x.amax(1, True)).amax(1), lambda x: x[:, 0] * 0),
    "clamp by distances": (
        lambda x: x.clamp(-1, 1).sum(1),
        lambda x: (((x + 1).abs() - (x - 1).abs()) / 2).sum(1),
    ),
    "power of a half": (lambda x: x**2.5, lambda x: x * x * x.sqrt()),
    "odd function": (lambda x: torch.erf(-x / 3), lambda x: -torch.erf(x / 3)),
    "in double precision": (lambda x: (x.double() * 3).float(), lambda x: 3 * x),
}
DIFFERENT = {
    "softplus with a sign lost": (
        lambda x: x.relu() + torch.log1p(x.abs().exp()),
        lambda x: x.exp().log1p(),
    ),
    "attention of parts, unweighted": (
        lambda x: softmaxed(x, V),
        lambda x: (softmaxed(x[:, :6], V[:6]) + softmaxed(x[:, 6:], V[6:])) / 2,
    ),
    "maximum of some": (
        lambda x: x.amax(1),
        lambda x: torch.maximum(x[:, :3].amax(1), x[:, 4:].amax(1)),
    ),
    "logsumexp less another logarithm": (
        lambda x: x.logsumexp(1) - math.log(11),
        lambda x: x.exp().mean(1).log(),
    ),
    "less its maximum, summed": (
        lambda x: (x - x.amax(1, True)).amax(1, True).expand(8, 12).sum(1),
        lambda x: (x - x.amax(1, True)).sum(1),
    ),
}


@pytest.mark.parametrize("name", DECIDED)
def test_what_cases_and_orders_decide_is_shown(name):
    found = superopt.equivalent(*DECIDED[name], X, seed=5)
    assert found, str(found)


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_by_cases_is_told_apart(name):
    assert superopt.equivalent(*DIFFERENT[name], X, seed=5).verdict == "different"


def hidden(x):
    """Zero at x = 493 alone."""
    return ((x * 11 - 5) * 3 - 7) * 13 - 211211


def narrow(v):
    """128 as an integer of 8 bits, which is -128, at v = 123457, and zero elsewhere."""
    low, high = (v * 11 + 5 - 1358031).clamp_min(0), (-11 * v - 5 + 1358033).clamp_min(0)
    return (torch.minimum(low, high) * 128).to(torch.int8).float()


def least_and_most(x, y, z):
    values = (x, 3 * y, hidden(z))
    return torch.minimum(torch.minimum(*values[:2]), values[2]), torch.maximum(
        torch.maximum(*values[:2]), values[2]
    )


def at_five(x, i):
    return x.gather(0, torch.where(i == 5, i, 0)[:, None])[:, 0]


def from_1000(x, i):
    return x.gather(0, torch.where(i >= 0, i, i + 1000)[:, None])[:, 0]


INDEX, WIDE = torch.tensor([1, 2]), torch.rand(8, 130) > 0.5
RARE = {
    "two absolute values that are both zero": (
        lambda x, y: torch.where((x * 4 - 1).abs() + (y * 4 - 7).abs() == 0, x, x + 1),
        lambda x, y: x + 1,
        (X, Y),
    ),
    "three values that tie": (
        lambda x, y: torch.where(torch.eq(*least_and_most(x, y, x - y)), y, y + 1),
        lambda x, y: y + 1,
        (X, Y),
    ),
    "an index that wraps": (
        lambda x, i: x[i * 3 % 15],
        lambda x, i: x[i % 15 * 3 % 15],
        (torch.randn(16), INDEX.int()),
    ),
    "a number that is clamped to an index": (
        lambda e, i: e[i.clamp(0, 127)][:, 0] * (i * 7 + 3 != 7542),
        lambda e, i: e[i.clamp(0, 127)][:, 0] + 0 * i,
        (torch.randn(128, 4), INDEX),
    ),
    "one row of a large table": (
        lambda e, i: F.embedding(i, e) * (i * 7 + 3 != 4996 * 7 + 3)[:, None],
        lambda e, i: F.embedding(i, e),
        (torch.randn(5000, 4), INDEX),
    ),
    "one row of a large table, in another output": (
        lambda e, i: (F.embedding(i, e), i * 7 + 3 != 4996 * 7 + 3),
        lambda e, i: (F.embedding(i, e), i >= 0),
        (torch.randn(5000, 4), INDEX),
    ),
    "an index at one literal alone": (
        lambda x, i: at_five(x, i) * (i * 7 + 3 != 7542),
        lambda x, i: at_five(x, i) + 0 * i,
        (torch.randn(16, 4), INDEX),
    ),
    "an index from another end": (
        lambda x, i: from_1000(x, i) * (i * 7 + 3 != 3 - 990 * 7),
        lambda x, i: from_1000(x, i) + 0 * i,
        (torch.randn(16, 4), INDEX),
    ),
    "a count in eight bits": (
        lambda m: m.sum(-1, dtype=torch.int8).long(),
        lambda m: m.sum(-1),
        (WIDE,),
    ),
    "one count of many": (
        lambda x, m: x * (m.sum(-1) * 7 + 3 != 444),
        lambda x, m: x + 0 * m.sum(-1),
        (X[:, 0], WIDE[:, :64]),
    ),
    "a maximum that wraps below zero": (
        lambda v: narrow(v).relu(),
        narrow,
        (torch.zeros(8, 16, dtype=torch.int32),),
    ),
}


@pytest.mark.parametrize("name", RARE)
def test_what_differs_at_a_rare_point_is_not_shown_equal(name):
    first, second, args = RARE[name]
    assert not superopt.equivalent(first, second, *args, seed=5)


def test_indices_that_are_nothing_else_are_tried_on_a_shorter_axis():
    table = torch.randn(5000, 4)
    assert superopt.equivalent(
        lambda e, i: F.embedding(i, e) * 2, lambda e, i: F.embedding(i, 2 * e), table, INDEX, seed=5
    )
    assert superopt.equivalent(
        lambda e, i: F.embedding(i, e),
        lambda e, i: F.one_hot(i, 50).float() @ e,
        table[:50],
        INDEX,
        seed=5,
    )


def test_finite_inputs_alone_tell_functions_apart():
    assert superopt.equivalent(torch.nan_to_num, lambda x: x + 0, X, seed=5).verdict != "different"
    found = superopt.equivalent(
        lambda x: x.amax(1) - x.amax(1) + 1 / x[:, 0], lambda x: 1 / x[:, 0], X
    )
    assert found
    assert "where-defined" in found.assumptions
