"""Notices aliases of tensors that PyTorch's version counter does not count: ``data``, NumPy, DLPack.

``tensor.data`` is a tensor on the same memory with a counter of its own; arrays have none. PyTorch has no
hook for that, so from the first tensor that is watched on, ``torch.Tensor`` has in place of these three
members ones that look whether the storage is watched, and do the same.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch

_METHODS = ("numpy", "__dlpack__")

_watched: dict[int, Callable[[int], None]] = {}
_lock = threading.Lock()
_installed = False


def watch(place: int, opened: Callable[[int], None]) -> None:
    """Calls ``opened`` with the address of a storage whenever an alias to it is made."""
    _install()
    _watched[place] = opened


def forget(place: int) -> None:
    """Ends that."""
    _watched.pop(place, None)


def _note(tensor: Any) -> None:
    if not _watched:
        return
    try:
        with torch._C.DisableTorchFunctionSubclass():
            place = tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # of a tensor without memory
        return
    opened = _watched.get(place)
    if opened is not None:
        opened(place)


def _install() -> None:
    global _installed
    with _lock:
        if _installed:
            return
        own: Any = torch.Tensor.data

        def get(tensor: Any) -> Any:
            _note(tensor)
            return own.__get__(tensor)

        def put(tensor: Any, value: Any) -> None:
            own.__set__(tensor, value)

        torch.Tensor.data = property(get, put, None, own.__doc__)  # type: ignore[assignment]
        for name in _METHODS:
            setattr(torch.Tensor, name, _noting(getattr(torch.Tensor, name)))
        _installed = True


def _noting(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def noted(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        _note(tensor)
        return method(tensor, *args, **kwargs)

    return noted
