"""The catalogue of input classes of the numeric gate: ordinary, and where kernels go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

Fill = Callable[[torch.Tensor, float], object]
"""Turns standard normal values, in place, into the class's; told the smallest normal number."""


def _cancelling(x: torch.Tensor, _: float) -> None:
    """Neighbours that nearly cancel: sums are far smaller than their terms."""
    even, odd = x[: len(x) // 2 * 2 : 2], x[1::2]
    odd.mul_(2.0**-12).add_(1.0).mul_(even).neg_()


FAR = 31415.93
"""How far from zero values lie whose differences matter; within the range of every float type."""


def _level(x: torch.Tensor, _: float) -> None:
    """One value far from zero, another one in each draw: whether its mean is exact is luck."""
    x[:] = x[:1] + FAR


def _sprinkled(*values: float) -> Fill:
    def fill(x: torch.Tensor, _: float) -> None:
        for k, value in enumerate(values):
            # A few positions only, so that most rows of the result stay finite.
            x[(k * 7 + 3) % max(len(x), 1) :: max(len(x) // 3, 61)] = value

    return fill


CLASSES: dict[str, Fill] = {
    "normal": lambda x, _: x,
    "large": lambda x, _: x.mul_(32.0),
    "tiny_variance": lambda x, _: x.mul_(2.0**-7).add_(100.0),
    "offset": lambda x, _: x.add_(FAR),
    "level": _level,
    "cancellation": _cancelling,
    "small": lambda x, _: x.mul_(2.0**-20),
    "denormals": lambda x, tiny: x.mul_(tiny / 4),
    "constant": lambda x, _: x.fill_(0.75),
    "ties": lambda x, _: x.sign_(),
    "zeros": lambda x, _: x.zero_(),
    "negative": lambda x, _: x.abs_().mul_(4.0).add_(128.0).neg_(),
    "opposed": lambda x, _: x.abs_().mul_(4.0).add_(128.0),
    "infinities": _sprinkled(float("inf"), float("-inf")),
    "minus_infinity": _sprinkled(float("-inf")),
    "nan": _sprinkled(float("nan")),
}
"""Every class but the caller's own inputs ("given"); values are rounded to each input's dtype."""

OPPOSED = "opposed"
"""The class in which the first input is negative, the next one positive, and so on: in it, products of
two inputs are far below zero, and in ``negative`` their values are. A maximum that does not start from
minus infinity is then wrong, and the exponentials of what it is subtracted from are zero."""

ALIKE = frozenset({"offset", "level"})
"""Classes whose values are nearly equal, so that the roundings of a sum may all go one way."""

INFINITE = frozenset({"infinities", "minus_infinity"})
"""Classes with infinite values among finite ones."""

SPECIAL = INFINITE | {"nan"}
"""Classes that touch one input alone: in all of them, every element of a product would be NaN."""


SMALL = 1 << 20
"""Elements of an input up to which NaN is tried in it, beside the first."""

OTHERS = 6
"""Inputs beside the first in which NaN is tried."""


class Inputs:
    """Makes the inputs of one class after another, in memory that is used again.

    Fresh memory for each class would cost more time than everything else that the gate does with
    the weights of a real model. What a call returned is overwritten by the next.
    """

    def __init__(self, given: Sequence[torch.Tensor], generator: torch.Generator) -> None:
        self.given = given
        self._normals = storage_normals(given, generator)
        self._blocks: dict[tuple[int, torch.dtype], torch.Tensor] = {}

    def of_class(self, name: str) -> Iterator[tuple[str, list[torch.Tensor]]]:
        """Tensors like the given ones (sizes, strides, dtypes) with the values of a class, labelled.

        A class that touches one input alone touches the first, and NaN each of the small ones in
        turn. Integer and truth inputs are passed on as they are; "given" is the caller's own.
        """
        if name == "given":
            yield name, list(self.given)
            return
        floating = [k for k, base in enumerate(self._normals) if base is not None]
        first = floating[0] if floating else -1
        yield name, self._filled(name, self._normals, first)
        if name == "nan":
            others = [k for k in floating[1:] if self.given[k].numel() <= SMALL]
            for k in others[:OTHERS]:
                yield f"{name} in input {k}", self._filled(name, self._normals, k)

    def redrawn(self, label: str, generator: torch.Generator) -> list[torch.Tensor]:
        """Other values of a class; the caller's own inputs moved by a thousandth."""
        if label == "given":
            return [_moved(x, generator) for x in self.given]
        name, _, at = label.partition(" in input ")
        normals = storage_normals(self.given, generator)
        floating = [k for k, base in enumerate(normals) if base is not None]
        return self._filled(name, normals, int(at) if at else (floating[0] if floating else -1))

    def _filled(
        self, name: str, normals: Sequence[torch.Tensor | None], touched: int
    ) -> list[torch.Tensor]:
        out: list[torch.Tensor] = []
        for k, (x, base) in enumerate(zip(self.given, normals, strict=True)):
            if base is None:
                out.append(x)
                continue
            fill = CLASSES[name if k == touched or name not in SPECIAL else "normal"]
            values = self._block(k, base, base.dtype).copy_(base)
            fill(values, torch.finfo(x.dtype).tiny)
            if name == OPPOSED and k % 2 == 0:
                values.neg_()
            if x.dtype != base.dtype:
                values = self._block(k, base, x.dtype).copy_(values)
            out.append(values.as_strided(x.shape, x.stride()))
        return out

    def wide(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors with floats in float64."""
        out = []
        for k, x in enumerate(tensors):
            if x.is_floating_point() and x.dtype != torch.float64:
                key = (~k, torch.float64)
                if key not in self._blocks:
                    self._blocks[key] = torch.empty_like(x, dtype=torch.float64)
                x = self._blocks[key].copy_(x)
            out.append(x)
        return out

    def _block(self, k: int, base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if (k, dtype) not in self._blocks:
            self._blocks[k, dtype] = torch.empty_like(base, dtype=dtype)
        return self._blocks[k, dtype]


def _moved(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not x.is_floating_point():
        return x
    if any(s == 0 and n > 1 for n, s in zip(x.shape, x.stride(), strict=True)):
        return x  # its elements are not its own
    away = torch.randn(x.shape, generator=generator, dtype=torch.float64) * 2.0**-10
    out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    return out.copy_(x.double() * (1 + away))


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
        # Doubles that single precision can hold would hide a rounding to it.
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        out.append(torch.randn(reach if x.numel() else 0, generator=generator, dtype=dtype))
    return out
