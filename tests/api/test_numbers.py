"""A held tensor that code reads as a number: the number is that of the call, not of the first one."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from superopt import api, superoptimize
from superopt.errors import UnsupportedOperator

SHARED_CACHE = True

Warnings = Callable[[], list[str]]

t, n, pair = torch.tensor(2.0), torch.tensor(3), torch.tensor([1, 2])

CASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "item": lambda x: torch.exp(x) * t.item(),
    "float": lambda x: torch.exp(x / float(t)),
    "int in a slice": lambda x: torch.exp(x)[:, : int(n)],
    "a bound of a slice": lambda x: torch.exp(x)[:, :n],
    "tolist": lambda x: torch.exp(x)[pair.tolist()],
    "unpacked": lambda x: (lambda a, b: torch.exp(x) * a + b)(*pair.tolist()),
    "an index of a list": lambda x: torch.exp([x, x + 1, x + 2, x + 3, x][n]),
    "a size": lambda x: torch.exp(x) + torch.full((4,), t),
    "a range": lambda x: torch.exp(x)[:, torch.arange(n)],
    "a condition": lambda x: torch.exp(x) * 2 if t > 2 else torch.exp(x),
    "numpy": lambda x: torch.exp(x) * float(t.numpy()),
    "text": lambda x: torch.exp(x) * len(str(pair.tolist())),
}


class WithNumber(nn.Module):
    """A module whose forward reads a buffer as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.t: torch.Tensor
        self.register_buffer("t", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x) * self.t.item()


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_read_anew(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    fn, x = CASES[name], torch.randn(4, 4)
    fast = superoptimize(fn, fallbacks=())
    try:
        for value in (2.0, 3.0, 2.0):
            torch.testing.assert_close(fast(x), fn(x), rtol=1e-4, atol=1e-4)
            t.fill_(value), n.fill_(int(value)), pair.fill_(int(value) - 1)
            torch.testing.assert_close(fast(x), fn(x), rtol=1e-4, atol=1e-4)
    finally:
        t.fill_(2.0), n.fill_(3), pair.copy_(torch.tensor([1, 2]))
    assert "def forward" not in capfd.readouterr().err  # what PyTorch prints when it gives up


def test_numbers_of_modules_are_read_anew(warnings: Warnings) -> None:
    module, x = WithNumber(), torch.randn(4, 4)
    fast, held = superoptimize(module), superoptimize(lambda x: module(x))
    for value in (2.0, 5.0):
        module.load_state_dict({"t": torch.tensor(value)})
        torch.testing.assert_close(fast(x), module(x))
        torch.testing.assert_close(held(x), module(x))
    assert all("reads the value of a tensor that it holds" in line for line in warnings())
    with pytest.raises(UnsupportedOperator, match=r"test_numbers.py:\d+.* self.t.item"):
        superoptimize(lambda x: module(x), strict=True)(x)


def test_a_tensor_that_is_no_number_is_an_input() -> None:
    x = torch.randn(4, 4)
    fast = superoptimize(lambda x: torch.exp(x) * t + pair.sum(), fallbacks=())
    torch.testing.assert_close(fast(x), torch.exp(x) * t + pair.sum())
    assert fast.result(x).winner == "generated"


def test_gradients_that_are_set_are_real() -> None:
    weight = nn.Parameter(torch.randn(4))

    def fn(x: torch.Tensor) -> torch.Tensor:
        weight.grad = torch.exp(x)[0] * 2
        return torch.exp(x) * weight

    with torch.no_grad():
        fast = superoptimize(fn)
        for _ in range(3):
            x = torch.randn(4, 4)
            torch.testing.assert_close(fast(x), torch.exp(x) * weight)
            assert type(weight.grad) is torch.Tensor
            torch.testing.assert_close(weight.grad, torch.exp(x)[0] * 2)


class Gain:
    """An object that is held by a proxy."""

    gain = 2.0


def test_what_cannot_be_a_key_is_left_to_pytorch(warnings: Warnings) -> None:
    thing: Any = Gain()
    held, x = weakref.proxy(thing), torch.randn(4, 4)
    fast = superoptimize(lambda x: torch.exp(x) * held.gain)
    for gain in (2.0, 3.0):
        thing.gain = gain
        torch.testing.assert_close(fast(x), torch.exp(x) * gain)
    assert len(warnings()) == 1


def test_numbers_that_go_on_changing_run_in_pytorch(
    monkeypatch: pytest.MonkeyPatch, warnings: Warnings
) -> None:
    monkeypatch.setattr(api, "VARIANTS", 3)
    x = torch.randn(4, 4)
    fast = superoptimize(lambda x, k: torch.exp(x) * k, fallbacks=())
    for k in range(6):
        torch.testing.assert_close(fast(x, float(k)), torch.exp(x) * k)
    assert len(fast._results) == 3
    assert len(warnings()) == 1 and "pass what changes as tensors" in warnings()[0]
    torch.testing.assert_close(fast(torch.ones(3), 7.0), torch.ones(3).exp() * 7)
    assert len(fast._results) == 4  # of another shape


@functools.lru_cache(None)
def number(n: int) -> float:
    return n * 2.0


@functools.lru_cache(None)
def table(n: int, d: int) -> torch.Tensor:
    return torch.outer(torch.arange(n).float(), torch.ones(d))


@functools.lru_cache(maxsize=1)
def small(n: int) -> torch.Tensor:
    return torch.arange(n).float()


def test_what_a_memo_keeps_is_held() -> None:
    x = torch.randn(4, 8)
    for fn in (lambda x: torch.exp(x) * number(8), lambda x: torch.exp(x) * table(4, 8)):
        fast = superoptimize(fn, fallbacks=())
        for _ in range(2):
            for _ in range(3):
                torch.testing.assert_close(fast(x), fn(x))
            assert len(fast._results) == 1
            table.cache_clear()
            table(4, 8).mul_(2.0)


def test_a_memo_that_forgets_holds_no_stand_in() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x * small(8)) + small(1)

    fast = superoptimize(fn)
    for _ in range(4):
        x = torch.randn(4, 8)
        torch.testing.assert_close(fast(x), fn(x))
        assert type(small(1)) is torch.Tensor
