"""What a case of an operator is, and the tensors that cases are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Case:
    """A function of tensors.

    wide: not tried in 16 bits (a rounding may take it to another value, or PyTorch cannot do it).
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    wide: bool = False


def r(*shape: int) -> Tensor:
    """Random numbers, the same for one shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def ints(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Integers from -9 to 9, or 0 to 18 of an unsigned type."""
    g = torch.Generator().manual_seed(sum(shape))
    low = 0 if dtype == torch.uint8 else -9
    return torch.randint(low, low + 19, shape, generator=g).to(dtype)


def unit(*shape: int) -> Tensor:
    """Numbers between 0 and 1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


WIDE = torch.tensor(
    [[0.0, -0.0, 1e-3, -1e-3, 0.5, -0.5, 1.5, -2.5], [3, -3, 9, -9, 20, -20, 80, -80]]
)
EDGES = torch.tensor([[0.0, float("inf"), float("-inf"), float("nan")], [1.0, -1.0, 2.5, -0.5]])
