"""Builds emitted sources and runs hand-built programs on all backends, for the tests beside it."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from superopt.codegen.backends import cpu, python
from superopt.mugraph.axes import Axis, Stride, extent
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tile_panels import packed_elements
from superopt.mugraph.tileir import Apply, Buffer, Coord, Expr, Lit, Load, Program

FOLDER = Path(tempfile.gettempdir()) / "superopt-test-kernels"


# The left-out warnings are false alarms of GCC 12: its own intrinsics start from an undefined
# vector, masked accesses beyond an array touch nothing, and an extent is not known to be small.
WARNINGS = (
    "-fopenmp",
    "-Wall",
    "-Wextra",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    "-Wno-array-bounds",
    "-Wno-stringop-overflow",
    "-Wno-aggressive-loop-optimizations",
)


def build(source: cpu.Source, extra: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Compiles a source (once per text) and loads it."""
    return ctypes.CDLL(str(compile_source(source, extra)))


def compile_source(source: cpu.Source, extra: tuple[str, ...] = ()) -> Path:
    """Compiles a source (once per text); the path of the shared object."""
    FOLDER.mkdir(exist_ok=True)
    key = hashlib.sha256(repr((source.text, source.flags, extra)).encode()).hexdigest()[:24]
    out = FOLDER / f"{key}.so"
    if not out.exists():
        text = FOLDER / f"{key}.cpp"
        text.write_text(source.text)
        temp = FOLDER / f"{key}.{id(source)}.tmp"
        done = subprocess.run(
            ["g++", *source.flags, *WARNINGS, *extra, str(text), "-o", str(temp)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{text}:\n{done.stderr[:4000]}")
        if done.stderr:
            raise RuntimeError(f"warnings in {text}:\n{done.stderr[:4000]}")
        temp.rename(out)
    return out


def dense(axes: Sequence[Axis]) -> tuple[Stride, ...]:
    """Row-major strides."""
    out: list[Stride] = []
    step = Stride(1)
    for a in reversed(axes):
        out.insert(0, step)
        step = step.times(a.size)
    return tuple(out)


def buf(
    name: str,
    space: str,
    axes: Sequence[Axis],
    dtype: str = "f32",
    strides: Sequence[int] | None = None,
) -> Buffer:
    """A buffer; dense unless strides are given."""
    axes = tuple(axes)
    if space == "tile":
        return Buffer(name, space, axes, dtype)
    given = dense(axes) if strides is None else tuple(Stride(s) for s in strides)
    return Buffer(name, space, axes, dtype, given)


def at(
    buffer: Buffer, *index: Expr | Axis, dtype: str | None = None, clamp: tuple[int, ...] = ()
) -> Load:
    """A load; without indices at the buffer's own coordinates."""
    full = index or buffer.axes
    return Load(
        buffer,
        tuple(Coord(i) if isinstance(i, Axis) else i for i in full),
        dtype or buffer.dtype,
        clamp,
    )


def ap(op: str, *args: Expr, dtype: str = "f32", attr: str | None = None) -> Apply:
    """An application."""
    return Apply(op, args, dtype, attr)


def lit(value: float | int | bool, dtype: str = "f32") -> Lit:
    """A literal."""
    return Lit(value, dtype)


def run_cpu(
    programs: Sequence[Program],
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int] | None = None,
    threads: int = 2,
    isa: cpu.Isa | None = None,
    extra: tuple[str, ...] = (),
    status: int = 0,
) -> dict[str, torch.Tensor]:
    """Compiles and runs, which should end in ``status``.

    Returns outputs and scratch by name, shaped by their axes.
    """
    if isa is not None and not isa.runs_here:
        pytest.skip(f"this machine has no {isa.name}")
    source = cpu.emit(programs, "kernel", isa)
    lib = build(source, extra)
    sizes = dict(sizes or {})
    known = {b.name: b for p in programs for b in p.buffers}
    held: dict[str, torch.Tensor] = {}
    out: dict[str, torch.Tensor] = {}
    for name in source.buffers:
        b = known[name]
        if b.space == "input":
            held[name] = tensors[name]
            continue
        if b.panels is not None:
            held[name] = python._poison([packed_elements(b)], DTYPES[b.dtype].torch)
            continue
        shape = [extent(a.size, sizes) for a in b.axes]
        strides = [s.value(sizes) for s in b.strides]
        span = (
            0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        )
        held[name] = python._poison([span], DTYPES[b.dtype].torch)
        out[name] = held[name].as_strided(shape, strides)
    pointers = (ctypes.c_void_p * max(len(held), 1))(*(held[n].data_ptr() for n in source.buffers))
    ints = (ctypes.c_int64 * len(source.ints))(*(sizes.get(s, threads) for s in source.ints))
    ended = lib.kernel(pointers, ints)
    if ended != status:
        raise RuntimeError(f"status {ended}")
    return out


def check(
    programs: Program | Sequence[Program],
    tensors: Mapping[str, torch.Tensor],
    want: Mapping[str, torch.Tensor] | None = None,
    sizes: Mapping[str, int] | None = None,
    tol: float = 1e-5,
    terms: Mapping[str, float] | None = None,
    **kw: object,
) -> dict[str, torch.Tensor]:
    """Runs the python and cpu backends; both must agree with each other and with ``want``.

    terms: of an output whose addends may cancel, how large they are in sum.
    """
    programs = [programs] if isinstance(programs, Program) else list(programs)
    slow = python.run(programs, tensors, sizes, seed=1)
    fast = run_cpu(programs, tensors, sizes, **kw)  # type: ignore[arg-type]
    for name, got in fast.items():
        least = (terms or {}).get(name, 0.0)
        same(got, slow[name], f"cpu against python: {name}", tol, least)
        if want is not None and name in want:
            same(got, want[name], f"cpu against torch: {name}", tol, least)
    return fast


def same(got: torch.Tensor, want: torch.Tensor, what: str, tol: float, least: float = 0.0) -> None:
    """Equal within ``tol`` of the largest value, or of ``least`` where that is larger.

    16-bit results: within a few of their own ulps.
    """
    if got.dtype in (torch.bfloat16, torch.float16):
        tol = max(tol, 2 * (2.0**-8 if got.dtype == torch.bfloat16 else 2.0**-11))
    got, want = got.double(), want.double()
    if got.shape != want.shape:
        raise AssertionError(f"{what}: shape {tuple(got.shape)} for {tuple(want.shape)}")
    if not got.numel():
        return
    finite = want[torch.isfinite(want)].abs()
    scale = max(float(finite.max()) if finite.numel() else 0.0, least, 1e-30)
    torch.testing.assert_close(
        got, want, rtol=tol, atol=tol * scale, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )
