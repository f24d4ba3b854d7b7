"""Writes a Markdown table (suite cpu: a chart too) beside each committed result: python tools/tables.py."""

from __future__ import annotations

import json
from pathlib import Path

from superopt.bench import launch, results, search, search_table, table, verify, verify_table
from superopt.bench.cpu import document as cpu
from superopt.bench.cpu import rows as cpu_rows
from superopt.bench.cpu import table as cpu_table
from superopt.report.floors import chart

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"

FORMS = {
    cpu_rows.SUITE: (cpu.problems, cpu_table.markdown),
    search.SUITE: (search.problems, search_table.markdown),
    launch.SUITE: (launch.problems, launch.markdown),
    verify.SUITE: (verify.problems, verify_table.markdown),
}
"""Suites with documents of their own: how one is checked, and its table."""


def main() -> None:
    """Every JSON file there that has the form of a suite's results gets its table."""
    for path in sorted(RESULTS.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or not document.get("rows"):
            continue
        problems, markdown = FORMS.get(
            str(document.get("suite")), (results.problems, table.markdown)
        )
        if not problems(document):
            path.with_suffix(".md").write_text(markdown(document), encoding="utf-8")
            if document["suite"] == cpu_rows.SUITE:
                chart(document, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
