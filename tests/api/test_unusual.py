"""Unusual tensors, callers and values: PyTorch's answer, before and after a kernel was made."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from superopt import superoptimize
from superopt.frontend.identity import identity

SHARED_CACHE = True

Warnings = Callable[[], list[str]]


def gated(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.silu(x @ w) * 2


class Marked(torch.Tensor):
    """A subclass that does nothing of its own."""


def of_a_subclass(f: Callable[..., Any], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    out = f(x.as_subclass(Marked), w)
    assert type(out) is Marked
    return out.as_subclass(torch.Tensor)


def forward_derivative(f: Callable[..., Any], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(f(forward_ad.make_dual(x, w[:1].expand_as(x)), w))
    return out.tangent


def recorded(f: Callable[..., Any], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return make_fx(lambda x: f(x, w))(x)(x * 2)


USES: dict[str, Callable[..., torch.Tensor]] = {
    "negated view": lambda f, x, w: f(torch.complex(w, x).conj().imag, w),
    "parameter": lambda f, x, w: f(torch.nn.Parameter(x, requires_grad=False), w),
    "subclass": of_a_subclass,
    "sparse rows": lambda f, x, w: f(x.to_sparse_csr(), w),
    "sparse": lambda f, x, w: f(x.to_sparse(), w),
    "vmap": lambda f, x, w: torch.func.vmap(f, in_dims=(0, None))(torch.stack([x, w]), w),
    "jvp": lambda f, x, w: torch.func.jvp(lambda x: f(x, w), (x,), (w,))[1],
    "grad": lambda f, x, w: torch.func.grad(lambda x: f(x, w).sum())(x),
    "forward derivative": forward_derivative,
    "recorded": recorded,
    "compiled": lambda f, x, w: torch.compile(lambda x: f(x, w) + 1, backend="eager")(x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("warm", [False, True], ids=["at once", "after a kernel was made"])
@pytest.mark.parametrize("use", USES)
def test_the_answer_is_that_of_pytorch(use: str, warm: bool) -> None:
    x, w = torch.randn(7, 7), torch.randn(7, 7)
    fast = superoptimize(gated, fallbacks=())
    if warm:
        torch.testing.assert_close(fast(x, w), gated(x, w))
    torch.testing.assert_close(USES[use](fast, x, w), USES[use](gated, x, w))
    torch.testing.assert_close(fast(x, w), gated(x, w))


def test_tensors_without_memory() -> None:
    fast = superoptimize(gated, fallbacks=())
    x = torch.randn(7, 7)
    fast(x, x)
    with FakeTensorMode() as mode:
        held = mode.from_tensor(x)
        assert type(fast(held, held)).__name__ == "FakeTensor"
    assert fast(x.to("meta"), x.to("meta")).device.type == "meta"


PICKS: dict[str, tuple[Callable[..., torch.Tensor], type[Exception]]] = {
    "embedding": (lambda t, i: F.embedding(i, t) * 2, IndexError),
    "index": (lambda t, i: t[i].exp(), IndexError),
    "index_select": (lambda t, i: t.index_select(0, i) + 1, IndexError),
    "gather": (lambda t, i: t.gather(0, i[:, None]) + 1, RuntimeError),
    "cross_entropy": (lambda t, i: F.cross_entropy(t[:3], i), IndexError),
}


@pytest.mark.parametrize("wild", [11, -12])
@pytest.mark.parametrize("pick", PICKS)
def test_an_index_outside_raises_the_error_of_pytorch(pick: str, wild: int) -> None:
    fn, kind = PICKS[pick]
    table, good = torch.randn(11, 11), torch.tensor([0, 10, 3])
    fast = superoptimize(fn, fallbacks=())
    torch.testing.assert_close(fast(table, good), fn(table, good))
    assert fast.result(table, good).winner == "generated"
    bad = torch.tensor([0, wild, 3])
    with pytest.raises(kind) as theirs:
        fn(table, bad)
    with pytest.raises(kind) as mine:
        fast(table, bad)
    assert str(mine.value) == str(theirs.value)
    torch.testing.assert_close(fast(table, good), fn(table, good))


COMPUTED: dict[str, tuple[Callable[..., torch.Tensor], list[float], list[float]]] = {
    "square": (lambda t, i: t[i * i] * 2, [0, 2, 5], [0, 7, 1]),
    "next": (lambda t, i: t[i + 1] * 2, [0, 38], [0, 39]),
    "gather": (lambda t, i: t.gather(0, (i * i)[:, None].expand(-1, 5)) * 2, [1, 6], [1, 7]),
    "wraps around": (lambda t, i: t[(i * 7) % 40] * 2, [1, 2, 6], []),
    "of floats": (lambda t, y: t[(y.abs() * 3).long()] * 2, [0.1, 2.5, 13.1], [0.1, 99.0, 0.2]),
    "of the largest": (lambda t, y: t[y.view(3, -1).argmax(-1)] * 2, [0.5, 0.7] * 6, []),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_indices_that_are_computed(name: str) -> None:
    """The verifier's small sizes and the gate's large values lead outside; so may a call."""
    fn, good, bad = COMPUTED[name]
    table, at = torch.randn(40, 5), torch.tensor(good)
    fast = superoptimize(fn, fallbacks=(), strict=True)
    for _ in range(2):
        torch.testing.assert_close(fast(table, at), fn(table, at))
    assert fast.result(table, at).winner == "generated"
    if bad:
        with pytest.raises((IndexError, RuntimeError)) as theirs:
            fn(table, torch.tensor(bad))
        with pytest.raises(theirs.type) as mine:
            fast(table, torch.tensor(bad)[: len(good)])
        assert str(mine.value) == str(theirs.value)


ROUNDED: dict[str, Callable[..., Any]] = {
    "what bf16 leaves": lambda x: x - x.bfloat16().float(),
    "both halves": lambda x: (x.half(), (x - x.half().float()).half()),
    "halves of a scaled value": lambda x: ((x * 3).bfloat16(), x * 3 - (x * 3).bfloat16().float()),
    "beyond the range": lambda x: (x * 1e5).half().float() * 2,
    "positions": lambda x: torch.sin(torch.arange(4000, 4007).bfloat16().float()) + x,
}


@pytest.mark.parametrize("name", ROUNDED)
def test_a_cast_that_loses_precision_is_kept(name: str, warnings: Warnings) -> None:
    fn, x = ROUNDED[name], torch.randn(5, 7)
    torch.testing.assert_close(superoptimize(fn, fallbacks=())(x), fn(x))
    assert warnings() == []


def test_halves_of_a_double_are_not_lost() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return x.double() / 3 - (x.double() / 3).float().double()

    x = torch.randn(5, 7)
    torch.testing.assert_close(superoptimize(fn, fallbacks=())(x), fn(x))


def test_halves_of_a_16_bit_program_are_not_lost(warnings: Warnings) -> None:
    """There casts back to bf16 are left out, unless that is what the program is about."""
    x = torch.randn(5, 7).bfloat16()

    def fn(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.float() * 1.3
        return y.bfloat16(), y - y.bfloat16().float()

    torch.testing.assert_close(superoptimize(fn, fallbacks=())(x), fn(x))
    assert ["does not compute the program" in line for line in warnings()] == [True]


@superoptimize(fallbacks=())
def named(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) + 1


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = torch.nn.Linear(7, 7), 2.0

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.linear(x)) * self.scale

    forward = superoptimize(plain, fallbacks=())


def test_a_decorated_forward_is_optimized_for_each_module(warnings: Warnings) -> None:
    x, one, two = torch.randn(3, 7), Layer(), Layer()
    two.scale = 5.0
    with torch.no_grad():
        for layer in (one, two, one, copy.deepcopy(two), pickle.loads(pickle.dumps(one))):
            torch.testing.assert_close(layer(x), layer.plain(x))
            assert layer.forward.result(x).winner == "generated"
        one.linear.weight.mul_(2)
        torch.testing.assert_close(one(x), one.plain(x))
        one.scale = 0.5
        torch.testing.assert_close(one(x), one.plain(x))
    assert warnings() == []


class Deeper(Layer):
    @superoptimize(fallbacks=())
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Layer.plain(self, x) - torch.tanh(x)

    def both(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward(x) + super().forward(x)


class Slotted:
    __slots__ = ("scale",)

    @superoptimize
    def times(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_methods_of_a_base_class_and_of_instances_without_a_dict(warnings: Warnings) -> None:
    x, deeper, slotted = torch.randn(3, 7), Deeper(), Slotted()
    with torch.no_grad():
        for _ in range(2):
            want = 2 * deeper.plain(x) - torch.tanh(x)
            torch.testing.assert_close(deeper.both(x), want)
        first = deeper.forward
        assert deeper.forward is first and len(first._results) == 1
    assert warnings() == []
    for scale in (2.0, 3.0):
        slotted.scale = scale
        torch.testing.assert_close(slotted.times(x), x * scale)
    assert len(warnings()) == 1


def test_copies_and_pickles() -> None:
    x = torch.randn(3, 7)
    assert pickle.loads(pickle.dumps(named)) is named
    again = copy.deepcopy(superoptimize(gated, fallbacks=()))
    torch.testing.assert_close(again(x, x.mT), gated(x, x.mT))


def test_a_cache_that_holds_no_entry(monkeypatch: pytest.MonkeyPatch, warnings: Warnings) -> None:
    monkeypatch.setenv("SUPEROPT_CACHE_LIMIT", "0")
    x = torch.randn(3, 5)
    for fn in (torch.tanh, torch.sigmoid):

        def fn_(x: torch.Tensor, fn: Callable[..., torch.Tensor] = fn) -> torch.Tensor:
            return fn(x) * 3

        fast = superoptimize(fn_, fallbacks=())
        torch.testing.assert_close(fast(x), fn_(x))
        assert "uGraph" in superoptimize.explain(fast, x)
    assert warnings() == []


def test_a_compiler_that_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warnings: Warnings
) -> None:
    stuck = tmp_path / "slow++"
    stuck.write_text("#!/bin/sh\nsleep 1000\n")
    stuck.chmod(0o755)
    monkeypatch.setenv("SUPEROPT_CXX", str(stuck))
    monkeypatch.setenv("SUPEROPT_COMPILE_TIMEOUT", "1")
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path / "cache"))
    x, begun = torch.randn(3, 5), time.monotonic()
    torch.testing.assert_close(superoptimize(gated)(x, x.mT), gated(x, x.mT))
    assert time.monotonic() - begun < 500  # it came back at all
    (line,) = warnings()
    assert "stopped after 1 s" in line


def test_the_grad_mode_that_a_function_asks_for_or_sets() -> None:
    def asks(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + (1.0 if torch.is_grad_enabled() else 5.0)

    def sets(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = torch.relu(x)
        return asks(y)

    x = torch.randn(3, 5)
    for fn in (asks, sets):
        fast = superoptimize(fn, fallbacks=())
        for mode in (True, False, True):
            with torch.set_grad_enabled(mode):
                torch.testing.assert_close(fast(x), fn(x))
                assert fast.result(x).winner == "generated"


def test_a_flag_of_torch_that_a_function_asks_for() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return x * (2 if torch.are_deterministic_algorithms_enabled() else 3) + 1

    x, fast = torch.randn(3, 5), superoptimize(fn, fallbacks=())
    assert identity(fn) is None
    try:
        for flag in (False, True, False):
            torch.use_deterministic_algorithms(flag)
            torch.testing.assert_close(fast(x), fn(x))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * globals()["SHARED_CACHE"],
        lambda x: x * getattr(torch, "pi"),  # noqa: B009
        lambda x: x * 2 if torch.backends.mkldnn.enabled else x,
        lambda x: x + torch.initial_seed(),
    ],
)
def test_what_asks_for_a_state_has_no_lasting_identity(fn: Callable[..., Any]) -> None:
    assert identity(fn) is None


@pytest.mark.parametrize(
    "fn",
    [
        gated,
        lambda x: torch.relu(x) * torch.pi,
        lambda x: torch.nn.functional.rms_norm(x, (x.shape[-1],)).to(torch.bfloat16),
        lambda x: torch.einsum("ij,kj->ik", x, x) + torch.special.expit(x),
    ],
)
def test_what_is_made_of_operators_has_one(fn: Callable[..., Any]) -> None:
    assert identity(fn) is not None


FAR: dict[str, tuple[Any, tuple[int, ...]]] = {
    "layer norm": (lambda x: F.layer_norm(x, (x.shape[-1],)), (4, 64)),
    "group norm": (lambda x: F.group_norm(x, 2), (4, 8, 9)),
    "instance norm": (lambda x: F.instance_norm(x), (4, 8, 9)),
    "covariance": (
        lambda x: (x - x.mean(-1, keepdim=True)) @ (x - x.mean(-1, keepdim=True)).mT,
        (4, 64),
    ),
}


@pytest.mark.parametrize("name", FAR)
def test_the_first_inputs_may_lie_far_from_zero(name: str, warnings: Warnings) -> None:
    """PyTorch's own rounding there is large, and says nothing of what was captured."""
    fn, shape = FAR[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    fast = superoptimize(fn, fallbacks=(), strict=True)
    fast(x + 1e6)
    torch.testing.assert_close(fast(x), fn(x), rtol=1e-4, atol=1e-4)
    assert warnings() == []
