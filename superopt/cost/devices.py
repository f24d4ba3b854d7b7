"""The device table: one row per kind of machine, with the limits that the cost model uses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TILE_MEMORY = 64 << 20
"""Bytes of the tile buffers of a task on a CPU: each thread keeps a block for them between calls, so
a task that needs more is to store what it computes."""


@dataclass(frozen=True, slots=True)
class Device:
    """One machine. Rates are per core unless said otherwise; sizes in bytes, times in seconds.

    mul_add: peak of a register-blocked f32 contraction, flop/s; narrow: the same for 16-bit pairs;
    map_rate: elementwise flop/s; dram, l3: bytes/s of all cores together; l1, l2: bytes per core;
    l3_bytes: shared; launch: one parallel region; step: one tile statement; tile_memory: bytes that
    the tile buffers of one task may take: no kernel is placed beyond it; vector: 4-byte lanes; fma,
    loads: vectors multiplied and added, and loaded, in a cycle.
    """

    name: str
    cores: int
    mul_add: float
    narrow: float
    map_rate: float
    dram: float
    l3: float
    l1: int
    l2: int
    l3_bytes: int
    launch: float
    step: float
    vector: int
    tile_memory: int = TILE_MEMORY
    fma: float = 2.0
    loads: float = 2.0


_GENERIC = {
    "mul_add": 60e9,
    "narrow": 60e9,
    "map_rate": 12e9,
    "dram": 25e9,
    "l3": 60e9,
    "l1": 32 << 10,
    "l2": 512 << 10,
    "l3_bytes": 8 << 20,
    "launch": 4e-6,
    "step": 25e-9,
    "vector": 8,
}
_TABLE: dict[str, dict[str, float]] = {
    # Measured on two Zen 4 cores: 116 GFLOP/s f32 and 230 bf16 a core, 34-60 GB/s for both.
    "avx512": {
        "mul_add": 100e9,
        "narrow": 180e9,
        "map_rate": 30e9,
        "dram": 45e9,
        "l3": 95e9,
        "l1": 32 << 10,
        "l2": 1 << 20,
        "l3_bytes": 32 << 20,
        "launch": 4e-6,
        "step": 20e-9,
        "vector": 16,
        "fma": 1.0,
        "loads": 1.0,
    },
    "avx2": {"mul_add": 60e9, "map_rate": 16e9, "dram": 35e9, "l3": 70e9},
    "neon": {"mul_add": 40e9, "map_rate": 10e9, "vector": 4},
}


def cpu_device(
    features: frozenset[str] = frozenset(),
    cores: int | None = None,
    tile_memory: int = TILE_MEMORY,
) -> Device:
    """The row for this CPU, chosen by instruction set; cores as given or as the process may use."""
    kind = next(
        (
            k
            for k, f in (("avx512", "avx512f"), ("avx2", "avx2"), ("neon", "neon"))
            if f in features
        ),
        "generic",
    )
    row = {**_GENERIC, **_TABLE.get(kind, {})}
    if "avx512_bf16" not in features:
        row["narrow"] = row["mul_add"] * 0.8
    row["l3_bytes"] = _cache_size(3) or row["l3_bytes"]
    row["l2"] = _cache_size(2) or row["l2"]
    count = (
        cores or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores or 1
    )
    return Device(f"cpu:{kind}", int(count), **row, tile_memory=tile_memory)  # type: ignore[arg-type]


def _cache_size(level: int) -> int:
    """Bytes of the first core's data cache of a level, 0 where the system does not say."""
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (path / "level").read_text().strip() != str(level):
                continue
            text = (path / "size").read_text().strip()
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1], 1)
            return int(text.rstrip("KMG")) * unit
        except (OSError, ValueError):
            return 0
    return 0
