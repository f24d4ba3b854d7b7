"""What a function can reach beside its arguments: closure, globals, modules, objects, other code."""

from __future__ import annotations

import array
import collections
import contextlib
import contextvars
import enum
import functools
import sys
import types
import weakref
from typing import Any, NamedTuple, TypeVar

import torch

from superopt.frontend.kinds import (
    CONTAINERS,
    PLAIN,
    decorated,
    draws,
    is_c_data,
    is_installed,
    is_library,
    is_memo,
    is_number,
    is_plain,
    of_library,
    of_torch,
    of_users,
    remembered,
    slots,
    token,
    vars_of,
)
from superopt.frontend.names import imported, mentioned, read_globals

MOST = 256
"""Elements up to which a container's contents are looked at, unless all are plain."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")

HOOKS_OF_ALL = (
    ("before all", torch.nn.modules.module._global_forward_pre_hooks),
    ("after all", torch.nn.modules.module._global_forward_hooks),
)

_MAKING = frozenset(("__init__", "__new__", "__post_init__", "__init_subclass__"))
"""Methods that matter where code names a class, and not where it holds an object of it."""

_UNMAKING = frozenset(("__del__",))

_NOT_CALLED = _UNMAKING | {"__repr__", "__str__", "__reduce__", "__getstate__"}
"""Methods of a user's class that operators and calls do not reach."""

_BARE = frozenset((*CONTAINERS, collections.OrderedDict, collections.defaultdict, torch.Size))

SUBCLASSED = (int, float, complex, str, bytes)

DEEPEST = 16
"""Levels of containers in containers that are looked at."""

DEPTH = 2
"""Levels of attributes and elements that are looked at whether code names them or not."""


W = TypeVar("W", bound="Walk")


class Held(NamedTuple):
    """A tensor, plain value or mark that a walk finds: ``owner`` has it under ``key``."""

    owner: Any
    key: Any
    value: Any


def reached(fn: Any) -> list[Held]:
    """What ``fn`` reads beside its arguments, in a fixed order: tensors, plain values, code.

    Looked through are closure cells, defaults, the globals that its code names, functions and
    methods it names in turn, modules with their parameters, buffers and forward hooks, and
    attributes and elements of other objects: ``DEPTH`` levels deep all of them, and deeper those
    whose names occur in the code; containers in containers ``DEEPEST`` levels. Functions count by
    their code, classes and functions of libraries by identity, and so do those that the functions
    of an installed package call. Not seen are the environment, files,
    and attributes deeper than that whose names are put together at run time.

    Keys, values and marks (where a thing is opened, met again, and closed) tell the whole structure:
    where two walks give the same, what stands at one position has the same role in both.
    """
    return [Held(*held) for held in _walked(fn).held]


def places(fn: Any) -> list[Held]:
    """Every place that ``reached`` looks at, with what is there: containers and objects as well."""
    return [Held(*place) for place in _walked(fn).places]


def walked(fn: Any) -> list[tuple[Any, Any, Any]]:
    """As ``reached``, in plain tuples: this is done at every call."""
    return _walked(fn).held


def _walked(fn: Any) -> Walk:
    return settled(fn, Walk)


def settled(fn: Any, kind: type[W]) -> W:
    """A walk of this kind over ``fn``, made again until code names nothing that was passed by."""
    names = _known_names(fn)
    while True:
        count = len(names)
        walk = kind(names)
        walk.root(fn)
        if len(names) == count:
            return walk


_NAMES: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def _known_names(fn: Any) -> set[str]:
    """The names that the code which ``fn`` reaches has mentioned so far."""
    try:
        return _NAMES.setdefault(getattr(fn, "__func__", fn), set())
    except TypeError:  # it cannot be a key, or not be referred to weakly
        return set()


_AGAIN = "again"

_CLOSED = (None, None, ")")
"""The mark after the last thing inside of a function, module, object or namespace."""


class Walk:
    """One look through all that a function reaches; nothing is looked into twice."""

    def __init__(self, names: set[str]) -> None:
        self.seen: dict[int, int] = {}
        self.names = names
        self.held: list[tuple[Any, Any, Any]] = []
        self.places: list[tuple[Any, Any, Any]] = []
        self.add = self.held.append
        self.installed = False  # whether this is what an installed package's code or module names

    def root(self, fn: Any) -> None:
        """Where the walk begins."""
        if self.opened(None, None, fn):
            self.inside(fn)

    def opened(self, owner: Any, key: Any, thing: Any) -> bool:
        """Notes a thing to look into by its class; one that was met before, by which one it is."""
        before = len(self.seen)
        which = self.seen.setdefault(id(thing), before)
        self.add((owner, key, type(thing) if which == before else (_AGAIN, which)))
        return which == before

    def inside(self, fn: Any) -> None:
        """A function, method, module, partial or callable object."""
        if isinstance(fn, torch.nn.Module):
            self.module(fn)
        elif isinstance(fn, functools.partial):
            self.elements(fn, "args", fn.args, DEPTH)
            self.elements(fn, "keywords", fn.keywords, DEPTH)
            self.value(fn, "func", fn.func, DEPTH)
        else:
            self.called(fn)
        self.add(_CLOSED)

    def called(self, fn: Any) -> None:
        """A function, method or callable object."""
        inner = getattr(fn, "__func__", fn)
        if not isinstance(inner, types.FunctionType) and (under := decorated(inner)):
            inner = under[1]
        if isinstance(inner, types.FunctionType):
            self.names.update(mentioned(inner.__code__))
        owner = getattr(fn, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.value(fn, "__self__", owner, DEPTH)
        if isinstance(inner, types.FunctionType):
            self.code(inner)
        elif not is_library(type(inner)):  # an object that can be called
            self.value(type(inner), "__call__", type(inner).__call__, DEPTH)
            self.attributes(inner, DEPTH)

    def code(self, fn: types.FunctionType) -> None:
        """A Python function: its code, its defaults, closure, attributes and globals."""
        self.add((fn, "__code__", fn.__code__))
        for name in ("__defaults__", "__kwdefaults__"):
            if values := getattr(fn, name):
                self.elements(fn, name, values, DEPTH)
        for cell in fn.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                self.add((cell, "cell_contents", "empty"))
                continue
            self.value(cell, "cell_contents", value, DEPTH)
        for name, item in fn.__dict__.items():
            self.value(fn.__dict__, name, item, DEPTH)
        before, self.installed = self.installed, is_installed(fn)
        self.namespace(fn.__globals__, read_globals(fn.__code__), mentioned(fn.__code__))
        for name in imported(fn.__code__) if not self.installed else ():
            if name in sys.modules:
                self.value(sys.modules, name, sys.modules[name], DEPTH)
        self.installed = before

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
            elif self.opened(table, name, value):
                inside, picked = value.__dict__, names
                if is_library(value):  # no classes of its own
                    picked = tuple(
                        n
                        for n in names
                        if n in inside and not isinstance(inside[n], type | torch.Tensor)
                    )
                self.namespace(inside, picked, names)
                self.add(_CLOSED)

    def module(self, module: torch.nn.Module) -> None:
        """A module and all it contains."""
        kind = type(module)
        for name, hooks in (*HOOKS_OF_ALL, *((n, getattr(module, n)) for n in _HOOKS)):
            if hooks:  # their numbers differ from one registration to the next
                self.elements(module, name, tuple(hooks.values()), DEPTH)
        self.classes(kind)
        if not is_library(kind) or not of_library(kind.forward):
            self.value(kind, "forward", kind.forward, DEPTH)
        for table in (module._parameters, module._buffers):
            self.add((module, "tensors", len(table)))
            for name, value in table.items():
                self.tensor(table, name, value, DEPTH - 1)
        for name, value in module.__dict__.items():
            if not of_torch(name):
                self.value(module, name, value, DEPTH - 1)
        for name, part in module._modules.items():
            self.value(module._modules, name, part, DEPTH - 1)

    def tensor(self, owner: Any, key: Any, value: Any, depth: int) -> None:
        """A tensor (or none), and the attributes it was given."""
        self.add((owner, key, value))
        if value is not None and value.__dict__:
            self.elements(value, "__dict__", value.__dict__, depth)

    def value(self, owner: Any, key: Any, value: Any, depth: int) -> None:
        """Whatever ``owner`` has under ``key``; objects are opened while ``depth`` lasts."""
        kind = type(value)
        self.places.append((owner, key, value))
        if kind in PLAIN:
            self.add((owner, key, value))
        elif isinstance(value, torch.Tensor):
            self.tensor(owner, key, value, depth)
        elif isinstance(value, enum.Enum):
            self.add((owner, key, value))
            if isinstance(value.value, CONTAINERS):
                self.value(value, "_value_", value.value, depth)
            self.classes(kind)
        elif is_number(kind) or draws(value):
            self.add((owner, key, value))
        elif isinstance(value, torch.nn.Module | functools.partial | types.MethodType):
            if self.opened(owner, key, value):
                self.inside(value)
        elif isinstance(value, type):
            self.add((owner, key, value))
            self.classes(value, makes=True)
            self.classes(type(value))
        elif isinstance(value, CONTAINERS):
            if kind is tuple or self.opened(owner, key, value):
                self.elements(owner, key, value, depth)
                if kind not in _BARE and not is_library(kind):
                    self.attributes(value, depth)
                self.add(_CLOSED)
        elif isinstance(value, bytearray | array.array) or is_c_data(kind):
            self.add((owner, key, (kind, bytes(memoryview(value)))))
        elif isinstance(value, contextvars.ContextVar):
            self.add((owner, key, kind))
            with contextlib.suppress(LookupError):
                self.value(value, None, value.get(), depth)
        elif isinstance(value, weakref.ref):
            self.add((owner, key, kind))
            self.value(value, None, value(), depth)
        elif isinstance(value, types.ModuleType):
            before, self.installed = self.installed, self.installed or is_installed(value)
            self.namespace({key: value}, (key,), tuple(self.names))
            self.installed = before
        elif self.installed and isinstance(value, types.FunctionType) and is_installed(value):
            self.add((owner, key, value))
        elif isinstance(value, types.FunctionType) and (
            value.__closure__ or "__wrapped__" in value.__dict__ or not is_library(value)
        ):  # a library's decorator may hold a user's function
            if self.opened(owner, key, value):
                self.inside(value)
        elif kind.__module__.startswith("torch.") and not callable(value) and vars_of(value):
            if self.opened(owner, key, value):  # an optimizer, a scheduler, a distribution
                self.attributes(value, depth)
                self.add(_CLOSED)
        elif isinstance(value, types.BuiltinFunctionType) or is_library(value):
            self.add((owner, key, token(value)))
            holder = getattr(value, "__self__", None)  # of list.append, the list
            if isinstance(holder, CONTAINERS):
                self.value(value, "__self__", holder, depth)
        elif self.opened(owner, key, value):
            self.object(owner, key, value, depth)
            self.add(_CLOSED)

    def object(self, owner: Any, key: Any, value: Any, depth: int) -> None:
        """An object of a class that is not known here: the user's, or a library's."""
        kind = type(value)
        if is_memo(value):
            self.add((owner, key, value))
            for item in remembered(value):
                self.value(value, None, item, depth)
        if under := decorated(value):
            self.value(value, *under, depth)
        elif is_library(kind):
            self.add((owner, key, token(value)))
        if not is_library(kind):
            if isinstance(value, SUBCLASSED) or not hasattr(value, "__dict__"):
                self.add((owner, key, token(value)))
            self.attributes(value, depth)

    def attributes(self, value: Any, depth: int) -> None:
        """The attributes of an object, and those of its classes that code names."""
        for name, item in vars_of(value).items():
            if depth > 0 or name in self.names:
                self.value(value, name, item, depth - 1)
        for name in sorted(self.names.intersection(slots(type(value)))):
            if hasattr(value, name):
                self.value(value, name, getattr(value, name), depth - 1)
        self.classes(type(value))

    def classes(self, kind: type, makes: bool = False) -> None:
        """The attributes of a user's class, and of those it inherits from, that code names."""
        for base in of_users(kind.__mro__):
            before = len(self.seen)
            if self.seen.setdefault(id(base) + makes, before) != before:  # ids are even
                continue
            self.add((None, None, base))
            skipped = _NOT_CALLED - _UNMAKING if makes else _NOT_CALLED | _MAKING
            for name, item in list(base.__dict__.items()):
                item = getattr(item, "__func__", item.fget if isinstance(item, property) else item)
                if isinstance(item, functools.partialmethod | functools.cached_property):
                    item = item.func
                if isinstance(item, functools.singledispatchmethod):
                    item = item.dispatcher
                called = isinstance(item, types.FunctionType) and name[:2] == "__"
                if name in self.names or (called and name not in skipped):
                    self.value(base, name, item, 1)

    def elements(self, owner: Any, key: Any, value: Any, depth: int) -> None:
        """The elements of a container, and how many they are."""
        self.add((owner, key, (type(value), len(value))))
        if isinstance(value, set | frozenset):
            if all(is_plain(item) for item in value):
                self.add((value, None, frozenset((type(item), item) for item in value)))
            elif len(value) <= MOST and depth > -DEEPEST:
                for item in list(value):
                    self.add((value, None, id(item)))  # whether it is in there is asked, too
                    self.value(value, None, item, depth - 1)
            else:
                self.add((value, None, id(value)))
        elif len(value) <= MOST and depth > -DEEPEST:
            mapping = isinstance(value, dict | types.MappingProxyType)
            for name, item in list(value.items()) if mapping else enumerate(value):
                if mapping and type(name) is not str:
                    self.value(value, None, name, depth - 1)
                self.value(value, name, item, depth - 1)
        else:
            items: Any = value.items() if isinstance(value, dict) else enumerate(value)
            flat = tuple(item for pair in items for item in pair)
            kinds = tuple(map(type, flat))  # 1 is not 1.0
            if PLAIN.issuperset(kinds):
                self.add((value, None, (kinds, flat)))
