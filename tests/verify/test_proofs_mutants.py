"""Broken tile programs: no fault of coverage or access passes all lemmas.

A mutant is refuted, or the interpreter shows it harmless at every size tried (with tails, and tasks
in a random order). Mutants that change which value is computed are not the subject of the lemmas.
Where an index is moved but stays inside, another element is read: that is a value, too.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from superopt.codegen.backends.python import BadAccess
from superopt.codegen.lower import lower
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.tile_mutants import ACCESS, COVERAGE, VALUES, mutants
from superopt.mugraph.tileir import Program
from superopt.verify.proofs import prove
from superopt.verify.proofs.solver import Solver
from tests.verify.access_programs import SMALL, Sizes, outcome

Outputs = dict[str, torch.Tensor]


def _shown(
    mugraph: MuGraph, programs: Sequence[Program], sizes: Sequence[Sizes], want: list[Outputs]
) -> str:
    """What the interpreter shows of programs: "alike", "wrong", or "breaks" (no legal access)."""
    for at, right in zip(sizes, want, strict=True):
        try:
            got = outcome(mugraph, programs, at, seed=1)
        except (BadAccess, KeyError, IndexError, RuntimeError, ValueError):
            return "breaks"
        for name, x in right.items():
            y = got.get(name, torch.empty(0))
            if x.shape != y.shape:
                return "breaks"
            if not torch.allclose(y.double(), x.double(), rtol=1e-3, atol=1e-4, equal_nan=True):
                return "wrong"
    return "alike"


def _escapes(kinds: set[str], shown: str) -> bool:
    """Whether a fault was missed, of a mutant all of whose lemmas are proved."""
    return shown == "breaks" or (shown == "wrong" and kinds <= COVERAGE)


@pytest.mark.parametrize("name", SMALL)
def test_no_broken_access_is_proved(name: str) -> None:
    mugraph, sizes = SMALL[name]
    programs = lower(mugraph)
    want = [outcome(mugraph, programs, at) for at in sizes]
    solver, seen = Solver(), Counter[str]()
    for i, program in enumerate(programs):
        for kind, mutant in mutants(program):
            changed = (*programs[:i], mutant, *programs[i + 1 :])
            proofs = prove(changed, mugraph, solver=solver)
            assert proofs.verdict != "sampled"
            if kind in VALUES:
                continue
            seen[proofs.verdict] += 1
            if proofs.verdict == "proved":
                shown = _shown(mugraph, changed, sizes, want)
                assert not _escapes({kind}, shown), f"{kind} {shown}:\n{mutant}"
    assert seen["refuted"] >= 25 and seen["proved"] >= 4, seen


def test_no_two_faults_together_are_proved() -> None:
    rng, seen = random.Random(0), Counter[str]()
    unseen = COVERAGE | ACCESS
    for name, (mugraph, sizes) in SMALL.items():
        programs = lower(mugraph)
        want = [outcome(mugraph, programs, at) for at in sizes]
        solver = Solver()
        for _ in range(6):
            i = rng.randrange(len(programs))
            kind, first = rng.choice([m for m in mutants(programs[i]) if m[0] in unseen])
            again = [m for m in mutants(first) if m[0] in unseen and m[1] != programs[i]]
            for other, second in rng.sample(again, 12):
                changed = (*programs[:i], second, *programs[i + 1 :])
                verdict = prove(changed, mugraph, solver=solver).verdict
                seen[verdict] += 1
                if verdict == "proved":
                    shown = _shown(mugraph, changed, sizes, want)
                    assert not _escapes({kind, other}, shown), f"{name}: {kind}, {other}\n{second}"
    assert sum(seen.values()) >= 700 and seen["proved"] >= 5, seen


def test_values_are_not_the_subject_of_the_lemmas() -> None:
    """Most mutants that change a value keep all their lemmas: another check must see them."""
    mugraph, _ = SMALL["softmax"]
    (program,) = lower(mugraph)
    solver = Solver()
    found = Counter(
        prove((mutant,), mugraph, solver=solver).verdict
        for kind, mutant in mutants(program)
        if kind in VALUES
    )
    assert found["proved"] >= 10, found
