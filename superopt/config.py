"""Settings from the environment, each listed once, and the frozen configuration they make."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from superopt.errors import BadOption
from superopt.options import (
    Budget,
    DynamicAxis,
    Options,
    Target,
    parse_bytes,
    parse_memory,
    parse_workers,
)

__all__ = [
    "CHANNELS",
    "Budget",
    "Config",
    "DynamicAxis",
    "Options",
    "Setting",
    "Target",
    "usable_cores",
    "version",
]

T = TypeVar("T")

# The channels of SUPEROPT_LOGS; the stages bear the same names.
CHANNELS = (
    "frontend",
    "search",
    "verify",
    "cost",
    "codegen",
    "build",
    "cache",
    "launch",
    "fallback",
    "bench",
)
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


def parse_flag(text: str) -> bool:
    """1/true/yes/on or 0/false/no/off; ValueError otherwise."""
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("expected 1 or 0")


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """A parser of integers from ``low`` to ``high``, both included."""

    def parse(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise ValueError(f"expected an integer from {low} to {'any' if high is None else high}")
        return value

    return parse


def seconds(text: str) -> float:
    """A positive number of seconds, with or without a trailing ``s``."""
    value = float(text.strip().removesuffix("s"))
    if not 0 < value < float("inf"):
        raise ValueError("expected a positive number of seconds")
    return value


def choice(*names: str) -> Callable[[str], str]:
    """A parser that takes exactly one of ``names``."""

    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return word

    return parse


def parse_channels(text: str) -> frozenset[str]:
    """A comma-separated list of log channels; ``all`` stands for every channel."""
    words = {w.strip().lower() for w in text.split(",") if w.strip()}
    if "all" in words:
        return frozenset(CHANNELS)
    if unknown := words - set(CHANNELS):
        raise ValueError(f"unknown {', '.join(sorted(unknown))}; known: all, {', '.join(CHANNELS)}")
    return frozenset(words)


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _setting(env: str, default: T, parse: Callable[[str], T], doc: str) -> T:
    """A field that is read from the variable ``env`` by ``parse``, which raises ValueError."""
    value: T = field(default=default, metadata={"env": env, "parse": parse, "doc": doc})
    return value


@dataclass(frozen=True)
class Setting:
    """One environment variable: its name, the field it sets, its default and its meaning."""

    env: str
    name: str
    default: Any
    doc: str


@dataclass(frozen=True)
class Config:
    """Where and how superopt works on this machine; what to compute is in ``Options``.

    Nothing here may change a result, but for a limit of memory that is reached. Times are in
    seconds, sizes in bytes.
    """

    cache_dir: Path | None = _setting(
        "SUPEROPT_CACHE_DIR", None, _path, "cache folder; default: superopt in the XDG cache folder"
    )
    disable_cache: bool = _setting(
        "SUPEROPT_DISABLE_CACHE", False, parse_flag, "1: neither read nor keep cache entries"
    )
    cache_limit: int = _setting(
        "SUPEROPT_CACHE_LIMIT", 4 << 30, parse_bytes, "size above which least used entries go; 4G"
    )
    disable: bool = _setting(
        "SUPEROPT_DISABLE", False, parse_flag, "1: run every decorated function as it was written"
    )
    strict: bool = _setting(
        "SUPEROPT_STRICT", False, parse_flag, "1: raise where superopt would fall back to PyTorch"
    )
    debug: int = _setting(
        "SUPEROPT_DEBUG",
        0,
        integer(0, 5),
        "0 quiet, 1 stages and times, 2 decisions, 3 dump artefacts, 4 candidates, 5 everything",
    )
    logs: frozenset[str] = _setting(
        "SUPEROPT_LOGS",
        frozenset(),
        parse_channels,
        "comma-separated channels to log: all, or some of " + ", ".join(CHANNELS),
    )
    progress: str = _setting(
        "SUPEROPT_PROGRESS",
        "auto",
        choice("auto", "always", "never"),
        "progress bar: auto (on a terminal only), always or never",
    )
    cxx: str | None = _setting(
        "SUPEROPT_CXX", None, str, "C++ compiler; default: $CXX, then g++, clang++, c++ on PATH"
    )
    cxxflags: tuple[str, ...] = _setting(
        "SUPEROPT_CXXFLAGS",
        (),
        lambda text: tuple(shlex.split(text)),
        "flags added to every compilation of generated C++",
    )
    compile_timeout: float = _setting(
        "SUPEROPT_COMPILE_TIMEOUT", 60.0, seconds, "seconds one compilation may take; 60"
    )
    lock_timeout: float = _setting(
        "SUPEROPT_LOCK_TIMEOUT",
        600.0,
        seconds,
        "seconds to wait for another process that builds the same entry; 600",
    )
    threads: int | None = _setting(
        "SUPEROPT_THREADS", None, integer(1, 4096), "threads of a kernel; default: PyTorch's number"
    )
    jobs: int | None = _setting(
        "SUPEROPT_JOBS",
        None,
        integer(1, 4096),
        "parallel search and compile jobs; default: the number of usable cores",
    )
    workers: str | None = _setting(
        "SUPEROPT_WORKERS",
        None,
        parse_workers,
        "who searches: a number of processes (1: serial), ray or ray:ADDRESS; default: SUPEROPT_JOBS",
    )
    memory: int = _setting(
        "SUPEROPT_MEMORY", 4 << 30, parse_memory, "what a search may hold in memory; 4G"
    )
    tile_memory: int = _setting(
        "SUPEROPT_TILE_MEMORY",
        64 << 20,
        parse_memory,
        "what the tile buffers of one task of a kernel may take, per thread; 64M",
    )

    pack_memory: int = _setting(
        "SUPEROPT_PACK_MEMORY",
        4 << 30,
        parse_bytes,
        "what packed copies of weights may take, in this process; 0: none; 4G",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Config:
        """The configuration that the environment (default: ``os.environ``) asks for.

        Raises BadOption naming the variable whose value cannot be read. An empty value counts as
        unset.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for f in fields(cls):
            text = environ.get(f.metadata["env"], "")
            if not text.strip():
                continue
            try:
                values[f.name] = f.metadata["parse"](text)
            except ValueError as error:
                raise BadOption(
                    f"{f.metadata['env']}={text!r} cannot be read: {error}",
                    where="environment",
                    fix=f"{f.metadata['env']} means: {f.metadata['doc']}",
                ) from error
        return cls(**values)

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        """Every environment variable, for the doctor and the documentation."""
        return tuple(
            Setting(f.metadata["env"], f.name, f.default, f.metadata["doc"]) for f in fields(cls)
        )

    def with_values(self, **changes: Any) -> Config:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    @property
    def cache_path(self) -> Path:
        """The cache folder, absolute; it need not exist yet."""
        if self.cache_dir is not None:
            return self.cache_dir
        # platformdirs is a light import, but `import superopt` need not pay for it.
        import platformdirs

        return Path(platformdirs.user_cache_dir("superopt", appauthor=False)).absolute()

    @property
    def job_count(self) -> int:
        """Parallel jobs: the setting, else the cores this process may use."""
        return self.jobs if self.jobs is not None else usable_cores()


def usable_cores() -> int:
    """The number of cores this process may run on (an affinity mask or a container counts)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def version() -> str:
    """The version of superopt, from the installed distribution."""
    from importlib import metadata

    try:
        return metadata.version("superopt-compiler")
    except metadata.PackageNotFoundError:
        return "0+unknown"
