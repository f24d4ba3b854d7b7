"""Random programs of the frontend's operators through every stage: kernels give PyTorch's answer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from superopt import superoptimize
from superopt.pipeline import making
from tests.frontend.harness import close
from tests.frontend.test_programs import BASE, Made, for_programs

ALLOWED = ("search: ", "gate: ")
"""Stages that may, rarely, refuse a random program: it then runs in PyTorch, and says so."""


def same_order(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether a result has the strides of PyTorch's; where that is not dense, it may be."""
    long = [d for d, n in enumerate(y.shape) if n > 1]
    dense = y.numel() == 0 or torch.empty_like(y).stride() == y.stride()
    return not dense or y.numel() == 0 or all(x.stride(d) == y.stride(d) for d in long)


def try_program(made: Made, seen: Counter[str], warnings: Callable[[], list[str]]) -> None:
    """The decorated program, in kernels where it may be, equals the program in float64."""
    args = tuple(made.inputs)
    before = len(warnings())
    with torch.no_grad():
        want = made(*args)
        exact = [w.to(v.dtype) for w, v in zip(made.run(args, True), want, strict=True)]
        fast = superoptimize(made, fallbacks=())
        for _ in range(2):
            got = fast(*args)
            for x, y in zip(got, exact, strict=True):
                close(x, y, BASE.get(y.dtype, 0.0) * made.scale)
            for x, y in zip(got, want, strict=True):
                assert same_order(x, y), (x.stride(), y.stride())
                seen["not row-major"] += not y.is_contiguous()
    said = warnings()[before:]
    assert len(said) <= 1, said
    seen["programs"] += 1
    seen["empty"] += any(x.numel() == 0 for x in args)
    seen["16 bits"] += args[0].dtype == torch.bfloat16
    seen["strided"] += any(x not in ("contiguous", "index") for x in made.layouts)
    if not said:
        seen["in kernels"] += 1
    elif "nothing in the program" in said[0] or (
        "capture" in said[0] and not made.inputs[0].numel()
    ):
        seen["nothing to compute"] += 1
    else:
        assert any(stage in said[0] for stage in ALLOWED), said
        seen["refused"] += 1
        logging.getLogger("tests").info("%s", said[0])


def many(
    count: int, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Tries as many programs, and counts what came of them."""
    seen: Counter[str] = Counter()
    monkeypatch.setattr(making, "SHORTLIST", 5)  # the first choice may be refused at infinities
    for_programs(count, lambda made: try_program(made, seen, warnings))
    assert seen["programs"] >= 0.7 * count, seen
    assert seen["in kernels"] >= 0.5 * count, seen
    assert seen["refused"] <= 0.05 * seen["in kernels"], seen
    for kind in ("16 bits", "strided", "empty"):
        assert seen[kind] >= count // 15, seen
    return seen


@pytest.mark.filterwarnings("ignore:var")
def test_random_programs_in_kernels(
    warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    many(20, warnings, monkeypatch)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:var")
def test_many_random_programs_in_kernels(
    warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    many(400, warnings, monkeypatch)
