"""What the CPU of this machine can do, and the compiler flags of each instruction set."""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Mapping
from pathlib import Path

from superopt.errors import BadOption, closest

# Per instruction set: compiler flags, and the CPU features (as the kernel names them) it needs.
ISAS: Mapping[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "native": (("-march=native",), frozenset()),
    "generic": ((), frozenset()),
    "avx2": (("-march=x86-64-v3",), frozenset({"avx2", "fma", "bmi2", "f16c"})),
    "avx512": (
        ("-march=x86-64-v4",),
        frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ),
    "avx512bf16": (
        ("-march=x86-64-v4", "-mavx512bf16"),
        frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"}),
    ),
    "amx": (
        ("-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
        frozenset({"avx512f", "avx512_bf16", "amx_tile", "amx_bf16"}),
    ),
    "neon": (("-march=armv8-a+simd",), frozenset({"asimd"})),
    "sve": (("-march=armv8.2-a+sve",), frozenset({"sve"})),
}


def isa_flags(isa: str) -> tuple[str, ...]:
    """Compiler flags of an instruction set of ``ISAS``; BadOption for another name."""
    if isa not in ISAS:
        raise BadOption(f"unknown instruction set {isa!r}", "target cpu:isa", closest(isa, ISAS))
    return ISAS[isa][0]


def missing_features(isa: str) -> frozenset[str]:
    """The CPU features that ``isa`` needs and this machine lacks; empty if its code runs here."""
    isa_flags(isa)
    return ISAS[isa][1] - cpu_features()


@functools.cache
def cpu_features() -> frozenset[str]:
    """The CPU features as the kernel names them (``avx512f``, ``asimd``, …), and the machine."""
    features = {f"machine:{platform.machine()}"}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            # x86 says "flags", ARM says "Features"; all cores of a machine say the same.
            if name.strip().lower() in ("flags", "features"):
                features.update(value.split())
                break
    return frozenset(features)


@functools.cache
def cpu_model() -> str:
    """The model name of the CPU, for tables and keys of measured times."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in ("model name", "cpu part"):
                return value.strip()
    return platform.processor() or platform.machine()
