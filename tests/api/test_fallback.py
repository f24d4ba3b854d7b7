"""What cannot be optimized runs in PyTorch, with one warning; ``strict=True`` raises."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from superopt import superoptimize
from superopt.errors import (
    CompilerMissing,
    MutatesInput,
    RequiresGrad,
    SuperoptError,
    UnsupportedDevice,
    WrongType,
)
from superopt.search import driver
from tests.api.programs import assert_same, gated_mlp, tensors

Warnings = Callable[[], list[str]]


def mutates(x: torch.Tensor) -> torch.Tensor:
    x.add_(1.0)
    return x * 2.0


def cumulative(x: torch.Tensor) -> torch.Tensor:
    return torch.cumsum(x, 0)


def gated_args() -> list[torch.Tensor]:
    return tensors((8, 64), (64, 48), (64, 48))


def only(lines: list[str], *words: str) -> None:
    """One warning of one line, which holds the words."""
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert lines[0].startswith("superopt fallback: ")
    for word in words:
        assert word in lines[0]


def test_a_required_gradient(warnings: Warnings) -> None:
    x, w, u = gated_args()
    fast = superoptimize(gated_mlp)
    w.requires_grad_()
    for _ in range(2):
        out = fast(x, w, u)
        assert out.requires_grad
    out.sum().backward()
    assert w.grad is not None
    only(warnings(), "requires a gradient", "torch.no_grad()")
    with pytest.raises(RequiresGrad):
        superoptimize(gated_mlp, strict=True)(x, w, u)
    with torch.no_grad():
        assert_same(fast(x, w, u), gated_mlp(x, w, u))
    assert len(warnings()) == 1


def test_a_mutated_input_is_mutated_once_a_call(warnings: Warnings) -> None:
    (x,) = tensors((8, 64))
    before = x.clone()
    fast = superoptimize(mutates)
    for times in (1, 2):
        assert_same(fast(x), (before + times) * 2.0)
        assert_same(x, before + times)
    only(warnings(), "writes to")
    with pytest.raises(MutatesInput):
        superoptimize(mutates, strict=True)(x)


def test_mismatched_shapes_raise_the_error_of_pytorch() -> None:
    x, w, _ = gated_args()
    wrong = torch.randn(63, 48)
    with pytest.raises(RuntimeError) as eager:
        gated_mlp(x, w, wrong)
    fast = superoptimize(gated_mlp)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=re.escape(str(eager.value))):
            fast(x, w, wrong)


def test_a_wrong_dtype_raises_the_error_of_pytorch() -> None:
    x, w, u = gated_args()
    with pytest.raises(RuntimeError) as eager:
        gated_mlp(x, w, u.double())
    with pytest.raises(RuntimeError, match=re.escape(str(eager.value))):
        superoptimize(gated_mlp)(x, w, u.double())


def test_a_list_instead_of_a_tensor_raises_the_error_of_pytorch() -> None:
    _, w, u = gated_args()
    with pytest.raises(TypeError) as eager:
        gated_mlp([[1.0] * 64], w, u)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=re.escape(str(eager.value))):
        superoptimize(gated_mlp)([[1.0] * 64], w, u)


def test_an_argument_without_a_hash(warnings: Warnings) -> None:
    (x,) = tensors((8, 64))
    fast = superoptimize(lambda x, names: x * len(names))
    assert_same(fast(x, {"a", "b"}), x * 2)
    only(warnings(), "argument of type set")
    with pytest.raises(WrongType):
        superoptimize(lambda x, names: x, strict=True)(x, {"a"})


@pytest.mark.parametrize("shapes", [((0, 64), (64, 48)), ((8, 0), (0, 48)), ((8, 64), (64, 0))])
def test_empty_tensors(shapes: tuple[tuple[int, ...], ...], warnings: Warnings) -> None:
    x, w = (torch.randn(s) for s in shapes)
    assert_same(superoptimize(gated_mlp)(x, w, w), gated_mlp(x, w, w))
    assert len(warnings()) <= 1


def test_only_an_unsupported_operator(warnings: Warnings) -> None:
    (x,) = tensors((8, 64))
    fast = superoptimize(cumulative)
    for _ in range(2):
        assert torch.equal(fast(x), torch.cumsum(x, 0))
    only(warnings(), "cumsum", "cumulative")
    with pytest.raises(SuperoptError, match="cumsum"):
        superoptimize(cumulative, strict=True)(x)
    assert "cumsum" in superoptimize.explain(fast, x)


def test_a_target_without_a_code_generator(warnings: Warnings) -> None:
    args = gated_args()
    assert torch.equal(superoptimize(gated_mlp, target="cuda:sm_90a")(*args), gated_mlp(*args))
    only(warnings(), "cuda:sm_90a", "target='cpu'")
    with pytest.raises(UnsupportedDevice):
        superoptimize(gated_mlp, target="cuda:sm_90a", strict=True)(*args)


def test_autocast(warnings: Warnings) -> None:
    args = gated_args()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(superoptimize(gated_mlp)(*args), gated_mlp(*args))
    only(warnings(), "autocast")


def test_a_missing_compiler(monkeypatch: pytest.MonkeyPatch, warnings: Warnings) -> None:
    monkeypatch.setenv("SUPEROPT_CXX", "/nonexistent")
    args = gated_args()
    fast = superoptimize(gated_mlp)
    for _ in range(2):
        assert torch.equal(fast(*args), gated_mlp(*args))
    only(warnings(), "no working C++ compiler", "SUPEROPT_CXX")
    with pytest.raises(CompilerMissing):
        superoptimize(gated_mlp, strict=True)(*args)
    # Once there is a compiler, a function made anew finds it.
    monkeypatch.delenv("SUPEROPT_CXX")
    assert superoptimize(gated_mlp, fallbacks=()).result(*args).winner == "generated"


FAILS_ON_KERNELS = """#!/bin/sh
case "$*" in
  --version) echo "faulty 1.0"; exit 0;;
  -dumpmachine) echo x86_64-linux-gnu; exit 0;;
esac
echo "error: out of ideas" >&2
exit 1
"""


def test_a_compiler_that_always_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: Warnings
) -> None:
    script = tmp_path / "faulty-cxx"
    script.write_text(FAILS_ON_KERNELS)
    script.chmod(0o755)
    monkeypatch.setenv("SUPEROPT_CXX", str(script))
    args = gated_args()
    fast = superoptimize(gated_mlp)
    for _ in range(2):
        assert torch.equal(fast(*args), gated_mlp(*args))
    only(warnings(), "compiler")


STAGES = {
    "search": "superopt.search.driver.search",
    "check": "superopt.pipeline.making.Checker",
    "lower": "superopt.pipeline.making.lower",
    "emit": "superopt.codegen.backends.cpu.emit",
    "compile": "superopt.pipeline.making.compile_many",
    "gate": "superopt.verify.admit.numeric_gate",
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_in_any_stage(
    stage: str, monkeypatch: pytest.MonkeyPatch, warnings: Warnings
) -> None:
    tries: list[int] = []

    def fail(*args: object, **kwargs: object) -> None:
        tries.append(1)
        raise ZeroDivisionError(f"injected into {stage}")

    monkeypatch.setattr(STAGES[stage], fail)
    args = gated_args()
    fast = superoptimize(gated_mlp)
    assert torch.equal(fast(*args), gated_mlp(*args))
    tried = len(tries)
    assert torch.equal(fast(*args), gated_mlp(*args))
    assert len(tries) == tried > 0
    only(warnings(), "gated_mlp", f"injected into {stage}", STAGE_NAMES[stage], "details: ")
    log = re.search(r"details: (.*)\)", warnings()[0])
    assert log is not None
    assert "Traceback" in Path(log[1]).read_text()
    with pytest.raises(ZeroDivisionError):
        superoptimize(gated_mlp, strict=True)(*args)


STAGE_NAMES = {
    "search": "search: ",
    "check": "verify: ",
    "lower": "compile: ",
    "emit": "compile: ",
    "compile": "compile: ",
    "gate": "gate: ",
}


def test_strict_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPEROPT_STRICT", "1")
    (x,) = tensors((8, 64))
    with pytest.raises(SuperoptError, match="cumsum"):
        superoptimize(cumulative)(x)


def test_a_faulty_setting_is_told(monkeypatch: pytest.MonkeyPatch, warnings: Warnings) -> None:
    monkeypatch.setenv("SUPEROPT_LOCK_TIMEOUT", "never")
    args = gated_args()
    assert torch.equal(superoptimize(gated_mlp)(*args), gated_mlp(*args))
    only(warnings(), "SUPEROPT_LOCK_TIMEOUT")


def test_an_interrupt_passes_and_the_next_call_works(
    monkeypatch: pytest.MonkeyPatch, warnings: Warnings
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    args = gated_args()
    fast = superoptimize(gated_mlp, fallbacks=())
    with monkeypatch.context() as patch:
        patch.setattr(driver, "search", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fast(*args)
    assert_same(fast(*args), gated_mlp(*args))
    assert fast.result(*args).winner == "generated"
    assert warnings() == []


def test_a_kernel_that_refuses_at_run_time(
    monkeypatch: pytest.MonkeyPatch, warnings: Warnings
) -> None:
    args = gated_args()
    fast = superoptimize(gated_mlp, fallbacks=())
    result = fast.result(*args)

    def refuse(*args: object) -> None:
        raise SuperoptError("a kernel returned 1")

    object.__setattr__(result, "run", refuse)
    assert torch.equal(fast(*args), gated_mlp(*args))
    only(warnings(), "a kernel returned 1")


def test_a_variance_of_one_element_is_left_to_pytorch(warnings: Warnings) -> None:
    fast = superoptimize(lambda x: x.var(-1) * 2)
    assert torch.isnan(fast(torch.randn(6, 1))).all()
    assert "variance of 1 elements" in warnings()[0] and len(warnings()) == 1


def test_a_class_is_no_function() -> None:
    with pytest.raises(WrongType, match="not the class Linear"):
        superoptimize(torch.nn.Linear)


@dataclasses.dataclass
class Pair:
    """A result in a class of the user's."""

    one: torch.Tensor
    two: torch.Tensor


def test_results_in_a_dataclass(warnings: Warnings) -> None:
    def fn(x: torch.Tensor) -> Pair:
        return Pair(torch.nn.functional.silu(x @ x), x.sum(-1))

    x = torch.randn(8, 8)
    fast = superoptimize(fn)
    assert all(torch.equal(fast(x).one, fn(x).one) for _ in range(2))
    only(warnings(), "the result holds a Pair", "register_dataclass")
    torch.export.register_dataclass(Pair)
    fast = superoptimize(fn, fallbacks=())
    torch.testing.assert_close(fast(x).one, fn(x).one)
    torch.testing.assert_close(fast(x).two, fn(x).two)
    assert fast.result(x).winner == "generated" and len(warnings()) == 1
