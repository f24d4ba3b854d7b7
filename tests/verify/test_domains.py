"""Equal where both are defined is not passed on: values that differ at a pole do not meet in one class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import where

from superopt.frontend.together import capture_together
from superopt.pipeline.attempts import attempts
from superopt.verify.cuts import Checker
from superopt.verify.domains import domain
from tests.verify.terms import K, P, program

X, Y = torch.randn(4, 3), torch.randn(4, 3)
M, N = torch.rand(4, 3) > 0.5, torch.randint(0, 5, (4,))

POLES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "quotient": (lambda c, x, y: where(y == 0, c, x / y), (X, Y)),
    "quotient, the other way": (lambda c, x, y: where(y != 0, x / y, c), (X, Y)),
    "by its size": (lambda c, x, y: where(y.abs() > 0, x / y, c), (X, Y)),
    "by its square": (lambda c, x, y: where(y * y > 0, x / y, c), (X, Y)),
    "of a product": (lambda c, x, y: where(x * y == 0, c, 1 / (x * y)), (X, Y)),
    "of a difference": (lambda c, x, y: where(x == y, c, (x * x - y * y) / (x - y)), (X, Y)),
    "that cancels": (lambda c, x, y: where(y == 0, c, x * y / y), (X, Y)),
    "sine": (lambda c, x: where(x == 0, c, x.sin() / x), (X,)),
    "logarithm": (lambda c, x: where(x == 0, c, x * x.log()), (X.abs(),)),
    "of a row": (lambda c, x: where(x.sum(1, True) == 0, c, x / x.sum(1, True)), (X,)),
    "of a norm": (lambda c, x: where(x.norm(dim=1) == 0, c, x[:, 0] / x.norm(dim=1)), (X,)),
    "in any column": (lambda c, x: where((x == 0).any(1), c, (1 / x).sum(1)), (X,)),
    "masked mean": (lambda c, x, m: where(m.any(1), (x * m).sum(1) / m.sum(1), c), (X, M)),
    "count": (lambda c, x, n: where(n == 0, c, x.sum(1) / n), (X, N)),
    "two, the outer": (lambda c, x, y: where(x == 0, c, where(y == 0, 2.0, 1 / (x * y))), (X, Y)),
    "two, the inner": (lambda c, x, y: where(x == 0, 2.0, where(y == 0, c, 1 / (x * y))), (X, Y)),
}
"""A value c at a pole, and arguments."""


@pytest.mark.parametrize("name", POLES)
def test_values_at_poles_are_told_apart_without_a_counterexample(name: str) -> None:
    fn, args = POLES[name]
    both = capture_together(lambda *a: fn(0.0, *a), lambda *a: fn(1.0, *a), args, None, "default")
    show = Checker(20, nan_counts=True)
    assert not show(both.first, both.second)
    for _, _, found in attempts(show, both.first, both.second, symbolic=False):
        assert not found or found.cases  # what need not have met every case is no equality


def test_a_value_that_a_pole_makes_equal_to_two_others() -> None:
    """x (x / x) equals x, and x but at 0, where it is defined; they are not equal."""

    def both(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x * (x / x), x * 1.0

    def other(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x * (x / x), where(x == 0, 5.0, x)

    pair = capture_together(both, other, (X,), None, "default")
    assert not Checker(20, nan_counts=True)(pair.first, pair.second)
    right = capture_together(both, lambda x: (x * x / x, x + 0.0), (X,), None, "default")
    assert Checker(20, nan_counts=True)(right.first, right.second)


def test_conditions_of_values() -> None:
    def conditions(make: Callable[[P], Any]) -> frozenset[Any]:
        g = program(make)
        return domain(g, g.outputs[0].node, lambda i: i)

    assert not conditions(lambda p: p.x * p.m + 1.0)
    one, two = conditions(lambda p: p.x.recip()), conditions(lambda p: p.x.recip() * p.x)
    assert one == two and len(one) == 1
    row = conditions(lambda p: p.x.recip().sum(K))
    assert len(row) == 1 and row != one  # all cells of the row are asked for
    guarded = conditions(
        lambda p: p.map(
            "where",
            p.map("eq", p.x, p.const(0.0), dtype="bool"),
            p.const(1.0),
            p.x.recip(),
            dtype="f32",
        )
    )
    assert len(guarded) == 1 and not guarded & one
