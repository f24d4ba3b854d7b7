"""Every row of the tensor-operator table against PyTorch, and in both field evaluators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.ops import TENSOR_OPS
from superopt.verify.equal import check_equal
from tests.programs import tensors

B, K, N, T = Axis("b", 3), Axis("k", 5), Axis("n", 7), Axis("t", 4)
BK, B_ = (B, K), (B,)

ROWS: dict[str, tuple[list[tuple[Axis, ...]], tuple[Axis, ...], Callable, Callable]] = {
    "contract": (
        [BK, (K, N)],
        (B, N),
        lambda f, b, x, w: f(b, x, w, [K]),
        lambda x, w: x @ w,
    ),
    "sum": ([BK], B_, lambda f, b, x: f(b, x, [K]), lambda x: x.sum(1)),
    "mean": ([BK], B_, lambda f, b, x: f(b, x, [K]), lambda x: x.mean(1)),
    "var": ([BK], B_, lambda f, b, x: f(b, x, [K]), lambda x: x.var(1)),
    "extreme": ([BK], B_, lambda f, b, x: f(b, x, [K]), lambda x: x.amax(1)),
    "softmax": ([BK], BK, lambda f, b, x: f(b, x, [K]), lambda x: x.softmax(1)),
    "logsumexp": ([BK], B_, lambda f, b, x: f(b, x, [K]), lambda x: x.logsumexp(1)),
    "log_softmax": ([BK], BK, lambda f, b, x: f(b, x, [K]), lambda x: x.log_softmax(1)),
    "rms_norm": (
        [BK, (K,)],
        BK,
        lambda f, b, x, g: f(b, x, [K], 1e-6, g),
        lambda x, g: F.rms_norm(x, (5,), g, 1e-6),
    ),
    "layer_norm": (
        [BK, (K,), (K,)],
        BK,
        lambda f, b, x, g, c: f(b, x, [K], 1e-5, g, c),
        lambda x, g, c: F.layer_norm(x, (5,), g, c),
    ),
    "attention": (
        [(B, K), (T, K), (T, N)],
        (B, N),
        lambda f, b, q, k, v: f(b, q, k, v, K, T, None),
        lambda q, k, v: F.scaled_dot_product_attention(q[None], k[None], v[None])[0],
    ),
}


def graph_of(name: str) -> Graph:
    """One operator applied to inputs called x0, x1, ..."""
    shapes, out, apply, _ = ROWS[name]
    b = Builder(name)
    inputs = [b.input(f"x{n}", tuple((a,) for a in s), "f64") for n, s in enumerate(shapes)]
    return b.build([("o", apply(TENSOR_OPS[name].build, b, *inputs), tuple((a,) for a in out))])


def test_every_row_has_a_reference() -> None:
    assert set(ROWS) == set(TENSOR_OPS)
    for row in TENSOR_OPS.values():
        assert row.signature.startswith("o["), row


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_pytorch_computes(name: str) -> None:
    graph = graph_of(name)
    given = tensors(graph)
    (got,) = floats.run(graph, given)
    torch.testing.assert_close(got, ROWS[name][3](*(t.double() for t in given)))


@pytest.mark.parametrize("name", ROWS)
def test_a_row_means_the_same_to_both_field_evaluators(name: str) -> None:
    graph = graph_of(name)
    found = [check_equal(graph, graph, seed=5, using=u) for u in ("python", "core")]
    assert all(found), [f.reason for f in found]
    assert found[0].clean == found[1].clean > 0
