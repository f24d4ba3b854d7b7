"""A bar chart of the suite cpu: the time over the floor of every peer in every case."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from superopt.bench.cpu.table import CALL, brief, cases, counts, label, peers
from superopt.bench.results import OURS

MOST = 8.0
"""Where bars are cut; the number stands at their end."""


def chart(document: Mapping[str, Any], path: Path, cache: str = "warm") -> bool:
    """Draws the bars of a document into ``path`` (svg or png by its ending), one panel per dtype.

    Bars are medians over the floor, of outputs that are right; the line at 1 is the floor. Cases
    below 50 us are left out. Returns False where matplotlib is missing or there is nothing to draw.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        return False
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    panels: dict[str, list[dict[str, Mapping[str, Any]]]] = {}
    for case in cases(document):
        if not brief(case) and any(counts(r) for r in case.values()):
            panels.setdefault(next(iter(case.values()))["dtype"], []).append(case)
    if not panels:
        return False
    names = [n for n in peers(document) if n != CALL]
    colors = _colors(pyplot, names)
    most = max(len(c) for c in panels.values())
    width = max(8.0, 0.55 * most + 2)
    # The same ids every time: a chart that did not change gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "superopt"}):
        figure, axes = pyplot.subplots(
            len(panels), 1, figsize=(width, 3.6 * len(panels)), squeeze=False
        )
        for axis, (dtype, found) in zip(axes[:, 0], panels.items(), strict=True):
            _panel(axis, found, names, colors, cache)
            axis.set_title(f"{dtype}, {cache} caches", loc="left", fontsize=10)
        handles = [pyplot.Rectangle((0, 0), 1, 1, color=colors[n]) for n in names]
        figure.legend(handles, names, ncols=len(names), fontsize=7, loc="upper center")
        figure.tight_layout(rect=(0, 0, 1, 0.96))
        figure.savefig(path, dpi=130, metadata=_undated(path))
        pyplot.close(figure)
    return True


def _undated(path: Path) -> dict[str, Any] | None:
    return {"Date": None} if path.suffix == ".svg" else None


def _colors(pyplot: Any, names: list[str]) -> dict[str, Any]:
    """Ours in red, the others in the order of a palette without it."""
    palette, others = pyplot.get_cmap("tab20c"), [n for n in names if n != OURS]
    shades = {n: palette(4 * (k % 5) + k // 5) for k, n in enumerate(others)}
    return {**shades, OURS: "#c0392b"}


def _panel(
    axis: Any,
    found: list[dict[str, Mapping[str, Any]]],
    names: list[str],
    colors: Mapping[str, Any],
    cache: str,
) -> None:
    step = 0.85 / len(names)
    for k, name in enumerate(names):
        shown = [(n, c[name]) for n, c in enumerate(found) if name in c and counts(c[name])]
        at = [n - 0.425 + step * (k + 0.5) for n, _ in shown]
        values = [r[cache]["x_floor"] for _, r in shown]
        bars = axis.bar(
            at, [min(v, MOST) for v in values], step, color=colors[name], label=name, zorder=2
        )
        for bar, value in zip(bars, values, strict=True):
            if value > MOST:
                axis.text(
                    bar.get_x() + step / 2, MOST, f"{value:.0f}", fontsize=5, ha="center", va="top"
                )
    axis.axhline(1.0, color="black", linewidth=0.8, zorder=3)
    axis.set_xticks(range(len(found)))
    axis.set_xticklabels([label(c) for c in found], rotation=35, ha="right", fontsize=7)
    axis.set_ylim(0, MOST)
    axis.set_xlim(-0.6, len(found) - 0.4)
    axis.set_ylabel("time over floor", fontsize=8)
    axis.grid(axis="y", linewidth=0.3, zorder=0)
