"""The floor of a case: the time of its bytes and its operations at the speeds PyTorch reaches here.

It is measured, not derived: a reader of small data that is better than PyTorch's can go below it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

DRAM_BYTES = 256 << 20
_PEAK_SIZE = 1024  # a square product of this side runs near the peak, and takes milliseconds


def _best(call: Callable[[], object], runs: int) -> float:
    call()
    times = []
    for _ in range(runs):
        t0 = time.perf_counter()
        call()
        times.append(time.perf_counter() - t0)
    return min(times)


def bandwidth(size: int = DRAM_BYTES, runs: int = 5) -> float:
    """Bytes per second that all threads of PyTorch read from a buffer of ``size`` bytes.

    The best of a few runs of the faster of two readers, a sum and a product with a vector. A small
    size measures a cache.
    """
    columns = 4096
    rows = max(1, size // 4 // columns)
    matrix = torch.ones(rows, columns)
    vector = torch.ones(columns)
    moved = rows * columns * 4
    readers: tuple[Callable[[], object], ...] = (matrix.sum, lambda: matrix @ vector)
    return moved / min(_best(r, runs) for r in readers)


def peak_flops(dtype: torch.dtype, runs: int = 5) -> float:
    """Operations per second of PyTorch's matrix product in this dtype, best of a few runs."""
    n = _PEAK_SIZE
    a, b = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
    return 2 * n**3 / _best(lambda: a @ b, runs)


@dataclass
class Floors:
    """Measures beside each case: peaks once (the best seen counts), bandwidth for every case."""

    def __post_init__(self) -> None:
        self._peaks: dict[tuple[torch.dtype, int], float] = {}

    def floor(self, moved: int, flops: int, dtype: torch.dtype, *, cold: bool = True) -> float:
        """max(bytes / bandwidth, flops / peak) in seconds, measured now, with PyTorch's threads.

        Warm cases are given the bandwidth of a buffer of their own size, which may be a cache's.
        """
        with torch.no_grad():
            size = DRAM_BYTES if cold else min(max(moved, 1 << 20), DRAM_BYTES)
            speed = bandwidth(size, runs=5 if size >= 32 << 20 else 50)
            known = (dtype, torch.get_num_threads())
            self._peaks[known] = max(self._peaks.get(known, 0.0), peak_flops(dtype))
        return max(moved / speed, flops / self._peaks[known])
