"""What a function asks beside its arguments' values, and how its results lie in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim

from superopt import pipeline, superoptimize

SHARED_CACHE = True

Warnings = Callable[[], list[str]]


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * len(f"{x.shape[0]}"),
        lambda x: x * (1 if isinstance(x.shape[0], int) else 2),
        lambda x: x + len(str(x.shape)),
    ],
)
def test_a_size_that_is_asked_for_its_text_or_type(
    fn: Callable[..., Any], warnings: Warnings
) -> None:
    fast = superoptimize(fn, fallbacks=(), dynamic={"x": {0: Dim("n", min=1, max=99)}})
    for n in (7, 70, 7):
        x = torch.randn(n, 5)
        torch.testing.assert_close(fast(x), fn(x))
    assert len(warnings()) == 1


def test_arguments_that_are_one_and_the_same() -> None:
    def fn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a * b + (1 if a is b else 0)

    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    for _ in range(2):
        for y in (x, x.clone()):
            torch.testing.assert_close(fast(x, y), fn(x, y))
    again = superoptimize(fn, fallbacks=())  # finds what is kept by the function's identity
    torch.testing.assert_close(again(x, x), fn(x, x))
    torch.testing.assert_close(again(x, x.clone()), fn(x, x.clone()))


def test_a_gradient_that_is_switched_on_inside(warnings: Warnings) -> None:
    w = torch.randn(7, 7, requires_grad=True)

    def fn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return (x @ w).sum(-1)

    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    with torch.no_grad():
        for _ in range(2):
            fast(x, w).backward(torch.ones(3))
    assert w.grad is not None
    assert warnings()


def test_random_numbers_follow_the_seed_from_the_first_call() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(7, 7), torch.nn.Dropout(0.5), torch.nn.GELU())
    layers.requires_grad_(False)
    fast, x = superoptimize(layers, fallbacks=()), torch.randn(3, 7)
    for _ in range(3):
        torch.manual_seed(1)
        want, after = layers(x), torch.rand(1)
        torch.manual_seed(1)
        torch.testing.assert_close(fast(x), want)
        assert torch.equal(torch.rand(1), after)


class Scaled:
    """A class whose method is decorated below ``classmethod`` and ``staticmethod``."""

    factor = 2.0

    @classmethod
    @superoptimize(fallbacks=())
    def of_class(cls, x: torch.Tensor) -> torch.Tensor:
        return (x * cls.factor).sum(-1)

    @staticmethod
    @superoptimize(fallbacks=())
    def plain(x: torch.Tensor) -> torch.Tensor:
        return (x * 3.0).sum(-1)


class Thrice(Scaled):
    factor = 3.0


def test_class_methods_know_their_class(warnings: Warnings) -> None:
    x = torch.randn(3, 7)
    for _ in range(2):
        for owner, factor in ((Scaled, 2.0), (Thrice, 3.0), (Thrice(), 3.0)):
            torch.testing.assert_close(owner.of_class(x), x.sum(-1) * factor)
            torch.testing.assert_close(owner.plain(x), x.sum(-1) * 3.0)
    assert warnings() == []


def test_a_first_answer_without_a_number(warnings: Warnings) -> None:
    fast = superoptimize(lambda x: x.log() * 2, fallbacks=())
    assert fast(-torch.ones(3, 4)).isnan().all()
    torch.testing.assert_close(fast(torch.ones(3, 4)), torch.zeros(3, 4))
    assert fast.result(torch.ones(3, 4)).winner == "generated"
    assert warnings() == []


def test_a_method_named_like_a_global_clock(warnings: Warnings) -> None:
    x = torch.randn(3, 7)
    fast = superoptimize(lambda a: (a.t() * 2).sum(-1), fallbacks=())
    torch.testing.assert_close(fast(x), (x.t() * 2).sum(-1))
    assert warnings() == []


def t() -> float:
    """What ``x.t()`` does not call."""

    return time.time()


STRIDED: dict[str, tuple[Callable[..., Any], torch.Tensor]] = {
    "a transposed input": (lambda x: x * 2 + 1, torch.randn(9, 4).t()),
    "channels last": (
        lambda x: x.relu() * 2,
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    ),
    "a permuted input": (lambda x: x.exp(), torch.randn(3, 4, 5).permute(2, 0, 1)),
    "a permuted result": (lambda x: (x * 2).permute(1, 2, 0), torch.randn(3, 4, 5)),
    "a transposed product": (lambda x: (x @ x.mT).transpose(0, 1), torch.randn(6, 5)),
    "a transposed softmax": (lambda x: x.softmax(0).t(), torch.randn(6, 5)),
    "where": (lambda x: torch.where(x > 0, x, x * 2), torch.randn(9, 4).t()),
    "one row": (lambda x: x + 1, torch.randn(5, 1).t()),
    "16 bits": (lambda x: x * 2, torch.randn(9, 4).bfloat16().t()),
    "two results": (lambda x: (x.t() * 2, x.sum(0)), torch.randn(9, 4)),
    "beside a boundary": (lambda x: torch.cumsum(x.t() * 2, 0).t() * 3, torch.randn(9, 4)),
}


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("dynamic", [False, True])
def test_results_lie_in_memory_as_pytorch_lays_them(name: str, dynamic: bool) -> None:
    fn, x = STRIDED[name]
    wish = {"dynamic": {"x": {0: Dim("n", min=2, max=99)}}} if dynamic else {}
    fast = superoptimize(fn, fallbacks=(), **wish)
    want = fn(x)
    for got in (fast(x), fast(x), fast.result(x).generated(x)):
        for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, want)), strict=True):
            torch.testing.assert_close(a, b)
            long = [d for d, n in enumerate(b.shape) if n > 1]
            assert [a.stride(d) for d in long] == [b.stride(d) for d in long]


def test_results_are_of_the_mode_that_the_function_chooses() -> None:
    @torch.inference_mode()
    def fn(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x @ x)

    x = torch.randn(8, 8)
    fast = superoptimize(fn, fallbacks=())
    assert all(fast(x).is_inference() for _ in range(3))
    torch.testing.assert_close(fast(x), fn(x))
    assert fast.result(x).winner == "generated"
    plain = superoptimize(lambda x: torch.nn.functional.silu(x @ x), fallbacks=())
    assert not any(plain(x).is_inference() for _ in range(3))
    with torch.inference_mode():
        assert plain(x).is_inference()


def test_modes_and_default_devices_are_obeyed() -> None:
    class Cosines(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            func = torch.cos if func in (torch.sin, torch.Tensor.sin) else func
            return func(*args, **(kwargs or {}))

    x = torch.randn(3, 7)
    fast = superoptimize(lambda x: (x * 2).sin(), fallbacks=())
    torch.testing.assert_close(fast(x), (x * 2).sin())
    with Cosines():
        torch.testing.assert_close(fast(x), (x * 2).cos())
    for device in ("meta", "cpu"):
        with torch.device(device):
            torch.testing.assert_close(fast(x), (x * 2).sin())
    made = superoptimize(lambda x: x * 2 + torch.ones(7), fallbacks=())
    made(x)
    with torch.device("meta"), pytest.raises(RuntimeError):
        made(x)
    torch.testing.assert_close(made(x), x * 2 + 1)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * 2 if x.requires_grad else x * 3,
        lambda x: x * 2 if x is HELD else x * 3,
        lambda x: x * 2 if torch.is_inference_mode_enabled() else x * 3,
    ],
)
def test_what_code_may_ask_of_a_call(fn: Callable[..., Any]) -> None:
    fast = superoptimize(fn, fallbacks=())
    with torch.no_grad():
        for x in (torch.randn(3, 7), torch.randn(3, 7, requires_grad=True), HELD) * 2:
            torch.testing.assert_close(fast(x), fn(x))
    with torch.inference_mode():
        torch.testing.assert_close(fast(HELD), fn(HELD))


HELD = torch.randn(3, 7)


def test_a_kept_program_is_held_against_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "identity", lambda fn: "all functions look alike")
    x = torch.randn(3, 7)
    for factor in (2.0, 3.0, 2.0):
        fast = superoptimize(lambda x, factor=factor: x * factor + 1, fallbacks=())
        for _ in range(2):
            torch.testing.assert_close(fast(x), x * factor + 1)
        assert fast.result(x).winner == "generated"
