"""Tensors, values and code that a function holds beside its arguments: weights, closure, globals.

Held tensors are inputs of the graph, found anew at every call: a weight may be updated, or replaced
by another tensor, or what owns it by another object, after the function was captured. What else the
function reads (numbers, flags, other functions) is fixed by its capture, so it is part of the
function's signature.
"""

from __future__ import annotations

import collections
import contextvars
import types
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from superopt.frontend.kinds import is_plain
from superopt.frontend.reach import Held, reached, walked

Layout = tuple[torch.dtype, torch.Size, tuple[int, ...], torch.device]


def layout(tensor: torch.Tensor) -> Layout:
    """What generated code takes for granted about a tensor."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.device


@dataclass(frozen=True, eq=False)
class Live:
    """A tensor that the function holds: the ``position``-th that it reaches; ``layout`` as captured.

    literal: a tensor literal of the function's code, which nothing can change.
    """

    position: int
    layout: Layout
    literal: torch.Tensor | None = None

    @property
    def constant(self) -> bool:
        """Whether it is a literal."""
        return self.literal is not None

    def among(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The tensor, among those that the function reaches now."""
        return tensors[self.position] if self.literal is None else self.literal


def read(owner: Any, key: Any) -> Any:
    """What a place that the function reaches holds now (see ``Held``)."""
    if isinstance(owner, contextvars.ContextVar):
        return owner.get()
    if isinstance(owner, weakref.ref):
        return owner()
    if isinstance(owner, list | tuple | dict | collections.deque | types.MappingProxyType) and not (
        isinstance(key, str) and key in getattr(owner, "__dict__", ())
    ):
        return owner[key]
    held = getattr(owner, "__dict__", ())
    return held[key] if key in held else getattr(owner, key)  # not what a descriptor makes of it


def literal(tensor: torch.Tensor) -> Live:
    """A tensor literal of the function's code."""
    return Live(-1, layout(tensor), tensor)


def found_in(fn: Callable[..., Any], tensor: torch.Tensor) -> Live | None:
    """The place through which ``fn`` reaches a tensor, None when it is in none that is looked at.

    Export hands out detached tensors; they are recognized by their memory.
    """
    for place, held in enumerate(_tensors(fn)):
        if _same_memory(held.value, tensor):
            return Live(place, layout(held.value))
    return None


def _tensors(fn: Callable[..., Any]) -> list[Held]:
    return [held for held in reached(fn) if isinstance(held.value, torch.Tensor)]


def state(
    fn: Callable[..., Any], leaves: Sequence[Any] = ()
) -> tuple[list[Hashable], list[torch.Tensor]]:
    """What decides, beside its arguments, which program ``fn`` is, and the tensors that it holds.

    Tensors count by layout, and by which of them are one and the same, or one of the ``leaves`` of
    the arguments: a tensor that is rebound to another like it makes no new program. Where two
    states are equal, tensors at one position have the same role (see ``reached``).
    """
    return state_of(walked(fn), leaves)


def state_of(
    walk: Sequence[tuple[Any, Any, Any]], leaves: Sequence[Any] = ()
) -> tuple[list[Hashable], list[torch.Tensor]]:
    """``state`` of a function of which this is the walk (see ``walked``)."""
    given = {id(leaf): k for k, leaf in enumerate(leaves)}
    seen: dict[Any, int] = {}
    out: list[Hashable] = []
    tensors: list[torch.Tensor] = []
    add = out.append
    for _, key, value in walk:
        add(key if type(key) in _NAMES else _key(key))
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            if value.layout != torch.strided:
                add(id(value))
                continue
            place = (value.data_ptr(), value.shape, value.stride())
            add(
                (
                    type(value),
                    seen.setdefault(place, len(seen)),
                    value.dtype,
                    *place[1:],
                    value.device,
                    value.requires_grad,
                    value.is_neg(),
                    given.get(id(value)),
                    seen.setdefault(id(value), len(seen)),
                )
            )
        elif type(value) is types.CodeType:
            _CODES[id(value)] = value  # its own hash would read all bytecode, at each call
            add(id(value))
        elif type(value) in _TOLD_APART:
            add(value)
        else:
            add(plain_key(value))
    return out, tensors


_TOLD_APART = frozenset((str, type, type(None), tuple))
"""Types of values that equal none of another type."""


_NAMES = frozenset((str, int, type(None)))


def _key(key: Any) -> Hashable:
    """What stands for a key of a mapping that is no name: the walk notes those that are plain."""
    return None if is_plain(key) or isinstance(key, type) else id(key)


_CODES: dict[int, types.CodeType] = {}
"""Code that is told apart by identity, and so must live on."""


def plain_key(value: Any) -> Hashable:
    """A plain value as a key: 0.0 and -0.0 differ, a NaN equals itself, 1 is not 1.0."""
    return type(value), repr(value) if isinstance(value, float | complex) else value


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a is b:
        return True
    return (
        a.layout == b.layout == torch.strided
        and a.numel() > 0
        and a.data_ptr() == b.data_ptr()
        and layout(a) == layout(b)
    )
