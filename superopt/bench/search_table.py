"""The results of the suite ``search`` as a table for people, and what each technique came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from superopt.bench.table import seconds

WORTH, FROM = 1000.0, 7
"""The factor in states that abstract pruning alone is asked to be worth, and from how many operators."""

HEADS = (
    "workload",
    "ops",
    "terms",
    "without",
    "time",
    "cpu",
    "algebra",
    "cut",
    "placement",
    "states",
    "due",
    "x states",
    "classes",
    "graphs",
    "kernels costed",
    "closed",
    "best",
)

Row = Mapping[str, Any]


def groups(document: Mapping[str, Any]) -> Iterator[tuple[Row | None, list[Row]]]:
    """The rows of each case: the one with every technique, if there is one, and all of them."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in document["rows"]:
        params = tuple(sorted(row["params"].items()))
        bounds = row["max_block_ops"], row["operators"]
        key = (row["workload"], params, row["dtype"], *bounds)
        found.setdefault(key, []).append(row)
    for rows in found.values():
        every = [r for r in rows if not r["without"] and r["status"] in ("ok", "stopped")]
        yield (every[0] if every else None), rows


def ratio(row: Row, every: Row | None) -> float | None:
    """States of a row over those with every technique; None where one of them is not known.

    Where the operators of a term are limited, the states that are due.
    """
    count = "states" if row["operators"] is None else "due"
    if every is None or not every[count] or not row[count]:
        return None
    return float(row[count] / every[count])


def grid(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The heads and the cells, one line for each row of the document, in the order of its cases."""
    return list(HEADS), [_line(r, every) for every, rows in groups(document) for r in rows]


def _line(row: Row, every: Row | None) -> list[str]:
    name = f"{row['workload']} {row['dtype']}"
    bounds = ["-" if row[k] is None else str(row[k]) for k in ("max_block_ops", "operators")]
    if row["states"] is None:
        told = [name, *bounds, row["without"] or "-", row["status"]]
        return told + ["-"] * (len(HEADS) - len(told))
    least = ">= " if row["status"] == "stopped" else ""
    times = ratio(row, every)
    return [
        name,
        *bounds,
        row["without"] or "-",
        least + seconds(row["seconds"]),
        *(seconds(row[k]) for k in ("cpu_s", "algebra_s", "cut_s", "placement_s")),
        f"{least}{row['states']}",
        "-" if row["due"] is None else f"{least}{row['due']}",
        "-" if times is None or not row["without"] else f"{least}{times:.4g}",
        f"{least}{row['classes']}",
        str(row["graphs"]),
        str(row["kernels_costed"]),
        "yes" if row["closed"] else "no",
        f"{row['kernels']} kernels, at most {row['largest_kernel']} ops",
    ]


def summary_lines(document: Mapping[str, Any]) -> list[str]:
    """What pruning is worth in states, where it holds and where not; what was not measured."""
    worth: dict[bool, list[tuple[float, bool, str]]] = {True: [], False: []}
    closed = total = 0
    for every, rows in groups(document):
        for row in rows:
            times = ratio(row, every)
            small = row["operators"] is not None and row["operators"] < FROM
            if row["without"] == "prune" and times is not None and not small:
                whole = row["operators"] is None
                worth[whole].append((times, row["status"] == "stopped", _case(row)))
        if every is not None and every["operators"] is None:
            total += 1
            closed += bool(every["closed"])
    lines = [f"{closed} of {total} spaces are closed with every technique"]
    for whole, what in (
        (False, f"over terms of a limited size ({FROM} operators or more)"),
        (True, "over terms of any size, as far as the runs without it came"),
    ):
        if worth[whole]:
            lines += _worth(worth[whole], what)
    levels = sorted(
        {r["tried"] for r in document["rows"] if r["tried"] is not None and r["operators"] is None}
    )
    if levels:
        lines.append(
            "the space without pruning has no end; when they were stopped, runs had tried all terms "
            f"of up to {' or '.join(map(str, levels))} operators"
        )
    reasons: dict[str, int] = {}
    for row in document["rows"]:
        if row["status"] in ("skipped", "failed"):
            text = f"without {row['without'] or 'nothing'}, {row['status']}: {row['reason']}"
            reasons[text] = reasons.get(text, 0) + 1
    return lines + [f"{text} ({n} rows)" for text, n in reasons.items()]


def _worth(worth: list[tuple[float, bool, str]], what: str) -> list[str]:
    """What pruning is worth in some cases: (times, whether at least, case) of each."""
    above = [w for w in worth if w[0] >= WORTH]
    least = min(above, default=None)
    lines = [
        f"{what}, abstract pruning alone is worth {WORTH:.0f} times in states or more in "
        f"{len(above)} of {len(worth)} cases"
        + (f" (least: {_times(least)}, {least[2]})" if least else "")
    ]
    for below in [w for w in worth if w[0] < WORTH]:
        lines.append(
            f"{'not shown, the limit came first' if below[1] else 'not so'}: "
            f"{_times(below)}, {below[2]}"
        )
    return lines


def _times(worth: tuple[float, bool, str]) -> str:
    return f"{'at least ' if worth[1] else ''}{worth[0]:.4g}"


def _case(row: Row) -> str:
    bound, size = row["max_block_ops"], row["operators"]
    return (
        row["workload"]
        + ("" if bound is None else f" with at most {bound} ops in a kernel")
        + ("" if size is None else f" at {size} operators")
    )


def notes(document: Mapping[str, Any]) -> list[str]:
    """How to read the table, and what its times can be trusted for."""
    machine, rows = document["machine"], document["rows"]
    limits = sorted({(r["limit_s"], r["limit_states"]) for r in rows})
    runs = sorted({r["runs"] for r in rows if not r["without"]})
    said = " or ".join(f"{s:g} s or {n} states" for s, n in limits)
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {max(r['threads'] for r in rows)} threads; "
        f"superopt {machine['superopt']}. Every run is a process of its own; times are without "
        f"imports and compilation, medians of {'-'.join(map(str, runs))} runs where no technique is "
        "left out.",
        "*ops*: the most compute nodes in one kernel of the placed graph (the algebra knows no "
        "such bound); *terms*: the most operators of a term of the algebra; *states*: terms tried by "
        "the algebra; *due*: terms that there are to try within that size, given all values found "
        "until the run ended; *x states*: states over those with every technique, or where the size "
        "of terms is limited, due over due; *graphs*: term graphs costed.",
        f"The exploration of a region was stopped after {said}: what a stopped run says is a lower "
        "bound (>=), which the limit sets.",
    ]
    if (machine["load"] or 0) > 0.5 * machine["cores"]:
        lines.append(
            f"Other work ran on this machine (load {machine['load']}): the times are not to be "
            "relied on; the counts are."
        )
    return lines


def markdown(document: Mapping[str, Any]) -> str:
    """The grid, the summary and the machine as Markdown, to be read beside a committed document."""
    heads, lines = grid(document)
    text = [
        f"# Suite {document['suite']}",
        "",
        *notes(document),
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(line)} |" for line in lines),
        "",
        *(f"- {line}" for line in summary_lines(document)),
    ]
    return "\n".join(text) + "\n"


def print_table(document: Mapping[str, Any]) -> None:
    """Prints the table and the summary to the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 200)
    table = Table(title=f"suite {document['suite']}", title_justify="left")
    heads, lines = grid(document)
    for n, head in enumerate(heads):
        table.add_column(head, justify="right" if 3 < n < 15 else "left", overflow="fold")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    for text in (*notes(document)[1:], *summary_lines(document)):
        console.print(text, highlight=False, markup=False)
