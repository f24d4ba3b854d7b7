"""What a function can reach beside its arguments: closure, globals, modules, objects, other code."""

from __future__ import annotations

import array
import collections
import contextvars
import enum
import functools
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from superopt.frontend.kinds import (
    CONTAINERS,
    PLAIN,
    decorated,
    draws,
    is_library,
    is_memo,
    is_number,
    is_plain,
    of_torch,
    of_users,
    slots,
    token,
)
from superopt.frontend.names import imported, mentioned, read_globals

MOST = 256
"""Elements up to which a container's contents are looked at, unless all are plain."""

_HOOKS_OF_ALL = (
    torch.nn.modules.module._global_forward_pre_hooks,
    torch.nn.modules.module._global_forward_hooks,
)

_MAKING = frozenset(("__init__", "__new__", "__post_init__", "__init_subclass__"))
"""Methods that matter where code names a class, and not where it holds an object of it."""

_NOT_CALLED = frozenset(("__del__", "__repr__", "__str__", "__reduce__", "__getstate__"))
"""Methods of a user's class that operators and calls do not reach."""

_BARE = frozenset((*CONTAINERS, collections.OrderedDict, collections.defaultdict, torch.Size))

DEEPEST = 16
"""Levels of containers in containers that are looked at."""

DEPTH = 2
"""Levels of attributes and elements that are looked at whether code names them or not."""


class Held(NamedTuple):
    """A tensor or plain value that a function can reach: ``owner`` has it under ``key``."""

    owner: Any
    key: Any
    value: Any


def reached(fn: Any) -> Iterator[Held]:
    """What ``fn`` reads beside its arguments, in a fixed order: tensors, plain values, code.

    Looked through are closure cells, defaults, the globals that its code names, functions and
    methods it names in turn, modules with their parameters, buffers and forward hooks, and
    attributes and elements of other objects: ``DEPTH`` levels deep all of them, and deeper those
    whose names occur in the code; containers in containers ``DEEPEST`` levels. Functions count by
    their code, classes and functions of libraries by identity. Not seen are the environment, files,
    and attributes deeper than that whose names are put together at run time.
    """
    return iter(_walked(fn)[0])


def places(fn: Any) -> list[Held]:
    """Every place that ``reached`` looks at, with what is there: containers and objects as well."""
    return [Held(*place) for place in _walked(fn)[1]]


def _walked(fn: Any) -> tuple[list[Held], list[tuple[Any, Any, Any]]]:
    names = _known_names(fn)
    while True:
        count = len(names)
        walk = _Walk(names)
        walk.function(fn)
        if len(names) == count:  # else something was passed by before code named it
            return walk.held, walk.places


_NAMES: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def _known_names(fn: Any) -> set[str]:
    """The names that the code which ``fn`` reaches has mentioned so far."""
    try:
        return _NAMES.setdefault(getattr(fn, "__func__", fn), set())
    except TypeError:  # it cannot be a key, or not be referred to weakly
        return set()


class _Walk:
    """One look through all that a function reaches; nothing is looked at twice."""

    def __init__(self, names: set[str]) -> None:
        self.seen: set[int] = set()
        self.names = names
        self.held: list[Held] = []
        self.places: list[tuple[Any, Any, Any]] = []
        self.add = self.held.append

    def function(self, fn: Any) -> None:
        """A function, method, module, partial or callable object."""
        if id(fn) in self.seen:
            return
        self.seen.add(id(fn))
        if isinstance(fn, torch.nn.Module):
            self.module(fn)
            return
        if isinstance(fn, functools.partial):
            for place in (fn.args, fn.keywords):
                self.elements(place, DEPTH)
            self.value(fn, "func", fn.func, DEPTH)
            return
        inner = getattr(fn, "__func__", fn)
        wrapped = getattr(inner, "__wrapped__", None)
        if wrapped is not None and not isinstance(inner, types.FunctionType):
            inner, wrapped = wrapped, None
        if isinstance(inner, types.FunctionType):
            self.names.update(mentioned(inner.__code__))
        owner = getattr(fn, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.value(fn, "__self__", owner, DEPTH)
        if isinstance(inner, types.FunctionType):
            self.code(inner)
            if wrapped is not None:
                self.function(wrapped)
        elif not is_library(type(inner)):  # an object that can be called
            self.function(type(inner).__call__)
            self.attributes(inner, DEPTH)

    def code(self, fn: types.FunctionType) -> None:
        """A Python function: its code, its defaults, closure and globals."""
        self.add(Held(fn, "__code__", fn.__code__))
        for name in ("__defaults__", "__kwdefaults__"):
            if getattr(fn, name):
                self.elements(getattr(fn, name), DEPTH)
        for cell in fn.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                continue  # a cell that is still empty
            self.value(cell, "cell_contents", value, DEPTH)
        for name, item in fn.__dict__.items():
            if name != "__wrapped__":
                self.value(fn.__dict__, name, item, DEPTH)
        self.namespace(fn.__globals__, read_globals(fn.__code__), mentioned(fn.__code__))
        for name in imported(fn.__code__):
            if name in sys.modules:
                self.value(sys.modules, name, sys.modules[name], DEPTH)

    def namespace(
        self, table: dict[str, Any], read: tuple[str, ...], names: tuple[str, ...]
    ) -> None:
        """The values of a module's namespace that code reads; of modules in it, what it mentions."""
        for name in read:
            if name not in table:
                continue
            value = table[name]
            if draws(value) or not isinstance(value, types.ModuleType):
                self.value(table, name, value, DEPTH)
            elif id(value) not in self.seen:
                self.seen.add(id(value))
                inside = value.__dict__
                if is_library(value):  # no classes of its own
                    inside = {
                        n: inside[n]
                        for n in names
                        if n in inside and not isinstance(inside[n], type | torch.Tensor)
                    }
                self.namespace(inside, names, names)

    def module(self, module: torch.nn.Module) -> None:
        """A module and all it contains."""
        for hooks in _HOOKS_OF_ALL:
            if hooks:
                self.elements(hooks, DEPTH)
        parts = [m for m in module.modules() if m is module or id(m) not in self.seen]
        self.seen.update(map(id, parts))
        for part in parts:
            self.add(Held(part, "__class__", type(part)))
            self.classes(type(part))
            for table in (part._parameters, part._buffers):
                for name, value in table.items():
                    self.add(Held(table, name, value))
            for hooks in (part._forward_pre_hooks, part._forward_hooks):
                if hooks:
                    self.elements(hooks, DEPTH)
            for name, value in part.__dict__.items():
                if not of_torch(name):
                    self.value(part, name, value, DEPTH - 1)
            if not is_library(type(part)):
                self.function(type(part).forward)

    def value(self, owner: Any, key: Any, value: Any, depth: int) -> None:
        """Whatever ``owner`` has under ``key``; objects are opened while ``depth`` lasts."""
        kind = type(value)
        self.places.append((owner, key, value))
        if kind in PLAIN:
            self.add(Held(owner, key, value))
        elif isinstance(value, torch.Tensor):
            self.add(Held(owner, key, value))
            if value.__dict__:
                self.elements(value.__dict__, depth)
        elif isinstance(value, enum.Enum) or is_number(kind) or draws(value):
            self.add(Held(owner, key, value))
        elif isinstance(value, torch.nn.Module | functools.partial | types.MethodType):
            self.function(value)
        elif isinstance(value, type):
            self.add(Held(owner, key, value))
            self.classes(value, makes=True)
            self.classes(type(value))
        elif isinstance(value, CONTAINERS):
            self.elements(value, depth)
            if not is_library(kind) and kind not in _BARE and id(value) not in self.seen:
                self.seen.add(id(value))
                self.attributes(value, depth)
        elif isinstance(value, bytearray | array.array):
            self.add(Held(value, None, (kind, bytes(value))))
        elif isinstance(value, contextvars.ContextVar):
            self.value(value, None, value.get(None), depth)
        elif isinstance(value, weakref.ref):
            self.value(value, None, value(), depth)
        elif isinstance(value, types.ModuleType):
            self.namespace({"": value}, ("",), tuple(self.names))
        elif isinstance(value, types.FunctionType) and (
            value.__closure__ or "__wrapped__" in value.__dict__ or not is_library(value)
        ):
            self.function(value)  # a library's decorator may hold a user's function
        elif isinstance(value, types.BuiltinFunctionType) or is_library(value):
            self.add(Held(owner, key, token(value)))
            holder = getattr(value, "__self__", None)  # of list.append, the list
            if isinstance(holder, CONTAINERS):
                self.value(value, "__self__", holder, depth)
        elif id(value) not in self.seen:
            self.seen.add(id(value))
            if isinstance(value, int | float | complex | str | bytes):  # of a subclass
                self.add(Held(owner, key, token(value)))
            inner = decorated(value)
            if is_memo(value):
                self.add(Held(owner, key, value))
            if callable(inner):  # a decorated function
                self.function(inner)
            elif is_library(kind):
                self.add(Held(owner, key, token(value)))
            if not is_library(kind):
                if not hasattr(value, "__dict__"):
                    self.add(Held(owner, key, token(value)))
                self.add(Held(value, "__class__", kind))
                self.attributes(value, depth)

    def attributes(self, value: Any, depth: int) -> None:
        """The attributes of an object, and those of its classes that code names."""
        for name, item in getattr(value, "__dict__", {}).items():
            if depth > 0 or name in self.names:
                self.value(value, name, item, depth - 1)
        for name in sorted(self.names.intersection(slots(type(value)))):
            if hasattr(value, name):
                self.value(value, name, getattr(value, name), depth - 1)
        self.classes(type(value))

    def classes(self, kind: type, makes: bool = False) -> None:
        """The attributes of a user's class, and of those it inherits from, that code names."""
        for base in of_users(kind.__mro__):
            if id(base) + makes in self.seen:  # ids are even
                continue
            self.seen.add(id(base) + makes)
            for name, item in list(base.__dict__.items()):
                item = getattr(item, "__func__", item.fget if isinstance(item, property) else item)
                if isinstance(item, functools.partialmethod | functools.cached_property):
                    item = item.func
                if isinstance(item, functools.singledispatchmethod):
                    item = item.dispatcher
                if isinstance(item, types.FunctionType):
                    called = name[:2] == "__" and name not in _NOT_CALLED
                    if name in self.names or (called and (makes or name not in _MAKING)):
                        self.function(item)
                elif name in self.names:
                    self.value(base, name, item, 1)

    def elements(self, value: Any, depth: int) -> None:
        """The elements of a container, and how many they are."""
        self.add(Held(value, None, len(value)))
        if isinstance(value, set | frozenset):
            plain = all(is_plain(item) for item in value)
            self.add(Held(value, None, frozenset(value) if plain else id(value)))
        elif len(value) <= MOST and depth > -DEEPEST:
            mapping = isinstance(value, dict | types.MappingProxyType)
            for key, item in list(value.items()) if mapping else enumerate(value):
                if mapping and (is_plain(key) or isinstance(key, type)):
                    self.add(Held(value, None, key))
                self.value(value, key, item, depth - 1)
        elif isinstance(value, list | tuple) and PLAIN.issuperset(map(type, value)):
            self.add(Held(value, None, tuple(value)))
