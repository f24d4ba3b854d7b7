"""Where an operator stands in the user's source: the frames that export records, and their text."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx

UNKNOWN = "unknown place"
_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent), "<frozen")


def internal(filename: str) -> bool:
    """Whether a frame of this file is PyTorch's or ours, which is no use to the user."""
    return filename.startswith(_OURS) or filename.endswith(("/contextlib.py", "/functools.py"))


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    """While tracing inside, nodes record the innermost frame of the user's own code.

    PyTorch keeps only frames of functions called ``forward``, so a plain function would have no
    location at all. Where the hook no longer exists, locations are unknown, and nothing else.
    """
    from torch.fx.proxy import TracerBase

    original = getattr(TracerBase, "_filter_traceback_frames", None)
    if original is None:
        yield
        return

    @functools.wraps(original)
    def innermost(self: Any, summary: traceback.StackSummary) -> traceback.StackSummary:
        users = [frame for frame in summary if not internal(frame.filename)]
        return traceback.StackSummary.from_list(users[-1:])

    TracerBase._filter_traceback_frames = innermost  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        TracerBase._filter_traceback_frames = original  # type: ignore[method-assign]


def location(node: Any) -> str:
    """Where the user wrote an operator: ``file:line, in function: text``."""
    trace = node.meta.get("stack_trace") if isinstance(node, fx.Node) else None
    lines = [x.strip() for x in (trace or "").strip().splitlines() if x.strip()]
    frames = [k for k, x in enumerate(lines) if x.startswith("File ")]
    users = [k for k in frames if not internal(_file(lines[k]))] or frames
    if not users:
        return UNKNOWN
    text = lines[users[-1]].removeprefix("File ").replace('"', "").replace(", line ", ":")
    after = lines[users[-1] + 1] if users[-1] + 1 < len(lines) else ""
    return f"{text}: {after}" if after and not after.startswith(("File ", "^", "~")) else text


def _file(line: str) -> str:
    return line.removeprefix("File ").split('"')[1] if '"' in line else ""


def raised_at(error: BaseException) -> str:
    """The user's line under which an error arose: ``file:line, in function: text``, or nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if not internal(f.filename)]
    if not users:
        return ""
    return f"{users[-1].filename}:{users[-1].lineno}, in {users[-1].name}: {users[-1].line}"
