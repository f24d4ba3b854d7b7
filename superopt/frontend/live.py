"""Tensors, values and code that a function holds beside its arguments: weights, closure, globals.

Held tensors are inputs of the graph, found anew at every call: a weight may be updated, or replaced
by another tensor, after the function was captured. What else the function reads (numbers, flags,
other functions) is fixed by its capture, so it is part of the function's signature.
"""

from __future__ import annotations

import collections
import contextvars
import functools
import types
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from superopt.frontend.reach import Held, reached

Layout = tuple[torch.dtype, torch.Size, tuple[int, ...], torch.device]


def layout(tensor: torch.Tensor) -> Layout:
    """What generated code takes for granted about a tensor."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.device


@dataclass(frozen=True, eq=False)
class Live:
    """A tensor that the function holds: ``get`` finds it now; ``layout`` is as captured.

    constant: a literal of the function's code, which nothing can change.
    """

    get: Callable[[], torch.Tensor]
    layout: Layout
    constant: bool = False


def _live(held: Held) -> Live:
    """A tensor that a function reaches, looked up anew at each call."""
    return Live(functools.partial(read, held.owner, held.key), layout(held.value))


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
    return Live(lambda: tensor, layout(tensor), constant=True)


def of_module(module: torch.nn.Module, target: str) -> Live | None:
    """The parameter or buffer called ``target``, looked up by name at each call."""
    owner: Any = module
    *path, name = target.split(".")
    for part in path:
        owner = getattr(owner, part, None)
    for table in ("_parameters", "_buffers"):
        held = getattr(owner, table, {})
        if held.get(name) is not None:
            return _live(Held(held, name, held[name]))
    return None


def found_in(fn: Callable[..., Any], tensor: torch.Tensor) -> Live | None:
    """The place through which ``fn`` reaches a tensor, None when it is in none that is looked at.

    Export hands out detached tensors; they are recognized by their memory.
    """
    for held in reached(fn):
        if isinstance(held.value, torch.Tensor) and _same_memory(held.value, tensor):
            return _live(held)
    return None


def signature(fn: Callable[..., Any], leaves: Sequence[Any] = ()) -> Iterator[Hashable]:
    """What decides, beside its arguments, which program ``fn`` is.

    Tensors count by layout, and by which of them are one and the same, or one of the ``leaves`` of
    the arguments: a tensor that is rebound to another like it makes no new program.
    """
    given = {id(leaf): k for k, leaf in enumerate(leaves)}
    seen: dict[tuple[int, torch.Size, tuple[int, ...]], int] = {}
    for held in reached(fn):
        value = held.value
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided:
                yield id(value)
                continue
            place = (value.data_ptr(), value.shape, value.stride())
            yield (
                type(value),
                seen.setdefault(place, len(seen)),
                value.dtype,
                *place[1:],
                value.device,
                value.requires_grad,
                value.is_neg(),
                given.get(id(value)),
            )
        elif type(value) is types.CodeType:
            _CODES[id(value)] = value  # its own hash would read all bytecode, at each call
            yield id(value)
        else:
            yield plain_key(value)


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
