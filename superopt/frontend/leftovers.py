"""Undoes what tracing leaves behind in a function that remembers something between calls.

A function may make a table in its first call and keep it (in a dict, an attribute, a global, behind
``lru_cache``). While it is traced, that table is a stand-in without values, which must not be found
by a later call. It may also count or note its calls, which a kernel would not do.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from superopt.errors import KeepsState, UnsupportedOperator
from superopt.frontend.kinds import PLAIN, draws, is_library, is_memo, of_torch
from superopt.frontend.live import plain_key, read
from superopt.frontend.reach import Held, places


@contextlib.contextmanager
def forgotten(fn: Callable[..., Any], name: str) -> Iterator[None]:
    """Takes back the stand-ins that ``fn`` has left, in all that it reaches, when the block ends.

    Raises KeepsState if there were any, or if anything else has changed, which may be the work of
    another thread and stays: the function then runs in PyTorch, which fills its memory with
    tensors, and is captured anew when its signature has changed by that.
    """
    before = places(fn)  # kept to the end, so that no identity is used twice
    for held in before:
        if draws(held.value):
            raise UnsupportedOperator(
                f"what the function draws from {_called(held)} cannot be followed",
                name,
                "draw, print and read outside of the function, and pass what was drawn",
            )
    misses = {id(h.value): _misses(h.value) for h in before if is_memo(h.value)}
    copies = {id(h.value): (h.value, _copy(h.value)) for h in before}
    modules = {id(h.owner) for h in before if isinstance(h.owner, torch.nn.Module)}
    assigned: list[str] = []
    try:
        with _noting(modules, assigned):
            yield
    finally:
        found = assigned[:1]  # export takes these back itself, by copies of what was there
        for thing, copy in copies.values():
            if copy is not None and not _equal(thing, copy):
                found.append(f"a {type(thing).__name__}")
                if _holds_stand_in(_contents(thing)):
                    _fill(thing, copy)
        for held in before:
            if held.key is None or isinstance(held.owner, type):
                continue
            now = _now(held)
            if _same(now, held.value):
                continue
            if _holds_stand_in(now):
                _put(held.owner, held.key, held.value)
            found.append(_called(held))
        for held in places(fn):
            if is_memo(held.value) and _misses(held.value) > misses.get(id(held.value), 0):
                held.value.cache_clear()
                found.append(f"what {_called(held)} remembers")
            elif held.key is not None and stand_in(held.value):
                # Under a name that was not there before.
                _put(held.owner, held.key, None)
                found.append(_called(held))
    if found:
        raise KeepsState(f"the function changes {found[0]}, which it keeps between calls", name)


def let_go(graph: Any) -> None:
    """Ends the references to the user's tensors that the stand-ins of a graph would keep.

    A tensor with weak references cannot be exchanged (``torch.utils.swap_tensors``), and the memory of one
    that is held as a constant has a user more, whose writes nobody could count (``runtime.packs``).
    """
    for node in graph.nodes:
        stand_in = node.meta.get("val")
        if getattr(stand_in, "constant", None) is not None:
            stand_in.constant = None
    modes = {id(m): m for n in graph.nodes if (m := getattr(n.meta.get("val"), "fake_mode", None))}
    for mode in modes.values():
        with contextlib.suppress(AttributeError):  # not of PyTorch's public interface
            mode.fake_tensor_converter.meta_converter.describer.lookup_tensor.clear()


@contextlib.contextmanager
def _noting(modules: set[int], assigned: list[str]) -> Iterator[None]:
    """Notes the attributes, other than weights and parts, that these modules are given."""
    original = torch.nn.Module.__setattr__

    def note(self: torch.nn.Module, name: str, value: Any) -> None:
        tables = (self.__dict__.get(t, ()) for t in ("_parameters", "_buffers", "_modules"))
        if id(self) in modules and not of_torch(name) and not any(name in t for t in tables):
            assigned.append(name)
        original(self, name, value)

    torch.nn.Module.__setattr__ = note  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.__setattr__ = original  # type: ignore[method-assign]


def _called(held: Held) -> str:
    """A place in words."""
    value = held.value
    if isinstance(value, types.ModuleType):
        return f"the module {value.__name__}"
    if held.key == "cell_contents" or not isinstance(held.key, str):
        return f"a {type(value).__name__} that it holds"
    return repr(held.key)


def stand_in(value: Any) -> bool:
    """Whether a tensor is one of those, without values, that a function is traced with."""
    return isinstance(value, torch.Tensor) and type(value).__module__.startswith("torch._sub")


def _holds_stand_in(value: Any, depth: int = 3) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple | set | frozenset | collections.deque):
        return stand_in(value)
    return depth > 0 and any(_holds_stand_in(item, depth - 1) for item in list(value))


def _contents(thing: Any) -> Any:
    return thing if isinstance(thing, list | set | dict | collections.deque) else vars(thing)


def _misses(memo: Any) -> int:
    return int(memo.cache_info().misses)


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(b) in PLAIN and plain_key(a) == plain_key(b))


def _now(held: Held) -> Any:
    try:
        return read(held.owner, held.key)
    except Exception:  # gone, or of an owner that refuses
        return _GONE


_GONE = object()


def _put(owner: Any, key: Any, value: Any) -> None:
    with contextlib.suppress(Exception):  # an owner of the user's may refuse
        if isinstance(owner, contextvars.ContextVar):
            owner.set(value)
        elif isinstance(owner, dict):
            owner[key] = value
        else:
            setattr(owner, key, value)


def _copy(thing: Any) -> Any:
    """What a container, or an object of the user's, holds now; None for anything else."""
    if isinstance(thing, set | dict):
        return set(thing) if isinstance(thing, set) else dict(thing)
    if isinstance(thing, list | collections.deque):
        return list(thing)
    if isinstance(thing, type | types.ModuleType | types.FunctionType | torch.nn.Module):
        return None
    held = getattr(thing, "__dict__", None)
    return dict(held) if isinstance(held, dict) and not is_library(type(thing)) else None


def _equal(thing: Any, copy: Any) -> bool:
    if isinstance(thing, set):
        return thing == copy
    if isinstance(copy, dict):
        thing = _contents(thing)
        return list(thing) == list(copy) and all(_same(thing[k], copy[k]) for k in copy)
    return len(thing) == len(copy) and all(map(_same, thing, copy))


def _fill(thing: Any, copy: Any) -> None:
    """Gives a container or object the contents that it had."""
    thing = _contents(thing)
    thing.clear()
    thing.update(copy) if isinstance(thing, set | dict) else thing.extend(copy)
