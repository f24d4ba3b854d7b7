"""The process of one peer: prepares a case, then runs it once whenever the coordinator asks.

It is started as ``python -m superopt.bench.cpu.worker FD`` and reads requests from that connection;
between them it sleeps. See ``answer`` for what it is asked.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superopt.bench.cpu import native
from superopt.bench.cpu.peers import Prepared, Rival, Skipped, Task, rival
from superopt.bench.cpu.rows import row
from superopt.bench.inputs import parse_dtype
from superopt.bench.suite import relative_error
from superopt.options import Options

QUIET_S = 0.012
"""Pause before a cold run: long enough for pools of threads that spin after a call to fall asleep."""

WARM_S = 0.010
"""Time that the warm runs of one request may take, beyond the first."""

WARM_RUNS = 20

MEMORY_SHARE = 3
"""A peer may hold one part in so many of the machine's memory."""


class Floor:
    """The worker that measures what the machine can do beside a case, in the same rotation."""

    def __init__(self, task: Task, probes: native.Probes, moved: int) -> None:
        self._task, self._probes = task, probes
        self._data = native.buffer(native.DRAM_BYTES)
        self._own = self._data[: max(4096, min(moved, native.DRAM_BYTES) // 4)]

    def run(self, evict: Callable[[], None]) -> dict[str, float]:
        """Bandwidths (cold: of memory; warm: of a buffer as large as the case), peaks, launches."""
        probes = self._probes
        time.sleep(QUIET_S)
        evict()
        launch_cold = probes.launch_s()
        launches = sorted(probes.launch_s() for _ in range(9))
        cold = probes.bandwidth(self._data, 2)
        warm = probes.bandwidth(self._own, 2 if self._own.numel() > 8 << 20 else 9)
        return {
            "bandwidth_cold": cold,
            "bandwidth_warm": max(cold, warm),
            "launch_cold_s": launch_cold,
            "launch_warm_s": launches[len(launches) // 2],
            "peak": probes.peak(self._task.dtype, 1),
            "exp_s": probes.exp_s(1),
        }


def once(run: Callable[[], Any], evict: Callable[[], None]) -> dict[str, Any]:
    """Times of one request: a run with cold caches and sleeping pools, then some warm ones."""
    clock = time.perf_counter
    time.sleep(QUIET_S)
    evict()
    t0 = clock()
    out = run()
    cold = clock() - t0
    warm: list[float] = []
    while not warm or (sum(warm) < WARM_S and len(warm) < WARM_RUNS):
        del out  # freed outside the timed part
        t0 = clock()
        out = run()
        warm.append(clock() - t0)
    del out
    return {"cold": cold, "warm": warm}


class Worker:
    """A peer with the case that it was given last."""

    def __init__(self) -> None:
        self._prepared: Prepared | None = None
        self._task: Task | None = None  # kept: peers hold addresses of its tensors
        self._floor: Floor | None = None
        self._reference: tuple[Tensor, ...] = ()
        self._evict: Callable[[], None] = lambda: None

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a request is answered with; its key "do" says what is wanted.

        prepare: makes a case ready, and gives its errors against the reference; run: times (see
        ``once``, ``Floor.run``); check: the errors once more.
        """
        if asked["do"] == "prepare":
            return self._prepare(asked)
        if asked["do"] == "run":
            if self._floor is not None:
                return {"floor": self._floor.run(self._evict)}
            return {"times": {n: once(r, self._evict) for n, r in self._ready().runs.items()}}
        return {"errors": self._errors()}

    def _ready(self) -> Prepared:
        if self._prepared is None:
            raise RuntimeError("nothing was prepared")
        return self._prepared

    def _prepare(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        workload, dtype = row(asked["workload"]), parse_dtype(asked["dtype"])
        threads = int(asked["threads"])
        torch.set_num_threads(threads)
        probes = native.Probes(Path(asked["probes"]), threads)
        self._evict = lambda: probes.evict(int(asked["evict_bytes"]))
        args = () if asked["peer"] == "floor" else workload.inputs(asked["params"], dtype)
        options = Options.of(**asked["options"])
        task = self._task = Task(workload, asked["params"], dtype, args, threads, options)
        if asked["peer"] == "floor":
            self._floor = Floor(task, probes, int(asked["bytes"]))
            return {"status": "ok"}
        peer: Rival = rival(asked["peer"])
        if reason := peer.unfit(dtype):
            return {"status": "skipped", "reason": reason, "version": peer.version()}
        for module in peer.needs:
            importlib.import_module(module)
        self._reference = tuple(torch.load(asked["reference"], weights_only=True, mmap=True))
        begun = time.perf_counter()
        try:
            self._prepared = peer.prepare(task)
            errors = self._errors()  # the first run, which may compile, belongs to the setup
        except Skipped as error:
            return {"status": "skipped", "reason": str(error), "version": peer.version()}
        except Exception as error:
            return {"status": "failed", "reason": _said(error), "version": peer.version()}
        return {
            "status": "ok",
            "version": peer.version(),
            "setup_s": time.perf_counter() - begun,
            "errors": errors,
            "info": dict(self._prepared.info),
        }

    def _errors(self) -> dict[str, Any]:
        """Of each run: its error, "unchecked", or "differs" where it cannot be compared."""
        prepared, found = self._ready(), dict[str, Any]()
        for name, run in prepared.runs.items():
            got = prepared.outputs(run())
            if not prepared.checked:
                found[name] = "unchecked"
                continue
            error = relative_error(got, self._reference)
            found[name] = "differs" if error is None else error
        return found


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


def _limit_memory() -> None:
    """Bounds what this process and those it starts may hold (where the system lets it)."""
    with contextlib.suppress(ValueError, OSError):
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_DATA, (whole // MEMORY_SHARE, whole // MEMORY_SHARE))


@torch.no_grad()
def main(fd: int) -> None:
    """Serves the connection until it is closed."""
    _limit_memory()
    channel, worker = Connection(fd), Worker()
    gc.disable()
    channel.send_bytes(json.dumps({"ready": True}).encode())
    while True:
        try:
            asked = json.loads(channel.recv_bytes())
        except EOFError:
            return
        try:
            given = worker.answer(asked)
        except Exception as error:
            given = {"status": "failed", "reason": _said(error)}
        gc.collect()
        if asked["do"] == "prepare":
            gc.freeze()  # what stays is not looked at again after each run
        channel.send_bytes(json.dumps(given).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
