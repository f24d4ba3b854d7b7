"""Members of tensors that give aliases: each is noticed for a watched storage, and does what it did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch

from superopt.runtime import aliases

WAYS: dict[str, Callable[[torch.Tensor], object]] = {
    "data": lambda t: t.data,
    "data of a view": lambda t: t[1:].data,
    "numpy": lambda t: t.numpy(),
    "numpy of a detached one": lambda t: t.detach().numpy(),
    "asarray": lambda t: np.asarray(t),
    "from_dlpack": lambda t: torch.from_dlpack(t),
    "numpy from_dlpack": lambda t: np.from_dlpack(t),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_alias_is_noticed(way: str) -> None:
    seen: list[int] = []
    t, other = torch.randn(4, 4), torch.randn(4, 4)
    place = t.untyped_storage()._cdata
    aliases.watch(place, seen.append)
    try:
        WAYS[way](other)
        assert not seen
        alias = torch.as_tensor(WAYS[way](t))
        assert seen and set(seen) == {place}
        alias.fill_(3)
        assert bool((t.flatten()[4:] == 3).all())
    finally:
        aliases.forget(place)
    count = len(seen)
    WAYS[way](t)
    assert len(seen) == count


def test_the_members_do_what_they_did() -> None:
    t = torch.nn.Parameter(torch.randn(3))
    aliases.watch(t.untyped_storage()._cdata, lambda place: None)
    assert type(t.data) is torch.Tensor and not t.data.requires_grad
    t.data = torch.ones(3)
    assert float(t.detach().sum()) == 3 and t.requires_grad
    assert torch.equal(copy.deepcopy(t), t)
    with pytest.raises(RuntimeError, match="requires grad"):
        t.numpy()
    assert "data" in torch.Tensor.__dict__ and torch.Tensor.numpy.__name__ == "numpy"

    class Called(torch.Tensor):
        calls: ClassVar[list[str]] = []

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            cls.calls.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs or {})

    s = torch.ones(2).as_subclass(Called)
    Called.calls.clear()
    assert type(s.data) is Called
    assert Called.calls == ["__get__"]  # a subclass hears of the member, and of nothing more
    torch.ones(2, device="meta").data  # noqa: B018
