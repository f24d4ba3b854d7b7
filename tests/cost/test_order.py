"""The order of tasks: what is read again, by the model, by hand and in the generated code."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace

import pytest
import torch

from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.cost.least import Costs
from superopt.cost.model import KernelCost, KernelShape, kernel_seconds, shape_of_kernel
from superopt.cost.order import in_a_row, staying, steps_of, task_order
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Input
from superopt.mugraph.placement import Kernel, MuGraph, Placement, Split
from superopt.search import place
from superopt.search.cut import Cutter, body_of
from tests.codegen.harness import run_cpu
from tests.devices import known_device
from tests.programs import attention, gated_mlp, rmsnorm_linear

DEVICE = known_device(frozenset({"avx512f"}), 2)
# Reading is all that counts: the last level and DRAM are slow.
SLOW = replace(DEVICE, l3=1e9, dram=1e9, launch=0.0)


def matmul(m: int, n: int, k: int) -> Graph:
    am, an, ak = Axis("m", m), Axis("n", n), Axis("k", k)
    g = Builder("matmul")
    x = g.input("x", ((am,), (ak,)), "f32")
    w = g.input("w", ((ak,), (an,)), "f32")
    return g.build([("o", g.reduce("add", g.map("mul", x, w), [ak]), ((am,), (an,)))])


def shape_of(graph: Graph) -> KernelShape:
    (out,) = {o.node for o in graph.outputs}
    body, reads = body_of(graph, (out,), frozenset())
    return shape_of_kernel(graph, body, reads, (out,))


def grid_of(graph: Graph, *tiles: int) -> tuple[Split, ...]:
    dims = graph.outputs[0].dims
    return tuple(Split(d[0], t) for d, t in zip(dims, tiles, strict=True))


def test_what_stays_follows_from_layout() -> None:
    graph = matmul(4096, 4096, 1024)
    x, w = (n for n in graph.nodes if isinstance(n, Input))
    k, n = (d[0] for d in w.dims)
    assert steps_of(w, w) == ((n, 4), (k, 16384))
    m = x.dims[0][0]
    rows = {m: 64.0, k: 1024.0}
    assert staying(steps_of(x, x), rows, 4, 64 * 4096.0, 1 << 20) == 1.0  # dense
    assert staying(steps_of(x, x), {**rows, m: 256.0}, 4, 1 << 20, 1 << 20) == 0.5
    # 256 bytes in each 16384: the tile meets one set of the cache in 64.
    columns = {k: 1024.0, n: 64.0}
    assert staying(steps_of(w, w), columns, 4, 1 << 18, 1 << 20) == 1 / 32
    odd = matmul(4096, 4000, 1024)
    w = next(i for i in odd.nodes if isinstance(i, Input) and i.name == "w")
    k, n = (d[0] for d in w.dims)
    # 16000 is an odd multiple of 128.
    assert staying(steps_of(w, w), {k: 1024.0, n: 64.0}, 4, 1 << 18, 1 << 20) == 1.0


def test_runs_by_hand() -> None:
    a, b, c = Axis("a", 100), Axis("b", 60), Axis("c", 7)
    whole, tile = {a: 100, b: 60, c: 7}, {a: 30, b: 10, c: 7}
    grid = (Split(a, 30), Split(b, 10), Split(c, 7))
    assert in_a_row(grid, tile, whole, {b}) == 1
    assert in_a_row(grid, tile, whole, {a}) == 6
    assert in_a_row(grid, tile, whole, {c, a}) == 6  # one tile of c: it never changes
    assert in_a_row(grid, tile, whole, set()) == 24
    assert in_a_row(grid[::-1], tile, whole, {b}) == 4


def test_a_tile_that_stays_is_read_once() -> None:
    # A tile of w is 128 KB and dense in its sets; 16 tiles of rows go by.
    graph = matmul(1024, 4000, 512)
    shape = shape_of(graph)
    m, n = grid_of(graph, 64, 64)
    outer = {p[-1].axis.name: kernel_seconds(shape, Placement(p), SLOW) for p in ((m, n), (n, m))}
    unordered = kernel_seconds(shape, Placement((m, n)), SLOW, ordered=False)
    assert outer["m"] < unordered and outer["n"] < unordered
    # x is the smaller one, and there are more tiles of columns to read it again for.
    assert outer["n"] != outer["m"]
    # Where nothing stays, no order helps.
    small = replace(SLOW, l2=64)
    for p in ((m, n), (n, m)):
        there = kernel_seconds(shape, Placement(p), small)
        assert there > 0.99 * kernel_seconds(shape, Placement(p), small, ordered=False)


def test_the_measured_example() -> None:
    # On two Zen 4 cores, x[4096,1024] w[1024,4096] takes 184 ms where rows of x stay while columns
    # go by, and 191 ms the other way round: a tile of w is short rows, 16 KB apart.
    graph = matmul(4096, 4096, 1024)
    shape = shape_of(graph)
    for tiles in ((64, 128), (64, 64), (16, 64)):
        m, n = grid_of(graph, *tiles)
        rows_stay, columns_stay = (
            kernel_seconds(shape, Placement(p), DEVICE) for p in ((m, n), (n, m))
        )
        assert rows_stay < columns_stay
        assert task_order(shape, DEVICE.l2, (n, m)) == (m, n)
    # Where x as a whole stays near, the tile of w had better: 25 ms against 27 ms.
    graph = matmul(2048, 8192, 128)
    m, n = grid_of(graph, 64, 256)
    shape = shape_of(graph)
    assert kernel_seconds(shape, Placement((n, m)), DEVICE) < kernel_seconds(
        shape, Placement((m, n)), DEVICE
    )


def test_the_search_picks_the_best_order() -> None:
    changed = kept = 0
    for graph in (
        matmul(4096, 4096, 1024),
        matmul(2048, 8192, 128),
        matmul(700, 3000, 300),
        attention(8, 512, 2048, 64),
        gated_mlp(512, 1024, 1024, None),
        rmsnorm_linear(256, 1024, 2048),
    ):
        (out,) = {o.node for o in graph.outputs}
        body, reads = body_of(graph, (out,), frozenset())
        cost = Costs(DEVICE)(graph, body, reads, (out,))
        shape = shape_of(graph)
        axes = place.placeable(graph, body, (out,), Cutter(graph, Costs(DEVICE)).wide)
        for seconds, p in place.best(axes, cost, quick=False, keep=6):
            every = [
                kernel_seconds(shape, replace(p, grid=order), DEVICE)
                for order in itertools.permutations(p.grid)
            ]
            assert seconds == pytest.approx(min(every), rel=1e-8)
            assert kernel_seconds(shape, p, DEVICE) == pytest.approx(min(every), rel=1e-8)
            changed += max(every) > min(every) * (1 + 1e-9)
            kept += 1
    assert kept >= 30
    assert changed >= 10


def test_no_order_is_the_most_that_any_order_takes() -> None:
    rng, compared, less = random.Random(0), 0, 0
    for graph in (matmul(500, 4000, 300), gated_mlp(64, 512, 1024, None)):
        shape = shape_of(graph)
        cost = KernelCost(shape, DEVICE)
        dims = [d[0] for d in graph.outputs[0].dims]
        for _ in range(200):
            grid = tuple(Split(a, rng.choice([1, 8, 64, 100, 256])) for a in dims)
            none = kernel_seconds(shape, Placement(grid), DEVICE, ordered=False)
            for order in itertools.permutations(grid):
                assert cost(Placement(order)) <= none * (1 + 1e-12)
                less += cost(Placement(order)) < none * (1 - 1e-9)
                compared += 1
    assert compared >= 800
    assert less >= 50


@pytest.mark.parametrize("split", [False, True])
def test_the_code_follows_the_order(split: bool) -> None:
    graph = matmul(70, 90, 200)
    m, n = grid_of(graph, 16, 32)
    (k,) = {a for node in graph.nodes for a in node.axes} - {m.axis, n.axis}
    splits = (m, n, Split(k, 64)) if split else (m, n)
    given = {"x": torch.randn(70, 200), "w": torch.randn(200, 90)}
    want = given["x"].double() @ given["w"].double()
    texts = set()
    for grid in itertools.permutations(splits):
        kernel = Kernel("k0", (graph.outputs[0].node,), Placement(grid))
        programs = lower(MuGraph(graph, (kernel,)))
        source = cpu.emit(programs, "f").text
        (out,) = {b.name for p in programs for b in p.buffers if b.space == "output"}
        assert torch.allclose(run_cpu(programs, given)[out].double(), want, atol=1e-4)
        # The last axis of the grid changes from task to task.
        names = [s.axis.name for s in programs[0].grid]
        first = re.findall(r"const int64_t b_(\w+) = \((\(?task\)? % \d+|task)\)", source)
        assert first[0][0] == names[-1]
        assert [a.name for a in (s.axis for s in grid) if a != k] == [
            a for a in names if a in ("m", "n")
        ]
        if split:
            assert names.index("k_part") == [s.axis for s in grid].index(k)
        texts.add(tuple(names))
    assert len(texts) == (6 if split else 2)
