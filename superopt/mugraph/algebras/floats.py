"""The float algebra: values are torch tensors; this is the reference meaning of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from superopt.errors import ShapeMismatch
from superopt.mugraph.axes import extent
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.evaluate import Axes, evaluate, index_values, shape_of, spread_shape
from superopt.mugraph.graph import (
    Const,
    Dims,
    Gather,
    Graph,
    Input,
    Iota,
    Map,
    Reduce,
    SizeOf,
    View,
)
from superopt.mugraph.scalars import SCALARS, Scalar, inline

_REDUCE = {
    "add": lambda x, d: x.sum(d),
    "mul": lambda x, d: _fold(torch.Tensor.prod, x, d),
    "max": lambda x, d: x.amax(d),
    "min": lambda x, d: x.amin(d),
    "and": lambda x, d: _fold(torch.Tensor.all, x, d),
    "or": lambda x, d: _fold(torch.Tensor.any, x, d),
}


def _fold(fn: Any, x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    for d in sorted(dims, reverse=True):
        x = fn(x, d)
    return x


def scalar(row: Scalar, args: Sequence[Any]) -> torch.Tensor:
    """A scalar row applied to tensors that broadcast (or numbers)."""
    if row.fn is not None:
        ref = next((a for a in args if isinstance(a, torch.Tensor) and a.dim()), args[0])
        given = [
            a if isinstance(a, torch.Tensor) else torch.tensor(a, dtype=ref.dtype) for a in args
        ]
        return row.fn(*given)
    like = args[0]
    return torch.as_tensor(
        inline(
            row.body,
            args,
            lambda op, xs: scalar(SCALARS[op], xs),
            lambda v: torch.tensor(v, dtype=like.dtype),
        )
    )


class FloatAlgebra:
    """Evaluates in torch. Float nodes are computed in ``work`` (float64: the exact reference).

    inputs: by name, already split into named axes (``split_input``); sizes: symbol name -> int.
    With ``work=None`` every node is computed in its own dtype (16-bit ones in float32).
    """

    def __init__(
        self,
        inputs: Mapping[str, torch.Tensor],
        sizes: Mapping[str, int] | None = None,
        work: torch.dtype | None = torch.float64,
    ) -> None:
        self.inputs, self.sizes, self.work = inputs, sizes, work

    def _float(self, dtype: str) -> torch.dtype:
        if not is_float(dtype):
            return DTYPES[dtype].torch
        if self.work is not None:
            return self.work
        return torch.float32 if DTYPES[dtype].bytes == 2 else DTYPES[dtype].torch

    def input(self, node: Input) -> torch.Tensor:
        return self.inputs[node.name].to(self._float(node.dtype))

    def const(self, node: Const) -> torch.Tensor:
        return torch.tensor(node.value, dtype=self._float(node.dtype))

    def size_of(self, node: SizeOf) -> torch.Tensor:
        return torch.tensor(extent(node.axis.size, self.sizes), dtype=self._float(node.dtype))

    def iota(self, node: Iota) -> torch.Tensor:
        return torch.arange(extent(node.axes[0].size, self.sizes), dtype=torch.int64)

    def map(
        self, row: Scalar, node: Map, args: list[torch.Tensor], axes: list[Axes]
    ) -> torch.Tensor:
        if row.name == "cast":
            return self._cast(args[0], node.dtype)
        if row.name == "round":
            return args[0].to(DTYPES[node.dtype].torch).to(self._float(node.dtype))
        full = [_spread(x, a, node.axes) for x, a in zip(args, axes, strict=True)]
        return scalar(row, full)

    def _cast(self, x: torch.Tensor, dtype: str) -> torch.Tensor:
        return x.to(self._float(dtype))

    def reduce(self, row: Scalar, node: Reduce, value: torch.Tensor, axes: Axes) -> torch.Tensor:
        dims = [axes.index(a) for a in node.over]
        if any(value.shape[d] == 0 for d in dims):
            return torch.full(
                [n for d, n in enumerate(value.shape) if d not in dims],
                _identity(row, value.dtype),
                dtype=value.dtype,
            )
        # torch widens a sum of small integers; the graph's sum keeps its dtype.
        return _REDUCE[row.name](value, dims).to(value.dtype)

    def view(self, node: View, value: torch.Tensor, axes: Axes) -> torch.Tensor:
        shape = shape_of(node.axes, self.sizes)
        index = dict(node.index)
        at = tuple(torch.from_numpy(index_values(index[a], node.axes, shape)) for a in axes)
        return value[at].expand(shape) if at else value.expand(shape)

    def gather(
        self, node: Gather, value: torch.Tensor, axes: Axes, at: torch.Tensor, at_axes: Axes
    ) -> torch.Tensor:
        shape = shape_of(node.axes, self.sizes)
        picks = []
        for a in axes:
            if a == node.along:
                picks.append(_spread(at, at_axes, node.axes).long())
            else:
                where = node.axes.index(a)
                line = torch.arange(shape[where])
                picks.append(line.reshape([-1 if i == where else 1 for i in range(len(shape))]))
        return value[tuple(picks)].expand(shape)


class Contracting(FloatAlgebra):
    """Leaves outer products unevaluated until a sum over them, which is then one contraction.

    The elements of a contraction's product (as many as rows x columns x summands) would not fit
    into memory at the sizes that users have.
    """

    def map(self, row: Scalar, node: Map, args: list[Any], axes: list[Axes]) -> Any:
        if row.name == "mul" and is_float(node.dtype):
            factors = [f for x, a in zip(args, axes, strict=True) for f in _factors(x, a)]
            elements = math.prod(shape_of(node.axes, self.sizes))
            if elements > 4 * max(x.numel() for x, _ in factors):
                return Product(factors)
        return super().map(
            row, node, [self.whole(*xa) for xa in zip(args, axes, strict=True)], axes
        )

    def reduce(
        self, row: Scalar, node: Reduce, value: torch.Tensor | Product, axes: Axes
    ) -> torch.Tensor:
        if row.name == "add" and isinstance(value, Product):
            return value.sum(node.axes)
        return super().reduce(row, node, self.whole(value, axes), axes)

    def view(self, node: View, value: torch.Tensor | Product, axes: Axes) -> torch.Tensor:
        return super().view(node, self.whole(value, axes), axes)

    def gather(
        self,
        node: Gather,
        value: torch.Tensor | Product,
        axes: Axes,
        at: torch.Tensor,
        at_axes: Axes,
    ) -> torch.Tensor:
        return super().gather(node, self.whole(value, axes), axes, at, at_axes)

    @staticmethod
    def whole(value: torch.Tensor | Product, axes: Axes) -> torch.Tensor:
        """The elements of a value on these axes."""
        return value.sum(axes) if isinstance(value, Product) else value


@dataclass(frozen=True)
class Product:
    """A product of values, each with its axes."""

    factors: list[tuple[torch.Tensor, Axes]]

    def sum(self, keep: Axes) -> torch.Tensor:
        """The sum of the products over all axes but ``keep``."""
        names = {
            a: k for k, a in enumerate(dict.fromkeys(a for _, axes in self.factors for a in axes))
        }
        operands: list[Any] = []
        for x, axes in self.factors:
            operands += [x, [names[a] for a in axes]]
        return torch.einsum(*operands, [names[a] for a in keep])


def _factors(x: Any, axes: Axes) -> list[tuple[torch.Tensor, Axes]]:
    return x.factors if isinstance(x, Product) else [(x, axes)]


def _identity(row: Scalar, dtype: torch.dtype) -> Any:
    """The neutral element in a dtype: integers have no infinities, their bounds stand for them."""
    if isinstance(row.identity, float) and math.isinf(row.identity) and not dtype.is_floating_point:
        bounds = torch.iinfo(dtype)
        return bounds.max if row.identity > 0 else bounds.min
    return row.identity


def _spread(x: torch.Tensor, axes: Axes, to: Axes) -> torch.Tensor:
    order, shape = spread_shape(axes, to, tuple(x.shape))
    return x.permute(order).reshape(shape)


def split_input(
    node: Input, tensor: torch.Tensor, sizes: Mapping[str, int] | None = None
) -> torch.Tensor:
    """The caller's tensor with its dims split into the input's named axes, in ``node.axes`` order."""
    flat = [a for dim in node.dims for a in dim]
    want = tuple(_prod(extent(a.size, sizes) for a in dim) for dim in node.dims)
    if tuple(tensor.shape) != want:
        raise ShapeMismatch(
            what=f"input {node.name!r} has shape {tuple(tensor.shape)}",
            where=f"expected {want}",
            fix="pass tensors of the compiled shapes",
        )
    split = tensor.reshape([extent(a.size, sizes) for a in flat])
    return split.permute([flat.index(a) for a in node.axes])


def merge_output(
    value: torch.Tensor, axes: Axes, dims: Dims, sizes: Mapping[str, int] | None = None
) -> torch.Tensor:
    """A value on ``axes`` as a torch tensor with the dims of an output (missing axes broadcast)."""
    flat = tuple(a for dim in dims for a in dim)
    full = _spread(value, axes, flat).expand([extent(a.size, sizes) for a in flat])
    return full.reshape([_prod(extent(a.size, sizes) for a in dim) for dim in dims])


def run(
    graph: Graph,
    tensors: Sequence[torch.Tensor],
    sizes: Mapping[str, int] | None = None,
    work: torch.dtype | None = torch.float64,
    algebra: type[Contracting] = Contracting,
) -> list[torch.Tensor]:
    """Runs a graph on tensors (in the order of ``graph.inputs``); outputs in ``work`` or own dtype."""
    inputs = {n.name: split_input(n, t, sizes) for n, t in zip(graph.inputs, tensors, strict=True)}
    env = evaluate(graph, algebra(inputs, sizes, work))
    out = []
    for o in graph.outputs:
        axes = graph.nodes[o.node].axes
        out.append(merge_output(Contracting.whole(env[o.node], axes), axes, o.dims, sizes))
    return out


def _prod(values: Any) -> int:
    out = 1
    for v in values:
        out *= v
    return out
