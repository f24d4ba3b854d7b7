"""What a function does beside computing happens as often as in PyTorch, and with real tensors."""

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
from typing import Any, ClassVar

import pytest
import torch

from superopt import superoptimize

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


def test_what_is_logged_in_another_case_is_no_effect(warnings: Warnings) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 1000:
            logging.getLogger("effects").warning("long")
        return x * 2 + 1

    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    torch.testing.assert_close(fast(x), x * 2 + 1)
    assert fast.result(x).winner == "generated"
    assert warnings() == []


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


def test_a_deque_is_emptied_as_the_function_does() -> None:
    queue = collections.deque([1.0, 2.0, 3.0, 4.0, 5.0])
    x, fast = torch.ones(3, 7), superoptimize(lambda x: x * queue.popleft())
    assert [float(fast(x)[0, 0]) for _ in range(5)] == [1.0, 2.0, 3.0, 4.0, 5.0]
    with pytest.raises(IndexError):
        fast(x)


def test_attributes_set_on_tensors_are_kept() -> None:
    x, w = torch.randn(4, 16), torch.randn(16, 16)

    def tags(x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.silu(x @ w)
        y.scale = 2.0  # type: ignore[attr-defined]
        return y

    def marks(x: torch.Tensor) -> torch.Tensor:
        x.seen = True  # type: ignore[attr-defined]
        return torch.nn.functional.silu(x @ w)

    fast = superoptimize(tags)
    assert all(fast(x).scale == 2.0 for _ in range(3))
    fast = superoptimize(marks)
    for _ in range(3):
        given = torch.randn(4, 16)
        fast(given)
        assert given.seen  # type: ignore[attr-defined]


class Counted:
    """Says when it goes."""

    gone: ClassVar[list[int]] = []

    def __del__(self) -> None:
        Counted.gone.append(1)


def test_destructors_run_as_often_as_in_pytorch() -> None:
    w = torch.randn(16, 16)

    def fn(x: torch.Tensor) -> torch.Tensor:
        kept = Counted()
        return torch.nn.functional.silu(x @ w) * (2.0 if kept else 1.0)

    fast, x = superoptimize(fn), torch.randn(4, 16)
    Counted.gone.clear()
    for _ in range(6):
        fast(x)
    assert len(Counted.gone) == 6


class Asked:
    """Answers whatever it is asked for, and notes it."""

    def __init__(self) -> None:
        self.__dict__["asked"] = []

    def __getattr__(self, name: str) -> float:
        self.asked.append(name)
        return 2.0


def test_attributes_are_not_asked_for_behind_the_users_back() -> None:
    thing, x = Asked(), torch.randn(4, 16)
    fast = superoptimize(lambda x: torch.nn.functional.silu(x @ x.T) * thing.scale)
    for _ in range(6):
        fast(x)
    assert thing.asked == ["scale"] * 6


def test_tensors_can_still_be_exchanged() -> None:
    held = torch.nn.Linear(16, 16)
    fast = superoptimize(lambda x, w: torch.nn.functional.silu(held(x @ w)), fallbacks=())
    x, w = torch.randn(4, 16), torch.randn(16, 16)
    with torch.no_grad():
        fast(x, w)
        torch.utils.swap_tensors(w, torch.randn(16, 16))
        torch.utils.swap_tensors(held.weight, torch.nn.Parameter(torch.randn(16, 16)))
        want = torch.nn.functional.silu(held(x @ w))
        torch.testing.assert_close(fast(x, w), want, rtol=1e-4, atol=1e-4)


class Named(torch.Tensor):
    """A subclass that does nothing more."""


def test_a_held_subclass_stays_one() -> None:
    w = torch.randn(16, 16).as_subclass(Named)
    fast, x = superoptimize(lambda x: torch.nn.functional.silu(x @ w)), torch.randn(4, 16)
    assert all(type(fast(x)) is Named for _ in range(3))
