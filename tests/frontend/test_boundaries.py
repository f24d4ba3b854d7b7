"""What stays in PyTorch: which operators, the reasons given, the lines named, and what is refused."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from superopt.errors import MutatesInput, SuperoptError, UnsupportedOperator
from superopt.frontend.capture import capture
from superopt.frontend.partition import Program, partition
from tests.frontend.harness import check, program

Tensor = torch.Tensor
HERE = Path(__file__).name


def r(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def line_of(fn: Callable[..., Any]) -> tuple[int, str]:
    """The number and text of the line of a function that is marked ``# here``."""
    lines, first = inspect.getsourcelines(fn)
    (at,) = [k for k, text in enumerate(lines) if text.rstrip().endswith("# here")]
    return first + at, lines[at].split("#")[0].strip()


def names_line(where: str, fn: Callable[..., Any]) -> None:
    number, text = line_of(fn)
    assert f"{HERE}:{number}" in where, where
    assert f"in {fn.__name__}" in where, where
    assert text in where, where


def conv(x: Tensor, w: Tensor) -> Tensor:
    y = torch.relu(x * 2)
    z = F.conv2d(y, w)  # here
    return z.sigmoid() + 1


def conv1d(x: Tensor, w: Tensor) -> Tensor:
    y = x.exp() * 2
    z = F.conv1d(y, w)  # here
    return z - z.mean()


def max_pool(x: Tensor) -> Tensor:
    y = torch.relu(x * 2)
    z = F.max_pool2d(y, 3, 1, 1)  # here
    return z.sigmoid() + 1


def avg_pool(x: Tensor) -> Tensor:
    y = torch.relu(x * 2)
    z = F.avg_pool2d(y, 3, 1, 1)  # here
    return z.sigmoid() + 1


def topk(x: Tensor) -> Tensor:
    y = x * 2 + 1
    values, _ = torch.topk(y, 2)  # here
    return values.softmax(-1)


def argmax(x: Tensor) -> Tensor:
    y = x * 2 + 1
    at = y.argmax(-1)  # here
    return y * (at[:, None] > 1)


def sort(x: Tensor) -> Tensor:
    y = x * 2 + 1
    values = torch.sort(y, -1).values  # here
    return values.softmax(-1)


def cumsum(x: Tensor) -> Tensor:
    y = x * 2 + 1
    z = torch.cumsum(y, 0)  # here
    return (z + 1) * 3


def scatter(x: Tensor, at: Tensor) -> Tensor:
    y = x * 2 + 1
    z = y.scatter(1, at, 0.5)  # here
    return z.softmax(-1)


def noise(x: Tensor) -> Tensor:
    y = x * 2 + 1
    z = torch.randn_like(y)  # here
    return y + z * 0.0


AT = torch.tensor([[0, 3, 1], [2, 2, 1]])

KEPT: list[tuple[Callable[..., Any], str, tuple[Any, ...]]] = [
    (conv, "conv2d", (r(1, 2, 5, 5), r(3, 2, 3, 3))),
    (conv1d, "conv1d", (r(1, 2, 7), r(3, 2, 3))),
    (max_pool, "max_pool2d", (r(1, 2, 4, 4),)),
    (avg_pool, "avg_pool2d", (r(1, 2, 4, 4),)),
    (topk, "topk", (r(3, 4),)),
    (argmax, "argmax", (r(3, 4),)),
    (sort, "sort", (r(3, 4),)),
    (cumsum, "cumsum", (r(3, 4),)),
    (scatter, "scatter", (r(2, 4), AT)),
    (noise, "randn_like", (r(3, 4),)),
]


@pytest.mark.parametrize("case", KEPT, ids=[c[1] for c in KEPT])
def test_what_is_around_a_boundary_is_converted(case: Any) -> None:
    fn, op, args = case
    made = check(fn, *args, boundaries=(op,))
    (boundary,) = made.boundaries
    names_line(boundary.where, fn)
    assert boundary.reason
    assert boundary.reason != "None"
    # Both sides of the operator are graphs.
    assert len(made.supported) == 2, made.pieces


def test_dropout() -> None:
    def train(x: Tensor) -> Tensor:
        y = x * 2 + 1
        z = F.dropout(y, 0.5, True)  # here
        return z.sigmoid()

    made = program(train, r(4, 8))
    (boundary,) = made.boundaries
    assert boundary.op == "dropout"
    assert "random" in boundary.reason
    names_line(boundary.where, train)
    assert len(made.supported) == 2
    check(lambda x: F.dropout(x * 2, 0.5, False) + 1, r(4, 8))
    check(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Dropout(0.5)).eval(), r(4, 8))


def test_dropout_draws_anew_at_each_call() -> None:
    made = program(lambda x: F.dropout(x * 2, 0.5, True) + 1, torch.ones(64))

    def run() -> Tensor:
        out: Tensor = made.run((torch.ones(64),), {}, lambda p, xs: p.eager(*xs))
        return out

    torch.manual_seed(0)
    first, second = run(), run()
    torch.manual_seed(0)
    assert torch.equal(first, run())
    assert not torch.equal(first, second)


def add_(x: Tensor) -> Tensor:
    x.add_(1)  # here
    return x * 2


def assigns(x: Tensor) -> Tensor:
    x[0] = 1.0  # here
    return x * 2


def through_view(x: Tensor) -> Tensor:
    x.view(-1)[1:].mul_(2)  # here
    return x.sum()


def relu_(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True) + 1  # here


@pytest.mark.parametrize("fn", [add_, assigns, through_view, relu_])
def test_writes_to_an_input_are_refused(fn: Callable[..., Any]) -> None:
    x = r(3, 4)
    before = x.clone()
    with pytest.raises(MutatesInput) as error:
        program(fn, x)
    names_line(error.value.where, fn)
    assert error.value.what
    assert error.value.fix
    assert torch.equal(x, before)


def test_writes_to_a_held_tensor_are_refused() -> None:
    class Counts(torch.nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(x.sum(0))  # here
            return x * 2

    with pytest.raises(MutatesInput) as error:
        program(Counts(), r(3, 4))
    number, text = line_of(Counts.forward)
    assert f"{HERE}:{number}" in error.value.where
    assert text in error.value.where


def test_writes_to_own_values_are_converted() -> None:
    def own(x: Tensor) -> Tensor:
        y = x * 2
        y.add_(1).relu_()
        y[0] = 3.0
        y[:, 1:3] *= 2
        return y.softmax(-1)

    def filled(x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[1:] = x[1:] * 2
        return out

    for fn in (own, filled):
        made = check(fn, r(3, 4))
        assert made.supported


def whole(x: Tensor) -> Any:
    return x, x.exp() * 2


def viewed(x: Tensor) -> Any:
    return x.exp() * 2, x.view(-1)  # here


def sliced(x: Tensor) -> Any:
    y = x.exp() * 2
    return y + 1, x[1:].transpose(0, 1), y.sum()


def same_dtype(x: Tensor) -> Any:
    return x * 2, x.to(torch.float32)


def part(x: Tensor) -> Any:
    return [x.sigmoid(), *x.split(2, 1)]


ALIASES = {
    whole: (),
    viewed: ("view",),
    sliced: ("slice", "transpose"),
    same_dtype: ("to",),
    part: ("split",),
}


@pytest.mark.parametrize("fn", ALIASES, ids=lambda f: f.__name__)
def test_outputs_that_alias_inputs_still_do(fn: Callable[..., Any]) -> None:
    made = check(fn, r(3, 4), boundaries=ALIASES[fn])
    assert len(made.supported) == 1  # what is computed stays in one piece
    x = r(3, 4)
    got, want = (
        pytree.tree_leaves(out) for out in (made.run((x,), {}, lambda p, xs: p.eager(*xs)), fn(x))
    )
    places = [[t.data_ptr() for t in out] for out in (got, want)]
    inside = range(x.data_ptr(), x.data_ptr() + 48)
    assert [p if p in inside else 0 for p in places[0]] == [
        p if p in inside else 0 for p in places[1]
    ]
    assert any(p in inside for p in places[0])
    for boundary in made.boundaries:
        assert "alias" in boundary.reason
    if fn is viewed:
        names_line(made.boundaries[0].where, fn)


def test_a_held_tensor_that_is_returned_is_the_one_that_is_held() -> None:
    held = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def fn(x: Tensor) -> Any:
        return x * 2, held

    made = program(fn, r(3, 4))
    with torch.no_grad():
        got = made.run((r(3, 4),), {}, lambda p, xs: p.eager(*xs))
    assert got[1] is held  # found where the function finds it


def test_outputs_that_alias_each_other_still_do() -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        return y, y.view(-1)

    made = check(both, r(3, 4), boundaries=("view",))
    a, b = made.run((r(3, 4),), {}, lambda p, xs: p.eager(*xs))
    assert a.data_ptr() == b.data_ptr()
    assert "alias" in made.boundaries[0].reason


@pytest.mark.parametrize("shape", [(2, 2), (2, 7), (3, 4), (40, 30)])
def test_transposed_views_of_an_output(shape: tuple[int, ...]) -> None:
    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.exp() * 2
        return y, y.T

    check(fn, r(*shape), boundaries=("numpy_T",))
    check(fn, r(*shape).T, boundaries=("numpy_T",))


def branches(x: Tensor) -> Tensor:
    y = x * 2
    if y.sum() > 0:  # here
        return y
    return -y


def loops(x: Tensor) -> Tensor:
    y = x * 1
    while bool((y > 1).any()):  # here
        y = y / 2
    return y


@pytest.mark.parametrize("fn", [branches, loops])
def test_control_flow_that_depends_on_data_is_refused(fn: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedOperator) as error:
        program(fn, r(3, 4))
    assert "control flow" in error.value.what
    names_line(error.value.where, fn)


def test_branches_on_shapes_and_flags_are_followed() -> None:
    def fn(x: Tensor, double: bool = False) -> Tensor:
        y = x * 2 if double else x + 1
        return y.sum(0) if x.shape[0] > 2 else y

    for args in ((r(3, 4),), (r(2, 4),), (r(3, 4), True)):
        check(fn, *args)


def test_a_number_read_out_of_a_tensor() -> None:
    def fn(x: Tensor) -> Tensor:
        scale = x.sum().item()
        return x.exp() * scale

    try:
        made: Program = partition(capture(fn, (r(3, 4),)))
    except SuperoptError as error:
        assert isinstance(error, UnsupportedOperator)
        assert HERE in error.where
        return
    assert {"item", "_local_scalar_dense"} & {b.op for b in made.boundaries}
    for x in (r(3, 4), r(3, 4) + 1):
        got = made.run((x,), {}, lambda p, xs: p.eager(*xs))
        assert torch.allclose(got, fn(x))


def test_several_boundaries_each_name_their_line() -> None:
    def fn(x: Tensor) -> Tensor:
        y = (x * 2).cumsum(0)
        return (y + 1).sort(-1).values * 3

    made = check(fn, r(3, 4), boundaries=("cumsum", "sort"))
    places = [int(re.search(rf"{HERE}:(\d+)", b.where)[1]) for b in made.boundaries]  # type: ignore[index]
    assert places[1] == places[0] + 1
    assert len(made.supported) == 3


def test_lines_of_modules_and_helpers() -> None:
    class Block(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return cumsum(x.exp())

    (boundary,) = check(Block(), r(3, 4), boundaries=("cumsum",)).boundaries
    names_line(boundary.where, cumsum)
