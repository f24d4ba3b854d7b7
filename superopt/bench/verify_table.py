"""The results of the suite ``verify`` as tables: on the terminal, and as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from superopt.bench.verify import PARTS

Rows = Sequence[Mapping[str, Any]]
MOST_LISTED = 60
"""Mutants without an argument that are listed by name."""

_HEAD = (
    "",
    "tried",
    "refused",
    "accepted",
    "of these, explained",
    "without an argument",
    "wrong",
    "median",
    "p90",
    "longest",
)


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report."""
    return "\n".join(_lines(document)) + "\n"


def print_table(document: Mapping[str, Any]) -> None:
    """The whole report on the terminal."""
    Console().print("\n".join(_lines(document)), markup=False, highlight=False, soft_wrap=True)


def summed(rows: Rows, key: str) -> Counter[str]:
    """The counts of one key of all rows."""
    out: Counter[str] = Counter()
    for r in rows:
        out.update(r[key])
    return out


def _hosts(rows: Rows) -> str:
    """The machines that rows are of, with how many of which parts where there are several."""
    parts: dict[str, Counter[str]] = {}
    for r in rows:
        parts.setdefault(r["host"], Counter())[r["part"]] += 1
    if len(parts) == 1:
        return next(iter(parts))
    told = []
    for host, counted in sorted(parts.items()):
        told.append(f"{host}: " + ", ".join(f"{n} tasks of {p}" for p, n in counted.items()))
    return "; ".join(told)


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    rows = document["rows"]
    found = document["machine"]
    shares = sorted({r["share"] for r in rows})
    yield "# What the verifier accepts, and what it refuses"
    yield ""
    yield (
        f"`superopt bench --suite verify`, {found.get('cores', '?')} cores, "
        f"torch {found.get('torch', '?')}, {_hosts(rows)}. "
        f"Wall time of all tasks together: {sum(r['wall_s'] for r in rows):.0f} s of one core."
        + "".join(f" At a share of {s:g} of its counts." for s in shares if s < 1)
    )
    yield ""
    yield "| " + " | ".join(_HEAD) + " |"
    yield "|" + "---|" * len(_HEAD)
    for part in PARTS:
        mine = [r for r in rows if r["part"] == part]
        if mine and part != "tiny fields":
            yield _total(part, mine)
    yield ""
    yield (
        "Wrong is a mutant or a near miss that is accepted and differs, or a correct pair that is "
        "refused. Pairs beyond what is decided, a list that is part of the suite, may be undecided. "
        "Times are of one check (of a kernel: compiled and gated), the median of the cases' medians."
    )
    for part in PARTS:
        mine = [r for r in rows if r["part"] == part]
        if mine:
            yield from _section(part, mine)


def _total(part: str, rows: Rows) -> str:
    tried = sum(r["tried"] for r in rows)
    refused, accepted = (sum(summed(rows, k).values()) for k in ("rejected", "accepted"))
    explained = sum(summed(rows, "explained").values())
    medians = sorted(r["seconds"]["median"] for r in rows if r["tried"])
    median = medians[len(medians) // 2] if medians else 0.0
    p90 = max((r["seconds"]["p90"] for r in rows), default=0.0)
    longest = max((r["seconds"]["max"] for r in rows), default=0.0)
    mutants = part in ("graph mutants", "outputs and inputs", "kernel mutants")
    cells = [
        part,
        f"{tried:,}",
        f"{refused:,}",
        f"{accepted:,}",
        f"{explained:,}" if mutants else "",
        f"{sum(len(r['unexplained']) for r in rows):,}" if mutants else "",
        f"{sum(len(r['wrong']) for r in rows):,}",
        _time(median),
        _time(p90),
        _time(longest),
    ]
    return "| " + " | ".join(cells) + " |"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _section(part: str, rows: Rows) -> Iterator[str]:
    yield ""
    yield f"## {part[0].upper()}{part[1:]}"
    yield ""
    failed = [r for r in rows if r["status"] == "failed"]
    if part == "tiny fields":
        yield from _fields(rows)
    else:
        for title, key in (
            ("refused by", "rejected"),
            ("shown equal by", "accepted"),
            ("bounds", "bounds"),
            ("accepted mutants that are none", "explained"),
            ("kinds", "kinds"),
        ):
            counts = summed(rows, key)
            if counts:
                listed = ", ".join(f"{k}: {n:,}" for k, n in counts.most_common())
                yield f"- {title}: {listed}"
        rewritten = sum(r["rewritten"] for r in rows)
        if part in ("graph mutants", "outputs and inputs", "rewrites"):
            yield f"- of those shown equal, by the laws of the field alone: {rewritten:,}"
        if part == "identities":
            yield "- beyond what is decided:"
        for r in rows:
            if undecided := r["more"].get("undecided") if part == "identities" else None:
                yield from (f"  - {_code(text)}" for text in undecided)
    for r in failed:
        yield f"- not run: {r['case']}: {r['reason']}"
    for r in rows:
        for text in r["wrong"]:
            yield f"- **wrong**: {_code(text)}"
    rest = [text for r in rows for text in r["unexplained"]]
    if rest:
        yield f"- accepted, seen to be the same, and without an argument ({len(rest)}):"
        yield from (f"  - {_code(text)}" for text in rest[:MOST_LISTED])


def _code(text: str) -> str:
    return "`" + text.replace("`", "'").replace("\n", " ")[:420] + "`"


def _fields(rows: Rows) -> Iterator[str]:
    yield "| | checks | accepted | rate | theory | three deviations |"
    yield "|---|---|---|---|---|---|"
    for r in rows:
        m = r["more"]
        if m:
            yield (
                f"| {r['case']} | {m['runs']:,} | {m['accepted']:,} | {m['rate']:.4f} | "
                f"{m['theory']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
            )
