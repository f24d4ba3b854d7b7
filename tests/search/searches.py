"""Searches of programs of the tests, in this process or in one that can be killed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from superopt.codegen.lower import why_not_lowerable
from superopt.cost.model import cost_on
from superopt.mugraph.graph import Graph
from superopt.search import driver
from superopt.search.checkpoint import Checkpoint
from tests.devices import known_device
from tests.programs import PROGRAMS
from tests.verify.test_sweep import deep

COST = cost_on(known_device(frozenset({"avx512f"}), 2))


def graph_of(name: str) -> Graph:
    """A program by name: one of ``tests.programs``, or ``deep3`` for three layers."""
    if name.startswith("deep"):
        return deep(int(name.removeprefix("deep")), False)
    return PROGRAMS[name]()


def searched(
    name: str, candidates: int | None = 60, seconds: float | None = None, **given: Any
) -> driver.Found:
    """One search."""
    budget = driver.Budget(seconds, candidates)
    return driver.search(graph_of(name), COST, budget, lowerable=why_not_lowerable, **given)


def digest(found: driver.Found) -> str:
    """All that a search found, and how it got there, but for the time it took."""
    stats = {k: v for k, v in found.stats.items() if k != "seconds" and not k.endswith("_s")}
    lines = [f"{c.seconds!r} {c.written} {c.mugraph}" for c in found.candidates]
    return hashlib.sha256("\n".join([*lines, str(stats), str(found.rejected)]).encode()).hexdigest()


def identity(name: str, candidates: int | None) -> dict[str, Any]:
    """What the checkpoint of such a search is of."""
    return {"program": name, "candidates": candidates}


def main() -> None:
    """``searches.py NAME CANDIDATES FILE``: searches with a checkpoint, and prints the digest."""
    name, candidates, path = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    checkpoint = Checkpoint(path, identity(name, candidates))
    found = searched(name, candidates, checkpoint=checkpoint)
    print(digest(found), checkpoint.resumed, flush=True)


if __name__ == "__main__":
    main()
