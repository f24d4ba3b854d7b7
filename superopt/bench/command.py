"""What ``superopt bench`` runs for each suite, and how its results are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superopt.config import Options
from superopt.errors import BadOption

Progress = Callable[[int, int, str], None]
Shown = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Wishes:
    """The options of the command; None is what the suite takes by itself."""

    suite: str
    peers: Sequence[str] | None
    dtypes: Sequence[str] | None
    json_path: Path | None
    only: Sequence[str]
    threads: int | None
    seconds: float | None
    max_block_ops: int | None
    states: int
    share: float | None
    warm: bool
    resume: bool
    budget: str
    fallbacks: Sequence[str]
    ours: bool
    lock: Path | None


def run(wishes: Wishes, progress: Progress) -> tuple[dict[str, Any], Shown, bool]:
    """The suite's document, what prints it, and False where that is a failure of the command.

    Raises BadOption for an option that the suite does not know, and what the suite raises.
    """
    if wishes.resume and wishes.json_path is None:
        raise BadOption("nothing to resume from", "option --resume", "give --json FILE too")
    _known(wishes, wishes.share is not None, "--share", "verify")
    _known(wishes, wishes.max_block_ops is not None, "--max-block-ops", "search")
    _known(wishes, wishes.lock is not None, "--lock", "cpu")
    suites = {"search": _search, "verify": _verify, "cpu": _cpu, "launch": _launch}
    return suites.get(wishes.suite, _times)(wishes, progress)


def _known(wishes: Wishes, given: bool, option: str, suite: str) -> None:
    if given and wishes.suite != suite:
        raise BadOption(
            f"suite {wishes.suite} does not know it", f"option {option}", f"use --suite {suite}"
        )


def _search(wishes: Wishes, progress: Progress) -> tuple[dict[str, Any], Shown, bool]:
    from superopt.bench import search, search_table

    document = search.run_search_suite(
        max_block_ops=wishes.max_block_ops,
        dtypes=wishes.dtypes or ["bf16"],
        json_path=wishes.json_path,
        threads=wishes.threads,
        only=wishes.only,
        seconds=wishes.seconds or search.SECONDS,
        values=wishes.states,
        resume=wishes.resume,
        progress=progress,
    )
    return document, search_table.print_table, True


def _verify(wishes: Wishes, progress: Progress) -> tuple[dict[str, Any], Shown, bool]:
    from superopt.bench import verify, verify_table

    document = verify.run_verify_suite(
        json_path=wishes.json_path,
        threads=wishes.threads,
        only=wishes.only,
        share=1.0 if wishes.share is None else wishes.share,
        resume=wishes.resume,
        progress=progress,
    )
    alright = all(row["status"] == "ok" for row in document["rows"])
    return document, verify_table.print_table, alright


def _launch(wishes: Wishes, progress: Progress) -> tuple[dict[str, Any], Shown, bool]:
    from superopt.bench import launch

    document = launch.run_launch_suite(json_path=wishes.json_path, threads=wishes.threads)
    return document, lambda d: print(launch.markdown(d)), True


def _cpu(wishes: Wishes, progress: Progress) -> tuple[dict[str, Any], Shown, bool]:
    from superopt.bench.cpu import cases, runner, table

    if wishes.warm:
        raise BadOption("suite cpu measures cold and warm", "option --warm", "leave it out")
    options = {"budget": wishes.budget, "fallbacks": tuple(wishes.fallbacks)}
    Options.of(**options)  # a mistake is told here, and not by a process of a peer
    document = runner.run_cpu_suite(
        peers=wishes.peers or (),
        dtypes=wishes.dtypes or ["f32", "bf16"],
        only=wishes.only,
        threads=wishes.threads,
        json_path=wishes.json_path,
        seconds=wishes.seconds or cases.SECONDS,
        resume=wishes.resume,
        ours=wishes.ours,
        options=options,
        lock=wishes.lock,
        progress=progress,
    )
    return document, table.print_table, True


def _times(wishes: Wishes, progress: Progress) -> tuple[dict[str, Any], Shown, bool]:
    from superopt.bench.suite import run_suite
    from superopt.bench.table import print_table

    document = run_suite(
        wishes.suite,
        peers=["eager", "inductor"] if wishes.peers is None else wishes.peers,
        dtypes=wishes.dtypes or ["f32", "bf16"],
        json_path=wishes.json_path,
        threads=wishes.threads,
        only=wishes.only,
        seconds=wishes.seconds or 2.0,
        cold=not wishes.warm,
        resume=wishes.resume,
        ours=wishes.ours,
        options=Options.of(budget=wishes.budget, fallbacks=tuple(wishes.fallbacks)),
        progress=progress,
    )
    return document, print_table, True
