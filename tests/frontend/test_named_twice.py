"""One value read under several names of its axes: transposed, gathered, multiplied with itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from superopt.frontend.capture import capture
from superopt.frontend.partition import partition
from superopt.mugraph.graph import Reduce, View
from tests.frontend.harness import check

Tensor = torch.Tensor


def r(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


ROWS = torch.tensor([3, 0, 0, 4, 2])

GATHERED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "rows of both": lambda a, i: a.T[i] + a[i],
    "compared": lambda a, i: a[i] > a.T[i],
    "selected": lambda a, i: a.index_select(0, i) > a.index_select(1, i).T,
    "columns turned": lambda a, i: a[i] >= a[:, i].T,
    "product": lambda a, i: a[i] @ a[:, i],
    "of a product": lambda a, i: (a @ a.T)[i] + (a @ a.T)[i].T,
}


@pytest.mark.parametrize("name", GATHERED)
@pytest.mark.parametrize("whole", [False, True])
def test_gathers_read_under_other_names(name: str, whole: bool) -> None:
    a = (r(5, 5) * 8).round() if whole else r(5, 5)
    check(GATHERED[name], a, ROWS)
    if whole and name in ("rows of both", "compared", "columns turned"):
        check(GATHERED[name], a.long(), ROWS)


def squared(x: Tensor) -> Any:
    m = x @ x
    m = m - m.mean(-1, keepdim=True)
    return m - m.T


def test_a_product_with_itself_is_computed_once() -> None:
    made = check(squared, r(7, 7))
    (piece,) = made.supported
    assert sum(isinstance(n, Reduce) for n in piece.graph.nodes) == 2  # the product and the mean


def test_an_expanded_divisor_takes_the_names_of_what_it_divides() -> None:
    """The norm in ``normalize`` is expanded before it divides; no value is read under two names."""

    def twice(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        once = torch.nn.functional.normalize(x, dim=-1)
        return torch.nn.functional.normalize(once + y, dim=-1)

    args = (torch.randn(3, 8), torch.randn(3, 8))
    (piece,) = partition(capture(twice, args), "default").supported
    assert not [n for n in piece.graph.nodes if isinstance(n, View)]
    assert len(piece.graph.axes) == 2
