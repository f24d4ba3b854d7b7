"""Several threads and processes at once, and cache folders that are broken, full or read-only."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from superopt import superoptimize
from superopt.runtime import cache
from superopt.search import driver
from tests.api.programs import assert_same, gated_mlp, tensors

Count = Callable[[Any, str], list[int]]
Warnings = Callable[[], list[str]]


def args() -> list[torch.Tensor]:
    return tensors((8, 64), (64, 48), (64, 48))


def test_threads_share_one_search_and_agree(count: Count) -> None:
    searches = count(driver, "search")
    fast = superoptimize(gated_mlp, fallbacks=())
    given = [args() for _ in range(6)]
    answers: list[list[torch.Tensor]] = [[] for _ in given]
    start = threading.Barrier(len(given))

    def work(n: int) -> None:
        start.wait()
        for _ in range(20):
            answers[n].append(fast(*given[n]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(given))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(searches) == 1
    assert sum(len(a) for a in answers) == 120
    for xs, got in zip(given, answers, strict=True):
        for y in got:
            assert_same(y, gated_mlp(*xs))


PROCESS = """
import torch
from superopt import superoptimize
torch.manual_seed(0)
def f(x, w):
    return torch.nn.functional.silu(x @ w) * 2.0
x, w = torch.randn(3, 16), torch.randn(16, 8)
g = superoptimize(f, strict=True, fallbacks=())
assert torch.allclose(g(x, w), f(x, w), atol=1e-4)
print(g.result(x, w).cache)
"""


def start(folder: Path, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SUPEROPT_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"},
    )


def test_processes_build_a_kernel_once(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(PROCESS)
    running = [start(tmp_path / "shared", path) for _ in range(3)]
    said = []
    for p in running:
        out, err = p.communicate(timeout=240)
        assert p.returncode == 0, err
        said.append(out.strip())
    assert sorted(said) == ["cold", "warm", "warm"]


def test_a_killed_process_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(PROCESS.replace("import torch\n", "import torch, os\n", 1) + "\n")
    dies = tmp_path / "dies.py"
    dies.write_text(
        "from superopt.search import driver\nimport os\n"
        "driver.search = lambda *a, **k: os.kill(os.getpid(), 9)\n" + PROCESS
    )
    first = start(tmp_path / "shared", dies)
    first.communicate(timeout=240)
    assert first.returncode == -9
    second = start(tmp_path / "shared", path)
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert out.strip() == "cold"


def one_warning(lines: list[str], *words: str) -> None:
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("place", ["/proc/superopt-cache", "a file"])
def test_a_cache_folder_that_cannot_be_written(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: Warnings
) -> None:
    if place == "a file":
        (tmp_path / "file").write_text("not a folder")
        place = str(tmp_path / "file")
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", place)
    xs = args()
    fast = superoptimize(gated_mlp, fallbacks=())
    for _ in range(2):
        assert_same(fast(*xs), gated_mlp(*xs))
    assert fast.result(*xs).winner == "generated"
    one_warning(warnings(), "cannot be written", "SUPEROPT_CACHE_DIR")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, warnings: Warnings) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    xs = args()
    fast = superoptimize(gated_mlp, fallbacks=())
    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_entry", full)
        for _ in range(2):
            assert_same(fast(*xs), gated_mlp(*xs))
    lines = warnings()
    assert any("No space left" in line for line in lines), lines
    assert len(lines) <= 2
    # Another function, once there is room again.
    assert_same(superoptimize(gated_mlp, fallbacks=())(*xs), gated_mlp(*xs))


@pytest.mark.parametrize(
    ("name", "keep"),
    [("kernel-*.so", 0), ("kernel-*.so", 100), ("plan.json", -1), ("manifest.json", 0)],
)
def test_a_truncated_file_is_built_again(
    name: str, keep: int, surroundings: Path, warnings: Warnings
) -> None:
    xs = args()
    assert superoptimize(gated_mlp, fallbacks=()).result(*xs).cache == "cold"
    found = sorted((surroundings / "entries").rglob(name))
    assert found
    for path in found:
        text = path.read_bytes()
        path.unlink()  # this process has the library mapped
        path.write_bytes(text[:keep] if keep >= 0 else text[:-1] + b"\xff")
    fast = superoptimize(gated_mlp, fallbacks=())
    assert_same(fast(*xs), gated_mlp(*xs))
    assert fast.result(*xs).winner == "generated"
    assert any("damaged" in line for line in warnings())
