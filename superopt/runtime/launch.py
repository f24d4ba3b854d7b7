"""Loads a compiled kernel and calls its C entry point with tensors and sizes.

Every generated shared object exports ``int name(void** bufs, const int64_t* ints)``: data pointers
in, sizes and strides in, 0 for success (see ``failure``). A call releases the interpreter lock.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from superopt import trace
from superopt.errors import IndexOutside, KernelFailed, LoadFailed
from superopt.mugraph.tile_panels import STALE
from superopt.runtime.pool import second_pool


class HasPointer(Protocol):
    """What is needed of a tensor: the address of its first element."""

    def data_ptr(self) -> int:
        """The address, 0 for a tensor with no elements."""


class Entry:
    """A C entry point of a loaded library; keeps the library loaded while it lives."""

    __slots__ = ("_library", "call", "name")

    def __init__(self, library: Library, name: str, call: Callable[[Any, Any], int]) -> None:
        self._library = library
        self.name = name
        self.call = call

    def __repr__(self) -> str:
        return f"Entry({self.name!r} of {self._library.path})"


class Library:
    """A shared object loaded into this process; LoadFailed when it cannot be."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            # RTLD_LOCAL: two kernels may export the same name.
            self._dll = ctypes.CDLL(str(self.path), mode=ctypes.RTLD_LOCAL)
        except OSError as error:
            raise LoadFailed("a kernel cannot be loaded", str(path), details=str(error)) from error
        if (wrong := second_pool(self._dll)) is not None:
            trace.warn_once(
                "launch", f"{wrong}: on few cores they hinder one another; build with g++"
            )

    def entry(self, name: str) -> Entry:
        """The entry point ``name``; LoadFailed when the library lacks it."""
        try:
            function = self._dll[name]
        except AttributeError as error:
            raise LoadFailed(f"the library lacks the entry {name!r}", str(self.path)) from error
        function.restype = ctypes.c_int
        # Raw addresses: ctypes then converts nothing and allocates little on a call.
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        return Entry(self, name, function)

    def seconds(self, name: str, ints: Sequence[int]) -> float:
        """About how long the entry ``name`` takes on one core at these sizes; 0 where it does not say."""
        try:
            told = self._dll[f"{name}_seconds"]
        except AttributeError:
            return 0.0
        told.restype, told.argtypes = ctypes.c_double, (ctypes.c_void_p,)
        return float(told((ctypes.c_int64 * max(len(ints), 1))(*ints)))

    def text(self, name: str) -> str:
        """A ``const char name[]`` of the library, as text; LoadFailed when it lacks it."""
        try:
            start = ctypes.c_char.in_dll(self._dll, name)
        except ValueError as error:
            raise LoadFailed(f"the library lacks the text {name!r}", str(self.path)) from error
        return ctypes.string_at(ctypes.addressof(start)).decode()


class _Scratch(threading.local):
    """Per thread: argument arrays by length, each with its address."""

    def __init__(self) -> None:
        self.pointers: dict[int, tuple[Any, int]] = {}
        self.integers: dict[int, tuple[Any, int]] = {}


_scratch = _Scratch()


def _array(
    kind: type[ctypes.c_void_p] | type[ctypes.c_int64], pool: dict[int, tuple[Any, int]], size: int
) -> tuple[Any, int]:
    held = pool.get(size)
    if held is None:
        array = (kind * max(size, 1))()
        held = pool[size] = (array, ctypes.addressof(array))
    return held


def launch(
    fn: Entry, tensors: Sequence[HasPointer], ints: Sequence[int] = (), *, on_pattern: bool = False
) -> None:
    """Call ``fn`` on the data of ``tensors`` and on ``ints``; KernelFailed on a bad status.

    on_pattern: this thread's stack is full of ones before, which are NaN to a kernel that reads of a
    tile what it has not written (where the compiled core is there).

    The caller has checked device, dtype, shape and strides against the kernel's guards, and keeps
    the tensors alive through the call. Any number of threads may call at once.
    """
    # A kernel does not call back into Python, so the thread's arrays cannot be reused under it.
    pointers, pointers_at = _array(ctypes.c_void_p, _scratch.pointers, len(tensors))
    pointers[: len(tensors)] = [t.data_ptr() for t in tensors]
    integers, integers_at = _array(ctypes.c_int64, _scratch.integers, len(ints))
    if ints:
        integers[: len(ints)] = ints
    status = (_on_pattern(fn) if on_pattern else fn.call)(pointers_at, integers_at)
    if status:
        raise failure(status, fn)


def _on_pattern(fn: Entry) -> Callable[[int, int], int]:
    try:
        from superopt._core import call_on_pattern
    except ImportError:  # as for the field, which Python evaluates then
        return fn.call
    address = ctypes.cast(fn.call, ctypes.c_void_p).value  # type: ignore[arg-type]
    return partial(call_on_pattern, address)


class StaleCopy(KernelFailed):
    """A kernel has stored nothing, since a packed copy that it was given is out of date."""


def failure(status: int, fn: Entry) -> KernelFailed:
    """What a bad status means: 1 no memory for a task, 2 an index outside its axis, 3 both, or STALE."""
    if status == STALE:
        return StaleCopy(f"kernel {fn.name} met a packed copy that is out of date", repr(fn))
    if status == 2:
        return IndexOutside(f"kernel {fn.name} met an index outside its axis", repr(fn))
    what = " (no memory)" if status in (1, 3) else ""
    return KernelFailed(f"kernel {fn.name} returned status {status}{what}", repr(fn))


def prepared(fn: Entry, tensors: Sequence[HasPointer], ints: Sequence[int]) -> Callable[[], int]:
    """A call of the entry alone, with all it takes at hand; it gives the status."""
    pointers = (ctypes.c_void_p * max(len(tensors), 1))(*(t.data_ptr() for t in tensors))
    integers = (ctypes.c_int64 * max(len(ints), 1))(*ints)
    at, ints_at, call = ctypes.addressof(pointers), ctypes.addressof(integers), fn.call

    def run() -> int:
        return call(at, ints_at)

    run.__dict__["_keep"] = (pointers, integers, list(tensors), fn)
    return run


def bind(fn: Entry, count: int, ints: Sequence[int] = ()) -> Callable[..., None]:
    """A launcher with fixed ``ints`` for ``count`` tensors: the fast path of a repeated call.

    The integers are packed once, here; only data pointers are read per call.
    """
    packed = (ctypes.c_int64 * max(len(ints), 1))(*ints)
    packed_at = ctypes.addressof(packed)
    call, pool = fn.call, _scratch

    def run(*tensors: HasPointer) -> None:
        array, at = _array(ctypes.c_void_p, pool.pointers, count)
        array[:count] = [t.data_ptr() for t in tensors]
        status = call(at, packed_at)
        if status:
            raise failure(status, fn)

    # The addresses above are only valid while these live.
    run.__dict__["_keep"] = (packed, fn)
    return run
