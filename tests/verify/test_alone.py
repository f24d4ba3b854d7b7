"""A graph's own gate: inputs are inside what they index, and a wrong kernel is told by an element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Builder, Graph
from superopt.verify.alone import ALL, Inside, drawn, exactly, gated, in_own_types
from tests.programs import lora, rmsnorm_linear

N, D, P = Axis("n", Sym("n", 1, 50)), Axis("d", 8), Axis("i", 5)


def picked(shift: int) -> Graph:
    """A row of a table at a computed index: the given one, moved."""
    b = Builder("picked")
    table, at = b.input("t", ((N,), (D,)), "f32"), b.input("i", ((P,),), "i64")
    moved = b.map("add", at, b.const(shift, "i64"))
    out = b.gather(table, N, moved)
    return b.build([("y", out, ((P,), (D,)))])


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_indices_are_inside_whatever_the_size(size: int) -> None:
    seen: set[int] = set()
    for seed in range(40):
        inputs = drawn(picked(0), {"n": size}, seed)
        assert inputs is not None
        assert int(inputs[1].min()) >= 0 and int(inputs[1].max()) < size
        seen |= set(inputs[1].tolist())
    assert len(seen) == min(size, 50) or (size == 50 and len(seen) > 40)


def test_computed_indices_are_inside_or_nothing_is_drawn() -> None:
    assert drawn(picked(1), {"n": 50}, 0) is not None
    assert drawn(picked(60), {"n": 50}, 0) is None
    below = drawn(picked(-1), {"n": 2}, 3)
    assert below is not None and below[1].tolist() == [1] * 5
    assert drawn(picked(-1), {"n": 1}, 3) is None  # PyTorch would count from the end
    table, at = torch.zeros(4, 8), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(IndexError):
        floats.run(picked(-1), [table, at], {"n": 4}, algebra=Inside)


def test_draws_differ_by_seed_and_keep_strides_and_dtypes() -> None:
    graph = rmsnorm_linear()
    a, b = (drawn(graph, {}, s) for s in (1, 2))
    assert a is not None and b is not None
    for node, x, y in zip(graph.inputs, a, b, strict=True):
        assert x.stride() == tuple(s.coef for s in node.strides) and not torch.equal(x, y)
        assert x.isfinite().all()


@pytest.mark.parametrize("make", [rmsnorm_linear, lora])
def test_a_right_kernel_passes_and_a_wrong_element_is_named(make) -> None:  # type: ignore[no-untyped-def]
    graph = make()
    own = in_own_types(graph, {})
    at: list[int] = []

    def right(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return own(*tensors)

    def wrong(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        out = own(*tensors)
        place = out[0].numel() // 2
        at.append(place)
        out[0].view(-1)[place] += out[0].abs().max() / 16
        return out

    good = gated(graph, graph, lambda _: right, [({}, ALL)], 11)
    assert good.gate and good.difference is None and good.answered >= 14 and good.sizes == 1
    for seed in range(5):
        bad = gated(graph, graph, lambda _: wrong, [({}, ALL)], seed)
        assert bad.gate is not None and not bad.gate and bad.difference is not None
        d = bad.difference
        shape = exactly(graph, {})(*(drawn(graph, {}, seed) or []))[0].shape
        assert d.element == tuple(int(i) for i in torch.unravel_index(torch.tensor(at[-1]), shape))
        assert abs(d.got - d.expected) > 1e-3 * abs(d.expected) and f"seed {seed}" in d.inputs
        assert "beyond" in d.reason


def test_outputs_of_other_shapes_are_told() -> None:
    graph = lora()
    run = in_own_types(graph, {})
    found = gated(graph, graph, lambda _: lambda xs: run(*xs)[0][:1], [({}, ALL)], 3)
    assert found.difference is not None and "against" in found.difference.reason
    none = gated(graph, graph, lambda _: lambda xs: [], [({}, ALL)], 3)
    assert none.difference is not None and "0 outputs" in none.difference.reason


def test_another_program_is_told_at_some_size() -> None:
    wrong = picked(0)
    other = replace(wrong, nodes=(*wrong.nodes[:-1], replace(wrong.nodes[-1], at=1)))
    places = [({"n": n}, ALL) for n in (50, 3)]

    def of(graph: Graph):  # type: ignore[no-untyped-def]
        return lambda sizes: lambda xs: in_own_types(graph, sizes)(*xs)

    assert gated(picked(0), picked(0), of(other), places, 5).difference is None  # the same rows
    found = gated(picked(0), picked(0), of(picked(1)), places, 5)
    assert found.difference is not None or not found.gate
