"""What kinds of values a function may reach: plain ones, libraries', those that draw or remember."""

from __future__ import annotations

import builtins
import collections
import enum
import functools
import gc
import random
import sys
import sysconfig
import types
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import torch

PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype})

MOST_BYTES = 1 << 20
"""Size up to which the contents of an array count."""

_OF_EVERY_MODULE = frozenset(torch.nn.Module().__dict__) - {"training"}

CONTAINERS = (list, tuple, dict, types.MappingProxyType, set, frozenset, collections.deque)

SPEAKING = frozenset(
    (
        *(builtins.print, builtins.input, builtins.open, builtins.breakpoint),
        *(builtins.globals, builtins.exec, builtins.eval),
    )
)
"""Functions of Python that say, ask or reach more than is seen."""

_DRAWING = frozenset(
    ("random", "time", "secrets", "uuid", "datetime", "numpy.random", "torch.random")
)
"""Modules of clocks and random numbers; torch's own operators are not among them."""

LIBRARIES = (
    "logging",
    "warnings",
    "torch",
    "superopt",
    "numpy",
    "builtins",
    "math",
    "typing",
    "functools",
)


def token(value: Any) -> Hashable:
    """What stands for an object of a library: itself if it can be a key, an array's contents."""
    try:
        hash(value)
    except TypeError:
        if isinstance(value, slice):
            return slice, (value.start, value.stop, value.step)
        if type(value).__name__ == "ndarray" and value.nbytes <= MOST_BYTES:
            return type(value), value.shape, str(value.dtype), value.tobytes()
        return type(value), id(value)
    return value


def decorated(value: Any) -> tuple[str, Any] | None:
    """The attribute that has what an object decorates; a __getattr__ of the user's is not asked."""
    of_class: Any = getattr(type(value), "__dict__", {}).get("__wrapped__")
    if hasattr(of_class, "__get__"):  # of a proxy in C
        return "__wrapped__", of_class.__get__(value)
    own = vars_of(value)
    return next(
        ((name, own[name]) for name in ("__wrapped__", "fn") if callable(own.get(name))), None
    )


def vars_of(value: Any) -> dict[str, Any]:
    """The attributes that an object has itself; a __getattr__ of the user's is not asked."""
    try:
        held = object.__getattribute__(value, "__dict__")
    except (AttributeError, TypeError):
        return {}
    return held if isinstance(held, dict) else {}


def draws(value: Any) -> bool:
    """Whether a value is another one whenever it is asked: clocks, random numbers, iterators, input.

    So are, held under a name of the user's, functions that print: no call of theirs is noticed.
    """
    if isinstance(value, types.ModuleType):
        return value.__name__ in _DRAWING
    if isinstance(value, types.BuiltinFunctionType | types.MethodType):
        owner = value.__self__  # of a builtin function of a module, that module
        return value in SPEAKING or (owner is not None and draws(owner))
    if isinstance(value, types.FunctionType | type):
        return value.__module__ in _DRAWING
    return isinstance(value, Iterator | random.Random | torch.Generator) or (
        type(value).__module__.startswith("numpy.random")
    )


def is_c_data(kind: type) -> bool:
    """Whether a type is one of ctypes' numbers, arrays, structures or pointers."""
    return hasattr(kind, "_b_needsfree_")


def is_memo(value: Any) -> bool:
    """Whether a function remembers its results (``functools.lru_cache``, ``functools.cache``)."""
    return type(value).__name__ == "_lru_cache_wrapper"


@functools.lru_cache(maxsize=1024)
def is_standard(module: str) -> bool:
    """Whether a module is of Python itself, and no user's file of the same name."""
    if module.split(".")[0] not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or (file.startswith(_STANDARD) and "-packages" not in file)


_STANDARD = sysconfig.get_paths()["stdlib"]


@functools.lru_cache(maxsize=1024)
def of_users(bases: tuple[type, ...]) -> tuple[type, ...]:
    """Those classes that are no library's, no package's that was installed, and not Python's."""
    return tuple(
        base
        for base in bases
        if not is_library(base)
        and not is_installed(base)
        and (base.__module__ in _OF_NO_FILE or not is_standard(base.__module__))
    )


def is_installed(thing: types.FunctionType | types.ModuleType | type) -> bool:
    """Whether a function, module or class is of a package that was installed, not of the user's code.

    Its code counts as constant; what its objects hold does not.
    """
    if isinstance(thing, types.FunctionType):
        return _of_package(thing.__code__.co_filename)
    name = thing.__name__ if isinstance(thing, types.ModuleType) else str(thing.__module__)
    return _module_of_package(name)


@functools.lru_cache(maxsize=4096)
def _module_of_package(name: str) -> bool:
    return _of_package(getattr(sys.modules.get(name), "__file__", None) or "")


@functools.lru_cache(maxsize=4096)
def _of_package(file: str) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def is_plain(value: Any) -> bool:
    """Whether a value, or every one in a tuple of tuples, is plain or of an enum."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return type(value) in PLAIN or isinstance(value, enum.Enum)


def slots(kind: type) -> Iterator[str]:
    """The names of the slots of a class and those it inherits from."""
    for base in kind.__mro__:
        own = base.__dict__.get("__slots__", ())
        for name in (own,) if isinstance(own, str) else own:
            hidden = name.startswith("__") and not name.endswith("__")
            yield f"_{base.__name__.lstrip('_')}{name}" if hidden else name


def of_torch(name: str) -> bool:
    """Whether an attribute of a module is PyTorch's, or this package's, own book-keeping."""
    return name in _OF_EVERY_MODULE or name.startswith("_superopt_")


def is_number(kind: type) -> bool:
    """Whether a type is one of numpy's scalar types (numpy need not be there)."""
    return kind.__module__ == "numpy" and hasattr(kind, "item") and kind.__name__ != "ndarray"


_OF_NO_FILE = ("builtins", "types")
"""Modules that classes say they are of when code without a name, or a function, makes them."""


def remembered(memo: Any) -> list[Any]:
    """The arguments and results that a ``functools.lru_cache`` keeps, which it shows to gc alone."""
    shown = gc.get_referents(memo)
    links = {  # of one with a bound on its size: each key, its result, and the class of the link
        id(key): result
        for key, result, kind in zip(shown, shown[1:], shown[2:], strict=False)
        if getattr(kind, "__name__", "") == "_lru_list_elem"
    }
    tables = [t for t in shown if type(t) is dict and t is not memo.__dict__]
    return [
        item
        for table in tables
        for key, value in table.items()
        for item in (key, links.get(id(key), value))
    ]


@functools.lru_cache(maxsize=1024)
def of_library(method: Any) -> bool:
    """Whether a method of a library's class is that library's own, and not patched by the user."""
    return is_library(method)


_MADE_BY_CODE = 1 << 9
"""The flag of a class that a class statement made (Py_TPFLAGS_HEAPTYPE)."""


def is_library(thing: Any) -> bool:
    """Whether a module, function, class or object is of PyTorch, numpy, Python or this package."""
    if isinstance(thing, types.ModuleType):
        return thing.__name__.split(".")[0] in LIBRARIES or is_standard(thing.__name__)
    if isinstance(thing, types.FunctionType):  # functools.wraps copies a function's __module__
        home = str(thing.__globals__.get("__name__"))
        return home.split(".")[0] in LIBRARIES or is_standard(home)
    if isinstance(thing, type) and thing.__module__ == "builtins":
        return not thing.__flags__ & _MADE_BY_CODE
    return (getattr(thing, "__module__", None) or "").split(".")[0] in LIBRARIES
