"""The instruction sets that generated CPU code is printed for."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path

from superopt.errors import UnsupportedDevice

_WIDE = "-mtune=skylake-avx512"
"""The generic tuning of GCC 12 schedules some register tiles of 512-bit vectors a quarter slower."""


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction set: its name, bytes of a vector, and whether it has a bf16 dot product."""

    name: str
    vector_bytes: int
    bf16: bool = False

    @staticmethod
    def named(name: str) -> Isa:
        """``avx512bf16``, ``avx512``, ``avx2``, ``neon`` or ``generic``."""
        rows = {
            i.name: i
            for i in (
                Isa("avx512bf16", 64, True),
                Isa("avx512", 64),
                Isa("avx2", 32),
                Isa("neon", 16),
                Isa("generic", 16),
            )
        }
        if name not in rows:
            raise UnsupportedDevice(
                f"no instruction set {name!r}", "target='cpu:...'", "one of " + ", ".join(rows)
            )
        return rows[name]

    @staticmethod
    def of_target(arch: str) -> Isa:
        """The instruction set of a target's ``cpu:arch``; ``native`` is the best one of this machine."""
        names = {"amx": "avx512bf16", "sve": "neon"}
        return _host() if arch == "native" else Isa.named(names.get(arch, arch))

    @staticmethod
    def host() -> Isa:
        """The best instruction set of this machine."""
        return _host()

    @property
    def runs_here(self) -> bool:
        """Whether this machine has the instruction set."""
        order = ("generic", "avx2", "avx512", "avx512bf16")
        host = _host().name
        if self.name not in order or host not in order:
            return self.name in (host, "generic")
        return order.index(self.name) <= order.index(host)

    @property
    def flags(self) -> tuple[str, ...]:
        """Compiler flags that turn the instruction set on."""
        return {
            "avx512bf16": ("-march=x86-64-v4", "-mavx512bf16", _WIDE),
            "avx512": ("-march=x86-64-v4", _WIDE),
            "avx2": ("-march=x86-64-v3",),
        }.get(self.name, ())


@functools.cache
def _host() -> Isa:
    if platform.machine() in ("aarch64", "arm64"):
        return Isa.named("neon")
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return Isa.named("generic")
    line = next((ln for ln in text.splitlines() if ln.startswith("flags")), "")
    have = set(line.split())
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"} <= have:
        return Isa.named("avx512bf16" if "avx512_bf16" in have else "avx512")
    if {"avx2", "fma", "bmi2", "f16c"} <= have:
        return Isa.named("avx2")
    return Isa.named("generic")
