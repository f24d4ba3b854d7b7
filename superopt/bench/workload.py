"""What a workload is: a program, its sizes, its inputs, and what it costs at least."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Params = Mapping[str, int]

_INTEGERS = {"index": torch.int64, "int8": torch.int8, "packed": torch.uint8}


@dataclass(frozen=True)
class Spec:
    """One input tensor: its name, shape, and how its values are drawn.

    kind: "normal" (mean 0, deviation ``scale``), "gain" (mean 1, deviation ``scale``), "step" (the
    steps of quantized values: positive, around ``scale``), "cos" and "sin" (of rotary angles,
    [b, s, d]), "unit" (uniform in [0, 1)), "index" (int64 below ``scale``), "int8" (all but -128),
    "packed" (uint8, two values of four bits each). constant: it stays the same from call to call, as
    the weights of a model do, so that a compiler may prepare it ahead.
    """

    name: str
    shape: tuple[int, ...]
    kind: str = "normal"
    scale: float = 1.0
    constant: bool = False

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of this input when the workload runs in ``dtype``."""
        return _INTEGERS.get(self.kind, dtype)

    def draw(self, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        """The tensor, drawn in float32 and rounded, so that every dtype has the same values."""
        if self.kind == "index":
            return torch.randint(0, int(self.scale), self.shape, generator=generator)
        if self.kind in _INTEGERS:
            least, past = (-127, 128) if self.kind == "int8" else (0, 256)
            of = _INTEGERS[self.kind]
            return torch.randint(least, past, self.shape, generator=generator, dtype=of)
        if self.kind in ("cos", "sin"):
            # Positions differ between the sequences of a batch; base 10000.
            batch, steps, d = self.shape
            at = 200 + 7 * torch.arange(batch)[:, None] + torch.arange(steps)
            angle = at[..., None] * 10000.0 ** (-torch.arange(0, d, 2) / d)
            angle = torch.cat((angle, angle), -1)
            return (angle.cos() if self.kind == "cos" else angle.sin()).to(dtype)
        if self.kind == "unit":
            return torch.rand(self.shape, generator=generator).to(dtype)
        drawn = torch.randn(self.shape, generator=generator) * self.scale
        if self.kind == "step":
            return (self.scale + 0.1 * drawn).clamp_min(0.1 * self.scale).to(dtype)
        return (drawn + 1.0 if self.kind == "gain" else drawn).to(dtype)


@dataclass(frozen=True)
class Workload:
    """A program, the sizes it is run at, and what it costs at least.

    reference: the PyTorch function of the tensors in ``specs(params)``, in that order; grid: the
    sizes of the benchmark; tiny: sizes for tests; flops: operations at these sizes (a multiply and
    an add count as two, one pass of a scalar function as one); note: where shapes come from; exps:
    exponentials at these sizes, those inside tanh, sigmoid and the like among them.
    """

    name: str
    suites: tuple[str, ...]
    reference: Callable[..., Any]
    specs: Callable[[Params], tuple[Spec, ...]]
    flops: Callable[[Params], int]
    grid: tuple[Params, ...]
    tiny: Params
    note: str
    exps: Callable[[Params], int] = lambda p: 0

    def inputs(
        self, params: Params, dtype: torch.dtype, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """The input tensors at these sizes; without a generator, the same values every time."""
        if generator is None:
            generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        return tuple(s.draw(dtype, generator) for s in self.specs(params))

    def bytes(self, params: Params, dtype: torch.dtype) -> int:
        """Bytes of all inputs and outputs, each moved once."""
        meta = [
            torch.empty(s.shape, dtype=s.dtype(dtype), device="meta") for s in self.specs(params)
        ]
        out = self.reference(*meta)
        outs = (out,) if isinstance(out, Tensor) else tuple(out)
        return sum(t.numel() * t.element_size() for t in (*meta, *outs))


def batches(
    base: Params, name: str = "b", values: tuple[int, ...] = (1, 8, 16)
) -> tuple[Params, ...]:
    """``base`` once for each value of the size ``name``."""
    return tuple({name: v, **base} for v in values)
