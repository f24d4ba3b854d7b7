"""Weights packed by the decorator: whatever changes a weight, the next call uses what it holds now."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from superopt import superoptimize
from superopt.codegen import packing
from superopt.pipeline import rooms
from superopt.runtime.packs import PACKS

K, N, M = 96, 160, 5


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is large enough to be packed, and packing is always worth it."""
    monkeypatch.setattr(packing.packing, "__defaults__", (0,))
    monkeypatch.setattr(rooms, "WORTH", float("inf"))
    PACKS.clear()
    yield
    PACKS.clear()


class Layer(nn.Module):
    """One product with a weight of [k, n]."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(K, N))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.w)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., torch.Tensor]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(packing.packing, "__defaults__", (0,))
        patch.setattr(rooms, "WORTH", float("inf"))
        fn = superoptimize(budget="200c", fallbacks=())(_product)
        with torch.no_grad():
            fn(torch.randn(M, K), torch.randn(K, N))
        yield fn


def _product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ w)


def _right(fn: Callable[..., torch.Tensor], w: torch.Tensor) -> None:
    x = torch.randn(M, K)
    with torch.no_grad():
        want = torch.relu(x.double() @ w.detach().double())
        torch.testing.assert_close(fn(x, w).double(), want, rtol=1e-4, atol=1e-4)


def _packed(fn: Callable[..., torch.Tensor], w: torch.Tensor) -> None:
    """Calls until the weight is packed."""
    for _ in range(4):
        _right(fn, w)
    assert PACKS.count == 1


def _optimizer(w: torch.Tensor) -> None:
    p = nn.Parameter(w)
    p.grad = torch.ones_like(p)
    torch.optim.SGD([p], lr=0.5).step()


WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "copy_": lambda w: w.copy_(torch.randn(K, N)),
    "mul_": lambda w: w.mul_(3),
    "element": lambda w: w.__setitem__((3, 4), 100.0),
    "view": lambda w: w[2:3].fill_(7),
    "data copy_": lambda w: w.data.copy_(torch.randn(K, N)),
    "data element": lambda w: w.data.__setitem__((3, 4), 100.0),
    "detach": lambda w: w.detach().add_(1),
    "numpy": lambda w: w.numpy().__setitem__((5, 6), 50.0),
    "dlpack": lambda w: torch.from_dlpack(w).__setitem__((5, 6), 50.0),
    "set data": lambda w: setattr(w, "data", torch.randn(K, N)),
    "optimizer": _optimizer,
    "foreach": lambda w: torch._foreach_mul_([w], 2.0),
    "out=": lambda w: torch.add(w, 1, out=w),
}


@pytest.mark.parametrize("how", WRITES)
def test_a_write_is_seen_by_the_next_call(made: Callable[..., torch.Tensor], how: str) -> None:
    w = torch.randn(K, N)
    _packed(made, w)
    with torch.no_grad():
        WRITES[how](w)
    _right(made, w)
    _right(made, w)


def test_activations_are_never_packed(made: Callable[..., torch.Tensor]) -> None:
    for _ in range(6):
        _right(made, torch.randn(K, N))
    assert PACKS.count == 0


def test_weights_take_turns(made: Callable[..., torch.Tensor]) -> None:
    weights = [torch.randn(K, N) for _ in range(5)]
    for _ in range(5):
        for w in weights:
            _right(made, w)
    assert PACKS.count == 5
    del w, weights
    gc.collect()
    assert PACKS.count == 0 and PACKS.bytes == 0


def test_a_module_may_be_loaded_trained_and_tied() -> None:
    layer, other = Layer(), Layer()
    fn = superoptimize(budget="200c", fallbacks=())(layer)
    x = torch.randn(M, K)

    def right() -> None:
        with torch.no_grad():
            want = torch.relu(x.double() @ layer.w.double())
            torch.testing.assert_close(fn(x).double(), want, rtol=1e-4, atol=1e-4)

    for _ in range(4):
        right()
    assert PACKS.count == 1
    layer.load_state_dict(other.state_dict())
    right()
    layer.w = nn.Parameter(torch.randn(K, N))  # bound anew
    right()
    layer.w = other.w  # tied
    for _ in range(4):
        right()
    with torch.no_grad():
        other.w.mul_(2)
    right()
    layer.w.grad = torch.ones_like(layer.w)
    torch.optim.AdamW(layer.parameters(), lr=0.1).step()
    right()


def test_threads_share_copies_while_a_weight_changes(made: Callable[..., torch.Tensor]) -> None:
    weights = [torch.randn(K, N) for _ in range(3)]
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for n in range(30):
                _right(made, weights[(seed + n) % 3])
        except BaseException as error:
            wrong.append(error)

    for _ in range(2):
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        with torch.no_grad():
            weights[0].mul_(2)
    assert not wrong
    assert PACKS.count <= 3


def test_with_no_memory_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPEROPT_PACK_MEMORY", "0")
    fn = superoptimize(budget="200c", fallbacks=())(_product)
    w = torch.randn(K, N)
    for _ in range(5):
        _right(fn, w)
    assert PACKS.count == 0
