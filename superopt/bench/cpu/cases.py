"""A case of the suite: a row at one size and dtype, how it is measured, and what is right in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from superopt.bench.cpu.document import KEYS, Need
from superopt.bench.inputs import short
from superopt.bench.suite import outputs, relative_error
from superopt.bench.workload import Params, Workload

SECONDS = 6.0
"""Timed wall time of a case, shared by its peers."""

FACTOR = 16.0
"""An output is correct when its error is at most this factor times eager's (or the dtype's eps): a
peer that rounds more coarsely than PyTorch is slower or faster, not wrong."""


@dataclass(frozen=True)
class Limits:
    """Seconds after which a process counts as hanging: at its start, in its setup, in one run."""

    start_s: float = 120.0
    setup_s: float = 300.0
    run_s: float = 30.0


@dataclass(frozen=True)
class Setting:
    """How cases are measured.

    options: those of superopt, by name; lock: see ``process.at_priority``; evict_bytes: touched
    before each cold run.
    """

    threads: int
    seconds: float = SECONDS
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, Any] = field(default_factory=dict)
    lock: Path | None = None
    evict_bytes: int = 64 << 20


@dataclass(frozen=True)
class Case:
    """A row of the suite at one size and dtype."""

    workload: Workload
    params: Params
    dtype: torch.dtype

    def __str__(self) -> str:
        sizes = ",".join(f"{k}={v}" for k, v in self.params.items())
        return f"{self.workload.name} {sizes} {short(self.dtype)}"

    def need(self) -> Need:
        """What it costs at least."""
        w, p = self.workload, self.params
        return Need(w.bytes(p, self.dtype), w.flops(p), w.exps(p))

    def blank(self, setting: Setting, peer: str) -> dict[str, Any]:
        """A row of it where nothing was measured yet."""
        known = {
            "workload": self.workload.name,
            "params": dict(self.params),
            "dtype": short(self.dtype),
            "threads": setting.threads,
            "peer": peer,
            "peer_version": "",
            "status": "not_measured",
            "reason": "not measured",
        }
        return {**dict.fromkeys(KEYS), **known, "info": {}}


def write_reference(case: Case, path: Path) -> float:
    """Writes the outputs in float64 to ``path``; the error that counts as correct."""
    fn, args = case.workload.reference, case.workload.inputs(case.params, case.dtype)
    wanted = outputs(fn(*(a.double() if a.is_floating_point() else a for a in args)))
    torch.save([w.contiguous() for w in wanted], path)
    eager = relative_error(outputs(fn(*args)), wanted) or 0.0
    return FACTOR * max(eager, torch.finfo(case.dtype).eps)
