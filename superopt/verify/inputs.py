"""The catalogue of input classes of the numeric gate: ordinary, and where kernels go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Fill = Callable[[torch.Tensor, float], torch.Tensor]
"""From standard normal values and the smallest normal number, the class's values."""


def _cancelling(x: torch.Tensor, _: float) -> torch.Tensor:
    """Neighbours that nearly cancel: sums are far smaller than their terms."""
    out = x.repeat_interleave(2)[: len(x)].clone()
    out[1::2] = -out[1::2] * (1 + 2.0**-12 * x[1::2])
    return out


def _sprinkled(*values: float) -> Fill:
    def fill(x: torch.Tensor, _: float) -> torch.Tensor:
        out = x.clone()
        for k, value in enumerate(values):
            # A few positions only, so that most rows of the result stay finite.
            out[(k * 7 + 3) % max(len(out), 1) :: max(len(out) // 3, 61)] = value
        return out

    return fill


CLASSES: dict[str, Fill] = {
    "normal": lambda x, _: x,
    "large": lambda x, _: 32.0 * x,
    "tiny_variance": lambda x, _: 100.0 + 2.0**-7 * x,
    "cancellation": _cancelling,
    "small": lambda x, _: 2.0**-20 * x,
    "denormals": lambda x, tiny: tiny * x / 4,
    "constant": lambda x, _: torch.full_like(x, 0.75),
    "ties": lambda x, _: x.sign(),
    "zeros": lambda x, _: torch.zeros_like(x),
    "infinities": _sprinkled(float("inf"), float("-inf")),
    "minus_infinity": _sprinkled(float("-inf")),
    "nan": _sprinkled(float("nan")),
}
"""Every class but the caller's own inputs ("given"); values are rounded to each input's dtype."""

SPECIAL = frozenset({"infinities", "minus_infinity", "nan"})
"""Classes that touch one input alone: in all of them, every element of a product would be NaN."""


def class_inputs(
    name: str, given: Sequence[torch.Tensor], normals: Sequence[torch.Tensor | None]
) -> list[torch.Tensor]:
    """Tensors like ``given`` (sizes, strides, dtypes) with the values of a class.

    normals: per float input, one standard normal number per element of its storage; integer and
    truth inputs (None) are passed on as they are.
    """
    out: list[torch.Tensor] = []
    first = True
    for x, base in zip(given, normals, strict=True):
        if base is None:
            out.append(x)
            continue
        fill = CLASSES[name if first or name not in SPECIAL else "normal"]
        first = False
        tiny = torch.finfo(x.dtype).tiny
        values = fill(base, tiny).to(x.dtype)
        out.append(values.as_strided(x.shape, x.stride()))
    return out


def storage_normals(
    given: Sequence[torch.Tensor], generator: torch.Generator
) -> list[torch.Tensor | None]:
    """For each float input, a standard normal number per element that its strides reach."""
    out: list[torch.Tensor | None] = []
    for x in given:
        if not x.is_floating_point():
            out.append(None)
            continue
        reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
        values = torch.randn(reach if x.numel() else 0, generator=generator)
        out.append(values.double() if x.dtype == torch.float64 else values)
    return out
