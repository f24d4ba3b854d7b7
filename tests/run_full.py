"""Runs the full test suite, one process a file, and resumes where an earlier run was stopped.

Progress lies in build/test-full/<revision>/, one JSON file for each test file; the summary is
written to benchmarks/results/test-full.json and, to be read, beside it as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COUNTS = ("tests", "passed", "failed", "errors", "skipped")
# pytest's exit status 5 means that the file holds no test.
GOOD = (0, 5)


def git(*words: str) -> str:
    """The output of a git command, empty outside a repository."""
    done = subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def revision() -> tuple[str, bool]:
    """The commit, and whether files that can change a test's outcome differ from it."""
    changed = git("status", "--porcelain", "--untracked-files=normal", "--", ".", *LEFT_OUT)
    return git("rev-parse", "HEAD") or "none", bool(changed)


LEFT_OUT = (":!benchmarks/results", ":!docs", ":!*.md")


def counts(report: Path) -> dict[str, int]:
    """The numbers of a JUnit report; zeros if the process died before it wrote one."""
    if not report.exists():
        return dict.fromkeys(COUNTS, 0)
    total = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ElementTree.parse(report).iter("testsuite"):
        for name in total:
            total[name] += int(suite.get(name, 0))
    bad = total["failures"] + total["errors"] + total["skipped"]
    return {
        "tests": total["tests"],
        "passed": total["tests"] - bad,
        "failed": total["failures"],
        "errors": total["errors"],
        "skipped": total["skipped"],
    }


def run_file(path: Path, place: Path, limit_s: float, extra: list[str]) -> dict:
    """Run one test file in a process of its own; what came of it."""
    name = path.relative_to(ROOT).as_posix()
    report = place / f"{name.replace('/', '-')}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "full or not full", "-n", "2"]
    command += [f"--junitxml={report}", *extra, name]
    begun = time.monotonic()
    try:
        status = subprocess.run(command, cwd=ROOT, timeout=limit_s, check=False).returncode
    except subprocess.TimeoutExpired:
        status = 124
    ok = status in GOOD
    row = {"file": name, "ok": ok, "status": status, "seconds": round(time.monotonic() - begun, 1)}
    return {**row, **counts(report)}


def write_summary(rows: list[dict], sha: str, dirty: bool, total: int) -> bool:
    """Write both summaries; whether every file has run and passed."""
    rows = sorted(rows, key=lambda r: r["file"])
    complete = len(rows) == total
    ok = complete and all(r["ok"] for r in rows)
    summary = {
        "schema": 1,
        "suite": "test-full",
        "revision": sha,
        "dirty": dirty,
        "complete": complete,
        "ok": ok,
        "counts": {name: sum(r[name] for r in rows) for name in COUNTS},
        "seconds": round(sum(r["seconds"] for r in rows), 1),
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": len(os.sched_getaffinity(0)),
        },
        "files": rows,
    }
    target = ROOT / "benchmarks" / "results" / "test-full.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(summary, indent=1) + "\n")
    lines = [
        "# Full test run",
        "",
        f"Revision `{sha}`{' with local changes' if dirty else ''}: "
        f"{'all files passed' if ok else 'not all files passed' if complete else 'not finished'}; "
        + ", ".join(f"{v} {k}" for k, v in summary["counts"].items())
        + f"; {summary['seconds']} s.",
        "",
        "| file | passed | failed | skipped | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['file']} | {r['passed']} | {r['failed'] + r['errors']} | {r['skipped']} "
        f"| {r['seconds']} |"
        for r in rows
    ]
    target.with_suffix(".md").write_text("\n".join(lines) + "\n")
    return ok


def main() -> int:
    """Run what is left for this revision; 0 when every file has passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="run everything anew")
    parser.add_argument("--limit", type=float, default=1800, help="seconds a file may take")
    options, extra = parser.parse_known_args()
    sha, dirty = revision()
    place = ROOT / "build" / "test-full" / sha
    place.mkdir(parents=True, exist_ok=True)
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    rows: list[dict] = []
    for path in files:
        done = place / f"{path.relative_to(ROOT).as_posix().replace('/', '-')}.json"
        # With local changes the revision does not say what was tested, so nothing is skipped.
        if done.exists() and not options.again and not dirty:
            row = json.loads(done.read_text())
            if row["ok"]:
                print(f"{row['file']}: passed before, {row['seconds']} s")
                rows.append(row)
                continue
        row = run_file(path, place, options.limit, extra)
        rows.append(row)
        if not dirty:
            done.write_text(json.dumps(row))
        write_summary(rows, sha, dirty, len(files))
    ok = write_summary(rows, sha, dirty, len(files))
    print("full run:", "passed" if ok else "FAILED", "->", "benchmarks/results/test-full.json")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
