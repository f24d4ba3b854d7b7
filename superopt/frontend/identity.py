"""The identity of a Python function: equal identities mean the same program, or there is none.

A new process that finds a kernel under a function's identity need not export it again. Everything
that the function's meaning can depend on is hashed: its code and that of functions it calls,
constants, defaults, and the values of globals and closure cells. Whatever cannot be hashed for sure
(a module with state, an object, a class) gives no identity; the function is then exported anew.
"""

from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_TRUSTED = ("torch", "math", "operator", "builtins")
_IMPURE = frozenset(
    ("globals", "locals", "vars", "getattr", "eval", "exec", "open", "input", "is_grad_enabled")
)
"""Names that let code read what is not looked at here."""

_OPERATORS = frozenset(
    ("torch.functional", "torch.nn", "torch.nn.functional", "torch.special", "torch.linalg")
)
"""Modules whose functions depend on their arguments alone."""


class _NoIdentity(Exception):
    pass


def identity(fn: Callable[..., Any]) -> str | None:
    """A hash of all that decides what ``fn`` computes, or None when that cannot be told."""
    digest = hashlib.sha256()
    try:
        _feed(fn, digest.update, set())
    except (_NoIdentity, RecursionError):
        return None
    return digest.hexdigest()


def _feed(value: Any, put: Callable[[bytes], None], seen: set[int]) -> None:
    put(f"<{type(value).__name__}>".encode())
    if isinstance(value, _PLAIN) or type(value).__module__ == "torch":
        # dtypes, devices and layouts print as what they are; tensors do not.
        if type(value).__name__ in ("Tensor", "Parameter", "Generator"):
            raise _NoIdentity
        put(repr(value).encode())
    elif isinstance(value, tuple | list | frozenset):
        items = sorted(value, key=repr) if isinstance(value, frozenset) else value
        for item in items:
            _feed(item, put, seen)
        put(b"</>")
    elif isinstance(value, types.CodeType):
        _feed_code(value, put, seen)
    elif isinstance(value, types.ModuleType):
        if value.__name__.split(".")[0] not in _TRUSTED:
            raise _NoIdentity
        put(value.__name__.encode())
    elif isinstance(value, types.BuiltinFunctionType) or _trusted(value):
        put(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}".encode())
    elif isinstance(value, types.FunctionType):
        _feed_function(value, put, seen)
    else:
        raise _NoIdentity


def _trusted(value: Any) -> bool:
    module = getattr(value, "__module__", None) or ""
    return callable(value) and module.split(".")[0] in _TRUSTED and hasattr(value, "__qualname__")


def _feed_function(fn: types.FunctionType, put: Callable[[bytes], None], seen: set[int]) -> None:
    if id(fn) in seen:
        put(b"again")
        return
    seen.add(id(fn))
    _feed(fn.__code__, put, seen)
    _feed(fn.__defaults__ or (), put, seen)
    for name, default in sorted((fn.__kwdefaults__ or {}).items()):
        put(name.encode())
        _feed(default, put, seen)
    for cell in fn.__closure__ or ():
        try:
            _feed(cell.cell_contents, put, seen)
        except ValueError:
            raise _NoIdentity from None
    names = _global_names(fn.__code__)
    if not _IMPURE.isdisjoint(names):
        raise _NoIdentity
    for name in names:
        if name in fn.__globals__:
            put(name.encode())
            _feed(fn.__globals__[name], put, seen)
            if fn.__globals__[name] is torch:
                _feed_torch(names, put, seen)


def _feed_torch(names: list[str], put: Callable[[bytes], None], seen: set[int]) -> None:
    """What code may name of torch: operators, types and constants; no functions that tell a state."""
    for name in names:
        value = getattr(torch, name, None)
        if value is None or value is torch or isinstance(value, type):
            continue
        if isinstance(value, types.ModuleType):
            if value.__name__ not in _OPERATORS:
                raise _NoIdentity
        elif isinstance(value, types.FunctionType):
            if value.__module__ not in _OPERATORS:
                raise _NoIdentity
        elif isinstance(value, types.BuiltinFunctionType):
            if not hasattr(torch._C._VariableFunctions, name):
                raise _NoIdentity
        else:
            put(name.encode())
            _feed(value, put, seen)


def _global_names(code: types.CodeType) -> list[str]:
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names.update(_global_names(const))
    return sorted(names)


def _feed_code(code: types.CodeType, put: Callable[[bytes], None], seen: set[int]) -> None:
    # Bytecode differs between versions of Python, so the version is part of the identity.
    put(sys.version.encode())
    put(code.co_code)
    for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
        put(repr(names).encode())
    put(
        repr(
            (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)
        ).encode()
    )
    for const in code.co_consts:
        _feed(const, put, seen)
