"""What an equality check found, and the assumptions it may name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Equivalence:
    """What a check found; "equal" is wrong with probability at most 2^-bound_log2 when kind is "bound".

    verdict: "equal" or "not_shown_equal" (never "unequal": that takes a counterexample in floats);
    kind: "bound", or "sampled" when no bound is claimed, or "identical" when both apply the same
    operators to the same values and nothing had to be checked, or "proved" for a proof by Z3 for all
    values, or "second" for a check beside another, which claims nothing by itself; trials: uniform
    trials of all assignments; tied_trials: further trials with inputs from small pools; field: name
    and primes of the chain; seeds: the one seed that everything is drawn from; sizes: (axis, size) per
    assignment;
    clean, total: cells compared and all cells, over the uniform trials; work: elements of all values
    that were computed; assumptions: named, see ``ASSUMPTIONS``; reason: why not equal, or why only
    sampled; cases: whether there is no bound because of cases (patterns of winners, integers) of which
    some may not have been met, though each may differ.
    """

    verdict: str
    bound_log2: float | None
    kind: str
    trials: int = 0
    tied_trials: int = 0
    field: tuple[str, tuple[int, ...]] = ("none", ())
    seeds: tuple[int, ...] = ()
    sizes: tuple[tuple[tuple[str, int], ...], ...] = ()
    clean: int = 0
    total: int = 0
    work: int = 0
    assumptions: tuple[str, ...] = ()
    reason: str = ""
    evaluator: str = "none"
    cases: bool = False

    def __bool__(self) -> bool:
        return self.verdict == "equal"


def same_program(seed: int) -> Equivalence:
    """The result for two programs that are the same, operator by operator."""
    reason = "both apply the same operators to the same values"
    return Equivalence("equal", None, "identical", reason=reason, seeds=(seed,))


def not_rewritten(seed: int) -> Equivalence:
    """The result where some output does not follow by the laws of the field from the same values."""
    reason = "an output does not follow from values that both programs have"
    return Equivalence("not_shown_equal", None, "sampled", reason=reason, seeds=(seed,))


ASSUMPTIONS: dict[str, str] = {
    "generic-literals": "no coefficient of the difference is divisible by a prime of the chain",
    "reduced-sizes": "programs that differ do so at both assignments of reduced sizes",
    "shrunk-comparisons": "comparisons of positions behave alike on the shorter axes used",
    "casts": "casts between float types are identities",
    "keyed": "the named function is a random function of its arguments and nothing else",
    "finite-inputs": "float inputs are finite",
    "where-defined": "equality is claimed where both programs are defined (no zero divisor, no "
    "root or logarithm of a negative number, no index outside of its axis)",
    "ties": "ties between compared values are sampled, not counted in the bound",
    "keyed:exp": "an exp nested deeper than the chain is a random function of its argument",
    "keyed:log": "a log nested deeper than the chain is a random function of its argument",
    "literals": "a literal within one unit in the last place of a simple fraction, or of its root, "
    "stands for that number",
    "results-alone": "what the functions do beside giving a result is not compared",
    "equal-tensors": "tensors that the functions hold, with equal values, stay equal",
    "exponential": "exp is a homomorphism from sums to products and nothing else",
}
"""What the names in ``Equivalence.assumptions`` stand for (a name may carry ``:detail``)."""
