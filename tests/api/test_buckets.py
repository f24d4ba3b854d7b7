"""Symbolic sizes in buckets: right at every size, each bucket checked, warm without compiling."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

from superopt import superoptimize
from superopt.cost.measure import Timing
from superopt.mugraph.dispatch import ORIGINAL
from superopt.pipeline import making, rooms
from superopt.runtime.bucketed import Bucketed
from superopt.runtime.kernels import Kernels
from superopt.search import buckets, driver
from superopt.verify import certificate
from superopt.verify.equivalence import not_rewritten
from tests.api.programs import assert_same, gated_mlp, rmsnorm_linear, softmax

SHARED_CACHE = True
r = torch.randn
TOKENS, KEYS = Dim("tokens", min=1, max=700), Dim("keys", min=3, max=900)
G, W, U = torch.rand(256) + 0.5, r(256, 96) / 16, r(256, 96) / 16


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


Make = Callable[..., tuple[torch.Tensor, ...]]
Case = tuple[Callable[..., torch.Tensor], Make, dict[str, Any], int]
SOFTMAX: Case = (softmax, lambda n: (r(n, 48),), {"x": {0: TOKENS}}, 1)
"""What is compiled quickly."""

CASES: dict[str, Case] = {
    "rmsnorm_linear": (rmsnorm_linear, lambda n: (r(n, 256), G, W), {"x": {0: TOKENS}}, 1),
    "gated_mlp": (gated_mlp, lambda n: (r(n, 256), W, U), {"x": {0: TOKENS}}, 1),
    "attention_of_dynamic_keys": (
        attention,
        lambda m: (r(4, 1, 32), r(4, m, 32), r(4, m, 32)),
        {"k": {1: KEYS}, "v": {1: KEYS}},
        1,
    ),
    "attention_of_dynamic_tokens_and_keys": (
        attention,
        lambda n, m: (r(2, n, 32), r(2, m, 32), r(2, m, 32)),
        {"q": {1: TOKENS}, "k": {1: KEYS}, "v": {1: KEYS}},
        2,
    ),
}


@pytest.fixture(autouse=True)
def several_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor that hardly any program serves the whole domain within, on any machine."""
    monkeypatch.setattr(buckets, "FACTOR", 1.0001)
    monkeypatch.setattr(buckets, "MOST_BUCKETS", 3)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Kernels, dict[str, int]]]:
    """Each call that a compiled program of a rule served, with its sizes."""
    calls: list[tuple[Kernels, dict[str, int]]] = []
    at = Kernels.at

    def recorded(self: Kernels, tensors: Any, sizes: Any) -> Any:
        calls.append((self, dict(sizes)))
        return at(self, tensors, sizes)

    monkeypatch.setattr(Kernels, "at", recorded)
    return calls


def kernels(fast: Any, *args: Any) -> Bucketed:
    found = fast.result(*args).pieces[0].kernels
    assert isinstance(found, Bucketed)
    return found


def sizes_to_try(found: Bucketed, symbols: int) -> list[tuple[int, ...]]:
    """The ends of every bucket and their neighbours, in the domain, and sizes that divide badly."""
    lists = []
    for k, (_, low, high) in enumerate(found.rule.domain):
        ends = {e for b in found.rule.buckets for e in b.guard[k][1:]}
        near = {e + d for e in ends for d in (-1, 0, 1)} | (
            {3, 17, 64, 129} if symbols == 1 else {65}
        )
        lists.append(sorted(n for n in near if low <= n <= high))
    assert len(lists) == symbols
    return list(itertools.product(*lists))


@pytest.mark.parametrize("name", CASES)
def test_every_size_is_as_in_pytorch(name: str, served: Any, warnings: Callable[[], Any]) -> None:
    fn, make, dynamic, symbols = CASES[name]
    fast = superoptimize(fn, dynamic=dynamic, fallbacks=())
    first = make(*(40,) * symbols)
    assert_same(fast(*first), fn(*first))
    found = kernels(fast, *first)
    assert len(found.rule.buckets) >= 2 and len(found.programs) >= 2, found.rule
    del served[:]
    # The order of the symbols in the rule is that of their names.
    order = sorted(range(symbols), key=lambda k: _read(found, k))
    tried = 0
    for sizes in sizes_to_try(found, symbols):
        args = make(*(sizes[order.index(k)] for k in range(symbols)))
        assert_same(fast(*args), fn(*args))
        tried += 1
    assert tried >= (8 if symbols == 1 else 30), tried
    assert len(served) == tried
    for program, sizes in served:
        bucket = found.rule.buckets[found.rule.find(sizes)]
        assert program is found.programs[bucket.program]
    assert {id(p) for p, _ in served} == {id(p) for p in found.programs}
    # Sizes outside are not the rule's; size 1 is where it is shown to be a size like another.
    count = len(served)
    (_, low, high) = found.rule.domain[order.index(0)]
    for n in (high + 1, *([low - 1] if low > 1 else [])):
        args = make(n, *(40,) * (symbols - 1))
        assert_same(fast(*args), fn(*args))
    assert low == (3 if name == "attention_of_dynamic_keys" else 1) and len(served) == count
    assert warnings() == []


def _read(found: Bucketed, k: int) -> int:
    """Where the k-th symbol that the arguments are made of stands in the rule."""
    inputs = [which for _, which, *_ in found.plan.symbols]
    return sorted(range(len(inputs)), key=lambda n: inputs[n]).index(k) if len(inputs) > 1 else 0


def test_the_certificate_states_the_domain_and_every_bucket() -> None:
    fn, make, dynamic, _ = CASES["rmsnorm_linear"]
    fast = superoptimize(fn, dynamic=dynamic, fallbacks=())
    args = make(40)
    result, found = fast.result(*args), kernels(fast, *args)
    (piece,) = result.pieces
    proof = certificate.loads(certificate.dumps(piece.certificate))
    (domain,) = proof["domain"]
    assert (domain["low"], domain["high"], domain["read"]) == (1, 700, ["dim 0 of x0"])
    assert [b["guard"] for b in proof["buckets"]] == [
        [list(g) for g in b.guard] for b in found.rule.buckets
    ]
    for b in proof["buckets"]:
        assert b["serves"] == "generated" and b["checks"] and b["gate"]["passed"]
        assert all(c["verdict"] == "equal" for c in b["checks"])
        ((name, low, high),) = b["guard"]
        inside = {int(c["name"].split(f"{name}=")[1]) for c in b["gate"]["classes"]}
        assert {low, high} <= inside and all(low <= n <= high for n in inside)
    text = superoptimize.explain(fast, *args)
    assert "buckets:" in text and "from 1 to 700" in text and "program 1" in text
    assert text.count("uGraph, program") == len(found.programs)


def test_a_warm_start_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fn, make, dynamic, _ = CASES["gated_mlp"]
    cold = superoptimize(fn, dynamic=dynamic)
    rule = kernels(cold, *make(40)).rule

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("this was in the cache")

    for module, name in ((making, "compile_many"), (making, "make"), (driver, "search")):
        monkeypatch.setattr(module, name, never)
    warm = superoptimize(fn, dynamic=dynamic, strict=True)
    for n in (300, 2, 40):
        args = make(n)
        assert_same(warm(*args), fn(*args))
    result = warm.result(*make(9))
    assert result.cache == "warm" and kernels(warm, *make(9)).rule == rule
    assert cold.result(*make(40)).winner == result.winner


def test_a_program_that_is_not_shown_equal_serves_no_bucket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fn, make, dynamic, _ = CASES["rmsnorm_linear"]
    args = make(40)
    first = superoptimize(fn, dynamic=dynamic, fallbacks=()).result(*args).pieces[0]
    refused = str(first.mugraphs[-1].graph.pruned()).splitlines()
    rewritten = making.Checker.rewritten

    def unless(self: Any, a: Any, b: Any) -> Any:
        found = rewritten(self, a, b)
        same = [x for x in str(b).splitlines() if "axis" not in x]
        if same == [x for x in refused if "axis" not in x]:
            return not_rewritten(0)
        return found

    monkeypatch.setattr(making.Checker, "rewritten", unless)
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path / "other"))
    fast = superoptimize(fn, dynamic=dynamic, fallbacks=())
    piece = fast.result(*args).pieces[0]
    graphs = [[x for x in str(m.graph).splitlines() if "axis" not in x] for m in piece.mugraphs]
    assert [x for x in refused if "axis" not in x] not in graphs
    assert all(c["verdict"] == "equal" for b in piece.certificate["buckets"] for c in b["checks"])
    for n in (2, 24, 25, 100, 322, 323, 700):
        args = make(n)
        assert_same(fast(*args), fn(*args))


def test_a_bucket_for_which_no_binary_is_admitted_is_left_to_pytorch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, served: Any, warnings: Callable[[], Any]
) -> None:
    fn, make, dynamic, _ = SOFTMAX
    admit = rooms.admit

    def strict(graph: Any, candidate: Any, eager: Any, inputs: Any, sizes: Any, **more: Any) -> Any:
        from dataclasses import replace

        found = admit(graph, candidate, eager, inputs, sizes, **more)
        return (
            replace(found, passed=False, reason="too large") if max(sizes.values()) > 90 else found
        )

    monkeypatch.setattr(rooms, "admit", strict)
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path / "other"))
    fast = superoptimize(fn, dynamic=dynamic, fallbacks=())
    found = kernels(fast, *make(40))
    last = found.rule.buckets[-1]
    assert last.program == ORIGINAL and found.rule.buckets[0].program != ORIGINAL
    result = fast.result(*make(40))
    assert result.winner == "by size"
    assert [b["serves"] for b in result.certificate["buckets"]][-1] == "original"
    assert "PyTorch, since no program was admitted" in superoptimize.explain(fast, *make(40))
    del served[:]
    for n in (last.guard[0][1], 500, 700):
        args = make(n)
        assert_same(fast(*args), fn(*args))
    assert not served and warnings() == []
    args = make(last.guard[0][1] - 1)
    assert_same(fast(*args), fn(*args))
    assert len(served) == 1


@pytest.mark.parametrize("fallbacks", [("eager",), ()])
def test_pytorch_serves_the_buckets_in_which_it_was_faster(
    fallbacks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, served: Any
) -> None:
    _, make, dynamic, _ = SOFTMAX

    def times(self: Any, some: Any, here: Any) -> list[Timing]:
        eager = 0.5 if max(here.sizes.values()) > 90 else 2.0
        return [Timing(1.0, 0.0, 5)] * len(some) + [Timing(eager, 0.0, 5)]

    monkeypatch.setattr(making.Fits, "_times", times)
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path / "other"))
    fast = superoptimize(softmax, dynamic=dynamic, fallbacks=fallbacks)
    found = kernels(fast, *make(40))
    result = fast.result(*make(40))
    slow = [b.slower for b in found.rule.buckets]
    assert slow[0] is False and slow[-1] is True
    assert result.winner == ("by size" if fallbacks else "generated")
    for n in (2, 40, 600, 700):
        args = make(n)
        del served[:]
        bucket = found.rule.buckets[found.rule.find({found.rule.domain[0][0]: n})]
        assert_same(fast(*args), softmax(*args))
        assert len(served) == (0 if bucket.slower and fallbacks else 1)
        alone = len(served)
        result.generated(*args)
        assert len(served) == alone + 1  # generated kernels alone, whatever serves
