"""Kernel bodies boiled down row by row: the same seconds as by the definition."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from superopt.bench.generated import program
from superopt.cost.least import Costs
from superopt.cost.model import KernelCost, shape_of_kernel
from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.graph import Builder, Graph, Input, Reduce
from superopt.mugraph.placement import Placement, Split
from superopt.search.cut import body_of
from tests.devices import known_device
from tests.programs import PROGRAMS
from tests.verify.test_sweep import deep

pytest.importorskip("superopt._core")


def unpacked() -> Graph:
    """Weights in half bytes with a scale and a zero per group, for few rows."""
    b, (m, n, g, k) = (
        Builder("half bytes"),
        (Axis(x, size) for x, size in zip("mngk", (3, 7, 4, 16), strict=True)),
    )
    x = b.input("x", ((m,), (g,), (k,)), "f32")
    w = b.input("w", ((n,), (g,), (k,)), "u8")
    s, z = (b.input(name, ((n,), (g,)), "f32") for name in "sz")
    total = None
    for op in ("mod", "floordiv"):
        half = b.map("cast", b.map(op, w, b.const(16, "u8")), dtype="f32")
        inside = b.reduce("add", b.map("mul", x, b.map("sub", half, z)), [k])
        part = b.reduce("add", b.map("mul", s, inside), [g])
        total = part if total is None else b.map("add", total, part)
    return b.build([("o", total or 0, ((m,), (n,)))])


DEVICE = known_device(frozenset({"avx512f", "avx512_bf16"}), 2)
CASES: dict[str, Graph] = {
    **{name: make() for name, make in PROGRAMS.items()},
    **{f"random{seed}": program(seed, 8, signs=True) for seed in range(20)},
    "deep": deep(2, False),
    "unpacked": unpacked(),
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
