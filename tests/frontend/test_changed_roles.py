"""Who holds what, in which role: keys, sets, slots, classes, identities and what is remembered."""

from __future__ import annotations

import collections
import contextvars
import ctypes
import enum
import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.frontend.test_changed import Change, assert_another_signature, replaced

READ = {"a": 2.0}


class Thing:
    """An object of the user's."""

    gain: float

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale


class Slotted:
    """An object whose slots are private, or read by a word."""

    __slots__ = ("__hidden", "scale")

    def __init__(self) -> None:
        self.__hidden = 2.0
        self.scale = 2.0

    def get(self) -> float:
        return self.__hidden

    def put(self, value: float) -> None:
        self.__hidden = value


class Mode(enum.Enum):
    """A mode with a number that is looked up, and one that holds a table."""

    A = 1
    TABLE = {"s": 2.0}  # noqa: RUF012

    @property
    def gain(self) -> float:
        return READ["a"] if self is Mode.A else 0.0


class Gained(nn.Module):
    """A module with a number in its class, and a part."""

    gain = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * getattr(self, "gain", 1.0) * self.w


@functools.lru_cache
def remembered() -> float:
    return READ["a"]


@functools.cache
def for_ever(k: int) -> float:
    return READ["a"] * k


def again(memo: Any, value: float, *args: Any) -> None:
    """Makes a memo remember what it gives for another number."""
    READ["a"] = value
    memo.cache_clear()
    memo(*args)
    READ["a"] = 2.0


def memo(kept: Any, *args: Any) -> Change:
    again(kept, 2.0, *args)
    return (
        lambda x: x * kept(*args),
        lambda: again(kept, 3.0, *args),
        lambda: again(kept, 2.0, *args),
    )


def in_a_set(one: Any, other: Any, fn: Callable[[Any], Callable[..., Any]]) -> Change:
    held = {one}
    return fn(held), lambda: swap(held, one, other), lambda: swap(held, other, one)


def swap(held: set[Any], out: Any, into: Any) -> None:
    held.remove(out)
    held.add(into)


def object_in_a_set() -> Change:
    thing = Thing()
    return replaced(thing, "scale", 3.0, lambda x, s={thing}: x * sum(t.scale for t in s))


def weak_set() -> Change:
    thing = Thing()
    held = weakref.WeakSet([thing])
    return replaced(thing, "scale", 3.0, lambda x: x * sum(t.scale for t in held))


def object_as_key() -> Change:
    thing = Thing()
    table = {thing: 2.0}
    return replaced(thing, "scale", 3.0, lambda x: x * sum(t.scale * v for t, v in table.items()))


def hidden_slot() -> Change:
    thing = Slotted()
    return lambda x: x * thing.get(), lambda: thing.put(3.0), lambda: thing.put(2.0)


def slot_by_word() -> Change:
    thing = Slotted()

    def fn(x: torch.Tensor) -> torch.Tensor:
        match thing:
            case Slotted(scale=k):
                return x * k
        return x

    return fn, lambda: setattr(thing, "scale", 3.0), lambda: setattr(thing, "scale", 2.0)


def moved_to_the_class() -> Change:
    a, b = Thing(), Thing()
    a.gain = 2.0

    def fn(x: torch.Tensor) -> torch.Tensor:
        for thing in (a, b):
            if hasattr(thing, "gain"):
                x = x * thing.gain + 1
        return x

    def change() -> None:
        del a.gain
        Thing.gain = 2.0

    def undo() -> None:
        del Thing.gain
        a.gain = 2.0

    return fn, change, undo


def hook_before_and_after() -> Change:
    module, handles = nn.Linear(4, 4), []

    def hook(module: Any, args: Any, out: Any = None) -> Any:
        return (args[0] if out is None else out) * 2

    handles.append(module.register_forward_pre_hook(hook))

    def put(how: Any) -> None:
        handles.pop().remove()
        handles.append(how(hook))

    return (
        module,
        lambda: put(module.register_forward_hook),
        lambda: put(module.register_forward_pre_hook),
    )


def tied_or_alike() -> Change:
    module = nn.Module()
    module.e = nn.Parameter(torch.ones(4))
    module.h = module.e
    other = nn.Parameter(module.e.data)
    return replaced(
        module, "h", other, lambda x: x * module.h if module.h is module.e else x + module.h
    )


def which_list() -> Change:
    thing = Thing()
    thing.a, thing.b = [1.0], [1.0]  # type: ignore[attr-defined]
    thing.act = thing.a  # type: ignore[attr-defined]
    return replaced(
        thing,
        "act",
        thing.b,  # type: ignore[attr-defined]
        lambda x: x * 2 if thing.act is thing.a else x,  # type: ignore[attr-defined]
    )


def slices() -> Change:
    held = [slice(0, 2)]
    return lambda x: x[:, held[0]], lambda: put(held, slice(2, 4)), lambda: put(held, slice(0, 2))


def put(held: list[Any], value: Any) -> None:
    held[0] = value


def optimizer() -> Change:
    held = torch.optim.SGD([nn.Parameter(torch.ones(4))], lr=2.0)
    group = held.param_groups[0]
    return (
        lambda x: x * held.param_groups[0]["lr"],
        lambda: group.update(lr=3.0),
        lambda: group.update(lr=2.0),
    )


def distribution() -> Change:
    held = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    return replaced(held, "loc", torch.zeros(5), lambda x: x + held.loc.sum())


def attribute_of_a_parameter() -> Change:
    module = Gained()
    module.w.scale = 2.0  # type: ignore[attr-defined]
    return replaced(module.w, "scale", 3.0, lambda x: x * getattr(module.w, "scale", 1.0))


def ctypes_value(library: Any = ctypes.pythonapi) -> Change:
    held = ctypes.c_double(2.0)
    return (
        lambda x: x * held.value,
        lambda: setattr(held, "value", 3.0),
        lambda: setattr(held, "value", 2.0),
    )


def long_table() -> Change:
    held = {k: float(k) for k in range(300)}
    return lambda x: x * held[7], lambda: held.update({7: 3.0}), lambda: held.update({7: 7.0})


def long_deque() -> Change:
    held = collections.deque(float(k) for k in range(300))
    return lambda x: x * held[7], lambda: put(held, 3.0), lambda: put(held, 0.0)  # type: ignore[arg-type]


def default_of_a_variable() -> Change:
    table = {"s": 2.0}
    held = contextvars.ContextVar("held", default=table)
    return (
        lambda x: x * held.get()["s"],
        lambda: table.update(s=3.0),
        lambda: table.update(s=2.0),
    )


def number_of_a_mode(mode: Mode) -> Change:
    return lambda x: x * mode.gain, lambda: READ.update(a=4.0), lambda: READ.update(a=2.0)


def table_of_a_mode() -> Change:
    table = Mode.TABLE.value
    return (
        lambda x: x * Mode.TABLE.value["s"],
        lambda: table.update(s=3.0),
        lambda: table.update(s=2.0),
    )


one, other = nn.Linear(4, 4), nn.Linear(4, 4)

CASES: dict[str, Callable[[], Change]] = {
    "a memo": lambda: memo(remembered),
    "a memo without a bound": lambda: memo(for_ever, 3),
    "modules in a set": lambda: in_a_set(
        one, other, lambda held: lambda x: one(x) if one in held else other(x)
    ),
    "functions in a set": lambda: in_a_set(
        F.silu, torch.tanh, lambda held: lambda x: next(iter(held))(x)
    ),
    "numbers in a set": lambda: in_a_set(2, 2.0, lambda held: lambda x: x * next(iter(held))),
    "an object in a set": object_in_a_set,
    "a weak set": weak_set,
    "an object as a key": object_as_key,
    "a number of a class, by its word": lambda: replaced(Gained, "gain", 3.0, Gained()),
    "a private slot": hidden_slot,
    "a slot in a pattern": slot_by_word,
    "from an object to its class": moved_to_the_class,
    "a hook before and after": hook_before_and_after,
    "one parameter or two of one memory": tied_or_alike,
    "which of two lists": which_list,
    "a slice": slices,
    "an optimizer": optimizer,
    "a distribution": distribution,
    "an attribute of a parameter": attribute_of_a_parameter,
    "a number of C": ctypes_value,
    "a long table of numbers": long_table,
    "a long queue of numbers": long_deque,
    "the default of a variable": default_of_a_variable,
    "a property of a mode": lambda: number_of_a_mode(Mode.A),
    "a table in a mode": table_of_a_mode,
}


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_another_signature(name: str) -> None:
    assert_another_signature(CASES[name]())


def test_every_case_is_tried() -> None:
    assert len(CASES) >= 25
