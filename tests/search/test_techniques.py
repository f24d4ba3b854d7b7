"""What the search can do without: techniques switched off, and kernels of few compute nodes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from superopt.cost.model import cost_on
from superopt.errors import BadOption
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.graph import Graph, Map, Reduce
from superopt.mugraph.placement import MuGraph, kernel_body
from superopt.mugraph.wellformed import check_mugraph
from superopt.search import driver
from superopt.search.techniques import Techniques
from tests.devices import known_device
from tests.programs import PROGRAMS, lora, rmsnorm_linear, tensors
from tests.verify.test_sweep import deep

COST = cost_on(known_device(frozenset({"avx512f"}), 2))


def searched(graph: Graph, **how: object) -> driver.Found:
    budget = driver.Budget(None, 25, region_seconds=60.0, values=20_000)
    return driver.search(graph, COST, budget, **how)  # type: ignore[arg-type]


def most_operators(placed: MuGraph) -> int:
    """The most reductions and scalar rows, casts aside, in one kernel: counted from its body."""
    count = 0
    for k in range(len(placed.kernels)):
        nodes = [placed.graph.nodes[i] for i in kernel_body(placed, k)]
        mine = [n for n in nodes if isinstance(n, (Map, Reduce)) and n.op != "cast"]
        count = max(count, len(mine))
    return count


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_a_bound_on_kernels_is_kept_and_nothing_is_lost(name: str) -> None:
    graph = PROGRAMS[name]()
    inputs = [t.double() for t in tensors(graph)]
    want = run(graph, inputs)
    unbounded = most_operators(searched(graph).candidates[0].mugraph)
    seen = 0
    for most in (1, 2, 3, 5, 8, 13):
        found = searched(graph, max_block_ops=most)
        assert found.candidates, f"{most}: {found.why_none}"
        for candidate in found.candidates[:6]:
            check_mugraph(candidate.mugraph)
            assert most_operators(candidate.mugraph) <= most
            seen += most_operators(candidate.mugraph) < unbounded
            for x, y in zip(run(candidate.mugraph.graph, inputs), want, strict=True):
                assert torch.allclose(x, y, 1e-9, 1e-9)
    assert seen >= 3  # the bound was felt


def test_a_bound_that_all_kernels_keep_changes_nothing() -> None:
    for graph in (lora(16, 256, 4096, 16), rmsnorm_linear(16, 4096, 6144)):
        free, bound = searched(graph), searched(graph, max_block_ops=50)
        assert free.candidates[0].seconds == pytest.approx(bound.candidates[0].seconds)


def test_large_programs_keep_the_bound() -> None:
    found = searched(deep(3, False), max_block_ops=4)
    assert len(found.candidates) >= 3
    assert all(most_operators(c.mugraph) <= 4 for c in found.candidates)


def test_pruning_and_sharing_can_be_left_out() -> None:
    graph = rmsnorm_linear()
    every = searched(graph)
    assert every.stats["closed"]
    for off in ("prune", "share"):
        without = searched(graph, techniques=Techniques(**{off: False}))
        assert without.candidates
        assert without.stats["values"] > 10 * every.stats["values"]
        assert not without.stats["closed"]
    assert without.stats["removed"]["abstract"] > 0


def test_without_pruning_the_operators_that_were_tried_are_told() -> None:
    found = searched(lora(2, 3, 4, 2), techniques=Techniques(prune=False))
    (space,) = found.stats["spaces"]
    assert not space["closed"] and space["why"] == "budget"
    # Four leaves: 20 000 terms hold all of two operators, and far from all of five.
    assert 2 <= space["operators"] < 5
    (closed,) = searched(lora(2, 3, 4, 2)).stats["spaces"]
    assert closed["closed"] and closed["operators"] is None and closed["rank"] == 3


def test_phases_and_spaces_are_told() -> None:
    stats = searched(deep(3, False)).stats
    assert min(stats[k] for k in ("algebra_s", "cut_s", "placement_s")) > 0
    assert len(stats["spaces"]) == stats["regions"]
    assert sum(s["states"] for s in stats["spaces"]) == stats["values"]


@pytest.mark.parametrize("how", [{"max_block_ops": 0}, {"max_block_ops": -3}])
def test_impossible_bounds_are_refused(how: dict) -> None:
    with pytest.raises(BadOption, match="compute nodes"):
        searched(lora(), **how)


def test_techniques_are_constant() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Techniques().prune = False  # type: ignore[misc]
