"""A description of the machine and its software, which every result carries."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from superopt.config import usable_cores, version

_CPU = Path("/sys/devices/system/cpu/cpu0/cache")


def machine() -> dict[str, Any]:
    """CPU model and features, cores, caches, memory (bytes), load, system, versions; plain JSON."""
    info = _cpuinfo()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "features": [f for f in _WORTH_TELLING if f in info.get("flags", "").split()],
        "arch": platform.machine(),
        "cores": usable_cores(),
        "caches": _caches(),
        "memory_bytes": _memory(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        # Other work on the cores when the run began: what to distrust its times by.
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "compiler": _compiler(),
        "superopt": version(),
    }


_WORTH_TELLING = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {k.strip().replace("Features", "flags"): v.strip() for k, _, v in pairs}


def _caches() -> dict[str, str]:
    """Size of each data cache that the first core sees, such as {"L2": "1024K"}."""
    found = {}
    for index in sorted(_CPU.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = (index / "level").read_text().strip()
            if kind != "Instruction":
                found[f"L{level}"] = (index / "size").read_text().strip()
        except OSError:
            continue
    return found


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _compiler() -> str:
    """The first line that the C++ compiler says of itself, or "none"."""
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        path = shutil.which(name) if name else None
        if path is None:
            continue
        try:
            done = subprocess.run(
                [path, "--version"], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if done.returncode == 0 and done.stdout:
            return done.stdout.splitlines()[0]
    return "none"
