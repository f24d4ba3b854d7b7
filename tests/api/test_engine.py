"""The engine as users meet it: limits, checkpoints, progress, workers and the rejected alternatives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from superopt import superoptimize, trace
from superopt.cli import app
from superopt.errors import (
    BadOption,
    CheckpointMismatch,
    MemoryTooSmall,
    SuperoptError,
    VerificationFailed,
)
from superopt.pipeline import making, rooms, searching
from superopt.search import driver, rounds, tasks
from superopt.verify.gate import Gate
from tests.api.programs import assert_same, attention, rmsnorm_linear
from tests.api.test_fallback import only

Warnings = Callable[[], list[str]]
SHAPES = ((8, 64), (64,), (64, 48))
PROGRAM = Path(__file__).with_name("programs.py")
EXPLAIN = ["explain", f"{PROGRAM}:rmsnorm_linear", "--inputs", "f32[8,64],f32[64],f32[64,48]"]
BUDGET = ["--budget", "20c"]


def tensors() -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(shape) for shape in SHAPES)


@pytest.mark.parametrize(
    "given",
    [
        {"budget": "0s"},
        {"budget": "0c"},
        {"budget": 0},
        {"memory": 0},
        {"memory": "0"},
        {"memory": "-1G"},
        {"memory": "much"},
        {"memory": True},
        {"workers": "0"},
        {"workers": "many"},
        {"workers": "ray:"},
        {"workers": -1},
    ],
    ids=str,
)
def test_impossible_limits_are_refused_at_once(given: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=next(iter(given))):
        superoptimize(rmsnorm_linear, **given)


def test_too_little_memory_leaves_the_original_program(warnings: Warnings) -> None:
    args = tensors()
    fn = superoptimize(rmsnorm_linear, memory="1K", budget="20c")
    assert torch.equal(fn(*args), rmsnorm_linear(*args))
    only(warnings(), "1024 bytes", "SUPEROPT_MEMORY")
    with pytest.raises(MemoryTooSmall):
        superoptimize(rmsnorm_linear, memory="1K", budget="20c", strict=True)(*args)


def test_the_environment_limits_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPEROPT_MEMORY", "1K")
    with pytest.raises(MemoryTooSmall):
        superoptimize(rmsnorm_linear, budget="20c", strict=True)(*tensors())
    found = superoptimize(rmsnorm_linear, budget="20c", memory="1G", strict=True)
    assert_same(found(*(args := tensors())), rmsnorm_linear(*args))


def test_tiles_that_fit_nowhere_leave_the_original_program(
    warnings: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPEROPT_TILE_MEMORY", "64")
    args = tensors()
    fn = superoptimize(rmsnorm_linear, budget="20c")
    assert torch.equal(fn(*args), rmsnorm_linear(*args))
    only(warnings(), "64 bytes of tile buffers", "SUPEROPT_TILE_MEMORY")
    with pytest.raises(SuperoptError, match="SUPEROPT_TILE_MEMORY"):
        superoptimize(rmsnorm_linear, budget="20c", strict=True)(*args)
    monkeypatch.setenv("SUPEROPT_TILE_MEMORY", "64M")
    found = superoptimize(rmsnorm_linear, budget="20c", strict=True)
    assert_same(found(*args), rmsnorm_linear(*args))


class Stopped(BaseException):
    """Stands for the end of the process."""


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The search ends when it is to cut its next term graph after so many."""
    left = iter(range(count))

    def cut(here: Any, task: Any) -> tasks.Scored:
        if next(left, None) is None:
            raise Stopped
        return tasks.score(here, task)

    monkeypatch.setattr(rounds, "score", cut)


def checkpoints(cache: Path) -> list[Path]:
    return sorted((cache / "checkpoints").glob("*.jsonl"))


def test_a_stopped_first_call_goes_on_at_the_next(
    monkeypatch: pytest.MonkeyPatch, surroundings: Path
) -> None:
    args = tensors()
    want = superoptimize(rmsnorm_linear, budget="20c", seed=1).result(*args)
    assert checkpoints(surroundings) == []  # removed when its kernel was kept
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(Stopped):
            superoptimize(rmsnorm_linear, budget="20c")(*args)
    (path,) = checkpoints(surroundings)
    done = path.read_text().count("\n")
    assert done >= 3
    cut: list[Any] = []
    monkeypatch.setattr(rounds, "score", lambda h, t: cut.append(t) or tasks.score(h, t))
    found = superoptimize(rmsnorm_linear, budget="20c").result(*args)
    assert len(cut) < found.pieces[0].meta["search"]["graphs"]
    for key in ("states", "classes", "graphs", "removed", "kernels_costed"):
        assert found.pieces[0].meta["search"][key] == want.pieces[0].meta["search"][key]
    assert checkpoints(surroundings) == []


def test_a_checkpoint_of_another_program_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, args = tmp_path / "search.jsonl", tensors()
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(Stopped):
            superoptimize(rmsnorm_linear, budget="20c", checkpoint=path)(*args)
    kept = path.read_bytes()
    q = torch.randn(2, 8, 16)
    with pytest.raises(CheckpointMismatch, match="program"):
        superoptimize(attention, budget="20c", checkpoint=path, strict=True)(q, q, q)
    with pytest.raises(CheckpointMismatch, match="options"):
        superoptimize(rmsnorm_linear, budget="21c", checkpoint=path, strict=True)(*args)
    with monkeypatch.context() as patch:
        patch.setattr("superopt.runtime.site.POLICY", 1_000_000)
        with pytest.raises(CheckpointMismatch, match="policy"):
            superoptimize(rmsnorm_linear, budget="20c", checkpoint=path, strict=True)(*args)
    assert path.read_bytes() == kept
    fn = superoptimize(rmsnorm_linear, budget="20c", checkpoint=path, strict=True)
    assert_same(fn(*args), rmsnorm_linear(*args))
    assert not path.exists()


def test_progress_says_how_far_the_search_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "GLANCE", 0.0)
    seen: list[trace.Progress] = []
    with trace.progress(seen.append):
        superoptimize(attention, budget="20c").result(*(torch.randn(2, 8, 16) for _ in range(3)))
    told = [p for p in seen if p.stage == "search"]
    assert len(told) >= 3 and told[-1].total == 20
    for word in ("states", "classes", "graphs", "best", "us"):
        assert word in told[-1].message
    assert [p.done for p in told] == sorted(p.done for p in told)


def test_figures_in_words() -> None:
    done = {"states": 12345.0, "classes": 67.0, "graphs": 8.0, "best": float("inf")}
    assert searching.figures(done) == "12,345 states, 67 classes, 8 graphs"
    assert searching.figures({**done, "best": 1.25e-5}).endswith(", best 12.5 us")


def run_cli(*words: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, [*EXPLAIN, *BUDGET, *words])
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


def test_why_lists_the_rejected_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "SHORTLIST", 3)
    first = run_cli("--why")
    assert first.count("measured slower: ") == 2
    assert first.count("predicted slower: ") >= 3
    kept = first.split("kept:\n")[1]
    assert "predicted" in kept.splitlines()[0] and "measured" in kept.splitlines()[0]
    rows = json.loads(run_cli("--why", "--json"))["rejected"][0]
    assert [r["rule"] for r in rows[:2]] == ["measured slower"] * 2
    assert rows[0]["measured_s"] <= rows[1]["measured_s"]
    assert all(r["predicted_s"] > 0 and r["kernels"] >= 1 for r in rows)
    # A later process has it from the cache.
    code = f"from superopt.cli import app; app({[*EXPLAIN, *BUDGET, '--why']!r})"
    later = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "warm cache" in later.stdout
    assert later.stdout.split("kept:\n")[1].strip() == kept.strip()


def test_why_names_each_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates that are not lowerable, not shown equal and that fail the gate are listed so."""
    monkeypatch.setattr(making, "SHORTLIST", 3)
    real_search, real_admit, real_lower = (
        making.search,
        rooms.admit,
        searching.why_not_lowerable,
    )
    calls: list[str] = []

    def lowerable(mugraph: Any, kernels: Any = None) -> str | None:
        calls.append("lower")
        return "a made-up limit" if len(calls) == 2 else real_lower(mugraph)

    def admit(*args: Any, **kwargs: Any) -> Gate:
        report = real_admit(*args, **kwargs)
        calls.append("gate")
        return wrong(report) if calls.count("gate") == 1 else report

    def search(graph: Any, *rest: Any) -> driver.Found:
        found = real_search(graph, *rest)
        other = real_search(doubled(graph), doubled(graph), *rest[1:]).candidates[0]
        return driver.Found((other, *found.candidates), found.stats, "", found.rejected)

    monkeypatch.setattr(searching, "why_not_lowerable", lowerable)
    monkeypatch.setattr(rooms, "admit", admit)
    monkeypatch.setattr(making, "search", search)
    text = run_cli("--why")
    for line in ("gate failed: ", "not shown equal: ", "not lowerable: ", "predicted slower: "):
        assert line in text
    assert "(a made-up limit)" in text and "(made up)" in text


def wrong(report: Gate) -> Gate:
    from dataclasses import replace

    return replace(report, passed=False, reason="made up")


def doubled(graph: Any) -> Any:
    """The program with its result added to itself."""
    from dataclasses import replace

    from superopt.mugraph.graph import Builder, Graph, remap

    b, at = Builder(graph.name), {}
    for i, node in enumerate(graph.nodes):
        at[i] = b.add(remap(node, at))
    out = graph.outputs[0]
    twice = b.map("add", at[out.node], at[out.node])
    return Graph(graph.name, tuple(b.nodes), (replace(out, node=twice),))


@pytest.mark.parametrize(
    ("break_", "rule"),
    [
        ("lowering", "a made-up limit"),
        ("gate", "gate failed: made up"),
        ("proof", "not shown equal: "),
    ],
)
def test_where_nothing_is_found_the_last_rule_is_named(
    monkeypatch: pytest.MonkeyPatch, break_: str, rule: str
) -> None:
    real_search, real_admit = making.search, rooms.admit
    if break_ == "lowering":
        monkeypatch.setattr(searching, "why_not_lowerable", lambda *_: "a made-up limit")
    if break_ == "gate":
        monkeypatch.setattr(rooms, "admit", lambda *a, **k: wrong(real_admit(*a, **k)))
    if break_ == "proof":
        monkeypatch.setattr(making, "search", lambda g, *rest: real_search(doubled(g), *rest))
    text = run_cli("--why", status=2)
    head = text.split("the last candidate was removed by:\n")[1].splitlines()[0]
    assert rule in head
    assert "rejected:" in text


def test_failures_keep_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    real = rooms.admit
    monkeypatch.setattr(rooms, "admit", lambda *a, **k: wrong(real(*a, **k)))
    with pytest.raises(VerificationFailed):
        superoptimize(rmsnorm_linear, budget="20c", strict=True)(*tensors())


def test_a_ray_cluster_searches_and_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from superopt.runtime import build
    from superopt.search import ray_workers

    class Two(ray_workers.RayWorkers):
        def __init__(self, address: str | None = None) -> None:
            super().__init__(address, actors=2)

    monkeypatch.setattr(ray_workers, "RayWorkers", Two)
    here = build._compile_job
    compiled: list[int] = []
    monkeypatch.setattr(build, "_compile_job", lambda *a: compiled.append(1) or here(*a))
    args = tensors()
    alone = superoptimize(rmsnorm_linear, budget="20c", workers=1, seed=1).result(*args)
    assert compiled
    compiled.clear()
    there = superoptimize(rmsnorm_linear, budget="20c", workers="ray").result(*args)
    assert not compiled  # not in this process
    assert not ray.is_initialized()
    assert_same(there.generated(*args), rmsnorm_linear(*args))
    assert str(there.mugraph) == str(alone.mugraph)
    for key in ("states", "graphs", "removed"):
        assert there.pieces[0].meta["search"][key] == alone.pieces[0].meta["search"][key]
