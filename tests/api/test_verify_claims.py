"""Every leaf of a certificate is checked by ``superopt verify``, or is named here as unchecked."""

from __future__ import annotations

import copy
import fnmatch
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.errors import CertificateCorrupt, SuperoptError
from superopt.pipeline.rechecking import sources
from superopt.pipeline.rechecking.binary import unable
from superopt.pipeline.rechecking.claimed import check_claims
from superopt.pipeline.rechecking.derivation import Graphs, check_graphs
from superopt.pipeline.rechecking.outcome import Seeds
from superopt.pipeline.rechecking.parts import read_parts
from superopt.pipeline.rechecking.sources import (
    check_accesses,
    check_plans,
    print_again,
    prove_again,
)
from superopt.runtime.artefact import Artefact, read_artefact
from superopt.verify import certificate, schema
from superopt.verify.proofs import Proofs
from tests.api.artefacts import CASES, Forgery, genuine, signed

SHARED_CACHE = True


@pytest.fixture
def entry(kernels_folder: Path) -> Callable[[str], Path]:
    return lambda name: genuine(name, kernels_folder)


Place = tuple[str | int, ...]


def leaves(value: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value inside, with its place; of lists the first, the second and the last item."""
    yield at, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*at, key))
    if isinstance(value, list):
        for k in sorted({0, 1, len(value) - 1} & set(range(len(value)))):
            yield from leaves(value[k], (*at, k))


def changes(value: Any) -> dict[str, Any]:
    """Other values of the same or another type, each with the name of the change."""
    out: dict[str, Any] = {"type": {"other": 1}, "none": None}
    if isinstance(value, bool):
        out = {"other": not value}
    elif isinstance(value, int | float):
        out |= {"more": value * 5 + 1000, "less": -1}
    elif isinstance(value, str):
        out |= {"other": value + "x", "empty": ""}
    elif isinstance(value, list):
        out |= {"empty": [], "longer": [*value, *(value[:1] or [0])]}
    elif isinstance(value, dict):
        out |= {"empty": {}, "longer": {**value, "another": 1}}
        out |= {f"without {k}": {j: v for j, v in value.items() if j != k} for k in value}
    elif value is None:
        out = {"number": 1000, "word": "x"}
    return {k: v for k, v in out.items() if v != value or type(v) is not type(value)}


def put(proof: dict[str, Any], at: Place, value: Any) -> dict[str, Any]:
    out = copy.deepcopy(proof)
    inside: Any = out
    for key in at[:-1]:
        inside = inside[key]
    inside[at[-1]] = value
    return out


SHORT = (("buckets",), ("buckets", 0), ("domain",), ("domain", 0))
"""What is changed of a long certificate."""

UNCHECKED = (
    # Said to be unchecked: what was searched, and what made the kernels.
    "search*",
    "versions.superopt *",
    "versions.torch *",
    "versions.numpy *",
    "versions.python *",
    "versions.compiler *",
    "versions.flags *",
    "versions longer",
    "proofs.solver *",
    # With which seeds, trials and sizes it was shown then, of which the bound is what counts.
    "seeds*",
    "*checks.?.seeds*",
    "*checks.?.sizes*",
    "*checks.?.tied_trials more",
    "*checks.?.clean more",
    "*checks.?.total more",
    "*checks.?.work more",
    "*checks.?.reason *",
    "*checks.?.evaluator *",
    # On the caller's own inputs, which are not kept.
    "*gate.factor more",
    "*gate.reason *",
    "*gate.classes longer",
    "*gate.classes.*.eager more",
    "*gate.classes.*.eager less",
    "*gate.classes.*.max_abs more",
    "*gate.classes.*.max_abs less",
    "*gate.classes.*.eager_of*",
    "*gate.classes.*.reason *",
    "*gate.classes.*.what *",
    "*gate.classes.*.candidate less",
    "*gate.classes.*.limit more",
    # Weaker claims, or more assumptions, than what is found.
    "assumptions longer",
    "*checks.?.assumptions longer",
    # A key that nothing is said of.
    " longer",
)
"""What may be otherwise without being noticed: place and change."""


@pytest.mark.parametrize(("name", "least"), [("normed", 300), ("bare", 300), ("sizes", 250)])
def test_every_leaf_is_checked_or_named(
    name: str, least: int, entry: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = entry(name)
    artefact = read_artefact(path)
    parts = read_parts(artefact)
    assert parts is not None
    lemmas = prove_again(parts, print_again(parts))
    assert None not in lemmas
    monkeypatch.setattr(sources, "lower", functools.cache(lower))
    monkeypatch.setattr(cpu, "emit", functools.cache(cpu.emit))
    graphs = check_graphs(parts, Seeds(5))
    assert check_claims(parts, graphs).status == "equal"
    proof = json.loads((path / "certificate.json").read_text())
    tried, caught, missed = 0, 0, []
    for at, value in leaves(proof):
        if at and (
            at[0] == "digest"
            or (name == "sizes" and (at[0] != "buckets" or at[1:2] not in ((), (0,))))
        ):
            continue
        for change, other in changes(value).items():
            if not at and change in ("type", "none", "without digest"):
                continue
            changed = put(proof, at, other) if at else other
            changed.pop("digest", None)
            tried += 1
            if noticed(changed, artefact, graphs, lemmas):
                caught += 1
                continue
            place = f"{'.'.join(map(str, at))} {change}"
            if not any(fnmatch.fnmatchcase(place, pattern) for pattern in UNCHECKED):
                missed.append((place, value, other))
    assert not missed, "\n".join(
        f"{place}: {value!r:.40} -> {other!r:.40}" for place, value, other in missed
    )
    assert tried >= least and caught >= tried // 2, (tried, caught)


def noticed(
    proof: dict[str, Any], artefact: Artefact, graphs: Graphs, lemmas: list[Proofs | None]
) -> bool:
    """Whether an entry with this certificate, and a digest that fits, is refused."""
    files = {**artefact.files, "certificate.json": signed(proof).encode()}
    try:
        parts = read_parts(replace(artefact, files=files))
        assert parts is not None
        printed = print_again(parts)
        layers = [check_claims(parts, graphs), *check_plans(parts, printed)]
        layers.append(check_accesses(parts, lemmas if all(x.fits for x in printed) else []))
    except SuperoptError:
        return True
    return any(x.status != "equal" for x in layers) or bool(unable(parts.versions))


def lies(proof: dict[str, Any]) -> dict[str, Callable[[dict[str, Any]], Any]]:
    bound = next(k for k, c in enumerate(proof["checks"]) if c["kind"] == "bound")
    check = f"check {bound + 1}"

    def of(p: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = p["checks"][bound]
        return found

    return {
        f"{check} claims an error of at most 2^-": lambda p: of(p).update(bound_log2=9999.0),
        f"{check} claims that nothing had": lambda p: of(p).update(
            kind="identical", bound_log2=None
        ),
        f"{check} is of kind sampled": lambda p: of(p).update(kind="sampled"),
        f"{check} is not equal": lambda p: of(p).update(verdict="not_shown_equal"),
        f"{check} does not name its assumption": lambda p: of(p).update(assumptions=[]),
        f"{check} claims 1000000 trials": lambda p: of(p).update(trials=1000000),
        f"{check} is over no field": lambda p: of(p).update(primes=[7, 3]),
        "lists 0 checks": lambda p: p.update(checks=[]),
        "states index_maps as none": lambda p: p["layers"].update(index_maps="none"),
        "claims event_tables as": lambda p: p["layers"].update(event_tables="sampled"),
        "states the graph as sampled": lambda p: p["layers"].update(graph="sampled"),
        "states the binary as none": lambda p: p["layers"].update(binary="none"),
        "the gate's verdict is not": lambda p: p["gate"].update(passed=False),
        "states the binary as tested": lambda p: p.update(gate=None),
        "claims the factor 0.5": lambda p: p["gate"].update(factor=0.5),
        "passed with an error beyond": lambda p: p["gate"]["classes"][1].update(candidate=1e9),
        "there is no class": lambda p: p["gate"]["classes"][0].update(name="perfect"),
        "it does not explain": lambda p: p.update(explained={}),
        "rest on assumptions that": lambda p: p.update(assumptions=[], explained={}),
    }


def test_a_lie_is_told(entry: Callable[[str], Path], tmp_path: Path) -> None:
    path = entry("bare")
    parts = read_parts(read_artefact(path))
    assert parts is not None
    graphs = check_graphs(parts, Seeds(6))
    proof = json.loads((path / "certificate.json").read_text())
    table = lies(proof)
    for n, (what, lie) in enumerate(table.items()):
        forged = Forgery(path)
        lie(forged.proof)
        found = read_parts(read_artefact(forged.write(tmp_path / str(n))))
        assert found is not None
        layer = check_claims(found, graphs)
        assert layer.status == "bad artefact" and what in layer.text, (what, layer.text)
    assert len(table) >= 19


# -- the schema


@pytest.mark.parametrize("name", CASES)
def test_real_certificates_are_as_the_schema_says(name: str, entry: Callable[[str], Path]) -> None:
    proof = json.loads((entry(name) / "certificate.json").read_text())
    schema.validate(proof)
    assert proof["schema"] == certificate.SCHEMA
    # And nothing stands in one that the schema does not describe.
    assert set(proof) == set(schema.schema()["properties"]) == set(schema.schema()["required"])
    assert set(certificate._REQUIRED) < set(schema.schema()["required"])
    for kinds in certificate._SINCE.values():
        assert set(kinds) <= set(schema.schema()["required"])
    assert set(proof["artefact"]) == {f.name for f in entry(name).iterdir()} - {
        "certificate.json",
        "manifest.json",
    }


def words(rule: Any) -> Iterator[str]:
    """The keywords of a schema."""
    yield from rule
    for key in ("properties", "$defs"):
        for inner in rule.get(key, {}).values():
            yield from words(inner)
    for inner in (*rule.get("anyOf", ()), rule.get("items"), rule.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from words(inner)


def test_the_schema_uses_no_word_that_is_not_read() -> None:
    found = set(words(schema.schema()))
    assert found <= schema.KNOWN and len(found) >= 14


BROKEN: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda p: p.update(schema=True), "schema is no integer"),
    (lambda p: p.update(schema=2), "schema is not 3"),
    (lambda p: p.pop("seeds"), "the certificate lacks 'seeds'"),
    (lambda p: p["checks"].append(7), "checks["),
    (lambda p: p["checks"][0].pop("kind"), "checks[0] lacks 'kind'"),
    (lambda p: p["checks"][0].update(more=1), "checks[0] has 'more'"),
    (lambda p: p["checks"][0].update(bound_log2=-1.0), "checks[0].bound_log2 is below 0"),
    (lambda p: p["checks"][0].update(kind="certain"), "checks[0].kind is none of"),
    (lambda p: p["gate"].update(passed="yes"), "gate.passed is no boolean"),
    (lambda p: p.update(gate=[]), "gate is no object"),
    (lambda p: p["gate"]["classes"][0].update(limit="much"), "gate.classes[0].limit"),
    (lambda p: p["layers"].update(binary="proved"), "layers.binary is none of"),
    (lambda p: p["artefact"].update(x=3), "artefact.x is no string"),
    (lambda p: p["domain"].append({"symbol": "n"}), "domain[0] lacks"),
]


@pytest.mark.parametrize(("edit", "told"), BROKEN, ids=[t for _, t in BROKEN])
def test_what_is_not_as_the_schema_says_is_named(
    edit: Callable[[dict[str, Any]], Any], told: str, entry: Callable[[str], Path]
) -> None:
    proof = json.loads((entry("normed") / "certificate.json").read_text())
    edit(proof)
    with pytest.raises(CertificateCorrupt) as caught:
        schema.validate(proof)
    assert told in caught.value.what, caught.value.what
