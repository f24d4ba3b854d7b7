"""The compiled core's way into a kernel: what it allocates, its threads, its failures, one pool."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from superopt.config import Config
from superopt.errors import IndexOutside, KernelFailed
from superopt.runtime import build, fast, pool
from superopt.runtime.kernels import Kernels
from superopt.runtime.launch import Library
from superopt.runtime.plan import Extent, Plan, Shape

pytestmark = pytest.mark.skipif(fast.exchange() is None, reason="no C functions for tensors")

SOURCE = r"""
#include <cstdint>
#include <omp.h>
#include <unistd.h>
// out[0] = x[0] + 1; out[1] = threads asked for; out[2] = threads that there were; out[3] = scratch before
extern "C" int entry(void** bufs, const int64_t* ints) {
    const float* x = static_cast<const float*>(bufs[0]);
    float* out = static_cast<float*>(bufs[1]);
    float* scratch = static_cast<float*>(bufs[2]);
    const float before = scratch[0];
    scratch[0] = x[0];
    int team = 1;
    if (ints[0] > 1) {
#pragma omp parallel num_threads(ints[0])
        {
#pragma omp single
            team = omp_get_num_threads();
        }
    }
    if (x[0] < 0) return int(-x[0]);
    if (x[0] > 100) usleep(3000);
    out[0] = scratch[0] + 1;
    out[1] = float(ints[0]);
    out[2] = float(team);
    out[3] = before;
    return 0;
}
extern "C" double entry_seconds(const int64_t*) { return 1.0; }
"""

PLAN = Plan(
    "entry",
    (Shape((Extent(4),), "f32"),),
    (Shape((Extent(2), Extent(2)), "f32", (1, 0)),),
    (Extent(64),),
    (("input", 0), ("output", 0), ("scratch", 0)),
    (),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fast")
    compiler = build.find_compiler(Config(cache_dir=place))
    flags = compiler.openmp_flags
    return build.compile_shared(SOURCE, flags, place / "k.so", 60, compiler=compiler)


def given(value: float) -> torch.Tensor:
    return torch.full((4,), value)


def flat(out: torch.Tensor) -> list[float]:
    """The elements in the order of the memory."""
    return out.t().reshape(-1).tolist()


def test_it_gives_what_the_way_through_python_gives(library: Path) -> None:
    kernels = Kernels(library, PLAN)
    assert kernels._fast is not None
    (quick,) = kernels([given(3.0)])
    kernels._fast = None
    (slow,) = kernels([given(3.0)])
    assert flat(quick)[:3] == flat(slow)[:3] == [4.0, *[float(torch.get_num_threads())] * 2]
    assert quick.stride() == slow.stride() == (1, 2) and quick.dtype == slow.dtype
    assert not quick.requires_grad and quick.untyped_storage().nbytes() == 16


def test_a_tuple_a_view_and_a_status(library: Path) -> None:
    kernels = Kernels(library, PLAN)
    inside = torch.arange(12.0)[5:9]
    assert flat(kernels((inside,))[0])[0] == 6.0
    with pytest.raises(IndexOutside):
        kernels([given(-2.0)])
    with pytest.raises(KernelFailed, match="status 7"):
        kernels([given(-7.0)])
    with pytest.raises(ValueError, match="more inputs"):
        kernels([])
    with pytest.raises((RuntimeError, TypeError)):
        kernels([3])  # type: ignore[list-item]
    assert flat(kernels([given(1.0)])[0])[0] == 2.0


def test_threads_are_pytorchs_at_each_call(library: Path) -> None:
    kernels, before = Kernels(library, PLAN), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            assert flat(kernels([given(1.0)])[0])[1:3] == [count, count]
    finally:
        torch.set_num_threads(before)
    assert flat(Kernels(library, PLAN, threads=2)([given(1.0)])[0])[1] == 2.0


def test_a_call_allocates_nothing_but_its_outputs(library: Path) -> None:
    kernels, xs = Kernels(library, PLAN), [given(1.0)]
    for _ in range(10):
        kernels(xs)
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(1000):
            kernels(xs)
        grown = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    assert grown < 10
    with torch.profiler.profile(profile_memory=True) as seen:
        for _ in range(10):
            kernels(xs)
    sizes = [
        json.loads(str(e.nbytes()))
        for e in seen.profiler.kineto_results.events()
        if e.name() == "[memory]" and e.nbytes() > 0
    ]
    assert sizes == [16] * 10 or sizes == [64] * 10  # the outputs, and nothing else


def test_scratch_is_kept_and_no_two_calls_share_it(library: Path) -> None:
    kernels = Kernels(library, PLAN)
    kernels([given(5.0)])
    assert flat(kernels([given(6.0)])[0])[3] == 5.0  # the block of the call before
    wrong: list[float] = []

    def work(value: float) -> None:
        for _ in range(20):
            got = flat(kernels([given(value)])[0])[0]
            if got != value + 1:
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(101.0 + k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_outputs_outlive_the_kernel(library: Path) -> None:
    kernels = Kernels(library, PLAN)
    (out,) = kernels([given(2.0)])
    del kernels
    gc.collect()
    assert flat(out)[0] == 3.0


def test_a_plan_of_unknown_buffers_goes_through_python(library: Path) -> None:
    from dataclasses import replace

    plan = replace(PLAN, buffers=(*PLAN.buffers, ("packed", 0)))
    assert Kernels(library, plan)._fast is None


def test_kernels_and_pytorch_have_one_runtime(library: Path) -> None:
    loaded = Library(library)._dll
    assert pool.of_torch() is not None
    assert pool.runtime_of(loaded) == pool.of_torch()
    assert pool.second_pool(loaded) is None


def run(text: str, *args: Any) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, args)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


COUNTED = """
import json, os, sys, threading, torch
from tests.runtime.test_fast import PLAN, given, flat
from superopt.runtime.kernels import Kernels
def count(): return len(os.listdir("/proc/self/task"))
torch.set_num_threads(3)
def busy(): return torch.rand(2_000_000).add(1).sum().item()
before = count(); busy(); pytorch = count()
kernels = Kernels(sys.argv[1], PLAN)
team = flat(kernels([given(1.0)])[0])[2]
busy(); after = count()
print(json.dumps([pytorch - before, after - pytorch, team]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are not counted here")
def test_a_kernel_starts_no_thread_that_pytorch_has(library: Path) -> None:
    of_pytorch, more, team = run(COUNTED, library)
    assert (of_pytorch >= 2, more, team) == (True, 0, 3)


FORKED = """
import json, os, sys, torch
from tests.runtime.test_fast import PLAN, given, flat
from superopt.runtime.kernels import Kernels
torch.set_num_threads(2)
kernels = Kernels(sys.argv[1], PLAN)
teams = [flat(kernels([given(1.0)])[0])[2]]
read, write = os.pipe()
if (child := os.fork()) == 0:
    quick = flat(kernels([given(1.0)])[0])[2]
    kernels._fast = None
    os.write(write, bytes([int(quick), int(flat(kernels([given(1.0)])[0])[2])]))
    os._exit(0)
os.close(write)
teams += list(os.read(read, 2))
os.waitpid(child, 0)
print(json.dumps([*teams, flat(kernels([given(1.0)])[0])[2]]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_does_not_wait_for_threads_that_it_lacks(library: Path) -> None:
    assert run(FORKED, library) == [2, 1, 1, 2]
