"""What a function does beside computing, or asks beside its arguments, happens as PyTorch does it."""

from __future__ import annotations

import collections
import functools
import io
import logging
import os
import queue
import sys
import warnings as python_warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import Dim

from superopt import pipeline, superoptimize

SHARED_CACHE = True

Warnings = Callable[[], list[str]]

HEARD: list[str] = []


class Ear(logging.Handler):
    """Hears what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        HEARD.append(record.getMessage())


@pytest.fixture(autouse=True)
def ears(monkeypatch: pytest.MonkeyPatch) -> Any:
    HEARD.clear()
    logger, ear = logging.getLogger("effects"), Ear()
    logger.addHandler(ear)
    monkeypatch.setattr(python_warnings, "showwarning", lambda *a, **k: HEARD.append("warned"))
    yield
    logger.removeHandler(ear)


EFFECTS: dict[str, Callable[[Path], object]] = {
    "print": lambda path: print("called"),
    "write": lambda path: sys.stdout.write("called\n"),
    "log": lambda path: logging.getLogger("effects").error("called"),
    "warn": lambda path: python_warnings.warn("called", stacklevel=1),
    "file": lambda path: path.open("a").write("called\n"),
    "path": lambda path: path.write_text((path.read_text() if path.exists() else "") + "called\n"),
    "buffer": lambda path: BUFFER.write("called\n"),
    "shell": lambda path: os.system(f"echo called >> {path}"),
    "partial": lambda path: TOLD(),
    "alias": lambda path: say("called"),
    "nested": lambda path: prints_itself(torch.ones(3)),
}
BUFFER = io.StringIO()
TOLD = functools.partial(print, "called")
say = print


@superoptimize(fallbacks=())
def prints_itself(x: torch.Tensor) -> torch.Tensor:
    print("called")
    return x * 2


def times_called(kind: str, path: Path, capsys: pytest.CaptureFixture[str]) -> int:
    if kind in ("print", "write", "partial", "alias", "nested"):
        return capsys.readouterr().out.count("called")
    if kind in ("log", "warn"):
        return len(HEARD)
    return (BUFFER.getvalue() if kind == "buffer" else path.read_text()).count("called")


@pytest.mark.parametrize("kind", EFFECTS)
@pytest.mark.parametrize("fallbacks", [(), ("eager",)])
def test_an_effect_happens_once_a_call(
    kind: str,
    fallbacks: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    warnings: Warnings,
) -> None:
    python_warnings.simplefilter("always")
    BUFFER.seek(0)
    BUFFER.truncate()

    def fn(x: torch.Tensor) -> torch.Tensor:
        EFFECTS[kind](tmp_path / "notes")
        return x * 2.5

    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=fallbacks)
    for _ in range(3):
        torch.testing.assert_close(fast(x), x * 2.5)
    assert times_called(kind, tmp_path / "notes", capsys) == 3
    assert 1 <= len(warnings()) <= 2, warnings()


def kept_keys(x: torch.Tensor, keys: list[torch.Tensor]) -> torch.Tensor:
    keys.append(x)
    return torch.cat(keys).sum(0)


def replaced(x: torch.Tensor, held: list[torch.Tensor]) -> torch.Tensor:
    held[0] = held[0] * 2
    return held[0].sum(-1) + x.sum(-1)


def stored(x: torch.Tensor, held: dict[str, torch.Tensor]) -> torch.Tensor:
    held["y"] = x * 2
    return held["y"] + 1


def popped(x: torch.Tensor, held: dict[str, torch.Tensor]) -> torch.Tensor:
    return x + (held.pop("a") if len(held) > 1 else held["b"])


def reversed_(x: torch.Tensor, held: list[torch.Tensor]) -> torch.Tensor:
    held.reverse()
    return held[0] * 2 + held[-1]


@pytest.mark.parametrize("fn", [kept_keys, replaced, stored, popped, reversed_])
def test_changes_of_container_arguments_are_seen_once(fn: Callable[..., Any]) -> None:
    fast = superoptimize(fn, fallbacks=())

    def fresh() -> Any:
        torch.manual_seed(0)
        if fn in (stored, popped):
            return {"a": torch.randn(3, 7), "b": torch.randn(3, 7)}
        return [torch.randn(3, 7), torch.randn(3, 7)]

    mine, theirs, x = fresh(), fresh(), torch.randn(3, 7)
    for _ in range(4):
        torch.testing.assert_close(fast(x, mine), fn(x, theirs))
        torch.testing.assert_close(mine, theirs)


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


def test_what_is_logged_in_another_case_is_no_effect(warnings: Warnings) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 1000:
            logging.getLogger("effects").warning("long")
        return x * 2 + 1

    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    torch.testing.assert_close(fast(x), x * 2 + 1)
    assert fast.result(x).winner == "generated"
    assert warnings() == []


def test_a_method_named_like_a_global_clock(warnings: Warnings) -> None:
    x = torch.randn(3, 7)
    fast = superoptimize(lambda a: (a.t() * 2).sum(-1), fallbacks=())
    torch.testing.assert_close(fast(x), (x.t() * 2).sum(-1))
    assert warnings() == []


def t() -> float:
    """What ``x.t()`` does not call."""
    import time

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


def test_what_is_put_elsewhere_is_put_once_and_real(tmp_path: Path) -> None:
    waiting: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
    kept: list[torch.Tensor] = []
    keep = kept.append

    def fn(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        waiting.put(y)
        keep(y)
        torch.save(y, tmp_path / "y.pt")
        return y

    fast = superoptimize(fn, fallbacks=())
    for n in range(1, 4):
        x = torch.randn(3, 7)
        torch.testing.assert_close(fast(x), x * 2)
        assert waiting.qsize() == len(kept) == n
        torch.testing.assert_close(kept[-1], x * 2)
        torch.testing.assert_close(torch.load(tmp_path / "y.pt"), x * 2)


def test_classes_are_left_alone(warnings: Warnings) -> None:
    class Settings:
        value = 2.0

        @property
        def scale(self) -> float:
            return self.value

        @classmethod
        def offset(cls) -> float:
            return 3.0

    settings, x = Settings(), torch.randn(3, 7)
    before = dict(vars(Settings))
    fast = superoptimize(lambda x: x * settings.scale + settings.offset(), fallbacks=())
    for _ in range(2):
        torch.testing.assert_close(fast(x), x * 2 + 3)
    assert fast.result(x).winner == "generated"
    assert dict(vars(Settings)) == before
    assert warnings() == []


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


def test_a_profiler_does_not_hide_effects(capsys: pytest.CaptureFixture[str]) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        print("called")
        return x * 2

    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    for profiled in (True, True, False, False, True):
        if profiled:
            sys.setprofile(lambda frame, event, arg: None)
        try:
            torch.testing.assert_close(fast(x), x * 2)
        finally:
            sys.setprofile(None)
    assert capsys.readouterr().out.count("called") == 5


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


def test_a_deque_is_emptied_as_the_function_does() -> None:
    queue = collections.deque([1.0, 2.0, 3.0, 4.0, 5.0])
    x, fast = torch.ones(3, 7), superoptimize(lambda x: x * queue.popleft())
    assert [float(fast(x)[0, 0]) for _ in range(5)] == [1.0, 2.0, 3.0, 4.0, 5.0]
    with pytest.raises(IndexError):
        fast(x)
