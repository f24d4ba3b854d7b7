"""Kernels that differ in names alone are printed once, and each gets its own buffers."""

from __future__ import annotations

import torch

from superopt.codegen.alike import nameless
from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.placement import MuGraph, Placement, Split
from superopt.search import place
from superopt.search.cut import body_of
from tests.codegen import harness
from tests.programs import tensors

LAYERS = 5
WIDTH = 24


def deep(odd: int | None = None) -> MuGraph:
    """Layers x := tanh(x w) of one width, each a kernel; layer ``odd`` has another function."""
    g = Builder("deep")
    row = Axis("b", 3)
    axes = [Axis(f"x{k}", WIDTH) for k in range(LAYERS + 1)]
    x = g.input("x", ((row,), (axes[0],)), "f32")
    stored = []
    for k in range(LAYERS):
        w = g.input(f"w{k}", ((axes[k],), (axes[k + 1],)), "f32")
        y = g.reduce("add", g.map("mul", x, w), [axes[k]])
        x = g.map("sigmoid" if k == odd else "tanh", y)
        stored.append(x)
    graph = g.build([("o", x, ((row,), (axes[-1],)))])
    kept = frozenset(stored)
    kernels = []
    for k, i in enumerate(stored):
        body, _ = body_of(graph, (i,), kept)
        placement = Placement((Split(row, 2), Split(axes[k + 1], 16)))
        kernels.append(place.kernel(graph, f"k{k}", (i,), body, placement))
    return MuGraph(graph, tuple(kernels))


def functions(mugraph: MuGraph) -> int:
    return cpu.emit(lower(mugraph), "deep").text.count("static void deep_k")


def reference(graph: Graph) -> torch.Tensor:
    (out,) = run(graph, tensors(graph))
    return out


def test_layers_that_are_alike_share_a_function() -> None:
    mugraph = deep()
    assert functions(mugraph) == 1
    flat = dict(zip([n.name for n in mugraph.graph.inputs], tensors(mugraph.graph), strict=True))
    harness.check(lower(mugraph), flat, {"out0": reference(mugraph.graph)}, tol=2e-5)


def test_a_layer_that_differs_has_its_own() -> None:
    mugraph = deep(odd=2)
    assert functions(mugraph) == 2
    flat = dict(zip([n.name for n in mugraph.graph.inputs], tensors(mugraph.graph), strict=True))
    harness.check(lower(mugraph), flat, {"out0": reference(mugraph.graph)}, tol=2e-5)


def test_what_is_the_same_but_for_names_is_equal() -> None:
    first, *rest = [nameless(p) for p in lower(deep())]
    assert len(rest) == LAYERS - 1 and all(p == first for p in rest)
    other = [nameless(p) for p in lower(deep(odd=1))]
    assert [p == first for p in other] == [True, False, True, True, True]


def test_sizes_and_tiles_are_part_of_what_a_program_is() -> None:
    mugraph = deep()
    kernel = mugraph.kernels[1]
    body, _ = body_of(mugraph.graph, kernel.outputs, frozenset(mugraph.kernels[0].outputs))
    other = Placement((kernel.placement.grid[0], Split(kernel.placement.grid[1].axis, 8)))
    changed = place.kernel(mugraph.graph, "k1", kernel.outputs, body, other)
    kernels = (mugraph.kernels[0], changed, *mugraph.kernels[2:])
    assert functions(MuGraph(mugraph.graph, kernels)) == 2
