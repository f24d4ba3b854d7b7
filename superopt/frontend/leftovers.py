"""Undoes what tracing leaves behind in a function that remembers something between calls.

A function may make a table in its first call and keep it (in a dict, an attribute, a global, behind
``lru_cache``). While it is traced, that table is a stand-in without values, which must not be found
by a later call. It may also count or note its calls, which a kernel would not do.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
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
    sets: list[tuple[set[Any], set[Any]]] = []
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
        if isinstance(held.owner, set) and not any(held.owner is known for known, _ in sets):
            sets.append((held.owner, set(held.owner)))
    owners = {id(held.owner) for held in first}
    marks = [_mark(held) for held in first]
    assigned: list[str] = []
    try:
        with _noting(modules, assigned):
            yield
    finally:
        now = list(reached(fn))
        found = assigned[0] if assigned else ""  # export takes these back itself
        found = found or _first_change(now, marks)
        for held in reversed(now):  # from the end: what was appended goes first
            known = before.get((id(held.owner), _key(held)), _NOTHING)
            if is_memo(held.value):
                if held.value.cache_info().misses > misses.get(id(held.value), 0):
                    held.value.cache_clear()
            elif _stand_in(held.value) or (id(held.owner) in owners and _differs(known, held)):
                _restore(held, known)
                found = str(held.key)
        for owner, contents in sets:
            if owner != contents:
                owner.clear()
                owner.update(contents)
    if found:
        raise KeepsState(f"the function changes {found!r}, which it keeps between calls", name)


_NOTHING = object()


def _mark(held: Held) -> Any:
    """What must be the same before and after, where tensors are looked at by ``_stand_in``."""
    value = held.value
    return None if isinstance(value, torch.Tensor) or is_memo(value) else plain_key(value)


def _first_change(now: list[Held], marks: list[Any]) -> str:
    """What was changed first, if anything, where it may be of any kind."""
    for held, mark in zip(now, marks, strict=False):
        if _mark(held) != mark:
            return str(held.key if held.key is not None else type(held.owner).__name__)
    return "" if len(now) == len(marks) else "its objects"


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


def _differs(old: Any, held: Held) -> bool:
    """Whether an element or attribute is a plain value, and another one than it was, or new."""
    if held.key is None or type(held.value) not in PLAIN:
        return False
    return old is _NOTHING or plain_key(old) != plain_key(held.value)


def _stand_in(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and type(value).__module__.startswith("torch._sub")


def _restore(held: Held, old: Any) -> None:
    """Gives an attribute or element its old value, or takes it away when there was none."""
    owner, key = held.owner, held.key
    with contextlib.suppress(Exception):  # an owner of the user's may refuse
        if isinstance(owner, list | dict | collections.deque):
            if old is not _NOTHING:
                owner[key] = old
            else:
                del owner[key]
        elif isinstance(owner, contextvars.ContextVar):
            owner.set(None if old is _NOTHING else old)
        elif old is not _NOTHING:
            setattr(owner, key, old)
        else:
            delattr(owner, key)
