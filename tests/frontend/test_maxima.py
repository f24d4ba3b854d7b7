"""Maxima in exponents: one is left of several, and answers are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from superopt.mugraph.graph import Graph, Map, Reduce
from tests.frontend.harness import check

Fn = Callable[[Tensor, Tensor], Tensor]


def _sink(s: Tensor, t: Tensor) -> Tensor:
    peak = torch.maximum(s.amax(-1, keepdim=True), t)
    p = torch.exp(s - peak)
    return p / (p.sum(-1, keepdim=True) + torch.exp(t - peak))


def _least(s: Tensor, t: Tensor) -> Tensor:
    """A shift that keeps its maximum above a number."""
    p = torch.exp(s - s.amax(-1, keepdim=True).clamp_min(1.0))
    return p * t


ONE: dict[str, Fn] = {
    "sink": _sink,
    "bound": _least,
    "shifted twice": lambda s, t: torch.softmax(s - s.amax(-1, keepdim=True), -1) * t,
    "values of a maximum": lambda s, t: torch.softmax(s - s.max(-1, keepdim=True)[0], -1) * t,
}
LEFT: dict[str, Fn] = {
    "no exponential": lambda s, t: torch.maximum(s.amax(-1, keepdim=True), t) * s,
    "read elsewhere": lambda s, t: (
        torch.exp(s - torch.maximum(m := s.amax(-1, keepdim=True), t)) + m
    ),
    "along the axis": lambda s, t: torch.exp(s - torch.maximum(s.amax(-1, keepdim=True), s * t)),
}


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_what_an_infinite_shift_makes_nan_stays_nan(value: float) -> None:
    s, t = torch.randn(4, 9), torch.randn(4, 1)
    t[1] = value
    check(lambda s, t: torch.softmax(s - t, -1), s, t)
    s[2, 3] = value
    check(lambda s: torch.softmax(s - s.max(), -1), s)


def maxima(graph: Graph) -> list[str]:
    """The kinds of the maxima that the program takes, in no order."""
    live = (graph.nodes[i] for i in graph.reachable([o.node for o in graph.outputs]))
    found = [n for n in live if isinstance(n, Map | Reduce) and n.op == "max"]
    return sorted(type(n).__name__ for n in found)


def of(fn: Fn) -> Graph:
    gen = torch.Generator().manual_seed(0)
    made = check(fn, 5 * torch.randn(6, 33, generator=gen), torch.randn(6, 1, generator=gen))
    (piece,) = made.supported
    return piece.graph


@pytest.mark.parametrize("name", ONE)
def test_one_running_maximum_is_left(name: str) -> None:
    graph = of(ONE[name])
    assert maxima(graph).count("Reduce") == 1
    for node in graph.nodes:  # a bound is inside
        if isinstance(node, Map) and node.op == "max":
            assert not any(isinstance(graph.nodes[a], Reduce) for a in node.args)


@pytest.mark.parametrize("name", LEFT)
def test_others_stay(name: str) -> None:
    assert maxima(of(LEFT[name])) == ["Map", "Reduce"]


@pytest.mark.parametrize("name", ONE)
def test_infinite_scores(name: str) -> None:
    s, t = torch.randn(4, 9), torch.randn(4, 1)
    s[0], s[1, 2:], s[2, 3] = -torch.inf, -torch.inf, torch.inf
    check(ONE[name], s, t)
