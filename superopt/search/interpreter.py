"""Settings of the Python interpreter while a search runs; they hold for the whole process."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Iterator

HANDOVER = 0.0005
"""Seconds after which a thread that computes lets another one run. The thread that gives tasks to
another process waits so long for its turn: at Python's 0.005 that process was idle a third of the
time."""

COLLECT = (100_000, 20, 100)
"""Thresholds of the garbage collector: a search makes millions of small objects, few in cycles."""

_lock = threading.Lock()
_running = 0
_before: tuple[float, tuple[int, int, int]] = (0.0, (0, 0, 0))


@contextlib.contextmanager
def tuned() -> Iterator[None]:
    """Sets them; the last of the searches that run at one time restores what was there."""
    global _running, _before
    with _lock:
        if not _running:
            _before = sys.getswitchinterval(), gc.get_threshold()
            sys.setswitchinterval(min(HANDOVER, _before[0]))
            if 0 < _before[1][0] < COLLECT[0]:  # neither off, nor rarer already
                gc.set_threshold(*COLLECT)
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                sys.setswitchinterval(_before[0])
                gc.set_threshold(*_before[1])
