"""The name of a function, and those that its code mentions, reads from globals, and imports."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any


def name_of(fn: Callable[..., Any]) -> str:
    """What messages call a function; a module or object by its class."""
    return str(getattr(fn, "__name__", type(fn).__name__))


@functools.lru_cache(maxsize=4096)
def mentioned(code: types.CodeType) -> tuple[str, ...]:
    """The global and attribute names of a function's code, and of functions defined in it.

    So are its words between quotes (for ``getattr``) and the keywords of its patterns.
    """
    names = (name for c in _nested(code) for name in (*c.co_names, *_words(c.co_consts)))
    return tuple(dict.fromkeys(names))


def _words(consts: Any) -> Iterator[str]:
    for const in consts:
        if isinstance(const, str) and const.isidentifier():
            yield const
        elif isinstance(const, tuple):
            yield from _words(const)


@functools.lru_cache(maxsize=4096)
def read_globals(code: types.CodeType) -> tuple[str, ...]:
    """The names that such code reads from globals."""
    return _named(code, ("LOAD_GLOBAL", "LOAD_NAME"))


@functools.lru_cache(maxsize=4096)
def imported(code: types.CodeType) -> tuple[str, ...]:
    """The modules that such code imports."""
    return _named(code, ("IMPORT_NAME",))


def _named(code: types.CodeType, operations: tuple[str, ...]) -> tuple[str, ...]:
    found = (i for c in _nested(code) for i in dis.get_instructions(c) if i.opname in operations)
    return tuple(dict.fromkeys(i.argval for i in found))


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _nested(const)
