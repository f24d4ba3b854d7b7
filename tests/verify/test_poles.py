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
