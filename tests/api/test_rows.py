"""Losses, distances, counts, integers and windows in kernels: the decorated function equals eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from superopt import superoptimize
from tests.frontend.cases import Case
from tests.frontend.harness import close
from tests.frontend.more import FAMILIES

SHARED_CACHE = True
AT_ONCE = 8
"""Cases whose results are computed by one function."""


def chosen() -> list[Case]:
    """Of every operator the first case, and of what has several kinds of elements one of each."""
    first: dict[str, Case] = {}
    for family in FAMILIES.values():
        for case in family():
            words = case.name.split()
            kind = [w for w in words if w in ("bool", "u8", "f32", "edges", "torch.int8")]
            first.setdefault(" ".join((words[0], *kind)), case)
    return list(first.values())


CASES = chosen()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", range(0, len(CASES), AT_ONCE))
def test_rows_in_kernels(start: int, warnings: Callable[[], list[str]]) -> None:
    cases = CASES[start : start + AT_ONCE]

    def every(*args: torch.Tensor) -> list[Any]:
        rest = list(args)
        return [c.fn(*(rest.pop(0) for _ in c.args)) for c in cases]

    args = [a for c in cases for a in c.args]
    with torch.no_grad():
        want = every(*args)
        fast = superoptimize(every, fallbacks=())
        for _ in range(2):
            for case, got, exact in zip(cases, fast(*args), want, strict=True):
                try:
                    close(got, exact, 1e-4)
                except AssertionError as e:
                    raise AssertionError(f"{case.name}: {e}") from e
    assert not warnings(), [c.name for c in cases]


def test_enough_rows_are_tried() -> None:
    assert len(CASES) >= 75


def test_classes_beyond_the_last_are_an_error() -> None:
    """As in PyTorch, which runs when a kernel meets one."""
    fast = superoptimize(lambda i: F.one_hot(i, 4) * 2, fallbacks=())
    at = torch.tensor([0, 3, 2])
    assert torch.equal(fast(at), F.one_hot(at, 4) * 2)
    for wrong in (torch.tensor([0, 4, 2]), torch.tensor([0, -1, 2])):
        with pytest.raises(RuntimeError, match="Class values"):
            fast(wrong)
