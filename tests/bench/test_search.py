"""The suite ``search``: its cases, its runs in fresh processes, its form and its table."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from typer.testing import CliRunner

from superopt.bench import results, search, search_table
from superopt.bench.moe import MOE_LAYER, TOP_K
from superopt.bench.search import AT, BOUNDS, KEYS, OPERATORS, cases, problems, run_search_suite
from superopt.bench.search_run import TECHNIQUES, Run, figures, fresh
from superopt.bench.suite import outputs, relative_error
from superopt.bench.workloads import MIRAGE, workload
from superopt.cli import app
from superopt.errors import BadOption

LORA = {"m": 4, "k": 64, "n": 128, "r": 8}


def lora(without: str = "", **changes: object) -> Run:
    given = {
        "max_block_ops": None,
        "operators": None,
        "seconds": 60.0,
        "values": 5000,
        "threads": 2,
        **changes,
    }
    return Run("lora", LORA, "f32", without=without, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def document() -> dict:
    """The suite over LoRA, with few states, in processes of its own."""
    return run_search_suite(
        dtypes=["f32"], only=["lora"], threads=2, values=5000, repeats=2, max_block_ops=4
    )


def by_technique(document: dict) -> dict[str, dict]:
    return {r["without"]: r for r in document["rows"]}


def test_the_suite_holds_what_it_is_asked_for() -> None:
    every = cases()
    bounded = [c for c in every if c.workload == "rmsnorm_linear"]
    assert [c.max_block_ops for c in bounded if c.operators is None] == [None, *BOUNDS]
    assert [c.operators for c in bounded if c.operators is not None] == [*OPERATORS]
    assert {c.operators for c in every} == {None, *OPERATORS}
    assert min(BOUNDS) == 5 and max(BOUNDS) > 11
    names = {c.workload for c in every}
    assert names >= {w.name for w in MIRAGE}
    assert names >= {"llama-3.2-1b.layer", "qwen3-0.6b.layer", "qwen3-30b-a3b.layer"}
    assert {(c.max_block_ops, c.operators) for c in cases(7)} == {(7, None)}
    assert {c.workload for c in cases(only=["*.layer", "*-layers"])} == set(search.LAYERS)
    deep = [c for c in every if c.workload.endswith("28-layers")]
    assert len(deep) == 2 and all(c.variations() == ("",) for c in deep)
    with pytest.raises(BadOption, match="did you mean 'lora'"):
        cases(only=["lorra"])


def test_rows_say_what_each_technique_is_worth(document: dict) -> None:
    assert problems(document) == []
    rows = by_technique(document)
    assert list(rows) == ["", *TECHNIQUES]
    every, unpruned = rows[""], rows["prune"]
    assert every["status"] == "ok" and every["closed"] and every["runs"] == 2
    assert every["largest_kernel"] <= 4 < 7 == every["spaces"][0]["terms"]
    assert unpruned["status"] == "stopped" and "at least" in unpruned["reason"]
    assert unpruned["states"] == 5000 > 10 * every["states"]
    assert unpruned["tried"] >= 1 and every["tried"] is None
    assert every["removed"]["abstract"] > 0 == unpruned["removed"]["abstract"]
    assert rows["share"]["states"] > every["states"]
    assert rows["threads"]["threads"] == 1 and rows["threads"]["states"] == every["states"]
    for row in (every, unpruned):
        parts = row["algebra_s"] + row["cut_s"] + row["placement_s"]
        assert row["algebra_s"] > 0 and parts <= row["seconds"] * 1.001


def test_the_table_marks_lower_bounds(document: dict) -> None:
    heads, lines = search_table.grid(document)
    assert len(lines) == 1 + len(TECHNIQUES)
    cells = {line[3]: dict(zip(heads, line, strict=True)) for line in lines}
    assert cells["prune"]["states"] == ">= 5000"
    assert cells["prune"]["x states"].startswith(">= ") and cells["-"]["x states"] == "-"
    assert not cells["share"]["states"].startswith(">=")
    text = search_table.markdown(document)
    assert "lower bound" in text and text.count("\n| lora f32 | 4 | - |") == len(lines)
    (line,) = [s for s in search_table.summary_lines(document) if s.startswith("not shown")]
    assert "lora with at most 4 ops" in line  # 5000 states are too few to show 1000 times
    told = copy.deepcopy(document)
    for row in told["rows"]:
        if row["without"] == "prune":
            row["states"] = 10**6
    assert any("in 1 of 1 cases" in s for s in search_table.summary_lines(told))
    told["machine"]["load"] = 3.0 * told["machine"]["cores"]
    assert any("not to be relied on" in s for s in search_table.notes(told))


def test_pruning_is_compared_at_one_size_of_term() -> None:
    most = {}
    for without in ("", "prune"):
        for size in (3, AT):
            most[without, size] = figures(lora(without, operators=size))
    assert {f["status"] for f in most.values()} == {"ok", "stopped"}
    for (without, size), found in most.items():
        if found["status"] == "ok":
            assert found["tried"] == size and found["due"] == found["states"]
        else:
            assert (without, size) == ("prune", AT)
            assert found["tried"] < size and found["due"] > found["states"] == 5000
    assert most["prune", AT]["due"] > 1000 * most["", AT]["due"]


def test_results_are_kept_and_resumed(tmp_path, monkeypatch) -> None:
    path, ran = tmp_path / "search.json", []

    def faked(run: Run, patience: float) -> dict:
        ran.append(run.without)
        return figures(lora(run.without, values=500))

    monkeypatch.setattr(search, "fresh", faked)
    given = {"dtypes": ["f32"], "only": ["lora"], "values": 500, "json_path": path, "repeats": 1}
    first = run_search_suite(**given)
    assert json.loads(path.read_text()) == first and problems(first) == []
    assert ran == ["", *TECHNIQUES, "", "prune"]
    ran.clear()
    again = run_search_suite(**given, resume=True)
    done = [r["without"] for r in first["rows"] if r["status"] in ("ok", "stopped")]
    assert {*done} >= {"", "prune", "share", "threads"}
    assert len(ran) == len(first["rows"]) - len(done)
    assert len(again["rows"]) == len(first["rows"])
    path.write_text('{"schema": 1, "suite": "mirage", "machine": {}, "rows": []}')
    with pytest.raises(BadOption, match="does not hold results of this suite"):
        run_search_suite(**given, resume=True)


def test_broken_documents_are_found(document: dict) -> None:
    def changed(**changes: object) -> list[str]:
        other = copy.deepcopy(document)
        other["rows"][0].update(changes)
        return problems(other)

    assert changed() == []
    assert changed(status="fine") and changed(closed=False) and changed(states=None)
    assert changed(without="luck") and changed(more=1)
    assert changed(status="failed", reason="")
    assert problems({**document, "suite": "mirage"}) and problems([]) and problems({})
    assert results.problems(document)  # another suite's form
    assert set(document["rows"][0]) == set(KEYS)


def test_a_process_that_takes_too_long_is_ended() -> None:
    slow = lora("prune", values=10**9)
    answer = fresh(slow, 0.05)
    assert answer["status"] == "stopped" and "without figures" in answer["reason"]
    answer = fresh(Run("lora", {"m": 4}, "f32", None, None, "", 1.0, 10, 1), 60.0)
    assert answer["status"] == "failed" and "KeyError" in answer["reason"]


def test_an_open_space_is_not_called_closed() -> None:
    few = figures(lora(values=20))
    assert few["status"] == "stopped" and not few["closed"]


def test_the_command_line() -> None:
    run = CliRunner().invoke(
        app, ["bench", "--suite", "general", "--max-block-ops", "5", "--only", "softmax_odd"]
    )
    assert run.exit_code == 2 and "--max-block-ops" in run.output
    listed = CliRunner().invoke(app, ["bench", "--list"])
    assert "search, verify" in listed.output


def test_the_layer_with_experts_is_searched_around_its_router() -> None:
    run = Run(MOE_LAYER.name, MOE_LAYER.tiny, "bf16", None, None, "", 60.0, 10**6, 2)
    found = figures(run)
    assert found["status"] == "ok" and found["closed"]
    assert [b.split(":")[0] for b in found["boundaries"]] == ["topk"]
    assert len(found["spaces"]) >= 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_layer_with_experts_computes_what_it_says(dtype: torch.dtype) -> None:
    """Against a loop over tokens and experts, the attention being that of the other layers."""
    p = MOE_LAYER.tiny
    given = {s.name: t for s, t in zip(MOE_LAYER.specs(p), MOE_LAYER.inputs(p, dtype), strict=True)}
    got = outputs(MOE_LAYER.reference(*given.values()))
    wide = {k: v.double() for k, v in given.items()}
    layer = workload("qwen3-0.6b.layer")
    names = ("w_gate", "w_up", "w_down")
    rest = {k: v for k, v in wide.items() if k != "w_router"}
    mlp = {k: torch.zeros_like(v[0]) for k, v in wide.items() if k in names}
    x, k, v = layer.reference(*{**rest, **mlp}.values())  # no experts: attention and residual
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * wide["gain_out"]
    for t in range(p["tokens"]):
        row = y[t, 0]
        scores = torch.softmax(wide["w_router"] @ row, 0)
        chosen = scores.argsort(descending=True)[:TOP_K].tolist()
        total = sum(scores[e] for e in chosen)
        for e in chosen:
            gate, up = wide["w_gate"][e] @ row, wide["w_up"][e] @ row
            out = wide["w_down"][e] @ (gate * torch.sigmoid(gate) * up)
            x[t, 0] += scores[e] / total * out
    error = relative_error(got, (x, k, v))
    assert error is not None
    # A rounded score may choose another expert; in wide types none does.
    assert error <= (0.5 if dtype == torch.bfloat16 else 32 * torch.finfo(dtype).eps)


def test_sizes_of_the_model_with_experts() -> None:
    shapes = {s.name: s.shape for s in MOE_LAYER.specs(MOE_LAYER.grid[0])}
    assert shapes["wq"] == (4096, 2048) and shapes["wk"] == (512, 2048)
    assert shapes["w_gate"] == (128, 768, 2048) and shapes["w_down"] == (128, 2048, 768)
    assert shapes["w_router"] == (128, 2048) and TOP_K == 8
