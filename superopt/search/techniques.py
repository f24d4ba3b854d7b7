"""What the search can do without, so that what each technique is worth can be measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Techniques:
    """The techniques of the search; all of them by default.

    prune: a term is kept only if it can be part of a target (abstract pruning); share: terms of
    one fingerprint are one class; bound: kernel cuts that cannot beat the best one are not costed
    in full.
    """

    prune: bool = True
    share: bool = True
    bound: bool = True


ALL = Techniques()
"""What a search uses unless it is told otherwise."""
