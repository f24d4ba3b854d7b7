"""Losses, distances, counts, integers and windows: their graphs give PyTorch's answers."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.frontend.cases import Case, ints, r
from tests.frontend.harness import check, program
from tests.frontend.more import FAMILIES

Tensor = torch.Tensor

LEAST = {
    "losses": 160,
    "distances": 20,
    "activations": 100,
    "counts": 190,
    "integers": 85,
    "places": 85,
}
"""Cases that a family must at least have."""


def converted(args: tuple[Any, ...], to: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    return tuple(to(a) if a.dtype.is_floating_point else a for a in args)


def turned(x: Tensor) -> Tensor:
    """The same numbers, column-major."""
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() > 1 else x


WAYS: dict[str, Callable[[Case], Any]] = {
    "as it is": lambda c: check(c.fn, *c.args),
    "double": lambda c: check(c.fn, *converted(c.args, Tensor.double)),
    "column-major": lambda c: check(c.fn, *(turned(x) for x in c.args)),
    "16 bits": lambda c: check(c.fn, *converted(c.args, Tensor.bfloat16)),
    "16 bits, rounded": lambda c: check(
        c.fn, *converted(c.args, Tensor.bfloat16), precision="eager"
    ),
}


def ways(case: Case) -> list[str]:
    """How a case may be tried."""
    floats = any(x.dtype.is_floating_point for x in case.args)
    if not floats:
        return ["as it is", "column-major"]
    return [w for w in WAYS if not (case.wide and "16" in w)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row(family: str) -> None:
    """Each case in one of the ways, which its name decides."""
    tried: Counter[str] = Counter()
    for case in FAMILIES[family]():
        open_ways = ways(case)
        way = open_ways[zlib.crc32(case.name.encode()) % len(open_ways)]
        try:
            WAYS[way](case)
        except AssertionError as e:
            raise AssertionError(f"{case.name}, {way}: {e}") from e
        tried[way] += 1
    assert sum(tried.values()) >= LEAST[family], tried
    assert all(tried[w] for w in (WAYS if family != "integers" else ("as it is", "column-major")))


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_in_every_way(family: str, way: str) -> None:
    for case in FAMILIES[family]():
        if way in ways(case):
            try:
                WAYS[way](case)
            except AssertionError as e:
                raise AssertionError(f"{case.name}: {e}") from e


LEFT: list[tuple[str, Callable[..., Any], tuple[Any, ...], str]] = [
    ("binary_cross_entropy", lambda x, t: F.binary_cross_entropy(x, t) * 2, (), "between 0 and 1"),
    ("max_pool2d", lambda x: F.max_pool2d(x * 2, 3, 2, 1) + 1, (r(2, 3, 8, 6),), "padding"),
    ("avg_pool2d", lambda x: F.avg_pool2d(x * 2, 3, 2, 1) + 1, (r(2, 3, 8, 6),), "padding"),
    (
        "avg_pool1d",
        lambda x: F.avg_pool1d(x * 2, 2, ceil_mode=True) + 1,
        (r(2, 3, 9),),
        "over the end",
    ),
    (
        "adaptive_avg_pool1d",
        lambda x: F.adaptive_avg_pool1d(x * 2, 4) + 1,
        (r(2, 3, 9),),
        "several sizes",
    ),
    ("floor_divide", lambda x: x // (x * 0 + 2) + 1, (ints(3, 4),), "by a tensor"),
    ("fmod", lambda x: torch.fmod(x, x * 0 + 2) + 1, (ints(3, 4),), "by a tensor"),
    (
        "pairwise_distance",
        lambda x: F.pairwise_distance(x * 2, x, 3.0) + 1,
        (r(3, 4),),
        "order 3",
    ),
    (
        "prod",
        lambda x: (x + 1)[:, None].expand(3, 5, 4).prod(1) + x,
        (ints(3, 4),),
        "expanded",
    ),
]


@pytest.mark.parametrize("case", LEFT, ids=[c[0] for c in LEFT])
def test_what_stays_in_pytorch(case: Any) -> None:
    name, fn, args, why = case
    args = args or (torch.rand(3, 4), torch.rand(3, 4))
    made = check(fn, *args, boundaries=(name,))
    assert why in made.boundaries[0].reason


def test_classes_that_depend_on_data_are_refused() -> None:
    made = program(lambda i: F.one_hot(i, 1) + 1, torch.zeros(3, dtype=torch.int64))
    assert [b.op for b in made.boundaries] == ["one_hot"]
