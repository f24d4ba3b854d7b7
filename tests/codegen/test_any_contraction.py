"""Random contractions: any roles of the axes, layouts, gathered factors and splits."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.placement import Split
from superopt.mugraph.tileir import Compute, Coord, Program
from tests.codegen.harness import ap, at, buf, check

ROLES = {"b": "xyo", "m": "xo", "n": "yo", "k": "xy"}
"""Which of x, y and the output have the axes called so."""


def contraction(data: st.DataObject, seen: Counter[str]) -> None:
    """``o = sum(k) x[rows] * y[rows]`` with axes of random roles, compared on both backends."""
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 2**31)))
    axes = [
        Axis(f"{role}{n}", draw(st.sampled_from([1, 2, 3, 7, 17, 33])))
        for role in ROLES
        for n in range(draw(st.integers(1 if role == "k" else 0, 2)))
    ]
    dtype = draw(st.sampled_from(["f32", "bf16"]))
    held: dict[str, torch.Tensor] = {}
    loads, terms, buffers = {}, {}, []
    for t in "xy":
        own = draw(st.permutations([a for a in axes if t in ROLES[a.name[0]]]))
        buffer = buf(t, "input", own, dtype)
        held[t] = (torch.randn([a.size for a in own]) + 0.1).to(DTYPES[dtype].torch)
        buffers.append(buffer)
        index, value, clamp = [Coord(a) for a in own], held[t].double(), ()
        if draw(st.booleans()):  # one axis is read at run-time positions
            d = draw(st.integers(0, len(own) - 1))
            at_ = buf(f"i{t}", "input", [own[d]], "i64")
            held[at_.name] = torch.randint(0, own[d].size, (own[d].size,))
            value = value.index_select(d, held[at_.name])
            index[d], clamp = at(at_, dtype="i64"), (d,)
            buffers.append(at_)
            seen["gathered"] += 1
        loads[t] = at(buffer, *index, dtype="f32", clamp=clamp)
        terms[t] = (value, [axes.index(a) for a in own])
    kept = draw(st.permutations([a for a in axes if "o" in ROLES[a.name[0]]]))
    over = tuple(a for a in axes if a.name[0] == "k")
    out = buf("out0", "output", kept, dtype)
    stmt = Compute(out, tuple(kept), ap("mul", loads["x"], loads["y"]), "add", over)
    grid = tuple(Split(a, draw(st.sampled_from([1, 3, 16, a.size]))) for a in kept)
    (x, xs), (y, ys) = terms["x"], terms["y"]
    result = [axes.index(a) for a in kept]
    want = torch.einsum(x, xs, y, ys, result)
    terms = {"out0": float(torch.einsum(x.abs(), xs, y.abs(), ys, result).max())}
    check(Program("any", (*buffers, out), (), grid, (stmt,)), held, {"out0": want}, terms=terms)
    seen["tried"] += 1
    seen["loops outside"] += sum(a.size > 1 and a.name[0] == "b" for a in axes) > 1


def many(count: int) -> None:
    """Tries as many, and fails if they were too much alike."""
    seen: Counter[str] = Counter()

    @settings(max_examples=count, deadline=None, database=None, derandomize=True)
    @given(st.data())
    def each(data: st.DataObject) -> None:
        contraction(data, seen)

    each()
    assert seen["tried"] >= 0.9 * count, seen
    assert min(seen["gathered"], seen["loops outside"]) >= count // 10, seen


def test_any_contraction() -> None:
    many(20)


@pytest.mark.full
def test_many_contractions() -> None:
    many(400)
