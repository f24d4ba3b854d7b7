"""Undoes what tracing leaves behind in a function that remembers tensors between calls.

A function may make a table in its first call and keep it (in a dict, an attribute, a global, behind
``lru_cache``). While it is traced, that table is a stand-in without values, which must not be found
by a later call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from superopt.errors import KeepsState, UnsupportedOperator
from superopt.frontend.live import PLAIN, Held, draws, is_memo, plain_key, reached


@contextlib.contextmanager
def forgotten(fn: Callable[..., Any], name: str) -> Iterator[None]:
    """Takes back what ``fn`` has changed, in all that it reaches, when the block ends.

    Raises KeepsState if there was anything: the function then runs in PyTorch, which fills its
    memory with tensors, and is captured anew when its signature has changed by that.
    """
    before: dict[tuple[int, Any], Any] = {}
    misses: dict[int, int] = {}
    modules: set[int] = set()
    first = list(reached(fn))  # kept to the end, so that no identity is used twice
    for held in first:
        if isinstance(held.owner, torch.nn.Module):
            modules.add(id(held.owner))
        before[id(held.owner), _key(held)] = held.value
        if draws(held.value):
            raise UnsupportedOperator(
                f"what the function draws from {held.key!r} cannot be followed",
                name,
                "draw outside of the function, and pass what was drawn",
            )
        if is_memo(held.value):
            misses[id(held.value)] = held.value.cache_info().misses
    assigned: list[str] = []
    try:
        with _noting(modules, assigned):
            yield
    finally:
        found = assigned[0] if assigned else ""  # export takes these back itself
        for held in reached(fn):
            known = before.get((id(held.owner), _key(held)), held.value)
            if is_memo(held.value):
                if held.value.cache_info().misses > misses.get(id(held.value), 0):
                    held.value.cache_clear()
            elif held.key is not None and (_stand_in(held.value) or _differs(known, held.value)):
                _restore(held, before)
                found = str(held.key)
    if found:
        raise KeepsState(f"the function changes {found!r}, which it keeps between calls", name)


@contextlib.contextmanager
def _noting(modules: set[int], assigned: list[str]) -> Iterator[None]:
    """Notes the attributes, other than weights and parts, that these modules are given."""
    original = torch.nn.Module.__setattr__

    def note(self: torch.nn.Module, name: str, value: Any) -> None:
        tables = (self.__dict__.get(t, ()) for t in ("_parameters", "_buffers", "_modules"))
        if id(self) in modules and name[:1] != "_" and not any(name in t for t in tables):
            assigned.append(name)
        original(self, name, value)

    torch.nn.Module.__setattr__ = note  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.__setattr__ = original  # type: ignore[method-assign]


def _key(held: Held) -> Any:
    try:
        hash(held.key)
    except TypeError:
        return None
    return held.key


def _differs(old: Any, new: Any) -> bool:
    return type(new) in PLAIN and plain_key(old) != plain_key(new)


def _stand_in(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and type(value).__module__.startswith("torch._sub")


def _restore(held: Held, before: dict[tuple[int, Any], Any]) -> None:
    owner, key = held.owner, held.key
    known = (id(owner), key) in before
    old = before.get((id(owner), key))
    if isinstance(owner, list):
        if known:
            owner[key] = old
        else:
            del owner[key:]
    elif isinstance(owner, dict):
        if known:
            owner[key] = old
        else:
            del owner[key]
    elif known:
        setattr(owner, key, old)
    else:
        delattr(owner, key)
