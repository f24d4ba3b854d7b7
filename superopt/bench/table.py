"""The results of a suite as a table for people, and the few numbers that sum them up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from superopt.bench.results import OURS

Rows = list[Mapping[str, Any]]
WRONG = "WRONG"
"""What follows the name of a workload whose output is wrong."""

SLOWER = 1.05
"""Ours over eager above which a row counts as slower."""


@dataclass(frozen=True)
class Summary:
    """What a suite came to. Ratios are ours over eager; ``worst`` and its row may be absent.

    compared: rows where ours and eager were both timed; generated_wins: of them, those where the
    generated kernels alone beat eager; slower: those where what the user gets is over 5 % slower;
    wrong: rows of ours that are not correct; failed: rows of ours without a time.
    """

    compared: int
    generated_wins: int
    slower: int
    worst: float | None
    worst_case: str
    wrong: int
    failed: int


def cases(document: Mapping[str, Any]) -> list[dict[str, Mapping[str, Any]]]:
    """The rows of each case by peer, in the order of the document."""
    found: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in document["rows"]:
        params = tuple(sorted(row["params"].items()))
        key = (row["workload"], params, row["dtype"], row["threads"], row["cache"])
        found[key][row["peer"]] = row
    return list(found.values())


def summarize(document: Mapping[str, Any]) -> Summary:
    """The summary of a document."""
    compared = wins = slower = wrong = failed = 0
    worst, worst_case = None, ""
    for rows in cases(document):
        ours, eager = rows.get(OURS), rows.get("eager")
        if ours is None:
            continue
        failed += ours["status"] != "ok"
        wrong += ours["status"] == "ok" and not ours["correct"]
        if ours["median_s"] is None or eager is None or eager["median_s"] is None:
            continue
        compared += 1
        ratio = ours["median_s"] / eager["median_s"]
        made = ours["generated_median_s"]
        wins += made is not None and bool(ours["correct"]) and made < eager["median_s"]
        slower += ratio > SLOWER
        if worst is None or ratio > worst:
            worst, worst_case = ratio, f"{ours['workload']} {ours['dtype']} {sizes(ours['params'])}"
    return Summary(compared, wins, slower, worst, worst_case, wrong, failed)


def summary_lines(document: Mapping[str, Any]) -> list[str]:
    """The summary in words."""
    s = summarize(document)
    lines = [
        f"generated kernels beat eager in {s.generated_wins} of {s.compared} rows",
        f"{s.slower} rows are slower than eager by more than 5 %",
    ]
    if s.worst is not None:
        lines.append(f"slowest row: {s.worst:.2f} of the time of eager ({s.worst_case})")
    if s.wrong or s.failed:
        lines.append(f"{s.wrong} rows are wrong, {s.failed} were not measured")
    return lines


def sizes(params: Mapping[str, int]) -> str:
    """Parameters in short: b=1,n=4096."""
    return ",".join(f"{k}={v}" for k, v in params.items())


def seconds(value: float | None) -> str:
    """A time in a unit that leaves few digits: 12.3 us, 4.56 ms, 7.8 s."""
    if value is None:
        return "-"
    if value < 1e-3:
        return f"{value * 1e6:.1f} us"
    return f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.1f} s"


def _factor(value: float | None, base: float | None) -> str:
    return "-" if not value or not base else f"{value / base:.2f}"


def grid(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The heads and the cells: a row for each case; a ratio above 1 means that ours is faster."""
    peers = list(dict.fromkeys(r["peer"] for r in document["rows"] if r["peer"] != OURS))
    heads = ["workload", "dtype", "ours", "spread", "x floor", *(f"{p} / ours" for p in peers)]
    heads += ["eager / generated", "search", "compile", "states", "winner"]
    varying = _varying(document)
    lines = []
    for rows in cases(document):
        one = next(iter(rows.values()))
        ours = rows.get(OURS, {})
        shown = {k: v for k, v in one["params"].items() if k in varying[one["workload"]]}
        median = ours.get("median_s")
        spread = "-" if not median else f"{100 * ours['iqr_s'] / median:.0f} %"
        wrong = ours.get("status") == "ok" and not ours.get("correct")
        name = f"{one['workload']} {sizes(shown)}".rstrip()
        eager = rows.get("eager", {}).get("median_s")
        lines.append(
            [
                f"{name} {WRONG}" if wrong else name,
                one["dtype"],
                seconds(median) if ours.get("status", "ok") == "ok" else ours["status"],
                spread,
                _factor(median, ours.get("floor_s")),
                *(_peer_cell(rows.get(p), median) for p in peers),
                _factor(eager, ours.get("generated_median_s")),
                seconds(ours.get("search_s")),
                seconds(ours.get("compile_s")),
                "-" if ours.get("states") is None else str(ours["states"]),
                ours.get("winner") or "-",
            ]
        )
    return heads, lines


def render(document: Mapping[str, Any]) -> Any:
    """The grid as a rich table."""
    from rich.table import Table

    table = Table(title=f"suite {document['suite']}", title_justify="left")
    heads, lines = grid(document)
    for n, head in enumerate(heads):
        words = head.replace(" / ", "\n/ " if n < len(heads) - 5 else " /\n")
        table.add_column(
            words, justify="right" if n else "left", overflow="fold", no_wrap=0 < n < 5
        )
    for line in lines:
        table.add_row(*line, style="red" if line[0].endswith(WRONG) else None)
    return table


def markdown(document: Mapping[str, Any]) -> str:
    """The grid, the summary and the machine as Markdown, to be read beside a committed document."""
    heads, lines = grid(document)
    machine = document["machine"]
    text = [
        f"# Suite {document['suite']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {document['rows'][0]['threads']} threads; "
        f"torch {machine['torch']}; caches evicted before each run, medians of interleaved runs."
        if document["rows"][0]["cache"] == "cold"
        else f"{machine['cpu']}, {machine['cores']} cores; torch {machine['torch']}; warm caches.",
        "A ratio above 1 means that superopt is faster; *x floor* is the time over what bandwidth "
        "and arithmetic, as PyTorch reaches them beside the case, allow.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(line)} |" for line in lines),
        "",
        *(f"- {line}" for line in summary_lines(document)),
    ]
    return "\n".join(text) + "\n"


def _peer_cell(row: Mapping[str, Any] | None, ours: float | None) -> str:
    """The ratio to ours; without ours, the peer's own time; what went wrong, if nothing is timed."""
    if row is None:
        return "-"
    if row["median_s"] is None:
        return str(row["status"])
    text = _factor(row["median_s"], ours) if ours else seconds(row["median_s"])
    return text if row["correct"] else f"{text} wrong"


def _varying(document: Mapping[str, Any]) -> dict[str, set[str]]:
    """The parameters of each workload that differ between its rows; all of them for a single one."""
    seen: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for row in document["rows"]:
        for name, value in row["params"].items():
            seen[row["workload"]][name].add(value)
    return {
        workload: {n for n, values in params.items() if len(values) > 1}
        for workload, params in seen.items()
    }


def print_table(document: Mapping[str, Any]) -> None:
    """Prints the table and the summary to the terminal."""
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 160)
    console.print(render(document))
    for line in summary_lines(document):
        console.print(line, highlight=False)
    for line in reasons(document):
        console.print(line, highlight=False, markup=False)


def reasons(document: Mapping[str, Any]) -> list[str]:
    """Why rows are not ok or not right, rows with the same reason on one line."""
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in document["rows"]:
        if row["reason"]:
            case = f"{row['workload']} {sizes(row['params'])} {row['dtype']}"
            where[row["peer"], row["reason"]].append(case)
    return [
        f"{peer}: {reason} ({cases[0]}{f' and {len(cases) - 1} more' if cases[1:] else ''})"
        for (peer, reason), cases in where.items()
    ]
