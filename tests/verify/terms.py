"""Programs written as arithmetic, for tests: ``program(lambda p: p.x * p.y)``."""

from __future__ import annotations

from collections.abc import Callable

import torch

from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph

B, K, N, T = Axis("b", 4), Axis("k", 6), Axis("n", 5), Axis("t", 9)
INPUTS = {
    "x": (B, K),
    "y": (B, K),
    "z": (B, K),
    "w": (K, N),
    "v": (K, N),
    "g": (K,),
    "h": (B,),
    "s": (B, T),
    "m": (T, K),
    "c": (),
    "d": (),
}


class V:
    """A value of a program in the making."""

    def __init__(self, p: P, i: int) -> None:
        self.p, self.i = p, i

    def __add__(self, o: V | float) -> V:
        return self.p.map("add", self, o)

    def __sub__(self, o: V | float) -> V:
        return self.p.map("sub", self, o)

    def __mul__(self, o: V | float) -> V:
        return self.p.map("mul", self, o)

    def __truediv__(self, o: V | float) -> V:
        return self.p.map("div", self, o)

    def __rsub__(self, o: float) -> V:
        return self.p.map("sub", self.p.const(o), self)

    def __rtruediv__(self, o: float) -> V:
        return self.p.map("div", self.p.const(o), self)

    def __neg__(self) -> V:
        return self.p.map("neg", self)

    __radd__, __rmul__ = __add__, __mul__

    def sum(self, *over: Axis) -> V:
        return self.reduce("add", *over)

    def reduce(self, op: str, *over: Axis) -> V:
        return V(self.p, self.p.b.reduce(op, self.i, over))

    def __getattr__(self, op: str) -> Callable[..., V]:
        """``value.exp()``, ``value.max(other)``: any row of the scalar table."""
        return lambda *more, **kw: self.p.map(op, self, *more, **kw)


class P:
    """A program: attributes are its inputs (see INPUTS), made at first use."""

    def __init__(self) -> None:
        self.b = Builder("terms")

    def __getattr__(self, name: str) -> V:
        if name not in INPUTS:
            raise AttributeError(name)
        return V(self, self.b.input(name, tuple((a,) for a in INPUTS[name]), "f32"))

    def const(self, value: float | int | bool, dtype: str = "f32") -> V:
        return V(self, self.b.const(value, dtype))

    def size(self, axis: Axis) -> V:
        return V(self, self.b.size_of(axis))

    def iota(self, axis: Axis) -> V:
        return V(self, self.b.iota(axis))

    def input(self, name: str, *axes: Axis, dtype: str) -> V:
        return V(self, self.b.input(name, tuple((a,) for a in axes), dtype))

    def map(self, op: str, *args: V | float, dtype: str | None = None) -> V:
        ids = [a.i if isinstance(a, V) else self.const(a).i for a in args]
        return V(self, self.b.map(op, *ids, dtype=dtype))


Program = Callable[[P], "V | tuple[V, ...]"]


def program(make: Program) -> Graph:
    """The graph of a program; every input is declared first, so that two programs share them."""
    p = P()
    for name in INPUTS:
        getattr(p, name)
    values = make(p)
    values = values if isinstance(values, tuple) else (values,)
    return p.b.build(
        [(f"o{k}", v.i, tuple((a,) for a in p.b.axes(v.i))) for k, v in enumerate(values)]
    )


def float_values(graph: Graph, seed: int, positive: bool = False) -> list[torch.Tensor]:
    """The outputs in float64 on random inputs (integers in 0..3), the same for one seed."""
    gen = torch.Generator().manual_seed(seed)
    tensors = []
    for node in graph.inputs:
        shape = []
        for dim in node.dims:
            size = 1
            for a in dim:
                size *= a.size if isinstance(a.size, int) else 3
            shape.append(size)
        x = torch.randn(shape, generator=gen, dtype=torch.float64)
        x = x.abs() + 0.1 if positive else x
        if node.dtype in ("i64", "i32"):
            x = torch.randint(0, 4, shape, generator=gen)
        elif node.dtype == "bool":
            x = x > 0
        tensors.append(x)
    return floats.run(graph, tensors)
