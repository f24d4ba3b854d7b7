"""Which derivations may be ranked: what rounds worse than the program itself is dropped."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from superopt.codegen.lower import why_not_lowerable
from superopt.mugraph.algebras.floats import FloatAlgebra, merge_output, run, split_input
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.evaluate import evaluate
from superopt.mugraph.graph import Builder, Graph, Map, Reduce
from superopt.pipeline.search_only import search_function
from superopt.search import driver
from superopt.search.enumerate import REDUCE, Space, explore
from superopt.search.regions import regions
from superopt.search.safety import safe_derivations
from tests.search.searches import COST

B, K = Axis("b", 5), Axis("k", 37)


def mean(scale_first: bool, squared: bool) -> Graph:
    """sum(x / n), or sum(x) / n, of x[b,k] or its squares."""
    b = Builder("mean")
    x = b.input("x", ((B,), (K,)), "f32")
    x = b.map("mul", x, x) if squared else x
    n = b.map("recip", b.size_of(K))
    out = (
        b.reduce("add", b.map("mul", x, n), [K])
        if scale_first
        else b.map("mul", b.reduce("add", x, [K]), n)
    )
    return b.build([("o", out, ((B,),))])


def ways(graph: Graph) -> tuple[Space, set[str]]:
    """The space, and the operators by which the target may be computed."""
    (region,) = regions(graph)
    space = explore(graph, region)
    assert space.closed
    safe, _ = safe_derivations(graph, space)
    return space, {d.op for d in safe[space.targets[region.targets[0]]]}


def test_a_sum_of_plain_values_is_scaled_once() -> None:
    space, found = ways(mean(scale_first=False, squared=False))
    target = space.classes[next(iter(space.targets.values()))]
    assert {d.op for d in target.derivations} >= {"mul", REDUCE + "add"}  # the space has both
    assert found == {"mul"}


def test_what_the_author_wrote_stays() -> None:
    assert ways(mean(scale_first=True, squared=False))[1] == {"mul", REDUCE + "add"}


def test_products_are_rounded_in_any_case() -> None:
    assert ways(mean(scale_first=False, squared=True))[1] == {"mul", REDUCE + "add"}


def _of_16_bits(kind: int) -> Graph:
    """A 16-bit input whose cast several regions read, as those of a mean and of what it is compared to."""
    b = Builder(f"wide {kind}")
    rows, columns = Axis("r", 13), Axis("c", 13)
    x = b.input("x0", ((rows,), (columns,)), ("bf16", "f16")[kind % 2])
    wide = b.map("cast", x, dtype="f32")
    total = b.reduce("add", wide, [rows, columns])
    mean = b.map("div", total, b.map("mul", b.size_of(rows), b.size_of(columns)))
    above = b.map("cast", b.map("gt", mean, wide), dtype="f32")
    first = b.map("mul", mean, above) if kind < 2 else b.map("mul", wide, above)
    # The sums of rows keep the two axes apart, so that the whole sum is also made in two steps.
    outs = (first, b.map("mul", mean, b.const(1.5)), b.reduce("add", wide, [columns]))
    dims = ((rows,), (columns,))
    cast = [b.map("cast", y, dtype=b.dtype(x)) for y in outs]
    return b.build([("y0", cast[0], dims), ("y1", cast[1], ()), ("y2", cast[2], ((rows,),))])


@pytest.mark.parametrize("kind", range(4))
def test_nothing_is_computed_in_16_bits(kind: int) -> None:
    """What a candidate stores between its kernels is rounded no more than what the source computes."""
    budget = driver.Budget(None, 60)
    found = driver.search(_of_16_bits(kind), COST, budget, lowerable=why_not_lowerable)
    looked = 0
    for c in found.candidates:
        graph = c.mugraph.graph
        results = {o.node for o in graph.outputs}
        for i, node in enumerate(graph.nodes):
            if isinstance(node, Map | Reduce) and DTYPES[node.dtype].bytes == 2:
                assert i in results, f"{node} in\n{c.mugraph}"
            looked += isinstance(node, Reduce)
    assert looked >= 4, f"only {looked} sums were looked at"


CENTRED = {
    "covariance": lambda x, y: ((x - x.mean(-1, True)) * (y - y.mean(-1, True))).sum(-1),
    "half a variance": lambda x, y: 0.5 * (x - x.mean(-1, True)).square().sum(-1) * y[:, 0],
    "normalized": lambda x, y: F.layer_norm(x, (512,)) * y,
}


@pytest.mark.parametrize("name", CENTRED)
def test_terms_that_cancel_are_not_summed(name: str) -> None:
    """Far from zero, every candidate is as exact as the program in single precision is."""
    fn = CENTRED[name]
    gen = torch.Generator().manual_seed(0)
    x, y = (1000.0 + 1e-3 * torch.randn(8, 512, generator=gen) for _ in "xy")
    (piece,) = search_function(fn, (x, y)).pieces
    want = fn(x.double(), y.double())
    eager = float((fn(x, y) - want).abs().max())
    graphs = {str(m.graph): m.graph for m in piece.candidates}.values()
    assert graphs
    for graph in graphs:
        (got,) = run(graph, [x, y], work=None)
        assert float((got - want).abs().max()) <= 20 * eager + 1e-3 * float(want.abs().max()), graph


def one_by_one(graph: Graph, tensors: list[torch.Tensor]) -> torch.Tensor:
    """The first output with every node computed for itself, in its own precision."""
    inputs = {n.name: split_input(n, t) for n, t in zip(graph.inputs, tensors, strict=False)}
    values = evaluate(graph, FloatAlgebra(inputs, work=None))
    out = graph.outputs[0]
    return merge_output(values[out.node], graph.nodes[out.node].axes, out.dims)


def _amax(x: torch.Tensor) -> torch.Tensor:
    return x.abs().amax(-1, True)


GUARDED = {
    "norm": lambda x, y: _amax(x) * (x / _amax(x)).square().sum(-1, True).sqrt(),
    "clamped": lambda x, y: (x / _amax(x).clamp(min=1e-35)).pow(2).sum(-1, True).sqrt() * _amax(x),
    "inverse": lambda x, y: (x * (1 / _amax(x))).square().sum(-1).sqrt(),
    "dot": lambda x, y: (x / _amax(x) * (y / _amax(y))).sum(-1),
    "normalized": lambda x, y: (
        (x / _amax(x) * torch.rsqrt((x / _amax(x)).square().mean(-1, True) + 1e-6))
        @ (y / _amax(y)).T
    ),
    "two": lambda x, y: (
        torch.maximum(x.abs(), y.abs())
        * (
            (x / torch.maximum(x.abs(), y.abs())) ** 2 + (y / torch.maximum(x.abs(), y.abs())) ** 2
        ).sqrt()
    ),
}


@pytest.mark.parametrize("scale", [1e25, 1e-30])
@pytest.mark.parametrize("name", GUARDED)
def test_guards_against_overflow_stay(name: str, scale: float) -> None:
    """Where the author divides by a maximum before squaring, no candidate squares what is undivided."""
    fn = GUARDED[name]
    gen = torch.Generator().manual_seed(0)
    x, y = (scale * torch.randn(8, 64, generator=gen) for _ in "xy")
    (piece,) = search_function(fn, (x, y)).pieces
    want = fn(x.double(), y.double())
    graphs = {str(m.graph): m.graph for m in piece.candidates}.values()
    assert graphs
    for graph in graphs:
        got = one_by_one(graph, [x, y])
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max()), graph


SCALED = {
    "fourth": (lambda x, s: ((x * s) ** 4).mean(-1), 1e12),
    "literals": (lambda x, s: ((x * 1e-20) * (x.flip(0) * 1e-20)).sum(-1) + s[:, 0], 1e20),
    "chain": (lambda x, s: ((x * 1e-18) @ (x.T * 1e-18)) @ x + s, 1e18),
    "square and cube": (
        lambda x, s: (x * s).square().mean(-1, True) + (x * s).pow(3).mean(-1, True),
        1e22,
    ),
    "skewness": (lambda x, s: F.rms_norm(x, (64,)).pow(3).mean(-1) + s[:, 0], 1e12),
    "variance": (lambda x, s: (x - x.mean(-1, True)).square().sum(-1) + s[:, 0], 1e17),
    "explained": (
        lambda x, s: s[:, 0] - x.square().sum(-1) / (x - x.mean(-1, True)).square().sum(-1),
        1e17,
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_values_are_not_multiplied_unscaled(name: str) -> None:
    fn, scale = SCALED[name]
    gen = torch.Generator().manual_seed(0)
    x = scale * torch.randn(16, 64, generator=gen)
    s = 1 / scale * torch.randn(16, 1, generator=gen)
    found = search_function(fn, (x, s)).pieces
    want = fn(x.double(), s.double())
    graphs = {str(m.graph): m.graph for m in found[0].candidates}.values()
    assert len(found) == 1 and graphs
    for graph in graphs:
        got = one_by_one(graph, [x, s])
        assert float((got - want).abs().max()) <= 1e-4 * float(want.abs().max()), graph
