"""What a function reads beside its arguments is part of its signature, wherever it is kept."""

from __future__ import annotations

import array
import collections
import enum
import functools
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from superopt.frontend.live import state
from superopt.frontend.watch import Unwatched, watch

Change = tuple[Callable[..., Any], Callable[[], Any], Callable[[], Any]]
"""A function, a change of what it reads, and the change undone."""

act: Any = torch.relu
number: Any = np.float64(2.0)
device = torch.device("cpu")


def helper(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


def other_helper(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


color = Color.RED


class Scaled:
    scale = 2.0

    def factor(self) -> float:
        return 2.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale * self.factor()


scaled = Scaled()


@dataclass
class Leaf:
    value: float = 2.0


@dataclass
class Middle:
    leaf: Leaf = field(default_factory=Leaf)


@dataclass
class Tree:
    middle: Middle = field(default_factory=Middle)


@dataclass
class Root:
    tree: Tree = field(default_factory=Tree)


root = Root()


class Block(torch.nn.Module):
    limit = 6.0

    def __init__(self) -> None:
        super().__init__()
        self.act, self.fn = torch.nn.ReLU(), torch.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fn(self.act(x)).clamp(max=self.limit)


def rebound(name: str, new: Any, fn: Callable[..., Any]) -> Change:
    old = globals()[name]
    return fn, lambda: globals().update({name: new}), lambda: globals().update({name: old})


def replaced(owner: Any, name: str, new: Any, fn: Callable[..., Any]) -> Change:
    old = getattr(owner, name)
    undo = functools.partial(setattr, owner, name, old)
    if not isinstance(owner, type) and name not in vars(owner) and not hasattr(owner, "_modules"):
        undo = functools.partial(delattr, owner, name)
    return fn, lambda: setattr(owner, name, new), undo


def hooked(part: str) -> Change:
    block = Block()
    handles: list[Any] = []
    target = getattr(block, part) if part else block
    return (
        block,
        lambda: handles.append(target.register_forward_hook(lambda m, a, o: o * 2)),
        lambda: handles.pop().remove(),
    )


def forward_of_an_instance() -> Change:
    block = Block()
    new = types.MethodType(lambda self, x: x * 0, block)
    return block, lambda: setattr(block, "forward", new), lambda: delattr(block, "forward")


def in_a_list() -> Change:
    fns = [torch.relu]
    return (
        lambda x: fns[0](x),
        lambda: fns.__setitem__(0, torch.sigmoid),
        lambda: fns.__setitem__(0, torch.relu),
    )


def in_a_set() -> Change:
    names = {"a"}
    return lambda x: x * 2 if "b" in names else x, lambda: names.add("b"), lambda: names.remove("b")


def in_an_array() -> Change:
    array = np.array([1.0, 2.0])
    return (
        lambda x: x * float(array[1]),
        lambda: array.__setitem__(1, 3.0),
        lambda: array.__setitem__(1, 2.0),
    )


def in_a_view_of_an_array() -> Change:
    array = np.arange(6.0)
    view = array[::2]
    return (
        lambda x: x * float(view[1]),
        lambda: array.__setitem__(2, 9.0),
        lambda: array.__setitem__(2, 2.0),
    )


def a_key() -> Change:
    table = {"a": 1.0}
    return (
        lambda x: x * next(iter(table)).count("a"),
        lambda: table.__setitem__("b", table.pop("a")),
        lambda: table.__setitem__("a", table.pop("b")),
    )


def split_lists() -> Change:
    one, two = [1.0], [2.0, 3.0]
    return (
        lambda x: x * sum(one) - sum(two),
        lambda: one.append(two.pop(0)),
        lambda: two.insert(0, one.pop()),
    )


def decorated() -> Change:
    state = {"factor": 2.0}

    @functools.wraps(helper)
    def fn(x: torch.Tensor) -> torch.Tensor:
        return helper(x) * state["factor"]

    return fn, lambda: state.update(factor=3.0), lambda: state.update(factor=2.0)


def wrapped_by_torch() -> Change:
    state = [2.0]
    fn = torch.no_grad()(lambda x: x * state[0])
    return fn, lambda: state.__setitem__(0, 3.0), lambda: state.__setitem__(0, 2.0)


def of_a_kind(make: Callable[[], Any], change: Callable[[Any], Any], undo: Callable) -> Change:
    held = make()
    return lambda x: x * len(str(held)), lambda: change(held), lambda: undo(held)


def defaults() -> Change:
    def fn(x: torch.Tensor, s: float = 2.0) -> torch.Tensor:
        return x * s

    old = fn.__defaults__
    return (
        fn,
        lambda: setattr(fn, "__defaults__", (3.0,)),
        lambda: setattr(fn, "__defaults__", old),
    )


CASES: dict[str, Callable[[], Change]] = {
    "a builtin": lambda: rebound("act", torch.sigmoid, lambda x: act(x)),
    "a helper": lambda: rebound("helper", other_helper, lambda x: helper(x)),
    "an enum": lambda: rebound("color", Color.BLUE, lambda x: x if color is Color.RED else -x),
    "a number of numpy": lambda: rebound("number", np.float64(3.0), lambda x: x * float(number)),
    "a device": lambda: rebound("device", torch.device("meta"), lambda x: x.to(device)),
    "an attribute of a class": lambda: replaced(Scaled, "scale", 3.0, lambda x: x * Scaled.scale),
    "an inherited number": lambda: replaced(Scaled, "scale", 3.0, lambda x: scaled(x)),
    "a callable object's class": lambda: replaced(Scaled, "scale", 3.0, scaled),
    "a method": lambda: replaced(Scaled, "factor", lambda self: 3.0, lambda x: scaled(x)),
    "a deep attribute": lambda: replaced(
        root.tree.middle.leaf, "value", 3.0, lambda x: x * root.tree.middle.leaf.value
    ),
    "a list of functions": in_a_list,
    "a set": in_a_set,
    "an array": in_an_array,
    "a view of an array": in_a_view_of_an_array,
    "a key of a dict": a_key,
    "elements that move between lists": split_lists,
    "a deque": lambda: of_a_kind(
        lambda: collections.deque([1.0]), lambda d: d.append(2.0), lambda d: d.pop()
    ),
    "bytes that change": lambda: of_a_kind(
        lambda: bytearray(b"a"), lambda d: d.extend(b"b"), lambda d: d.pop()
    ),
    "an array of Python": lambda: of_a_kind(
        lambda: array.array("d", [1.0]), lambda d: d.append(2.0), lambda d: d.pop()
    ),
    "a counter": lambda: of_a_kind(
        lambda: collections.Counter(a=1), lambda d: d.update(a=1), lambda d: d.subtract(a=1)
    ),
    "a dict of a library": lambda: of_a_kind(
        lambda: collections.UserDict(a=1), lambda d: d.update(a=2), lambda d: d.update(a=1)
    ),
    "a chain of dicts": lambda: of_a_kind(
        lambda: collections.ChainMap({"a": 1}), lambda d: d.update(a=2), lambda d: d.update(a=1)
    ),
    "defaults": defaults,
    "what a decorator holds": decorated,
    "what a decorated function holds": wrapped_by_torch,
    "a hook": lambda: hooked(""),
    "a hook of a part": lambda: hooked("act"),
    "the forward of an instance": forward_of_an_instance,
    "a function of a module": lambda: replaced(b := Block(), "fn", torch.sigmoid, b),
    "a part of a module": lambda: replaced(b := Block(), "act", torch.nn.Sigmoid(), b),
    "a module class": lambda: replaced(Block, "limit", 1.0, Block()),
    "a module class's forward": lambda: replaced(Block, "forward", lambda self, x: x, Block()),
}


def assert_another_signature(made: Change) -> None:
    """The change gives a function another signature, and undone the one that it had."""
    fn, change, undo = made
    before = tuple(state(fn)[0])
    assert tuple(state(fn)[0]) == before
    hash(before)
    watched = a_watch(fn)
    change()
    try:
        assert tuple(state(fn)[0]) != before
        assert watched is None or not watched.holds()
    finally:
        undo()
    assert tuple(state(fn)[0]) == before


def test_most_of_what_changes_can_be_watched() -> None:
    watched = [name for name, made in CASES.items() if a_watch(made()[0]) is not None]
    assert len(watched) >= 25
    assert {"a helper", "a deep attribute", "a module class's forward"} <= set(watched)


def a_watch(fn: Callable[..., Any]) -> Any:
    """A watch over a function that holds now, or None where it cannot be watched."""
    try:
        watched, _ = watch(fn, torch.Tensor.__dlpack_c_exchange_api__, (), state(fn)[0])
    except Unwatched:
        return None
    assert watched.holds() and watched.holds()
    return watched


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_another_signature(name: str) -> None:
    assert_another_signature(CASES[name]())
