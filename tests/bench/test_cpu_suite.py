"""Suite cpu: peers in processes of their own, those that fail among them; resuming, table, chart."""

import copy
import dataclasses
import json
import os
import time

import pytest
import torch

from superopt.bench.cpu import document as form
from superopt.bench.cpu import peers, rows, runner, table
from superopt.bench.cpu.runner import Limits, run_cpu_suite
from superopt.errors import BadOption
from superopt.report import floors

FAKES = [
    "DIES",
    "DIES_AT_ONCE",
    "HANGS",
    "WRONG",
    "SHORT",
    "LATER_WRONG",
    "SKIPS",
    "RAISES",
    "ABSENT",
]


@pytest.fixture(scope="module")
def tiny():
    """Every row at its tiny size."""
    with pytest.MonkeyPatch.context() as patch:
        small = tuple(dataclasses.replace(w, grid=(w.tiny,)) for w in rows.ROWS)
        patch.setattr(runner, "ROWS", small)
        yield


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    return tmp_path_factory.mktemp("child") / "pid"


@pytest.fixture(scope="module")
def measured(tiny, child, tmp_path_factory):
    """One case with superopt, eager and every fake; the file of its results."""
    path = tmp_path_factory.mktemp("cpu") / "out.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIVALS_CHILD", str(child))
        document = run_cpu_suite(
            peers=["eager", *(f"tests.bench.rivals:{n}" for n in FAKES)],
            dtypes=["f32"],
            only=["lora"],
            seconds=0.01,
            limits=Limits(run_s=12.0),
            options={"budget": "20c"},
            json_path=path,
        )
    assert json.loads(path.read_text()) == document
    return document, path


def by_peer(document):
    return {r["peer"]: r for r in document["rows"]}


def test_ours_and_eager_are_timed_and_right(measured):
    document, _ = measured
    assert form.problems(document) == []
    found = by_peer(document)
    for name in ("superopt", "superopt.call", "eager"):
        r = found[name]
        assert (r["status"], r["correct"], r["reason"]) == ("ok", True, "")
        assert r["cold"]["runs"] >= runner.LEAST and r["warm"]["runs"] >= runner.LEAST
        assert r["setup_s"] > 0 and r["peer_version"]
        for cache in form.CACHES:
            x_floor = r[cache]["median_s"] / r["floor"][cache]["floor_s"]
            assert r[cache]["x_floor"] == pytest.approx(x_floor)
    assert found["superopt"]["info"]["pieces"] == 1
    need = found["eager"]["floor"]
    w = rows.row("lora")
    assert need["bytes"] == w.bytes(w.tiny, torch.float32)
    assert (need["flops"], need["exps"]) == (w.flops(w.tiny), w.exps(w.tiny))


@pytest.mark.parametrize(
    ("peer", "status", "said"),
    [
        ("dies", "failed", "run: its process died (run, SIGABRT)"),
        ("dies_at_once", "failed", "setup: its process died (prepare, SIGABRT)"),
        ("hangs", "failed", "run: no answer within 12 s (run)"),
        ("skips", "skipped", "it takes nothing today"),
        ("raises", "failed", "ValueError: no such kernel"),
        ("absent", "skipped", "not installed: no_such_module_of_anyone"),
    ],
)
def test_a_peer_that_fails_is_a_result(measured, peer, status, said):
    r = by_peer(measured[0])[peer]
    assert r["status"] == status and r["reason"].startswith(said)
    assert r["cold"] is None and r["warm"] is None and r["correct"] is None


@pytest.mark.parametrize(
    ("peer", "said"),
    [("wrong", "error 1.0"), ("short", "error shape, dtype"), ("later_wrong", "error")],
)
def test_wrong_numbers_are_found(measured, peer, said):
    r = by_peer(measured[0])[peer]
    assert (r["status"], r["correct"]) == ("ok", False)
    assert r["reason"].removeprefix("wrong: ").startswith(said)
    assert not table.counts(r)


def test_what_a_hanging_peer_started_is_ended(measured, child):
    pid = int(child.read_text())
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there")


def test_without_a_floor_nothing_counts_as_measured(tiny, monkeypatch):
    monkeypatch.setattr(runner, "FLOOR", "tests.bench.rivals:DIES")  # its process dies at a run
    document = run_cpu_suite(
        peers=["tests.bench.rivals:RIGHT"],
        ours=False,
        dtypes=["f32"],
        only=["ntrans"],
        seconds=0.01,
    )
    (r,) = document["rows"]
    assert r["status"] == "failed" and r["floor"] is None and r["cold"] is None
    assert r["reason"].startswith("the floor was not measured: its process died (run, SIGABRT)")
    assert form.problems(document) == []
    assert "| ntrans m=3 | - | - | - | failed | - | - |" in table.markdown(document)


def test_resuming_keeps_finished_cases(tiny, tmp_path, monkeypatch):
    asked = []

    def fake(case, chosen, setting, probes):
        asked.append((case.workload.name, [r.name for r in chosen]))
        out = [case.blank(setting, label) for r in chosen for label in r.labels]
        return [{**r, "status": "skipped", "reason": "a test"} for r in out]

    monkeypatch.setattr(runner, "run_case", fake)
    path = tmp_path / "out.json"
    given = {"dtypes": ["f32"], "only": ["lora", "*.layer"], "json_path": path}
    run_cpu_suite(peers=["eager", "llama.cpp"], **given)
    # What a peer is not made for is no row of it.
    assert asked == [
        ("lora", ["superopt", "eager"]),
        ("llama-3.2-1b.layer", ["superopt", "eager", "llama.cpp"]),
    ]
    asked.clear()
    run_cpu_suite(peers=["eager", "llama.cpp"], resume=True, **given)
    assert asked == []
    document = run_cpu_suite(peers=["jax"], ours=False, resume=True, **given)
    assert [names for _, names in asked] == [["jax"], ["jax"]]
    assert {r["peer"] for r in document["rows"]} == {
        "superopt", "superopt.call", "eager", "llama.cpp", "jax"}  # fmt: skip
    path.write_text('{"schema": 1, "suite": "cpu", "machine": {}, "rows": [{}]}')
    with pytest.raises(BadOption, match="does not hold results"):
        run_cpu_suite(peers=["jax"], resume=True, **given)


def test_mistakes_are_told(tiny):
    with pytest.raises(BadOption, match="did you mean 'lora'"):
        run_cpu_suite(only=["lorra"])
    with pytest.raises(BadOption, match="did you mean 'eager'"):
        run_cpu_suite(peers=["egaer"])
    with pytest.raises(BadOption, match="no_such_module"):
        run_cpu_suite(peers=["no_such_module:RIVAL"])
    with pytest.raises(BadOption, match="no peer"):
        run_cpu_suite(peers=["json:dumps"])


def test_every_peer_is_named_once():
    names = peers.names()
    assert len(set(names)) == len(names)
    assert set(names) == {"superopt", "eager", "inductor", "inductor-max-autotune", "onnxruntime",
        "openvino", "jax", "llama.cpp"}  # fmt: skip
    # None of their packages was imported to say so.
    assert all(r.missing() or r.version() for r in peers.RIVALS if r.name != "superopt")


def test_constants_are_held_by_the_module():
    w = rows.row("linear_int8")
    args = w.inputs(w.tiny, torch.float32)
    task = peers.Task(w, w.tiny, torch.float32, args, 1)
    module = peers.Held(task)
    assert [len(module.free), len(list(module.parameters())), len(list(module.buffers()))] == [
        1, 1, 1]  # fmt: skip
    torch.testing.assert_close(module(*module.free), w.reference(*args))


def _timed(peer, median, floor_s, correct=True, **more):
    times = {"median_s": median, "iqr_s": 0.0, "best_s": median, "runs": 9}
    cache = {**times, "x_floor": median / floor_s}
    part = {"bandwidth": 5e10, "launch_s": 0.0, "floor_s": floor_s, "by": "bytes"}
    return {
        **dict.fromkeys(form.KEYS),
        "workload": "lora",
        "params": {"m": 1},
        "dtype": "f32",
        "threads": 2,
        "peer": peer,
        "peer_version": "1",
        "status": "ok",
        "reason": "",
        "info": {},
        "correct": correct,
        "cold": cache,
        "warm": cache,
        "floor": {"cold": part, "warm": part},
        "setup_s": 1.0,
        **more,
    }


@pytest.fixture
def synthetic():
    """Two cases with means by hand, and one below 50 us."""
    found = []
    for m, ours, ort, wrong in ((1, 1.0, 2.0, 0.1), (8, 4.0, 4.5, 0.1)):
        at = {"params": {"m": m}}
        found += [
            _timed("superopt", ours, 1.0, **at),
            _timed("onnxruntime", ort, 1.0, **at),
            _timed("jax", wrong, 1.0, correct=False, reason="wrong: error 1", **at),
        ]
    found.append(_timed("superopt", 3e-5, 1e-5, workload="chain"))
    machine = {"cpu": "a", "cores": 2, "torch": "2", "compiler": "g++", "peers": {"jax": "1"}}
    return {"schema": 1, "suite": "cpu", "machine": machine, "rows": found}


def test_the_means_are_of_right_results_alone(synthetic):
    assert form.problems(synthetic) == []
    cases = table.cases(synthetic)
    long = [c for c in cases if not table.brief(c)]
    assert len(cases) == 3 and len(long) == 2
    assert table.mean(table.over_floor(long, "superopt", "cold")) == pytest.approx(2.0)
    assert table.mean(table.over_floor(long, "onnxruntime", "warm")) == pytest.approx(3.0)
    assert table.over_floor(long, "jax", "cold") == []
    assert table.mean(table.ahead(long, "cold")) == pytest.approx(1.5)
    text = table.markdown(synthetic)
    assert (
        "| lora m=1 | 1.0 s | bytes | 50 | 1.00 | 2.00 | 0.10 WRONG | onnxruntime | 2.00 |" in text
    )
    assert "| **geometric mean** |  |  |  | 2.00 | 3.00 | - |  | 1.50 |" in text
    assert "| chain m=1 | 10.0 us | bytes | 50 | 30.0 | - | - | - | - |" in text
    assert "- jax: wrong: error 1 (lora m=1 f32 and 1 more)" in text


def test_a_document_that_is_not_one_is_found(synthetic):
    for change, said in (
        ({"status": "fine"}, "status 'fine'"),
        ({"status": "failed"}, "failed without a reason"),
        ({"cold": None}, "cold: no times"),
        ({"floor": None}, "no floor"),
    ):
        broken = copy.deepcopy(synthetic)
        broken["rows"][0].update(change)
        assert any(said in p for p in form.problems(broken)), said
    del synthetic["rows"][0]["info"]
    assert "keys differ" in form.problems(synthetic)[0]


def test_the_chart_is_drawn_where_it_can_be(synthetic, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.svg"
    assert floors.chart(synthetic, path)
    first = path.read_text()
    assert "time over floor" in first or "<svg" in first
    assert floors.chart(synthetic, path) and path.read_text() == first
    assert not floors.chart({**synthetic, "rows": synthetic["rows"][-1:]}, path)


def test_a_lock_is_held_while_times_are_taken(tmp_path):
    import fcntl

    from superopt.bench.cpu.process import at_priority

    path = tmp_path / "lock"
    policy = os.sched_getscheduler(0)
    with at_priority([], path), open(path, encoding="utf-8") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(path, encoding="utf-8") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert os.sched_getscheduler(0) == policy
