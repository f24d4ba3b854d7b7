"""The committed results have the form that they claim, and their tables show what they hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from superopt.bench import launch, search, search_table, verify, verify_table
from superopt.bench.cpu import document as cpu
from superopt.bench.cpu import table as cpu_table
from superopt.bench.results import problems
from superopt.bench.table import grid, markdown

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
SUITES = sorted(RESULTS.glob("mirage*.json"))


@pytest.mark.parametrize("path", SUITES, ids=lambda p: p.stem)
def test_a_committed_suite_has_its_form_and_its_table(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert problems(document) == []
    table = path.with_suffix(".md").read_text(encoding="utf-8")
    assert table == markdown(document), "run python tools/tables.py"
    heads, lines = grid(document)
    assert all(len(line) == len(heads) for line in lines)


def test_there_is_a_committed_suite() -> None:
    assert SUITES


@pytest.mark.parametrize("path", sorted(RESULTS.glob("search*.json")), ids=lambda p: p.stem)
def test_a_committed_ablation_has_its_form_and_its_table(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert search.problems(document) == []
    table = path.with_suffix(".md").read_text(encoding="utf-8")
    assert table == search_table.markdown(document), "run python tools/tables.py"
    heads, lines = search_table.grid(document)
    assert all(len(line) == len(heads) for line in lines)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("verify*.json")), ids=lambda p: p.stem)
def test_a_committed_look_at_the_verifier_has_its_form_and_its_table(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert verify.problems(document) == []
    assert all(row["status"] == "ok" for row in document["rows"])
    table = path.with_suffix(".md").read_text(encoding="utf-8")
    assert table == verify_table.markdown(document), "run python tools/tables.py"


# Files that begin so: mirage-cpu.json is of another suite.
@pytest.mark.parametrize("path", sorted(RESULTS.glob("kernels-*.json")), ids=lambda p: p.stem)
def test_committed_cpu_kernels_have_their_form_their_table_and_their_chart(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert cpu.problems(document) == []
    table = path.with_suffix(".md").read_text(encoding="utf-8")
    assert table == cpu_table.markdown(document), "run python tools/tables.py"
    assert path.with_suffix(".svg").exists()


def test_a_committed_launch_has_its_form_and_its_table() -> None:
    path = RESULTS / "launch-cpu.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    assert launch.problems(document) == []
    assert len(document["rows"]) == len(launch.CASES) * len(launch.WAYS)
    assert all(row["status"] == "ok" for row in document["rows"])
    assert path.with_suffix(".md").read_text(encoding="utf-8") == launch.markdown(document)
    document["rows"][0]["way"] = "unheard of"
    assert launch.problems(document) != []


def test_the_launch_suite_times_every_way_into_every_case() -> None:
    document = launch.run_launch_suite(calls=2, turns=2)
    assert launch.problems(document) == []
    assert {(r["case"], r["way"]) for r in document["rows"]} == {
        (case, way) for case in launch.CASES for way in launch.WAYS
    }
