"""Exponentials of differences with logarithms: the softmax that they are, and what stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from superopt import superoptimize
from superopt.frontend.capture import capture
from superopt.frontend.partition import partition
from superopt.mugraph.graph import Graph, Map

Fn = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _by_hand(s: torch.Tensor) -> torch.Tensor:
    peak = s.amax(-1, keepdim=True)
    return peak + torch.log(torch.exp(s - peak).sum(-1, keepdim=True))


def _turned(s: torch.Tensor) -> torch.Tensor:
    peak = s.amax(-1, keepdim=True)
    return torch.exp(-(torch.log(torch.exp(s - peak).sum(-1, keepdim=True)) - (s - peak)))


SOFTMAX: dict[str, Fn] = {
    "log-sum-exp": lambda s, v: torch.exp(s - torch.logsumexp(s, -1, keepdim=True)) @ v,
    "of one dim less": lambda s, v: torch.exp(s - torch.logsumexp(s, -1)[:, None]) @ v,
    "log-softmax": lambda s, v: F.log_softmax(s, -1).exp() @ v,
    "by hand": lambda s, v: torch.exp(s - _by_hand(s)) @ v,
    "without a maximum": lambda s, v: torch.exp(s - torch.log(torch.exp(s).sum(-1, True))) @ v,
    "turned round": lambda s, v: _turned(s) @ v,
    "not summed": lambda s, v: torch.exp(s - torch.logsumexp(s, -1, keepdim=True)),
    "turned over": lambda s, v: torch.exp(torch.logsumexp(s, -1, keepdim=True) * -1.0 + s) @ v,
}
KEPT: dict[str, Fn] = {
    "another sum": lambda s, v: torch.exp(s - torch.log(s.square().sum(-1, keepdim=True))) @ v,
    "of other scores": lambda s, v: torch.exp(s - torch.log(torch.exp(2 * s).sum(-1, True))) @ v,
    "added": lambda s, v: torch.exp(s.clamp_max(0) + torch.logsumexp(s, -1, keepdim=True)) @ v,
    "twice": lambda s, v: torch.exp(s - 2 * torch.logsumexp(s, -1, keepdim=True)) @ v,
}


def given() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, 301, generator=g), torch.randn(301, 5, generator=g)


def of(fn: Fn) -> Graph:
    (piece,) = partition(capture(fn, given()), "default").supported
    return piece.graph


def logs(graph: Graph) -> int:
    live = graph.reachable([o.node for o in graph.outputs])
    return sum(isinstance(n := graph.nodes[i], Map) and n.op == "log" for i in live)


@pytest.mark.parametrize("name", [n for n in SOFTMAX if n != "turned over"])
def test_the_logarithm_is_gone(name: str) -> None:
    assert logs(of(SOFTMAX[name])) == 0


@pytest.mark.parametrize("name", KEPT)
def test_other_logarithms_stay(name: str) -> None:
    assert logs(of(KEPT[name])) == 1


@pytest.mark.parametrize("name", [*SOFTMAX, *KEPT])
def test_answers_are_pytorchs(name: str) -> None:
    """Finite ones, and NaN where every score is -inf, or one is inf."""
    fn = {**SOFTMAX, **KEPT}[name]
    s, v = given()
    fast = superoptimize(fn, fallbacks=(), strict=True, budget="100c")
    fast(s, v)
    s[1, 3:200], s[2], s[3, 7] = -torch.inf, -torch.inf, torch.inf
    rows = slice(0, 3) if name in ("added", "another sum", "of other scores") else slice(0, 6)
    got, want = fast(s, v)[rows], fn(s.double(), v.double())[rows]
    torch.testing.assert_close(
        got.double(),
        want,
        rtol=1e-4,
        atol=1e-4 * float(want.nan_to_num(0, 0, 0).abs().max()),
        equal_nan=True,
    )
