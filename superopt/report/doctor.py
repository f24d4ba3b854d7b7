"""What ``superopt doctor`` prints: each part of the machine, whether it is there, how to get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STATUSES = ("ok", "missing", "broken", "off")


def doctor_lines(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each finding (name, status, detail, fix), its fix below where there is one."""
    wide = max((len(str(f["name"])) for f in findings), default=0)
    lines = []
    for f in findings:
        line = f"{f['name']:{wide}}  {f['status']:7}  {f.get('detail') or ''}"
        lines.append(line.rstrip())
        if f["status"] != "ok" and f.get("fix"):
            lines.append(f"{'':{wide}}  {'':7}  how to get it: {f['fix']}")
    return lines


def doctor_table(findings: Sequence[Mapping[str, Any]]) -> Any:
    """The same as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=True)
    for head in ("part", "status", "detail", "how to get it"):
        table.add_column(head, overflow="fold")
    styles = {"ok": "green", "missing": "yellow"}
    for f in findings:
        style = styles.get(str(f["status"]), "red")
        fix = "" if f["status"] == "ok" else str(f.get("fix") or "")
        # Text, not markup: a fix may hold brackets, as in package[extra].
        table.add_row(
            Text(str(f["name"])),
            Text(str(f["status"]), style=style),
            Text(str(f.get("detail") or "")),
            Text(fix),
        )
    return table
