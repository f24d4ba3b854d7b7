"""Runs two programs on floats at reduced sizes, to see which of their values may be equal.

Nothing is concluded from agreement here but that a check is worth its while (``superopt.verify.sweep``).
"""

from __future__ import annotations

import bisect
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import Axis, extent
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.evaluate import Axes, apply_node
from superopt.mugraph.graph import Gather, Graph, Input, Map, Node, Output, Reduce
from superopt.mugraph.rewrite import dims_with_axes, with_axes
from superopt.verify.sizes import Sizing, assignments

MOST_CELLS = 1 << 24
"""Elements of a value at reduced sizes up to which a program is run on floats."""

SAMPLES = 1 << 10
"""Elements of a value, about, by which it is compared with others in the float run."""

CLOSE = 1e-8
"""Relative difference up to which two values of the float run (float64) are worth a check."""

Value = torch.Tensor | None
"""Elements of a node's value in the float run; None of a product that is only summed."""


class Near:
    """Finds the nodes whose values are close to a given one."""

    def __init__(self, values: Sequence[Value]) -> None:
        self.values = values
        self.sorted = sorted((_hash(v), j) for j, v in enumerate(values) if v is not None)

    def to(self, value: Value) -> list[int]:
        """The close ones, in order."""
        if value is None:
            return []
        key = _hash(value)
        slack = CLOSE * (1.0 + abs(key))
        found = []
        for h, j in self.sorted[bisect.bisect_left(self.sorted, (key - slack, -1)) :]:
            if h > key + slack:
                break
            other = self.values[j]
            if (
                other is not None
                and other.shape == value.shape
                and torch.allclose(value, other, CLOSE, CLOSE, equal_nan=True)
            ):
                found.append(j)
        return sorted(found)


def _hash(value: torch.Tensor) -> float:
    """A number that close values have nearly in common."""
    flat = torch.nan_to_num(value, 0.5, 2.0, -2.0)
    return float(flat.mean() + flat[: len(flat) // 2].sum() / 7)


def values_of(a: Graph, b: Graph, max_cells: int) -> tuple[list[Value], list[Value]]:
    """The values of all nodes at reduced sizes, on normal and on positive inputs.

    Raises VerificationFailed where PyTorch cannot compute them (an integer is divided by zero).
    """
    sizing = assignments(a, b, max_cells)[0]
    given: list[dict[str, torch.Tensor]] = [{}, {}]
    out: list[list[Value]] = []
    for graph in (a, b):
        small = _resized(graph, sizing)
        runs = []
        for positive in (False, True):
            tensors = given[positive]
            for node in small.inputs:
                if node.name not in tensors:
                    tensors[node.name] = _drawn(node, sizing, positive)
            inputs = {n.name: floats.split_input(n, tensors[n.name]) for n in small.inputs}
            try:
                runs.append(_run(small, inputs))
            except (RuntimeError, IndexError) as error:
                raise VerificationFailed(f"no values in floats: {error}", graph.name) from error
        out.append(
            [
                None if x is None or y is None else torch.cat((x, y))
                for x, y in zip(*runs, strict=True)
            ]
        )
    return out[0], out[1]


class _Clamped(floats.Contracting):
    """Computed indices beyond an axis that was made small read its end, as they do in the field."""

    def gather(
        self, node: Gather, value: Any, axes: Axes, at: torch.Tensor, at_axes: Axes
    ) -> torch.Tensor:
        last = max(extent(node.along.size, self.sizes) - 1, 0)
        return super().gather(node, value, axes, at.clamp(0, last), at_axes)


def _run(graph: Graph, inputs: Mapping[str, torch.Tensor]) -> list[Value]:
    """Samples of the values of all nodes; the values themselves live until their last use."""
    users = graph.users()
    algebra = _Clamped(inputs)
    env: dict[int, Any] = {}
    out: list[Value] = []
    for i, node in enumerate(graph.nodes):
        # A product that is only summed is never made.
        lazy = isinstance(node, Map) and all(_sums(graph.nodes[u]) for u in users[i])
        if not lazy and math.prod(extent(a.size) for a in node.axes) > MOST_CELLS:
            raise VerificationFailed("too many elements to run the program on floats", graph.name)
        env[i] = apply_node(graph, algebra, node, env)
        out.append(_sample(env[i]))
        for k in {*node.args, i}:
            if all(u <= i for u in users[k]):
                env.pop(k, None)
    return out


def _sums(node: Node) -> bool:
    return isinstance(node, Reduce) and node.op == "add"


def _sample(value: torch.Tensor | floats.Product) -> Value:
    if isinstance(value, floats.Product):
        return None
    flat = value.flatten()
    return flat[:: max(1, len(flat) // SAMPLES)].double()


def _drawn(node: Input, sizing: Sizing, positive: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(node.name.encode()))
    shape = [math.prod(extent(x.size) for x in dim) for dim in node.dims]
    if is_float(node.dtype):
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn.abs() + 0.1 if positive else drawn
    if node.dtype == "bool":
        return torch.randint(0, 2, shape, generator=generator).bool()
    known = sizing.ranges[node.name]
    drawn = torch.randint(known.lo, known.lo + known.span, shape, generator=generator)
    return drawn.to(DTYPES[node.dtype].torch)


def _resized(graph: Graph, sizing: Sizing) -> Graph:
    """The graph at the sizes of an assignment."""
    names = {x: Axis(x.name, sizing.sizes[x]) for x in graph.axes}
    nodes = tuple(with_axes(n, names) for n in graph.nodes)
    outputs = tuple(
        Output(o.name, o.node, dims_with_axes(o.dims, names), o.order) for o in graph.outputs
    )
    return Graph(graph.name, nodes, outputs)
