"""Where two states of a function are equal, tensors at one position have the same role.

Random objects, containers and modules hold tensors and numbers; a function reads some of them. They
are swapped, replaced, tied, untied and entered anew: either the function's state is another one, or
the tensors that it reads are found at the positions where they were.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from superopt import superoptimize
from superopt.frontend.live import state

NAMES = ("a", "b", "c")


class Part(nn.Module):
    """A module with no forward of its own."""


class Thing:
    """An object of the user's."""


def empty(kind: str) -> Any:
    return {"object": Thing, "space": types.SimpleNamespace, "dict": dict, "module": Part}[kind]()


def get(owner: Any, name: str) -> Any:
    return owner[name] if isinstance(owner, dict) else getattr(owner, name)


def put(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    else:
        setattr(owner, name, value)


def drop(owner: Any, name: str) -> None:
    if isinstance(owner, dict):
        del owner[name]
    else:
        delattr(owner, name)


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> Any:
    """A tensor, a number, or an owner of such."""
    kinds = ("tensor", "tensor", "number")
    owners = ("object", "space", "dict", "module")
    kind = draw(st.sampled_from(owners if depth == 3 else kinds if depth == 0 else kinds + owners))
    if kind == "tensor":
        return torch.zeros(draw(st.sampled_from((2, 2, 3))))
    if kind == "number":
        return draw(st.integers(0, 1))
    owner = empty(kind)
    for name in NAMES:
        put(owner, name, draw(trees(depth - 1)))
    return owner


def paths(tree: Any, so_far: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths to the tensors and numbers of a tree."""
    if isinstance(tree, torch.Tensor | int):
        return [so_far]
    return [p for name in NAMES for p in paths(get(tree, name), (*so_far, name))]


def at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = get(tree, name)
    return tree


def reader(tree: Any, wanted: list[tuple[str, ...]]) -> Callable[[], list[Any]]:
    """A function whose code reads these paths of a tree."""
    text = ", ".join(spelled(tree, path) for path in wanted)
    scope: dict[str, Any] = {"root": tree}
    exec(f"def read():\n    return [{text}]", scope)
    read: Callable[[], list[Any]] = scope["read"]
    return read


def spelled(tree: Any, path: tuple[str, ...]) -> str:
    text = "root"
    for name in path:
        text += f"[{name!r}]" if isinstance(tree, dict) else f".{name}"
        tree = get(tree, name)
    return text


def change(draw: st.DataObject, root: Any) -> None:
    """One change of what owns what; the kinds of owners on the paths stay."""
    owners = [root]
    for owner in owners:
        values = [get(owner, n) for n in NAMES]
        owners += [
            v for v in values if not isinstance(v, torch.Tensor | int) and not among(owners, v)
        ]
    one, other = (draw.draw(st.sampled_from(owners)) for _ in "12")
    name, last = (draw.draw(st.sampled_from(NAMES)) for _ in "12")
    a, b = get(one, name), get(other, last)
    how = draw.draw(st.sampled_from(("swap", "tie", "copy", "again", "other")))
    if how == "swap" and spells(a, b) and not above(a, other) and not above(b, one):
        put(one, name, b)
        put(other, last, a)
    elif how == "tie" and spells(a, b) and not above(b, one):
        put(one, name, b)
    elif how == "copy":
        put(one, name, copy.deepcopy(a))
    elif how == "again":
        drop(one, name)
        put(one, name, a)
    elif how == "other" and not isinstance(a, torch.Tensor | int) and a is not root:
        new = empty(
            {"Thing": "object", "SimpleNamespace": "space", "dict": "dict"}.get(
                type(a).__name__, "module"
            )
        )
        for n in draw.draw(st.permutations(NAMES)):
            put(new, n, get(a, n))
        put(one, name, new)


def among(owners: list[Any], value: Any) -> bool:
    return any(owner is value for owner in owners)


def above(tree: Any, owner: Any) -> bool:
    """Whether ``owner`` is ``tree`` or in it: one can not be put into the other."""
    if tree is owner:
        return True
    return not isinstance(tree, torch.Tensor | int) and any(
        above(get(tree, n), owner) for n in NAMES
    )


def spells(a: Any, b: Any) -> bool:
    """Whether code that reads one tree can read the other."""
    if isinstance(a, torch.Tensor | int) or isinstance(b, torch.Tensor | int):
        return type(a) is type(b)
    return isinstance(a, dict) == isinstance(b, dict) and all(
        spells(get(a, n), get(b, n)) for n in NAMES
    )


def find(tensors: list[torch.Tensor], value: torch.Tensor) -> int:
    return next(k for k, t in enumerate(tensors) if t is value)


def test_equal_states_have_equal_roles() -> None:
    seen = {"cases": 0, "equal after a change": 0, "moved": 0}

    @settings(max_examples=1500, deadline=None, derandomize=True, database=None)
    @given(trees(), st.data())
    def each(tree: Any, draw: st.DataObject) -> None:
        every = paths(tree)
        wanted = draw.draw(st.lists(st.sampled_from(every), min_size=1, max_size=4))
        read = reader(tree, wanted)
        before, tensors = state(read)
        values = read()
        positions = [find(tensors, v) if isinstance(v, torch.Tensor) else None for v in values]
        for _ in range(draw.draw(st.integers(1, 3))):
            change(draw, tree)
        after, now = state(read)
        seen["cases"] += 1
        if after != before:
            return
        seen["equal after a change"] += 1
        for old, new, position in zip(values, read(), positions, strict=True):
            if position is None:
                assert type(new) is int and new == old
            else:
                assert now[position] is new
                seen["moved"] += new is not old

    each()
    assert seen["cases"] >= 1000 and seen["equal after a change"] >= 200, seen
    assert seen["moved"] >= 50, seen


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.list = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.plain = {"first": torch.randn(16), "parts": [nn.Linear(16, 16), nn.Linear(16, 16)]}
        self.best: Any = types.SimpleNamespace(w=torch.randn(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.silu(self.b(F.silu(self.a(x))))
        y = self.plain["parts"][1](self.list[1](self.list[0](y)))
        return y * self.plain["first"] + self.best.w


def swap_children(m: Block) -> None:
    m.a, m.b = m.b, m.a


def reverse_list(m: Block) -> None:
    m.list = nn.ModuleList(reversed(list(m.list)))


def swap_in_list(m: Block) -> None:
    m.list[0], m.list[1] = m.list[1], m.list[0]


def new_child(m: Block) -> None:
    m.a = nn.Linear(16, 16)


def enter_child_anew(m: Block) -> None:
    old = m.a
    del m.a
    m.a = old


def tie(m: Block) -> None:
    m.b = m.a


def copied(m: Block) -> None:
    m.b = copy.deepcopy(m.a)


def reverse_plain(m: Block) -> None:
    m.plain["parts"].reverse()


def new_plain(m: Block) -> None:
    m.plain = {"first": torch.randn(16), "parts": [nn.Linear(16, 16), nn.Linear(16, 16)]}


def new_object(m: Block) -> None:
    m.best = types.SimpleNamespace(w=torch.randn(16))


CHANGES = (
    *(swap_children, reverse_list, swap_in_list, new_child, enter_child_anew, tie, copied),
    *(reverse_plain, new_plain, new_object),
)


@torch.no_grad()
def test_owners_that_are_replaced() -> None:
    """Each change on top of the ones before it, and twice over."""
    module, x = Block(), torch.randn(4, 16)
    fast = superoptimize(module, fallbacks=(), budget="1s")
    torch.testing.assert_close(fast(x), module(x), rtol=1e-4, atol=1e-4)
    for made in CHANGES * 2:
        made(module)
        torch.testing.assert_close(fast(x), module(x), rtol=1e-4, atol=1e-4, msg=made.__name__)
    assert 1 <= len(fast._results) <= 6


@pytest.mark.parametrize("owner", [nn.Linear, lambda *n: Block()])
@torch.no_grad()
def test_a_global_that_is_replaced(owner: Callable[..., Any]) -> None:
    holder = {"m": owner(16, 16)}
    fast = superoptimize(lambda x: F.silu(holder["m"](x)), fallbacks=(), budget="1s")
    x = torch.randn(4, 16)
    for _ in range(3):
        torch.testing.assert_close(fast(x), F.silu(holder["m"](x)), rtol=1e-4, atol=1e-4)
        holder["m"] = owner(16, 16)
    assert len(fast._results) == 1
