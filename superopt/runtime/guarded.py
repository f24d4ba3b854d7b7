"""Tensors in memory that ends, or begins, at a page without access: what reads beyond them faults.

For processes whose end does no harm: a fault ends the process (SIGSEGV, or SIGBUS on some systems).
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from superopt.errors import KernelFailed

if TYPE_CHECKING:
    from superopt.runtime.kernels import Kernels


def guarded(tensor: torch.Tensor, end: bool = True) -> torch.Tensor:
    """A copy of a CPU tensor, of its shape and strides, with what lies between its elements.

    The memory ends where access does if ``end``, else it begins there, and its address is then a
    multiple of the element size alone, or of a page. On the other side lie bytes 0xFF (NaN, -1), up to
    a page of them, and then another page without access. It is freed with the tensor. Raises OSError
    where there is no memory. A tensor without elements has no address to guard.
    """
    if not tensor.numel():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    reach = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    block = _block(reach, tensor.dtype, end)
    block.copy_(tensor.as_strided((reach,), (1,)))
    return block.as_strided(tensor.shape, tensor.stride())


def _block(count: int, dtype: torch.dtype, end: bool) -> torch.Tensor:
    page, size = mmap.PAGESIZE, count * dtype.itemsize
    inside = -(-size // page) * page
    # The tensor below keeps it alive.
    memory = mmap.mmap(-1, inside + 2 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(start)
    del start  # a buffer that is exported could not be freed
    spare = inside - size
    ctypes.memset(address + page + (0 if end else size), 0xFF, spare)
    for border in (address, address + page + inside):
        if _mprotect()(border, page, 0):  # PROT_NONE
            error = ctypes.get_errno()
            raise OSError(error, "a page cannot be protected")
    offset = page + (spare if end else 0)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset)


@cache
def _mprotect() -> Any:
    call = ctypes.CDLL(None, use_errno=True).mprotect
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    call.restype = ctypes.c_int
    return call


class Fenced:
    """Runs a program as ``Kernels.checked`` does, with all its memory at pages without access.

    Inputs (copies of those given), outputs and scratch end there in every other call, from the first
    on, and begin there in the others. packed: with its inputs packed.
    Raises KernelFailed also where the program wrote to an input.
    """

    def __init__(self, kernels: Kernels, packed: bool = False) -> None:
        self._kernels, self._packed = kernels, packed
        self._ends = itertools.cycle((True, False))

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        end = next(self._ends)
        try:
            placed = [guarded(x, end) for x in tensors]
            outputs = self._kernels.checked(placed, end=end, packed=self._packed)
        except OSError as error:
            raise KernelFailed(f"{error} (no memory)", str(self._kernels.path)) from error
        if not all(map(_same_bytes, tensors, placed)):
            raise KernelFailed("it wrote to an input", str(self._kernels.path))
        return outputs


def _same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same bit by bit: NaN has many forms."""
    flat = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
    return torch.equal(*flat)
