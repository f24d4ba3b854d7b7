"""The first run of a function: its answer, and what it does beside computing it."""

from __future__ import annotations

import inspect
import io
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt.errors import HasEffects, Miscaptured
from superopt.frontend.kinds import SPEAKING, is_standard
from superopt.frontend.reach import reached

_PURE = frozenset(
    (
        *("builtins", "types", "typing", "_typing", "sys", "gc", "_abc", "_weakref", "_thread"),
        *("torch", "pybind11_builtins", "numpy", "superopt", "math", "cmath", "_statistics"),
        *("functools", "_functools", "itertools", "_operator", "collections", "_collections"),
        *("re", "_sre", "_struct", "_string", "_decimal", "_json", "_bisect", "_heapq"),
        "_contextvars",
    )
)
"""Modules of C whose functions and types do nothing that is seen outside of the process."""

_LATER = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)

_EFFECTFUL = frozenset(("logging", "torch.serialization", "torch.random", "subprocess"))
"""Modules of Python whose functions do more than compute, or set a state."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Relative to the largest value: both sides run the same operators, so most results are the same."""


@dataclass
class Observed:
    """What one run showed: the answer, its effects in words, the random generator's state before."""

    answer: Any = None
    effects: list[str] = field(default_factory=list)
    random: torch.Tensor = field(default_factory=torch.get_rng_state)


def observe(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed:
    """Runs the function as it was written. What it raises is the caller's to see."""
    seen = Observed()
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = [h.value for h in reached(fn) if isinstance(h.value, torch.Tensor)]
    versions = [_version(t) for t in tensors]
    given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    marks = [dict(t.__dict__) for t in (*given, *tensors)]
    if any(kind(fn) for kind in _LATER):
        seen.effects.append("is a coroutine or a generator, and runs later")
    grads = [t.grad if t.is_leaf else None for t in (*given, *tensors)]
    with _listening(seen):
        seen.answer = fn(*args, **kwargs)
    now, shape = pytree.tree_flatten((args, kwargs))
    if shape != spec or any(a is not b for a, b in zip(leaves, now, strict=True)):
        seen.effects.append("changes a container among its arguments")
    if versions != [_version(t) for t in tensors]:
        seen.effects.append("writes to a tensor that it holds")
    if any(not _same_marks(t, m) for t, m in zip((*given, *tensors), marks, strict=True)):
        seen.effects.append("sets an attribute of a tensor")
    if any(t.is_leaf and t.grad is not g for t, g in zip((*given, *tensors), grads, strict=True)):
        seen.effects.append("sets the gradient of a tensor")
    if any(_marked(leaf) for leaf in pytree.tree_leaves(seen.answer)):
        seen.effects.append("returns a tensor with attributes of its own")
    return seen


def _version(tensor: torch.Tensor) -> int:
    """How often a tensor was written to in place; tensors of inference mode do not count it."""
    return -1 if tensor.is_inference() else tensor._version


def _same_marks(tensor: torch.Tensor, marks: dict[str, Any]) -> bool:
    now = tensor.__dict__
    return now.keys() == marks.keys() and all(now[k] is marks[k] for k in marks)


def _marked(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and bool(leaf.__dict__)


def refuse_effects(seen: Observed, name: str) -> None:
    """Raises HasEffects for a function that does what a kernel would leave out."""
    if seen.effects:
        raise HasEffects(f"the function {seen.effects[0]}", name)


class _Ears(threading.local):
    """The functions that are being observed, one within the other."""

    def __init__(self) -> None:
        self.seen: list[Observed] = []


_ears = _Ears()


def can_listen() -> bool:
    """Whether no profiler is at work, of which there can be one only."""
    return sys.getprofile() in (None, _note)


@contextmanager
def _listening(seen: Observed) -> Iterator[None]:
    """Notes what this thread's Python code says, reads or writes; libraries may warn."""
    if not can_listen():
        yield
        return
    _ears.seen.append(seen)
    sys.setprofile(_note)
    try:
        yield
    finally:
        _ears.seen.pop()
        sys.setprofile(_note if _ears.seen else None)


@contextmanager
def unheard() -> Iterator[None]:
    """Where this package works itself: none of that is an effect of a function around the call."""
    mine = sys.getprofile() is _note
    if mine:
        sys.setprofile(None)
    try:
        yield
    finally:
        if mine:
            sys.setprofile(_note)


def _note(frame: types.FrameType, event: str, arg: Any) -> None:
    if event == "c_call" and not _harmless(arg):
        what = getattr(arg, "__qualname__", "write")
    elif event == "call" and frame.f_globals.get("__name__") in _EFFECTFUL:
        what = f"{frame.f_globals['__name__']}.{frame.f_code.co_name}"
    else:
        return
    if by := _caller(frame.f_back if event == "call" else frame):
        for seen in _ears.seen:
            seen.effects.append(f"calls {what} (line {by.f_lineno}, in {by.f_code.co_name})")


def _caller(frame: types.FrameType | None) -> types.FrameType | None:
    """The user's frame under a call, None when a library or an import makes it, or a warning."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        root = name.split(".")[0]
        if root in ("torch", "superopt", "numpy", "warnings", "importlib"):
            return None
        if not is_standard(name):
            return frame
        frame = frame.f_back
    return None


def _harmless(called: Any) -> bool:
    """Whether a function in C only computes, or changes what is looked at elsewhere."""
    owner = getattr(called, "__self__", None)
    if owner is None or isinstance(owner, type):
        return True  # a method of a class of C; an operator of PyTorch
    if isinstance(owner, types.ModuleType):
        return called not in SPEAKING and owner.__name__.split(".")[0] in _PURE
    return type(owner).__module__.split(".")[0] in _PURE and not isinstance(owner, io.IOBase)


@contextmanager
def same_random_numbers(wanted: bool = True) -> Iterator[None]:
    """Leaves torch's generator as it was: what is tried out must not shift the user's numbers."""
    before = torch.get_rng_state() if wanted else None
    try:
        yield
    finally:
        if before is not None:
            torch.set_rng_state(before)


def confirm(got: Any, answer: Any, name: str) -> None:
    """Raises Miscaptured when the captured program does not give the function's answer.

    A function can ask what export does not record: whether a size is a plain number, whether two
    arguments are one, what text a size prints as.
    """
    wrong = difference(got, answer)
    if wrong:
        leaves = pytree.tree_leaves(answer, is_leaf=lambda part: isinstance(part, torch.Size))
        if any(isinstance(leaf, torch.Size) for leaf in leaves):
            raise Miscaptured(
                "the result holds a torch.Size, which torch.export turns into a plain tuple",
                name,
                "return tuple(x.shape), or the tensors alone",
            )
        raise Miscaptured(f"what was captured gives {wrong}", name)


def difference(got: Any, want: Any, near: bool = True) -> str:
    """How two answers differ, in words; empty when they do not.

    near: both ran the same operators; else kernels made one, with roundings of their own.
    """
    a, spec_a = pytree.tree_flatten(got)
    b, spec_b = pytree.tree_flatten(want)
    if spec_a != spec_b:
        return f"a result of another structure: {_unlike(got, want)}"
    for x, y in zip(a, b, strict=True):
        if not isinstance(y, torch.Tensor) or not isinstance(x, torch.Tensor):
            if type(x) is not type(y) or x != y:
                return f"{x!r} where the function gives {y!r}"
            continue
        if type(x) is not type(y):
            return f"a {type(x).__name__}, not a {type(y).__name__}"
        for what in ("dtype", "shape", "layout", "requires_grad"):
            if getattr(x, what) != getattr(y, what):
                return f"another {what}: {getattr(x, what)}, not {getattr(y, what)}"
        if not _near(x.detach(), y.detach(), 1.0 if near else 100.0):
            return "other values"
    return ""


def memory_difference(got: Any, want: Any) -> str:
    """How two equal answers differ in memory, in words; empty when they do not.

    The order of dimensions of what is dense, and which results overlap: a write to one is seen in
    the other.
    """
    mine, theirs = (
        [x for x in pytree.tree_leaves(answer) if isinstance(x, torch.Tensor)]
        for answer in (got, want)
    )
    for x, y in zip(mine, theirs, strict=True):
        first, behind = _reach(y)
        dense = behind - first == y.numel() * y.element_size() > 0
        orders = [[s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1] for t in (x, y)]
        if dense and orders[0] != orders[1]:
            return f"strides {x.stride()} where the function gives {y.stride()}"
    for k, y in enumerate(theirs):
        for j in range(k):
            if _overlap(y, theirs[j]) and not _overlap(mine[k], mine[j]):
                return "results apart that are the same memory in the function's answer"
    return ""


def _overlap(x: torch.Tensor, y: torch.Tensor) -> bool:
    if not x.numel() or x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr():
        return False
    (a, b), (c, d) = _reach(x), _reach(y)
    return a < d and c < b


def _reach(x: torch.Tensor) -> tuple[int, int]:
    """The bytes of its storage that a tensor reaches: the first, and the one behind the last."""
    last = sum((int(n) - 1) * int(s) for n, s in zip(x.shape, x.stride(), strict=True))
    start = int(x.storage_offset()) * x.element_size()
    return start, start + (last + 1) * x.element_size()


def _unlike(got: Any, want: Any) -> str:
    """Where two results whose structures differ part, in words."""
    if type(got) is not type(want):
        return f"{_kind(got)} where the function gives {_kind(want)}"
    a, spec_a = pytree.tree_flatten(got, is_leaf=lambda part: part is not got)
    b, spec_b = pytree.tree_flatten(want, is_leaf=lambda part: part is not want)
    for x, y in zip(a, b, strict=False):
        if spec_a == spec_b and pytree.tree_structure(x) != pytree.tree_structure(y):
            return _unlike(x, y)
    if len(a) != len(b):
        return f"{_kind(got)} of {len(a)} where the function gives one of {len(b)}"
    return f"{_kind(got)} of other names"


def _kind(value: Any) -> str:
    return "None" if value is None else f"type {type(value).__name__}"


def _near(x: torch.Tensor, y: torch.Tensor, slack: float) -> bool:
    """Whether values are the same, floats up to the rounding of another order of summation."""
    if torch.equal(x, y) or not y.dtype.is_floating_point:
        return torch.equal(x, y)
    finite = y[torch.isfinite(y)]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    tolerance = min(_TOLERANCE.get(y.dtype, 0.05) * slack, 0.1) * scale
    return torch.allclose(x, y, rtol=0.0, atol=tolerance, equal_nan=True)
