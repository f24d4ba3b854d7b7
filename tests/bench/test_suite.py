"""Suites: rows and their checks, fallbacks, resuming, the table; with an engine that is faked."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from superopt.bench import results, suite, table
from superopt.bench.peers import PEERS, Peer, peer
from superopt.bench.results import KEYS, OUR_KEYS, OURS, problems
from superopt.bench.suite import relative_error, run_suite
from superopt.bench.workloads import WORKLOADS
from superopt.errors import BadOption, SuperoptError

LORA = ["lora", "ntrans"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Every workload at its tiny size, and floors that cost nothing."""
    tiny = tuple(dataclasses.replace(w, grid=(w.tiny,)) for w in WORKLOADS)
    monkeypatch.setattr("superopt.bench.workloads.WORKLOADS", tiny)
    monkeypatch.setattr(suite.Floors, "floor", lambda self, *a, **k: 1e-6)
    threads = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == threads


@pytest.fixture
def engine(monkeypatch):
    """An engine whose result a test chooses: engine.make(fn) gives (call, generated, winner)."""
    state = SimpleNamespace(make=lambda fn: (fn, fn, "generated"), calls=0, options=None)

    def optimize(fn, args, kwargs, options=None, config=None):
        state.calls += 1
        state.options = options
        call, generated, winner = state.make(fn)
        timings = {"search_s": 1.5, "compile_s": 0.5, "generated_median_s": 9.0}
        return SimpleNamespace(
            call=call, generated=generated, winner=winner, timings=timings, states=42
        )

    monkeypatch.setattr("superopt.pipeline.optimize", optimize)
    return state


def run(**changes):
    given = {"peers": ["eager"], "dtypes": ["f32"], "only": ["lora"], "seconds": 0.01}
    return run_suite("mirage", **{**given, **changes})


def by_peer(document):
    return {r["peer"]: r for r in document["rows"]}


def test_schema_is_complete_and_round_trips(engine, tmp_path):
    path = tmp_path / "deep" / "out.json"
    document = run(dtypes=["f32", "bf16"], only=LORA, json_path=path)
    assert list(document) == ["schema", "suite", "machine", "rows"]
    assert len(document["rows"]) == 2 * 2 * 2
    assert problems(document) == []
    assert results.read(path) == document == json.loads(path.read_text())
    assert list(path.parent.iterdir()) == [path]
    ours = by_peer(document)[OURS]
    assert list(ours) == [*KEYS, *OUR_KEYS]
    assert (ours["search_s"], ours["compile_s"], ours["states"]) == (1.5, 0.5, 42)
    assert ours["winner"] == "generated"
    assert set(by_peer(document)["eager"]) == set(KEYS)


def test_generated_and_winner_are_timed_apart(engine):
    engine.make = lambda fn: (fn, lambda *args: fn(*args) + 0, "eager")
    rows = by_peer(run())
    assert rows[OURS]["winner"] == "eager" and rows[OURS]["correct"]
    # What the user gets is eager itself, so it is measured once; the kernels have their own time.
    assert rows[OURS]["median_s"] == rows["eager"]["median_s"]
    assert rows[OURS]["generated_median_s"] != rows[OURS]["median_s"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda y: y * 1.001, "wrong: error 1.0"),
        (lambda y: y[:1], "wrong: error its outputs differ"),
        (lambda y: y * float("nan"), "wrong: error its outputs differ"),
    ],
)
def test_wrong_kernels_are_found_even_if_eager_won(engine, wrong, said):
    engine.make = lambda fn: (fn, lambda *args: wrong(fn(*args)), "eager")
    document = run()
    ours = by_peer(document)[OURS]
    assert ours["correct"] is False and ours["reason"].startswith(said)
    assert table.summarize(document).wrong == 1
    assert table.summarize(document).generated_wins == 0
    assert problems(document) == []


def test_kernels_that_go_wrong_later_are_found(engine):
    count = iter(range(10**9))

    def make(fn):
        return fn, lambda *args: fn(*args) + (next(count) > 2), "eager"

    engine.make = make
    assert by_peer(run())[OURS]["correct"] is False


def test_nothing_generated_is_eager_with_a_reason(engine):
    def make(fn):
        raise SuperoptError("the search found no kernel", "lora")

    engine.make = make
    ours = by_peer(run())[OURS]
    assert (ours["status"], ours["winner"], ours["correct"]) == ("ok", "eager", True)
    assert "the search found no kernel" in ours["reason"]
    assert ours["generated_median_s"] is None and ours["states"] is None


def test_a_crash_is_a_failed_row_and_the_rest_goes_on(engine):
    def make(fn):
        raise ZeroDivisionError("oops\nsecond line")

    engine.make = make
    document = run(only=LORA)
    rows = [r for r in document["rows"] if r["peer"] == OURS]
    assert {(r["status"], r["reason"]) for r in rows} == {("failed", "ZeroDivisionError: oops")}
    assert all(r["status"] == "ok" for r in document["rows"] if r["peer"] == "eager")
    assert problems(document) == []


def test_kernels_that_raise_are_failed(engine):
    def generated(*args):
        raise RuntimeError("status 3")

    engine.make = lambda fn: (fn, generated, "eager")
    ours = by_peer(run())[OURS]
    assert (ours["status"], ours["reason"]) == ("failed", "RuntimeError: status 3")


def test_missing_and_failing_peers_are_rows(engine, monkeypatch):
    def broken(fn, args):
        raise RuntimeError("no such operator")

    extra = (
        Peer("absent", ("no_such_module",), "no-such", lambda fn, args: fn),
        Peer("broken", (), "torch", broken),
        Peer("narrow", (), "torch", lambda fn, args: fn, (torch.float32,)),
        Peer("inexact", (), "torch", lambda fn, args: lambda *xs: fn(*xs) * 1.1),
    )
    monkeypatch.setattr("superopt.bench.peers.PEERS", (*PEERS, *extra))
    document = run(peers=["eager", *(p.name for p in extra)], dtypes=["bf16"])
    rows = by_peer(document)
    assert rows["absent"]["status"] == "skipped" and "no_such_module" in rows["absent"]["reason"]
    assert rows["broken"]["status"] == "failed" and "no such op" in rows["broken"]["reason"]
    assert rows["narrow"]["status"] == "skipped" and "bf16" in rows["narrow"]["reason"]
    assert rows["inexact"]["status"] == "ok" and rows["inexact"]["correct"] is False
    assert problems(document) == []


def test_an_interrupted_suite_resumes(engine, tmp_path):
    path = tmp_path / "out.json"

    def stop(done, total, label):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(only=LORA, dtypes=["f32", "bf16"], json_path=path, progress=stop)
    kept = results.read(path)["rows"]
    assert len(kept) == 4 and engine.calls == 2
    document = run(only=LORA, dtypes=["f32", "bf16"], json_path=path, resume=True)
    assert engine.calls == 4
    assert document["rows"][:4] == kept and len(document["rows"]) == 8
    run(only=LORA, dtypes=["f32", "bf16"], json_path=path, resume=True)
    assert engine.calls == 4
    # A new peer is interleaved with the others: the case is measured again, and replaces its rows.
    again = run(peers=["eager", "onnxruntime"], json_path=path, resume=True)
    assert engine.calls == 5 and len(again["rows"]) == 9
    run(only=LORA, dtypes=["f32", "bf16"], json_path=path)
    assert len(results.read(path)["rows"]) == 8


def test_resume_repeats_what_failed(engine, tmp_path):
    path = tmp_path / "out.json"
    good = engine.make

    def bad(fn):
        raise RuntimeError("once")

    engine.make = bad
    assert by_peer(run(json_path=path))[OURS]["status"] == "failed"
    engine.make = good
    assert by_peer(run(json_path=path, resume=True))[OURS]["status"] == "ok"


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 2, "rows": ['])
def test_a_file_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "out.json"
    path.write_text(text)
    with pytest.raises(BadOption, match=r"out\.json"):
        run(ours=False, json_path=path, resume=True)
    assert path.read_text() == text


def test_peers_alone(tmp_path):
    document = run(ours=False)
    assert [r["peer"] for r in document["rows"]] == ["eager"]
    assert document["rows"][0]["correct"] and document["rows"][0]["floor_s"] == 1e-6
    assert document["rows"][0]["cache"] == "cold"
    assert run(ours=False, cold=False)["rows"][0]["cache"] == "warm"


def test_threads_are_set_and_told():
    assert run(ours=False, threads=1)["rows"][0]["threads"] == 1


def test_unknown_names():
    for changes, said in (
        ({"peers": ["eagr"]}, "did you mean 'eager'"),
        ({"dtypes": ["f31"]}, "no dtype 'f31'"),
        ({"only": ["lorra"]}, "did you mean 'lora'"),
    ):
        with pytest.raises(BadOption, match=said):
            run(ours=False, **changes)


def test_relative_error():
    def error(*pairs):
        got, wanted = zip(*pairs, strict=True)
        return relative_error(
            [torch.tensor(g) for g in got], [torch.tensor(w, dtype=torch.float64) for w in wanted]
        )

    inf, nan = float("inf"), float("nan")
    assert error(([1.0, 2.5], [1.0, 2.0])) == pytest.approx(0.25)
    assert error(([0.0], [0.0])) == 0.0
    assert error(([1.0], [1.0]), ([3.0], [2.0])) == pytest.approx(0.5)
    assert error(([inf, 1.0], [inf, 1.0])) == 0.0
    assert error(([nan, 1.0], [nan, 1.0])) == 0.0
    assert error(([], [])) == 0.0
    assert error(([inf], [-inf])) is None
    assert error(([nan], [1.0])) is None
    assert error(([nan], [inf])) is None
    assert error(([1.0], [1.0, 2.0])) is None
    assert relative_error([], [torch.ones(1)]) is None


def test_table_and_summary(engine, capsys):
    def make(fn):
        return fn, lambda *args: fn(*args), "generated"

    engine.make = make
    document = run(only=LORA)
    for row in document["rows"]:
        slow = row["workload"] == "ntrans"
        if row["peer"] == OURS:
            row.update(median_s=2.0 if slow else 0.5, generated_median_s=2.0 if slow else 0.5)
        else:
            row.update(median_s=1.0)
    s = table.summarize(document)
    assert (s.compared, s.generated_wins, s.slower, s.worst) == (2, 1, 1, 2.0)
    assert "ntrans f32" in s.worst_case
    table.print_table(document)
    text = capsys.readouterr().out
    assert "generated kernels beat eager in 1 of 2 rows" in text
    assert "lora" in text and "slowest row: 2.00 of the time of eager" in text


def test_problems_name_what_is_wrong(engine):
    document = run()
    for change, said in (
        ({"status": "fine"}, "status 'fine'"),
        ({"median_s": None}, "ok without a median"),
        ({"status": "failed", "reason": ""}, "failed without a reason"),
        ({"winner": "luck"}, "winner 'luck'"),
        ({"extra": 1}, "keys differ"),
    ):
        rows = [{**document["rows"][0], **change}]
        assert said in problems({**document, "rows": rows})[0]
    assert problems({**document, "schema": 3}) == ["schema 3 is not 1"]


def test_inductor_peer_runs():
    w = next(w for w in WORKLOADS if w.name == "softmax_odd")
    args = w.inputs(w.tiny, torch.float32)
    torch.testing.assert_close(
        peer("inductor").prepare(w.reference, args)(*args), args[0].softmax(-1)
    )
    assert peer("eager").version() == torch.__version__ or peer("eager").version()
