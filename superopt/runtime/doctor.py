"""Looks at the machine: what superopt needs, whether it is there, and how to get it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
from pathlib import Path

import torch

from superopt.config import Config, usable_cores
from superopt.errors import CompilerMissing
from superopt.runtime.build import BASE_FLAGS, find_compiler
from superopt.runtime.cache import Cache
from superopt.runtime.isa import cpu_features, cpu_model

Finding = dict[str, str]

_ENGINES = ("enumerate_region", "field_run")
"""What the search and the proofs call in the C++ extension."""

_VECTORS = ("avx512_bf16", "avx512f", "avx2", "asimd")
_REBUILD = "pip install . (needs a C++ compiler)"
_OPTIONAL = (
    # (name, modules, what it is for, how to get it)
    ("triton", ("triton",), "kernels for Triton", "pip install 'superopt-compiler[triton]'"),
    ("cuda", ("cuda.bindings",), "kernels for CUDA", "pip install 'superopt-compiler[cuda]'"),
    ("serve", ("vllm",), "passes for serving stacks", "pip install 'superopt-compiler[serve]'"),
    (
        "peers",
        ("onnxruntime", "openvino"),
        "peers in the benchmarks",
        "pip install 'superopt-compiler[peers]'",
    ),
    ("ray", ("ray",), "search on many machines", "pip install 'superopt-compiler[ray]'"),
)


def doctor(config: Config) -> list[Finding]:
    """One finding a line: name, status (ok, missing or broken), detail, fix (empty when ok)."""
    return [
        _found("python", f"torch {torch.__version__}, {torch.get_num_threads()} threads"),
        _compiler(config),
        _found("flags", " ".join((*BASE_FLAGS, *config.cxxflags))),
        _found("cpu", f"{cpu_model()}, {usable_cores()} usable cores"),
        _vectors(),
        _core(),
        _cache(config),
        *(_optional(*row) for row in _OPTIONAL),
    ]


def _found(name: str, detail: str) -> Finding:
    return {"name": name, "status": "ok", "detail": detail, "fix": ""}


def _missing(name: str, detail: str, fix: str) -> Finding:
    return {"name": name, "status": "missing", "detail": detail, "fix": fix}


def _broken(name: str, detail: str, fix: str) -> Finding:
    return {"name": name, "status": "broken", "detail": detail, "fix": fix}


def _compiler(config: Config) -> Finding:
    try:
        compiler = find_compiler(config)
    except CompilerMissing as error:
        return _missing("compiler", error.what, error.fix)
    openmp = "with OpenMP" if compiler.openmp else "without OpenMP: kernels use one thread"
    return _found("compiler", f"{compiler.path}: {compiler.version}, {openmp}")


def _vectors() -> Finding:
    have = [f for f in _VECTORS if f in cpu_features()]
    if not have:
        return _missing("vectors", "no vector unit that is known", "kernels run, slowly")
    return _found("vectors", ", ".join(have))


def _core() -> Finding:
    if importlib.util.find_spec("superopt._core") is None:
        return _missing(
            "core",
            "the C++ extension is not built; the Python engines are used",
            _REBUILD,
        )
    try:
        core = importlib.import_module("superopt._core")
    except Exception as error:  # an extension may raise anything as it begins
        said = " ".join(f"{type(error).__name__}: {error}".split())
        # The stages fall back for an ImportError only.
        then = "; the Python engines are used" if isinstance(error, ImportError) else ""
        return _broken("core", f"the C++ extension does not load: {said}{then}", _REBUILD)
    if lacking := [name for name in _ENGINES if not hasattr(core, name)]:
        what = f"{core.__file__} is of another version, without {', '.join(lacking)}"
        return _broken("core", f"{what}; the Python engines are used", _REBUILD)
    return _found("core", f"the C++ extension loads: {core.__file__}")


def _cache(config: Config) -> Finding:
    stats = Cache.open(config).stats()
    text = f"{stats.root}: {stats.entries} entries, {stats.size / 2**20:.1f} MiB"
    folder = next((p for p in (stats.root, *stats.root.parents) if p.is_dir()), Path("/"))
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError:
        return _missing("cache", f"{text}; cannot be written", "set SUPEROPT_CACHE_DIR")
    free = os.statvfs(folder)
    return _found("cache", f"{text}; {free.f_bavail * free.f_frsize / 2**30:.1f} GiB free")


def _optional(name: str, modules: tuple[str, ...], use: str, fix: str) -> Finding:
    lacking = []
    for module in modules:
        try:
            if importlib.util.find_spec(module) is None:
                lacking.append(module)
        except ModuleNotFoundError:
            lacking.append(module)
    if lacking:
        return _missing(name, f"optional, for {use}: {', '.join(lacking)} not installed", fix)
    return _found(name, use)
