"""The suite ``verify``: a part of it is run, and it is seen to tell of a verifier that is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from superopt.bench import verify, verify_cases, verify_table, verify_tasks
from superopt.bench.identities import BEYOND, IDENTITIES
from superopt.bench.kernel_arguments import machine_code
from superopt.bench.text_mutants import text_mutants
from superopt.errors import BadOption
from superopt.pipeline.mutation import Checked, Pairs
from superopt.pipeline.mutation_fields import cases, measured
from superopt.pipeline.mutation_kernels import Bench, Tried
from superopt.verify.decision import Certificate

PART = ("gqa", "rmsnorm_linear", "cross_entropy", "gated MLP", "attention in one piece", "0")
SHARE = 0.08
LEAST = {
    "graph mutants": 300,
    "outputs and inputs": 10,
    "rewrites": 60,
    "identities": 2,
    "near misses": 2,
    "kernel mutants": 6,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    path = tmp_path_factory.mktemp("verify") / "verify.json"
    document = verify.run_verify_suite(json_path=path, threads=1, only=PART, share=SHARE)
    assert json.loads(path.read_text())["rows"] == document["rows"]
    return document


def test_nothing_wrong_is_accepted_and_nothing_correct_refused(found: dict):
    rows = found["rows"]
    assert not [r["reason"] for r in rows if r["status"] != "ok"]
    for part, least in LEAST.items():
        tried = sum(r["tried"] for r in rows if r["part"] == part)
        assert tried >= least, f"{part}: {tried}"
    mutants = [r for r in rows if r["part"] in ("graph mutants", "kernel mutants")]
    assert sum(sum(r["rejected"].values()) for r in mutants) >= 200
    assert sum(sum(r["explained"].values()) for r in mutants) >= 5
    assert not [t for r in mutants if r["part"] == "graph mutants" for t in r["unexplained"]]


def test_the_document_has_its_form_and_a_table(found: dict):
    assert verify.problems(found) == []
    assert {r["host"] for r in found["rows"]} == {verify.host_of(found["machine"])}
    text = verify_table.markdown(found)
    for part in LEAST:
        assert f"| {part} |" in text
    broken = {**found, "rows": [{**found["rows"][0], "tried": 0}]}
    assert verify.problems(broken)


def test_a_run_goes_on_where_it_was_left(found: dict, tmp_path: Path):
    path = tmp_path / "half.json"
    path.write_text(json.dumps({**found, "rows": found["rows"][1:]}))
    seen: list[str] = []
    again = verify.run_verify_suite(
        json_path=path,
        threads=1,
        only=PART,
        share=SHARE,
        resume=True,
        progress=lambda n, of, what: seen.append(f"{n}/{of}"),
    )
    assert seen == ["1/1"]
    assert [r["task"] for r in again["rows"]] == [r["task"] for r in found["rows"]]


def test_a_verifier_that_accepts_everything_is_found_out(monkeypatch: pytest.MonkeyPatch):
    yes = Checked(True, True, "operator by operator", 0.0, None, "identical", "")
    monkeypatch.setattr(Pairs, "any", lambda self, a, b: yes)
    case = next(c for c in verify_cases.cases() if c.workload == "lora")
    row = verify_tasks.graph_mutants(case, 0.1)
    assert len(row.wrong) >= 0.6 * row.tried, row.tried


def test_a_verifier_that_refuses_everything_is_found_out(monkeypatch: pytest.MonkeyPatch):
    no = Checked(False, False, "field: another value", 0.0, None, "sampled", "differs")
    monkeypatch.setattr(Pairs, "any", lambda self, a, b: no)
    monkeypatch.setattr(Pairs, "rewritten", lambda self, a, b: no)
    row = verify_tasks.random_rewrites(0, 0.05)
    assert row.tried >= 5
    assert len(row.wrong) == row.tried


def test_identities_may_be_undecided_only_as_documented(monkeypatch: pytest.MonkeyPatch):
    assert set(BEYOND) <= {pair.name for pair in IDENTITIES}
    assert len(IDENTITIES) - len(BEYOND) >= 500
    no = Certificate("undecided", reason="alike in 3 trials")
    monkeypatch.setattr(verify_tasks, "equivalent", lambda *args, **kw: no)
    row = verify_tasks.identities(0, 1.0)
    listed = IDENTITIES[: verify_tasks.LISTED]
    beyond = [pair.name for pair in listed if pair.name in BEYOND]
    assert len(row.wrong) == len(listed) - len(beyond)
    assert len(row.more.get("undecided", [])) == len(beyond)


def test_a_gate_that_accepts_everything_is_found_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Bench, "_judged", _loaded)
    n = next(k for k, c in enumerate(verify_cases.KERNELS) if c.name == "gated MLP")
    row = verify_tasks.kernel_mutants(n, 0.25)
    assert row.tried >= 10
    assert len(row.wrong) >= 3, row.to_json()


def _loaded(self: Bench, path: Path, source: object) -> Tried:
    self._mutant = self._load(path, source)  # type: ignore[arg-type]
    return Tried("", "")


def test_fields_that_are_small_enough_fail_as_often_as_they_should():
    case = next(c for c in cases() if c.name == "c d = 0" and c.primes[0] == 7)
    rate = measured(case, 400)
    assert rate.agrees
    assert 0 < rate.accepted < 60


TEXT = """static inline float helper(float a) { return a + 1.0f; }
static void k_k0(void* const* bufs) {
  for (int64_t i_a = 0; i_a < 8; ++i_a) {
    const float v1 = so_max(p1[i_a], 2.0f);
    // a comment with 7 + 8
    sum = op(sum, v1);
    p2[i_a] = v1 + sum;
  }
}
extern "C" int k(void** bufs) { return 4 + 5; }
"""


def test_text_mutants_change_one_line_of_a_task_function():
    made = text_mutants(TEXT, "k", 500, 0)
    kinds = {m.kind for m in made}
    assert {"number", "literal", "sign", "bound", "function", "offset", "statement lost"} <= kinds
    lines = TEXT.split("\n")
    for m in made:
        new = m.text.split("\n")
        changed = [k for k, (a, b) in enumerate(zip(lines, new, strict=True)) if a != b]
        assert changed == [m.line - 1]
        assert changed[0] in (2, 3, 5, 6)
    assert len({m.text for m in made}) == len(made) >= 15
    assert text_mutants(TEXT, "k", 9, 1) == text_mutants(TEXT, "k", 9, 1)


def test_machine_code_is_the_code_alone(tmp_path: Path):
    import subprocess

    texts = {
        "a": 'extern "C" float f(float x) { return x * 2.0f + 1.0f; }',
        "b": '// other text\nextern "C" float f(float y) { return y * 2.0f + 1.0f; }',
        "c": 'extern "C" float f(float x) { return x * 2.0f + 3.0f; }',
    }
    code = {}
    for name, text in texts.items():
        source, out = tmp_path / f"{name}.cpp", tmp_path / f"{name}.so"
        source.write_text(text)
        subprocess.run(["g++", "-O1", "-shared", "-fPIC", source, "-o", out], check=True)
        code[name] = machine_code(out)
    assert code["a"] == code["b"] != code["c"]


def test_options_that_fit_nothing_are_refused(tmp_path: Path):
    with pytest.raises(BadOption):
        verify.tasks(["no such workload"])
    with pytest.raises(BadOption):
        verify.run_verify_suite(share=0.0)
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"schema": 1, "suite": "mirage", "machine": {}, "rows": []}))
    with pytest.raises(BadOption):
        verify.run_verify_suite(json_path=path, resume=True)
