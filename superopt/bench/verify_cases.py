"""What the suite ``verify`` tries: programs at reduced sizes, kernels, and how many mutants of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from superopt.bench.moe import MOE_LAYER
from superopt.bench.workload import Workload
from superopt.bench.workloads import WORKLOADS, workload

REDUCED: Mapping[str, Mapping[str, int]] = {
    "smollm2-135m": {"heads": 3, "kv": 1, "d": 4, "inter": 10, "ctx": 4},
    "qwen3-0.6b": {"heads": 4, "kv": 2, "d": 6, "inter": 14, "ctx": 5},
    "llama-3.2-1b": {"heads": 4, "kv": 1, "d": 8, "inter": 20, "ctx": 3},
}
"""Sizes of the blocks of a model, which keep what tells it apart: how many heads share a key."""

MODES = (("f32", "default"), ("bf16", "default"), ("bf16", "eager"))
"""Dtypes and precisions; with "eager", every rounding is a function that may not be moved."""


@dataclass(frozen=True)
class Case:
    """A program at reduced sizes; ``mutants`` and ``rewrites`` are how many of it are tried."""

    workload: str
    params: Mapping[str, int]
    dtype: str
    precision: str
    mutants: int
    rewrites: int

    def __str__(self) -> str:
        return f"{self.workload} {self.dtype} {self.precision}"


def searched(name: str) -> Workload:
    """The workload of a name, the layer with experts among them."""
    return MOE_LAYER if name == MOE_LAYER.name else workload(name)


SLOW = ("causal_sdpa", "qk_norm")
"""Workloads of whose mutants some take seconds to check: fewer of them are tried."""


def cases() -> list[Case]:
    """Every workload in every mode; whole layers, whose checks take seconds, in the first two."""
    out = []
    for w in (*WORKLOADS, MOE_LAYER):
        model, _, block = w.name.rpartition(".")
        own = REDUCED.get(model, {})
        params = {k: own.get(k, v) for k, v in w.tiny.items()}
        layer = block == "layer"
        slow = block == "attention" or w.name in SLOW
        mutants = 100 if layer else 200 if slow else 420
        for dtype, precision in MODES[:2] if layer else MODES:
            out.append(Case(w.name, params, dtype, precision, mutants, 20 if layer else 60))
    return out


@dataclass(frozen=True)
class KernelCase:
    """A kernel whose mutants are compiled: a workload at a size, for a machine that makes it split.

    cores, tile_memory (bytes): of the machine that is searched for; form: "best", or what the kernel
    must have: a "split" reduction, accumulators "carried" in a loop or so in "carried parts" of it, or
    "looped parts".
    dynamic: the dimension of the first input that is symbolic, None for none.
    """

    name: str
    workload: str
    params: Mapping[str, int] = field(default_factory=dict)
    dtype: str = "f32"
    cores: int = 1
    tile_memory: int = 1 << 20
    form: str = "best"
    dynamic: int | None = None
    tile: int = 24
    text: int = 14

    def __str__(self) -> str:
        return self.name


_LONG = {"b": 1, "m": 5, "d": 8, "t": 203}

KERNELS = (
    KernelCase("attention carried", "gqa", _LONG, cores=64, tile_memory=4096, form="carried"),
    KernelCase("attention split and merged", "gqa", {**_LONG, "m": 2}, cores=64, tile_memory=4096,
               form="split"),
    KernelCase("attention carried in parts", "gqa", {**_LONG, "m": 1, "t": 2000}, cores=64,
               tile_memory=4096, form="carried parts"),
    KernelCase("attention in one piece", "gqa", {"b": 1, "m": 6, "d": 8, "t": 21}),
    KernelCase("attention bf16", "gqa", {"b": 1, "m": 6, "d": 8, "t": 21}, "bf16"),
    KernelCase("attention with a mask", "causal_prefill", {"heads": 2, "t": 37, "d": 6}),
    KernelCase("masked carried", "causal_prefill", {"heads": 1, "t": 150, "d": 4}, cores=4,
               tile_memory=4096, form="carried"),
    KernelCase("attention normalized", "qk_norm", {"b": 1, "m": 3, "d": 8, "t": 19}),
    KernelCase("norm and product", "rmsnorm_linear", {"b": 2, "k": 70, "n": 20}),
    KernelCase("norm and product split", "rmsnorm_linear", {"b": 1, "k": 700, "n": 20}, cores=64,
               tile_memory=2048, form="looped parts"),
    KernelCase("layer norm and MLP", "gelu_mlp", {"m": 3, "h": 24, "inter": 40}),
    KernelCase("gated MLP", "gated_mlp", {"m": 3, "k": 33, "n": 20}),
    KernelCase("gated MLP bf16", "gated_mlp", {"m": 3, "k": 33, "n": 20}, "bf16"),
    KernelCase("low rank", "lora", {"m": 3, "k": 37, "n": 20, "r": 4}),
    KernelCase("normalized residual", "ntrans", {"b": 1, "n": 45}),
    KernelCase("three outputs", "qwen3-0.6b.rmsnorm_qkv",
               {"tokens": 2, "h": 12, "heads": 4, "kv": 2, "d": 6, "inter": 20}),
    KernelCase("concatenated keys", "llama-3.2-1b.attention",
               {"tokens": 2, "h": 12, "heads": 4, "kv": 2, "d": 6, "inter": 20, "ctx": 5}),
    KernelCase("gathered loss", "cross_entropy", {"m": 3, "vocab": 50}),
    KernelCase("symbolic rows", "rmsnorm_linear", {"b": 4, "k": 40, "n": 20}, dynamic=0),
    KernelCase("symbolic tails", "softmax_odd", {"b": 1, "rows": 5, "n": 37}, dynamic=2),
)  # fmt: skip
"""The kernels, whose forms are those that code generation has."""

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
