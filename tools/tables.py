"""Writes a Markdown table beside each committed result of a suite: python tools/tables.py."""

from __future__ import annotations

import json
from pathlib import Path

from superopt.bench import launch, results, search, search_table, table, verify, verify_table

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"

FORMS = {
    search.SUITE: (search.problems, search_table.markdown),
    launch.SUITE: (launch.problems, launch.markdown),
    verify.SUITE: (verify.problems, verify_table.markdown),
}
"""Suites that do not time kernels: how a document is checked, and its table."""


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


if __name__ == "__main__":
    main()
