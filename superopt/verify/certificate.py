"""The certificate: what was proved, sampled and tested of one program, as JSON beside its kernels."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy
import torch

from superopt.errors import CertificateCorrupt, CertificateMismatch, CertificateTooNew
from superopt.mugraph.axes import Sym
from superopt.mugraph.canonical import graph_hash, mugraph_hash
from superopt.mugraph.dispatch import ORIGINAL, Bucket, Dispatch, Guard
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.verify.equivalence import ASSUMPTIONS, Equivalence
from superopt.verify.gate import Gate
from superopt.verify.proofs.lemma import SAMPLED, Proofs

SCHEMA = 3
"""Version of the certificate's form; a reader refuses a newer one.

The first had no domain; the second had no lemmas about the accesses of its kernels, and did not name the
files that it is about. The form of the newest is in ``certificate.schema.json``.
"""

_Kinds = dict[str, type | tuple[type, ...]]

_REQUIRED: _Kinds = {
    "schema": int,
    "program": str,
    "graph": str,
    "checks": list,
    "gate": (dict, type(None)),
    "assumptions": list,
    "explained": dict,
    "layers": dict,
    "versions": dict,
    "digest": str,
}
_SINCE: dict[int, _Kinds] = {
    2: {"domain": list, "buckets": list},
    3: {"proofs": dict, "artefact": dict, "seeds": dict},
}


@dataclass(frozen=True)
class Shown:
    """What was shown of one bucket: its guard, its program (None: the original) and its checks.

    eager: whether eager PyTorch was measured to be faster, and serves where it is allowed to.
    lemmas: about the accesses of its tile programs.
    """

    guard: Guard
    mugraph: MuGraph | None
    checks: Sequence[Equivalence] = ()
    gate: Gate | None = None
    eager: bool = False
    lemmas: Proofs | None = None


def build(
    program: Graph,
    mugraph: MuGraph,
    checks: Sequence[Equivalence],
    gate: Gate | None,
    *,
    domain: Guard = (),
    buckets: Sequence[Shown] = (),
    lemmas: Proofs | None = None,
    proofs: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
    search: Mapping[str, Any] | None = None,
    artefact: Mapping[str, str] | None = None,
    seeds: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The certificate of a placed program that was derived from ``program``.

    checks: of the graph against the program first, then of each one-pass transition; lemmas: about
    the accesses of all tile programs that it is compiled from, none of them refuted; proofs: of
    other layers (event tables), name -> "proved" or "sampled"; versions: of more tools than
    torch, numpy, Python and superopt; search: the algebraic spaces that were searched, which of
    them are closed, and under which axioms. domain: the range of each size symbol, beyond which the
    original runs; buckets: of several programs, what was shown of each, where it serves (mugraph is
    the first, checks are those of all, and gate is the verdict over all). artefact: each file that is
    stored beside it, with its SHA-256; seeds: what they are of -> the seed. ``layers`` says of each
    layer what is claimed: "proved" (an error bound, or a proof), "sampled" (no bound), "tested" (the
    binary) or "none".
    """
    names = sorted({n for c in checks for n in c.assumptions})
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "program": graph_hash(program),
        "graph": mugraph_hash(mugraph),
        "checks": [_check(c) for c in checks],
        "gate": None if gate is None else _plain(asdict(gate)),
        "assumptions": names,
        "explained": {n: ASSUMPTIONS[n.split(":")[0]] for n in names},
        "layers": layers(checks, gate, lemmas, proofs or {}),
        "proofs": proofs_of(lemmas),
        "artefact": dict(artefact or {}),
        "seeds": dict(seeds or {}),
        "domain": [range_of(program, *r) for r in domain],
        "buckets": [_bucket(b, proofs or {}) for b in buckets],
        "search": _plain(search or {}),
        "versions": {**_versions(), **(versions or {})},
    }
    return {**body, "digest": _digest(body)}


def range_of(program: Graph, symbol: str, low: int, high: int) -> dict[str, Any]:
    """A symbol, its range, and the dimensions whose size it is."""
    read = [
        f"dim {k} of {n.name}"
        for n in program.inputs
        for k, dim in enumerate(n.dims)
        if any(isinstance(a.size, Sym) and a.size.name == symbol for a in dim)
    ]
    return {"symbol": symbol, "low": low, "high": high, "read": read}


def _bucket(shown: Shown, proofs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "guard": [list(r) for r in shown.guard],
        "serves": "original" if shown.mugraph is None else "generated",
        "eager_faster": shown.eager,
        "graph": None if shown.mugraph is None else mugraph_hash(shown.mugraph),
        "checks": [_check(c) for c in shown.checks],
        "gate": None if shown.gate is None else _plain(asdict(shown.gate)),
        "layers": layers(shown.checks, shown.gate, shown.lemmas, proofs),
    }


def _check(check: Equivalence) -> dict[str, Any]:
    out = _plain(asdict(check))
    name, primes = check.field
    out["field"] = name
    out["primes"] = list(primes)
    return out


def layers(
    checks: Sequence[Equivalence],
    gate: Gate | None,
    lemmas: Proofs | None,
    proofs: Mapping[str, str],
) -> dict[str, str]:
    """What is claimed of each layer."""
    kinds = {c.kind for c in checks}
    graph = (
        "none" if not checks or not all(checks) else "sampled" if "sampled" in kinds else "proved"
    )
    return {
        "graph": graph,
        "index_maps": "none" if lemmas is None else lemmas.verdict,
        "event_tables": proofs.get("event_tables", "none"),
        "binary": "tested" if gate is not None and gate.passed else "none",
    }


def proofs_of(lemmas: Proofs | None) -> dict[str, Any]:
    """How many lemmas of each kind there are, how many Z3 was asked, and which it did not prove."""
    if lemmas is None:
        return {}
    return {
        "solver": f"z3 {lemmas.solver}" if lemmas.solver else "",
        "lemmas": lemmas.count(),
        "by_solver": sum(x.solver for x in lemmas.lemmas),
        "sampled": sorted({f"{x.kind}: {x.subject}" for x in lemmas.of(SAMPLED)}),
    }


def _versions() -> dict[str, str]:
    from superopt.config import version

    return {
        "superopt": version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def dumps(certificate: Mapping[str, Any]) -> str:
    """The certificate as JSON text."""
    return json.dumps(certificate, indent=1, sort_keys=True, allow_nan=False) + "\n"


def loads(text: str) -> dict[str, Any]:
    """Reads a certificate and checks its form and digest.

    Raises CertificateTooNew for a schema this version does not know, and CertificateCorrupt for
    anything that is not a whole certificate.
    """
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CertificateCorrupt(what=f"it is no JSON: {error}", where="certificate") from None
    if not isinstance(found, dict) or not isinstance(found.get("schema"), int):
        raise CertificateCorrupt(what="it states no schema", where="certificate")
    if found["schema"] > SCHEMA:
        raise CertificateTooNew(
            what=f"its schema is {found['schema']}, this version reads up to {SCHEMA}",
            where="certificate",
        )
    required = dict(_REQUIRED)
    for schema, kinds in _SINCE.items():
        required.update(kinds if found["schema"] >= schema else {})
    for key, kind in required.items():
        if not isinstance(found.get(key, ...), kind):
            raise CertificateCorrupt(
                what=f"{key!r} is missing or of another type", where="certificate"
            )
    try:
        fits = found["digest"] == _digest({k: v for k, v in found.items() if k != "digest"})
    except ValueError:  # 1e999 is read as infinite, which is no JSON
        fits = False
    if not fits:
        raise CertificateCorrupt(what="its digest does not fit its contents", where="certificate")
    if found.get("buckets"):
        _check_buckets(found)
    return found


def _check_buckets(found: Mapping[str, Any]) -> None:
    """Every size of the domain has exactly one bucket."""
    try:
        domain = tuple((r["symbol"], r["low"], r["high"]) for r in found["domain"])
        guards = [tuple((s, low, high) for s, low, high in b["guard"]) for b in found["buckets"]]
        Dispatch(domain, tuple(Bucket(g, ORIGINAL) for g in guards))
    except (ValueError, KeyError, TypeError) as error:
        raise CertificateCorrupt(
            what=f"its buckets do not divide its domain: {error}", where="certificate"
        ) from None


def check_belongs(certificate: Mapping[str, Any], program: Graph, mugraph: MuGraph) -> None:
    """Raises CertificateMismatch when the certificate is of another program or graph.

    The graph may be that of any bucket.
    """
    of_buckets = [b["graph"] for b in certificate.get("buckets", ())]
    for key, found in (("program", graph_hash(program)), ("graph", mugraph_hash(mugraph))):
        if certificate[key] != found and not (key == "graph" and found in of_buckets):
            raise CertificateMismatch(
                what=f"the certificate is of another {key}", where=f"hash {certificate[key][:12]}"
            )


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    return _hash(json.dumps(body, sort_keys=True, allow_nan=False))


def _plain(value: Any) -> Any:
    """JSON has no tuples and no infinities."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value
