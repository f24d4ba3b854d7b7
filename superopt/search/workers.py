"""Who does the work of a search: this process alone, or with processes on its other cores.

A task is a function of a module, called with a ``Here`` (what its worker keeps between tasks) and
one value. ``tell`` runs one on every worker, ``map`` one for each value on any worker; results come
in the order of the values, so nothing depends on who did what. Processes and not threads, as all
but the enumeration is Python. ``ray_workers`` has the same interface over a Ray cluster.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from superopt import trace

Figures = dict[str, float]
Note = Callable[[int, Figures], None]
"""Called with the number of a value and how far its task is."""

T = TypeVar("T")
R = TypeVar("R")

EARNED = 0.4
"""Seconds of work after which other processes are started: they take about as long to be ready."""

LARGE = 100
"""Nodes of the programs of one search above which they are started at once."""

GLANCE = 0.1
"""Seconds between two looks at how far the others are."""


@dataclass
class Here:
    """What one worker keeps between tasks, and whom its task tells how far it is."""

    kept: dict[str, Any] = field(default_factory=dict)
    note: Callable[[Figures], None] = lambda _: None


Task = Callable[[Here, Any], Any]


class Serial:
    """All tasks in this process, one after another."""

    count = 1
    remote = False  # whether they may be on other machines

    def __init__(self) -> None:
        self.here = Here()

    def tell(self, task: Task, value: Any) -> None:
        """Runs ``task(here, value)`` on every worker, before whatever is asked for later."""
        task(self.here, value)

    def map(self, task: Callable[[Here, T], R], values: Sequence[T], note: Note) -> list[R]:
        """``task(here, value)`` for each value; what a task raises is raised here."""
        return [self._run(task, value, k, note) for k, value in enumerate(values)]

    def _run(self, task: Callable[[Here, T], R], value: T, k: int, note: Note) -> R:
        self.here.note = lambda figures: note(k, figures)
        return task(self.here, value)

    def expect(self, nodes: int) -> None:
        """Says that a search over programs of so many nodes is coming, so that others can start."""

    def rest(self) -> None:
        """Frees what is here for a search alone; it is over, and other work may follow."""
        self.here.kept.clear()

    def close(self) -> None:
        """Ends the workers."""

    def __enter__(self) -> Serial:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Processes(Serial):
    """This process and ``count - 1`` others on the same machine.

    The others start once there is enough to do, and are told then what they missed. A lost one (the
    system may kill it for memory) costs a warning: its task is done again here.
    """

    def __init__(self, count: int, earned: float = EARNED) -> None:
        super().__init__()
        self.count = count
        self._earned = earned
        self._told: list[bytes] = []
        self._forgotten = 0  # entries of _told that every child has been told, and that are gone
        self._children: list[_Child] = []
        self._alone = count < 2

    def tell(self, task: Task, value: Any) -> None:
        """Runs the task here now, and on the others before their next one."""
        super().tell(task, value)
        if self._alone:
            return
        try:
            self._told.append(pickle.dumps((task, value)))
        except Exception as error:  # a function of a test, or of somebody's own cost model
            trace.log("search", f"one process: the search cannot be sent to others ({error})")
            self.close()

    def map(self, task: Callable[[Here, T], R], values: Sequence[T], note: Note) -> list[R]:
        """The values are taken one by one by whoever is free, this process among them."""
        job = _Job(task, values, note, self._told, self._forgotten)
        for child in self._children:
            child.jobs.put(job)
        try:
            while (k := job.take()) is not None:
                begun = time.perf_counter()
                if self._earned <= 0 and k + 1 < len(values):
                    self._start(job)
                job.results[k] = self._run(task, values[k], k, note)
                self._earned -= time.perf_counter() - begun
            while not job.wait(GLANCE):
                note(-1, {})
            for k in job.lost:
                job.results[k] = self._run(task, values[k], k, note)
        finally:
            job.stop()
        self._forget()
        if job.error is not None:
            raise job.error
        return job.results

    def expect(self, nodes: int) -> None:
        """Starts the others if there will be enough to do."""
        if nodes > LARGE:
            self._earned = 0
            self._start()

    def _start(self, *jobs: _Job) -> None:
        """Starts the others, unless they are there, and gives them a job that has begun."""
        if self._alone or self._children:
            return
        try:
            for k in range(1, self.count):
                self._children.append(_Child(k))
                for job in jobs:
                    self._children[-1].jobs.put(job)
        except (OSError, TypeError, ValueError) as error:  # Python is embedded, say
            trace.log("search", f"one process: no other can be started ({error})")
            self.close()

    def _forget(self) -> None:
        """Drops what every child has been told; one that was lost is told no more."""
        if self._children and all(c.lost for c in self._children):
            self.close()
        done = min((c.told for c in self._children if not c.lost), default=self._forgotten)
        del self._told[: done - self._forgotten]
        self._forgotten = done

    def rest(self) -> None:
        """The other processes are there for the search."""
        super().rest()
        self.close()

    def close(self) -> None:
        """Kills the other processes, whatever they do."""
        for child in self._children:
            child.kill()
        self._children, self._alone = [], True
        self._told.clear()


class _Job:
    """One call of ``map``: which values are still to be taken, and what came of the others."""

    def __init__(
        self, task: Task, values: Sequence[Any], note: Note, told: list[bytes], offset: int
    ) -> None:
        self.task, self.values, self.note = task, values, note
        self.news, self.offset = tuple(told), offset
        self.results: list[Any] = [None] * len(values)
        self.lost: list[int] = []
        self.error: BaseException | None = None
        self._next = itertools.count()
        self._away = 0
        self._over = False
        self._change = threading.Condition()

    def take(self) -> int | None:
        """The number of a value that nobody has taken, or None."""
        k = next(self._next)
        return k if k < len(self.values) and not self._over else None

    def lend(self) -> int | None:
        """``take`` for another process: ``back`` or ``gone`` must follow."""
        with self._change:
            k = self.take()
            self._away += k is not None
            return k

    def back(self, k: int, result: Any, error: BaseException | None) -> None:
        """What another process made of value ``k``."""
        with self._change:
            self.results[k] = result
            self.error = self.error or error
            self._over = self._over or error is not None
            self._away -= 1
            self._change.notify_all()

    def gone(self, k: int) -> None:
        """The process that had value ``k`` is lost."""
        with self._change:
            self.lost.append(k)
            self._away -= 1
            self._change.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether all that was taken is done, after at most so many seconds."""
        with self._change:
            return self._change.wait_for(lambda: self._away == 0, seconds)

    def stop(self) -> None:
        """Nothing more is taken."""
        self._over = True


class _Child:
    """Another process, and the thread of this one that gives it its tasks."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.told = 0
        self.lost = False
        # Not multiprocessing: it imports the user's script again, and a fork of a process with
        # threads can hang.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from superopt.search.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if trace.enabled("search", 3) else subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            start_new_session=True,  # Ctrl-C is for this process, which ends the others
        )
        threading.Thread(target=self._serve, name=f"superopt-{number}", daemon=True).start()

    def _serve(self) -> None:
        try:
            receive(self.process.stdout)  # it is ready
        except EOFError:
            self._lose("it did not start")
        while (job := self.jobs.get()) is not None:
            while not self.lost and (k := job.lend()) is not None:
                try:
                    self._do(job, k)
                except Exception as error:
                    job.gone(k)
                    self._lose(str(error) or "it ended")
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _lose(self, why: str) -> None:
        if not self.lost:
            trace.warn_once("search", f"a worker process was lost ({why}); its work is done here")
        self.lost = True

    def _do(self, job: _Job, k: int) -> None:
        for message in job.news[max(self.told - job.offset, 0) :]:
            send(self.process.stdin, ("tell", message))
        self.told = job.offset + len(job.news)
        send(self.process.stdin, ("run", pickle.dumps((job.task, job.values[k]))))
        while True:
            kind, content = receive(self.process.stdout)
            if kind == "note":
                job.note(k, content)
            else:
                job.back(k, *((content, None) if kind == "done" else (None, content)))
                return

    def kill(self) -> None:
        """Ends it at once."""
        self.lost = True
        self.jobs.put(None)
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()


def send(pipe: Any, message: Any) -> None:
    """Writes one message: its length, then its pickle."""
    data = pickle.dumps(message)
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()


def receive(pipe: Any) -> Any:
    """Reads one message; EOFError when the other side has ended."""
    head = pipe.read(8)
    size = int.from_bytes(head, "little")
    data = pipe.read(size) if len(head) == 8 else b""
    if not data or len(data) < size:
        raise EOFError
    return pickle.loads(data)


def workers(where: str, count: int) -> Serial:
    """The workers that are asked for: ``ray``, ``ray:ADDRESS``, or ``count`` processes for anything else.

    Raises NoCluster where Ray is not installed, or no cluster answers.
    """
    if where.partition(":")[0] == "ray":
        from superopt.search.ray_workers import RayWorkers

        return RayWorkers(where.partition(":")[2] or None)
    return Processes(count) if count > 1 else Serial()


__all__ = ["Here", "Processes", "Serial", "workers"]
