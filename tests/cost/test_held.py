"""The memory of a task: the model never says less than is allocated, and no placement is beyond."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from superopt.bench.generated import program
from superopt.codegen.backends.cpu_layout import Names, padded_bytes, place_tile
from superopt.codegen.lower import lower, why_not_lowerable
from superopt.config import Config
from superopt.cost.devices import TILE_MEMORY, Device, cpu_device
from superopt.cost.held import tile_bytes
from superopt.cost.least import Costs
from superopt.cost.model import KernelCost, kernel_seconds, shape_of_kernel
from superopt.mugraph.axes import hint
from superopt.mugraph.graph import Graph, Input
from superopt.mugraph.placement import MuGraph, Placement, Split, kernel_body
from superopt.mugraph.tileir import Program
from superopt.search import driver, place
from superopt.search.cut import Cutter, body_of
from tests.devices import known_device
from tests.programs import PROGRAMS, attention, rmsnorm_linear
from tests.search.searches import COST
from tests.verify.test_sweep import deep

pytest.importorskip("superopt._core")

DEVICE = known_device(frozenset({"avx512f", "avx512_bf16"}), 2)
CASES: dict[str, Graph] = {
    **{name: make() for name, make in PROGRAMS.items()},
    **{f"random{seed}": program(seed, 8, signs=True) for seed in range(40)},
    "long attention": attention(h=2, q=70, t=300, d=64),
    "wide": rmsnorm_linear(b=33, k=500, n=200),
    "deep": deep(2, False),
}


def allocated(program: Program) -> int:
    """Bytes of the tile buffers of one task of a program."""
    names = Names()
    return sum(padded_bytes(place_tile(program, t, names)).value or 0 for t in program.tiles)


def drawn(rng: random.Random, axes: tuple, most: int) -> tuple[Split, ...]:
    """A few axes, in any order, with tiles of any size."""
    some = rng.sample(axes, rng.randint(0, min(len(axes), most)))
    return tuple(Split(a, rng.randint(1, hint(a.size))) for a in some)


def test_no_task_allocates_more_than_the_model_says() -> None:
    rng, compared, slack = random.Random(0), 0, []
    for name, graph in CASES.items():
        live = [
            i
            for i in graph.reachable([o.node for o in graph.outputs])
            if not isinstance(graph.nodes[i], Input) and graph.nodes[i].axes
        ]
        for _ in range(40):
            outputs = dict.fromkeys(o.node for o in graph.outputs if o.node in live)
            stored = dict.fromkeys([*rng.sample(live, rng.randint(0, len(live) // 3)), *outputs])
            groups = tuple((i,) for i in sorted(stored))
            kernels = []
            for group in groups:
                body, _ = body_of(graph, group, frozenset(stored))
                axes = place.placeable(graph, body, group, frozenset())
                split = tuple(s for s in drawn(rng, axes.split, 1) if s.tile < hint(s.axis.size))
                placement = Placement((*split, *drawn(rng, axes.grid, 3)), drawn(rng, axes.loop, 2))
                kernels.append(place.kernel(graph, f"k{group[0]}", group, body, placement))
            m = MuGraph(graph, tuple(kernels))
            if why_not_lowerable(m) is not None:
                continue
            programs = {p.name: allocated(p) for p in lower(m)}
            for k, kernel in enumerate(m.kernels):
                mine = [n for p, n in programs.items() if p.split()[0] == kernel.name]
                body = [i for i in kernel_body(m, k) if not isinstance(graph.nodes[i], Input)]
                reads = {a for i in body for a in graph.nodes[i].args} - set(body)
                shape = shape_of_kernel(graph, body, reads, kernel.outputs)
                says = tile_bytes(shape, kernel.placement)
                assert max(mine) <= says, (name, str(m))
                slack.append(says / max(*mine, 64))
                compared += 1
    assert compared >= 3000
    assert sorted(slack)[compared // 2] < 2.0  # and it is not far from it


def limited(device: Device, most: int) -> Costs:
    return Costs(replace(device, tile_memory=most))


def test_the_setting_is_the_limit_of_the_device_rows() -> None:
    assert Config().tile_memory == TILE_MEMORY == cpu_device().tile_memory
    assert cpu_device(tile_memory=1000).tile_memory == 1000


def test_no_placement_is_beyond_the_limit() -> None:
    graph = rmsnorm_linear(b=512, k=1024, n=1024)
    (out,) = (o.node for o in graph.outputs)
    body, reads = body_of(graph, (out,), frozenset())
    shape = shape_of_kernel(graph, body, reads, (out,))
    counts = []
    for most in (1 << 30, 1 << 17, 1 << 15, 1 << 13):
        costs = limited(DEVICE, most)
        cutter = Cutter(graph, costs)
        axes = place.placeable(graph, body, (out,), cutter.wide)
        found = place.best(axes, costs(graph, body, reads, (out,)), quick=False, keep=100_000)
        assert all(tile_bytes(shape, p) <= most for _, p in found)
        assert all(
            kernel_seconds(shape, p, costs.device) == pytest.approx(s, rel=1e-12) for s, p in found
        )
        counts.append(len(found))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[3] > 0
    never = limited(DEVICE, 64)
    assert place.best(axes, never(graph, body, reads, (out,)), quick=False, keep=9) == []
    quick = place.coarse_seconds(
        place.Splits(graph), body, (out,), cutter.wide, never(graph, body, reads, (out,))
    )
    assert math.isinf(quick)
    assert math.isinf(KernelCost(shape, never.device)(Placement()))


def test_a_limit_makes_the_cut_store_more() -> None:
    # One task of the fused kernel holds the scores of a block of queries, or the heads' results.
    graph = attention(h=4, q=512, t=2048, d=64)
    kernels = {}
    for most in (1 << 26, 1 << 14):
        found = driver.search(
            graph, limited(DEVICE, most), driver.Budget(candidates=20), lowerable=why_not_lowerable
        )
        assert found.candidates
        for c in found.candidates:
            assert all(allocated(p) <= most for p in lower(c.mugraph))
        kernels[most] = len(found.candidates[0].mugraph.kernels)
    assert kernels[1 << 26] <= kernels[1 << 14]


def test_what_fits_nowhere_is_said() -> None:
    found = driver.search(
        PROGRAMS["attention"](),
        limited(DEVICE, 64),
        driver.Budget(candidates=5),
        lowerable=why_not_lowerable,
    )
    assert not found.candidates
    assert "64 bytes of tile buffers" in found.why_none
    assert "SUPEROPT_TILE_MEMORY" in found.why_none


def test_the_least_costs_hold_under_a_limit() -> None:
    searched = 0
    for name in ("attention", "gated_mlp", "rmsnorm_linear"):
        graph = PROGRAMS[name]()
        costs = limited(COST.device, 4096)
        cuts = [Cutter(graph, costs, bound=bound).cuts() for bound in (True, False)]
        assert cuts[0] == cuts[1]
        searched += len(cuts[0])
    assert searched >= 3
