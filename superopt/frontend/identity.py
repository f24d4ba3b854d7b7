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

from superopt.frontend.names import imported, mentioned

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_IMPURE = frozenset(
    (
        *("globals", "locals", "vars", "getattr", "setattr", "hasattr", "eval", "exec", "compile"),
        *("open", "input", "print", "id", "hash", "next", "iter", "super", "type", "__import__"),
        *("is_grad_enabled", "requires_grad", "is_leaf", "storage_offset", "data_ptr"),
    )
)
"""Names that let code read what is not looked at here."""

_OPERATORS = frozenset(
    (
        *("torch", "torch.functional", "torch.nn", "torch.nn.functional", "torch.special"),
        *("torch.linalg", "math", "torch._C._nn", "torch._C._linalg", "torch._C._special"),
    )
)
"""Modules whose operators depend on their arguments alone."""


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
        if value.__name__ not in _OPERATORS:
            raise _NoIdentity
        put(value.__name__.encode())
    elif _operator(value):
        put(f"{value.__module__}.{value.__qualname__}".encode())
    elif isinstance(value, types.FunctionType):
        _feed_function(value, put, seen)
    else:
        raise _NoIdentity


def _operator(value: Any) -> bool:
    """Whether a function is PyTorch's, or Python's, and depends on its arguments alone."""
    if isinstance(value, types.FunctionType):
        # By its globals: functools.wraps gives a function any __module__.
        home = value.__globals__.get("__name__")
        return home in _OPERATORS and home != "torch"  # its own functions tell and set states
    if isinstance(value, types.BuiltinFunctionType):
        owner = value.__self__
        if isinstance(owner, types.ModuleType):
            return owner.__name__ in _OPERATORS
        return hasattr(torch._C._VariableFunctions, value.__name__)
    return False


def _feed_function(fn: types.FunctionType, put: Callable[[bytes], None], seen: set[int]) -> None:
    if id(fn) in seen:
        put(b"again")
        return
    seen.add(id(fn))
    if fn.__dict__:  # attributes, which its code may read
        raise _NoIdentity
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
    names = sorted(mentioned(fn.__code__))
    if imported(fn.__code__):
        raise _NoIdentity
    if not _IMPURE.isdisjoint(names):
        raise _NoIdentity
    for name in names:
        if name in fn.__globals__:
            put(name.encode())
            _feed(fn.__globals__[name], put, seen)
            _feed_inside(fn.__globals__[name], names, put, seen)


def _feed_inside(
    module: Any, names: list[str], put: Callable[[bytes], None], seen: set[int]
) -> None:
    """What code may name of a module of operators: anything else may tell a state."""
    if not isinstance(module, types.ModuleType) or id(module) in seen:
        return
    seen.add(id(module))
    for name in names:
        value = getattr(module, name, None)
        if value is None or value is module or isinstance(value, type):
            continue
        put(name.encode())
        _feed(value, put, seen)
        _feed_inside(value, names, put, seen)


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
