"""JSON from every command, also of what went wrong; what doctor and the list of the cache say."""

import importlib.machinery
import importlib.util
import json
import sys

import pytest
import torch

from superopt import pipeline, superoptimize
from superopt.config import version
from tests.bench.test_cli import invoke


def told(*words, status=0):
    """What standard output holds, as JSON."""
    return json.loads(invoke(*words, status=status).stdout)


def test_version():
    assert told("version", "--json") == {"version": version()}
    assert invoke("--version").output.strip() == invoke("version").output.strip() == version()


@pytest.mark.parametrize("dash", [["--json", "-"], ["--json=-"], ["--json"]])
def test_bench_tells_mistakes_in_json(dash):
    for words, said in (
        (["--suite", "mirag"], "did you mean 'mirage'"),
        (["--threads", "0"], "--threads"),
        (["--resume"], "nothing to resume"),
    ):
        answer = told("bench", *words, *dash, status=2)
        assert answer["status"] == "failed" and said in answer["reason"]
        assert told("bench", *dash, *words, status=2) == answer


def test_bench_keeps_standard_output_clean_when_json_goes_to_a_file(tmp_path):
    path = tmp_path / "o.json"
    assert invoke("bench", "--json", path, "--threads", "0", status=2).stdout == ""
    assert invoke("bench", "--list", "--json", path).stdout == ""
    assert json.loads(path.read_text())["suites"]
    assert "cannot be written" in invoke("bench", "--list", "--json", tmp_path, status=2).output


def test_bench_lists_in_json():
    listed = told("bench", "--list", "--json", "-")
    assert "mirage" in listed["suites"]
    assert listed["peers"][0] == {"name": "eager", "version": torch.__version__, "missing": ""}
    assert {"rmsnorm_linear"} <= {w["name"] for w in listed["workloads"]}
    assert told("bench", "--list", "--json") == listed


@pytest.mark.parametrize(
    "words", [["explain", "--json"], ["nope", "--json"], ["cache", "-x", "--json"]]
)
def test_usage_errors_are_told_in_json(words):
    answer = told(*words, status=2)
    assert answer["status"] == "failed" and "\n" not in answer["reason"]


def test_the_reason_is_one_line_and_the_details_are_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "branch_for_cli.py"
    path.write_text("def branch(x):\n    return x * 2 if x.sum() > 0 else x * 3\n")
    done = invoke("explain", f"{path}:branch", "--inputs", "f32[3]", "--json", status=2)
    answer = json.loads(done.stdout)
    reason = answer["reason"]
    assert "depends on the data" in reason and f"{path}:2" in reason and "torch.where" in reason
    assert "\n" not in reason and "Caused by" not in reason and "superopt/" not in reason
    assert "data-dependent expression" in answer["details"]
    (line,) = done.stderr.splitlines()
    assert "Caused by" not in line and "(details: " in line


def findings():
    return {f["name"]: f for f in told("doctor", "--json")}


class Broken:
    """An import finder that gives the extension as a file that is no library."""

    def __init__(self, path):
        self.path = path

    def find_spec(self, name, path=None, target=None):
        if name != "superopt._core":
            return None
        loader = importlib.machinery.ExtensionFileLoader(name, str(self.path))
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


def test_doctor_loads_the_extension(tmp_path, monkeypatch):
    import superopt._core as core

    assert findings()["core"]["status"] == "ok" and core.__file__ in findings()["core"]["detail"]
    path = tmp_path / "_core.so"
    path.write_bytes(b"no library")
    monkeypatch.delitem(sys.modules, "superopt._core")
    monkeypatch.setattr(sys, "meta_path", [Broken(path), *sys.meta_path])
    found = findings()["core"]
    assert found["status"] == "broken" and found["fix"]
    assert str(path) in found["detail"] and "Python engines" in found["detail"]
    assert "broken" in invoke("doctor").output


def test_doctor_tells_an_extension_of_another_version(monkeypatch):
    import superopt._core as core

    monkeypatch.delattr(core, "field_run")
    found = findings()["core"]
    assert found["status"] == "broken" and "field_run" in found["detail"]


def doubled(x):
    return torch.relu(x) * 2


def test_each_entry_of_the_cache_has_a_kind_and_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path))
    superoptimize(doubled, fallbacks=(), budget="100c")(torch.randn(3, 5))
    entries = told("cache", "list", "--json")
    assert {e["kind"]: e["name"] for e in entries} == {"kernel": "doubled", "shortcut": "doubled"}
    lines = invoke("cache", "list").output.splitlines()
    assert all(line.endswith("doubled") for line in lines)
    (kernel,) = [e["key"] for e in entries if e["kind"] == "kernel"]
    pipeline.cache().remove(kernel)
    (left,) = told("cache", "list", "--json")
    assert left["kind"] == "shortcut" and kernel[:16] in left["name"] and "gone" in left["name"]
