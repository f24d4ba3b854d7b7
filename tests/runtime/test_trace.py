"""Spans, channels, one-line warnings with their log file, and the progress hook."""

import io
import json
import logging
import sys
from pathlib import Path

import pytest

from superopt import trace
from superopt.config import Config
from superopt.errors import CompileFailed


@pytest.fixture(autouse=True)
def config(tmp_path):
    config = trace.configure(Config(cache_dir=tmp_path / "cache"))
    trace.forget_warnings()
    yield config
    trace.configure(Config())
    trace.forget_warnings()


def test_spans_nest_and_keep_their_notes():
    with trace.stage("compile", target="cpu") as outer:
        with trace.stage("search") as inner:
            trace.note(states=3)
        with pytest.raises(ValueError, match="no"), trace.stage("verify"):
            raise ValueError("no")
    assert [p.name for p in outer.parts] == ["search", "verify"]
    assert inner.notes == {"states": 3}
    assert [p.outcome for p in outer.parts] == ["ok", "ValueError"]
    assert outer.seconds >= inner.seconds > 0
    assert outer.total("search") == inner.seconds
    assert outer.total("absent") == 0
    assert json.loads(trace.to_json(outer))["notes"] == {"target": "cpu"}
    trace.note(lost=True)  # outside every stage: nothing to note on


def test_channels_are_silent_unless_asked_for(config, caplog):
    caplog.set_level(logging.DEBUG, logger="superopt")
    trace.log("search", "quiet")
    assert caplog.records == []
    trace.configure(config.with_values(logs=frozenset({"search"})))
    trace.log("search", "heard", 5, states=3)
    trace.log("cache", "quiet")
    assert [r.getMessage() for r in caplog.records] == ["heard states=3"]
    trace.configure(config.with_values(debug=2))
    trace.log("cache", "two", 2)
    trace.log("cache", "three", 3)
    assert [r.getMessage() for r in caplog.records][1:] == ["two"]


def test_a_warning_is_one_line_and_names_the_file_of_its_details(caplog, config):
    error = CompileFailed("g++ said no", "k.cpp", details="line 1\nline 2")
    trace.warn("codegen", "PyTorch runs\ninstead", error=error)
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith("superopt codegen: PyTorch runs instead (details: ")
    assert "\n" not in line
    path = line.rpartition("details: ")[2].rstrip(")")
    assert str(config.cache_path) in path
    assert "line 2" in Path(path).read_text()


def test_any_exception_leaves_its_traceback(caplog):
    try:
        raise ZeroDivisionError("deep")
    except ZeroDivisionError as error:
        trace.warn("search", "failed", error=error)
    path = caplog.records[0].getMessage().rpartition("details: ")[2].rstrip(")")
    assert "ZeroDivisionError: deep" in Path(path).read_text()


def test_once_means_once(caplog):
    for n in range(3):
        trace.warn_once("cache", f"take {n}", key=("cache", "full"))
        trace.warn_once("cache", "same")
    assert [r.getMessage() for r in caplog.records] == [
        "superopt cache: take 0",
        "superopt cache: same",
    ]


def test_details_go_elsewhere_when_the_cache_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    trace.configure(Config(cache_dir=tmp_path / "file" / "cache"))
    trace.warn("search", "failed", details="why")
    path = caplog.records[0].getMessage().rpartition("details: ")[2].rstrip(")")
    assert "why" in Path(path).read_text()


def test_artefacts_are_kept_from_level_three(config):
    assert trace.artefact("graph.txt", "x") is None
    trace.configure(config.with_values(debug=3))
    path = trace.artefact("graph.txt", lambda: "content")
    assert path.read_text() == "content"
    assert config.cache_path in path.parents


def test_a_faulty_environment_never_breaks_logging(monkeypatch):
    monkeypatch.setenv("SUPEROPT_DEBUG", "loud")
    monkeypatch.setattr(trace._state, "config", None)
    trace.log("search", "x")
    assert trace.current().debug == 0


def test_progress_reaches_the_listener_and_only_inside():
    events = []
    trace.report("search", 1)
    with trace.progress(events.append):
        trace.report("search", 2, 10, "states")
        with trace.progress(None):
            trace.report("search", 3)
    trace.report("search", 4)
    assert events == [trace.Progress("search", 2, 10, "states")]


def test_the_bar_is_for_terminals(config, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with trace.terminal_progress("rmsnorm", config):
        trace.report("search", 1, 2)
    assert stream.getvalue() == ""
    with trace.terminal_progress("rmsnorm", config.with_values(progress="always")):
        trace.report("search", 1, 2, "states")
