"""Runs emitted kernels on buffers fenced by unreadable pages; run as a program by test_memory.py.

``guard``: each buffer ends at (then starts at) a page that may not be touched, so that any access
out of bounds, masked or not, kills the process. ``sanitize``: the kernels are built with
AddressSanitizer and UBSan, whose runtime must be preloaded.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch

from superopt.codegen.backends import python
from superopt.codegen.backends.cpu import Isa, emit
from superopt.mugraph.axes import Axis, extent
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.placement import Split
from superopt.mugraph.tileir import Apply, Compute, Coord, Lit, Load, Loop, Program
from tests.codegen.harness import ap, at, buf, build, lit, same
from tests.codegen.test_contractions import matmul

PAGE = mmap.PAGESIZE
SANITIZE = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    # Prefetches and masked lanes form addresses that are never accessed.
    "-fno-sanitize=pointer-overflow,alignment",
    "-g1",
    "-O1",
)


class Fenced:
    """Memory for one buffer between two pages that may not be touched."""

    libc = ctypes.CDLL(None, use_errno=True)

    def __init__(self, size: int, at_end: bool) -> None:
        pages = -(-max(size, 1) // PAGE)
        self.map = mmap.mmap(-1, (pages + 2) * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for fence in (base, base + (pages + 1) * PAGE):
            if self.libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.address = base + PAGE + (pages * PAGE - size if at_end else 0)

    def view(
        self, shape: list[int], strides: list[int], dtype: torch.dtype, count: int
    ) -> torch.Tensor:
        """The memory as a tensor."""
        raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(self.address)
        return torch.frombuffer(raw, dtype=dtype, count=count).as_strided(shape, strides)


def norm(b: int, d: int, dtype: str) -> Program:
    """A row-wise softmax-like map and reductions along the lanes."""
    ab, ad = Axis("b", b), Axis("d", d)
    x, y = buf("x", "input", (ab, ad), dtype), buf("out0", "output", (ab, ad), dtype)
    total = buf("total", "tile", (ab,))
    value = Apply("exp", (at(x, dtype="f32"),), "f32")
    body = (
        Compute(total, (ab,), value, "add", (ad,)),
        Compute(y, (ab, ad), ap("div", value, at(total))),
    )
    return Program("norm", (x, y), (total,), (Split(ab, 2),), body)


def columns(b: int, d: int) -> Program:
    """Sums along the strided axis, a transposed map and a clamped gather."""
    ab, ad = Axis("b", b), Axis("d", d)
    x, ids = buf("x", "input", (ab, ad)), buf("ids", "input", (ad,), "i64")
    y, z = buf("out0", "output", (ad,)), buf("out1", "output", (ad, ab))
    pick = Load(x, (at(ids), Coord(ad)), "f32", (0,))
    body = (
        Loop(ab, 4, (Compute(z, (ad, ab), ap("add", at(x), pick)),)),
        Compute(y, (ad,), at(x), "max", (ab,)),
    )
    return Program("columns", (x, ids, y, z), (), (Split(ad, 24),), body)


def mask(n: int) -> Program:
    """Booleans in and out, and a comparison of coordinates."""
    a = Axis("n", n)
    x, y = buf("x", "input", (a,), "bool"), buf("out0", "output", (a,), "bool")
    low = ap("lt", Coord(a), Lit(5, "i64"), dtype="bool")
    return Program("mask", (x, y), (), (), (Compute(y, (a,), ap("or", at(x), low, dtype="bool")),))


def cases() -> list[tuple[Program, Isa]]:
    """Programs with odd tails in every axis, for each kind of statement."""
    best, plain = Isa.host(), Isa.named("avx2") if Isa.host().name.startswith("avx") else Isa.host()
    out = [(norm(5, n, dt), best) for n in (1, 17, 67) for dt in ("f32", "bf16", "f16", "f64")]
    out += [(norm(3, 21, "f32"), plain), (columns(9, 37), best), (columns(5, 16), plain)]
    out += [(mask(n), best) for n in (3, 37)]
    for dt in ("f32", "bf16"):
        for m in (1, 3, 9, 35):
            out += [(matmul(m, 37, 29, "mk", wa, dt, (16, 24, 13)), best) for wa in ("kn", "nk")]
        out.append((matmul(35, 70, 67, "km", "nk", dt), best))
        out.append((matmul(7, 37, 29, "mk", "kn", dt), plain))
        out.append((matmul(7, 37, 29, "mk", "nk", dt), plain))
    return [
        (Program(p.name, p.buffers, p.tiles, p.grid, (*p.body, *extra(p)), p.lane), isa)
        for p, isa in out
    ]


def extra(program: Program) -> tuple[Compute, ...]:
    """Nothing; a place to add a statement that breaks the fence, to see that it is caught."""
    if "--break" not in sys.argv:
        return ()
    out = next(b for b in program.buffers if b.space == "output")
    wrong = Load(out, tuple(Coord(a) for a in out.axes), out.dtype)
    shifted = tuple(ap("add", i, lit(1, "i64"), dtype="i64") for i in wrong.index)
    return (Compute(out, out.axes, Load(out, shifted, out.dtype)),)


def run(program: Program, isa: Isa, at_end: bool, flags: tuple[str, ...]) -> None:
    """One program in fenced memory against the interpreter."""
    source = emit([program], "kernel", isa, stack_bytes=1 << 20)
    lib = build(source, flags)
    given: dict[str, torch.Tensor] = {}
    results: dict[str, torch.Tensor] = {}
    kept: list[Fenced] = []
    known = {b.name: b for b in program.buffers}
    for name in source.buffers:
        b = known[name]
        shape = [extent(a.size) for a in b.axes]
        strides = [s.value({}) for s in b.strides]
        count = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        dtype = DTYPES[b.dtype].torch
        fenced = Fenced(count * dtype.itemsize, at_end)
        view = fenced.view(shape, strides, dtype, count)
        view.copy_(
            torch.randn(shape)
            if dtype.is_floating_point
            else torch.arange(view.numel()).view(shape)
        )
        kept.append(fenced)
        (given if b.space == "input" else results)[name] = view
    pointers = (ctypes.c_void_p * len(kept))(*(f.address for f in kept))
    ints = (ctypes.c_int64 * len(source.ints))(*([2] * len(source.ints)))
    if (status := lib.kernel(pointers, ints)) not in (0, 2):  # 2: indices here run out of the table
        raise RuntimeError(f"status {status}")
    want = python.run([program], given)
    for name, got in results.items():
        same(got, want[name], f"{program.name} {name}", 1e-5)


def main() -> None:
    """``guarded.py guard|sanitize``: prints how many runs were clean."""
    mode = sys.argv[1]
    runs = 0
    for program, isa in cases()[: 1 if "--break" in sys.argv else None]:
        for at_end in (True, False):
            run(program, isa, at_end, SANITIZE if mode == "sanitize" else ())
            runs += 1
    print(f"clean {runs}")


if __name__ == "__main__":
    main()
