"""The command line: help, bad input, and every command over a faked engine."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from superopt.bench.load import load_function, unfit
from superopt.cli import app
from superopt.errors import BadOption, SuperoptError

runner = CliRunner()

PROGRAM = '''"""Programs."""
import torch

VALUE = 3

def scale(x, g):
    return x * g
'''


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "programs_for_cli.py"
    path.write_text(PROGRAM)
    return path


def invoke(*words, status=0):
    done = runner.invoke(app, [str(w) for w in words])
    assert done.exit_code == status, (done.output, done.exception)
    return done


@pytest.mark.parametrize("command", [[], ["explain"], ["verify"], ["bench"], ["cache"], ["doctor"]])
def test_help(command):
    assert "Usage" in invoke(*command, "--help").output


def result_of(fn):
    return SimpleNamespace(
        call=fn,
        generated=fn,
        winner="generated",
        mugraph="graph text",
        certificate={"checks": []},
        timings={"search_s": 1.0, "generated_median_s": 1e-5, "eager_median_s": 2e-5},
        states=7,
        cache="cold",
        boundaries=(SimpleNamespace(op="topk", where="f.py:3", reason="data-dependent"),),
        pieces=(),
    )


def test_explain(program, monkeypatch):
    seen = {}

    def optimize(fn, args, kwargs, options=None, config=None, first=None):
        seen.update(fn=fn, args=args, options=options)
        return result_of(fn)

    monkeypatch.setattr("superopt.pipeline.optimize", optimize)
    words = ["explain", f"{program}:scale", "--inputs", "f32[2,3],bf16[3]", "--budget", "100c"]
    assert "winner: generated" in invoke(*words).output
    assert [tuple(a.shape) for a in seen["args"]] == [(2, 3), (3,)]
    assert seen["options"].budget.candidates == 100
    out = json.loads(invoke(*words, "--json").output)
    assert out["winner"] == "generated" and out["mugraphs"] == ["graph text"]
    assert out["boundaries"] == [{"op": "topk", "where": "f.py:3", "reason": "data-dependent"}]


@pytest.mark.parametrize(
    ("where", "inputs", "said"),
    [
        ("{}:scale", "f32[2", "is not a tensor"),
        ("{}:scal", "f32[2]", "did you mean 'scale'"),
        ("{}:VALUE", "f32[2]", "cannot be called"),
        ("{}", "f32[2]", "names no function"),
        ("nowhere.py:f", "f32[2]", "no file nowhere.py"),
        ("no_such_module_x:f", "f32[2]", "no module no_such_module_x"),
    ],
)
def test_explain_tells_mistakes(program, where, inputs, said):
    done = invoke("explain", where.format(program), "--inputs", inputs, status=2)
    assert said in done.output and "Traceback" not in done.output


def test_explain_tells_a_program_that_does_not_import(tmp_path):
    path = tmp_path / "broken_for_cli.py"
    path.write_text("import no_such_thing_at_all")
    done = invoke("explain", f"{path}:f", "--inputs", "f32[2]", status=2)
    assert "fails when it is imported" in done.output and "no_such_thing_at_all" in done.output


def test_explain_tells_inputs_that_do_not_fit(program):
    done = invoke("explain", f"{program}:scale", "--inputs", "f32[2,3],f32[4]", status=2)
    assert "Traceback" not in done.output and done.output.startswith("superopt: ")


RAISING = """
def key(x):
    return {}["nothing"]

def index(x):
    return [1][x.shape[0]]

def own(x):
    raise NotImplementedError

def rank(x):
    return x.sum(7)
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("key", ("KeyError: 'nothing'", "in key: return {}")),
        ("index", ("IndexError: list index out of range", "in index: return [1]")),
        ("own", ("NotImplementedError", "in own: raise")),
        ("rank", ("IndexError: Dimension out of range", "in rank: return x.sum(7)")),
    ],
)
def test_explain_tells_what_the_function_raises(tmp_path, name, said):
    path = tmp_path / "raising_for_cli.py"
    path.write_text(RAISING)
    done = invoke("explain", f"{path}:{name}", "--inputs", "f32[3]", status=2)
    assert done.output.startswith("superopt: the function does not run on these inputs: ")
    assert all(part in done.output for part in said), done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "99999999999999999999"], "fix: give an integer from 0 to 2**63 - 1"),
        (["--memory", "lots"], "fix: expected a size such as 800M or 4G"),
        (["--memory", "nan"], "fix: expected a size such as 800M or 4G"),
        (["--checkpoint", ""], "option checkpoint"),
    ],
)
def test_explain_reads_its_options_first(program, words, said):
    done = invoke("explain", f"{program}:scale", "--inputs", "f32[2],f32[2]", *words, status=2)
    assert said in done.output and "Traceback" not in done.output


def test_an_error_of_our_own_is_told_as_one():
    error = unfit(KeyError(12))
    assert "superopt itself failed: KeyError: 12" in str(error) and "log" in error.fix
    assert "KeyError: 12" in error.details and not isinstance(error, BadOption)


def test_a_function_of_a_module():
    import math

    assert load_function("math:sqrt") is math.sqrt
    with pytest.raises(BadOption, match="did you mean 'sqrt'"):
        load_function("math:sqrtt")


def test_bench_writes_json(tmp_path, monkeypatch):
    seen = {}

    def run_suite(name, **given):
        seen.update(given, name=name)
        return {"schema": 1, "suite": name, "machine": {}, "rows": []}

    monkeypatch.setattr("superopt.bench.suite.run_suite", run_suite)
    path = tmp_path / "o.json"
    invoke("bench", "--suite", "general", "--peers", "eager, inductor", "--json", path, "--warm")
    assert seen["name"] == "general" and seen["peers"] == ["eager", "inductor"]
    assert seen["json_path"] == path and seen["cold"] is False
    out = invoke("bench", "--json", "-").stdout
    assert json.loads(out)["schema"] == 1


def test_bench_of_cpu_kernels_takes_its_options(tmp_path, monkeypatch):
    seen = {}

    def run_cpu_suite(**given):
        seen.update(given)
        return {"schema": 1, "suite": "cpu", "machine": {}, "rows": []}

    monkeypatch.setattr("superopt.bench.cpu.runner.run_cpu_suite", run_cpu_suite)
    path = tmp_path / "o.json"
    invoke("bench", "--suite", "cpu", "--only", "lo*", "--json", path, "--no-ours", "--lock", path)
    assert seen["peers"] == () and seen["dtypes"] == ["f32", "bf16"] and seen["only"] == ["lo*"]
    assert seen["ours"] is False and seen["lock"] == path and seen["seconds"] == 6.0
    assert seen["options"] == {"budget": "30s", "fallbacks": ("eager",)}
    invoke("bench", "--suite", "cpu", "--peers", "jax,eager", "--dtypes", "bf16", "--json", "-")
    assert seen["peers"] == ["jax", "eager"] and seen["dtypes"] == ["bf16"]
    assert seen["json_path"] is None
    said = invoke("bench", "--suite", "cpu", "--warm", status=2).output
    assert "measures cold and warm" in said
    assert "option --lock" in invoke("bench", "--lock", path, status=2).output


def test_bench_tells_mistakes():
    assert "did you mean 'mirage'" in invoke("bench", "--suite", "mirag", status=2).output
    assert "did you mean 'eager'" in invoke("bench", "--peers", "egaer", status=2).output
    assert "nothing to resume" in invoke("bench", "--resume", status=2).output
    for words in (["--dtypes", ""], ["--dtypes", ","], ["--only", ",,"], ["--peers", ","]):
        assert f"option {words[0]}" in invoke("bench", *words, status=2).output
    for words in (["--dtypes", ""], ["--only", ",,"]):
        done = invoke("bench", "--suite", "search", *words, status=2)
        assert f"{words[1]!r} names nothing" in done.output
    assert "budget" in invoke("bench", "--budget", "soon", status=2).output
    assert "rmsnorm_linear" in invoke("bench", "--list").output


def test_cache_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path))
    from superopt import pipeline

    pipeline.cache().put("ab" * 32, {"kernel.so": b"x" * 100}, {"name": "f"})
    stats = json.loads(invoke("cache", "--json").output)
    assert stats["entries"] == 1 and stats["root"] == str(tmp_path)
    assert "entries  1" in invoke("cache", "stats").output
    [entry] = json.loads(invoke("cache", "list", "--json").output)
    assert entry["key"] == "ab" * 32 and entry["size"] >= 100
    assert "abab" in invoke("cache", "list").output
    assert "removed 1" in invoke("cache", "clear").output
    assert json.loads(invoke("cache", "--json").output)["entries"] == 0
    assert "did you mean 'clear'" in invoke("cache", "cleer", status=2).output


def test_doctor(monkeypatch):
    findings = [
        {"name": "compiler", "status": "ok", "detail": "g++ 12", "fix": ""},
        {"name": "triton", "status": "missing", "detail": "", "fix": "pip install x[triton]"},
    ]
    monkeypatch.setattr("superopt.pipeline.doctor", lambda: findings, raising=False)
    text = invoke("doctor").output
    assert "g++ 12" in text and "x[triton]" in text and "SUPEROPT_CACHE_DIR" in text
    assert json.loads(invoke("doctor", "--json").output) == findings
    findings[0]["status"] = "missing"
    assert "how to get it" in invoke("doctor", status=1).output


def test_errors_of_the_engine_end_in_one_line(program, monkeypatch):
    def optimize(*args, **kwargs):
        raise SuperoptError("the search found no kernel", "scale", "a larger budget")

    monkeypatch.setattr("superopt.pipeline.optimize", optimize)
    done = invoke("explain", f"{program}:scale", "--inputs", "f32[2],f32[2]", status=2)
    assert "the search found no kernel" in done.output


def test_explain_takes_a_module_and_writes_json_of_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "module_for_cli.py"
    path.write_text(
        "import torch\nlinear = torch.nn.Linear(7, 3)\n\ndef adds(x):\n    return x.add_(1)\n"
    )
    done = invoke("explain", f"{path}:linear", "--inputs", "f32[2,7]", "--budget", "100c")
    assert "certificate" in done.output
    done = invoke("explain", f"{path}:adds", "--inputs", "f32[2]", "--json", status=2)
    told = json.loads(done.stdout)
    assert told["status"] == "failed" and "add_" in told["reason"]
