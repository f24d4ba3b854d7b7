"""The mutations of graphs: which kinds there are, that they are well-formed, and how they are sampled."""

from __future__ import annotations

from collections import Counter

import pytest

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Index
from superopt.mugraph.mutants import edits, interface, mutations, sampled, twice
from superopt.mugraph.wellformed import check_graph
from tests.programs import attention, rmsnorm_linear
from tests.verify.terms import K, T, program


def selecting() -> Graph:
    """Casts, roundings, a gather, a mask, two outputs and two inputs of one shape."""
    b = Builder("selecting")
    r, c, n, m = Axis("r", 4), Axis("c", 4), Axis("n", 3), Axis("m", 3)
    x, y = (b.input(k, ((r,), (c,)), "bf16") for k in "xy")
    at = b.input("at", ((n,),), "i64")
    wide = b.map("cast", x, dtype="f32")
    sums = b.map("round", b.map("add", wide, b.map("cast", y, dtype="f32")), dtype="bf16")
    low = b.map("lt", b.iota(r), b.iota(c))
    masked = b.map("where", low, sums, b.const(float("-inf")), dtype="f32")
    best = b.reduce("max", masked, [c])
    total = b.map("div", b.reduce("add", wide, [r, c]), b.size_of(c))
    picked = b.gather(b.view(best, [(r, Index(((m, 1),), 1))]), m, at)
    turned = b.rename(b.map("mul", wide, wide), {r: c, c: r})
    out = b.map("cast", b.map("mul", turned, total), dtype="bf16")
    other = b.map("cast", b.map("sub", sums, total), dtype="bf16")
    dims = ((r,), (c,))
    return b.build([("a", out, dims), ("b", other, dims), ("p", picked, ((n,),))])


GRAPHS = {
    "attention": attention(2, 4, 4, 4, causal=1),
    "rmsnorm_linear": rmsnorm_linear(3, 4, 4),
    "selecting": selecting(),
    "clamp": program(lambda p: (p.x.max(-1.0).min(1.0) * p.y, p.x - p.y)),
    "squares": program(lambda p: p.s.reduce("max", T) + p.x.square().sum(K) / p.size(K)),
}
KINDS = {
    *("wiring", "row", "reduction", "reduced axis", "reductions over another axis"),
    *("term dropped", "factor dropped", "1/n dropped", "mask dropped", "mask lost"),
    *("shift lost", "rescale lost", "operation lost", "stale accumulator"),
    *("last element left out", "reduced axis left out", "size", "size_of", "size off by one"),
    *("index", "index off by one", "axes transposed", "operands swapped"),
    *("constant", "constant off by one", "sign", "zero for one", "power of two"),
    *("infinity made finite", "dtype", "stride", "dims", "dims merged", "gather off by one"),
    *("cast moved", "round moved", "rounding dropped", "output dims", "output merged"),
    *("output order", "output dim of one", "output node", "outputs reordered"),
    *("output dropped", "outputs permuted", "inputs reordered", "inputs exchanged"),
}


def test_every_kind_of_mistake_is_made():
    kinds: Counter[str] = Counter()
    for graph in GRAPHS.values():
        for kind, mutant in mutations(graph):
            check_graph(mutant)
            kinds[kind] += 1
    assert set(kinds) >= KINDS, sorted(KINDS - set(kinds))
    assert kinds.total() >= 800, kinds.total()


@pytest.mark.parametrize("name", GRAPHS)
def test_a_sample_is_the_same_for_a_seed_and_has_all_kinds(name: str):
    graph = GRAPHS[name]
    one, two, other = (sampled(graph, 60, seed) for seed in (3, 3, 4))
    assert [k for k, _ in one] == [k for k, _ in two]
    assert [str(m) for _, m in one] == [str(m) for _, m in two]
    assert [str(m) for _, m in one] != [str(m) for _, m in other]
    assert len({str(m) for _, m in one}) == len(one) == 60
    assert str(graph) not in {str(m) for _, m in one}
    made = {k for k, _ in mutations(graph)}
    assert len({k for k, _ in one}) >= 0.85 * min(len(made), 60)  # two may give one


def test_mutants_of_mutants_are_new():
    graph = GRAPHS["rmsnorm_linear"]
    known = {str(m) for _, m in mutations(graph)}
    found = twice(graph, 50, 1)
    assert len(found) == 50
    assert sum(str(m) not in known for _, m in found) >= 40
    for kind, mutant in found:
        check_graph(mutant)
        assert " + " in kind


def test_exchanged_inputs_and_permuted_outputs_keep_the_interface():
    graph = GRAPHS["selecting"]
    kinds = Counter(
        (k, interface(graph, m) == "") for k, m in mutations(graph) if "ed" in k and "put" in k
    )
    assert kinds["outputs permuted", True] == 1
    assert kinds["inputs exchanged", True] == 1
    assert kinds["outputs permuted", False] == kinds["inputs exchanged", False] == 0
    assert kinds["inputs reordered", False] >= 1


def test_edits_do_not_change_the_graph():
    graph = GRAPHS["attention"]
    before = str(graph)
    assert len([e.make for e in edits(graph)]) >= 100
    assert str(graph) == before
