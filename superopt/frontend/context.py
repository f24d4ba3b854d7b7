"""What an operator's conversion works with: the builder, axis arrangement, dtype rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from superopt.frontend.tensors import NotSupported, Tensor, Tensors, compute_name, floating
from superopt.mugraph.axes import Axis, Size, Sym
from superopt.mugraph.dtypes import from_torch
from superopt.mugraph.graph import Builder, Dims

Number = int | float | bool


@dataclass
class Context:
    """Converts operators into one builder; ``eager`` keeps PyTorch's rounding points."""

    b: Builder
    t: Tensors
    eager: bool
    name: str = ""
    result_shape: Any = ()
    symbols: dict[str, Sym] = field(default_factory=dict)

    def axis_size(self, n: Any) -> Size:
        """A torch size (an int, or a symbolic one) as the size of an axis."""
        if isinstance(n, int):
            return n
        name = str(n)
        if name not in self.symbols:
            raise NotSupported(f"the derived size {name}")
        return self.symbols[name]

    def shape_of(self, x: Tensor) -> list[Any]:
        """Sizes per dim; a symbolic one as the text of its symbol."""
        return [
            next((str(a.size.name) for a in d if isinstance(a.size, Sym)), None) or self.t.size(d)
            for d in x.dims
        ]

    def value(self, x: Any, dtype: torch.dtype) -> Tensor:
        """A tensor or a Python number as a tensor of (logical) dtype ``dtype``."""
        if isinstance(x, Tensor):
            return self.cast(x, dtype)
        if isinstance(x, Number):
            if isinstance(x, float) and x != x:
                raise NotSupported("a NaN literal")
            if isinstance(x, float) and not floating(dtype):
                raise NotSupported("a float literal among integers")
            return Tensor(self.b.const(x, compute_name(dtype)), (), dtype)
        raise NotSupported(f"an argument of type {type(x).__name__}")

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The tensor in another dtype; between 16-bit and f32 only kept roundings leave a trace."""
        if x.dtype == dtype:
            return x
        have, want = self.b.dtype(x.node), compute_name(dtype)
        node = x.node if have == want else self.b.map("cast", x.node, dtype=want)
        return self.rounded(replace(x, node=node, dtype=dtype))

    def rounded(self, x: Tensor) -> Tensor:
        """Marks the rounding that eager PyTorch makes when it stores this value."""
        if (
            not self.eager
            or not floating(x.dtype)
            or compute_name(x.dtype) == from_torch(x.dtype).name
        ):
            return x
        node = self.b.map("round", x.node, dtype=from_torch(x.dtype).name)
        return replace(x, node=self.b.map("cast", node, dtype=compute_name(x.dtype)))

    def elementwise(
        self, op: str, args: Sequence[Any], out: torch.dtype, work: torch.dtype
    ) -> Tensor:
        """A scalar row over broadcast arguments, all converted to ``work`` first."""
        ts, dims = self.t.broadcast([self.value(a, work) for a in args])
        node = self.b.map(op, *(t.node for t in ts))
        result = Tensor(node, dims, out if self.b.dtype(node) != "bool" else torch.bool)
        return self.rounded(result)

    def where(self, cond: Tensor, a: Any, b: Any, out: torch.dtype) -> Tensor:
        """``cond ? a : b`` with broadcasting."""
        ts, dims = self.t.broadcast([cond, self.value(a, out), self.value(b, out)])
        node = self.b.map("where", *(t.node for t in ts), dtype=compute_name(out))
        return Tensor(node, dims, out)

    def axes(self, x: Tensor, dims: Sequence[int]) -> list[Axis]:
        """All axes of some torch dims."""
        return [a for d in dims for a in x.dims[d]]

    def dims(self, x: Tensor, dim: Any) -> list[int]:
        """Normalized dim arguments; all dims for None or an empty list."""
        rank = len(x.dims)
        if dim is None or (isinstance(dim, list | tuple) and not dim):
            return list(range(rank))
        return sorted(d % rank for d in ([dim] if isinstance(dim, int) else dim)) if rank else []

    def reduced(
        self, x: Tensor, node: int, dims: Sequence[int], keep: bool, dtype: torch.dtype
    ) -> Tensor:
        """The result of a reduction over some dims."""
        kept: Dims = tuple(
            () if d in dims else axes for d, axes in enumerate(x.dims) if keep or d not in dims
        )
        return self.rounded(Tensor(node, kept, dtype))
