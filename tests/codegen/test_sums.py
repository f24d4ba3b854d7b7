"""Long sums are as accurate as PyTorch's, however they are placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.tileir import Program
from tests.codegen import harness
from tests.codegen.test_split import placed

UNIT = 2.0**-24
SIZES = (1, 2, 7, 64, 129, 1000, 1025, 4097, 65537, 300007)
LONG = (1_000_001, 3_000_000)
OFFSETS = (0.0, 3.1, 1e2, 1e4, 31415.93, 1e5, 1e6)
VALUES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "normal": lambda x: x,
    "sorted": lambda x: x.sort(-1).values,
    "constant": lambda x: torch.full_like(x, 1 / 3),
}
Fn = Callable[[torch.Tensor], torch.Tensor]


def _exponentials(x: torch.Tensor) -> torch.Tensor:
    return (x - x.amax(-1, keepdim=True)).exp().sum(-1)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


TOTALS: Sequence[Fn] = (lambda x: x.sum(-1), lambda x: x.mean(-1), _exponentials)
SPREADS: Sequence[Fn] = (
    lambda x: x.var(-1, correction=0),
    lambda x: x.std(-1, correction=0),
    _norm,
)


def _graph(totals: bool) -> Graph:
    ab, an = Axis("b", 1), Axis("n", Sym("N", 1, 1 << 23))
    g = Builder("long")
    x = g.input("x", ((ab,), (an,)), "f32")
    size, total = g.size_of(an), g.reduce("add", x, [an])
    mean = g.map("div", total, size)
    if totals:
        e = g.map("exp", g.map("sub", x, g.reduce("max", x, [an])))
        outs = [total, mean, g.reduce("add", e, [an])]
    else:
        d = g.map("sub", x, mean)
        var = g.map("div", g.reduce("add", g.map("mul", d, d), [an]), size)
        scale = g.map("rsqrt", g.map("add", var, g.const(1e-5)))
        outs = [var, g.map("sqrt", var), g.map("mul", d, scale)]
    return g.build([(f"o{k}", o, tuple((a,) for a in g.axes(o))) for k, o in enumerate(outs)])


PLACES = {
    "totals at once": (True, {}, {}),
    "totals in a loop": (True, {}, {"n": 1000}),
    "totals in parts": (True, {"n": 70000}, {}),
    "totals in parts, looped": (True, {"n": 70000}, {"n": 333}),
    "spreads at once": (False, {}, {}),
    "spreads in a loop": (False, {}, {"n": 1000}),
    "spreads in a loop of short steps": (False, {}, {"n": 48}),
}


def _worst(
    programs: Sequence[Program], fns: Sequence[Fn], x: torch.Tensor, isa: cpu.Isa | None
) -> list[tuple[float, float]]:
    """The error of each output, and what it may be."""
    got = harness.run_cpu(programs, {"x": x}, {"N": x.shape[-1]}, isa=isa)
    sign = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(3)) * 2 - 1
    out = []
    for k, fn in enumerate(fns):
        want = fn(x.double())
        moved = fn(x.double() * (1 + UNIT * sign))

        def off(y: torch.Tensor, want: torch.Tensor = want) -> float:
            return float((y.double() - want).abs().max())

        limit = 2 * off(fn(x)) + 4 * off(moved) + 4 * UNIT * float(want.abs().max())
        out.append((off(got[f"out{k}"].reshape(want.shape)), limit))
    return out


def _count(place: str, sizes: Sequence[int], isa: cpu.Isa | None = None) -> int:
    totals, grid, loop = PLACES[place]
    fns = TOTALS if totals else SPREADS
    programs, done = lower(placed(_graph(totals), grid, loop)), 0
    for n in sizes:
        normal = torch.randn(1, n, generator=torch.Generator().manual_seed(n))
        for kind, offset in ((k, o) for k in VALUES for o in OFFSETS):
            for k, (error, limit) in enumerate(
                _worst(programs, fns, VALUES[kind](normal) + offset, isa)
            ):
                assert error <= limit, (place, n, kind, offset, k, error, limit)
                done += 1
    return done


@pytest.mark.parametrize("place", PLACES)
def test_long_sums_are_as_accurate_as_eager(place: str) -> None:
    assert _count(place, SIZES) == len(SIZES) * len(VALUES) * len(OFFSETS) * 3


@pytest.mark.parametrize("place", ["totals in parts, looped", "spreads in a loop"])
def test_so_are_very_long_ones(place: str) -> None:
    assert _count(place, LONG) == len(LONG) * len(VALUES) * len(OFFSETS) * 3


@pytest.mark.parametrize("isa", ["avx2", "generic"])
def test_other_instruction_sets(isa: str) -> None:
    done = sum(
        _count(place, (7, 1025, 65537), cpu.Isa.named(isa))
        for place in ("totals in parts", "spreads in a loop")
    )
    assert done == 2 * 3 * len(VALUES) * len(OFFSETS) * 3


def test_accumulators_and_parts_are_double_in_the_tile_ir() -> None:
    parts, merge = lower(placed(_graph(True), {"n": 70000}, {"n": 333}))
    kept = {b.name: b.dtype for p in (parts, merge) for b in (*p.buffers, *p.tiles)}
    assert [d for n, d in kept.items() if n.startswith("part")].count("f64") == 2
    assert {d for n, d in kept.items() if n.startswith("acc")} >= {"f64"}


def test_sums_of_columns_are_kept_in_double_too() -> None:
    am, an = Axis("m", 40001), Axis("n", 37)
    g = Builder("columns")
    x = g.input("x", ((am,), (an,)), "f32")
    mean = g.map("div", g.reduce("add", x, [am]), g.size_of(am))
    d = g.map("sub", x, mean)
    var = g.map("div", g.reduce("add", g.map("mul", d, d), [am]), g.size_of(am))
    graph = g.build([("o0", mean, ((an,),)), ("o1", var, ((an,),))])
    value = torch.randn(40001, 37, generator=torch.Generator().manual_seed(1)) + 1e4
    wide = value.double()
    for loop in ({}, {"m": 100}):
        got = harness.run_cpu(lower(placed(graph, {"n": 16}, loop)), {"x": value})
        torch.testing.assert_close(got["out0"].double(), wide.mean(0), rtol=2 * UNIT, atol=0)
        want = wide.var(0, correction=0)
        torch.testing.assert_close(got["out1"].double(), want, rtol=1e-5, atol=0)
