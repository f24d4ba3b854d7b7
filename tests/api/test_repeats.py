"""Calls that are recognized without a look: what differs from an earlier call is never taken for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from superopt import superoptimize
from superopt.pipeline.repeats import MISSED

pytestmark = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="no C functions for tensors"
)

weight = torch.linspace(-1.0, 1.0, 8)
factor = 2.0


def chain(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x * 2.0 + 1.0, -1)


def held(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x * weight * factor, -1)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8), requires_grad=False)
        self.eps = 1e-6
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(torch.rms_norm(x, (8,), self.gain, self.eps)) * 2.0


def recognizes(made: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether a decorated function takes a call for one that it knows."""
    return any(r(args, kwargs, MISSED) is not MISSED for r in made._repeats.known)


def settled(fn: Any, *args: Any, **kwargs: Any) -> Any:
    """The function, decorated, after calls that it recognizes from then on."""
    made = superoptimize(fn)
    for _ in range(2):
        made(*args, **kwargs)
    assert recognizes(made, *args, **kwargs)
    return made


IN_PLACE = ("a weight in place",)
"""Changes of values alone: the same program, on other numbers."""


class Other(Norm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.eps + self.gain


X = torch.linspace(-2.0, 2.0, 32).reshape(4, 8)

OTHERS: dict[str, Callable[[], Any]] = {
    "shape": lambda: X[:3].contiguous(),
    "rank": lambda: X[None],
    "strides": lambda: X.t().contiguous().t(),
    "dtype": lambda: X.double(),
    "a gradient": lambda: X.clone().requires_grad_(),
    "a parameter": lambda: nn.Parameter(X.clone(), requires_grad=False),
    "a subclass": lambda: X.as_subclass(type("Mine", (torch.Tensor,), {})),
    "negated": lambda: torch._neg_view(X),
    "zeros without memory": lambda: torch._efficientzerotensor((4, 8)),
    "sparse": lambda: X.to_sparse(),
    "no elements": lambda: X[:0],
    "a number": lambda: 3.0,
    "nothing": lambda: None,
    "a list": lambda: [X],
}


@pytest.fixture(scope="module")
def known() -> Any:
    return settled(chain, X)


@pytest.mark.parametrize("name", OTHERS)
def test_another_argument_is_another_call(known: Any, name: str) -> None:
    assert not recognizes(known, OTHERS[name]())
    assert recognizes(known, X) and recognizes(known, X.clone())


def test_arguments_by_name_or_in_another_number_are_another_call(known: Any) -> None:
    assert not recognizes(known) and not recognizes(known, X, X) and not recognizes(known, x=X)
    assert not recognizes(known, X, dim=1)


def test_a_tensor_inside_of_another_is_read_where_it_is(known: Any) -> None:
    inside = torch.randn(6, 8)[1:5]
    assert recognizes(known, inside)
    torch.testing.assert_close(known(inside), chain(inside))


class _Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("it was asked of a tensor")


def test_settings_of_pytorch_are_another_call(known: Any) -> None:
    def flipped(change: Callable[[Any], Any], to: Any, back: Any) -> bool:
        change(to)
        try:
            return recognizes(known, X)
        finally:
            change(back)

    threads = torch.get_num_threads()
    assert not flipped(torch.set_num_threads, threads + 1, threads)
    assert not flipped(torch.set_default_dtype, torch.float64, torch.float32)
    assert not flipped(torch.use_deterministic_algorithms, True, False)
    precision = torch.get_float32_matmul_precision()
    assert not flipped(torch.set_float32_matmul_precision, "medium", precision)
    for other in (
        torch.inference_mode(),
        torch.set_grad_enabled(not torch.is_grad_enabled()),
        torch.autocast("cpu"),
        torch.autograd.forward_ad.dual_level(),
        _Mode(),
    ):
        with other:
            assert not recognizes(known, X)
    seen: list[bool] = []

    def mapped(x: torch.Tensor) -> torch.Tensor:
        seen.append(recognizes(known, x))
        return x

    torch.vmap(mapped)(X[None])
    assert seen == [False] and recognizes(known, X)


def _set(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


MODULE_CHANGES: dict[str, Callable[[Norm], Any]] = {
    "a number": lambda m: _set(m, "eps", 0.5),
    "a number of another type": lambda m: _set(m, "eps", 1),
    "a weight in place": lambda m: m.gain.mul_(3.0),
    "a weight's memory": lambda m: _set(m.gain, "data", torch.full((8,), 2.0)),
    "a weight's strides": lambda m: _set(m.gain, "data", torch.full((16,), 2.0)[::2]),
    "another weight": lambda m: _set(m, "gain", nn.Parameter(torch.full((8,), 4.0), False)),
    "a wanted gradient": lambda m: m.gain.requires_grad_(),
    "another part": lambda m: _set(m, "act", nn.Sigmoid()),
    "a hook": lambda m: m.register_forward_hook(lambda *a: a[-1] * 5.0),
    "a hook of a part": lambda m: m.act.register_forward_hook(lambda *a: a[-1] * 5.0),
    "a forward of its own": lambda m: _set(m, "forward", lambda x: x * 7.0),
    "an attribute of a weight": lambda m: _set(m.gain, "scale", 2.0),
    "training": lambda m: m.eval(),
    "another class": lambda m: _set(
        m, "__class__", type("Other", (Norm,), {"forward": nn.SiLU.forward, "inplace": False})
    ),
}


@pytest.fixture(scope="module")
def owned() -> tuple[Norm, Any]:
    owner = Norm()
    return owner, settled(owner, X)


@pytest.mark.parametrize("name", MODULE_CHANGES)
def test_a_changed_module_is_another_call(owned: tuple[Norm, Any], name: str) -> None:
    owner, made = owned
    made._repeats._looked.clear()  # what changes often is written down ever more rarely
    made(X)
    kept = dict(owner.__dict__), {k: dict(v) for k, v in owner.__dict__.items() if type(v) is dict}
    assert recognizes(made, X)
    before = made._calls.signature((X,), {})
    MODULE_CHANGES[name](owner)
    try:
        same = made._calls.signature((X,), {}) == before
        assert not recognizes(made, X) or (same and name in IN_PLACE)
        if name in IN_PLACE:
            torch.testing.assert_close(made(X), Norm.forward(owner, X))
    finally:
        owner.__class__ = Norm
        owner.act._forward_hooks.clear()
        owner._forward_hooks.clear()
        owner.__dict__.clear()
        owner.__dict__.update(kept[0])
        for table, values in kept[1].items():
            owner.__dict__[table].clear()
            owner.__dict__[table].update(values)
        owner.gain = nn.Parameter(torch.ones(8), requires_grad=False)
        owner.train()


def test_what_a_function_holds_is_compared_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settled(held, X)
    weight.mul_(2.0)  # in place: the same program
    try:
        assert recognizes(made, X)
        torch.testing.assert_close(made(X), held(X))
    finally:
        weight.div_(2.0)
    monkeypatch.setitem(globals(), "weight", weight.clone())
    assert not recognizes(made, X)
    torch.testing.assert_close(made(X), held(X))
    monkeypatch.setitem(globals(), "factor", 3.0)
    assert not recognizes(made, X)
    torch.testing.assert_close(made(X), held(X))
    monkeypatch.delitem(globals(), "factor")
    assert not recognizes(made, X)
    with pytest.raises(NameError):
        made(X)


def test_a_held_tensor_that_is_an_argument_too_is_another_call() -> None:
    row = X.clone()
    made = settled(lambda x: torch.softmax(x + row, -1), X)
    assert recognizes(made, X) and not recognizes(made, row)


def test_the_same_tensor_twice_is_another_call() -> None:
    made = settled(lambda a, b: torch.softmax(a * 2.0 + b, -1), X, X.clone())
    assert recognizes(made, X, X.clone()) and not recognizes(made, X, X)


def test_plain_arguments_count_by_value_and_type() -> None:
    made = settled(lambda x, k: torch.softmax(x * k, -1), X, 2.0)
    assert recognizes(made, X, float("2.0"))
    assert not any(recognizes(made, X, k) for k in (2, 3.0, True, "2.0", None))


def test_a_bad_index_is_pytorchs_error_on_a_repeated_call() -> None:
    made = settled(lambda x, at: torch.softmax(x[at] * 2.0, -1), X, torch.tensor([0, 3]))
    with pytest.raises(IndexError):
        made(X, torch.tensor([0, 4]))
    assert made(X, torch.tensor([3, 3])).shape == (2, 8)


def test_each_call_has_outputs_of_its_own(known: Any) -> None:
    first = known(X)
    kept = first.clone()
    second = known(-X)
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, kept)


def test_threads_call_at_once(known: Any) -> None:
    inputs = [torch.randn(4, 8) for _ in range(8)]
    wanted = [chain(x) for x in inputs]
    wrong: list[int] = []

    def work(k: int) -> None:
        torch.set_grad_enabled(torch.is_grad_enabled())
        for _ in range(300):
            if not torch.allclose(known(inputs[k]), wanted[k], atol=1e-6):
                wrong.append(k)

    pool = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in pool:
        t.start()
    for t in pool:
        t.join()
    assert wrong == []


def test_dynamic_sizes_are_each_a_call_of_their_own() -> None:
    dim = torch.export.Dim("n", min=2, max=64)
    made = superoptimize(chain, dynamic={"x": {0: dim}})
    for n in (4, 9):
        for _ in range(2):
            x = torch.randn(n, 8)
            torch.testing.assert_close(made(x), chain(x))
        assert recognizes(made, torch.randn(n, 8))
    assert not recognizes(made, torch.randn(10, 8))
