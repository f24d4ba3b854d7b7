"""Asks Z3 whether a goal follows, within a time limit; the same formula is asked once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.lemma import PROVED, REFUTED, SAMPLED, Lemma

TIMEOUT = 2.0
"""Seconds that one lemma may take."""

MOST_SECONDS = 20.0
"""Seconds that all lemmas of one piece may take; then the rest is sampled."""


@dataclass
class Solver:
    """Answers by formula text. timeout: seconds for one lemma; most: for all; spent: by all so far.

    Z3 is imported when the first formula is asked.
    """

    timeout: float = TIMEOUT
    most: float = MOST_SECONDS
    spent: float = 0.0
    asked: int = 0
    _known: dict[str, tuple[str, dict[str, int]]] = field(default_factory=dict)
    _context: Any = None

    @property
    def version(self) -> str:
        """Of Z3, once it was asked."""
        if self._context is None:
            return ""
        import z3

        return str(z3.get_version_string())

    def lemma(self, kind: str, subject: str, formula: Formula, goal: str) -> Lemma:
        """The lemma that a goal follows from what is given, decided."""
        started = time.perf_counter()
        text = formula.text(goal)
        if text not in self._known:
            self._known[text] = self._ask(text)
        verdict, values = self._known[text]
        words = ""
        if verdict == REFUTED and formula.loose:
            verdict, words = SAMPLED, "what the index depends on has no form in integer arithmetic"
        elif verdict == REFUTED:
            named = {formula.words[name]: v for name, v in values.items() if name in formula.words}
            words = "fails at " + (
                ", ".join(f"{w} = {v}" for w, v in named.items()) or "every size"
            )
        elif verdict == SAMPLED:
            words = "no answer in time"
        return Lemma(kind, subject, verdict, words, time.perf_counter() - started, True)

    def holds(self, formula: Formula, goal: str) -> bool:
        """Whether a goal is proved."""
        return self.lemma("", "", formula, goal).verdict == PROVED

    def _ask(self, text: str) -> tuple[str, dict[str, int]]:
        left = int(1000 * min(self.timeout, self.most - self.spent))
        if left < 1:
            return SAMPLED, {}
        import z3

        started = time.perf_counter()
        self.asked += 1
        try:
            self._context = self._context or z3.Context()
            solver = z3.Solver(ctx=self._context)
            solver.set("timeout", left)
            solver.from_string(text)
            answer = str(solver.check())
            values = _values(solver.model()) if answer == "sat" else {}
        except z3.Z3Exception:  # out of memory, interrupted
            return SAMPLED, {}
        finally:
            self.spent += time.perf_counter() - started
        return {"unsat": PROVED, "sat": REFUTED}.get(answer, SAMPLED), values


def _values(model: Any) -> dict[str, int]:
    """The integers of a model, by the name of the constant."""
    import z3

    return {
        d.name(): model[d].as_long() for d in model.decls() if isinstance(model[d], z3.IntNumRef)
    }
