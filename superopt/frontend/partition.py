"""Cuts an exported program into runs that become graphs and operators that PyTorch keeps."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from superopt.errors import MutatesInput, ShapeMismatch, UnsupportedOperator
from superopt.frontend.capture import Captured
from superopt.frontend.convert import Converter, converts, op_name
from superopt.frontend.tensors import NotSupported
from superopt.mugraph.graph import Graph

Call = Callable[["Supported", Sequence[torch.Tensor]], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Supported:
    """A run of operators with a graph; ``inputs`` and ``outputs`` are FX values in graph order."""

    graph: Graph
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]

    def eager(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """The same run in PyTorch."""
        env: dict[fx.Node, Any] = dict(zip(self.inputs, tensors, strict=True))
        for node in self.nodes:
            env[node] = _execute(node, env)
        return [env[n] for n in self.outputs]


@dataclass(frozen=True)
class Boundary:
    """An operator that stays in PyTorch: its name, where it stands in the user's source, and why."""

    op: str
    where: str
    reason: str
    node: fx.Node


@dataclass(frozen=True)
class Program:
    """The pieces of a captured function in execution order."""

    captured: Captured
    pieces: tuple[Supported | Boundary, ...]

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """The operators that stay in PyTorch."""
        return tuple(p for p in self.pieces if isinstance(p, Boundary))

    @property
    def supported(self) -> tuple[Supported, ...]:
        """The pieces that have a graph."""
        return tuple(p for p in self.pieces if isinstance(p, Supported))

    def positions(self) -> list[int] | None:
        """For a program of one piece: the flat argument behind each input, None where it is not one."""
        where = dict(zip(self.captured.placeholders, self.captured.values, strict=True))
        (piece,) = self.pieces
        if not isinstance(piece, Supported) or list(piece.outputs) != list(self.captured.outputs):
            return None
        values = [where[n] for n in piece.inputs]
        return (
            [v for v in values if isinstance(v, int)]
            if all(isinstance(v, int) for v in values)
            else None
        )

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], call: Call) -> Any:
        """Runs all pieces: supported ones by ``call``, the others in PyTorch."""
        flat = pytree.tree_leaves((args, kwargs)) if kwargs or not _plain(args) else args
        env: dict[fx.Node, Any] = {}
        for node, value in zip(self.captured.placeholders, self.captured.values, strict=True):
            env[node] = flat[value] if isinstance(value, int) else value
        for piece in self.pieces:
            if isinstance(piece, Supported):
                given = [_fitted(env[n], n) for n in piece.inputs]
                env.update(zip(piece.outputs, call(piece, given), strict=True))
            else:
                env[piece.node] = _execute(piece.node, env)
        out = [env[o] if isinstance(o, fx.Node) else o for o in self.captured.outputs]
        return pytree.tree_unflatten(out, self.captured.out_spec)


def partition(captured: Captured, precision: str = "default") -> Program:
    """Cuts a captured program; every operator is in exactly one piece.

    Raises MutatesInput when an output is a view of an input (a kernel would return a copy).
    """
    _refuse_aliases(captured)
    nodes = [
        n for n in captured.gm.graph.nodes if n.op not in ("placeholder", "output") and not _free(n)
    ]
    pieces: list[Supported | Boundary] = []
    run: list[fx.Node] = []
    converter = _converter(captured, precision)

    def flush() -> None:
        nonlocal run, converter
        if run:
            inside = set(run)
            outputs = [
                n
                for n in run
                if any(u not in inside and not _free(u) for u in n.users)
                and isinstance(n.meta.get("val"), torch.Tensor)
            ]
            if outputs:
                piece = converter.finish(outputs)
                pieces.append(Supported(piece.graph, piece.inputs, piece.outputs, tuple(run)))
        run, converter = [], _converter(captured, precision)

    for node in nodes:
        reason = converts(node)
        if reason is None and op_name(node) == "getitem" and node.args[0] not in run:
            reason = "it picks a result of an operator that stays in PyTorch"
        if reason is None:
            try:
                converter.add(node)
                run.append(node)
                continue
            except NotSupported as why:
                reason = str(why)
        flush()
        pieces.append(Boundary(op_name(node), location(node), reason, node))
    flush()
    symbolic = captured.symbols and any(isinstance(p, Boundary) for p in pieces)
    if symbolic:
        b = next(p for p in pieces if isinstance(p, Boundary))
        raise UnsupportedOperator(
            f"{b.op} under dynamic sizes: {b.reason}",
            b.where,
            "leave out dynamic= for this function",
        )
    return Program(captured, tuple(pieces))


def _converter(captured: Captured, precision: str) -> Converter:
    return Converter(captured.name, precision == "eager", captured.symbols)


def _plain(args: tuple[Any, ...]) -> bool:
    return all(type(a) is torch.Tensor for a in args)


def _fitted(tensor: torch.Tensor, node: fx.Node) -> torch.Tensor:
    """The tensor in the layout that the graph was made for; a value of an earlier piece may differ."""
    value = node.meta["val"]
    if tensor.dtype != value.dtype or tensor.dim() != value.dim():
        raise ShapeMismatch(
            f"{node.name} is {tensor.dtype} {tuple(tensor.shape)}", location(node), "call it anew"
        )
    sizes = tuple(value.shape)
    if any(not isinstance(n, int) for n in sizes):
        return tensor.contiguous()
    if tuple(tensor.shape) != sizes:
        raise ShapeMismatch(f"{node.name} has shape {tuple(tensor.shape)}", location(node))
    want = value.stride()
    if all(a == b or n == 1 for a, b, n in zip(tensor.stride(), want, sizes, strict=True)):
        return tensor
    return torch.empty_strided(sizes, want, dtype=tensor.dtype).copy_(tensor)


def _free(node: fx.Node) -> bool:
    """Nodes without a tensor: sizes, and assertions about them that the guards already make."""
    value = node.meta.get("val")
    return node.op == "call_function" and (
        isinstance(value, torch.SymInt | torch.SymBool | int | bool)
        or "assert" in op_name(node)
        or "sym_constrain" in op_name(node)
        or (value is None and not node.users and not _writes(node))
    )


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.is_mutable)


def _execute(node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    args, kwargs = fx.map_arg((tuple(node.args), dict(node.kwargs)), lambda n: env[n])
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(node.graph.owning_module)
    if not callable(node.target):
        raise UnsupportedOperator(f"{node.op} {node.target}", location(node))
    return node.target(*args, **kwargs)


def _refuse_aliases(captured: Captured) -> None:
    for out in captured.outputs:
        node = out
        while isinstance(node, fx.Node) and node not in captured.placeholders:
            schema = getattr(node.target, "_schema", None)
            aliases = schema and any(r.alias_info for r in schema.returns)
            node = node.args[0] if (aliases or op_name(node) == "getitem") and node.args else None
        if isinstance(node, fx.Node):
            raise MutatesInput(
                "an output is a view of an input",
                location(out),
                "return a copy (clone) of it, or leave this function to PyTorch",
            )


def location(node: Any) -> str:
    """Where the user wrote an operator: ``file:line, in function: text``."""
    trace = node.meta.get("stack_trace") if isinstance(node, fx.Node) else None
    lines = [x.strip() for x in (trace or "").strip().splitlines() if x.strip()]
    frames = [k for k, x in enumerate(lines) if x.startswith("File ")]
    if not frames:
        return "unknown place"
    text = lines[frames[-1]].removeprefix("File ").replace('"', "").replace(", line ", ":")
    code = lines[frames[-1] + 1] if frames[-1] + 1 < len(lines) else ""
    return f"{text}: {code}" if code else text
