"""Signs of values, against their values on floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from superopt.frontend.together import capture_together
from superopt.mugraph.algebras import floats
from superopt.mugraph.graph import Graph, Map, Output
from superopt.verify.probe import unfolded
from superopt.verify.signs import ANY, signs
from tests.strategies import graphs, sizes_for, tensors_for

CASES = 200
DEFINITE = 150
"""Values that some sign is excluded for, at least: they are what can be wrong."""

POSITIVE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "variance and a number": lambda x: x.var(-1, unbiased=False) + 1e-5,
    "root of squares and a number": lambda x: (x.square().mean(-1) + 1e-6).sqrt(),
    "sum of exponentials": lambda x: x.exp().sum(-1),
    "softmax": lambda x: torch.softmax(x, -1),
    "sigmoid": torch.sigmoid,
    "absolute value and a number": lambda x: x.abs() + 0.5,
    "unbiased variance and a number": lambda x: x.var(-1) * 7 / 8 + 1e-5,
    "guarded": lambda x: torch.where(x.sum(-1) == 0, 1.0, x.sum(-1)).square(),
    "guarded otherwise": lambda x: torch.where(x != 0, x, 2.0).abs(),
    "floor": lambda x: x.abs().clamp_min(1e-3),
}
MAY_BE_ZERO: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "norm": lambda x: x.norm(dim=-1),
    "variance": lambda x: x.var(-1, unbiased=False),
    "variance less a number": lambda x: x.var(-1, unbiased=False) - 4,
    "rectified": F.relu,
    "difference": lambda x: x.exp() - 2,
    "chosen": lambda x: torch.where(x > 0, x, 1.0),
    "mask": lambda x: (x > 0).float(),
    "greatest of a number and its multiple": lambda x: torch.maximum(
        torch.full_like(x, -1.0), x * -1.0
    ),
    "guarded the wrong way": lambda x: torch.where(x == 0, x, 1.0),
    "guarded beside": lambda x: torch.where(x == 0, 1.0, x - 1.0),
    "exponential of nothing": lambda x: torch.where(x > 0, x, -torch.inf).exp(),
    "integers that wrap": lambda x: ((x * 8).int().square() + 7).float(),
    "padded": lambda x: F.pad(x.exp(), (1, 1)),
}


def _signs(fn: Callable[[torch.Tensor], torch.Tensor]) -> frozenset[int]:
    graph = capture_together(fn, fn, (torch.randn(3, 8),), None, "default").first
    graph = unfolded(graph)
    return signs(graph)[graph.outputs[0].node]


@pytest.mark.parametrize("name", POSITIVE)
def test_what_cannot_be_zero(name: str) -> None:
    assert _signs(POSITIVE[name]) == {1}


@pytest.mark.parametrize("name", MAY_BE_ZERO)
def test_what_may_be_zero(name: str) -> None:
    assert 0 in _signs(MAY_BE_ZERO[name])


def test_values_have_the_signs() -> None:
    """Of every value of random programs; zeros of exponentials are left out: they may underflow."""
    tried = definite = 0

    @settings(max_examples=CASES, deadline=None, database=None, derandomize=True)
    @given(graphs(), st.integers(0, 1 << 16))
    def check(drawn: Graph, seed: int) -> None:
        nonlocal tried, definite
        graph = unfolded(drawn)
        real = [i for i in range(len(graph.nodes)) if graph.nodes[i].dtype != "bool"]
        outputs = tuple(Output(f"n{i}", i, tuple((x,) for x in graph.nodes[i].axes)) for i in real)
        known, whole = signs(graph), replace(graph, outputs=outputs)
        sizes = sizes_for(graph, seed)
        tensors = tensors_for(graph, seed, sizes)
        rounded = [x.round() if x.is_floating_point() else x for x in tensors]
        underflows = any(isinstance(n, Map) and n.op == "exp" for n in graph.nodes)
        for inputs in (tensors, rounded):
            wide = [x.double() if x.is_floating_point() else x for x in inputs]
            for i, values in zip(real, floats.run(whole, wide, sizes), strict=True):
                tried, definite = tried + 1, definite + (known[i] != ANY)
                values = values.double()
                found = set(values[~values.isnan()].sign().int().unique().tolist())
                assert found <= known[i] | ({0} if underflows else set()), (graph, i)

    check()
    assert tried >= 10 * CASES and definite >= DEFINITE, (tried, definite)
