"""What is said of a result that no kernel can give, and of what is no function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from superopt import superoptimize
from superopt.errors import Miscaptured, WrongType
from superopt.frontend.observe import confirm
from tests.api.programs import assert_same
from tests.api.test_fallback import cumulative, only

SHARED_CACHE = True

Warnings = Callable[[], list[str]]


NO_TENSOR: dict[str, Callable[[torch.Tensor], object]] = {
    "it gives None": lambda x: None,
    "type int": lambda x: 3,
    "type tuple": lambda x: (None, None),
    "type Size": lambda x: x.shape,
}


@pytest.mark.parametrize("said", NO_TENSOR)
def test_a_result_without_a_tensor(said: str, warnings: Warnings) -> None:
    fn, x = NO_TENSOR[said], torch.randn(3, 5)
    assert superoptimize(fn)(x) == fn(x)
    only(warnings(), "nothing in the program can be optimized", said, "no tensor that it computes")


def test_an_operator_that_is_not_supported_is_named_alone(warnings: Warnings) -> None:
    superoptimize(cumulative)(torch.randn(3, 5))
    only(warnings(), "cumsum")
    assert "no tensor that" not in warnings()[0]


@pytest.mark.parametrize(
    "fn", [lambda x: (x * 2, x.shape), lambda x: {"a": [x * 2], "b": (x.size(),)}]
)
def test_a_torch_size_in_the_result(
    fn: Callable[[torch.Tensor], object], warnings: Warnings
) -> None:
    out = superoptimize(fn)(torch.randn(3, 5))
    sizes = out["b"][0] if isinstance(out, dict) else out[1]  # type: ignore[index]
    assert type(sizes) is torch.Size
    only(warnings(), "the result holds a torch.Size", "tuple(x.shape)")
    assert "how it is run" not in warnings()[0]


@pytest.mark.parametrize(
    ("got", "want", "said"),
    [
        ((1, [2]), (1, (2,)), "type list where the function gives type tuple"),
        ((1, 2), (1, [2]), "type int where the function gives type list"),
        ([1, 2], [1, 2, 3], "type list of 2 where the function gives one of 3"),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, "type dict of other names"),
    ],
)
def test_where_two_structures_part(got: object, want: object, said: str) -> None:
    with pytest.raises(Miscaptured, match=f"another structure: {said}"):
        confirm(got, want, "fn")


@pytest.mark.parametrize("given", [None, "30s", 3, torch.nn.Linear])
def test_what_is_no_function_is_refused(given: object) -> None:
    with pytest.raises(WrongType, match=r"takes a function, not .*budget="):
        superoptimize(given)  # type: ignore[arg-type]
    with pytest.raises(WrongType):
        superoptimize(strict=True)(given)


def test_options_alone_make_a_decorator() -> None:
    x = torch.randn(3, 5)
    for decorator in (superoptimize(), superoptimize(budget="50c", fallbacks=())):
        assert_same(decorator(torch.relu)(x), torch.relu(x))
