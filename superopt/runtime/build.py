"""Finds the C++ compiler and builds generated source into shared objects, within limits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from superopt import trace
from superopt.config import Config
from superopt.errors import (
    CompileFailed,
    CompilerMissing,
    CompileTimeout,
    SuperoptError,
)
from superopt.runtime.isa import cpu_features, cpu_model, isa_flags, missing_features
from superopt.runtime.pool import link_flags

__all__ = [
    "BASE_FLAGS",
    "Compiler",
    "Job",
    "compile_many",
    "compile_shared",
    "cpu_features",
    "cpu_model",
    "device_headers",
    "find_compiler",
    "isa_flags",
    "missing_features",
    "toolchain_fingerprint",
]

# Flags of every generated kernel. Contraction to FMA and no errno are what PyTorch's own kernels
# use; reassociation (-ffast-math) is not: it would change results behind the verifier's back.
BASE_FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
)
_CANDIDATES = ("g++", "clang++", "c++")
_OPENMP_PROBE = '#include <omp.h>\nextern "C" int f() { return omp_get_max_threads(); }\n'
_PROBES_FILE = "compilers.json"
_QUESTIONS = ("--version", "-dumpmachine")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its path, its first line of ``--version``, its machine, and OpenMP or not."""

    path: str
    version: str
    machine: str
    openmp: bool

    @property
    def openmp_flags(self) -> tuple[str, ...]:
        """``-fopenmp`` on PyTorch's threads, or flags that leave its pragmas without effect."""
        return ("-fopenmp", *link_flags()) if self.openmp else ("-Wno-unknown-pragmas",)


def find_compiler(config: Config | None = None) -> Compiler:
    """The compiler to use: the setting, then ``$CXX``, then g++, clang++, c++ on PATH.

    What was learnt of a compiler is kept in the cache folder under its path, size and time, so a
    later process runs none. Raises CompilerMissing.
    """
    config = config or Config.from_env()
    if config.cxx is not None:
        names: tuple[str, ...] = (config.cxx,)
    else:
        names = tuple(n for n in (os.environ.get("CXX", ""), *_CANDIDATES) if n)
    why = []
    for name in names:
        # $CXX may carry a launcher or flags, as in "ccache g++"; its last plain word is what runs.
        words = [w for w in shlex.split(name) if not w.startswith("-")]
        path = shutil.which(words[-1]) if words else None
        if path is None:
            why.append(f"{name} is not there")
            continue
        try:
            found = _probe(path, config)
        except (CompileFailed, CompilerMissing, OSError) as error:
            why.append(
                f"{name} does not work ({error.what if isinstance(error, SuperoptError) else error})"
            )
        else:
            if why and os.environ.get("CXX"):
                trace.warn_once("build", f"$CXX cannot be used, {path} is: {', '.join(why)}")
            return found
    source = "SUPEROPT_CXX" if config.cxx is not None else "PATH"
    raise CompilerMissing(f"no working C++ compiler: {', '.join(why)}", source)


def _probe(path: str, config: Config) -> Compiler:
    """What the compiler at ``path`` is, from the notes or by running it.

    Raises CompileFailed, CompilerMissing or OSError if it does not work.
    """
    real = os.stat(path)
    stamp = f"{os.path.realpath(path)}:{real.st_size}:{real.st_mtime_ns}"
    notes = _read_notes(config)
    with contextlib.suppress(KeyError, TypeError):
        return Compiler(**notes[stamp])
    limit, openmp = config.compile_timeout, False
    with tempfile.TemporaryDirectory(prefix="superopt-probe-") as place:
        said = {flag: _run_limited([path, flag], limit, None, place) for flag in _QUESTIONS}
        for status, text in said.values():
            if status != 0:
                raise CompileFailed(f"it failed with status {status}: {_first_error(text)}", path)
        version, machine = (_first_line(text) for _, text in said.values())
        bare, out = Compiler(path, version, machine, openmp=False), Path(place) / "probe.so"
        compile_shared('extern "C" int f() { return 0; }\n', (), out, limit, compiler=bare)
        with contextlib.suppress(CompileFailed):
            compile_shared(_OPENMP_PROBE, ("-fopenmp",), out, limit, compiler=bare)
            openmp = True
    compiler = Compiler(path, version, machine, openmp)
    _write_notes(config, {**notes, stamp: asdict(compiler)})
    return compiler


def answer(compiler: Compiler, question: str, config: Config) -> str:
    """What a compiler says to a flag; empty where it fails."""
    with tempfile.TemporaryDirectory(prefix="superopt-probe-") as place:
        command = [compiler.path, question]
        status, text = _run_limited(command, config.compile_timeout, None, place)
    return _first_line(text) if status == 0 else ""


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].strip() if text.strip() else "unknown"


def _read_notes(config: Config) -> dict[str, Any]:
    try:
        notes = json.loads((config.cache_path / _PROBES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _write_notes(config: Config, notes: Mapping[str, Any]) -> None:
    # A lost note costs one more probe, so failure to write is no matter for the user.
    path = config.cache_path / _PROBES_FILE
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        part.write_text(json.dumps(notes, indent=1), encoding="utf-8")
        os.replace(part, path)


def toolchain_fingerprint(compiler: Compiler | None, isa: str = "native") -> str:
    """A short hash of all that decides the machine code: compiler, flags, and for native the CPU.

    ``compiler`` None stands for a machine without one.
    """
    parts: list[Any] = [list(BASE_FLAGS), list(isa_flags(isa))]
    if compiler is not None:
        parts += [compiler.version, compiler.machine, compiler.openmp]
    if isa == "native":
        parts += [sorted(cpu_features()), cpu_model()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def device_headers() -> Path:
    """The folder of the headers that generated code includes, in the repository or the wheel."""
    package = Path(__file__).resolve().parents[1]
    in_tree = package.parent / "csrc" / "device"
    return in_tree if in_tree.is_dir() else package / "_device"


def compile_shared(
    source: str,
    flags: Sequence[str],
    out_path: str | Path,
    timeout_s: float,
    *,
    compiler: Compiler | None = None,
    cancel: threading.Event | None = None,
) -> Path:
    """Build C++ ``source`` into the shared object ``out_path`` and return it.

    ``flags`` come after ``BASE_FLAGS`` (give ``isa_flags`` and ``Compiler.openmp_flags`` here).
    The file appears whole or not at all. Raises CompilerMissing, CompileFailed with the compiler's
    output, or CompileTimeout after ``timeout_s`` seconds; then, on ``cancel`` and on Ctrl-C, the
    compiler and all it started are killed.
    """
    compiler = compiler or find_compiler()
    out = Path(out_path)
    out.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=".build-", dir=out.parent) as place:
        text, part = Path(place) / f"{out.stem}.cpp", Path(place) / out.name
        text.write_text(source, encoding="utf-8")
        command = [compiler.path, *BASE_FLAGS, *flags, "-o", str(part), str(text)]
        status, output = _run_limited(command, timeout_s, cancel, place)
        if status != 0 or not part.exists():
            raise CompileFailed(
                f"the C++ compiler failed with status {status}: {_first_error(output)}",
                f"{compiler.path} ({compiler.version})",
                details=f"command: {shlex.join(command)}\n{output}\nsource:\n{source}",
            )
        os.replace(part, out)
    trace.log("build", f"built {out.name} in {time.perf_counter() - begun:.2f} s", 2)
    return out


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no output")


def _run_limited(
    command: Sequence[str], timeout_s: float, cancel: threading.Event | None, place: str
) -> tuple[int, str]:
    """Run in a process group of its own, which never outlives this call; its status and output."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            # LC_ALL: messages are read by _first_error; TMPDIR: nothing is left behind by a kill.
            env={**os.environ, "LC_ALL": "C", "TMPDIR": place},
        )
    except OSError as error:
        raise CompilerMissing(f"{command[0]} cannot be run: {error}", command[0]) from error
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CompileTimeout(
                    f"the C++ compiler was stopped after {timeout_s:g} s",
                    command[0],
                    details=f"command: {shlex.join(command)}",
                )
            if cancel is not None and cancel.is_set():
                raise CompileFailed("the compilation was cancelled", command[0])
            try:
                # Short waits only where somebody may cancel.
                output, _ = process.communicate(timeout=left if cancel is None else min(left, 0.1))
            except subprocess.TimeoutExpired:
                continue
            return process.returncode, output
    except BaseException:
        _kill_group(process)
        raise


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
        process.communicate(timeout=5)


@dataclass(frozen=True)
class Job:
    """One compilation for ``compile_many``."""

    source: str
    flags: tuple[str, ...]
    out_path: Path


Spread = Callable[[Callable[[Any, Any], Any], Sequence[Any]], Sequence[Any]]
"""Runs a function of a worker and a value for each value, on other machines."""


def compile_many(
    jobs: Sequence[Job],
    config: Config,
    *,
    compiler: Compiler | None = None,
    spread: Spread | None = None,
) -> list[Path | SuperoptError]:
    """Compile in parallel, ``config.job_count`` at once; each job's path, or the error it met.

    spread: other machines; what one of them cannot compile as it would be here is compiled here.
    Ctrl-C kills every compiler and is raised again.
    """
    compiler = compiler or find_compiler(config)
    cancel = threading.Event()
    done: list[bytes | None] = [None] * len(jobs)
    if spread is not None:
        mark = toolchain_fingerprint(compiler)
        done = list(spread(compile_there, [(job, config, mark) for job in jobs]))

    def one(job: Job, there: bytes | None) -> Path | SuperoptError:
        if there is not None:
            job.out_path.write_bytes(there)
            return job.out_path
        return _compile_job(job, config, compiler, cancel)

    with ThreadPoolExecutor(max_workers=max(1, min(config.job_count, len(jobs)))) as pool:
        futures = [pool.submit(one, job, there) for job, there in zip(jobs, done, strict=True)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            cancel.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _compile_job(
    job: Job, config: Config, compiler: Compiler, cancel: threading.Event | None
) -> Path | SuperoptError:
    try:
        return compile_shared(
            job.source,
            (*job.flags, *config.cxxflags),
            job.out_path,
            config.compile_timeout,
            compiler=compiler,
            cancel=cancel,
        )
    except CompileFailed as error:
        if not config.cxxflags:
            return error
        fix = f"look at SUPEROPT_CXXFLAGS first: it adds {shlex.join(config.cxxflags)}"
        return type(error)(error.what, error.where, fix, details=error.details)
    except SuperoptError as error:
        return error


def compile_there(_: Any, task: tuple[Job, Config, str]) -> bytes | None:
    """A compilation on another machine: the binary; None if it fails there or would be another.

    mark: the fingerprint of the toolchain and the processor that it has to have.
    """
    job, config, mark = task
    with tempfile.TemporaryDirectory(prefix="superopt-") as folder:
        config = config.with_values(cache_dir=Path(folder))
        try:
            compiler = find_compiler(config)
        except CompilerMissing:
            return None
        if toolchain_fingerprint(compiler) != mark:
            return None
        made = _compile_job(
            replace(job, out_path=Path(folder) / job.out_path.name), config, compiler, None
        )
        return made.read_bytes() if isinstance(made, Path) else None
