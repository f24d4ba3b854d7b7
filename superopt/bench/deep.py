"""Whole models of 28 decoder layers: workloads of the search alone, which must not search each layer.

The layers are those of the suite, one after the other over one residual stream, with one pair of
cosines and sines for all; each has weights and a cache of its own. The weights take gigabytes, and
the search does not look at them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from superopt.bench.workload import Params, Spec, Workload
from superopt.bench.workloads import workload

LAYERS = 28
"""As in the configuration of Qwen3-0.6B and Llama-3.2-3B; Llama-3.2-1B has 16."""

SHARED = ("x", "cos", "sin")
"""What the layers have in common."""


def stacked(layer: Workload, layers: int) -> Workload:
    """So many layers of a workload as one: tensors of the layers one after the other, x first.

    The results are the last x and, layer by layer, what else a layer gives (k and v to be cached).
    """
    names = tuple(s.name for s in layer.specs(layer.grid[0]))

    def model(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        common = {n: next(given) for n in names if n in SHARED}
        out: list[Tensor] = []
        for _ in range(layers):
            x, *more = layer.reference(*(common[n] if n in SHARED else next(given) for n in names))
            common["x"] = x
            out += more
        return common["x"], *out

    def specs(p: Params) -> tuple[Spec, ...]:
        own = layer.specs(p)
        rest = [s for s in own if s.name not in SHARED]
        return (
            *(s for s in own if s.name in SHARED),
            *(replace(s, name=f"{s.name}_{n}") for n in range(layers) for s in rest),
        )

    def flops(p: Params) -> int:
        return layers * layer.flops(p)

    name = layer.name.replace(".layer", f".{layers}-layers")
    made: Callable[..., tuple[Tensor, ...]] = model
    return replace(layer, name=name, suites=(), reference=made, specs=specs, flops=flops)


DEEP = {
    w.name: w
    for w in (stacked(workload(n), LAYERS) for n in ("llama-3.2-1b.layer", "qwen3-0.6b.layer"))
}
"""The models by name."""
