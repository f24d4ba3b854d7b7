"""``dynamic=``: one search serves every size of the range, and other sizes specialize."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

from superopt import superoptimize
from superopt.errors import BadOption
from superopt.search import driver
from tests.api.programs import assert_same, gated_mlp, rmsnorm_linear

SHARED_CACHE = True
Make = Callable[[int], tuple[torch.Tensor, ...]]
Count = Callable[[Any, str], list[int]]

W, U, G = torch.randn(64, 48) / 8, torch.randn(64, 48) / 8, torch.rand(64) + 0.5


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def scores(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * 2) @ y.t()


def with_its_size_as_a_row(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x[:1] * 0 + x.shape[0]], 0).var(0)


def around_a_scan(x: torch.Tensor) -> torch.Tensor:
    return torch.cumsum(x * 2, 0) + 1


TOKENS = Dim("tokens", min=1, max=4096)
KEYS = Dim("keys", min=2, max=9000)
r = torch.randn

CASES: dict[str, tuple[Callable[..., torch.Tensor], Make, dict[str, Any]]] = {
    "rmsnorm_linear": (rmsnorm_linear, lambda n: (r(n, 64), G, W), {"x": {0: TOKENS}}),
    "gated_mlp": (gated_mlp, lambda n: (r(n, 64), W, U), {"x": {0: TOKENS}}),
    "softmax": (lambda x: torch.softmax(x, -1), lambda n: (r(3, n),), {"x": {1: TOKENS}}),
    "column_mean": (lambda x: x - x.mean(0), lambda n: (r(n, 16),), {"x": {0: TOKENS}}),
    "mean_over_two": (
        lambda x: (x - x.mean((0, 2), True)) * torch.rsqrt(x.square().mean((0, 2), True) + 1e-5),
        lambda n: (r(n, 8, 5),),
        {"x": {0: TOKENS}},
    ),
    "a_size_in_a_kernel_without_its_axis": (
        with_its_size_as_a_row,
        lambda n: (r(n, 8),),
        {"x": {0: TOKENS}},
    ),
    "decode": (
        decode,
        lambda n: (r(2, 1, 16), r(2, n, 16), r(2, n, 16)),
        {"k": {1: KEYS}, "v": {1: KEYS}},
    ),
    "causal": (
        causal,
        lambda n: (r(2, n, 16), r(2, n, 16), r(2, n, 16)),
        {"q": {1: TOKENS}, "k": {1: TOKENS}, "v": {1: TOKENS}},
    ),
    "two_symbols": (
        scores,
        lambda n: (r(n, 16), r(2 * n + 1, 16)),
        {"x": {0: TOKENS}, "y": {0: KEYS}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_search_for_all_sizes(name: str, count: Count, warnings: Callable[[], Any]) -> None:
    fn, make, dynamic = CASES[name]
    captures = count(driver, "search")
    fast = superoptimize(fn, dynamic=dynamic, fallbacks=())
    first = make(40)
    assert_same(fast(*first), fn(*first))
    found = len(captures)
    for n in (2, 3, 33, 127, 128, 700):
        args = make(n)
        assert_same(fast(*args), fn(*args))
    assert len(captures) == found <= 1
    result = fast.result(*first)
    # Of many rows of one number, eager's mean has no error at all, and the gate refuses ours.
    assert result.winner in ("generated", *(["by size"] if "mean" in name else []))
    tried = {c["name"] for c in result.certificate["gate"]["classes"]}
    assert any("=" in t for t in tried)
    assert warnings() == []


FROM_ONE = {
    "rmsnorm_linear": ({"x": {0: TOKENS}}, [(1, 4096)]),
    "softmax": ({"x": {1: TOKENS}}, [(1, 4096)]),
    "column_mean": ({"x": {0: TOKENS}}, [(1, 4096)]),
    "causal": ({"q": {1: TOKENS}, "k": {1: TOKENS}, "v": {1: TOKENS}}, [(1, 4096)]),
    "two_symbols": ({"x": {0: TOKENS}, "y": {0: KEYS}}, [(1, 4096), (2, 9000)]),
}


@pytest.mark.parametrize("name", FROM_ONE)
def test_a_range_begins_at_one_where_that_is_shown(name: str, count: Count) -> None:
    """PyTorch captures sizes from 2 on; size 1 is captured beside them, and shown to be the same."""
    (fn, make, _), (dynamic, ranges) = CASES[name], FROM_ONE[name]
    searches = count(driver, "search")
    fast = superoptimize(fn, dynamic=dynamic, fallbacks=(), strict=True)
    args = make(40)
    assert_same(fast(*args), fn(*args))
    found = len(searches)
    for n in (1, 2, 4096 if name == "softmax" else 300, 1):
        args = make(n)
        mine, theirs = fast(*args), fn(*args)
        assert_same(mine, theirs)
        assert mine.stride() == theirs.stride()
    assert len(searches) == found <= 1
    certificate = fast.result(*make(40)).certificate
    assert fast.result(*make(1)) is fast.result(*make(40))
    assert [(d["low"], d["high"]) for d in certificate["domain"]] == ranges
    assert any("=1" in c["name"] for c in certificate["gate"]["classes"])


def test_two_ranges_begin_at_one(count: Count) -> None:
    keys = Dim("keys", min=1, max=300)
    searches = count(driver, "search")
    fast = superoptimize(
        scores, dynamic={"x": {0: TOKENS}, "y": {0: keys}}, fallbacks=(), strict=True
    )
    for m, n in ((40, 30), (1, 1), (1, 30), (40, 1), (1, 300), (2, 1)):
        x, y = r(m, 16), r(n, 16)
        assert_same(fast(x, y), scores(x, y))
    assert len(searches) == 1


OTHERWISE: dict[str, tuple[Callable[..., torch.Tensor], Make]] = {
    "another operator": (lambda x: x.exp() if x.shape[0] == 1 else x.sin(), lambda n: (r(n, 16),)),
    "another factor": (lambda x: x.exp() * (2 if len(x) == 1 else 3), lambda n: (r(n, 16),)),
    "another rank": (lambda x: x.exp().squeeze(0), lambda n: (r(n, 16),)),
    "it broadcasts": (
        lambda x, y: (x.expand(8, 16) if len(x) == 1 else x[:8]) * y,
        lambda n: (r(n, 16), r(8, 16)),
    ),
    "it raises": (lambda x: x.exp() / (len(x) > 1 or [][0]), lambda n: (r(n, 16),)),
    "another dtype": (
        lambda x: x.exp().double() if len(x) == 1 else x.exp(),
        lambda n: (r(n, 16),),
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_another_function_at_one_is_served_as_that(name: str, count: Count) -> None:
    fn, make = OTHERWISE[name]
    fast = superoptimize(fn, dynamic={"x": {0: TOKENS}})
    for n in (40, 1, 9, 1):
        args = make(n)
        if name == "it raises" and n == 1:
            with pytest.raises(IndexError):
                fast(*args)
        else:
            assert_same(fast(*args), fn(*args))
    for found in fast._results.values():
        domain = found.certificate["domain"]
        assert not domain or domain[0]["low"] == 2


def test_sizes_outside_the_range_specialize(count: Count) -> None:
    searches = count(driver, "search")
    dim = Dim("tokens", min=4, max=64)
    fast = superoptimize(rmsnorm_linear, dynamic={"x": {0: dim}}, fallbacks=())
    for n in (8, 9, 65, 1, 8, 65):
        x = r(n, 64)
        assert_same(fast(x, G, W), rmsnorm_linear(x, G, W))
    assert len(searches) <= 3
    assert len(fast._results) == 3


@pytest.mark.parametrize("size", [1, 33])
def test_a_range_of_one_size_is_a_size(size: int) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x * 3, -1)

    dynamic: dict[str, Any] = {"x": {1: ("n", size, size)}}
    for more in ({}, {0: ("m", 2, 64)}):
        fast = superoptimize(fn, dynamic={"x": dynamic["x"] | more}, fallbacks=(), strict=True)
        for shape in ((7, size), (7, 5), (9, size)):
            x = r(shape)
            torch.testing.assert_close(fast(x), fn(x))
    with pytest.raises(BadOption, match="no argument"):
        superoptimize(fn, dynamic={"z": {0: ("n", 3, 3)}})


def test_an_operator_left_to_pytorch_specializes() -> None:
    fast = superoptimize(around_a_scan, dynamic={"x": {0: TOKENS}}, fallbacks=())
    for n in (7, 70):
        x = r(n, 16)
        assert_same(fast(x), around_a_scan(x))


def test_a_dimension_that_the_tensor_does_not_have(warnings: Callable[[], Any]) -> None:
    x, dynamic = r(7, 16), {"x": {5: TOKENS}}
    with pytest.raises(BadOption, match="dimension 5 of 'x', which has 2"):
        superoptimize(around_a_scan, dynamic=dynamic, strict=True)(x)
    fast = superoptimize(around_a_scan, dynamic=dynamic)
    for _ in range(2):
        assert_same(fast(x), around_a_scan(x))
    (line,) = warnings()
    assert "around_a_scan runs in PyTorch: dynamic names dimension 5 of 'x'" in line
