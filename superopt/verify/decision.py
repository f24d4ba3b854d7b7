"""What is found of two functions: equal, different or undecided, with what it rests on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from superopt.verify.equivalence import ASSUMPTIONS, Equivalence

SHOWN = 6
"""Elements of a tensor that a report shows."""


@dataclass(frozen=True)
class Counterexample:
    """Inputs on which two functions differ.

    inputs: the flat arguments; first, second: the results of the functions on them; output, position:
    the flat output and the element that differ most; values: the two there; drawn: how the inputs
    were drawn; note: empty, or in which precision the inputs are.
    """

    inputs: tuple[Any, ...]
    first: Any
    second: Any
    output: int
    position: tuple[int, ...]
    values: tuple[Any, Any]
    drawn: str
    note: str = ""

    def __str__(self) -> str:
        place = f"output {self.output}"
        if self.position:
            place += f" at {self.position}"
        mine, other = self.values
        lines = [
            f"{place}: {mine} against {other} (inputs: {self.drawn}{self.note and '; '}{self.note})"
        ]
        for k, x in enumerate(self.inputs):
            lines.append(f"  input {k}: {_short(x)}")
        return "\n".join(lines)


def _short(x: Any) -> str:
    if not isinstance(x, torch.Tensor):
        return repr(x)
    flat = x.flatten()[:SHOWN].tolist()
    more = ", ..." if x.numel() > SHOWN else ""
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)} [{', '.join(map(_number, flat))}{more}]"


def _number(x: Any) -> str:
    return f"{x:.6g}" if isinstance(x, float) else str(x)


@dataclass(frozen=True)
class Certificate:
    """The answer of ``superopt.equivalent``; true in a condition only when the verdict is "equal".

    verdict: "equal", "different" (``counterexample`` is one) or "undecided" (``reason`` says what is
    missing, and names the operator); kind: of "equal": "identical" (the same operators on the same
    values), "proved" (by Z3, for all values of the inputs on which both are defined), "bound" (wrong with
    probability at most 2^-bound_log2) or "sampled" (no bound is claimed, ``reason`` says why); domain: for
    which sizes; assumptions: named, and explained by ``explained``; checks: what was run; undefined: of equal
    functions, inputs on which one is NaN, so not defined, and the other is not, where some were met;
    seed: of all random choices.
    """

    verdict: str
    reason: str = ""
    kind: str = ""
    bound_log2: float | None = None
    domain: str = ""
    assumptions: tuple[str, ...] = ()
    checks: tuple[Equivalence, ...] = field(default=(), repr=False)
    counterexample: Counterexample | None = None
    undefined: Counterexample | None = None
    seed: int = 0
    names: tuple[str, str] = ("", "")

    def __bool__(self) -> bool:
        return self.verdict == "equal"

    @property
    def explained(self) -> dict[str, str]:
        """What each assumption says."""
        return {n: ASSUMPTIONS[n.split(":")[0]] for n in self.assumptions}

    def __str__(self) -> str:
        first, second = self.names
        lines = [f"{first} and {second}: {self.verdict}"]
        if self.verdict == "equal":
            lines.append(f"  shown: {self.claim}")
            lines.append(f"  domain: {self.domain}")
        if self.reason:
            lines.append(f"  {'note' if self else 'reason'}: {self.reason}")
        if self.counterexample is not None:
            lines += ["  " + line for line in str(self.counterexample).splitlines()]
        if self.undefined is not None:
            text = str(self.undefined).splitlines()[0]
            lines.append(f"  note: one alone is undefined on some inputs: {text}")
        lines += [f"  assumes {n}: {text}" for n, text in self.explained.items()]
        lines.append(f"  seed: {self.seed}")
        return "\n".join(lines)

    @property
    def claim(self) -> str:
        """How sure "equal" is, in words."""
        if self.kind == "identical":
            return "both apply the same operators to the same values"
        if self.kind == "proved":
            where = " on which both are defined" if "where-defined" in self.assumptions else ""
            return f"proved by Z3, for all values of the inputs{where}"
        if self.kind == "bound" and self.bound_log2 is not None:
            return f"wrong with probability at most 2^-{int(self.bound_log2)}"
        return "sampled: no error bound is claimed"

    def as_dict(self) -> dict[str, Any]:
        """The certificate in plain types; tensors as nested lists, not finite numbers as text."""
        return {
            "verdict": self.verdict,
            "functions": list(self.names),
            "reason": self.reason,
            "kind": self.kind,
            "bound_log2": self.bound_log2,
            "domain": self.domain,
            "assumptions": self.explained,
            "seed": self.seed,
            "checks": [_check(c) for c in self.checks],
            "counterexample": _example(self.counterexample),
            "undefined": _example(self.undefined),
        }

    def to_json(self) -> str:
        """``as_dict`` as JSON text."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True, allow_nan=False)


def _example(example: Counterexample | None) -> dict[str, Any] | None:
    if example is None:
        return None
    return {
        "inputs": [_plain(x) for x in example.inputs],
        "first": _plain(example.first),
        "second": _plain(example.second),
        "output": example.output,
        "position": list(example.position),
        "values": [_plain(x) for x in example.values],
        "drawn": example.drawn,
        "note": example.note,
    }


def _check(check: Equivalence) -> dict[str, Any]:
    return {
        "verdict": check.verdict,
        "kind": check.kind,
        "bound_log2": check.bound_log2,
        "trials": check.trials,
        "tied_trials": check.tied_trials,
        "field": check.field[0],
        "primes": list(check.field[1]),
        "seeds": list(check.seeds),
        "sizes": [dict(s) for s in check.sizes],
        "cells_compared": check.clean,
        "cells": check.total,
        "evaluator": check.evaluator,
        "reason": check.reason,
    }


MOST_LISTED = 1 << 16
"""Elements of a tensor that are written out; of larger ones the shape and the first elements."""


def _plain(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        if x.numel() > MOST_LISTED:
            first = _plain(x.flatten()[:SHOWN])
            return {"dtype": str(x.dtype), "shape": list(x.shape), "first": first}
        return _plain(x.tolist())
    if isinstance(x, Sequence) and not isinstance(x, str):
        return [_plain(v) for v in x]
    if isinstance(x, dict):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, float) and not abs(x) < float("inf"):
        return str(x)
    return x if isinstance(x, bool | int | float | str | None) else repr(x)
