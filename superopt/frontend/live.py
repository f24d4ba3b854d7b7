"""Tensors and values that a function holds beside its arguments: weights, closure, globals.

Held tensors are inputs of the graph, found anew at every call: a weight may be updated, or replaced
by another tensor, after the function was captured. What else the function reads (numbers, flags)
is fixed by its capture, so it is part of the function's signature.
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

Layout = tuple[torch.dtype, torch.Size, tuple[int, ...], torch.device]

PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype})

MOST = 256
"""Elements up to which a container's contents are looked at."""

_FOREIGN = ("torch", "superopt", "numpy", "builtins", "math", "typing", "collections", "functools")


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


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor or plain value that a function can reach: ``owner`` has it under ``key``."""

    owner: Any
    key: Any
    value: Any

    def live(self) -> Live:
        """The tensor, looked up anew at each call."""
        elements = isinstance(self.owner, list | tuple | dict)
        read = operator.getitem if elements else getattr
        return Live(functools.partial(read, self.owner, self.key), layout(self.value))


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
            return Held(held, name, held[name]).live()
    return None


def found_in(fn: Callable[..., Any], tensor: torch.Tensor) -> Live | None:
    """The place through which ``fn`` reaches a tensor, None when it is in none that is looked at.

    Export hands out detached tensors; they are recognized by their memory.
    """
    for held in reached(fn):
        if isinstance(held.value, torch.Tensor) and _same_memory(held.value, tensor):
            return held.live()
    return None


def signature(fn: Callable[..., Any]) -> Iterator[Hashable]:
    """What decides, beside its arguments, which program ``fn`` is.

    Tensors count by layout, and by which of them are one and the same: a tensor that is rebound to
    another like it makes no new program.
    """
    seen: dict[tuple[int, torch.Size, tuple[int, ...]], int] = {}
    for held in reached(fn):
        value = held.value
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided:
                yield id(value)
                continue
            place = (value.data_ptr(), value.shape, value.stride())
            yield seen.setdefault(place, len(seen)), *layout(value), value.requires_grad
        else:
            yield plain_key(value)


def plain_key(value: Any) -> Hashable:
    """A plain value as a key: 0.0 and -0.0 differ, a NaN equals itself, 1 is not 1.0."""
    return type(value), repr(value) if isinstance(value, float | complex) else value


def reached(fn: Any) -> Iterator[Held]:
    """The tensors and plain values that ``fn`` reads beside its arguments, in a fixed order.

    Looked through are closure cells, the globals that its code names, functions and methods it
    names in turn, modules with their parameters and buffers, and attributes and elements of other
    objects, two levels deep and ``MOST`` elements wide.
    """
    yield from _function(fn, set())


def _function(fn: Any, seen: set[int]) -> Iterator[Held]:
    if id(fn) in seen:
        return
    seen.add(id(fn))
    if isinstance(fn, torch.nn.Module):
        yield from _module(fn, seen)
        return
    if isinstance(fn, functools.partial):
        for place in (fn.args, fn.keywords):
            yield from _elements(place, seen, 2)
        yield from _function(fn.func, seen)
        return
    owner = getattr(fn, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        yield from _value(fn, "__self__", owner, seen, 2)
    fn = getattr(fn, "__func__", fn)
    fn = getattr(fn, "__wrapped__", fn)
    if not isinstance(fn, types.FunctionType):
        if not _foreign(type(fn)):  # an object that can be called
            for name, item in getattr(fn, "__dict__", {}).items():
                yield from _value(fn, name, item, seen, 2)
            yield from _function(type(fn).__call__, seen)
        return
    for cell in fn.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:
            continue  # a cell that is still empty
        yield from _value(cell, "cell_contents", value, seen, 2)
    names = _names(fn.__code__)
    for name in names:
        if name in fn.__globals__:
            value = fn.__globals__[name]
            if isinstance(value, types.ModuleType):
                yield from _of_user_module(value, names, seen)
            else:
                yield from _value(fn.__globals__, name, value, seen, 2)


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The global and attribute names of a function's code, and of functions defined in it."""
    names = dict.fromkeys(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names.update(dict.fromkeys(_names(const)))
    return tuple(names)


def _of_user_module(
    module: types.ModuleType, names: tuple[str, ...], seen: set[int]
) -> Iterator[Held]:
    if module.__name__.split(".")[0] in _FOREIGN:
        return
    for name in names:
        value = module.__dict__.get(name)
        if value is not None and not isinstance(value, types.ModuleType):
            yield from _value(module.__dict__, name, value, seen, 2)


def _module(module: torch.nn.Module, seen: set[int]) -> Iterator[Held]:
    for part in module.modules():
        seen.add(id(part))
        for table in (part._parameters, part._buffers):
            for name, value in table.items():
                yield Held(table, name, value)
        for name, value in part.__dict__.items():
            if name[:1] != "_":
                yield from _value(part, name, value, seen, 1)
        if not _foreign(type(part)):
            yield from _function(type(part).forward, seen)


def _value(owner: Any, key: Any, value: Any, seen: set[int], depth: int) -> Iterator[Held]:
    if isinstance(value, torch.Tensor) or type(value) in PLAIN:
        yield Held(owner, key, value)
    elif isinstance(value, torch.nn.Module | functools.partial) or (
        isinstance(value, types.FunctionType | types.MethodType) and not _foreign(value)
    ):
        yield from _function(value, seen)
    elif depth and not isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
        if isinstance(value, list | tuple | dict):
            yield from _elements(value, seen, depth)
        elif id(value) not in seen and not _foreign(type(value)):
            seen.add(id(value))
            inner = getattr(value, "__wrapped__", None) or getattr(value, "fn", None)
            if callable(inner):  # a decorated function
                yield from _function(inner, seen)
            for name, item in getattr(value, "__dict__", {}).items():
                yield from _value(value, name, item, seen, depth - 1)


def _elements(value: Any, seen: set[int], depth: int) -> Iterator[Held]:
    if len(value) > MOST:
        yield Held(value, None, len(value))
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _value(value, key, item, seen, depth - 1)


def _foreign(thing: Any) -> bool:
    return (getattr(thing, "__module__", None) or "").split(".")[0] in _FOREIGN


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a is b:
        return True
    return (
        a.layout == b.layout == torch.strided
        and a.numel() > 0
        and a.data_ptr() == b.data_ptr()
        and layout(a) == layout(b)
    )
