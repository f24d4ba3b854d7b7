"""What is told of a program by its sums and products alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from superopt.frontend.capture import capture
from superopt.frontend.partition import partition
from superopt.mugraph.sums import polynomial

Fn = Callable[..., object]

POLYNOMIALS: tuple[Fn, ...] = (
    lambda x, y: x @ y,
    lambda x, y: (x * 0.5 - y.T).mean(-1) / 8,
    lambda x, y: (x.square() - x**3).sum(),
    lambda x, y: x[1:] * y.T[:3],
    lambda x, y: -x.reshape(2, -1),
)
OTHERS: tuple[Fn, ...] = (
    lambda x, y: x / y.T,
    lambda x, y: x.exp() @ y,
    lambda x, y: x.amax(-1),
    lambda x, y: torch.where(x > 0, x, y.T),
    lambda x, y: x * torch.rsqrt(x.square().mean(-1, True)),
    lambda x, y: x.reciprocal(),
    lambda x, y: torch.relu(x),
    lambda x, y: x.abs(),
)


@pytest.mark.parametrize(
    ("fn", "want"), [(f, True) for f in POLYNOMIALS] + [(f, False) for f in OTHERS]
)
def test_polynomials_are_known(fn: Fn, want: bool) -> None:
    program = partition(capture(fn, (torch.zeros(4, 6), torch.zeros(6, 4))), "default")
    (piece,) = program.supported
    assert polynomial(piece.graph) is want
