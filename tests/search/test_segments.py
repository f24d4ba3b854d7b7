"""Large programs in segments: the same function, layers of one form searched once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from superopt.bench.deep import stacked
from superopt.bench.workloads import workload
from superopt.codegen.lower import why_not_lowerable
from superopt.cost.model import cost_on
from superopt.frontend.capture import capture
from superopt.frontend.partition import partition
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.graph import Graph
from superopt.mugraph.wellformed import check_mugraph
from superopt.search import driver
from superopt.search.segments import joined, segments
from superopt.search.techniques import Techniques
from superopt.verify.cuts import Checker
from tests.devices import known_device
from tests.programs import PROGRAMS
from tests.verify.terms import float_values
from tests.verify.test_sweep import deep

COST = cost_on(known_device(frozenset({"avx512f"}), 2))


def searched(graph: Graph, candidates: int = 60) -> driver.Found:
    return driver.search(graph, COST, driver.Budget(None, candidates))


@pytest.mark.parametrize("layers", [3, 8])
def test_layers_of_one_form_are_searched_once(layers: int) -> None:
    graph = deep(layers, False)
    parts = segments(graph)
    forms = {str(p.form.graph) for p in parts}
    assert len(parts) >= layers
    assert len(forms) <= 5  # the first and the last layer may differ
    found = searched(graph)
    assert found.stats["segments"] == len(parts)
    assert found.stats["distinct_segments"] == len(forms)
    want = float_values(graph, 1)
    assert len(found.candidates) >= 3
    for candidate in found.candidates:
        check_mugraph(candidate.mugraph)
        assert Checker(0).rewritten(graph, candidate.mugraph.graph)
        for x, y in zip(float_values(candidate.mugraph.graph, 1), want, strict=True):
            assert torch.allclose(x, y, 1e-9, 1e-9)
    assert any(c.written for c in found.candidates)


def test_the_work_does_not_grow_with_the_layers() -> None:
    few, many = (searched(deep(n, False)).stats for n in (5, 12))
    assert many["states"] == few["states"]
    assert many["graphs"] == few["graphs"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama-3.2-1b.layer", "qwen3-0.6b.layer"])
def test_decoder_layers_have_few_forms_however_many_there_are(
    name: str, dtype: torch.dtype
) -> None:
    """Attention, MLP, and the last MLP, which rounds its result; what was found is shown equal."""
    forms = []
    for layers in (2, 5):
        deep = stacked(workload(name), layers)
        args = tuple(torch.empty(s.shape, dtype=s.dtype(dtype)) for s in deep.specs(deep.grid[0]))
        (piece,) = partition(capture(deep.reference, args), "default").supported
        parts = segments(piece.graph)
        assert len(parts) == 2 * layers
        forms.append({str(p.form.graph) for p in parts})
    assert forms[0] == forms[1] and len(forms[0]) <= 3
    found = searched(piece.graph, 9)
    assert found.stats["distinct_segments"] == len(forms[1])
    for candidate in found.candidates[:2]:
        check_mugraph(candidate.mugraph)
        assert why_not_lowerable(candidate.mugraph) is None
        assert Checker(0).rewritten(piece.graph, candidate.mugraph.graph)


def test_candidates_are_the_same_again() -> None:
    one, two = (searched(deep(3, False)) for _ in range(2))
    assert [str(c.mugraph) for c in one.candidates] == [str(c.mugraph) for c in two.candidates]


def test_neither_time_nor_the_order_of_hashes_changes_the_result() -> None:
    program = (
        "from tests.search.test_segments import deep, searched\n"
        "from tests.programs import PROGRAMS\n"
        "import hashlib\n"
        "for g in (deep(2, False), *(PROGRAMS[n]() for n in sorted(PROGRAMS))):\n"
        "    f = searched(g, 12)\n"
        "    text = [str(c.mugraph) + repr(c.seconds) for c in f.candidates]\n"
        "    timed = ('seconds', 'algebra_s', 'cut_s', 'placement_s')\n"
        "    stats = {k: v for k, v in f.stats.items() if k not in timed}\n"
        "    print(hashlib.sha256(repr((text, stats)).encode()).hexdigest())\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "77")
    ]
    assert len(outputs[0]) == 1 + len(PROGRAMS)
    assert outputs[0] == outputs[1]


def test_the_gap_of_the_cut_is_reported_over_all_segments() -> None:
    for graph in (deep(3, False), *(make() for make in PROGRAMS.values())):
        stats = searched(graph).stats
        assert 0.0 <= stats["gap"] < 1.0
        assert 0.0 < stats["cut_bound"] <= stats["cut_seconds"]
        assert stats["gap"] == pytest.approx(1.0 - stats["cut_bound"] / stats["cut_seconds"])
        assert stats["gap"] <= 1e-8  # pieces of this size are cut optimally


def test_without_the_bound_the_answer_is_no_better() -> None:
    for make in PROGRAMS.values():
        found, without = (
            driver.search(make(), COST, driver.Budget(None, 60), techniques=Techniques(bound=b))
            for b in (True, False)
        )
        assert found.candidates[0].seconds <= without.candidates[0].seconds * (1 + 1e-9)
        assert "gap" in found.stats and "gap" not in without.stats


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_small_programs_are_one_segment_and_come_back_whole(name: str) -> None:
    graph = PROGRAMS[name]()
    assert len(segments(graph)) == 1
    (part,) = segments(graph)
    placed = driver.search(part.form.graph, COST, driver.Budget(None, 5)).candidates[0].mugraph
    back = joined(graph, [(part, placed)])
    check_mugraph(back)
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for node in graph.inputs:
        shape = [int(torch.tensor([a.size for a in dim]).prod()) for dim in node.dims]
        tensors.append(torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1)
    for x, y in zip(run(back.graph, tensors), run(graph, tensors), strict=True):
        assert torch.allclose(x, y, 1e-9, 1e-9)
