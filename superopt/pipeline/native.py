"""A library of C++ that measures the machine, built once for each compiler and source."""

from __future__ import annotations

import hashlib
from pathlib import Path

from superopt.config import Config
from superopt.runtime.build import compile_shared, find_compiler, isa_flags, toolchain_fingerprint


def library(source: str, name: str, config: Config | None = None) -> Path:
    """The shared object of ``source``, for this machine and with OpenMP, from the cache if it is there.

    Raises CompilerMissing, CompileFailed or CompileTimeout.
    """
    config = config or Config.from_env()
    compiler = find_compiler(config)
    flags = (*isa_flags("native"), *compiler.openmp_flags)
    key = hashlib.sha256(f"{source}\n{toolchain_fingerprint(compiler)}".encode()).hexdigest()[:32]
    path = config.cache_path / "native" / f"{name}-{key}.so"
    if not path.exists():
        compile_shared(source, flags, path, config.compile_timeout, compiler=compiler)
    return path
