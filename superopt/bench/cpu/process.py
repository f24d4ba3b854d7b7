"""The coordinator's side of a peer's process: starts it, asks it, and ends it, within limits."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Gone(Exception):
    """A process that died or did not answer in time; the message says which."""


class Process:
    """One peer's process, which sleeps in a blocking read until it is asked."""

    def __init__(self, label: str, environment: Mapping[str, str], threads: int) -> None:
        self.label = label
        self._channel, theirs = Pipe()
        self._log = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed with the process
            prefix=f"superopt-bench-{label.replace(':', '.')}-", suffix=".log"
        )
        given = {k: v.format(threads=threads) for k, v in environment.items()}
        paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "superopt.bench.cpu.worker", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            # A session of its own: what it starts (compilers) ends with it.
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": paths,
                **dict.fromkeys(_THREADS, str(threads)),
                **given,
            },
        )
        theirs.close()

    def ready(self, seconds: float) -> None:
        """Waits until it can be asked; Gone if it never can."""
        self._receive(seconds, "start")

    def ask(self, do: str, seconds: float, **more: Any) -> dict[str, Any]:
        """Its answer to a request; Gone if it dies, or has not answered after ``seconds``."""
        try:
            self._channel.send_bytes(json.dumps({"do": do, **more}).encode())
        except OSError as error:
            raise self._died(do) from error
        return self._receive(seconds, do)

    def _receive(self, seconds: float, what: str) -> dict[str, Any]:
        try:
            if not self._channel.poll(seconds):
                self.end()
                raise Gone(f"no answer within {seconds:.0f} s ({what})")
            answer: dict[str, Any] = json.loads(self._channel.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._died(what) from error
        return answer

    def _died(self, what: str) -> Gone:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        status = self._process.returncode
        how = f"status {status}"
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-status).name
        last = self._last_line()
        self.end()
        return Gone(f"its process died ({what}, {how}){': ' + last if last else ''}"[:300])

    def _last_line(self) -> str:
        try:
            text = Path(self._log.name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def threads(self) -> list[int]:
        """The system's numbers of its threads; none once it is gone."""
        try:
            return [int(t) for t in os.listdir(f"/proc/{self._process.pid}/task")]
        except OSError:
            return []

    def end(self) -> None:
        """Ends it and all that it started."""
        with contextlib.suppress(OSError):
            self._channel.close()
        if self._process.poll() is None:
            # It leaves by itself when its connection closes, unless it hangs.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


@contextlib.contextmanager
def at_priority(processes: Sequence[Process], lock: Path | None) -> Iterator[None]:
    """Holds ``lock`` and real-time priority for the processes meanwhile; nothing without a lock.

    For a machine with other work on it: whoever else measures takes the same lock. Where priorities
    may not be set, the lock alone is held.
    """
    if lock is None:
        yield
        return
    # Not filelock: it may remove the file, which others lock by the same system call.
    with open(lock, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _schedule(processes, os.SCHED_FIFO, 50)
        try:
            yield
        finally:
            _schedule(processes, os.SCHED_OTHER, 0)


def _schedule(processes: Sequence[Process], policy: int, priority: int) -> None:
    numbers = [t for p in processes for t in p.threads()]
    for number in (*numbers, 0):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(number, policy, os.sched_param(priority))
