"""Truth values in their simplest spelling have the same values, and masks come together."""

import torch
from hypothesis import HealthCheck, given, settings

from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import Axis
from superopt.mugraph.flags import plain_flags
from superopt.mugraph.graph import Builder
from tests.strategies import graphs
from tests.verify.terms import float_values

COUNT = {"graphs": 0, "changed": 0}
N = Axis("n", 5)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(graphs(max_steps=14, dtypes=("f32",)))
def _random_graphs(graph):
    if any(not isinstance(x.size, int) for x in graph.axes):
        return
    new = plain_flags(graph)
    COUNT["graphs"] += 1
    COUNT["changed"] += len(new.nodes) != len(graph.pruned().nodes)
    for x, y in zip(float_values(graph, 1), float_values(new, 1), strict=True):
        assert torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0))


def test_random_graphs_keep_their_values():
    COUNT.update(graphs=0, changed=0)
    _random_graphs()
    assert COUNT["graphs"] >= 100, COUNT


def test_a_mask_through_numbers_is_the_comparison():
    tried = 0
    for low, high in ((0.0, 1.0), (1.0, 0.0), (-2.0, 3.0), (1.0, 1.0)):
        for how in ("cast", "ne", "eq", "lt", "not"):
            for turned in (False, True):
                b = Builder("mask")
                i, j = b.iota(N), b.iota(Axis("m", 5))
                x = b.input("x", ((N,), (Axis("m", 5),)), "f32")
                flag = b.map("where", b.map("le", j, i), b.const(high), b.const(low), dtype="f32")
                zero = b.const(0.0)
                mask = b.map("cast", flag, dtype="bool") if how in ("cast", "not") else None
                if mask is None:
                    mask = b.map(how, *((zero, flag) if turned else (flag, zero)))
                mask = b.map("not", mask) if how == "not" else mask
                out = b.map("where", mask, x, zero, dtype="f32")
                graph = b.build([("o", out, ((N,), (Axis("m", 5),)))])
                new = plain_flags(graph)
                given_ = torch.randn(5, 5, dtype=torch.float64)
                (mine,), (other,) = (floats.run(g, [given_]) for g in (graph, new))
                assert torch.equal(mine, other)
                assert sum(getattr(n, "op", "") == "where" for n in new.nodes) <= 1
                tried += 1
    assert tried == 40
