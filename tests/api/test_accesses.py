"""The lemmas about accesses where users meet them: certificates, explain, rejected candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim

from superopt import superoptimize
from superopt.errors import VerificationFailed
from superopt.mugraph.tile_mutants import mutants
from superopt.pipeline import making
from superopt.verify.proofs.lemma import KINDS
from superopt.verify.proofs.solver import Solver
from tests.api.programs import assert_same, rmsnorm_linear, softmax, tensors

SHAPES = ((8, 64), (64,), (64, 48))
GENERATED: dict[str, Any] = {"budget": "20c", "fallbacks": ()}


def broken(monkeypatch: pytest.MonkeyPatch, kind: str, most: int) -> list[str]:
    """Makes the first ``most`` lowered candidates that can be broken so wrong; returns their texts."""
    real, seen = making.lower, []

    def lower(mugraph: Any) -> Any:
        programs = list(real(mugraph))
        for k, program in enumerate(programs):
            mutant = next((m for name, m in mutants(program) if name == kind), None)
            if mutant is not None and len(seen) < most:
                programs[k] = mutant
                seen.append(str(mutant))
                break
        return tuple(programs)

    monkeypatch.setattr(making, "lower", lower)
    return seen


def test_the_certificate_lists_the_lemmas() -> None:
    args = tensors(*SHAPES)
    fast = superoptimize(rmsnorm_linear, **GENERATED)
    assert_same(fast(*args), rmsnorm_linear(*args))
    proof = fast.result(*args).certificate
    assert proof["schema"] == 3 and proof["layers"]["index_maps"] == "proved"
    found = proof["proofs"]
    assert found["sampled"] == [] and found["solver"].startswith("z3 ")
    assert found["lemmas"].keys() <= KINDS.keys() and len(found["lemmas"]) >= 7
    assert 5 <= found["by_solver"] < sum(found["lemmas"].values())
    text = superoptimize.explain(fast, *args)
    every = sum(found["lemmas"].values())
    line = f"index maps: {every} lemmas proved ({found['by_solver']} put to Z3), 0 sampled"
    assert line in text


def test_each_bucket_has_its_lemmas() -> None:
    fast = superoptimize(softmax, dynamic={"x": {0: Dim("tokens", min=1, max=700)}}, **GENERATED)
    for n in (3, 64, 700):
        x = torch.randn(n, 48)
        assert_same(fast(x), softmax(x))
    proof = fast.result(torch.randn(3, 48)).certificate
    served = [b for b in proof["buckets"] if b["serves"] == "generated"]
    assert served and all(b["layers"]["index_maps"] == "proved" for b in served)


def test_without_an_answer_the_certificate_says_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "Solver", lambda: Solver(timeout=0.0))
    args = tensors(*SHAPES)
    fast = superoptimize(rmsnorm_linear, **GENERATED)
    assert_same(fast(*args), rmsnorm_linear(*args))
    proof = fast.result(*args).certificate
    assert proof["layers"]["index_maps"] == "sampled"
    assert len(proof["proofs"]["sampled"]) >= 3
    assert any(x.startswith("in bounds: k0: ") for x in proof["proofs"]["sampled"])
    assert "0 sampled" not in superoptimize.explain(fast, *args).split("index maps: ")[1]


@pytest.mark.parametrize("kind", ["accumulate flag flipped", "index moved", "store deleted"])
def test_a_refuted_candidate_is_rejected(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(making, "SHORTLIST", 3)
    seen = broken(monkeypatch, kind, 1)
    args = tensors(*SHAPES)
    fast = superoptimize(rmsnorm_linear, **GENERATED)
    assert_same(fast(*args), rmsnorm_linear(*args))
    (piece,) = fast.result(*args).pieces
    lost = [r for r in piece.meta["rejected"] if r["rule"] == "refuted"]
    assert len(seen) == len(lost) == 1
    assert lost[0]["detail"].startswith("its tile programs are wrong: ")
    assert piece.certificate["layers"]["index_maps"] == "proved"


def test_where_all_are_refuted_pytorch_runs(
    monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    seen = broken(monkeypatch, "store deleted", 1000)
    args = tensors(*SHAPES)
    fast = superoptimize(rmsnorm_linear, budget="20c")
    assert_same(fast(*args), rmsnorm_linear(*args))
    assert seen and "its tile programs are wrong" in "".join(warnings())
    with pytest.raises(VerificationFailed, match="its tile programs are wrong"):
        superoptimize(rmsnorm_linear, budget="20c", strict=True)(*args)
