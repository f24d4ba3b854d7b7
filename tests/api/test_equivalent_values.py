"""superopt.equivalent at poles, after casts that round, of what is no tensor, and of sizes."""

import json
import math

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

import superopt
from superopt.bench.inputs import make_inputs

W = torch.where
MANY = {
    "quotient of one": (lambda x: 1 / (1 + 1 / x), lambda c, x: W(x == 0, c, x / (1 + x)), 0.0),
    "infinite": (lambda x: W((1 / x).isinf(), 0.0, 1 / x), lambda c, x: W(x == 0, c, 1 / x), 0.0),
    "finite": (lambda x: W((1 / x).isfinite(), 1 / x, 2.0), lambda c, x: W(x == 0, c, 1 / x), 2.0),
    "count of finite": (lambda x: (1 / x).isfinite().float(), lambda c, x: (x != 0) + c * (x == 0), 0.0),
    "bell": (lambda x: (-1 / x**2).exp(), lambda c, x: W(x == 0, c, (-1 / x**2).exp()), 0.0),
    "saturated": (lambda x: (1 / x.abs()).tanh(), lambda c, x: W(x == 0, c, (1 / x.abs()).tanh()), 1.0),
    "clamped": (lambda x: (1 / x**2).clamp(max=5), lambda c, x: W(x == 0, c, (1 / x**2).clamp(max=5)), 5.0),
    "harmonic": (lambda x: 3 / (1 / x).sum(1), lambda c, x: W((x == 0).any(1), c, 3 / (1 / x).sum(1)), 0.0),
}  # fmt: skip
"""A function whose infinity at 0 gives something finite, another with c there, and what c is right."""


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("given", [True, False])
def test_what_an_infinity_gives_is_compared(name, given):
    first, second, right = MANY[name]
    x = torch.randn(4, 3)
    if given:
        x[1, 2] = 0.0
    found = superopt.equivalent(first, lambda x: second(right + 3.0, x), x, seed=3)
    assert found.verdict == "different"
    mine, other = found.counterexample.values
    assert abs(mine - right) < 1e-6 and abs(other - right - 3.0) < 1e-6
    assert superopt.equivalent(first, lambda x: second(right, x), x, seed=3).verdict != "different"


ROUNDED = [
    ("i64[4],i64[4]", lambda x, y: x.float() == y.float(), lambda x, y: x == y),
    ("i64[4],i64[4]", lambda x, y: x.double() < y.double(), lambda x, y: x < y),
    ("i32[4],i32[4]", lambda x, y: x.float() < y.float(), lambda x, y: x < y),
    ("i16[4],i16[4]", lambda x, y: x.bfloat16() <= y.bfloat16(), lambda x, y: x <= y),
    ("i16[4],i16[4]", lambda x, y: x.half() == y.half(), lambda x, y: x == y),
    ("f64[4],f64[4]", lambda x, y: W(x.float() == y.float(), 1.0, 0.0), lambda x, y: W(x == y, 1.0, 0.0)),
    ("f32[4],f32[4]", lambda x, y: W(x.half() < y.half(), 1.0, 0.0), lambda x, y: W(x < y, 1.0, 0.0)),
    ("i64[4]", lambda x: x.float().floor().long(), lambda x: x * 1),
]  # fmt: skip

EXACT = [
    ("i32[4],i32[4]", lambda x, y: x.double() < y.double(), lambda x, y: x < y),
    ("i16[4],i16[4]", lambda x, y: x.float() == y.float(), lambda x, y: x == y),
    ("u8[4],u8[4]", lambda x, y: x.bfloat16() < y.bfloat16(), lambda x, y: x < y),
    ("bf16[4],bf16[4]", lambda x, y: W(x.float() < y.float(), 1.0, 0.0), lambda x, y: W(x < y, 1.0, 0.0)),
    ("bool[3,4]", lambda x: x.sum(1).float() > 2.0, lambda x: x.sum(1) > 2),
    ("i64[4],f32[4]", lambda x, y: W(x.float() < y, 1.0, 0.0), lambda x, y: 1 - W(x.float() >= y, 1.0, 0.0)),
    ("i64[4],i64[4]", lambda x, y: (x.float() + y.float()) * 2, lambda x, y: 2 * x.float() + 2 * y.float()),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(ROUNDED)))
def test_casts_that_round_decide_no_comparison(k):
    inputs, first, second = ROUNDED[k]
    for seed in range(3):
        assert not superopt.equivalent(first, second, *make_inputs(inputs, seed), seed=seed)


@pytest.mark.parametrize("k", range(len(EXACT)))
def test_casts_that_are_exact_or_made_by_both_do_not_matter(k):
    inputs, first, second = EXACT[k]
    found = superopt.equivalent(first, second, *make_inputs(inputs, 1), seed=1)
    assert "may round" not in found.reason
    assert found.verdict == "equal", found


def test_one_tensor_given_twice_is_two():
    x = torch.randn(4, 4)
    rows = torch.randn(4, 1).expand(4, 4)
    for given in ((x, x), (x, x.T), (x[:2], x[1:3]), (rows, rows)):
        assert not superopt.equivalent(lambda x, y: x - y, lambda x, y: x * 0, *given)
        assert superopt.equivalent(lambda x, y: x - y, lambda x, y: -(y - x), *given)
    i = torch.arange(4)
    assert not superopt.equivalent(
        lambda q, k: W((q == 777777) & (k == 12345), 9, q), lambda q, k: q, i, i
    )


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item() > 1e6,
        lambda x: round(x.sum().item() / 1e6),
        lambda x: x.sum().tolist(),
        lambda x: float(x.numpy().sum()) > 1e6,
        lambda x: int(x.abs().max() > 1e4),
    ],
)
def test_numbers_that_are_computed_of_values_are_refused(read):
    x = torch.ones(4, 6)
    found = superopt.equivalent(
        lambda x: (x * 2, read(x)), lambda x: (x + x, read(torch.ones(4, 6))), x
    )
    assert found.verdict != "equal"
    assert superopt.equivalent(lambda x: (x * 2, 3, "a"), lambda x: (x + x, 3, "a"), x)
    other = superopt.equivalent(lambda x: (x * 2, 3), lambda x: (x + x, 4), x)
    assert other.verdict == "different"


def test_a_size_that_is_returned_is_refused_where_it_may_change():
    x = torch.ones(4, 6)
    pair = (lambda x: (x * 2, x.shape[0])), (lambda x: (x + x, 4))
    assert superopt.equivalent(*pair, x)
    dynamic = {"x": {0: torch.export.Dim("n", min=2, max=64)}}
    assert not superopt.equivalent(*pair, x, dynamic=dynamic)


def test_arguments_that_are_no_tensors_are_part_of_the_domain():
    found = superopt.equivalent(lambda x, k: x * k, lambda x, k: x + x, torch.ones(3), 2)
    assert found and "no tensors" in json.loads(found.to_json())["domain"]
    assert "no tensors" not in str(superopt.equivalent(lambda x: x, lambda x: x * 1, torch.ones(3)))


def test_literals_that_are_one_element_of_one_field():
    """2^32 = 89442 modulo the largest prime of the first chain."""
    found = superopt.equivalent(
        lambda x: (x * 65536 * 65536).clamp(0, 1), lambda x: (x * 89442).clamp(0, 1), torch.randn(6)
    )
    assert not found


HALVES = {
    "silu": (lambda x, y: F.silu(x.float()).bfloat16() * y, lambda x, y: F.silu(x) * y),
    "softmax": (
        lambda x, y: torch.softmax(x.float(), -1).to(torch.bfloat16) * y,
        lambda x, y: torch.softmax(x, -1) * y,
    ),
    "product": (lambda x, y: (x.float() * y.float()).bfloat16() + x, lambda x, y: x * y + x),
}


@pytest.mark.parametrize("name", HALVES)
def test_a_cast_to_the_type_of_the_arguments_is_no_difference(name: str) -> None:
    """In double precision such a cast rounds in one function alone."""
    x, y = (torch.randn(6, 8).bfloat16() for _ in range(2))
    first, second = HALVES[name]
    assert superopt.equivalent(first, second, x, y, seed=3).verdict == "equal"
    wrong = superopt.equivalent(first, lambda x, y: second(2 * x, y), x, y, seed=3)
    assert wrong.verdict == "different"


SIZED = {
    "mean": (lambda x: x.mean(-1), lambda x: x.sum(-1) / 8),
    "variance": (
        lambda x: x.var(-1),
        lambda x: (x - x.mean(-1, keepdim=True)).square().sum(-1) / (x.shape[-1] - 1),
    ),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: torch.softmax(x @ x.T / math.sqrt(x.shape[-1]), -1) @ x,
    ),
}


@pytest.mark.parametrize("name", SIZED)
def test_sizes_that_are_numbers_are_literals_beside_one_that_is_not(name: str) -> None:
    first, second = SIZED[name]
    rows = {"x": {0: Dim("n", min=2, max=4096)}}
    found = superopt.equivalent(first, second, torch.randn(6, 8), seed=3, dynamic=rows)
    assert found.verdict == "equal" and "ranges" in found.domain
    other = superopt.equivalent(
        lambda x: x.mean(0), lambda x: x.sum(0) / 6, torch.randn(6, 8), seed=3, dynamic=rows
    )
    assert other.verdict == "different"
