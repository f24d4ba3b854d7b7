"""Functions that remember, count, keep what they saw, or draw numbers: PyTorch's answer each time."""

from __future__ import annotations

import collections
import contextvars
import copy
import functools
import itertools
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import random as drawn
from typing import Any

import numpy as np
import pytest
import torch

from superopt import pipeline, superoptimize
from superopt.errors import UnsupportedOperator
from superopt.frontend import capture

SHARED_CACHE = True

Warnings = Callable[[], list[str]]


class Remembering:
    """Makes a table in its first call, in one of the ways that people have."""

    def __init__(self) -> None:
        self.table: torch.Tensor | None = None
        self.tables: dict[int, torch.Tensor] = {}
        self.now: contextvars.ContextVar[Any] = contextvars.ContextVar("now", default=None)

    def attribute(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.arange(7.0) * 2
        return x * self.table

    def dictionary(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[-1]
        if n not in self.tables:
            self.tables[n] = torch.arange(float(n))
        return x + self.tables[n]

    def context(self, x: torch.Tensor) -> torch.Tensor:
        if self.now.get() is None:
            self.now.set(torch.arange(7.0) + 1)
        return x / self.now.get()

    @functools.cache  # noqa: B019
    def made(self, n: int) -> torch.Tensor:
        return torch.arange(float(n))

    def cached(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.made(x.shape[-1])


@pytest.mark.parametrize("way", ["attribute", "dictionary", "context", "cached"])
def test_a_table_made_in_the_first_call_is_a_tensor(way: str) -> None:
    remembering = Remembering()
    fn, x = getattr(remembering, way), torch.randn(3, 7)
    fast = superoptimize(fn, fallbacks=())
    for _ in range(3):
        want = getattr(Remembering(), way)(x)
        torch.testing.assert_close(fast(x), want)
        torch.testing.assert_close(fn(x), want)
    if way != "cached":
        assert fast.result(x).winner == "generated"


def test_a_function_that_counts_its_calls_runs_as_it_was_written(warnings: Warnings) -> None:
    counts = {"calls": 0}

    def fn(x: torch.Tensor) -> torch.Tensor:
        counts["calls"] += 1
        return x * counts["calls"]

    x, fast = torch.randn(3, 7), superoptimize(fn)
    for n in range(1, 7):
        torch.testing.assert_close(fast(x), x * n)
        assert counts["calls"] == n
    assert warnings()


NOTES: dict[str, Any] = {
    "a list": [],
    "a list of lists": [[]],
    "a dict": {},
    "a set": set(),
    "a deque": collections.deque(maxlen=4),
    "an array": np.zeros(3),
    "bytes": bytearray(b"0"),
}
NOTE: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "a list": lambda held, x: held.append(x.shape[0]),
    "a list of lists": lambda held, x: held[0].append("called"),
    "a dict": lambda held, x: held.update({len(held): 1.5}),
    "a set": lambda held, x: held.add(len(held)),
    "a deque": lambda held, x: held.append(len(held)),
    "an array": lambda held, x: held.__iadd__(1),
    "bytes": lambda held, x: held.append(held[-1]),
}


@pytest.mark.parametrize("kind", NOTES)
def test_a_function_that_notes_its_calls_runs_as_it_was_written(
    kind: str, warnings: Warnings
) -> None:
    held, wanted, note = copy.deepcopy(NOTES[kind]), copy.deepcopy(NOTES[kind]), NOTE[kind]

    def fn(x: torch.Tensor) -> torch.Tensor:
        note(held, x)
        return x * 2

    x, fast = torch.randn(3, 7), superoptimize(fn)
    for _ in range(6):
        torch.testing.assert_close(fast(x), x * 2)
        note(wanted, x)
        if kind in ("an array", "bytes"):
            continue  # cannot be taken back: tracing counts too
        assert held == wanted, held
    assert warnings()


class Cached(torch.nn.Module):
    """A decoder's memory, kept in an attribute that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: torch.Tensor | None = None
        self.last: Any = None
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.keys = x if self.keys is None else torch.cat([self.keys, x], 0)
        self.calls += 1
        self.last = (x @ self.keys.mT).softmax(-1)
        return self.last @ self.keys * self.calls


def test_a_module_that_keeps_what_it_saw_runs_as_it_was_written(warnings: Warnings) -> None:
    mine, theirs = Cached(), Cached()
    fast = superoptimize(mine)
    for n in range(1, 6):
        x = torch.randn(3, 7)
        torch.testing.assert_close(fast(x), theirs(x))
        torch.testing.assert_close(mine.last, theirs.last)
        assert mine.calls == n and mine.keys is not None and mine.keys.shape == (3 * n, 7)
    assert warnings()


COUNT = itertools.count(1)
NUMBERS = np.random.default_rng(0)
GENERATOR = torch.Generator()


class Dropped(torch.nn.Module):
    """Layers left out now and then."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            if random.random() < 0.3:
                continue
            x = x + x.tanh()
        return x


OWN = random.Random(0)


@pytest.mark.parametrize(
    "fn",
    [
        Dropped(),
        lambda x: x * random.random(),
        lambda x: x * 2 if drawn() < 0.7 else x,
        lambda x: x * 2 if np.random.rand() < 0.7 else x,
        lambda x: x * 2 if OWN.random() < 0.7 else x,
        lambda x: x * torch.rand(1, generator=GENERATOR),
    ],
)
def test_seeded_numbers_are_those_of_pytorch(fn: Callable[..., Any], warnings: Warnings) -> None:
    def twelve(call: Callable[..., Any]) -> list[float]:
        random.seed(1)
        np.random.seed(1)
        OWN.seed(1)
        GENERATOR.manual_seed(1)
        return [float(call(x).sum()) for _ in range(12)]

    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    want = twelve(fn)
    assert twelve(fast) == want
    assert len(set(want)) > 1
    assert warnings()


@pytest.mark.parametrize("kind", ["closure", "list", "attribute", "module"])
@pytest.mark.parametrize(
    "write", [lambda c: c.add_(1), lambda c: c.mul_(2).add_(1), lambda c: c.copy_(c + 1)]
)
def test_a_held_tensor_is_written_to_once_a_call(
    kind: str, write: Callable[..., Any], warnings: Warnings
) -> None:
    class Holder(torch.nn.Module if kind == "module" else object):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.count = torch.zeros(7)

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            write(self.count)
            return x * self.count

    def make() -> tuple[Any, torch.Tensor]:
        holder, held = Holder(), [torch.zeros(7)]
        count = held[0]
        if kind == "closure":
            return (lambda x: (write(count), x * count)[1]), count
        if kind == "list":
            return (lambda x: (write(held[0]), x * held[0])[1]), count
        return holder, holder.count

    (mine, my_count), (theirs, their_count) = make(), make()
    fast = superoptimize(mine, fallbacks=())
    for n in (3, 3, 3, 2, 2):
        x = torch.randn(n, 7)
        torch.testing.assert_close(fast(x), theirs(x))
        torch.testing.assert_close(my_count, their_count)
    assert warnings()


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * random.random(),
        lambda x: x * next(COUNT),
        lambda x: x * float(NUMBERS.random()),
        lambda x: x * (time.perf_counter() % 1.0),
        lambda x: x * float(np.random.rand()),
    ],
)
def test_numbers_are_drawn_anew(fn: Callable[..., Any], warnings: Warnings) -> None:
    x, fast = torch.ones(3, 7), superoptimize(fn, fallbacks=())
    assert len({float(fast(x)[0, 0]) for _ in range(3)}) == 3
    assert warnings()


def test_what_another_thread_changes_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    remembering, new = Remembering(), torch.randn(7)
    remembering.table, remembering.tables = torch.randn(7), {7: torch.randn(7)}
    limits, seen = {"high": 0.5}, [1, 2]

    def fn(x: torch.Tensor) -> torch.Tensor:
        return remembering.dictionary(remembering.attribute(x)).clamp(max=limits["high"]) * len(
            seen
        )

    export = capture._export

    def slow(*args: Any) -> Any:  # long enough for others to do this
        remembering.table = remembering.tables[7] = new
        limits["high"] = 0.25
        seen.append(3)
        return export(*args)

    monkeypatch.setattr(capture, "_export", slow)
    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    fast(x)
    assert remembering.table is new and remembering.tables[7] is new
    assert limits == {"high": 0.25} and seen == [1, 2, 3]
    monkeypatch.setattr(capture, "_export", export)
    for _ in range(2):
        torch.testing.assert_close(fast(x), fn(x))
    assert fast.result(x).winner == "generated"


def test_many_refusals_and_changes_leave_other_calls_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []

    def fn(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 50:
            counted.append(x.shape[0])
        return x * 2 + len(counted) * 0

    fast, good = superoptimize(fn, fallbacks=()), torch.randn(3, 7)
    torch.testing.assert_close(fast(good), good * 2)
    made = fast.result(good)
    optimize = pipeline.optimize

    def refuse(*args: Any) -> Any:
        raise UnsupportedOperator("not today", "test")

    monkeypatch.setattr(pipeline, "optimize", refuse)
    for n in (*range(4, 50), *range(51, 130)):
        torch.testing.assert_close(fast(torch.ones(n, 7)), torch.ones(n, 7) * 2)
    assert len(counted) == 79
    counted.clear()
    monkeypatch.setattr(pipeline, "optimize", optimize)
    assert fast.result(good) is made
    torch.testing.assert_close(fast(good), good * 2)


def test_a_held_nan_is_no_change(warnings: Warnings) -> None:
    limits = {"low": float("nan"), "high": 2.0}

    def fn(x: torch.Tensor) -> torch.Tensor:
        return x.clamp(max=limits["high"])

    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    torch.testing.assert_close(fast(x), fn(x))
    assert fast.result(x).winner == "generated"
    assert warnings() == []


def test_threads_that_fill_a_table_together() -> None:
    tables: dict[int, torch.Tensor] = {}

    def fn(x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] not in tables:
            meeting.wait(10)
            tables[x.shape[-1]] = torch.arange(float(x.shape[-1]))
        return x + tables[x.shape[-1]]

    meeting = threading.Barrier(6)
    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    with ThreadPoolExecutor(6) as pool:
        for got in pool.map(fast, [x] * 6):
            torch.testing.assert_close(got, x + torch.arange(7.0))
    fast(x)
    assert fast.result(x).winner == "generated"


def test_a_decorated_function_within_another(warnings: Warnings) -> None:
    @superoptimize(fallbacks=())
    def inner(x: torch.Tensor) -> torch.Tensor:
        return x.softmax(-1) * 3.5

    @superoptimize(fallbacks=())
    def outer(x: torch.Tensor) -> torch.Tensor:
        return inner(x) + 1.25

    x = torch.randn(3, 7)
    for _ in range(3):
        torch.testing.assert_close(outer(x), x.softmax(-1) * 3.5 + 1.25)
    assert warnings() == []


def test_what_pythons_own_modules_keep_is_no_state(warnings: Warnings) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return x * len(re.split("[, ]+", "b n"))

    re.purge()
    x, fast = torch.randn(3, 7), superoptimize(fn, fallbacks=())
    torch.testing.assert_close(fast(x), fn(x))
    assert fast.result(x).winner == "generated"
    assert warnings() == []


def test_a_state_that_changes_while_it_is_optimized(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another thread may do: what was captured belongs to no known state."""
    held = {"m": torch.nn.Linear(16, 16)}
    fast, x = (
        superoptimize(lambda x: torch.nn.functional.silu(held["m"](x)), fallbacks=()),
        torch.randn(4, 16),
    )
    optimize = pipeline.optimize

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        result = optimize(*args, **kwargs)
        held["m"] = torch.nn.Linear(16, 16, bias=False)
        return result

    monkeypatch.setattr(pipeline, "optimize", meanwhile)
    with torch.no_grad():
        fast(x)
        for bias in (True, False, True):
            held["m"] = torch.nn.Linear(16, 16, bias=bias)
            torch.testing.assert_close(
                fast(x), torch.nn.functional.silu(held["m"](x)), rtol=1e-4, atol=1e-4
            )
