"""superopt: a tensor-program superoptimizer and kernel compiler for PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superopt.api import Certificate, equivalent, superoptimize

__all__ = ["Certificate", "__version__", "equivalent", "superoptimize"]


def __getattr__(name: str) -> Any:
    # The engine is loaded when it is used, so that importing the package stays cheap.
    if name in ("Certificate", "equivalent", "superoptimize"):
        from superopt import api

        return getattr(api, name)
    if name == "__version__":
        from superopt.config import version

        return version()
    raise AttributeError(f"module 'superopt' has no attribute {name!r}")
