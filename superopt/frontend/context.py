"""What an operator's conversion works with: the builder, axis arrangement, dtype rules.

Precision. Every float tensor of the PyTorch program has a dtype there, and a node here whose dtype
is the compute dtype: float32 for the 16-bit types, else the same. Inputs are cast once, when first
read; outputs are cast to their own dtype at the very end.

* ``precision="default"``: a cast to float32 is no operation, nor is one back to a 16-bit type that
  the value's own inputs had, so a 16-bit program runs in float32 from inputs to outputs. A cast to
  a 16-bit type that none of them had rounds: it was written to lose precision or range. So does
  one to an integer type, since it would else pick another integer. Casts to and from float64,
  integers and bool are kept.
* ``precision="eager"``: wherever PyTorch stores a 16-bit result, the value is rounded there
  (``round``, then back to float32 to go on). Products, attention, softmax, norms, losses and
  formulas of several scalar operations compute in float32 and round once, at their end.

A Python number takes the compute dtype of the operator it enters; in a comparison it is first
rounded to the dtype that PyTorch compares in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from superopt.frontend.tensors import NotSupported, Tensor, Tensors, compute_name, floating
from superopt.mugraph.axes import Axis, Size, Sym
from superopt.mugraph.dtypes import from_torch
from superopt.mugraph.graph import Builder, Dims, Input, Map
from superopt.mugraph.scalars import Term, inline

Number = int | float | bool


def _holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Whether a type has all values of another one; of integers and single precision, nearly all."""
    small = floating(other) or other in (torch.bool, torch.int8, torch.uint8)
    holds = torch.promote_types(dtype, other) == dtype
    return holds and (small or compute_name(dtype) == from_torch(dtype).name)


@dataclass
class Context:
    """Converts operators into one builder; ``eager`` keeps PyTorch's rounding points.

    name, result_shape: of the operator that is being converted (a list of shapes if it gives
    several tensors); read: which of several results are read; symbols: size symbols by their name
    in the exported program.
    """

    b: Builder
    t: Tensors
    eager: bool
    name: str = ""
    result_shape: Any = ()
    read: frozenset[int] = frozenset()
    symbols: dict[str, Sym] = field(default_factory=dict)
    _stored: list[frozenset[str]] = field(default_factory=list)

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

    def fresh(self, n: Any) -> tuple[Axis, ...]:
        """A dimension of torch size ``n``: one fresh axis, none for size 1."""
        return self.t.axis(self.axis_size(n))

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
        if isinstance(x, torch.SymInt):
            size = self.axis_size(x)
            axis = next((a for n in self.b.nodes for a in n.axes if a.size == size), None)
            node = self.b.size_of(axis or self.b.fresh_axis(size), compute_name(dtype))
            return Tensor(node, (), dtype)
        raise NotSupported(f"an argument of type {type(x).__name__}")

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The tensor in another dtype; see the precision rules above."""
        if x.dtype == dtype:
            return x
        if floating(x.dtype) and not floating(dtype) and dtype != torch.bool:
            x = self.settled(x)
        have, want = self.b.dtype(x.node), compute_name(dtype)
        # From double to single precision is a rounding that programs rely on (x - x.float()).
        row = "round" if (have, want) == ("f64", "f32") else "cast"
        node = x.node if have == want else self.b.map(row, x.node, dtype=want)
        widened = (x.exact or not floating(x.dtype)) and _holds(dtype, x.dtype)
        out = replace(x, node=node, dtype=dtype, exact=widened)
        if not widened and from_torch(dtype).name not in self._held(x.node):
            return self.settled(out)
        return out if widened else self.rounded(out)

    def _held(self, node: int) -> frozenset[str]:
        """The dtypes that a value's inputs were stored in, or that were rounded to on its way."""
        for i in range(len(self._stored), node + 1):
            n = self.b.nodes[i]
            own = (
                {n.dtype}
                if isinstance(n, Input) or (isinstance(n, Map) and n.op == "round")
                else ()
            )
            self._stored.append(frozenset(own).union(*(self._stored[a] for a in n.args)))
        return self._stored[node]

    def settled(self, x: Tensor) -> Tensor:
        """The tensor with exactly the values that its 16-bit dtype can hold."""
        name = from_torch(x.dtype).name
        if x.exact or not floating(x.dtype) or compute_name(x.dtype) == name:
            return x
        node = self.b.map("round", x.node, dtype=name)
        return replace(x, node=self.b.map("cast", node, dtype=compute_name(x.dtype)), exact=True)

    def rounded(self, x: Tensor) -> Tensor:
        """Marks the rounding that eager PyTorch makes when it stores this value."""
        return self.settled(replace(x, exact=False)) if self.eager else replace(x, exact=False)

    def elementwise(
        self, op: str, args: Sequence[Any], out: torch.dtype, work: torch.dtype
    ) -> Tensor:
        """A scalar row over broadcast arguments, all converted to ``work`` first."""
        return self.rounded(self.apply(op, args, out, work))

    def apply(self, op: str, args: Sequence[Any], out: torch.dtype, work: torch.dtype) -> Tensor:
        """``elementwise`` without the rounding at its end: a step inside an operator."""
        ts, dims = self.t.broadcast([self.value(a, work) for a in args])
        node = self.b.map(op, *(t.node for t in ts))
        return Tensor(node, dims, out if self.b.dtype(node) != "bool" else torch.bool)

    def formula(self, term: Term, args: Sequence[Any], out: torch.dtype) -> Tensor:
        """A term over the scalar table applied to broadcast arguments, rounded once."""
        return self.rounded(self.unrounded(term, args, out))

    def unrounded(self, term: Term, args: Sequence[Any], out: torch.dtype) -> Tensor:
        """``formula`` without the rounding at its end: a step inside an operator."""
        ts, dims = self.t.broadcast([self.value(a, out) for a in args])
        dtype = compute_name(out)

        def apply(op: str, nodes: list[int]) -> int:
            return self.b.map(op, *nodes, dtype=dtype if op == "where" else None)

        node = inline(term, [t.node for t in ts], apply, lambda v: self.b.const(v, dtype))
        return Tensor(node, dims, out if self.b.dtype(node) != "bool" else torch.bool)

    def where(self, cond: Tensor, a: Any, b: Any, out: torch.dtype) -> Tensor:
        """``cond ? a : b`` with broadcasting."""
        a, b = self.value(a, out), self.value(b, out)
        ts, dims = self.t.broadcast([self.cast(cond, torch.bool), a, b])
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
