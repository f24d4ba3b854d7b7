"""Functions of a module that is imported when one of them is first called.

The tables name PyTorch's functions as the float meaning of their rows. A process that searches
needs the rows and never runs them, and PyTorch takes longer to import than many a search.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Late:
    """A module, or what it holds under a dotted path; called, it is looked up and called."""

    module: str
    path: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Late:
        if name.startswith("__"):
            raise AttributeError(
                name
            )  # what copies, pickles or inspects asks for more than there is
        return Late(self.module, (*self.path, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _found(self)(*args, **kwargs)


@functools.cache
def _found(late: Late) -> Callable[..., Any]:
    found: Any = importlib.import_module(late.module)
    for name in late.path:
        found = getattr(found, name)
    return found
