"""Kernel bodies boiled down row by row: the same seconds as by the definition."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from superopt.bench.generated import program
from superopt.cost.least import Costs
from superopt.cost.model import KernelCost, shape_of_kernel
from superopt.mugraph.axes import hint
from superopt.mugraph.graph import Graph, Input, Reduce
from superopt.mugraph.placement import Placement, Split
from superopt.search.cut import body_of
from tests.devices import known_device
from tests.programs import PROGRAMS
from tests.verify.test_sweep import deep

pytest.importorskip("superopt._core")

DEVICE = known_device(frozenset({"avx512f", "avx512_bf16"}), 2)
CASES: dict[str, Graph] = {
    **{name: make() for name, make in PROGRAMS.items()},
    **{f"random{seed}": program(seed, 8, signs=True) for seed in range(20)},
    "deep": deep(2, False),
}


def test_the_rows_say_what_the_definition_says() -> None:
    rng, compared, beyond = random.Random(0), 0, 0
    either = [Costs(DEVICE), Costs(replace(DEVICE, tile_memory=400))]
    for graph in CASES.values():
        live = [
            i
            for i in graph.reachable([o.node for o in graph.outputs])
            if not isinstance(graph.nodes[i], Input) and graph.nodes[i].axes
        ]
        for _ in range(30):
            stored = frozenset(rng.sample(live, rng.randint(0, len(live) // 2)))
            root = rng.choice(live)
            body, reads = body_of(graph, (root,), stored)
            # Some devices hold less than some kernels need.
            costs = rng.choice(either)
            cost = costs.rows.cost(graph, body, reads, (root,))
            shape = shape_of_kernel(graph, body, reads, (root,))
            assert cost is not None
            reduced = {a for i in body if isinstance(n := graph.nodes[i], Reduce) for a in n.over}
            for _ in range(4):
                grid, loop = (
                    tuple(
                        Split(a, rng.randint(1, hint(a.size)))
                        for a in axes
                        if rng.random() < 0.6 and a in shape.sizes
                    )
                    for axes in (graph.nodes[root].axes, sorted(reduced, key=str))
                )
                place = Placement(grid, loop)
                want = KernelCost(shape, costs.device)(place)
                assert cost(place) == pytest.approx(want, rel=1e-12)
                compared += 1
                beyond += math.isinf(want)
    assert compared >= 2000
    assert beyond >= 200
