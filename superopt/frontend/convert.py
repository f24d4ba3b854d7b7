"""Converts a run of exported operators into one graph over named axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from superopt.errors import SuperoptError
from superopt.frontend import rows_contract, rows_layout
from superopt.frontend.context import Context
from superopt.frontend.rows_math import ROWS
from superopt.frontend.tensors import NotSupported, Tensor, Tensors, compute_name, floating
from superopt.mugraph.axes import Stride, Sym
from superopt.mugraph.dtypes import from_torch
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.rewrite import absorb_renames

TABLES = (rows_layout, rows_contract)
"""The modules that fill ROWS beside ``rows_math``; importing them is what registers their rows."""


@dataclass(frozen=True)
class Piece:
    """A converted run: its graph, the FX values it reads (in input order) and gives (in output order)."""

    graph: Graph
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def op_name(node: fx.Node) -> str:
    """The name of an operator without namespace and overload: ``aten.add.Tensor`` is ``add``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1].rstrip("_") or str(target)
    return getattr(target, "__name__", str(target))


def converts(node: fx.Node) -> str | None:
    """Why an operator cannot be converted by looking at it alone, or None when it may."""
    if node.op != "call_function":
        return f"{node.op} nodes have no meaning in a graph"
    name = op_name(node)
    if name == "getitem":
        return None
    if name not in ROWS:
        return f"{name} is outside the supported set"
    for value in _values(node):
        if not isinstance(value, torch.Tensor):
            return f"{name} gives a {type(value).__name__}"
        if value.dtype not in _KNOWN:
            return f"{name} gives elements of {value.dtype}"
        if any(isinstance(n, int) and n == 0 for n in value.shape):
            return f"{name} gives an empty tensor"
        if value.device.type != "cpu":
            return f"{name} runs on {value.device}"
    return None


_KNOWN = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
}


def _values(node: fx.Node) -> list[Any]:
    value = node.meta.get("val")
    return list(value) if isinstance(value, list | tuple) else [value]


class Converter:
    """Converts FX nodes one by one; ``add`` raises NotSupported and leaves no trace but dead nodes."""

    def __init__(self, name: str, eager: bool, symbols: Mapping[str, Sym]) -> None:
        self.b = Builder(name)
        self.cx = Context(self.b, Tensors(self.b), eager, symbols=dict(symbols))
        self.env: dict[fx.Node, Any] = {}
        self.inputs: list[fx.Node] = []

    def add(self, node: fx.Node) -> None:
        """Converts one operator, reading values outside the run as new inputs."""
        name = op_name(node)
        if name == "getitem":
            source, at = node.args
            self.env[node] = self._read(source)[at]
            return
        value = node.meta["val"]
        self.cx.name = name
        self.cx.result_shape = (
            [list(v.shape) for v in value] if isinstance(value, list | tuple) else list(value.shape)
        )
        first = value[0] if isinstance(value, list | tuple) else value
        args = fx.map_arg(tuple(node.args), self._read)
        kwargs = {
            k: v for k, v in fx.map_arg(dict(node.kwargs), self._read).items() if k not in _IGNORED
        }
        try:
            result = ROWS[name](self.cx, first.dtype, *args, **kwargs)
        except NotSupported:
            raise
        except (SuperoptError, TypeError, ValueError, IndexError, KeyError, AttributeError) as e:
            raise NotSupported(f"this use of {name} ({e})") from e
        self._check(name, result, value)
        self.env[node] = result

    def _check(self, name: str, result: Any, value: Any) -> None:
        """The converted tensor must have the shape that PyTorch says; anything else is a bug of a row."""
        pairs = zip(result, value, strict=True) if isinstance(result, list) else [(result, value)]
        for t, v in pairs:
            want = [n if isinstance(n, int) else str(n) for n in v.shape]
            want = [str(self.cx.symbols[n].name) if n in self.cx.symbols else n for n in want]
            if self.cx.shape_of(t) != want:
                raise NotSupported(f"this use of {name} (shape {self.cx.shape_of(t)}, not {want})")

    def _read(self, node: fx.Node) -> Any:
        if node not in self.env:
            self.env[node] = self._input(node)
        return self.env[node]

    def _input(self, node: fx.Node) -> Any:
        value = node.meta["val"]
        if isinstance(value, torch.SymInt | int | float | bool):
            return value
        if not isinstance(value, torch.Tensor):
            raise NotSupported(
                f"an argument that is a {type(value).__name__} known only at run time"
            )
        if value.dtype not in _KNOWN or any(isinstance(n, int) and n == 0 for n in value.shape):
            raise NotSupported("an empty tensor or one of an unsupported dtype")
        dims = tuple(self.cx.t.axis(self.cx.axis_size(n)) for n in value.shape)
        symbolic = any(isinstance(a.size, Sym) for d in dims for a in d)
        strides = None if symbolic else [Stride(int(s)) for s in value.stride()]
        name = from_torch(value.dtype).name
        i = self.b.input(f"x{len(self.inputs)}", dims, name, strides)
        self.inputs.append(node)
        node_id = (
            self.b.map("cast", i, dtype=compute_name(value.dtype)) if floating(value.dtype) else i
        )
        return Tensor(node_id, dims, value.dtype)

    def finish(self, outputs: Sequence[fx.Node]) -> Piece:
        """The graph of everything added so far."""
        results = []
        for k, node in enumerate(outputs):
            t: Tensor = self.env[node]
            out = from_torch(t.dtype).name
            value = t.node if self.b.dtype(t.node) == out else self.b.map("cast", t.node, dtype=out)
            results.append((f"y{k}", value, t.dims))
        graph = absorb_renames(self.b.build(results))
        return Piece(graph, tuple(self.inputs), tuple(outputs))


_IGNORED = frozenset(
    {
        "dtype",
        "layout",
        "device",
        "pin_memory",
        "memory_format",
        "non_blocking",
        "copy",
        "requires_grad",
        "implicit",
    }
)
