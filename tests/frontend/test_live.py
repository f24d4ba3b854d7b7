"""Tensors that a function holds: found anew at each call, and part of what decides its program."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from superopt.errors import RequiresGrad, UnsupportedOperator
from superopt.frontend.capture import Captured, capture
from superopt.frontend.live import Live, state
from superopt.frontend.partition import Program, partition
from tests.frontend.harness import check, close, floats

Tensor = torch.Tensor


def r(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


GLOBAL = r(4)
TABLE: dict[str, Any] = {"scale": r(4), "parts": [r(4), r(4, 4)]}


def reads_global(x: Tensor) -> Tensor:
    return x * GLOBAL + 1


def reads_dict(x: Tensor) -> Tensor:
    return x * TABLE["scale"] + 1


def reads_list_in_dict(x: Tensor) -> Tensor:
    return x * TABLE["parts"][0] + 1


class Place:
    """A function, and how the tensor that it holds is read and replaced."""

    def __init__(
        self, fn: Callable[..., Any], get: Callable[[], Tensor], put: Callable[[Tensor], None]
    ) -> None:
        self.fn, self.get, self.put = fn, get, put


def in_global() -> Place:
    here = globals()
    here["GLOBAL"] = r(4)
    return Place(reads_global, lambda: here["GLOBAL"], lambda t: here.update(GLOBAL=t))


def in_dict() -> Place:
    TABLE["scale"] = r(4)
    return Place(reads_dict, lambda: TABLE["scale"], lambda t: TABLE.update(scale=t))


def in_nested_list() -> Place:
    parts = TABLE["parts"]
    parts[0] = r(4)
    return Place(reads_list_in_dict, lambda: parts[0], lambda t: parts.__setitem__(0, t))


def in_closure() -> Place:
    held = r(4)

    def fn(x: Tensor) -> Tensor:
        return x * held + 1

    def put(t: Tensor) -> None:
        nonlocal held
        held = t

    return Place(fn, lambda: held, put)


def in_list() -> Place:
    held = [r(3), r(4)]
    return Place(lambda x: x * held[1] + 1, lambda: held[1], lambda t: held.__setitem__(1, t))


def in_object() -> Place:
    held = types.SimpleNamespace(scale=r(4), other=3)
    return Place(
        lambda x: x * held.scale + 1, lambda: held.scale, lambda t: setattr(held, "scale", t)
    )


class Scaled:
    def __init__(self) -> None:
        self.scale = r(4)

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        return x * self.scale + 1


def in_method() -> Place:
    held = Scaled()
    return Place(held.run, lambda: held.scale, lambda t: setattr(held, "scale", t))


def in_helper() -> Place:
    held = Scaled()

    def helper(x: Tensor) -> Tensor:
        return x * held.scale

    return Place(lambda x: helper(x) + 1, lambda: held.scale, lambda t: setattr(held, "scale", t))


def in_partial() -> Place:
    held = [r(4)]

    def fn(scales: list[Tensor], x: Tensor) -> Tensor:
        return x * scales[0] + 1

    partial = functools.partial(fn, held)
    return Place(partial, lambda: held[0], lambda t: held.__setitem__(0, t))


class Module(torch.nn.Module):
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(r(4), requires_grad=False)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.shift


def in_parameter() -> Place:
    held = Module()

    def put(t: Tensor) -> None:
        held.weight = torch.nn.Parameter(t.detach(), requires_grad=t.requires_grad)

    return Place(held, lambda: held.weight, put)


def in_buffer() -> Place:
    held = Module()
    return Place(held, lambda: held.shift, lambda t: setattr(held, "shift", t))


def in_module_of_a_function() -> Place:
    inner = Module()
    held = torch.nn.Sequential(inner, torch.nn.ReLU())

    def put(t: Tensor) -> None:
        inner.weight = torch.nn.Parameter(t.detach(), requires_grad=t.requires_grad)

    return Place(lambda x: held(x) * 2, lambda: inner.weight, put)


PLACES = [
    in_global,
    in_dict,
    in_nested_list,
    in_closure,
    in_list,
    in_object,
    in_method,
    in_helper,
    in_partial,
    in_parameter,
    in_buffer,
    in_module_of_a_function,
]
each_place = pytest.mark.parametrize("make", PLACES, ids=[p.__name__ for p in PLACES])


def made(fn: Callable[..., Any], *args: Any) -> Program:
    with torch.no_grad():
        return partition(capture(fn, args))


def right(program: Program, fn: Callable[..., Any], *args: Any) -> None:
    with torch.no_grad():
        close(program.run(args, {}, floats(None)), fn(*args), 2e-5)


def key(fn: Callable[..., Any]) -> list[Any]:
    return list(state(fn)[0])


@each_place
def test_an_update_in_place_is_seen(make: Callable[[], Place]) -> None:
    place, x = make(), r(3, 4)
    program, before = made(place.fn, x), key(place.fn)
    assert not program.boundaries
    right(program, place.fn, x)
    with torch.no_grad():
        place.get().mul_(3).sub_(1)
    right(program, place.fn, x)
    assert program.captured.changed() is None
    assert key(place.fn) == before


@each_place
def test_another_tensor_of_the_same_layout_is_read(make: Callable[[], Place]) -> None:
    place, x = make(), r(3, 4)
    program, before = made(place.fn, x), key(place.fn)
    place.put(torch.full((4,), 5.0))
    right(program, place.fn, x)
    assert program.captured.changed() is None
    assert key(place.fn) == before


@each_place
def test_another_layout_is_noticed(make: Callable[[], Place]) -> None:
    place, x = make(), r(3, 4)
    program, before, old = made(place.fn, x), key(place.fn), place.get().detach()
    for new in (old.double(), old[:1].clone(), torch.stack([old, old], 1)[:, 0]):
        place.put(new)
        assert "another dtype, shape, strides" in str(program.captured.changed())
        assert key(place.fn) != before
        assert torch.equal(program.run((x,), {}, floats(None)), place.fn(x))
    place.put(old)
    assert program.captured.changed() is None
    assert key(place.fn) == before
    right(program, place.fn, x)


@each_place
def test_a_required_gradient_is_noticed(make: Callable[[], Place]) -> None:
    place, x = make(), r(3, 4)
    program, before = made(place.fn, x), key(place.fn)
    place.put(torch.ones(4).requires_grad_())
    assert "requires a gradient" in str(program.captured.changed())
    assert key(place.fn) != before
    assert program.run((x,), {}, floats(None)).requires_grad
    with torch.no_grad():
        assert "has changed" in str(program.captured.changed())
    with pytest.raises(RequiresGrad):
        capture(place.fn, (x,))


def test_a_tensor_that_is_gone() -> None:
    held = types.SimpleNamespace(scale=r(4))
    captured = capture(lambda x: x * held.scale, (r(3, 4),))
    del held.scale
    assert "has changed" in str(captured.changed())
    held.scale = 3.0
    assert "has changed" in str(captured.changed())


def test_tied_tensors_that_are_separated() -> None:
    held = types.SimpleNamespace(a=r(4))
    held.b = held.a

    def fn(x: Tensor) -> Tensor:
        return x * held.a + held.b

    tied, x = key(fn), r(3, 4)
    right(made(fn, x), fn, x)
    held.b = torch.ones(4)
    apart = key(fn)
    assert tied != apart
    right(made(fn, x), fn, x)
    held.b = held.a
    assert key(fn) == tied


def test_tied_parameters_that_are_separated() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(8, 4)
            self.head = torch.nn.Linear(4, 8, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, at: Tensor) -> Tensor:
            out: Tensor = self.head(self.embed(at))
            return out

    module, at = Tied(), torch.tensor([0, 3, 7])
    tied = key(module)
    right(made(module, at), module, at)
    module.head.weight = torch.nn.Parameter(r(8, 4))
    assert key(module) != tied
    right(made(module, at), module, at)


def test_plain_values_decide_the_program() -> None:
    held = types.SimpleNamespace(flag=True, factor=2.0)

    def fn(x: Tensor) -> Tensor:
        return x * held.factor if held.flag else x + 1

    seen = [key(fn)]
    for name, value in (("factor", 3.0), ("factor", 2), ("flag", False), ("factor", -0.0)):
        setattr(held, name, value)
        seen.append(key(fn))
    assert all(a != b for k, a in enumerate(seen) for b in seen[:k])


def test_literals_of_the_code() -> None:
    def scalar(x: Tensor) -> Tensor:
        return x * torch.tensor(2.5) + torch.tensor(1)

    def vector(x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 2.0, 3.0, 4.0])

    for fn in (scalar, vector):
        program = check(fn, r(3, 4))
        values = program.captured.values
        assert all(v.constant for v in values if isinstance(v, Live))
        assert program.captured.changed() is None


def test_integers_and_masks_are_followed_too() -> None:
    held = types.SimpleNamespace(at=torch.tensor([2, 0, 1]), mask=torch.tensor([True, False, True]))

    def fn(x: Tensor) -> Tensor:
        return x[held.at].masked_fill(held.mask[:, None], 0.5) * 2

    program, x = made(fn, r(3, 4)), r(3, 4)
    right(program, fn, x)
    held.at, held.mask = torch.tensor([0, 0, 2]), torch.tensor([False, False, True])
    right(program, fn, x)


def test_one_tensor_under_two_views() -> None:
    held = types.SimpleNamespace(w=r(6, 4))

    def fn(x: Tensor) -> Tensor:
        return x @ held.w[:3].T + F.linear(x, held.w[3:])

    program, x = made(fn, r(2, 4)), r(2, 4)
    right(program, fn, x)
    held.w = torch.ones(6, 4)
    right(program, fn, x)


def unreachable() -> Callable[..., Any]:
    table = {n: r(4) for n in range(300)}  # more than are looked at
    return lambda x: x * table[299]


def from_generator() -> Callable[..., Any]:
    held = iter([r(4)] * 64)
    return lambda x: x * next(held)


@pytest.mark.parametrize("make", [unreachable, from_generator])
def test_a_tensor_without_a_known_place_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(UnsupportedOperator, match="cannot be followed") as error:
        capture(make(), (r(3, 4),))
    assert error.value.fix


def test_modes_of_modules() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.ReLU()).eval()
    captured: Captured = capture(module, (r(3, 4),))
    assert captured.changed() is None
    module.train()
    assert "has changed" in str(captured.changed())
