"""Kernels under AddressSanitizer: what reads or writes outside an array ends its process, with a report.

The runtime of the sanitizer must be the first library of a process (Serebryany et al., AddressSanitizer: a
fast address sanity checker, USENIX ATC 2012), so such a binary runs in a process of its own (``apart``).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from superopt.config import Config
from superopt.runtime.build import Compiler, answer

FLAGS = ("-O1", "-fsanitize=address", "-fno-omit-frame-pointer", "-fno-common")
"""After the flags of a kernel. What an optimizer removes is not seen, so there is little of it."""

_REPORT = "report"
_OPTIONS = {
    "detect_leaks": 0,  # Python's own
    "alloc_dealloc_mismatch": 0,
    "detect_stack_use_after_return": 0,
    "verify_asan_link_order": 1,
    "exitcode": 97,
}


def library_of(compiler: Compiler, config: Config) -> Path | None:
    """The runtime library of the compiler's AddressSanitizer; None where it has none to load."""
    for name in ("libasan.so", f"libclang_rt.asan-{platform.machine()}.so"):
        path = Path(answer(compiler, f"-print-file-name={name}", config))
        if path.is_absolute() and path.is_file():
            return path
    return None


def environment(library: Path, folder: Path) -> Mapping[str, str]:
    """What a process is started with that loads such binaries; it reports into the folder."""
    options = {**_OPTIONS, "log_path": folder / _REPORT}
    words = ":".join(f"{k}={v}" for k, v in options.items())
    before = os.environ.get("LD_PRELOAD", "")
    return {"LD_PRELOAD": f"{library} {before}".strip(), "ASAN_OPTIONS": words}


def told(folder: Path) -> str:
    """The first line of what the sanitizer reported into a folder, or the empty string."""
    for path in sorted(folder.glob(f"{_REPORT}.*")):
        for line in path.read_text(errors="replace").splitlines():
            if "ERROR: AddressSanitizer: " in line:
                return line.partition("ERROR: ")[2].partition(" on ")[0].strip()
    return ""
