"""Captures two functions of the same arguments as one program, so that both speak of the same axes.

Each reshape of either function refines the axes of both, what both hold is one input, and equal
subterms are one node: the two graphs that come out differ in their outputs alone.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from superopt.errors import SuperoptError, UnsupportedOperator
from superopt.frontend.capture import Captured, capture
from superopt.frontend.cleanup import op_name
from superopt.frontend.convert import Converter, refusal
from superopt.frontend.live import Live, layout
from superopt.frontend.names import name_of
from superopt.frontend.numbers import free
from superopt.frontend.tensors import NotSupported
from superopt.frontend.where import location
from superopt.mugraph.axes import Axis, sort_axes
from superopt.mugraph.flags import plain_flags
from superopt.mugraph.graph import Graph, Index, Node, Output, View
from superopt.mugraph.rewrite import absorb_renames
from superopt.mugraph.share import share


@dataclass(frozen=True)
class Together:
    """Two programs over the same inputs.

    first, second: their graphs, which share all nodes but the outputs; sources: where each input
    comes from: the position of a flat argument, or the tensor itself that a function holds; alike:
    whether tensors that they hold are one input because their values are equal.
    """

    first: Graph
    second: Graph
    sources: tuple[int | torch.Tensor, ...]
    alike: bool = False

    def tensors(self, leaves: Sequence[Any]) -> list[torch.Tensor]:
        """The inputs of the graphs for flat arguments."""
        return [leaves[s] if isinstance(s, int) else s for s in self.sources]


def capture_together(
    first: Callable[..., Any],
    second: Callable[..., Any],
    args: tuple[Any, ...],
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    precision: str = "default",
) -> Together:
    """The graphs of two functions, whose results have the same structure on these arguments.

    dynamic: {argument of the first function: {dim: torch.export.Dim}}.
    Raises UnsupportedOperator for what has no meaning in a graph, with the operator and its place.
    """

    def both(*args: Any) -> Any:
        results = first(*args), second(*args)
        mine, other = (_leaves(r) for r in results)
        # What ties the axes of the results: compared as they are, not by broadcasting.
        ties = [a != b for a, b in zip(mine, other, strict=True)]
        return mine, other, ties, _numbers(results)

    target = first.forward if isinstance(first, torch.nn.Module) else first
    with contextlib.suppress(TypeError, ValueError):  # of a builtin there may be none
        both.__signature__ = inspect.signature(target)  # type: ignore[attr-defined]
    both.__name__ = both.__qualname__ = name_of(first)
    captured = capture(both, args, {}, dynamic)
    *halves, numbers = pytree.tree_unflatten(captured.outputs, captured.out_spec)
    if any(isinstance(x, fx.Node) for x in numbers):
        raise UnsupportedOperator(
            "a result is a Python number that is computed of values, or of sizes that may change",
            captured.name,
            "return it as a tensor",
        )
    captured = replace(captured, outputs=tuple(pytree.tree_leaves(halves)))
    held = captured.look()[1]
    sources = {
        n: v if isinstance(v, int) else v.among(held)
        for n, v in zip(captured.placeholders, captured.values, strict=True)
    }
    same = _same_sources(sources)
    try:
        graph, inputs = _graph(captured, precision, same)
        first_graph, second_graph = _halves(graph)
    except NotSupported as why:
        raise UnsupportedOperator(str(why), captured.name) from why
    alike = any(sources[n] is not sources[m] for n, m in same.items())
    return Together(first_graph, second_graph, tuple(sources[n] for n in inputs), alike)


def _halves(graph: Graph) -> tuple[Graph, Graph]:
    """The graphs of the first and of the second third of the outputs; the last compares them."""
    count = len(graph.outputs) // 3
    nodes = list(graph.nodes)
    pairs = zip(graph.outputs[:count], graph.outputs[count : 2 * count], strict=True)
    halves = zip(*(_aligned(nodes, p, q) for p, q in pairs), strict=True)
    first, second = (
        Graph(
            graph.name,
            tuple(nodes),
            tuple(replace(o, name=f"y{k}", order=()) for k, o in enumerate(half)),
        ).pruned()
        for half in list(halves)
    )
    return first, second


def _aligned(nodes: list[Node], p: Output, q: Output) -> tuple[Output, Output]:
    """Two outputs with dims of like axes: a dim that one splits is one axis in both."""
    sizes = [[tuple(x.size for x in dim) for dim in o.dims] for o in (p, q)]
    if sizes[0] == sizes[1]:
        return p, q
    return _whole(nodes, p), _whole(nodes, q)


def _whole(nodes: list[Node], output: Output) -> Output:
    """The output with one axis for each dim; ``nodes`` gets the view that merges the others."""
    node = nodes[output.node]
    index: dict[Axis, Index] = {}
    dims: list[tuple[Axis, ...]] = []
    for dim in output.dims:
        if len(dim) == 1:
            dims.append(dim)
            continue
        known = [x.size for x in dim if isinstance(x.size, int)]
        if len(known) < len(dim):
            raise NotSupported(
                "a result whose dimension is a product of sizes, one of them unknown"
            )
        whole = Axis(".".join(x.name for x in dim), math.prod(known))
        dims.append((whole,))
        for k, (axis, size) in enumerate(zip(dim, known, strict=True)):
            below = math.prod(known[k + 1 :])
            index[axis] = Index(((whole, 1),), div=below, mod=size if k else None)
    full = tuple((x, index.get(x, Index(((x, 1),)))) for x in node.axes)
    axes = sort_axes({x for _, ix in full for x, _ in ix.terms})
    nodes.append(View(axes, node.dtype, output.node, full))
    return replace(output, node=len(nodes) - 1, dims=tuple(dims))


def _same_sources(sources: Mapping[fx.Node, int | torch.Tensor]) -> dict[fx.Node, fx.Node]:
    """Held tensors that are, or equal, one before them: the later one -> the first."""
    out: dict[fx.Node, fx.Node] = {}
    first: list[tuple[fx.Node, torch.Tensor]] = []
    for node, x in sources.items():
        if isinstance(x, int):
            continue
        for other, y in first:
            if x is y or (layout(x) == layout(y) and torch.equal(x, y)):
                out[node] = other
                break
        else:
            first.append((node, x))
    return out


def _numbers(results: Any) -> list[Any]:
    known = int, float, torch.SymInt, torch.SymFloat, torch.SymBool
    return [x for x in pytree.tree_leaves(results) if isinstance(x, known)]


def _leaves(result: Any) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]


def _graph(
    captured: Captured, precision: str, same: Mapping[fx.Node, fx.Node]
) -> tuple[Graph, tuple[fx.Node, ...]]:
    """The graph of a whole program, and the FX value behind each of its inputs.

    same: inputs that are another one.
    """
    literals = {
        n: v.literal
        for n, v in zip(captured.placeholders, captured.values, strict=True)
        if isinstance(v, Live) and v.literal is not None
    }
    devices = {
        v.device for n in captured.placeholders if isinstance(v := n.meta.get("val"), torch.Tensor)
    }
    eager = precision == "eager"
    given = captured.placeholders
    converter = Converter(captured.name, eager, captured.symbols, given, literals)
    for node, first in same.items():
        converter.env[node] = converter.read(first)
    for node in captured.gm.graph.nodes:
        if node.op in ("placeholder", "output") or free(node):
            continue
        if op_name(node) != "getitem" and (reason := refusal(node, devices)):
            raise UnsupportedOperator(f"{op_name(node)}: {reason}", location(node))
        try:
            converter.add(node)
        except (NotSupported, SuperoptError) as why:
            raise UnsupportedOperator(f"{op_name(node)}: {why}", location(node)) from why
    for out in captured.outputs:  # a result may be an argument
        converter.read(out)
    piece = converter.finish(captured.outputs)
    # Masks that are the same are one value only when they are spelled alike.
    return share(absorb_renames(plain_flags(piece.graph))), piece.inputs
