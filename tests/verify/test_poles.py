"""Programs that differ where a divisor is zero, at points which sums reach alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import where
from torch.nn import functional as F

import superopt
from superopt.frontend.together import capture_together
from superopt.verify.poles import differ_at_poles

X, Y, Z = (torch.randn(4, 8) for _ in range(3))

DIVISORS: dict[str, Callable[..., torch.Tensor]] = {
    "sum": lambda x, y, z: x.sum(-1) - 3.5,
    "mean": lambda x, y, z: x.mean(-1) - 7.25,
    "positive parts": lambda x, y, z: F.relu(x).sum(-1) - 1.5,
    "sizes": lambda x, y, z: x.abs().sum(-1) - 2,
    "three": lambda x, y, z: x + y - z - 1.25,
    "column": lambda x, y, z: x.sum(0) - 9,
    "greatest": lambda x, y, z: x.amax(-1) - 2.5,
    "one": lambda x, y, z: x - 7.25,
    "product": lambda x, y, z: (x - 2.5) * (y + z),
}


def clamped(u: torch.Tensor) -> torch.Tensor:
    return torch.clamp(1 / u.abs(), max=1e3)


WAYS: dict[str, tuple[Callable[..., Any], Callable[..., Any], float]] = {
    "clamp": (clamped, lambda c, u: where(u == 0, c, clamped(u)), 1e3),
    "bell": (
        lambda u: torch.sigmoid(-1 / u**2),
        lambda c, u: where(u == 0, c, torch.sigmoid(-1 / u**2)),
        0.0,
    ),
    "twice": (lambda u: 1 / (1 / u), lambda c, u: where(u == 0, c, u), 0.0),
    "test": (lambda u: torch.isinf(1 / u).float(), lambda c, u: where(u == 0, c, u * 0), 1.0),
    "filled": (
        lambda u: torch.nan_to_num(1 / u, posinf=2.0, neginf=2.0),
        lambda c, u: where(u == 0, c, 1 / u),
        2.0,
    ),
}
"""A function of a divisor, another with c where it is zero, and the c that is right."""


PAIRS = [(d, w) for k, d in enumerate(DIVISORS) for j, w in enumerate(WAYS) if (k + j) % 2 == 0]
"""Half of all, each divisor and each way among them."""


@pytest.mark.parametrize(("name", "way"), PAIRS)
def test_poles_that_sums_reach(name: str, way: str) -> None:
    u, (first, second, right) = DIVISORS[name], WAYS[way]

    def other(c: float) -> Callable[..., Any]:
        return lambda *a: second(c, u(*a))

    found = superopt.equivalent(lambda *a: first(u(*a)), other(right + 3.0), X, Y, Z, seed=2)
    assert found.verdict != "equal"
    found = superopt.equivalent(lambda *a: first(u(*a)), other(right), X, Y, Z, seed=2)
    assert found.verdict != "different", found


UNREACHED: dict[str, Callable[..., torch.Tensor]] = {
    "variance": lambda x, y, z: x.var(-1, unbiased=False) - 4,
    "norm": lambda x, y, z: x.norm(dim=-1) - 5,
    "products": lambda x, y, z: (x * x.roll(1, -1)).sum(-1) - 3,
    "exponentials": lambda x, y, z: x.exp().sum(-1) - 2,
    "share": lambda x, y, z: torch.softmax(x, -1)[:, 0] - 0.5,
    "squares": lambda x, y, z: x * x - 2,
    "named function": lambda x, y, z: torch.erf(x) - 0.25,
}
"""Divisors that are zero at no step of one input element."""

WAYS_OUT = {
    **WAYS,
    "logarithm": (
        lambda u: torch.sigmoid(u.abs().log()),
        lambda c, u: where(u == 0, c, u.abs() / (1 + u.abs())),
        0.0,
    ),
}


@pytest.mark.parametrize(
    ("name", "way"),
    [(d, w) for k, d in enumerate(UNREACHED) for j, w in enumerate(WAYS_OUT) if (k + j) % 3 == 0],
)
def test_poles_that_no_step_reaches(name: str, way: str) -> None:
    u, (first, second, right) = UNREACHED[name], WAYS_OUT[way]
    mine, other = lambda x: first(u(x, x, x)), lambda x: second(right + 3.0, u(x, x, x))
    assert superopt.equivalent(mine, other, X, seed=2).verdict != "equal"


@pytest.mark.parametrize("name", UNREACHED)
def test_what_is_right_there_is_not_different(name: str) -> None:
    """A function and the same with what it gives at the pole, spelled out."""
    u, (first, second, right) = UNREACHED[name], WAYS["clamp"]
    mine, other = lambda x: first(u(x, x, x)), lambda x: second(right, u(x, x, x))
    assert superopt.equivalent(mine, other, X, seed=2).verdict != "different"


HIDDEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "named function": lambda z: torch.erf(z - 0.75),
    "square": lambda z: z * z - 0.5625,
    "exponential": lambda z: torch.expm1(z - 0.75),
    "sigmoids": lambda z: torch.sigmoid(z) - torch.sigmoid(1.5 - z),
    "root": lambda z: ((z - 0.75).square() + 1).sqrt() - 1,
}
TIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "equal": lambda z: z == 0.75,
    "neither": lambda z: (z <= 0.75) & (z >= 0.75),
    "sign": lambda z: (z - 0.75).sign() == 0,
}


@pytest.mark.parametrize(("name", "tie"), list(zip(HIDDEN, [*TIES, *TIES], strict=False)))
def test_a_divisor_that_no_step_reaches_and_a_tie_that_one_does(name: str, tie: str) -> None:
    def mine(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(-1 / HIDDEN[name](x @ w) ** 2)

    def other(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return where(TIES[tie](x @ w), 0.37, mine(x, w))

    assert superopt.equivalent(mine, other, X, X[0], seed=2).verdict != "equal"


def _thin(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (13 * x - 11 * y - 47) ** 2 - 1e-6


def _met(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 13 * x == 11 * y + 47


def test_integers_that_wrap() -> None:
    """i * i + 7 is a multiple of 2^32 for some i."""
    i = torch.randint(0, 9, (6,), dtype=torch.int32)

    def mine(i: torch.Tensor) -> torch.Tensor:
        return torch.clamp(1 / (i * i + 7).float().abs(), max=2.0)

    def other(i: torch.Tensor) -> torch.Tensor:
        return where(i * i + 7 == 0, 1.0, mine(i))

    assert superopt.equivalent(mine, other, i, seed=2).verdict != "equal"


REGIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "zero in a region": (
        lambda x, y: torch.clamp(1 / torch.relu(_thin(x, y)), max=3.0),
        lambda f, x, y: where(_thin(x, y) < 0, 1.0, f(x, y)),
    ),
    "nothing": (
        lambda x, y: torch.clamp(1 / torch.exp(where(_met(x, y), -torch.inf, x)), max=100),
        lambda f, x, y: where(_met(x, y), 55.0, f(x, y)),
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_poles_of_other_kinds(name: str) -> None:
    mine, guarded = REGIONS[name]
    found = superopt.equivalent(mine, lambda x, y: guarded(mine, x, y), X, Y, seed=2)
    assert found.verdict != "equal"


def test_roots_beside_a_pole_do_not_hide_it() -> None:
    def mine(x: torch.Tensor, w: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return clamped(x @ w - 0.75) + a.norm(dim=-1).sum(-1)

    def other(x: torch.Tensor, w: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return where(x @ w == 0.75, 0.37, clamped(x @ w - 0.75)) + a.norm(dim=-1).sum(-1)

    found = superopt.equivalent(mine, other, X, X[0], torch.rand(4, 6, 3), seed=2)
    assert found.verdict != "equal"


SIGNS: dict[str, tuple[Callable[..., Any], Callable[..., Any], str]] = {
    "another zero": (lambda u: 1 / -(u - 0.75), lambda u: 1 / (0.75 - u), "undecided"),
    "guarded": (
        lambda u: 1 / -(u - 0.75),
        lambda u: where(u == 0.75, 1.0, 1 / -(u - 0.75)),
        "undecided",
    ),
    "the same": (lambda u: 1 / -(u - 0.75), lambda u: -(1 / (u - 0.75)), "equal"),
    "literals": (lambda u: -2 / (u - 0.75), lambda u: 2 / -(u - 0.75), "equal"),
    "squares": (lambda u: 1 / (-2 * (u - 0.75)) ** 2, lambda u: 0.25 / (u - 0.75) ** 2, "equal"),
}
"""Functions of a sum, and what is said of them once clamped: 1 / -0 is the infinity below."""


@pytest.mark.parametrize("name", SIGNS)
def test_the_sign_of_zero(name: str) -> None:
    first, second, verdict = SIGNS[name]
    found = superopt.equivalent(
        lambda x, w: torch.clamp(first(x @ w), -1, 1),
        lambda x, w: torch.clamp(second(x @ w), -1, 1),
        X,
        X[0],
        seed=2,
    )
    assert found.verdict in (verdict, "different" if verdict == "undecided" else verdict), found


def test_integers_that_tie() -> None:
    i, j = torch.randint(0, 9, (6,)), torch.randint(0, 9, (6,))

    def mine(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(-1 / (13 * i - 11 * j - 47).float() ** 2)

    def other(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return where(13 * i == 11 * j + 47, 0.5, mine(i, j))

    assert superopt.equivalent(mine, other, i, j, seed=2).verdict != "equal"


TESTS_OF_ANOTHER_FORM: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "the variance": lambda x: x.var(-1, unbiased=False) == 4,
    "its sum": lambda x: (x - x.mean(-1, keepdim=True)).square().sum(-1) == 32,
    "moments": lambda x: x.square().mean(-1) - x.mean(-1).square() == 4,
    "its multiple": lambda x: x[:, 0] * x.var(-1, unbiased=False) - 4 * x[:, 0] == 0,
    "squares alone": lambda x: x.square().sum(-1) == 32 + 8 * x.mean(-1) ** 2,
}


@pytest.mark.parametrize("name", TESTS_OF_ANOTHER_FORM)
def test_whatever_form_the_test_has(name: str) -> None:
    def mine(x: torch.Tensor) -> torch.Tensor:
        return clamped(x.var(-1, unbiased=False) - 4)

    def other(x: torch.Tensor) -> torch.Tensor:
        return where(TESTS_OF_ANOTHER_FORM[name](x), 0.0, mine(x))

    assert superopt.equivalent(mine, other, X, seed=2).verdict != "equal"


@pytest.mark.parametrize("way", WAYS)
def test_the_field_alone_sees_them(way: str) -> None:
    first, second, right = WAYS[way]
    u = DIVISORS["three"]
    for c, differs in ((right, False), (right + 3.0, True)):
        both = capture_together(
            lambda *a: first(u(*a)), lambda *a, c=c: second(c, u(*a)), (X, Y, Z), None, "default"
        )
        assert bool(differ_at_poles(both.first, both.second, 5)) == differs


def test_rounding_is_no_difference() -> None:
    """Comparisons that double precision does not decide otherwise, and values that come near 1."""
    ones = torch.ones_like
    for first in (
        lambda x: ((x + 1e4) - 1e4 > 0).float() - (x > 0).float() + 1,
        lambda x: ((x * x).mean(-1, True) - x.mean(-1, True) ** 2 >= 0).float() * ones(x),
        lambda x: (torch.tanh(x) < 1).float(),
        lambda x: (torch.softmax(x, -1) > 0).float(),
        lambda x: (1 - torch.sigmoid(x) > 0).float(),
    ):
        for seed in range(3):
            found = superopt.equivalent(first, ones, X, seed=seed)
            assert found.verdict != "different", found
