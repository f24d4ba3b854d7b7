"""What one entry of the tables holds: two functions, their inputs, and why they agree or differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Function = Callable[..., Any]
"""From tensors to a tensor or a tuple of them."""


@dataclass(frozen=True)
class Identity:
    """Two functions that compute the same, in real numbers, wherever both are defined.

    inputs: dtypes and shapes, as ``bench.inputs`` reads them; note: why they agree, in a line;
    below: for each input that holds indices, the size of the axis it indexes, 0 for the others (none
    are indices where it is left out); partial: one function has a value at points where the other
    has none (a pole, a logarithm of a negative number).
    """

    name: str
    f: Function
    g: Function
    inputs: str
    note: str
    below: tuple[int, ...] = ()
    partial: bool = False


@dataclass(frozen=True)
class NearMiss:
    """Two functions that look alike and differ in value for some inputs of the type ``inputs``.

    note: where they differ; at: for each input, a value or nested values that broadcast to its shape,
    where they do (left out where ordinary random inputs show it); below: as for ``Identity``.
    """

    name: str
    f: Function
    g: Function
    inputs: str
    note: str
    at: tuple[Any, ...] = ()
    below: tuple[int, ...] = ()
