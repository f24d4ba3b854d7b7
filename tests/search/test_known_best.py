"""The best known graph of each program of Mirage's suite is among the results of the search.

A golden file holds the graph in the textual form: canonical names, tile sizes left out. Which
result is chosen follows the device table, so each program names a row on which the graph is worth
measuring. ``pytest --update-golden`` writes the first result that has the properties of the best
known graph, which are checked of the golden file itself as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from superopt.bench.workloads import MIRAGE, workload
from superopt.cost.devices import Device
from superopt.mugraph.axes import hint
from superopt.mugraph.canonical import canonical_mugraph
from superopt.mugraph.graph import Map, Reduce
from superopt.mugraph.placement import Kernel, MuGraph, Placement, Split, kernel_body
from superopt.mugraph.text import parse_mugraph, print_mugraph
from superopt.mugraph.wellformed import check_mugraph
from superopt.pipeline.search_only import Budget, PieceSearch, search_function

GOLDEN = Path(__file__).parent / "known_best"

# Rows of their own: the table of the package follows the machine it runs on.
WIDE = Device(
    "wide", 108, 180e9, 2.9e12, 180e9, 1.5e12, 4e12, 160 << 10, 256 << 10, 40 << 20, 5e-6, 20e-9, 32
)
EIGHT = Device(
    "eight", 8, 100e9, 180e9, 30e9, 200e9, 400e9, 32 << 10, 1 << 20, 32 << 20, 4e-6, 20e-9, 16
)


@dataclass(frozen=True)
class Known:
    """A program at a size, on a device, and what its best known graph is like."""

    name: str
    workload: str
    sizes: dict[str, int]
    device: Device
    best: Callable[[MuGraph], bool]


def reductions(m: MuGraph, k: int = 0) -> list[int]:
    return [i for i in kernel_body(m, k) if isinstance(m.graph.nodes[i], Reduce)]


def one_pass(m: MuGraph) -> bool:
    """One kernel; along what it walks, no reduction waits for another one, unless it is carried."""
    if len(m.kernels) != 1:
        return False
    carried = {(c.reduce, c.stat) for c in m.kernels[0].carries}
    place = m.kernels[0].placement
    walked = {s.axis for s in (*place.grid, *place.loop)}
    sums = reductions(m)
    for i in sums:
        below = {*m.graph.reachable([i])} - {i}
        for j in sums:
            shared = walked & {*m.graph.nodes[i].over} & {*m.graph.nodes[j].over}
            if j in below and shared and (i, j) not in carried:
                return False
    return True


def looped(m: MuGraph) -> bool:
    """The kernel walks along an axis that it reduces: each input is read tile by tile, once."""
    axes = {s.axis for s in m.kernels[0].placement.loop}
    return any(axes & {*m.graph.nodes[i].over} for i in reductions(m))


def flash(m: MuGraph) -> bool:
    """Attention in one pass: two sums follow a running maximum, in a loop or over parts of keys."""
    carries = m.kernels[0].carries
    return one_pass(m) and len(carries) == 2 and len({c.stat for c in carries}) == 1


def split_keys(m: MuGraph) -> bool:
    """``flash`` in a loop, each task seeing a part of the keys: the reduced axis is on the grid."""
    if not flash(m) or not looped(m):
        return False
    keys = {*m.graph.nodes[m.kernels[0].carries[0].stat].over}
    return any(s.axis in keys for s in m.kernels[0].placement.grid)


def late_root(m: MuGraph) -> bool:
    """RMSNorm and linear: the contraction does not wait for the mean, which scales its result."""
    top = m.graph.nodes[m.graph.outputs[0].node]
    if not one_pass(m) or not looped(m) or not isinstance(top, Map) or top.op != "mul":
        return False
    scaled = [a for a in top.args if isinstance(m.graph.nodes[a], Reduce)]
    scale = [a for a in top.args if set(m.graph.nodes[a].axes) < set(top.axes)]
    return len(scaled) == len(scale) == 1 and len(reductions(m)) == 2


def one_accumulator(m: MuGraph) -> bool:
    """Two contractions over different axes, added where they are accumulated."""
    top = m.graph.nodes[m.graph.outputs[0].node]
    if not one_pass(m) or not isinstance(top, Map) or top.op != "add":
        return False
    terms = [m.graph.nodes[a] for a in top.args]
    sums = [t for t in terms if isinstance(t, Reduce) and t.op == "add" and t.axes == top.axes]
    return len(sums) == 2 and sums[0].over != sums[1].over


def shared_pass(m: MuGraph) -> bool:
    """Two contractions over one axis in one loop, whose tile of x serves both."""
    sums = [m.graph.nodes[i] for i in reductions(m)]
    alike = len(sums) == 2 and sums[0].over == sums[1].over and sums[0].axes == sums[1].axes
    return one_pass(m) and looped(m) and alike


def whole_row(m: MuGraph) -> bool:
    """One kernel that holds a row: it reads each input once, though one mean waits for another."""
    return len(m.kernels) == 1 and not m.kernels[0].placement.loop and len(reductions(m)) == 2


KNOWN = (
    Known("rmsnorm_linear", "rmsnorm_linear", {}, WIDE, late_root),
    Known("gqa", "gqa", {}, EIGHT, flash),
    Known("qk_norm", "qk_norm", {}, WIDE, flash),
    Known("lora", "lora", {}, WIDE, one_accumulator),
    Known("gated_mlp", "gated_mlp", {}, WIDE, shared_pass),
    Known("ntrans", "ntrans", {}, WIDE, whole_row),
    Known("gqa_one_query", "gqa", {"m": 1, "t": 32768}, EIGHT, split_keys),
)
each = pytest.mark.parametrize("known", KNOWN, ids=lambda k: k.name)


@functools.cache
def searched(name: str) -> PieceSearch:
    known = next(k for k in KNOWN if k.name == name)
    w = workload(known.workload)
    params = {**w.grid[0], **known.sizes}
    # The search looks at no value, so the memory is never touched.
    inputs = tuple(torch.empty(s.shape) for s in w.specs(params))
    (piece,) = search_function(
        w.reference, inputs, budget=Budget(region_seconds=600.0), device=known.device
    ).pieces
    return piece


def structure(m: MuGraph) -> str:
    """The text of a placed graph in canonical names, with tiles of one in place of their sizes."""
    return print_mugraph(
        canonical_mugraph(MuGraph(m.graph, tuple(untiled(m, k) for k in m.kernels)))
    )


def untiled(m: MuGraph, kernel: Kernel) -> Kernel:
    """The kernel without tile sizes and their order; a reduced axis in one part is not split at all."""
    stored = {a for i in kernel.outputs for a in m.graph.nodes[i].axes}
    grid = [s for s in kernel.placement.grid if s.axis in stored or s.tile < hint(s.axis.size)]
    place, own = kernel.placement, m.graph.nodes[kernel.outputs[0]].axes
    grid.sort(key=lambda s: own.index(s.axis) if s.axis in own else -1)
    ones = [tuple(Split(s.axis, 1) for s in level) for level in (grid, place.loop)]
    return replace(kernel, placement=Placement(*ones))


@each
def test_the_best_known_graph_is_among_the_results(known: Known, update_golden: bool) -> None:
    path = GOLDEN / f"{known.name}.txt"
    found = list(dict.fromkeys(structure(m) for m in searched(known.name).candidates))
    assert len(found) >= 2  # there was a choice
    for m in searched(known.name).candidates:
        check_mugraph(m)
    if update_golden:
        text = next(t for t in found if known.best(parse_mugraph(t)))
        path.write_text(text, encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    golden = parse_mugraph(text)
    assert structure(golden) == text
    assert known.best(golden)
    assert text in found


def test_every_program_of_the_suite_has_one() -> None:
    assert {k.workload for k in KNOWN} == {w.name for w in MIRAGE}
    assert {p.name for p in GOLDEN.iterdir()} == {f"{k.name}.txt" for k in KNOWN}


@each
def test_its_algebraic_space_is_closed(known: Known) -> None:
    piece = searched(known.name)
    assert piece.closed and piece.spaces
    for space in piece.spaces:
        assert space["closed"] and space["states"] and space["classes"] and space["rank"]


def test_the_properties_tell_other_graphs_apart() -> None:
    """No golden file has the properties of a program that differs from its own."""
    apart = 0
    for one in KNOWN:
        golden = parse_mugraph((GOLDEN / f"{one.name}.txt").read_text(encoding="utf-8"))
        for other in KNOWN:
            if other.best(golden):
                assert {one.best, other.best} in ({one.best}, {flash, split_keys})
            else:
                apart += 1
    assert apart >= 25
