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
from superopt.mugraph.sums import polynomial
from superopt.verify.gate import NOISE, Gate, Kernel, Known, numeric_gate
from superopt.verify.inputs import CLASSES, Inputs

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
            polynomial=polynomial(graph),
        )
        far = _strays(graph, found)
        for name, (strays, by) in far.items():
            own = name == "given" and any(c.name == "normal" for c in found.classes)
            like = name == "normal" and "given" not in far
            if like and _near_the_given(eager, graph, there, tensors, seed):
                continue
            if not _rounds(eager, graph, there, _of_class(name, tensors, seed), by, own):
                what = f"the graph does not compute the program {strays}"
                raise VerificationFailed(what, graph.name)
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


def _strays(graph: Graph, report: Gate) -> dict[str, tuple[str, tuple[float, ...]]]:
    """Ordinary classes of inputs on which eager PyTorch is far from the float64 reference.

    For each: where, in words, and how far it is off beyond what any output may be.
    """
    limits = [_most(graph, o.node) for o in graph.outputs]
    out: dict[str, tuple[str, tuple[float, ...]]] = {}
    for c in report.classes:
        if c.name not in ("given", "normal"):
            continue
        for k, (error, limit) in enumerate(zip(c.eager_of, limits, strict=False)):
            if error > limit and c.name not in out:
                text = f"on {c.name} inputs: eager's output {k} is off by {error:.3g}"
                beyond = zip(c.eager_of, limits, strict=False)
                out[c.name] = text, tuple(e if e > m else 0.0 for e, m in beyond)
    return out


def _of_class(name: str, tensors: Sequence[torch.Tensor], seed: int) -> list[torch.Tensor]:
    source = Inputs(tensors, torch.Generator().manual_seed(seed))
    return next(iter(source.of_class(name)))[1]


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
    off: Sequence[float],
    own: bool,
) -> bool:
    """Whether eager PyTorch strays by rounding alone on these inputs.

    Then it does not in a wider type: float32 for 16 bits, or float64. A program that names a type
    itself has no such run; where ``own``, it is enough that the graph is as far off when computed
    in its own types: so for the caller's inputs, which may lie far from zero, where normal ones are
    tried as well. off: eager's errors on the outputs, zero where they are no question.
    """
    mine = _exact(graph, sizes, *(x.double() if x.is_floating_point() else x for x in tensors))
    for dtype, near in ((torch.float32, NEAR), (torch.float64, NEAR_DOUBLE)):
        if any(x.dtype in _NARROWER[dtype] for x in tensors):
            wide = [x.to(dtype) if x.dtype in _NARROWER[dtype] else x for x in tensors]
            theirs = _answer(eager, wide)
            if theirs and all(_near(y, r, near) for y, r in zip(theirs, mine, strict=True)):
                return True
    if not own:
        return False
    computed = floats.run(graph, tensors, sizes, work=None)
    return all(
        e <= NOISE * _error(y, r) if r.is_floating_point() else not e
        for y, r, e in zip(computed, mine, off, strict=True)
    )


LIKE = 3
"""Draws of inputs like the caller's on which eager PyTorch must be near the graph."""


def _near_the_given(
    eager: Callable[..., object],
    graph: Graph,
    sizes: Mapping[str, int],
    tensors: Sequence[torch.Tensor],
    seed: int,
) -> bool:
    """Whether eager PyTorch is near the graph on other inputs of the means and spreads of these.

    Then the graph is the program, and eager strays on normal inputs by rounding: with weights of
    spread 1 the scores of an attention are so large that one rounding to 16 bits decides its softmax.
    """
    limits = [_most(graph, o.node) for o in graph.outputs]
    for k in range(LIKE):
        generator = torch.Generator().manual_seed(seed + k)
        drawn = [_like(x, generator) for x in tensors]
        wide = (x.double() if x.is_floating_point() else x for x in drawn)
        theirs, right = _answer(eager, drawn), _exact(graph, sizes, *wide)
        if not theirs:
            return False
        for y, r, limit in zip(theirs, right, limits, strict=True):
            if y.is_floating_point():
                off = _error(y, r)
            else:
                off = float((y != r.to(y.dtype)).double().mean()) if y.numel() else 0.0
            if not off <= limit:
                return False
    return True


def _like(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random values with the mean and the spread of a tensor; itself if they are not finite.

    One that is constant gets a spread all the same, zeros that of weights which keep the scale of what
    they are multiplied with: on constants, a wrong graph could be right.
    """
    if not x.is_floating_point() or not x.numel() or 0 in x.stride():
        return x
    std, mean = torch.std_mean(x.double(), correction=0)
    if not (std.isfinite() and mean.isfinite()):
        return x
    spread = float(std.maximum(mean.abs() / 16)) or max(x.shape[-1:], default=1) ** -0.5
    out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    return out.copy_(mean + spread * torch.randn(x.shape, generator=generator, dtype=torch.float64))


NEAR = 2.0**-8
"""How far eager in float32 may be from the float64 reference, of an output's largest element."""

NEAR_DOUBLE = 2.0**-16
"""The same in float64: of 52 bits, those that values a million times their spread leave."""

_NARROWER = {
    torch.float32: (torch.float16, torch.bfloat16),
    torch.float64: (torch.float16, torch.bfloat16, torch.float32),
}


def _answer(eager: Callable[..., object], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What eager gives; nothing where a dtype that the program names does not go with these."""
    try:
        with torch.no_grad():
            return _listed(eager(*tensors))
    except RuntimeError:
        return []


def _error(y: torch.Tensor, r: torch.Tensor) -> float:
    """The error of an output as the gate's: of a row's largest element, at the worst row."""
    if not r.numel():
        return 0.0
    y, r = (x.double().reshape(-1, x.shape[-1] if x.dim() else 1) for x in (y, r))
    off = torch.where(y.isfinite() & r.isfinite(), (y - r).abs(), 0.0)
    scale = torch.where(r.isfinite(), r.abs(), 0.0).amax(-1, keepdim=True)
    return float((off / scale.clamp_min(torch.finfo(torch.float32).tiny)).max())


def _near(y: torch.Tensor, r: torch.Tensor, near: float) -> bool:
    if not r.numel():
        return True
    y, r = y.double(), r.double()
    both = y.isfinite() & r.isfinite()
    off = torch.where(both, (y - r).abs(), 0.0).max()
    return bool(off <= near * torch.where(both, r.abs(), 0.0).max())


def _listed(value: object) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else list(value)  # type: ignore[call-overload]


def _coarsest(graph: Graph, node: int) -> float:
    """The largest unit roundoff among the dtypes that a value passes through."""
    return max(DTYPES[graph.nodes[i].dtype].ulp for i in graph.reachable([node]))
