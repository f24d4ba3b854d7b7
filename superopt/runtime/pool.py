"""Whose threads a kernel runs on: those of the OpenMP runtime that PyTorch has loaded, if it can be.

Two runtimes in a process keep two pools, and the threads of one spin while those of the other work.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch

_OF_GCC = "libgomp.so.1"
"""What GCC links; a runtime that is loaded already under this name serves."""


class _Found(ctypes.Structure):
    """What ``dladdr`` tells of an address."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def runtime_of(library: Any) -> Path | None:
    """The file of the OpenMP runtime that a loaded library calls; None where it calls none."""
    try:
        address = ctypes.cast(library.omp_get_max_threads, ctypes.c_void_p)
        dladdr = ctypes.CDLL(None).dladdr
    except (AttributeError, OSError, TypeError):
        return None
    dladdr.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Found))
    found = _Found()
    if not dladdr(address, ctypes.byref(found)) or not found.file:
        return None
    return Path(found.file.decode()).resolve()


@functools.cache
def of_torch() -> Path | None:
    """The file of PyTorch's OpenMP runtime; None where it has none, or cannot be asked."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            try:
                return runtime_of(ctypes.CDLL(str(folder / name)))
            except OSError:
                return None
    return None


def link_flags() -> tuple[str, ...]:
    """What makes GCC link PyTorch's runtime where that has another name than GCC's own."""
    runtime = of_torch()
    if runtime is None or runtime.name == _OF_GCC or "gomp" not in runtime.name:
        return ()
    return ("-Wl,--as-needed", str(runtime))


def second_pool(library: Any) -> str | None:
    """What is wrong where a loaded kernel has another runtime than PyTorch; None where nothing is."""
    mine, its = runtime_of(library), of_torch()
    if mine is None or its is None or mine == its:
        return None
    return f"kernels run on the threads of {mine}, and PyTorch on those of {its}"
