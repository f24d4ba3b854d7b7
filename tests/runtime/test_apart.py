"""A binary in a process of its own: same answers as in this one, and no harm from what it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from superopt.errors import IndexOutside, KernelDied, KernelFailed, LoadFailed
from superopt.runtime.apart import Apart
from superopt.runtime.build import compile_shared
from superopt.runtime.plan import Extent, Plan, Shape

TORCH = {"f32": torch.float32, "bf16": torch.bfloat16, "i64": torch.int64, "bool": torch.bool}


def plan(dtype: str = "f32", shape: tuple[int, ...] = (3, 4)) -> Plan:
    """Of a program of one input and one output."""
    dims = tuple(Extent(n) for n in shape)
    one = Shape(dims, dtype)
    return Plan("f", (one,), (one,), (), (("input", 0), ("output", 0)), ())


@pytest.fixture
def built(tmp_path: Path) -> Callable[[str], bytes]:
    def build(body: str) -> bytes:
        source = (
            "#include <cstdint>\n#include <cstring>\n#include <cstdio>\n#include <cstdlib>\n"
            f'extern "C" int f(void** b, const int64_t* ints) {{ {body} }}\n'
        )
        return compile_shared(source, ("-O1",), tmp_path / "f.so", 60.0).read_bytes()

    return build


def test_answers_are_those_of_the_binary(built: Callable[[str], bytes]) -> None:
    cases = 0
    for dtype, kind in TORCH.items():
        for shape in ((3, 4), (12,), (), (0, 4)):
            size = torch.empty(shape, dtype=kind).nbytes
            binary = built(f"std::memcpy(b[1], b[0], {size}); return 0;")
            with Apart(binary, plan(dtype, shape), 60.0) as kernel:
                x = (torch.rand(shape) * 9).to(kind)
                (y,) = kernel.checked([x])
                assert y.dtype == kind and y.shape == x.shape and torch.equal(x, y)
                cases += 1
        if cases >= 6:
            break
    assert cases >= 6


def test_strides_and_what_lies_between_go_along(built: Callable[[str], bytes]) -> None:
    whole = torch.arange(40.0)
    for x in (whole.as_strided((3, 4), (10, 2)), whole[:1].expand(3, 4), whole[:12].view(4, 3).T):
        reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
        body = f"float s = 0; for (int i = 0; i < {reach}; ++i) s += ((float*)b[0])[i];"
        with Apart(built(f"{body} ((float*)b[1])[0] = s; return 0;"), plan(), 60.0) as kernel:
            (y,) = kernel.checked([x])
        assert float(y[0, 0]) == float(x.as_strided((reach,), (1,)).sum())
        assert int(y.isnan().sum()) == 11  # outputs are poisoned before the run


FAULTS = [
    ("return 2;", IndexOutside, "index"),
    ("return 5;", KernelFailed, "status 5"),
    ("((float*)b[0])[11] += 1; return 0;", KernelFailed, "wrote to an input"),
    ("*(volatile int*)8 = 1; return 0;", KernelDied, "SIGSEGV"),
    ("std::abort();", KernelDied, "SIGABRT"),
    ("std::_Exit(3);", KernelDied, "status 3"),
    ('for (;;) __asm__ volatile("");', KernelDied, "did not answer within"),
]


@pytest.mark.parametrize(("body", "kind", "told"), FAULTS, ids=[t for _, _, t in FAULTS])
def test_what_a_binary_does_wrong_is_told(
    body: str, kind: type[Exception], told: str, built: Callable[[str], bytes]
) -> None:
    begun = time.monotonic()
    with Apart(built(body), plan(), 5.0 if "for" in body else 60.0) as kernel:
        for _ in range(1 if "for" in body else 2):  # a process that died is started again
            with pytest.raises(kind, match=told) as caught:
                kernel.checked([torch.ones(3, 4)])
            assert type(caught.value) is kind
    assert time.monotonic() - begun < 60


def test_prints_do_not_get_into_the_answers(built: Callable[[str], bytes]) -> None:
    body = 'std::puts("x"); std::fflush(stdout); std::memcpy(b[1], b[0], 48); return 0;'
    with Apart(built(body), plan(), 60.0) as kernel:
        for _ in range(3):
            x = torch.randn(3, 4)
            assert torch.equal(kernel.checked([x])[0], x)


def test_nonsense_in_place_of_an_answer_is_told(built: Callable[[str], bytes]) -> None:
    # The first two descriptors beyond those of every process are those of the pipes.
    body = 'for (int d = 3; d < 30; ++d) dprintf(d, "%s", "nonsense nonsense"); return 0;'
    with Apart(built(body), plan(), 20.0) as kernel, pytest.raises(KernelDied):
        kernel.checked([torch.ones(3, 4)])


def test_what_cannot_be_loaded_is_told(built: Callable[[str], bytes]) -> None:
    with Apart(b"\x7fELF" + bytes(100), plan(), 60.0) as kernel, pytest.raises(LoadFailed):
        kernel.checked([torch.ones(3, 4)])
    other = Plan(**{**{f: getattr(plan(), f) for f in Plan.__slots__}, "entry": "g"})
    with Apart(built("return 0;"), other, 60.0) as kernel:
        with pytest.raises(LoadFailed, match="lacks the entry"):
            kernel.checked([torch.ones(3, 4)])
