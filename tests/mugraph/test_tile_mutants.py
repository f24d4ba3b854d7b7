"""Mutants of tile programs: of every kind, each different, and broken by its kind alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from superopt.codegen.backends import python
from superopt.codegen.lower import lower
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.tile_analysis import loads
from superopt.mugraph.tile_mutants import ACCESS, COVERAGE, VALUES, mutants
from superopt.mugraph.tileir import Program, print_program, statements
from tests.codegen.test_moments import _variance, made
from tests.codegen.test_split import placed
from tests.programs import attention, gated_mlp, lora, rmsnorm_linear, softmax, tensors


def _gathered() -> Graph:
    r, d, v = Axis("r", 5), Axis("d", 6), Axis("v", 9)
    g = Builder("gathered")
    table, ids = g.input("table", ((v,), (d,)), "f32"), g.input("ids", ((r,),), "i64")
    other = g.input("other", ((r,), (d,)), "f32")
    picked = g.gather(table, v, ids)
    total = g.map("add", picked, g.map("div", other, g.size_of(d)))
    return g.build([("a", total, ((r,), (d,))), ("b", g.map("mul", picked, other), ((r,), (d,)))])


def programs() -> list[Program]:
    out = [*lower(placed(softmax(), {"b": 2}, {"t": 16}))]
    out += lower(placed(attention(causal=3), {"h": 1, "q": 4, "t": 16}, {"t": 8}))
    out += lower(placed(gated_mlp(), {"b": 3, "o": 8}, {"n": 16, "k": 16}))
    out += lower(placed(rmsnorm_linear(), {"b": 3, "n": 16}, {"k": 16}))
    out += lower(placed(lora(), {"b": 3, "n": 16}, {"k": 16}))
    out += lower(placed(made(_variance), {}, {"t": 16}))
    return [*out, *lower(placed(_gathered(), {"r": 2}, {}))]


def test_there_are_mutants_of_every_kind() -> None:
    found: Counter[str] = Counter()
    for program in programs():
        seen = {program}
        for kind, mutant in mutants(program):
            assert mutant not in seen, f"{kind} twice, or nothing changed:\n{mutant}"
            seen.add(mutant)
            found[kind] += 1
        again = [(kind, print_program(m)) for kind, m in mutants(program)]
        assert again == [(kind, print_program(m)) for kind, m in mutants(program)]
    assert found.keys() == COVERAGE | ACCESS | VALUES
    assert sum(found.values()) > 1500, found


@pytest.mark.parametrize("kind", sorted(VALUES - {"stale value", "rescale lost"}))
def test_a_changed_value_changes_no_access(kind: str) -> None:
    tried = 0
    for program in programs():
        for found, mutant in mutants(program):
            if found == kind:
                known = {
                    (x.index, x.clamp) for s in statements(program.body) for x in loads(s.expr)
                }
                now = {(x.index, x.clamp) for s in statements(mutant.body) for x in loads(s.expr)}
                same_grid = (mutant.grid, mutant.parts) == (program.grid, program.parts)
                assert (now <= known and same_grid) or kind == "operand replaced", mutant
                tried += 1
    assert tried


def test_most_changed_values_are_seen_by_running_them() -> None:
    graph = attention(q=5, t=21)
    (program,) = lower(placed(graph, {"h": 1, "q": 4}, {"t": 8}))
    flat = {
        n.name: x.reshape([a.size for dim in n.dims for a in dim])
        for n, x in zip(graph.inputs, tensors(graph), strict=True)
    }
    want = python.run([program], flat)["out0"]
    seen: Counter[bool] = Counter()
    for kind, mutant in mutants(program):
        if kind in VALUES:
            got = python.run([mutant], flat)["out0"]
            seen[torch.allclose(got, want, rtol=1e-4, atol=1e-5)] += 1
    assert seen[False] > 20 and seen[False] > 2 * seen[True], seen
