"""The short way into a kernel: the compiled core allocates outputs, collects pointers and calls.

Where the core is missing, or PyTorch has no C functions to look at tensors, ``Kernels`` does the same
in Python.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from superopt.runtime.launch import Entry
from superopt.runtime.plan import Plan

KINDS = {"input": 0, "output": 1, "scratch": 2}
"""The kinds of buffers, as csrc/core/launch.cpp numbers them."""


@functools.cache
def exchange() -> Any:
    """The capsule of PyTorch's C functions for tensors, if the compiled core can use it; else None."""
    try:
        from superopt._core import Launcher
    except ImportError:
        return None
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    try:
        Launcher(capsule, 0, [], torch.empty_like, [], [], [], 1, False)
    except ValueError:  # another version of it
        return None
    return capsule


def launcher(
    entry: Entry,
    plan: Plan,
    outputs: Sequence[torch.Tensor],
    sizes: Mapping[str, int],
    threads: int | None,
    release: bool,
) -> Any:
    """A ``_core.Launcher`` of a program at these sizes, or None where there is none.

    outputs: tensors like those that each call makes, whose memory is given up here; threads: None
    for as many as PyTorch uses at the time of the call; release: whether others may run Python
    meanwhile.
    """
    if (capsule := exchange()) is None or not all(kind in KINDS for kind, _ in plan.buffers):
        return None
    from superopt._core import Launcher

    for t in outputs:
        t.untyped_storage().resize_(0)
    return Launcher(
        capsule,
        ctypes.cast(entry.call, ctypes.c_void_p).value,  # type: ignore[arg-type]
        list(outputs),
        torch.empty_like,
        [(KINDS[kind], n) for kind, n in plan.buffers],
        [e.value(sizes) for e in plan.scratch],
        [sizes[symbol[0]] for symbol in plan.symbols],
        threads or torch.get_num_threads,
        release,
    )


class _Alone:
    """Whether this process was forked: the threads of the parent's OpenMP pool are not here."""

    forked = False


def _after_fork() -> None:
    _Alone.forked = True
    if exchange() is not None:
        from superopt._core import one_thread

        one_thread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def thread_count(threads: int | None) -> int:
    """Threads that a kernel may use now: those given, else PyTorch's; one in a forked process."""
    return 1 if _Alone.forked else threads or torch.get_num_threads()
