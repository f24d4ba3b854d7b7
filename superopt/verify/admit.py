"""Admission of a compiled program: the numeric gate at the caller's sizes, and over their range."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import Sym, extent
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import Graph, Input
from superopt.verify.gate import Gate, Kernel, Known, numeric_gate
from superopt.verify.inputs import CLASSES

ELSEWHERE = ("normal", "infinities", "nan")
"""Input classes tried at the other sizes of a dynamic dimension."""

MOST = 1 << 22
"""Elements of an input up to which another size is tried."""


def admit(
    graph: Graph,
    candidate: Kernel,
    eager: Callable[..., object],
    inputs: Sequence[torch.Tensor],
    sizes: Mapping[str, int],
    *,
    seed: int = 0,
    known: dict[str, Known] | None = None,
    others: Sequence[Mapping[str, int]] | None = None,
    classes: Sequence[str] = tuple(CLASSES),
) -> Gate:
    """The gate's verdict on a compiled program.

    candidate and eager: as for ``numeric_gate``, with the graph in float64 as the reference;
    sizes: of the symbols at ``inputs``. A program with dynamic sizes is also run at sizes beside
    those (``others``, and then the results name all sizes; when not given, the ends of the range and
    odd ones), on inputs cut from or tiled out of the given ones. classes: of inputs, at the given
    sizes; fewer are tried at the others.
    Raises VerificationFailed when eager PyTorch is far from the graph on ordinary inputs: then the
    graph is not the program.
    """
    known = {} if known is None else known
    asked = others is not None
    others = list(other_sizes(graph, sizes)) if others is None else others
    results = []
    for n, (there, tensors) in enumerate(_runs(graph, eager, inputs, sizes, others)):
        label = ",".join(f"{k}={v}" for k, v in sorted(there.items())) if n or asked else ""
        found = numeric_gate(
            candidate,
            eager,
            tensors,
            reference=partial(_exact, graph, there),
            seed=seed,
            known=known.setdefault(label, {}),
            classes=ELSEWHERE if n else classes,
        )
        strays = _strays(graph, found)
        if strays and not _rounds(eager, graph, there, tensors):
            raise VerificationFailed(f"the graph does not compute the program {strays}", graph.name)
        results += [replace(c, name=f"{c.name} {label}".rstrip()) for c in found.classes]
        if not found.passed:
            where = f" (at {label})" if label else ""
            return replace(found, classes=tuple(results), reason=found.reason + where)
    return replace(found, classes=tuple(results))


def _runs(
    graph: Graph,
    eager: Callable[..., object],
    inputs: Sequence[torch.Tensor],
    sizes: Mapping[str, int],
    others: Sequence[Mapping[str, int]],
) -> Iterator[tuple[dict[str, int], Sequence[torch.Tensor]]]:
    yield dict(sizes), inputs
    for there in others:
        tensors = inputs_at(graph, eager, inputs, there)
        if tensors is not None:
            yield dict(there), tensors


def inputs_at(
    graph: Graph,
    eager: Callable[..., object],
    inputs: Sequence[torch.Tensor],
    sizes: Mapping[str, int],
) -> list[torch.Tensor] | None:
    """The inputs cut or tiled to other sizes, or None where the program has no answer there.

    Indices that are beyond what they index at these sizes are made smaller.
    """
    tensors = [resized(n, t, sizes) for n, t in zip(graph.inputs, inputs, strict=True)]
    smaller = [
        t if t.is_floating_point() or t.dtype == torch.bool else t % min(sizes.values(), default=1)
        for t in tensors
    ]
    for made in (tensors, smaller):
        with contextlib.suppress(RuntimeError, IndexError):  # such as sizes that do not fit
            eager(*made)
            return made
    return None


def other_sizes(graph: Graph, sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Sizes beside the given ones that every symbol's range allows, different for each symbol."""
    symbols = sorted({s for n in graph.inputs for d in n.dims for a in d if (s := _sym(a.size))})
    tried = [dict(sizes)]
    for offers in ((2, 3, 5), (33, 47, 61), (130, 257, 67), (None, None, None)):
        there = {}
        for k, s in enumerate(symbols):
            offer = offers[k % 3] or 2 * sizes[s.name] + 1
            there[s.name] = min(max(offer, s.lo, 2), s.hi)
        elements = [_elements(n, there) for n in graph.inputs]
        if symbols and there not in tried and max(elements) <= MOST:
            tried.append(there)
            yield there


def _sym(size: Any) -> Sym | None:
    return size if isinstance(size, Sym) else None


def _shape(node: Input, sizes: Mapping[str, int]) -> list[int]:
    shape = []
    for dim in node.dims:
        n = 1
        for a in dim:
            n *= extent(a.size, sizes)
        shape.append(n)
    return shape


def _elements(node: Input, sizes: Mapping[str, int]) -> int:
    n = 1
    for size in _shape(node, sizes):
        n *= size
    return n


def resized(node: Input, tensor: torch.Tensor, sizes: Mapping[str, int]) -> torch.Tensor:
    """The tensor cut or tiled to other sizes, in the strides that the input has there."""
    shape = _shape(node, sizes)
    out = torch.empty_strided(
        shape, [s.value(sizes) for s in node.strides], dtype=DTYPES[node.dtype].torch
    )
    for d, n in enumerate(shape):
        if n != tensor.shape[d]:
            tensor = tensor.index_select(d, torch.arange(n) % tensor.shape[d])
    return out.copy_(tensor) if 0 not in out.stride() else tensor.expand(shape)


def _exact(graph: Graph, sizes: Mapping[str, int], *tensors: torch.Tensor) -> list[torch.Tensor]:
    return floats.run(graph, tensors, sizes)


ROUNDED = 2.0**-6
"""Share of truth values and integers that rounding may decide otherwise in eager PyTorch (ties)."""


def _strays(graph: Graph, report: Gate) -> str:
    """Where eager PyTorch is far from the float64 reference on ordinary inputs; empty if nowhere."""
    limits = [_most(graph, o.node) for o in graph.outputs]
    for c in report.classes:
        for k, (error, limit) in enumerate(zip(c.eager_of, limits, strict=False)):
            if c.name in ("given", "normal") and error > limit:
                return f"on {c.name} inputs: eager's output {k} is off by {error:.3g}"
    return ""


def _most(graph: Graph, node: int) -> float:
    """How far eager's value of a node may be from the reference's."""
    if is_float(graph.nodes[node].dtype):
        return max(2.0**-10, 32 * _coarsest(graph, node))
    rounds = any(is_float(graph.nodes[i].dtype) for i in graph.reachable([node]))
    return ROUNDED if rounds else 0.0


def _rounds(
    eager: Callable[..., object],
    graph: Graph,
    sizes: Mapping[str, int],
    tensors: Sequence[torch.Tensor],
) -> bool:
    """Whether eager PyTorch strays by rounding to 16 bits alone: in float32 it does not."""
    wide = [x.float() if x.is_floating_point() else x for x in tensors]
    if all(w.dtype == x.dtype for w, x in zip(wide, tensors, strict=True)):
        return False
    try:
        with torch.no_grad():
            theirs = eager(*wide)
    except RuntimeError:  # a dtype that the program names does not go with the others
        return False
    mine = _exact(graph, sizes, *(x.double() if x.is_floating_point() else x for x in tensors))
    pairs = zip(_listed(theirs), _listed(mine), strict=True)
    return all(_near(y.double(), r.double()) for y, r in pairs)


def _near(y: torch.Tensor, r: torch.Tensor) -> bool:
    both = y.isfinite() & r.isfinite()
    off = torch.where(both, (y - r).abs(), 0.0).max() if y.numel() else 0.0
    return bool(off <= 2.0**-8 * torch.where(both, r.abs(), 0.0).max()) if y.numel() else True


def _listed(value: object) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else list(value)  # type: ignore[call-overload]


def _coarsest(graph: Graph, node: int) -> float:
    """The largest unit roundoff among the dtypes that a value passes through."""
    return max(DTYPES[graph.nodes[i].dtype].ulp for i in graph.reachable([node]))
