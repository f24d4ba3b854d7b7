"""Cuts an exported program into runs that become graphs and operators that PyTorch keeps."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from superopt import trace
from superopt.errors import SuperoptError, UnsupportedOperator
from superopt.frontend import cleanup
from superopt.frontend.capture import Captured
from superopt.frontend.cleanup import op_name
from superopt.frontend.convert import Converter, computes, refusal
from superopt.frontend.live import Live
from superopt.frontend.numbers import blank, free, number, symbol_values
from superopt.frontend.tensors import NotSupported
from superopt.frontend.where import location
from superopt.mugraph.graph import Graph

Call = Callable[["Supported", Sequence[torch.Tensor]], Sequence[torch.Tensor]]
Env = dict[fx.Node, Any]


@dataclass(frozen=True)
class Supported:
    """A run of operators with a graph; ``inputs`` and ``outputs`` are FX values in graph order.

    literals: the tensor literals among what ``nodes`` read, which the graph holds as constants; shown:
    how the graph was shown to hold at sizes for which it was not captured (``SizeOne``).
    """

    graph: Graph
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    literals: Mapping[fx.Node, torch.Tensor]
    shown: tuple[Any, ...] = ()

    @functools.cached_property
    def _only_shapes(self) -> tuple[fx.Node, ...]:
        """Tensors that the operators take and the graph does not: they read their shape alone."""
        known = {*self.inputs, *self.literals, *self.nodes}
        read = dict.fromkeys(source for node in self.nodes for source in node.all_input_nodes)
        return tuple(
            n for n in read if n not in known and isinstance(n.meta.get("val"), torch.Tensor)
        )

    def eager(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """The same run in PyTorch."""
        env: Env = {**self.literals, **dict(zip(self.inputs, tensors, strict=True))}
        sizes = symbol_values(self.inputs, env)
        env.update({node: blank(node, sizes) for node in self._only_shapes})
        for node in self.nodes:
            env[node] = _execute(node, env, sizes)
        return [env[n] for n in self.outputs]


@dataclass(frozen=True)
class Boundary:
    """Operators that stay in PyTorch: the name of the first, where the user wrote it, and why.

    Beside the operator, ``nodes`` holds what picks its results apart.
    """

    op: str
    where: str
    reason: str
    nodes: tuple[fx.Node, ...]

    @property
    def node(self) -> fx.Node:
        """The operator."""
        return self.nodes[0]


@dataclass(frozen=True)
class Program:
    """The pieces of a captured function in execution order."""

    captured: Captured
    pieces: tuple[Supported | Boundary, ...]

    @functools.cached_property
    def boundaries(self) -> tuple[Boundary, ...]:
        """The operators that stay in PyTorch."""
        return tuple(p for p in self.pieces if isinstance(p, Boundary))

    @functools.cached_property
    def supported(self) -> tuple[Supported, ...]:
        """The pieces that have a graph."""
        return tuple(p for p in self.pieces if isinstance(p, Supported))

    @functools.cached_property
    def _holds(self) -> bool:
        """Whether there are tensors to look up."""
        return any(isinstance(v, Live) and not v.constant for v in self.captured.values)

    @functools.cached_property
    def _given(self) -> frozenset[fx.Node]:
        return frozenset(self.captured.placeholders)

    def positions(self) -> list[int] | None:
        """For a program of one piece: the flat argument behind each input, None where it is not one."""
        where = dict(zip(self.captured.placeholders, self.captured.values, strict=True))
        (piece,) = self.pieces
        if not isinstance(piece, Supported) or list(piece.outputs) != list(self.captured.outputs):
            return None
        values = [where[n] for n in piece.inputs]
        positions = [v for v in values if isinstance(v, int)]
        return positions if len(positions) == len(values) else None

    def wiring(self) -> tuple[list[Any], list[int], Any] | None:
        """For a program that is one piece, all of whose outputs are results: how it is called.

        For each input the flat argument, ("held", n) for the n-th tensor that the function holds, or a
        literal; for each result the output; and how results are packed.
        """
        captured, pieces = self.captured, self.pieces
        if len(pieces) != 1 or not isinstance(pieces[0], Supported):
            return None
        values = dict(zip(captured.placeholders, captured.values, strict=True))
        inputs: list[Any] = []
        for value in (values[n] for n in pieces[0].inputs):
            if isinstance(value, Live):
                inputs.append(("held", value.position) if value.literal is None else value.literal)
            else:
                inputs.append(value)
        made = {node: k for k, node in enumerate(pieces[0].outputs)}
        outputs = [made.get(o, -1) if isinstance(o, fx.Node) else -1 for o in captured.outputs]
        return None if -1 in outputs else (inputs, outputs, captured.out_spec)

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call: Call,
        held: Sequence[torch.Tensor] | None = None,
    ) -> Any:
        """Runs all pieces: supported ones by ``call``, the others in PyTorch.

        held: the tensors that the function reaches, of a state equal to that of its capture. They
        are looked up here when they are not given: when one is no longer as it was captured
        (another dtype, a required gradient, ...), the original function runs, with a warning.
        """
        captured = self.captured
        if held is None and self._holds:
            changed, held = captured.look()
            if changed is not None:
                trace.warn_once("fallback", f"{captured.name} runs in PyTorch: {changed}")
                return captured.fn(*args, **kwargs)
        flat = pytree.tree_leaves((args, kwargs)) if kwargs or not _plain(args) else args
        env: Env = {
            node: value.among(held or ()) if isinstance(value, Live) else flat[value]
            for node, value in zip(captured.placeholders, captured.values, strict=True)
        }
        sizes = symbol_values(captured.placeholders, env) if captured.symbols else {}
        for piece in self.pieces:
            if isinstance(piece, Supported):
                # What PyTorch returns, and in which strides, may depend on its own arguments'
                # strides: a piece reads what other pieces made in row-major order.
                xs = [env[n] if n in self._given else env[n].contiguous() for n in piece.inputs]
                env.update(zip(piece.outputs, call(piece, xs), strict=True))
            else:
                for node in piece.nodes:
                    env[node] = _execute(node, env, sizes)
        out = [_value(o, env, sizes) if isinstance(o, fx.Node) else o for o in captured.outputs]
        return pytree.tree_unflatten(out, captured.out_spec)


def partition(captured: Captured, precision: str = "default") -> Program:
    """Cuts a captured program; every operator is in exactly one piece.

    precision: "default" computes 16-bit programs in float32 and rounds at the outputs; "eager"
    keeps every rounding that PyTorch makes (see ``Context``).
    """
    return Program(captured, tuple(_Cutter(captured, precision).pieces()))


_OF_INPUT = "it gives a view of an input, which aliases it in PyTorch"


class _Cutter:
    """Walks the program once, growing a run of convertible operators until one is not."""

    def __init__(self, captured: Captured, precision: str) -> None:
        self.captured, self.precision = captured, precision
        self.devices = {
            v.device
            for n in captured.placeholders
            if isinstance(v := n.meta.get("val"), torch.Tensor)
        }
        self.literals = {
            n: v.literal
            for n, v in zip(captured.placeholders, captured.values, strict=True)
            if isinstance(v, Live) and v.literal is not None
        }
        chains = [cleanup.alias_chain(o, captured.placeholders) for o in captured.outputs]
        self.of_inputs = {n for chain in chains for n in chain or ()}
        self.kept = cleanup.entangled_views(captured.outputs)
        self.run: list[fx.Node] = []
        self.converter = self._fresh()

    def pieces(self) -> Iterator[Supported | Boundary]:
        order = list(_in_order(self.captured.gm.graph))
        views = [n for n in order if self.of_inputs & {n, *_picks(n)}]
        for node in views:  # first, so that they cut nothing apart
            yield Boundary(op_name(node), location(node), _OF_INPUT, (node, *_picks(node)))
        for node in [n for n in order if n not in views]:
            reason = self._add(node)
            if reason is not None:
                yield from self._flush()
                yield Boundary(op_name(node), location(node), reason, (node, *_picks(node)))
        yield from self._flush()

    def _fresh(self) -> Converter:
        c = self.captured
        eager = self.precision == "eager"
        return Converter(c.name, eager, c.symbols, c.placeholders, self.literals)

    def _add(self, node: fx.Node) -> str | None:
        """Converts an operator (with what picks its results apart), or says why it cannot be."""
        if node in self.kept or any(n in self.kept for n in _picks(node)):
            return "it gives a view of another output, which aliases it in PyTorch"
        reason = refusal(node, self.devices)
        if reason is None:
            try:
                for n in (node, *_picks(node)):
                    self.converter.add(n)
                    self.run.append(n)
            except NotSupported as why:
                reason = str(why)
        return reason

    def _flush(self) -> Iterator[Supported | Boundary]:
        run, converter = self.run, self.converter
        self.run, self.converter = [], self._fresh()
        inside = set(run)
        outputs = [
            n
            for n in run
            if any(u not in inside and not free(u) for u in n.users)
            and isinstance(n.meta.get("val"), torch.Tensor)
        ]
        if not outputs:
            return
        try:
            piece = converter.finish(outputs)
        except (NotSupported, SuperoptError) as error:
            reason = str(error)
        else:
            if computes(piece.graph):
                nodes = _behind(outputs, run)
                literals = {n: t for n, t in self.literals.items() if n not in piece.inputs}
                yield Supported(piece.graph, piece.inputs, piece.outputs, nodes, literals)
                return
            reason = "it only moves data, and nothing beside it computes"
        yield Boundary(op_name(run[0]), location(run[0]), reason, tuple(run))


def _behind(outputs: Sequence[fx.Node], run: Sequence[fx.Node]) -> tuple[fx.Node, ...]:
    """The operators of a run that its outputs need."""
    needed = set(outputs)
    for node in reversed(run):
        if node in needed:
            needed.update(node.all_input_nodes)
    return tuple(n for n in run if n in needed)


def _in_order(graph: fx.Graph) -> Iterator[fx.Node]:
    """The operators, without sizes and assertions, and without what picks results apart."""
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or free(node):
            continue
        if op_name(node) == "getitem":
            continue
        yield node


def _picks(node: fx.Node) -> Iterator[fx.Node]:
    """The getitem nodes that pick this operator's results apart, nested ones after their source."""
    for user in node.users:
        if user.op == "call_function" and op_name(user) == "getitem" and user.args[0] is node:
            yield user
            yield from _picks(user)


def _plain(args: tuple[Any, ...]) -> bool:
    return all(type(a) is torch.Tensor for a in args)


def _value(node: fx.Node, env: Env, sizes: Mapping[str, int]) -> Any:
    """The value of a node: computed already, or a size, or an attribute of the program."""
    if node in env:
        return env[node]
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(node.graph.owning_module)
    return number(node, sizes)


def _execute(node: fx.Node, env: Env, sizes: Mapping[str, int]) -> Any:
    args, kwargs = fx.map_arg(
        (tuple(node.args), dict(node.kwargs)), lambda n: _value(n, env, sizes)
    )
    if node.op != "call_function" or not callable(node.target):
        raise UnsupportedOperator(f"{node.op} {node.target}", location(node))
    return node.target(*args, **kwargs)
