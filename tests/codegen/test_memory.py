"""No access out of bounds: fenced buffers, AddressSanitizer and UBSan, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs guarded.py in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.codegen.guarded", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **env},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_fenced_buffers() -> None:
    """Every kind of statement, with odd tails, beside pages that may not be touched."""
    done = run("guard")
    assert done.returncode == 0, done.stderr[-3000:]
    runs = int(done.stdout.split()[-1])
    assert runs >= 60, f"only {runs} runs"


def test_the_fence_catches() -> None:
    """A program that reads beyond its output dies at the fence."""
    assert run("guard", "--break").returncode != 0


@pytest.mark.full
def test_sanitizers() -> None:
    """The same programs built with AddressSanitizer and UBSan, tiles on the stack with red zones."""
    found = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("no AddressSanitizer runtime")
    done = run("sanitize", LD_PRELOAD=found, ASAN_OPTIONS="detect_leaks=0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 60
