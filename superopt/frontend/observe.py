"""The first run of a function: its answer, and what it does beside computing it."""

from __future__ import annotations

import builtins
import io
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt.errors import HasEffects, Miscaptured
from superopt.frontend.reach import LIBRARIES, reached

_SPEAKING = frozenset((builtins.print, builtins.input, builtins.open, builtins.breakpoint))
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
    with _listening(seen.effects):
        seen.answer = fn(*args, **kwargs)
    now, shape = pytree.tree_flatten((args, kwargs))
    if shape != spec or any(a is not b for a, b in zip(leaves, now, strict=True)):
        seen.effects.append("changes a container among its arguments")
    if versions != [_version(t) for t in tensors]:
        seen.effects.append("writes to a tensor that it holds")
    return seen


def _version(tensor: torch.Tensor) -> int:
    """How often a tensor was written to in place; tensors of inference mode do not count it."""
    return -1 if tensor.is_inference() else tensor._version


def refuse_effects(seen: Observed, name: str) -> None:
    """Raises HasEffects for a function that does what a kernel would leave out."""
    if seen.effects:
        raise HasEffects(f"the function {seen.effects[0]}", name)


@contextmanager
def _listening(effects: list[str]) -> Iterator[None]:
    """Notes what this thread's Python code says, reads or writes; libraries may warn."""
    if sys.getprofile() is not None:  # a profiler is at work, and there can be one only
        yield
        return

    def note(frame: types.FrameType, event: str, arg: Any) -> None:
        if event == "c_call" and _speaks(arg):
            what = arg.__name__
        elif event == "call" and frame.f_globals.get("__name__") == "logging":
            what = "logging"
        else:
            return
        if by := _caller(frame):
            effects.append(f"calls {what} (line {by.f_lineno}, in {by.f_code.co_name})")

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def _caller(frame: types.FrameType | None) -> types.FrameType | None:
    """The user's frame under a call, None when a library makes it or a warning is shown."""
    while frame is not None:
        root = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if root in LIBRARIES or root == "warnings":
            return None
        if root not in sys.stdlib_module_names:
            return frame
        frame = frame.f_back
    return None


def _speaks(called: Any) -> bool:
    owner = getattr(called, "__self__", None)
    if isinstance(owner, types.ModuleType):
        name = getattr(called, "__name__", "")
        return called in _SPEAKING or (owner.__name__ == "_warnings" and name == "warn")
    return isinstance(owner, io.IOBase)


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
    wrong = _difference(got, answer)
    if wrong:
        raise Miscaptured(f"what was captured gives {wrong}", name)


def _difference(got: Any, want: Any) -> str:
    a, spec_a = pytree.tree_flatten(got)
    b, spec_b = pytree.tree_flatten(want)
    if spec_a != spec_b:
        return "a result of another structure"
    for x, y in zip(a, b, strict=True):
        if not isinstance(y, torch.Tensor) or not isinstance(x, torch.Tensor):
            if type(x) is not type(y) or x != y:
                return f"{x!r} where the function gives {y!r}"
            continue
        for what in ("dtype", "shape", "layout", "requires_grad"):
            if getattr(x, what) != getattr(y, what):
                return f"another {what}: {getattr(x, what)}, not {getattr(y, what)}"
        if not _near(x.detach(), y.detach()):
            return "other values"
    return ""


def _near(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether values are the same, floats up to the rounding of another order of summation."""
    if torch.equal(x, y) or not y.dtype.is_floating_point:
        return torch.equal(x, y)
    finite = y[torch.isfinite(y)]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    tolerance = _TOLERANCE.get(y.dtype, 0.05) * scale
    return torch.allclose(x, y, rtol=0.0, atol=tolerance, equal_nan=True)
