"""Runs partitioned programs by the float algebra, and compares them with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt.frontend.capture import capture
from superopt.frontend.partition import Program, Supported, partition
from superopt.mugraph.algebras.floats import run
from superopt.mugraph.axes import Sym
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.wellformed import check_graph

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}
"""Allowed error relative to the largest element, by the dtype of the program's tensors."""


def floats(work: torch.dtype | None) -> Callable[..., list[torch.Tensor]]:
    """A runner of supported pieces that evaluates their graphs in torch."""

    def call(piece: Supported, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        check_graph(piece.graph)
        sizes: dict[str, int] = {}
        for node, tensor in zip(piece.graph.inputs, tensors, strict=True):
            assert DTYPES[node.dtype].torch == tensor.dtype
            concrete = [s.value({**sizes, **_symbols(node, tensor)}) for s in node.strides]
            sizes.update(_symbols(node, tensor))
            for want, have, n in zip(concrete, tensor.stride(), tensor.shape, strict=True):
                assert n == 1 or want == have, f"{node.name}: {concrete} is not {tensor.stride()}"
        values = run(piece.graph, tensors, sizes, work)
        dtypes = [DTYPES[piece.graph.nodes[o.node].dtype].torch for o in piece.graph.outputs]
        assert dtypes == [n.meta["val"].dtype for n in piece.outputs]
        return [v.to(d) for v, d in zip(values, dtypes, strict=True)]

    return call


def _symbols(node: Any, tensor: torch.Tensor) -> dict[str, int]:
    return {
        dim[0].size.name: n
        for dim, n in zip(node.dims, tensor.shape, strict=True)
        if len(dim) == 1 and isinstance(dim[0].size, Sym)
    }


def program(fn: Any, *args: Any, precision: str = "default", **kwargs: Any) -> Program:
    """The partitioned program of a function on example arguments."""
    with torch.no_grad():
        return partition(capture(fn, args, kwargs), precision)


def close(got: Any, want: Any, tolerance: float) -> None:
    """Asserts that two results have one structure, and tensors equal up to the tolerance."""
    a, spec_a = pytree.tree_flatten(got)
    b, spec_b = pytree.tree_flatten(want)
    assert spec_a == spec_b
    for x, y in zip(a, b, strict=True):
        if not isinstance(y, torch.Tensor):
            assert x == y
            continue
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        if not y.dtype.is_floating_point:
            assert torch.equal(x, y)
            continue
        x, y = x.double(), y.double()
        assert torch.equal(torch.isnan(x), torch.isnan(y))
        finite = torch.isfinite(y)
        assert torch.equal(x[~finite & ~torch.isnan(y)], y[~finite & ~torch.isnan(y)])
        scale = y[finite].abs().max().clamp(min=1.0) if finite.any() else torch.tensor(1.0)
        error = (x[finite] - y[finite]).abs().max() / scale if finite.any() else torch.tensor(0.0)
        assert error <= tolerance, f"error {float(error):.3g} above {tolerance:.3g}"


def check(
    fn: Any,
    *args: Any,
    boundaries: tuple[str, ...] = (),
    precision: str = "default",
    tolerance: float | None = None,
    **kwargs: Any,
) -> Program:
    """Captures, cuts, and compares: which operators stay in PyTorch, and every result.

    In float64 the graph is compared with the original on the same numbers; then in its own dtype.
    """
    made = program(fn, *args, precision=precision, **kwargs)
    assert tuple(b.op for b in made.boundaries) == boundaries, made.boundaries
    leaves = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
    kinds = [a.dtype for a in leaves if a.dtype.is_floating_point]
    with torch.no_grad():
        want = fn(*args, **kwargs)
        kinds += [o.dtype for o in pytree.tree_leaves(want) if isinstance(o, torch.Tensor)]
        limit = max(TOLERANCE.get(k, 0.0) for k in (*kinds, torch.float64))
        close(made.run(args, kwargs, floats(None)), want, tolerance or limit)
        close(made.run(args, kwargs, floats(torch.float64)), want, tolerance or limit)
        close(made.run(args, kwargs, lambda p, xs: p.eager(*xs)), want, tolerance or limit)
    return made
