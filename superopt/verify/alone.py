"""The numeric gate of a binary that comes with its graph alone: inputs are drawn, eager is the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import extent
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.evaluate import Axes
from superopt.mugraph.graph import Gather, Graph, Input
from superopt.mugraph.sums import polynomial
from superopt.verify.gate import Gate, Kernel, numeric_gate
from superopt.verify.inputs import CLASSES, Inputs
from superopt.verify.sizes import integer_ranges

ATTEMPTS = 5
"""Draws of integers, from ever smaller ranges, until all indices are inside."""

AGAIN = 3
"""Further draws of a program with integer or truth inputs, which the classes do not vary."""

Sizes = Mapping[str, int]
Run = Callable[..., list[torch.Tensor]]


@dataclass(frozen=True)
class Difference:
    """One element at which a binary, or a graph, is not the program.

    inputs: their class, their sizes and their seed, in words; output and element: where; got,
    expected, eager: the values there of what was tested, of the program in float64 and in its own
    types; reason: what is wrong, as the gate says it.
    """

    inputs: str
    output: int
    element: tuple[int, ...]
    got: float
    expected: float
    eager: float
    reason: str

    def __str__(self) -> str:
        at = ", ".join(map(str, self.element))
        return (
            f"on inputs of class {self.inputs}: output {self.output} at ({at}) is {self.got:.9g}, "
            f"and the program gives {self.expected:.9g} ({self.eager:.9g} in its own types)"
        )


class Inside(floats.Contracting):
    """Raises IndexError for an index outside of its axis, also for one below 0."""

    def gather(
        self, node: Gather, value: Any, axes: Axes, at: torch.Tensor, at_axes: Axes
    ) -> torch.Tensor:
        size = extent(node.along.size, self.sizes)
        if bool(((at < 0) | (at >= size)).any()):
            raise IndexError(f"an index outside of axis {node.along.name!r} of size {size}")
        return super().gather(node, value, axes, at, at_axes)


def in_own_types(graph: Graph, sizes: Sizes) -> Run:
    """Runs a graph with every node in its own dtype, and rounds at the outputs: its eager form."""
    dtypes = [DTYPES[graph.nodes[o.node].dtype].torch for o in graph.outputs]

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        found = floats.run(graph, tensors, sizes, work=None, algebra=Inside)
        return [y.to(d) for y, d in zip(found, dtypes, strict=True)]

    return run


def exactly(graph: Graph, sizes: Sizes) -> Run:
    """Runs a graph in float64."""
    return lambda *tensors: floats.run(graph, tensors, sizes, algebra=Inside)


def drawn(graph: Graph, sizes: Sizes, seed: int) -> list[torch.Tensor] | None:
    """Inputs of a graph at some sizes, in its strides: normal numbers, integers, truth values.

    Integers that index an axis are within it, others small or near the program's literals. None
    where no draw was found at which every index that the program computes is inside.
    """
    generator = torch.Generator().manual_seed(seed)
    known = integer_ranges((graph,), {a: extent(a.size, sizes) for a in graph.axes})
    for attempt in range(ATTEMPTS):
        tensors = []
        for node in graph.inputs:
            shape = [math.prod(extent(a.size, sizes) for a in dim) for dim in node.dims]
            strides = [s.value(sizes) for s in node.strides]
            reach = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
            flat = _flat(node, reach if math.prod(shape) else 0, known, attempt, generator)
            tensors.append(flat.as_strided(shape, strides))
        if not any(isinstance(n, Gather) for n in graph.nodes):
            return tensors
        try:
            exactly(graph, sizes)(*tensors)
            return tensors
        except IndexError:
            if all(is_float(n.dtype) or n.dtype == "bool" for n in graph.inputs):
                return None
    return None


def _flat(
    node: Input, count: int, known: Mapping[str, Any], attempt: int, generator: torch.Generator
) -> torch.Tensor:
    dtype = DTYPES[node.dtype].torch
    if is_float(node.dtype):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return torch.randn(count, generator=generator, dtype=wide).to(dtype)
    if node.dtype == "bool":
        return torch.randint(0, 2, (count,), generator=generator).bool()
    low, high = known[node.name].lo, known[node.name].hi
    if attempt >= 2:  # indices that are computed from these, and were outside: at the ends
        low, high = ((0, min(max(high, 0), 1)), (high, high), (0, 0))[attempt - 2]
    values = torch.randint(low, max(high, low) + 1, (count,), generator=generator)
    more = torch.tensor(known[node.name].more)
    if not attempt and len(more) and not known[node.name].complete:
        rare = torch.randint(0, 4, (count,), generator=generator) == 0
        picked = more[torch.randint(0, len(more), (count,), generator=generator)]
        values = torch.where(rare, picked, values)
    bounds = torch.iinfo(dtype)
    return values.clamp(bounds.min, bounds.max).to(dtype)


@dataclass(frozen=True)
class Tested:
    """The gate's verdict over all sizes; the first difference; how often the candidate answered.

    skipped: sizes at which no inputs could be drawn.
    """

    gate: Gate | None
    difference: Difference | None
    answered: int
    skipped: tuple[str, ...] = ()

    @property
    def sizes(self) -> int:
        """At how many sizes and draws it was tested."""
        return sum(c.name.startswith("given") for c in self.gate.classes) if self.gate else 0


def gated(
    program: Graph,
    reference: Graph,
    candidate: Callable[[Sizes], Kernel],
    places: Sequence[tuple[Sizes, Sequence[str]]],
    seed: int,
) -> Tested:
    """Holds a candidate against the program's graph, on inputs drawn from a seed.

    reference: the program with its exponentials shifted, as it was shown equal; candidate: called
    with the sizes first; places: sizes, and the input classes to try there. Whatever the candidate
    raises but IndexOutside is raised.
    """
    answered, skipped, gates = 0, [], []
    discrete = any(not is_float(n.dtype) for n in program.inputs)
    for sizes, classes in places:
        label = ",".join(f"{k}={v}" for k, v in sorted(sizes.items()))
        kernel = candidate(sizes)

        def counted(tensors: Sequence[torch.Tensor], kernel: Kernel = kernel) -> object:
            nonlocal answered
            out = kernel(tensors)
            answered += 1
            return out

        for draw in range(1 + AGAIN * discrete):
            now = seed + draw
            inputs = drawn(program, sizes, now)
            if inputs is None:
                skipped.append(label or "the program's sizes")
                break
            eager, exact = in_own_types(program, sizes), exactly(reference, sizes)
            gate = numeric_gate(
                counted,
                eager,
                inputs,
                reference=exact,
                seed=now,
                classes=classes if not draw else ("normal",),
                polynomial=polynomial(program),
            )
            named = [replace(c, name=f"{c.name} {label}".rstrip()) for c in gate.classes]
            gates.append(replace(gate, classes=tuple(named)))
            if not gate.passed:
                where = f"{label + ', ' if label else ''}seed {now}"
                found = _difference(gate, kernel, eager, exact, inputs, now, where)
                return Tested(_joined(gates), found, answered, tuple(skipped))
    return Tested(_joined(gates), None, answered, tuple(skipped))


def _joined(gates: Sequence[Gate]) -> Gate | None:
    if not gates:
        return None
    reason = next((g.reason for g in gates if g.reason), "")
    classes = tuple(c for g in gates for c in g.classes)
    return Gate(all(g.passed for g in gates), gates[0].factor, classes, reason)


def _difference(
    gate: Gate,
    kernel: Kernel,
    eager: Run,
    exact: Run,
    inputs: list[torch.Tensor],
    seed: int,
    at: str,
) -> Difference:
    """The worst element of the first class that failed."""
    failed = next(c for c in gate.classes if not c.passed)
    source = Inputs(inputs, torch.Generator().manual_seed(seed))
    of_class = source.of_class(failed.name.partition(" in input ")[0])
    tensors = next(x for name, x in of_class if name == failed.name)
    nowhere = Difference(f"{failed.name!r} ({at})", 0, (), *(math.nan,) * 3, failed.reason)
    try:
        mine: Any = kernel(tensors)
    except Exception:  # it is told by the gate's reason
        return nowhere
    theirs, right = eager(*tensors), exact(*source.wide(tensors))
    worst, found = -1.0, nowhere
    for k, (y, e, r) in enumerate(zip(mine, theirs, right, strict=False)):
        if y.shape != e.shape or not y.numel():
            continue
        off = _off(y.double(), e.double(), r.double())
        place = int(off.argmax())
        if float(off.flatten()[place]) > worst:
            worst = float(off.flatten()[place])
            element = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), y.shape))
            values = (float(x[element]) for x in (y, e, r))
            got, own, expected = values
            found = replace(
                nowhere, output=k, element=element, got=got, expected=expected, eager=own
            )
    return found


def _off(y: torch.Tensor, e: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """How far each element is off, of its row's largest: infinite where its kind is another's."""
    finite = torch.where(r.isfinite(), r.abs(), 0.0)
    scale = (finite.amax(-1, keepdim=True) if r.dim() else finite).clamp_min(1e-300)
    off = ((y - r).abs() / scale).nan_to_num(0.0, math.inf, math.inf)
    same = (y == r) | (y.isnan() & r.isnan())
    alike = [(y.isfinite() & x.isfinite()) | (y == x) | (y.isnan() & x.isnan()) for x in (e, r)]
    off = torch.where(same, torch.zeros_like(off), off)
    return torch.where(alike[0] | alike[1], off, torch.full_like(off, math.inf))


ALL = tuple(CLASSES)
"""Every input class."""
