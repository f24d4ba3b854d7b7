"""The kernel cut: groups are executable in order, and the local search does not miss cheap cuts."""

from __future__ import annotations

import itertools

import pytest

from superopt.cost.model import cost_on
from superopt.mugraph.wellformed import check_mugraph
from superopt.search.cut import Cutter
from superopt.search.cut_points import cut_points
from tests.devices import known_device
from tests.programs import PROGRAMS, attention, gated_mlp, lora, rmsnorm_linear

DEVICE = known_device(frozenset({"avx512f", "avx512_bf16"}), 2)


cost = cost_on(DEVICE)


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_placed_cuts_are_well_formed(name: str) -> None:
    graph = PROGRAMS[name]()
    cutter = Cutter(graph, cost)
    cuts = cutter.cuts()
    assert cuts
    count = 0
    for cut in cuts:
        for seconds, mugraph in cutter.place(cut, keep=3):
            check_mugraph(mugraph)
            assert seconds > 0
            count += 1
    assert count >= 2


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_local_search_finds_the_best_cut_of_small_programs(name: str) -> None:
    graph = PROGRAMS[name]()
    cutter = Cutter(graph, cost)
    best = cutter.cuts()[0].seconds
    outputs = frozenset(o.node for o in graph.outputs)
    points = [i for i in cut_points(graph) if i not in outputs]
    every = [
        sum(cutter.seconds((i,), outputs | set(some)) for i in outputs | set(some))
        for n in range(len(points) + 1)
        for some in itertools.combinations(points, n)
    ]
    assert best <= min(every) * 1.001


def test_mirage_shapes_fuse_into_one_kernel() -> None:
    for graph in (
        rmsnorm_linear(16, 4096, 6144),
        gated_mlp(8, 4096, 4096, None),
        attention(2, 256, 4096, 64),
    ):
        assert len(Cutter(graph, cost).cuts()[0].groups) == 1, graph.name
    assert len(Cutter(lora(16, 256, 4096, 16), cost).cuts()[0].groups) <= 2


def test_the_bound_changes_no_cut_and_spares_kernels() -> None:
    costed = {True: 0, False: 0}
    graphs = [make() for make in PROGRAMS.values()]
    graphs += [rmsnorm_linear(16, 4096, 6144, False), attention(2, 256, 4096, 64)]
    graphs += [gated_mlp(8, 4096, 4096, 512), lora(16, 256, 4096, 16)]
    for graph in graphs:
        cuts = {}
        for bound in costed:
            cutter = Cutter(graph, cost, bound=bound)
            cuts[bound] = cutter.cuts()
            costed[bound] += cutter.evaluated
        assert cuts[True] == cuts[False]
    assert len(graphs) >= 9
    assert costed[True] < costed[False]
