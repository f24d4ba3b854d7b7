"""What the search can do without, so that what each technique is worth can be measured."""

from __future__ import annotations

from dataclasses import dataclass

from superopt.config import usable_cores
from superopt.errors import BadOption


@dataclass(frozen=True)
class Techniques:
    """The techniques of the search; all of them by default.

    prune: a term is kept only if it can be part of a target (abstract pruning); share: terms of
    one fingerprint are one class; bound: kernel cuts that cannot beat the best one are not costed
    in full; threads: how many regions are explored at the same time, None for as many as the
    process has cores.
    """

    prune: bool = True
    share: bool = True
    bound: bool = True
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise BadOption(
                f"{self.threads} threads", "Techniques(threads=...)", "give 1 or more, or None"
            )

    @property
    def workers(self) -> int:
        """The threads that explore regions."""
        return self.threads or usable_cores()


ALL = Techniques()
"""What a search uses unless it is told otherwise."""
