"""Every test here has its own cache folder, and measures briefly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from superopt import pipeline, trace
from superopt.pipeline import making


@pytest.fixture(scope="session")
def kernels_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that tests share when they do not look at it, so that no kernel is built twice."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(autouse=True)
def surroundings(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kernels_folder: Path,
) -> Iterator[Path]:
    """A cache folder (its own, or the common one if the module says SHARED_CACHE), brief timing."""
    folder = tmp_path / "cache"
    if getattr(request.module, "SHARED_CACHE", False):
        folder = kernels_folder
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(folder))
    measured = pipeline.interleave
    for module in (pipeline, making):
        monkeypatch.setattr(
            module, "interleave", lambda calls, seconds: measured(calls, seconds=0.02)
        )
    monkeypatch.setattr(making, "SHORTLIST", 1)
    torch.manual_seed(0)
    trace.configure()
    trace.forget_warnings()
    yield folder
    monkeypatch.undo()
    trace.configure()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines that superopt has warned of since the test began."""

    def lines() -> list[str]:
        found = [r for r in caplog.records if r.name.startswith("superopt")]
        return [r.getMessage() for r in found if r.levelno >= logging.WARNING]

    return lines


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], list[int]]:
    """Counts the calls of a function of a module: ``count(driver, "search")`` grows by one each."""

    def wrap(module: Any, name: str) -> list[int]:
        calls: list[int] = []
        original = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)
        return calls

    return wrap
