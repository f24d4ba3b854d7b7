"""Copies of tensors in panels, kept as long as the tensors stay what they are.

A tensor is packed once calls have found it unchanged: the same storage, address, sizes, strides and
version counter. PyTorch counts every write that goes through an operator. What writes past the counter is
kept away, noticed, or looked for:

* not packed at all is memory that PyTorch does not own (``from_numpy``, ``from_blob``, a mapped file) or
  shares with other processes, a tensor without a counter (made in inference mode), and one whose storage
  another tensor or array has as well (a view that is given may have its base beside it);
* reading ``tensor.data``, ``tensor.numpy()`` or ``tensor.__dlpack__()``, which give aliases with a counter
  of their own or none, drops the copy at once (``aliases``);
* each call compares parts of a copy with the tensor (the kernel does, before it stores anything): some
  anywhere, and another part every time, so that in 1024 calls all of it was compared.

So what is left are writes through a raw address, through a storage (``untyped_storage()[0] = 1``), or by
C++ code that passes the counter by. Such a write is
noticed in the next call with the probability 1 - (1 - f)^32 if it changes the share f of the runs that are
compared (32 bytes to 256), and after 1024 calls with that copy at the latest.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from superopt.runtime import aliases

STABLE = 2
"""Calls in a row that must have found a tensor unchanged before it is packed."""

PATIENCE = 8
"""By how much that number grows each time a copy was dropped, so that what changes is seldom packed."""

MOST_PATIENCE = 1 << 12

IDLE = 16
"""A copy may be given up for another once each tensor known could have been used so often since."""

MOST_KNOWN = 1 << 14
"""Tensors that are watched at most; those beyond are not packed."""

HUGE = 2 << 20
"""Bytes of a huge page."""

Key = tuple[Any, ...]
Pack = Callable[[torch.Tensor], None]


@dataclass
class Copy:
    """A packed copy: its bytes, and how many calls it was given to."""

    memory: torch.Tensor
    turn: int = 0

    def data_ptr(self) -> int:
        """Its address."""
        return self.memory.data_ptr()


@dataclass
class _Known:
    """A tensor seen: its storage (weak), its version, calls in a row, and its copy if it has one."""

    storage: weakref.ref[Any]
    place: int
    version: int
    calls: int = 1
    need: int = STABLE
    used: int = 0
    busy: bool = False
    copy: Copy | None = None


@dataclass
class Packs:
    """The copies of this process. Any number of threads may ask at once."""

    bytes: int = 0
    _known: dict[Key, _Known] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _clock: int = 0

    def given(
        self, tensor: torch.Tensor, layout: str, size: int, limit: int, pack: Pack
    ) -> Copy | None:
        """The copy of a tensor in a layout, None where there is none now.

        layout: in words that mean the same bytes for the same tensor; size: of the copy in bytes; limit:
        bytes of all copies; pack: fills the memory of a new one.
        """
        if limit < size or tensor.is_inference():
            return None
        storage = tensor.untyped_storage()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), layout)
        with self._lock:
            self._clock += 1
            known = self._known.get(key)
            if known is None or known.storage() is not storage:
                self._see(key, tensor, storage)
                return None
            known.used = self._clock
            if known.version != tensor._version:
                known.version = tensor._version
                self._drop(known)
                return None
            known.calls += 1
            if known.copy is not None and not _shared(tensor, storage):
                known.copy.turn += 1
                return known.copy
            if known.copy is not None:
                self._drop(known)
                return None
            if known.calls < known.need or known.busy or not _owned(tensor, storage):
                return None
            if not self._room(size, limit):
                return None
            known.busy = True
            self.bytes += size
            aliases.watch(known.place, self.opened)
        return self._made(known, tensor, size, pack)

    def _made(self, known: _Known, tensor: torch.Tensor, size: int, pack: Pack) -> Copy | None:
        """Packs outside of the lock, and keeps the copy if nothing has happened meanwhile."""
        copy: Copy | None = None
        try:
            block = memory(size)
            pack(block)
            copy = Copy(block)
        finally:
            with self._lock:
                still = (
                    known.busy and known.version == tensor._version and known.calls >= known.need
                )
                known.busy = False
                if copy is not None and still and known.storage() is not None:
                    known.copy = copy
                else:
                    self.bytes -= size
                    copy = None
        return copy

    def stale(self, copy: Copy) -> None:
        """Drops a copy that is not what its tensor holds."""
        with self._lock:
            for known in list(self._known.values()):  # a tensor may die meanwhile, and leave
                if known.copy is copy:
                    self._drop(known)

    def opened(self, place: int) -> None:
        """Drops the copies of a storage to which there is an alias now."""
        with self._lock:
            for known in [k for k in list(self._known.values()) if k.place == place]:
                self._drop(known)

    def clear(self) -> None:
        """Forgets all tensors and frees all copies."""
        with self._lock:
            for known in list(self._known.values()):
                self._drop(known)
            self._known.clear()

    @property
    def count(self) -> int:
        """How many copies there are."""
        with self._lock:
            return sum(k.copy is not None for k in list(self._known.values()))

    # -- with the lock held ----------------------------------------------------------------------

    def _see(self, key: Key, tensor: torch.Tensor, storage: Any) -> None:
        """Begins to watch a tensor; one that had its address before is gone."""
        old = self._known.pop(key, None)
        if old is not None:
            self._drop(old)
        if len(self._known) >= MOST_KNOWN:
            oldest, known = min(list(self._known.items()), key=lambda item: item[1].used)
            self._drop(known)
            self._known.pop(oldest, None)
        place: int = storage._cdata

        def gone(_: Any) -> None:
            with self._lock:
                found = self._known.get(key)
                if found is not None and found.storage() is None:
                    self._drop(self._known.pop(key))
                aliases.forget(place)

        known = _Known(weakref.ref(storage, gone), place, tensor._version, used=self._clock)
        self._known[key] = known

    def _drop(self, known: _Known) -> None:
        """Frees a copy, and asks for more patience before the next one."""
        known.calls = 1
        known.busy = False
        if known.copy is not None:
            self.bytes -= known.copy.memory.numel()
            known.copy = None
            known.need = min(known.need * PATIENCE, MOST_PATIENCE)

    def _room(self, size: int, limit: int) -> bool:
        """Whether a copy fits; copies that were not used for long make room, the oldest first."""
        if self.bytes + size <= limit:
            return True
        old = self._clock - IDLE * len(self._known)
        for known in sorted(self._known.values(), key=lambda k: k.used):
            if known.copy is None or known.used >= old:
                continue
            need = known.need
            self._drop(known)
            known.need = need
            if self.bytes + size <= limit:
                return True
        return False


def _owned(tensor: torch.Tensor, storage: Any) -> bool:
    """Whether PyTorch alone decides what is written to a tensor's memory."""
    return bool(storage.resizable()) and not storage.is_shared() and not _shared(tensor, storage)


def _shared(tensor: torch.Tensor, storage: Any) -> bool:
    """Whether a storage has other users than a tensor, the base that it is a view of, and this question."""
    own = 2 if tensor._base is None else 3
    return bool(torch._C._storage_Use_Count(storage._cdata) > own)


def memory(size: int) -> torch.Tensor:
    """So many bytes at a multiple of 64, in huge pages where the system has them."""
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8, device="cpu")
    block = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.c_char.from_buffer(block)
    skip = -ctypes.addressof(start) % HUGE
    del start  # a buffer that is exported could not be freed
    with contextlib.suppress(OSError):  # a system without them
        block.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(block, dtype=torch.uint8, count=size, offset=skip)


PACKS = Packs()
"""The copies of this process."""
