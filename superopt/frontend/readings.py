"""Hears when tracing turns the value of a tensor that the function holds into a constant.

Where code reads such a tensor as a number (``item``, ``float``, ``tolist``, a bound of a slice),
torch.export puts the number of that day into the program.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from superopt.errors import UnsupportedOperator
from superopt.frontend.leftovers import stand_in
from superopt.frontend.where import internal

_NUMBER = torch.ops.aten._local_scalar_dense.default

_WHOLE = frozenset(
    getattr(torch.Tensor, name) for name in ("tolist", "numpy", "__array__", "__repr__")
)
"""Methods that read all values without an operator."""


class _Numbers(TorchDispatchMode):
    """Notes where a real tensor, and no stand-in of the trace, becomes a number."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is _NUMBER and not stand_in(args[0]):
            self.found.append(_users_line())
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Notes where all values of a real tensor are read."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _WHOLE and not stand_in(args[0]):
            self.found.append(_users_line())
        return func(*args, **(kwargs or {}))


@contextmanager
def heard(name: str) -> Iterator[None]:
    """Raises UnsupportedOperator for a block in which the values of real tensors were read."""
    found: list[str] = []
    with _Lists(found), _Numbers(found):
        yield
    if found:
        raise UnsupportedOperator(
            "the function reads the value of a tensor that it holds as a number",
            found[0] or name,
            "keep it as a number, or compute with the tensor itself",
        )


def _users_line() -> str:
    users = [f for f in traceback.extract_stack() if not internal(f.filename)]
    return f"{users[-1].filename}:{users[-1].lineno}: {users[-1].line}" if users else ""
