"""Buckets: the algebra is explored once, and every size is served within the factor of the best."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from superopt.codegen.lower import why_not_lowerable
from superopt.cost.model import cost_on
from superopt.mugraph.axes import Sym
from superopt.mugraph.dispatch import Bucket, Dispatch, holds
from superopt.mugraph.graph import Graph
from superopt.mugraph.resize import narrowed, placed_with_symbols, symbols, with_symbols
from superopt.mugraph.wellformed import check_graph, check_mugraph
from superopt.search import driver, tasks
from superopt.search.buckets import FACTOR, MOST_BUCKETS, boxes, divide, seconds_at
from superopt.search.points import LARGEST, MOST_POINTS, Span, points, spans, too_large
from superopt.search.regions import regions
from superopt.verify.cuts import Checker
from tests.devices import known_device
from tests.programs import attention, gated_mlp, rmsnorm_linear
from tests.verify.test_sweep import deep

COST = cost_on(known_device(frozenset({"avx512f"}), 8))
N, M = Sym("n", 2, 4096), Sym("m", 2, 9000)


def dynamic(graph: Graph, **given: Sym) -> Graph:
    """The program with symbols as the sizes of the axes named."""
    mine = {a.name: a for a in graph.axes}

    class Names(dict[Any, Any]):
        def __missing__(self, axis: Any) -> Any:
            size = given.get(axis.name, axis.size)
            self[axis] = type(axis)(axis.name, size)
            return self[axis]

    assert set(given) <= set(mine)
    from dataclasses import replace

    from superopt.mugraph.graph import Input, dense_strides
    from superopt.mugraph.rewrite import dims_with_axes, with_axes

    names = Names()
    nodes = []
    for node in graph.nodes:
        node = with_axes(node, names)
        if isinstance(node, Input):
            node = replace(node, strides=dense_strides(node.dims))
        nodes.append(node)
    outputs = tuple(replace(o, dims=dims_with_axes(o.dims, names)) for o in graph.outputs)
    made = Graph(graph.name, tuple(nodes), outputs)
    check_graph(made)
    return made


PROGRAMS: dict[str, Graph] = {
    "rmsnorm_linear": dynamic(rmsnorm_linear(5, 1024, 512), b=N),
    "gated_mlp": dynamic(gated_mlp(5, 512, 256, None), b=N),
    "attention": dynamic(attention(4, 9, 37, 64), q=N, t=M),
}


def searched(graph: Graph, at: Any, candidates: int = 200) -> driver.Found:
    budget = driver.Budget(None, candidates)
    return driver.search(graph, COST, budget, lowerable=why_not_lowerable, points=at)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_algebra_is_explored_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = PROGRAMS[name]
    explored: list[int] = []
    real = tasks.explore

    def counted(*args: Any, **kwargs: Any) -> Any:
        explored.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(tasks, "explore", counted)
    looked_at = points(graph)
    assert len(looked_at) >= 4
    found = searched(graph, looked_at)
    assert len(explored) == len(regions(graph))
    assert len(found.at) == len(looked_at) and all(found.at)
    once = searched(graph, ())
    assert found.stats["classes"] == once.stats["classes"]
    for c in found.candidates:
        check_mugraph(c.mugraph)
        assert symbols(c.mugraph.graph) == symbols(graph)


@pytest.mark.parametrize("name", PROGRAMS)
def test_at_a_point_the_search_is_that_of_the_static_program(name: str) -> None:
    graph = PROGRAMS[name]
    looked_at = points(graph)
    found = searched(graph, looked_at, 10_000)
    for point, at in zip(looked_at, found.at, strict=True):
        (static,) = [searched(_static(graph, point), (), 10_000)]
        best = min(seconds_at(found.candidates[c].mugraph, COST, point) for c in at)
        want = min(seconds_at(c.mugraph, COST, {}) for c in static.candidates)
        assert best == pytest.approx(want, rel=1e-9), point


def _static(graph: Graph, point: Any) -> Graph:
    """The program with numbers in place of its symbols."""
    by_axis = {a.name: point[a.size.name] for a in graph.axes if isinstance(a.size, Sym)}
    return dynamic(graph, **by_axis)


@pytest.mark.parametrize("name", PROGRAMS)
def test_rooms_divide_the_domain_and_serve_within_the_factor(name: str) -> None:
    graph = PROGRAMS[name]
    found = searched(graph, points(graph))
    rooms = divide(graph, found, COST)
    domain = tuple((s.name, s.lo, s.hi) for s in symbols(graph))
    Dispatch(domain, tuple(Bucket(r.guard, 0) for r in rooms))  # raises unless total and disjoint
    assert 1 <= len(rooms) <= MOST_BUCKETS
    assert divide(graph, found, COST) == rooms
    tried = 0
    for room in rooms:
        ends = [sorted({low, min(high, spans(graph)[s].top)}) for s, low, high in room.guard]
        for sizes in itertools.product(*ends):
            there = {s: n for (s, _, _), n in zip(domain, sizes, strict=True)}
            prices = {c: seconds_at(found.candidates[c].mugraph, COST, there) for c in room.order}
            worst = prices[room.order[0]] / min(prices[c] for c in _priced(found))
            assert worst <= room.worst * (1 + 1e-9)
            tried += 1
        assert room.worst <= FACTOR or len(rooms) == MOST_BUCKETS
    assert tried >= 4, tried


def _priced(found: driver.Found) -> set[int]:
    return {c for at in found.at for c in at[:8]}


def test_a_program_without_symbols_is_one_room() -> None:
    graph = gated_mlp(5, 512, 256, None)
    assert points(graph) == () and spans(graph) == {}
    found = searched(graph, ())
    (room,) = divide(graph, found, COST)
    assert room.guard == () and room.order == tuple(range(len(found.candidates)))


def test_segments_are_searched_at_every_point() -> None:
    graph = dynamic(deep(3, False), b=N)
    looked_at = points(graph)
    found = searched(graph, looked_at, 400)
    assert found.stats["segments"] >= 3 and len(found.at) == len(looked_at)
    rooms = divide(graph, found, COST)
    first = found.candidates[rooms[0].order[0]].mugraph
    check_mugraph(first)
    assert Checker(0).rewritten(graph, first.graph)


def test_points_lie_in_the_ranges_and_are_few() -> None:
    tried = 0
    for ranges in (
        [(2, 4096)],
        [(2, 1 << 40)],
        [(2, 3)],
        [(7, 7)],
        [(100, 101)],
        [(2, 4096), (2, 9000)],
        [(2, 64), (4, 1 << 40), (9, 9)],
        [(2, 64)] * 6,
    ):
        sizes = [Sym(f"s{k}", low, high) for k, (low, high) in enumerate(ranges)]
        graph = _sum_of_rows(sizes)
        found = points(graph)
        assert 1 <= len(found) <= MOST_POINTS
        assert len({str(p) for p in found}) == len(found)
        for p in found:
            assert all(s.lo <= p[s.name] <= min(s.hi, max(LARGEST, s.lo)) for s in sizes)
            assert not too_large(graph, p)
            tried += 1
    assert tried >= 25, tried


def _sum_of_rows(sizes: list[Sym]) -> Graph:
    from superopt.mugraph.axes import Axis
    from superopt.mugraph.graph import Builder

    b = Builder("rows")
    inner = Axis("k", 16)
    outputs = []
    for k, size in enumerate(sizes):
        axis = Axis(f"a{k}", size)
        x = b.input(f"x{k}", ((axis,), (inner,)), "f32")
        outputs.append((f"y{k}", b.reduce("add", b.map("mul", x, x), [inner]), ((axis,),)))
    return b.build(outputs)


def test_spans_are_cut_in_geometric_progression() -> None:
    for low, top in itertools.product((0, 1, 2, 5, 100), (1, 2, 3, 9, 100, 4096, 1 << 16)):
        if top < low:
            continue
        for pieces, ratio in itertools.product((1, 2, 5, 14), (2.0, 8.0)):
            starts = Span(low, top, top).cut(pieces, ratio)
            assert starts[0] == low and starts == sorted(set(starts)) and len(starts) <= pieces
            assert all(low <= s <= top for s in starts)


def test_boxes_cover_all_cells_once_and_keep_to_the_factor() -> None:
    """Against an exhaustive search for the fewest intervals, where there is one dimension."""
    rng = np.random.default_rng(0)
    split = 0
    for _ in range(200):
        dims = tuple(int(n) for n in rng.integers(1, 6, size=int(rng.integers(1, 4))))
        ratios = np.exp(rng.exponential(0.3, size=(5, *dims)))
        ratios /= ratios.min(0, keepdims=True)
        found = boxes(ratios, 1.2, 100)
        seen = np.zeros(dims, int)
        for box, c in found:
            cells = tuple(slice(a, z + 1) for a, z in box)
            seen[cells] += 1
            assert ratios[(c, *cells)].max() <= 1.2
        assert (seen == 1).all()
        split += len(found) > 1
        if len(dims) == 1:
            assert len(found) <= 2 * _fewest(ratios, 1.2)
        few = boxes(ratios, 1.2, 3)
        assert len(few) <= 3
        assert sum(math.prod(z - a + 1 for a, z in box) for box, _ in few) == seen.size
    assert split >= 100, split


def _fewest(ratios: np.ndarray, factor: float) -> int:
    """The fewest intervals that cover the cells, each served by one candidate within the factor."""
    n = ratios.shape[1]
    best = [0] + [n + 1] * n
    for z in range(1, n + 1):
        for a in range(z):
            if (ratios[:, a:z].max(1) <= factor).any():
                best[z] = min(best[z], best[a] + 1)
    return best[n]


def test_other_ranges_of_symbols_change_nothing_else() -> None:
    graph = PROGRAMS["attention"]
    back = {s.name: s for s in symbols(graph)}
    there = {"n": Sym("n", 7, 7), "m": Sym("m", 90, 95)}
    moved = with_symbols(graph, there)
    check_graph(moved)
    assert symbols(moved) == (there["m"], there["n"])
    assert with_symbols(moved, back) == graph
    placed = searched(graph, points(graph)).candidates[0].mugraph
    small = narrowed(placed, (("m", 90, 95), ("n", 7, 7)))
    check_mugraph(small)
    assert placed_with_symbols(small, back) == placed
    assert narrowed(placed, ()) is placed
    assert holds((("m", 90, 95), ("n", 7, 7)), (91, 7))
