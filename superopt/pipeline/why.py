"""The ledger of rejected alternatives: which rule removed each candidate of a piece, and why."""

from __future__ import annotations

from collections.abc import Iterable

from superopt.mugraph.placement import MuGraph
from superopt.search.driver import Rejection, rejection

MOST = 40
"""Alternatives that are kept in a cache entry."""

# The order in which a candidate meets the rules.
RULES = (
    "not lowerable",
    "predicted slower",
    "not shown equal",
    "refuted",
    "not compiled",
    "measured slower",
    "gate failed",
)


class Ledger:
    """What became of the alternatives of one piece."""

    def __init__(self, rejected: Iterable[Rejection] = ()) -> None:
        self.rows: list[Rejection] = list(rejected)
        self.last = ""

    def lost(
        self,
        rule: str,
        mugraph: MuGraph,
        predicted: float,
        detail: str = "",
        measured: float | None = None,
    ) -> None:
        """A candidate was removed by a rule; times in seconds."""
        more = {} if measured is None else {"measured_s": measured}
        self.rows.append(rejection(rule, predicted, mugraph, detail, **more))
        if rule not in ("predicted slower", "measured slower"):
            self.last = f"{rule}: {detail}" if detail else rule

    def best(self) -> list[Rejection]:
        """The best of them: those that came furthest first, then by time; at most ``MOST``."""

        def order(row: Rejection) -> tuple[int, float]:
            seconds: float = row["measured_s"] if "measured_s" in row else row["predicted_s"]
            return -RULES.index(row["rule"]), seconds

        return sorted(self.rows, key=order)[:MOST]

    def explain(self, error: Exception) -> None:
        """Notes on an error that ends the piece what became of the alternatives."""
        error.superopt_why = {  # type: ignore[attr-defined]
            "rejected": self.best(),
            "last": self.last or str(error),
        }
