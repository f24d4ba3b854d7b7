"""Writes down what a look at a function read, so that a short program can read it again.

A call that is like an earlier one needs no second look: the program of a ``_core.Watch`` reads the same
places, and compares what is there. It may say "changed" of what is not; never "the same" of what is
not. What is not known to be safe here is not watched, and looked at anew at each call.
"""

from __future__ import annotations

import array
import collections
import contextvars
import enum
import functools
import gc
import inspect
import sys
import types
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

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
    of_users,
    slots,
    token,
    vars_of,
)
from superopt.frontend.live import state_of
from superopt.frontend.names import imported
from superopt.frontend.reach import HOOKS_OF_ALL, MOST, SUBCLASSED, Walk, settled

(
    CONSTANT,
    ITEM,
    ABSENT,
    ITEMS,
    ATTRIBUTE,
    OWN,
    ELEMENT,
    LENGTH,
    IS,
    SAME,
    TENSOR,
) = range(11)
"""The operations of a watch, as csrc/core/repeat.cpp numbers them."""

Row = tuple[int, int, int, Any, int]

_UNMADE = (functools.partialmethod, functools.cached_property, functools.singledispatchmethod)


_CHANGING = (
    *(bytearray, memoryview, array.array, functools.partial),
    *(contextvars.ContextVar, weakref.ref),
)
"""Types whose objects change and stay the same, without an attribute or element to compare."""


class Unwatched(Exception):
    """Something is read that a watch cannot compare; its words say what."""


def watch(
    fn: Any, exchange: Any, leaves: Sequence[Any], read: Sequence[Hashable]
) -> tuple[Any, list[torch.Tensor]]:
    """A watch over all that ``fn`` reads, whose state (``live.state``) is ``read`` now, and its tensors.

    exchange: the capsule of DLPack's C functions for tensors. Raises Unwatched where it reads what is
    not watched, or has changed.
    """
    from superopt._core import Watch

    walk = settled(fn, _Written)
    now, tensors = state_of(walk.held, leaves)
    if now != list(read) or list(map(id, tensors)) != list(map(id, walk.tensors)):
        raise Unwatched("its state has changed")
    try:
        return Watch(exchange, walk.rows, walk.count, walk.tensors), tensors
    except ValueError as error:
        raise Unwatched(str(error)) from error


class _Written(Walk):
    """A walk that writes down where each thing was read, and what it was.

    where: the register of each object whose inside is read; slots: that of what an owner has under a
    key. Objects that are opened count by address and class, which keeps none of them alive: their
    contents are compared in turn. What is not opened counts by identity, and is kept.
    """

    def __init__(self, names: set[str]) -> None:
        super().__init__(names)
        self.rows: list[Row] = []
        self.count = 1  # register 0 is empty
        self.where: dict[int, int] = {}
        self.slots: dict[tuple[int, Any], int] = {}
        self.tensors: list[torch.Tensor] = []
        self.classed: set[type] = set()
        self.alive: list[Any] = []  # as long as their ids are in use here

    # what is written

    def _write(self, op: int, src: int, thing: Any = None, number: int = 0, size: int = 1) -> int:
        at = self.count
        self.count += size
        self.rows.append((op, src, at, thing, number))
        return at

    def _constant(self, thing: Any) -> int:
        return self._put(thing, self._write(CONSTANT, 0, thing))

    def _put(self, thing: Any, register: int) -> int:
        self.alive.append(thing)
        return self.where.setdefault(id(thing), register)

    def _slot(self, owner: Any, key: Any, register: int) -> None:
        self.alive.append(owner)
        self.slots[id(owner), key] = register

    def _register(self, thing: Any) -> int:
        if id(thing) not in self.where:
            raise Unwatched(f"a {type(thing).__name__} was come by in an unknown way")
        return self.where[id(thing)]

    def _is(self, register: int, thing: Any) -> None:
        self.rows.append((IS, register, 0, thing, 0))

    def _same(self, register: int, thing: Any) -> None:
        self.rows.append((SAME, register, 0, type(thing), id(thing)))
        self._put(thing, register)

    def _attribute(self, register: int, owner: Any, name: str) -> tuple[int, Any]:
        value, kind = getattr(owner, name), type(owner)
        hooks = (getattr(kind, hook, None) for hook in ("__getattribute__", "__getattr__"))
        if name != "__mro__" and any(isinstance(hook, types.FunctionType) for hook in hooks):
            raise Unwatched("attributes that code makes")
        if getattr(owner, name) is not value:
            raise Unwatched("an attribute that is made when it is asked for")
        return self._write(ATTRIBUTE, register, name), value

    def _table(self, register: int, table: dict[str, Any], owner: Any) -> None:
        """All items of a dict, which ``owner`` is known to have under their names."""
        if type(table) is collections.OrderedDict and table:
            raise Unwatched("an OrderedDict has an order of its own")
        keys = tuple(table)
        first = self._write(ITEMS, register, keys, size=len(keys))
        for k, key in enumerate(keys):
            if is_plain(key):
                self._slot(owner, key, first + k)

    def _own(self, thing: Any) -> None:
        """The items of an object's ``__dict__``, if it has one."""
        if table := vars_of(thing):
            register = self._write(OWN, self._register(thing))
            self._put(table, register)
            self._table(register, table, thing)
        elif hasattr(thing, "__dict__"):
            self._write(LENGTH, self._write(OWN, self._register(thing)), number=0)

    # the walk

    def root(self, fn: Any) -> None:
        self._same(self._constant(fn), fn)  # an object may be given another class
        super().root(fn)

    def inside(self, fn: Any) -> None:
        if isinstance(fn, functools.partial):
            raise Unwatched("a partial function")
        super().inside(fn)

    def called(self, fn: Any) -> None:
        register = self._register(fn)
        if isinstance(fn, types.MethodType):
            at, inner = self._attribute(register, fn, "__func__")
            self._same(at, inner)
            at, _ = self._attribute(register, fn, "__self__")
            self._slot(fn, "__self__", at)
        elif not isinstance(fn, types.FunctionType):
            if decorated(fn) or hasattr(fn, "__func__"):
                raise Unwatched("an object around a function")
            kind = type(fn)
            at, _ = self._attribute(self._constant(kind), kind, "__call__")
            self._slot(kind, "__call__", at)
        super().called(fn)

    def code(self, fn: types.FunctionType) -> None:
        register = self._register(fn)
        at, code = self._attribute(register, fn, "__code__")
        self._is(at, code)
        for name in ("__defaults__", "__kwdefaults__", "__closure__"):
            at, values = self._attribute(register, fn, name)
            if values is None:
                self._is(at, None)
            else:
                self._same(at, values)
        for k, cell in enumerate(fn.__closure__ or ()):
            at = self._write(ELEMENT, self._register(fn.__closure__), number=k)
            self._same(at, cell)
            self._slot(cell, "cell_contents", self._write(ATTRIBUTE, at, "cell_contents"))
        own = self._write(OWN, register)
        self._table(own, fn.__dict__, fn.__dict__)
        at, table = self._attribute(register, fn, "__globals__")
        self._put(table, at)
        if not is_installed(fn):
            loaded = self._constant(sys.modules)
            for name in imported(fn.__code__):
                if name in sys.modules:
                    self._slot(sys.modules, name, self._write(ITEM, loaded, name))
                else:
                    self.rows.append((ABSENT, loaded, 0, name, 0))
        super().code(fn)

    def namespace(
        self, table: dict[str, Any], read: tuple[str, ...], names: tuple[str, ...]
    ) -> None:
        if id(table) not in self.where and len(table) == 1:  # it was made for one module
            ((key, module),) = table.items()
            self._slot(table, key, self._register(module))
        else:
            register = self._register(table)
            for name in read:
                if name in table:
                    self._slot(table, name, self._write(ITEM, register, name))
                else:
                    self.rows.append((ABSENT, register, 0, name, 0))
        for name in read:
            value = table.get(name)
            if isinstance(value, types.ModuleType) and not draws(value):
                at = self.slots[id(table), name]
                self._same(at, value)
                inside = self._write(OWN, at)
                self._put(value.__dict__, inside)
                if is_library(value):
                    self._passed_by(inside, value.__dict__, names)
        super().namespace(table, read, names)

    def _passed_by(self, register: int, table: dict[str, Any], names: tuple[str, ...]) -> None:
        """The names that a library's module lacks, or has a class or tensor under."""
        for name in names:
            if name not in table:
                self.rows.append((ABSENT, register, 0, name, 0))
            elif isinstance(table[name], type | torch.Tensor):
                self._same(self._write(ITEM, register, name), table[name])

    def module(self, module: torch.nn.Module) -> None:
        self._own(module)
        own, kind = vars_of(module), type(module)
        for _, hooks in HOOKS_OF_ALL:
            if hooks:
                raise Unwatched("hooks of all modules")
            self.rows.append((LENGTH, self._constant(hooks), 0, None, 0))
        for name in ("_forward_pre_hooks", "_forward_hooks", "_parameters", "_buffers", "_modules"):
            if type(own.get(name)) not in (dict, collections.OrderedDict):
                raise Unwatched(f"a module without {name}")
            table = self.slots[id(module), name]
            self._put(own[name], table)
            self._table(table, own[name], own[name])
            if "hooks" in name and own[name]:
                raise Unwatched("hooks of a module")
        at, forward = self._attribute(self._constant(kind), kind, "forward")
        self._slot(kind, "forward", at)
        if isinstance(forward, types.FunctionType):
            self._same(at, forward)
        super().module(module)

    def tensor(self, owner: Any, key: Any, value: Any, depth: int) -> None:
        register = self._at(owner, key)
        if value is None:
            self._is(register, None)
        elif type(value) not in (torch.Tensor, torch.nn.Parameter) or value.__dict__:
            raise Unwatched("a tensor with attributes, or of a class of its own")
        else:
            self.rows.append((TENSOR, register, 0, None, len(self.tensors)))
            self.tensors.append(value)
        super().tensor(owner, key, value, depth)

    def _at(self, owner: Any, key: Any) -> int:
        if (id(owner), key) not in self.slots:
            raise Unwatched(f"{key!r} of a {type(owner).__name__} was come by in an unknown way")
        return self.slots[id(owner), key]

    def value(self, owner: Any, key: Any, value: Any, depth: int) -> None:
        of_key = key is None and isinstance(owner, dict) and type(value) in PLAIN
        if not of_key and not isinstance(value, torch.Tensor):  # keys are compared with their table
            self._compare(self._at(owner, key), value)
        super().value(owner, key, value, depth)

    def _compare(self, register: int, value: Any) -> None:
        """Writes down what of a value is compared before its contents are; see ``Walk.value``."""
        kind = type(value)
        if kind in PLAIN or is_number(kind) or isinstance(value, type | torch.device):
            self._is(register, value)
        elif isinstance(value, enum.Enum):
            if isinstance(value.value, CONTAINERS):
                raise Unwatched("an enum of containers")
            self._is(register, value)
        elif draws(value):
            self._is(register, value)
        elif isinstance(value, torch.nn.Module | types.MethodType | types.ModuleType):
            self._same(register, value)
        elif isinstance(value, CONTAINERS):
            if kind not in (list, tuple, dict, torch.Size):
                raise Unwatched(f"a {kind.__name__}")
            self._same(register, value)
        elif isinstance(value, types.FunctionType):
            of_user = value.__closure__ or "__wrapped__" in value.__dict__ or not is_library(value)
            if of_user and not (self.installed and is_installed(value)):
                self._same(register, value)
            else:
                self._is(register, value)
        elif kind.__module__.startswith("torch.") and not callable(value) and vars_of(value):
            self._same(register, value)
        elif isinstance(value, types.BuiltinFunctionType):
            if isinstance(value.__self__, CONTAINERS):
                raise Unwatched("a method of a container")
            self._is(register, value)
        elif is_library(value):
            if token(value) is not value:
                raise Unwatched(f"a {kind.__name__}")
            self._is(register, value)
        elif _unknown(value):
            raise Unwatched(f"a {kind.__name__}")
        elif isinstance(value, SUBCLASSED) or not hasattr(value, "__dict__"):
            self._is(register, value)
            self._put(value, register)
        else:
            self._same(register, value)

    def attributes(self, value: Any, depth: int) -> None:
        self._own(value)
        for name in sorted(self.names.intersection(slots(type(value)))):
            slot = inspect.getattr_static(type(value), name, None)
            if not isinstance(slot, types.MemberDescriptorType) or not hasattr(value, name):
                raise Unwatched("a slot that is empty, or none")
            at, _ = self._attribute(self._register(value), value, name)
            self._slot(value, name, at)
        super().attributes(value, depth)

    def classes(self, kind: type, makes: bool = False) -> None:
        users = () if kind in self.classed else of_users(kind.__mro__)
        self.classed.add(kind)
        if users:
            at, order = self._attribute(self._constant(kind), kind, "__mro__")
            self._is(at, order)
        for base in users:
            # What a class shows of its namespace is a view, made anew whenever it is asked for.
            tables = [t for t in gc.get_referents(base.__dict__) if type(t) is dict]
            if len(tables) != 1:
                raise Unwatched("a class that hides its namespace")
            (table,) = tables
            self._table(self._constant(table), table, base)
            for name, item in table.items():
                if isinstance(item, _UNMADE):
                    raise Unwatched(f"a {type(item).__name__}")
                inner = getattr(item, "__func__", item.fget if isinstance(item, property) else item)
                if inner is not item:  # what a property or a class method is of cannot be changed
                    self._is(self._at(base, name), item)
                    self._slot(base, name, self._constant(inner))
                elif name[:2] == "__" and not isinstance(item, types.FunctionType):
                    self._same(self._at(base, name), item)  # a function there would be looked into
        super().classes(kind, makes)

    def elements(self, owner: Any, key: Any, value: Any, depth: int) -> None:
        register = self._register(value)
        if len(value) > MOST or type(value) not in (list, tuple, dict, torch.Size):
            raise Unwatched(f"a {type(value).__name__} of {len(value)}")
        if isinstance(value, dict):
            self._table(register, value, value)
        else:
            self.rows.append((LENGTH, register, 0, None, len(value)))
            for k in range(len(value)):
                self._slot(value, k, self._write(ELEMENT, register, number=k))
        super().elements(owner, key, value, depth)


def _unknown(value: Any) -> bool:
    """Whether an object's inside may change in ways that are not compared."""
    kind = type(value)
    if isinstance(value, _CHANGING) or is_c_data(kind) or is_library(kind):
        return True
    return is_memo(value) or bool(decorated(value))
