"""``@superoptimize`` as users call it: PyTorch's answer from a generated kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from superopt import pipeline, superoptimize
from superopt.api import Optimized
from superopt.errors import BadOption, WrongType
from superopt.search import driver
from tests.api.programs import WORKLOADS, assert_same, rmsnorm_linear, tensors

SHARED_CACHE = True
SHIFT = (1.0,)

Count = Callable[[Any, str], list[int]]
Warnings = Callable[[], list[str]]


# On infinities in bf16 the sum of both products is NaN elsewhere than eager's: the gate may refuse.
LEFT_TO_PYTORCH = {("lora", torch.bfloat16)}


def generated(fn: Callable[..., Any], **options: Any) -> Any:
    """The function with its generated kernels, which here may not lose against eager PyTorch."""
    return superoptimize(fn, fallbacks=(), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_give_the_answer_of_pytorch(
    name: str, dtype: torch.dtype, warnings: Warnings
) -> None:
    fn, shapes = WORKLOADS[name]
    args = tensors(*shapes, dtype=dtype)
    fast = generated(fn)
    assert_same(fast(*args), fn(*args))
    again = tensors(*shapes, dtype=dtype)
    assert_same(fast(*again), fn(*again))
    if (name, dtype) in LEFT_TO_PYTORCH:
        assert len(warnings()) <= 1
        return
    result = fast.result(*args)
    assert result.winner == "generated"
    assert all(c["verdict"] == "equal" for c in result.certificate["checks"])
    same = all(c["kind"] == "identical" for c in result.certificate["checks"])
    assert bool(result.certificate["assumptions"]) != same
    assert set(result.certificate["assumptions"]) <= set(result.certificate["explained"])
    assert result.certificate["search"]["spaces"] and result.certificate["search"]["axioms"]
    assert warnings() == []


def test_explain_shows_the_graph_the_certificate_and_the_times() -> None:
    fn, shapes = WORKLOADS["rmsnorm_linear"]
    args = tensors(*shapes)
    text = superoptimize.explain(generated(fn), *args)
    parts = ("kernel k0", "reduce add", "certificate:", "assumes:", "numeric gate", "search")
    for part in (*parts, "kernel cut: optimal"):
        assert part in text
    assert " us" in text


def test_explain_takes_a_plain_function_and_tells_why_pytorch_runs() -> None:
    x, w = tensors((4, 8), (8, 8))
    text = superoptimize.explain(lambda a, b: a @ b, x.requires_grad_(), w)
    assert text.startswith("runs in PyTorch:")
    assert "gradient" in text


def scaled(x: torch.Tensor, scale: float = 2.0, *, shift: float = 0.5) -> torch.Tensor:
    return torch.sigmoid(x * scale) + shift


def test_keywords_defaults_and_python_scalars(warnings: Warnings) -> None:
    (x,) = tensors((8, 64))
    fast = generated(scaled)
    assert_same(fast(x), scaled(x))
    assert_same(fast(x=x), scaled(x))
    assert_same(fast(x, 3.0), scaled(x, 3.0))
    assert_same(fast(x, scale=3.0, shift=1.0), scaled(x, 3.0, shift=1.0))
    assert_same(fast(shift=1.0, x=x), scaled(x, shift=1.0))
    # A value seen before must not bring back another value's kernel, nor an int a float's.
    assert_same(fast(x), scaled(x))
    assert_same(fast(x, 3), scaled(x, 3))
    assert warnings() == []


def nested(state: dict[str, Any], pair: tuple[torch.Tensor, list[torch.Tensor]]) -> dict[str, Any]:
    h = torch.tanh(state["h"] + pair[0])
    return {"state": {"h": h}, "out": (h * pair[1][0], [h - pair[0]])}


def test_nested_containers_in_and_out(warnings: Warnings) -> None:
    a, b, c = tensors((8, 64), (8, 64), (8, 64))
    fast = generated(nested)
    args = ({"h": a, "name": "layer"}, (b, [c]))
    assert_same(fast(*args), nested(*args))
    swapped = ({"h": c, "name": "layer"}, (a, [b]))
    assert_same(fast(*swapped), nested(*swapped))
    assert warnings() == []


def test_layouts_shapes_and_dtypes_specialize(count: Count, warnings: Warnings) -> None:
    searches = count(driver, "search")

    def fn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(x * x)) * y

    fast = generated(fn)
    x, y = tensors((8, 12), (8, 12))
    wide = torch.randn(16, 24)
    cases = [
        (x, y),
        (x.t().contiguous().t(), y),
        (wide[::2, ::2], y),
        (x[:1].expand(8, 12), y),
        (x[:3], y[:3]),
        (x.to(torch.bfloat16), y.to(torch.bfloat16)),
    ]
    for args in cases:
        assert_same(fast(*args), fn(*args))
    found = len(searches)
    for args in cases:
        assert_same(fast(*args), fn(*args))
    assert len(searches) == found <= len(cases)
    assert warnings() == []


class Scaler:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    @superoptimize(fallbacks=())
    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * self.scale) + 1.0


def test_methods_bind_to_their_instance() -> None:
    (x,) = tensors((8, 64))
    for scale in (2.0, 3.0, 2.0):
        assert_same(Scaler(scale).apply(x), torch.tanh(x * scale) + 1.0)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(64, 48, bias=False)
        self.norm = torch.nn.RMSNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.up(self.norm(x)))


def test_a_module_reads_its_weights_at_each_call(warnings: Warnings) -> None:
    block = Block().requires_grad_(False)
    fast = generated(block)
    (x,) = tensors((8, 64))
    assert_same(fast(x), block(x))
    block.up.weight.mul_(2.0)
    assert_same(fast(x), block(x))
    block.up.weight = torch.nn.Parameter(torch.randn(48, 64) / 8, requires_grad=False)
    assert_same(fast(x), block(x))
    assert warnings() == []


def test_precision_eager_rounds_where_pytorch_rounds(warnings: Warnings) -> None:
    fn, shapes = WORKLOADS["softmax"]
    args = tensors(*shapes, dtype=torch.bfloat16)
    assert_same(generated(fn, precision="eager")(*args), fn(*args))
    assert warnings() == []


def test_plain_values_a_function_reads_are_part_of_its_signature() -> None:
    state = 2.0

    def helper(x: torch.Tensor) -> torch.Tensor:
        return x * state

    def fn(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(helper(x)) + SHIFT[0]

    (x,) = tensors((8, 64))
    fast = generated(fn)
    assert_same(fast(x), torch.tanh(x * 2.0) + SHIFT[0])
    state = 3.0
    assert_same(fast(x), torch.tanh(x * 3.0) + SHIFT[0])
    state = 2.0
    assert_same(fast(x), torch.tanh(x * 2.0) + SHIFT[0])


def test_floats_that_compare_oddly_have_signatures_of_their_own(count: Count) -> None:
    captures = count(pipeline, "optimize")
    (x,) = tensors((8, 64))
    fast = generated(lambda x, s: x / s)
    for value in (0.0, -0.0, float("nan"), float("nan")):
        torch.testing.assert_close(fast(x, value), x / value, equal_nan=True)
    assert len(captures) == 3


def test_a_held_tensor_that_changes_its_layout_is_met_anew() -> None:
    layer = torch.nn.Linear(64, 48).requires_grad_(False)
    (x,) = tensors((8, 64))
    fast = generated(lambda x: torch.relu(layer(x)))
    assert_same(fast(x), torch.relu(layer(x)))
    layer.bfloat16()
    y = x.to(torch.bfloat16)
    assert_same(fast(y), torch.relu(layer(y)))
    layer.float().requires_grad_()
    assert fast(x).requires_grad


def test_inductor_may_be_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def compile_(fn: Callable[..., Any]) -> Callable[..., Any]:
        compiled.append(fn)
        return fn

    monkeypatch.setattr(torch, "compile", compile_)
    (x,) = tensors((8, 64))
    fast = superoptimize(scaled, fallbacks=("eager", "inductor"))
    assert_same(fast(x), scaled(x))
    result = fast.result(x)
    assert compiled == [scaled]
    assert {"eager_median_s", "inductor_median_s", "generated_median_s"} <= set(result.timings)
    best = min(("generated", "eager", "inductor"), key=lambda n: result.timings[f"{n}_median_s"])
    assert result.winner == best


def test_settings_switch_it_off(monkeypatch: pytest.MonkeyPatch, count: Count) -> None:
    captures = count(pipeline, "optimize")
    monkeypatch.setenv("SUPEROPT_DISABLE", "1")
    (x,) = tensors((8, 64))
    assert torch.equal(generated(scaled)(x), scaled(x))
    assert captures == []


def test_the_decorated_function_keeps_its_name() -> None:
    fast = superoptimize(rmsnorm_linear)
    assert isinstance(fast, Optimized)
    assert fast.__name__ == "rmsnorm_linear"
    assert fast.__wrapped__ is rmsnorm_linear


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"bugdet": "3s"}, "did you mean 'budget'"),
        ({"budget": "soon"}, "30s"),
        ({"budget": 0}, "above zero"),
        ({"budget": "-3s"}, "30s"),
        ({"target": "gpu"}, "cpu"),
        ({"target": "cuda"}, "cuda:sm_90a"),
        ({"target": "cpu:avx521"}, "avx512"),
        ({"precision": "low"}, "default, eager"),
        ({"fallbacks": "eager"}, "('eager',)"),
        ({"fallbacks": ("triton",)}, "inductor"),
        ({"strict": 1}, "True or False"),
        ({"seed": -1}, "integer"),
        ({"dynamic": {"x": 0}}, "Dim"),
        ({"dynamic": {"x": {0: ("tokens", 9, 3)}}}, "low end"),
    ],
)
def test_options_are_read_where_they_are_written(options: dict[str, Any], fix: str) -> None:
    with pytest.raises(BadOption) as met:
        superoptimize(**options)
    assert fix in met.value.fix
    assert "\n" not in str(met.value)


def test_only_functions_can_be_decorated() -> None:
    with pytest.raises(WrongType, match="not Tensor"):
        superoptimize(torch.zeros(3))


def test_a_dynamic_argument_must_exist() -> None:
    with pytest.raises(BadOption, match="y"):
        superoptimize(lambda x: x, dynamic={"y": {0: ("tokens", 2, 8)}})
