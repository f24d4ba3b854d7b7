"""A worker process of a search: reads tasks from its input, writes what came of them."""

from __future__ import annotations

import gc
import os
import pickle
import queue
import signal
import sys
import threading
import time
from typing import Any

from superopt.search.workers import GLANCE, Figures, Here, receive, send


def main() -> None:
    """Serves the process that started this one, until it ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints must not get into the answers
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    last = 0.0

    def note(figures: Figures) -> None:
        nonlocal last
        if time.monotonic() - last >= GLANCE:
            last = time.monotonic()
            send(out, ("note", figures))

    here = Here(note=note)
    from superopt.search import tasks  # noqa: F401  the long import, before it says that it is ready

    gc.freeze()  # what was imported stays, and is not looked at again
    send(out, ("ready", None))
    while True:
        kind, content = inbox.get()
        failed: Exception | None = None
        try:
            task, value = pickle.loads(content)
            result = task(here, value)
        except Exception as error:
            result, failed = None, error
        if kind == "run":
            send(out, ("done", result) if failed is None else ("error", _plain(failed)))


def _listen(inbox: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            inbox.put(receive(sys.stdin.buffer))
        except EOFError:
            os.kill(os.getpid(), signal.SIGKILL)  # nobody is left to answer


def _plain(error: Exception) -> Exception:
    """The error if it can be sent, else its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
