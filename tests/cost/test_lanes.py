"""The register tiles that the model chooses: they fit, they are what is printed, none is worse."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.cost.lanes import CLEAR, Lanes, Product, tile_cycles, tiles
from superopt.cost.lanes import _best as best_of
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.lanes import fitted_tile, most_sums, steps_of, usual_tile
from superopt.mugraph.placement import Kernel, Lane, MuGraph, Placement, Split
from superopt.mugraph.text import parse_mugraph, print_mugraph
from superopt.mugraph.wellformed import check_mugraph
from superopt.search.cut import Cutter
from superopt.search.cut_points import computes
from tests.devices import known_device
from tests.search.searches import COST

DEVICES = {
    "avx512": known_device(frozenset({"avx512f"}), 2),
    "avx2": known_device(frozenset({"avx2"}), 2),
    "neon": known_device(frozenset({"neon"}), 2),
}
MOST_POINTS = 100
"""Register tiles of one machine: a kernel's lane is chosen among these, once."""


def matmul(
    m: int | Sym, n: int, k: int, w: str = "kn", dtype: str = "f32", norm: bool = False
) -> Graph:
    """x[m,k] w, w stored as named; norm: the columns of x have a gain."""
    am, an, ak = Axis("m", m), Axis("n", n), Axis("k", k)
    by = {"k": (ak,), "n": (an,)}
    g = Builder("matmul")
    x = g.input("x", ((am,), (ak,)), dtype)
    y = g.input("w", tuple(by[c] for c in w), dtype)
    x, y = (g.map("cast", v, dtype="f32") if dtype == "bf16" else v for v in (x, y))
    if norm:
        x = g.map("mul", x, g.input("g", ((ak,),), "f32"))
    return g.build([("o", g.reduce("add", g.map("mul", x, y), [ak]), ((am,), (an,)))])


def placed(graph: Graph, grid: tuple[int, ...], lane: Lane) -> MuGraph:
    (out,) = graph.outputs
    splits = tuple(Split(d[0], t) for d, t in zip(out.dims, grid, strict=True))
    return MuGraph(graph, (Kernel("k0", (out.node,), Placement(splits, (), lane)),))


def chosen(graph: Graph, grid: tuple[int, ...], isa: str = "avx512") -> Lane:
    m = placed(graph, grid, Lane())
    body = [i for i, _ in enumerate(graph.nodes) if computes(graph, i)]
    return Lanes(graph, body, DEVICES[isa], Cutter(graph, COST).wide)(m.kernels[0].placement)


@pytest.mark.parametrize("isa", DEVICES)
def test_no_tile_is_worse_than_the_usual_one(isa: str) -> None:
    device, rng, better = DEVICES[isa], random.Random(0), 0
    size = device.vector * 4
    assert len(tiles(size)) <= MOST_POINTS
    for _ in range(300):
        p = Product(rng.randint(1, 64), rng.randint(1, 40), rng.random() < 0.3, 1.0)
        lane = best_of((p,), device.vector, device.fma, device.loads)
        own = fitted_tile((lane.rows, lane.cols), size, p.rows, p.vectors)
        usual = fitted_tile(usual_tile(size), size, p.rows, p.vectors)
        assert own == (lane.rows, lane.cols)
        assert lane.rows * lane.cols <= most_sums(size)
        assert lane.rows <= p.rows
        assert lane.vector == device.vector

        def cycles(tile: tuple[int, int], p: Product = p) -> float:
            steps = steps_of(Lane(), size, p.rows)
            return tile_cycles(p, tile, steps, device.fma, device.loads)

        assert own == usual or cycles(own) < CLEAR * cycles(usual)
        least = min(cycles(fitted_tile(t, size, p.rows, p.vectors)) for t in tiles(size))
        assert cycles(own) <= least / CLEAR + 1e-9
        better += own != usual
    assert 20 <= better <= 200


def test_what_is_known_of_register_tiles() -> None:
    def cycles(rows: int, vectors: int, tile: tuple[int, int], fma: float = 1.0) -> float:
        return tile_cycles(Product(rows, vectors, False, 1.0), tile, 1 << 20, fma, fma)

    # Every multiply-add once, where the sums hide the latency and the tile divides.
    assert cycles(8, 4, (8, 2)) == pytest.approx(32.0, rel=0.1)
    # Few sums wait for one another; a flat tile waits for loads.
    assert cycles(8, 4, (1, 2)) > 1.9 * cycles(8, 4, (8, 2))
    assert cycles(8, 8, (1, 8)) > 1.05 * cycles(8, 8, (8, 1))
    # One row left over costs the latency of a tile.
    assert cycles(9, 4, (8, 2)) > cycles(9, 4, (5, 4)) > cycles(8, 4, (8, 2))
    # Two units need twice the sums.
    assert cycles(8, 4, (2, 2), 2.0) > 1.5 * cycles(8, 4, (8, 2), 2.0)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_the_chosen_tile_is_printed(isa: str, norm: bool) -> None:
    rng, printed, other = random.Random(1), 0, 0
    for _ in range(40):
        m, n, k = rng.randint(1, 70), rng.randint(20, 400), rng.randint(64, 300)
        graph = matmul(m, n, k, norm=norm)
        grid = (rng.randint(1, m), rng.randint(17, n + 20))
        lane = chosen(graph, grid, isa)
        if m == 1 or grid[0] == 1:
            continue
        whole = placed(graph, grid, lane)
        check_mugraph(whole)
        text = print_mugraph(whole)
        assert parse_mugraph(text) == whole
        source = cpu.emit(lower(whole), "f", cpu.Isa.named(isa)).text
        found = re.findall(r"// (\d+) rows x (\d+) vectors of \d+; (\d+) steps", source)
        assert found and set(found) == {(str(lane.rows), str(lane.cols), str(lane.unroll))}
        base = cpu.emit(lower(placed(graph, grid, Lane())), "f", cpu.Isa.named(isa)).text
        other += re.findall(r"// (\d+) rows x (\d+) vectors", base)[0] != found[0][:2]
        printed += 1
    assert printed >= 30
    assert other >= 1


def test_what_is_left_to_the_backend() -> None:
    assert chosen(matmul(8, 64, 256, "nk"), (8, 64)) == Lane()  # vectors run along k
    assert chosen(matmul(8, 64, 256, dtype="bf16"), (8, 64)) == Lane()  # pairs
    dynamic = matmul(Sym("s", 1, 4096), 64, 256)
    assert chosen(dynamic, (64, 64)) != Lane()
    (out,) = dynamic.outputs
    body = [i for i, _ in enumerate(dynamic.nodes) if computes(dynamic, i)]
    open_rows = Placement((Split(out.dims[1][0], 64),))
    wide = Cutter(dynamic, COST).wide
    assert Lanes(dynamic, body, DEVICES["avx512"], wide)(open_rows) == Lane()
    # A tile for other vectors is no tile for these.
    odd = replace(chosen(matmul(17, 128, 256), (17, 128)), vector=8)
    graph = matmul(17, 128, 256)
    texts = [
        cpu.emit(lower(placed(graph, (17, 128), lane)), "f", cpu.Isa.named("avx512")).text
        for lane in (odd, Lane())
    ]
    assert texts[0] == texts[1]


def test_the_search_writes_the_tile_down() -> None:
    graph = matmul(17, 512, 512)
    cutter = Cutter(graph, COST)
    plans = cutter.place(cutter.cuts()[0], keep=4)
    lanes = {k.placement.lane for _, m in plans for k in m.kernels}
    assert plans and Lane() not in lanes
    for _, m in plans:
        check_mugraph(m)
        assert parse_mugraph(print_mugraph(m)) == m
