"""The decorator: right answers, and PyTorch's answer with a warning where it cannot do better."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from superopt import pipeline, superoptimize, trace
from superopt.errors import BadOption, RequiresGrad, SuperoptError


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path / "cache"))
    trace.configure()
    trace.forget_warnings()
    torch.manual_seed(0)
    yield tmp_path / "cache"
    trace.configure()


def rmsnorm_linear(x, g, w):  # type: ignore[no-untyped-def]
    return F.rms_norm(x, (x.shape[-1],), g) @ w


def attention(q, k, v):  # type: ignore[no-untyped-def]
    return torch.softmax(q @ k * 0.125, -1) @ v


def gated(x, w, u):  # type: ignore[no-untyped-def]
    return F.silu(x @ w) * (x @ u)


r = torch.randn
PROGRAMS = {
    "rmsnorm_linear": (rmsnorm_linear, lambda: (r(5, 64), r(64), r(64, 48) / 8)),
    "attention": (attention, lambda: (r(2, 9, 16), r(2, 16, 70), r(2, 70, 16))),
    "gated": (gated, lambda: (r(3, 64), r(64, 33) / 8, r(64, 33) / 8)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_gives_pytorchs_answer(name: str, dtype: torch.dtype) -> None:
    fn, make = PROGRAMS[name]
    args = tuple(a.to(dtype) for a in make())
    result = superoptimize(fn, strict=True).result(*args)
    want = fn(*(a.double() for a in args))
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for call in (result.call, result.generated):
        got = call(*args)
        assert got.dtype == dtype
        assert (got.double() - want).abs().max() <= tolerance * want.abs().max()
    assert result.certificate["checks"]
    assert all(c["verdict"] == "equal" for c in result.certificate["checks"])
    assert result.certificate["gate"]["passed"]


def test_signatures_specialize_and_containers_pass() -> None:
    @superoptimize
    def f(pair, *, scale=2.0):  # type: ignore[no-untyped-def]
        return {"y": pair[0] @ pair[1] * scale, "z": (pair[0] + 1,)}

    for rows, scale in ((3, 2.0), (5, 2.0), (5, 0.5)):
        x, w = r(rows, 16), r(24, 16).t()
        got = f((x, w), scale=scale)
        assert torch.allclose(got["y"], x @ w * scale, atol=1e-4)
        assert torch.equal(got["z"][0], x + 1)
    assert len(f._results) == 3


def test_explain_shows_graph_certificate_and_times() -> None:
    args = PROGRAMS["gated"][1]()
    text = superoptimize.explain(superoptimize(gated), *args)
    for word in ("uGraph", "kernel k0", "certificate", "numeric gate: passed", "eager PyTorch"):
        assert word in text


def mutate(x):  # type: ignore[no-untyped-def]
    x.add_(1)
    return x * 2


def test_what_it_cannot_do_runs_in_pytorch(caplog: pytest.LogCaptureFixture) -> None:
    x = r(3, 4)
    with caplog.at_level(logging.WARNING, "superopt"):
        y = x.clone()
        assert torch.equal(superoptimize(mutate)(y), (x + 1) * 2)
        assert torch.equal(y, x + 1)
        grad = x.clone().requires_grad_()
        superoptimize(torch.nn.Linear(4, 4))(grad).sum().backward()
        assert grad.grad is not None
        assert superoptimize(lambda t: t * 2)(r(0, 4)).shape == (0, 4)
        assert torch.equal(superoptimize(lambda t: torch.cumsum(t, 0))(x), torch.cumsum(x, 0))
    assert len([m for m in caplog.messages if "fallback" in m]) == 4
    with pytest.raises(RequiresGrad):
        superoptimize(gated, strict=True)(grad, r(4, 4), r(4, 4))
    with pytest.raises(RuntimeError):
        superoptimize(gated)(r(3, 4), r(5, 4), r(5, 4))
    with pytest.raises(TypeError):
        superoptimize(gated)([1.0, 2.0], r(5, 4), r(5, 4))


@pytest.mark.parametrize(
    "where",
    [
        "superopt.search.driver.search",
        "superopt.codegen.backends.cpu.emit",
        "superopt.verify.admit.numeric_gate",
    ],
)
def test_a_failure_in_a_stage_leaves_pytorchs_answer(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("injected")

    monkeypatch.setattr(where, fail)
    args = PROGRAMS["gated"][1]()
    f = superoptimize(gated)
    with caplog.at_level(logging.WARNING, "superopt"):
        for _ in range(2):
            assert torch.equal(f(*args), gated(*args))
    assert len([m for m in caplog.messages if "injected" in m]) == 1
    with pytest.raises(ZeroDivisionError):
        superoptimize(gated, strict=True)(*args)


def test_an_interrupt_passes_and_the_next_call_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    args = PROGRAMS["gated"][1]()
    f = superoptimize(gated)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("superopt.search.driver.search", interrupt)
        f(*args)
    assert torch.allclose(f(*args), gated(*args), atol=1e-5)
    assert f.result(*args).cache == "cold"


def test_a_missing_compiler_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SUPEROPT_CXX", "/nonexistent/c++")
    args = PROGRAMS["gated"][1]()
    with caplog.at_level(logging.WARNING, "superopt"):
        assert torch.equal(superoptimize(gated)(*args), gated(*args))
    assert any("compiler" in m for m in caplog.messages)


def test_swapped_weights_are_not_confused() -> None:
    x, w, u = r(3, 16), r(16, 16), r(16, 16)
    one = superoptimize(lambda x, w, u: F.silu(x @ w) * (x @ u), strict=True)
    two = superoptimize(lambda x, w, u: F.silu(x @ u) * (x @ w), strict=True)
    assert torch.allclose(one(x, w, u), gated(x, w, u), atol=1e-4)
    assert torch.allclose(two(x, w, u), gated(x, u, w), atol=1e-4)
    assert torch.allclose(one(x, u, w), gated(x, u, w), atol=1e-4)
    keys = {f.result(x, w, u).pieces[0].key for f in (one, two)}
    assert len(keys) == 2


SCRIPT = """
import sys, torch
torch.manual_seed(0)
from superopt import superoptimize
def f(x, w):
    return torch.nn.functional.silu(x @ w) * {scale}
x, w = torch.randn(3, 16), torch.randn(16, 8)
g = superoptimize(f, strict=True)
ok = torch.allclose(g(x, w), f(x, w), atol=1e-4)
print(ok, g.result(x, w).cache)
"""


def second(cache: Path, scale: float = 2.0, **env: str) -> list[str]:
    path = cache.parent / "script.py"
    path.write_text(SCRIPT.format(scale=scale))
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SUPEROPT_CACHE_DIR": str(cache), **env},
    )
    assert done.returncode == 0, done.stderr
    return [*done.stdout.split(), done.stderr]


def test_a_new_process_starts_warm_without_compiling(fresh: Path) -> None:
    assert second(fresh)[:2] == ["True", "cold"]
    assert second(fresh, SUPEROPT_CXXFLAGS="")[:2] == ["True", "warm"]
    assert second(fresh, scale=3.0)[:2] == ["True", "cold"]
    shared = sorted(fresh.rglob("kernel-*.so"))[0]
    shared.write_bytes(shared.read_bytes()[:100])
    again = [second(fresh, scale=s) for s in (2.0, 3.0)]
    assert [a[0] for a in again] == ["True", "True"]
    assert sorted(a[1] for a in again) == ["cold", "warm"]
    assert any("damaged" in a[-1] for a in again)


def test_options_are_checked() -> None:
    for wrong in ({"budget": "soon"}, {"precision": "half"}, {"target": "tpu"}, {"colour": 1}):
        with pytest.raises(BadOption):
            superoptimize(gated, **wrong)
    args = PROGRAMS["gated"][1]()
    with pytest.raises(SuperoptError):
        superoptimize(gated, target="cuda:sm_90a", strict=True)(*args)
    assert pipeline.doctor()


def test_tensors_that_a_function_holds_are_followed() -> None:
    layer = torch.nn.Linear(16, 8)
    f = superoptimize(layer)
    x = r(3, 16)
    y = f(x)
    assert y.requires_grad  # its parameters want gradients, so it ran in PyTorch
    with torch.no_grad():
        assert torch.allclose(f(x), layer(x), atol=1e-5)
        layer.weight.mul_(2.0)
        assert torch.allclose(f(x), layer(x), atol=1e-5)
        layer.weight = torch.nn.Parameter(r(8, 16))
        assert torch.allclose(f(x), layer(x), atol=1e-5)


def test_pieces_around_a_boundary_agree_on_layouts() -> None:
    def f(x):  # type: ignore[no-untyped-def]
        y = (x.t() * 2).contiguous().t()
        return torch.cumsum(y, 0) @ torch.ones(4, 3) + y.sum(1, keepdim=True)

    x = r(5, 4)
    assert torch.allclose(superoptimize(f, strict=True)(x), f(x), atol=1e-4)
