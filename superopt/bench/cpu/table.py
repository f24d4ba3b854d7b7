"""The results of the suite for people: time over floor of every peer, means, and what went wrong."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from superopt.bench.cpu.document import CACHES, case_key
from superopt.bench.results import OURS
from superopt.bench.table import seconds, sizes

Row = Mapping[str, Any]
Case = dict[str, Row]

BRIEF_S = 50e-6
"""A case that its fastest peer does in less is told in microseconds, outside the ratios."""

CALL = f"{OURS}.call"


def cases(document: Mapping[str, Any]) -> list[Case]:
    """The rows of each case by peer, in the order of the document."""
    found: dict[tuple[Any, ...], Case] = defaultdict(dict)
    for r in document["rows"]:
        found[case_key(r)][r["peer"]] = r
    return list(found.values())


def peers(document: Mapping[str, Any]) -> list[str]:
    """All peers of a document, ours first."""
    names = dict.fromkeys(r["peer"] for r in document["rows"])
    return [*(n for n in (OURS, CALL) if n in names), *(n for n in names if n not in (OURS, CALL))]


def counts(r: Row | None) -> bool:
    """Whether a row has times of outputs that are right, or that nothing can check."""
    return r is not None and r["status"] == "ok" and r["correct"] is not False


def median(r: Row | None, cache: str) -> float | None:
    """The median of a row that counts, in seconds."""
    return float(r[cache]["median_s"]) if r is not None and counts(r) else None


def brief(case: Case) -> bool:
    """Whether a case takes so little that calls weigh more than work."""
    found = [m for r in case.values() if (m := median(r, "warm")) is not None]
    return bool(found) and min(found) < BRIEF_S


def best_peer(case: Case, cache: str) -> tuple[str, float] | None:
    """The fastest other system in a case, and its median."""
    found = [
        (m, name)
        for name, r in case.items()
        if name not in (OURS, CALL) and (m := median(r, cache)) is not None
    ]
    return (min(found)[1], min(found)[0]) if found else None


def mean(values: Iterable[float]) -> float | None:
    """The geometric mean; None of nothing."""
    known = list(values)
    return statistics.geometric_mean(known) if known else None


def over_floor(chosen: Sequence[Case], peer: str, cache: str) -> list[float]:
    """The times over the floor of one peer, of the cases in which it counts."""
    return [c[peer][cache]["x_floor"] for c in chosen if peer in c and counts(c[peer])]


def ahead(chosen: Sequence[Case], cache: str) -> list[float]:
    """The best peer's time over ours, of the cases that have both."""
    found = []
    for c in chosen:
        ours, best = median(c.get(OURS), cache), best_peer(c, cache)
        if ours is not None and best is not None:
            found.append(best[1] / ours)
    return found


def label(case: Case) -> str:
    """A case in short: its workload and what of its sizes tells rows apart."""
    r = next(iter(case.values()))
    shown = {k: v for k, v in r["params"].items() if k in ("m", "tokens")}
    return f"{r['workload']} {sizes(shown)}".rstrip()


def _cell(case: Case, peer: str, cache: str) -> str:
    r = case.get(peer)
    if r is None:
        return "-"
    if r["status"] != "ok":
        return str(r["status"])
    if brief(case):
        text = f"{1e6 * r[cache]['median_s']:.1f}"
    else:
        text = f"{r[cache]['x_floor']:.2f}"
    if r["correct"] is None:
        return f"{text} ?"
    return text if r["correct"] else f"{text} WRONG"


def grid(chosen: Sequence[Case], names: Sequence[str], cache: str) -> list[list[str]]:
    """The cells of a table: a line for each case, after the heads."""
    lines = [["workload", "floor", "by", "GB/s", *names, "best peer", f"best peer / {OURS}"]]
    for c in chosen:
        floor = next((r["floor"] for r in c.values() if r["floor"]), None)
        found = floor[cache] if floor else None
        ours, best = median(c.get(OURS), cache), best_peer(c, cache)
        lines.append(
            [
                label(c),
                seconds(found["floor_s"]) if found else "-",
                found["by"] if found else "-",
                f"{found['bandwidth'] / 1e9:.0f}" if found else "-",
                *(_cell(c, n, cache) for n in names),
                best[0] if best else "-",
                f"{best[1] / ours:.2f}" if best and ours else "-",
            ]
        )
    return lines


def _means(chosen: Sequence[Case], names: Sequence[str], cache: str) -> list[str]:
    def cell(peer: str) -> str:
        values = over_floor(chosen, peer, cache)
        missing = "" if len(values) == len(chosen) else f" ({len(values)} of {len(chosen)})"
        return f"{mean(values):.2f}{missing}" if values else "-"

    lead = mean(ahead(chosen, cache))
    last = f"{lead:.2f}" if lead else "-"
    return ["**geometric mean**", "", "", "", *(cell(n) for n in names), "", last]


def markdown(document: Mapping[str, Any]) -> str:
    """The tables, the reasons and the machine as Markdown, to be read beside a committed document."""
    machine, names = document["machine"], peers(document)
    versions = ", ".join(f"{n} {v}" for n, v in machine["peers"].items())
    text = [
        "# Suite cpu",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {document['rows'][0]['threads']} threads; "
        f"{versions}; torch {machine['torch']}; {machine['compiler']}.",
        "",
        "Time over floor; medians of runs in rotation, one process per peer. *Cold*: caches evicted "
        "and thread pools asleep before each run. *Warm*: right after a run of the same. The floor is "
        "max(bytes / bandwidth, flops / peak + exps × cost) + launch, each measured beside the case. "
        f"*{OURS}* is the generated kernels alone, *{CALL}* the decorated function. "
        "*?*: outputs that cannot be compared with the reference.",
    ]
    everything = cases(document)
    for dtype in dict.fromkeys(r["dtype"] for r in document["rows"]):
        here = [c for c in everything if next(iter(c.values()))["dtype"] == dtype]
        long, short = [c for c in here if not brief(c)], [c for c in here if brief(c)]
        for cache in CACHES:
            if long:
                lines = [*grid(long, names, cache), _means(long, names, cache)]
                text += ["", f"## {dtype}, {cache}", "", *_table(lines)]
            if short:
                text += ["", f"## {dtype}, {cache}, below 50 us: microseconds of a call", ""]
                text += _table(grid(short, names, cache))
    text += ["", "## Setup and errors", "", *_table(_setup(everything, names))]
    if told := reasons(document):
        text += ["", "## What was not measured, or is wrong", "", *(f"- {line}" for line in told)]
    return "\n".join(text) + "\n"


def _table(lines: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = lines
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"] + [
        f"| {' | '.join(line)} |" for line in rest
    ]


def _setup(chosen: Sequence[Case], names: Sequence[str]) -> list[list[str]]:
    lines = [["peer", "cases", "setup, median", "most", "worst error f32", "bf16", "spread"]]
    for name in names:
        rows = [c[name] for c in chosen if name in c and c[name]["status"] == "ok"]
        if not rows:
            continue
        setups = [r["setup_s"] for r in rows]
        spread = statistics.median(r["warm"]["iqr_s"] / r["warm"]["median_s"] for r in rows)
        errors = {
            d: [r["max_rel_error"] for r in rows if r["dtype"] == d and r["max_rel_error"]]
            for d in ("f32", "bf16")
        }
        lines.append(
            [
                name,
                str(len(rows)),
                seconds(statistics.median(setups)),
                seconds(max(setups)),
                *(f"{max(e):.1e}" if e else "-" for e in errors.values()),
                f"{100 * spread:.0f} %",
            ]
        )
    return lines


def reasons(document: Mapping[str, Any]) -> list[str]:
    """Why rows are not ok or not right, rows with the same reason on one line."""
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for r in document["rows"]:
        if r["reason"]:
            where[r["peer"], r["reason"]].append(
                f"{r['workload']} {sizes(r['params'])} {r['dtype']}"
            )
    return [
        f"{peer}: {reason} ({found[0]}{f' and {len(found) - 1} more' if found[1:] else ''})"
        for (peer, reason), found in where.items()
    ]


def print_table(document: Mapping[str, Any]) -> None:
    """Prints the tables to the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 180)
    names, everything = peers(document), cases(document)
    for dtype in dict.fromkeys(r["dtype"] for r in document["rows"]):
        here = [c for c in everything if next(iter(c.values()))["dtype"] == dtype]
        for cache in CACHES:
            table = Table(title=f"{dtype}, {cache}: time over floor (below 50 us: us)")
            head, *lines = grid(here, names, cache)
            for n, word in enumerate(head):
                table.add_column(word, justify="right" if n else "left", overflow="fold")
            for line in lines:
                table.add_row(*line)
            console.print(table)
    for told in reasons(document):
        console.print(told, highlight=False, markup=False)
