"""The plan of a compiled program: what its entry point takes, in which order, and of what sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from superopt.errors import CacheCorrupt, ShapeMismatch
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Graph


@dataclass(frozen=True, slots=True)
class Extent:
    """A size in elements: ``coef`` times the product of the symbols named."""

    coef: int
    syms: tuple[str, ...] = ()

    def value(self, sizes: Mapping[str, int]) -> int:
        """The size once the symbols are known."""
        return self.coef * math.prod(sizes[s] for s in self.syms)


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of an input or output and its dtype name; ``order`` is that of ``Output``."""

    dims: tuple[Extent, ...]
    dtype: str
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed copy of an input: of which, its bytes, and in words how it lies in memory."""

    input: int
    bytes: int
    layout: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How to call a compiled program.

    buffers: the pointers in order, each ("input" | "output" | "scratch" | "packed", position); scratch
    sizes are in bytes; packed: copies of inputs that the program reads instead where it is given them,
    made by the entry with ``_pack`` after its name; packs: whether calls are to make them; symbols:
    name -> (input, dim, divisor, lo, hi), where the run-time size is read.
    """

    entry: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    scratch: tuple[Extent, ...]
    buffers: tuple[tuple[str, int], ...]
    symbols: tuple[tuple[str, int, int, int, int, int], ...]
    packed: tuple[Packed, ...] = ()
    packs: bool = True

    def to_json(self) -> str:
        """The plan as JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Reads what ``to_json`` wrote; raises CacheCorrupt on anything else."""
        try:
            raw = json.loads(text)

            def extent(e: dict) -> Extent:
                return Extent(e["coef"], tuple(e["syms"]))

            def shape(s: dict) -> Shape:
                return Shape(tuple(extent(e) for e in s["dims"]), s["dtype"], tuple(s["order"]))

            return Plan(
                raw["entry"],
                tuple(map(shape, raw["inputs"])),
                tuple(map(shape, raw["outputs"])),
                tuple(map(extent, raw["scratch"])),
                tuple((k, n) for k, n in raw["buffers"]),
                tuple(tuple(s) for s in raw["symbols"]),
                tuple(Packed(p["input"], p["bytes"], p["layout"]) for p in raw["packed"]),
                bool(raw["packs"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise CacheCorrupt(
                f"a call plan cannot be read ({e})", "plan.json", "the entry is rebuilt"
            ) from e

    def sizes(self, tensors: Sequence[torch.Tensor]) -> dict[str, int]:
        """The run-time size of each symbol, read off the inputs; checks its range."""
        out: dict[str, int] = {}
        for name, which, dim, divisor, lo, hi in self.symbols:
            size, rest = divmod(tensors[which].shape[dim], divisor)
            if rest or not lo <= size <= hi or out.get(name, size) != size:
                raise ShapeMismatch(
                    f"dimension {dim} of input {which} is {tensors[which].shape[dim]}",
                    f"symbol {name!r}",
                    f"keep it within {lo}..{hi} times {divisor}",
                )
            out[name] = size
        return out


def make_plan(
    graph: Graph,
    entry: str,
    buffers: Sequence[str],
    scratch: Mapping[str, Extent],
    copies: Sequence[tuple[str, str, int, str]] = (),
) -> Plan:
    """The plan for a program whose entry takes the named global buffers in this order.

    copies: the packed ones, each with its name, its input's, its bytes and its layout in words.
    """
    inputs = [n.name for n in graph.inputs]
    packed = [name for name, _, _, _ in copies]
    order: list[tuple[str, int]] = []
    sizes: list[Extent] = []
    for name in buffers:
        if name in inputs:
            order.append(("input", inputs.index(name)))
        elif name in packed:
            order.append(("packed", packed.index(name)))
        elif name in scratch:
            order.append(("scratch", len(sizes)))
            sizes.append(scratch[name])
        else:
            order.append(("output", int(name.removeprefix("out"))))
    symbols: dict[str, tuple[str, int, int, int, int, int]] = {}
    for which, node in enumerate(graph.inputs):
        for d, dim in enumerate(node.dims):
            syms = [a.size for a in dim if isinstance(a.size, Sym)]
            if len(syms) == 1 and syms[0].name not in symbols:
                rest = math.prod(a.size for a in dim if isinstance(a.size, int))
                symbols[syms[0].name] = (syms[0].name, which, d, rest, syms[0].lo, syms[0].hi)
    return Plan(
        entry,
        tuple(Shape(tuple(_extent(dim) for dim in n.dims), n.dtype) for n in graph.inputs),
        tuple(
            Shape(tuple(_extent(dim) for dim in o.dims), graph.nodes[o.node].dtype, o.order)
            for o in graph.outputs
        ),
        tuple(sizes),
        tuple(order),
        tuple(symbols[k] for k in sorted(symbols)),
        tuple(Packed(inputs.index(source), n, layout) for _, source, n, layout in copies),
    )


def _extent(dim: tuple[Axis, ...]) -> Extent:
    return Extent(
        math.prod(a.size for a in dim if isinstance(a.size, int)),
        tuple(a.size.name for a in dim if isinstance(a.size, Sym)),
    )
