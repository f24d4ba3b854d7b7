"""Tensors at pages without access: the same values, and a fault beyond them at either end."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from superopt.errors import KernelFailed
from superopt.runtime.build import compile_shared
from superopt.runtime.guarded import Fenced, guarded
from superopt.runtime.kernels import Kernels
from superopt.runtime.plan import Extent, Plan, Shape

TENSORS = {
    "f32": torch.randn(3, 5),
    "bf16": torch.randn(7).bfloat16(),
    "bool": torch.tensor([True, False, True]),
    "i64": torch.arange(600),
    "several pages": torch.randn(2999),
    "a scalar": torch.tensor(3.0),
    "apart": torch.arange(40.0).as_strided((3, 4), (10, 2)),
    "transposed": torch.arange(12.0).view(4, 3).T,
    "repeated": torch.randn(1).expand(4, 4),
    "with an offset": torch.randn(20)[3:],
    "none": torch.empty(0, 4),
}


@pytest.mark.parametrize("end", [True, False])
def test_values_shape_and_strides_are_those_of_the_tensor(end: bool) -> None:
    for name, x in TENSORS.items():
        y = guarded(x, end)
        assert y.dtype == x.dtype and y.shape == x.shape and y.stride() == x.stride(), name
        assert torch.equal(x, y), name
    between = guarded(TENSORS["apart"], end).as_strided((27,), (1,))
    assert torch.equal(between, torch.arange(27.0))


def forked(step: Callable[[], int]) -> int:
    """The status of a process that ends with what a step returns, 9 where it raises."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    faulthandler.disable()
    code = 9
    try:
        code = step()
    finally:
        os._exit(code)


def ends_by(address: int, write: bool) -> int:
    """The signal by which a process ends that touches a byte; 0 where it does not end so."""

    def touch() -> int:
        byte = ctypes.c_ubyte.from_address(address)
        value = byte.value
        if write:
            byte.value = value
        return 0

    return os.WTERMSIG(forked(touch))


@pytest.mark.parametrize("end", [True, False])
def test_what_lies_beyond_faults(end: bool) -> None:
    for name in ("f32", "bf16", "bool", "several pages", "apart", "repeated", "a scalar"):
        y = guarded(TENSORS[name], end)
        reach = 1 + sum((n - 1) * s for n, s in zip(y.shape, y.stride(), strict=True))
        first, last = y.data_ptr(), y.data_ptr() + reach * y.itemsize - 1
        beyond, other = (last + 1, first - 1) if end else (first - 1, last + 1)
        for write in (True, False):
            assert ends_by(beyond, write) in (signal.SIGSEGV, signal.SIGBUS), name
            assert not ends_by(first, write) and not ends_by(last, write), name
        assert ctypes.c_ubyte.from_address(other).value == 0xFF, name


def test_its_memory_is_freed_with_it() -> None:
    def mappings() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    if not Path("/proc/self/maps").exists():
        pytest.skip("no list of mappings here")
    before = mappings()
    held = [guarded(torch.ones(9)) for _ in range(200)]
    view = held[0][3:]
    assert mappings() > before + 200
    del held
    gc.collect()
    assert mappings() < before + 100
    assert torch.equal(view, torch.ones(6))


SOURCE = """#include <cstdint>
extern "C" int f(void** b, const int64_t*) {
  float *x = (float*)b[0], *s = (float*)b[1], *y = (float*)b[2];
  for (int i = 0; i < 12; ++i) s[i] = x[i] + 1;
  for (int i = 0; i < 12; ++i) y[i] = s[i];
  switch (int(x[0])) {
    case 1: (void)((volatile float*)x)[12]; break;
    case 2: (void)((volatile float*)x)[-1]; break;
    case 3: (void)((volatile float*)s)[12]; break;
    case 4: (void)((volatile float*)s)[-1]; break;
    case 5: (void)((volatile float*)y)[12]; break;
    case 6: (void)((volatile float*)y)[-1]; break;
    case 7: x[3] += 1; break;
    case 8: y[-1] = 0; break;
    case 9: y[12] = 0; break;
  }
  return 0;
}
"""


def test_a_program_runs_with_all_its_memory_fenced(tmp_path: Path) -> None:
    path = compile_shared(SOURCE, ("-O1",), tmp_path / "f.so", 60.0)
    one = Shape((Extent(12),), "f32")
    buffers = (("input", 0), ("scratch", 0), ("output", 0))
    kernels = Kernels(path, Plan("f", (one,), (one,), (Extent(48),), buffers, ()))

    def runs(case: int, calls: int) -> int | str:
        """How a process ends that makes so many calls: a signal, what was raised, or nothing."""

        def calling() -> int:
            run, x = Fenced(kernels), torch.full((12,), float(case))
            try:
                same = [torch.equal(run([x])[0], x + 1) for _ in range(calls)]
            except KernelFailed as error:
                return 2 if "input" in error.what else 3 if "output" in error.what else 9
            return 0 if all(same) else 9

        status = forked(calling)
        exits = {0: "", 2: "input", 3: "output"}
        return os.WTERMSIG(status) or exits[os.WEXITSTATUS(status)]

    faults = (signal.SIGSEGV, signal.SIGBUS)
    assert runs(0, 4) == ""
    for case in (1, 3, 5):  # beyond the end: in the first call
        assert runs(case, 1) in faults, case
    for case in (2, 4, 6):  # before the beginning: in the second
        assert runs(case, 1) == "" and runs(case, 2) in faults, case
    assert runs(7, 1) == "input"
    assert runs(8, 1) == "output"
    assert runs(9, 1) in faults
    x = torch.full((12,), 1.0)
    assert torch.equal(kernels.checked([x])[0], x + 1)  # in memory as calls use it, nothing is seen
