"""The certificate: what was proved, sampled and tested of one program, as JSON beside its kernels."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy
import torch

from superopt.errors import CertificateCorrupt, CertificateMismatch, CertificateTooNew
from superopt.mugraph.canonical import graph_hash, mugraph_hash
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.verify.equivalence import ASSUMPTIONS, Equivalence
from superopt.verify.gate import Gate

SCHEMA = 1
"""Version of the certificate's form; a reader refuses a newer one."""

_REQUIRED: dict[str, type | tuple[type, ...]] = {
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


def build(
    program: Graph,
    mugraph: MuGraph,
    checks: Sequence[Equivalence],
    gate: Gate | None,
    *,
    proofs: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
    search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The certificate of a placed program that was derived from ``program``.

    checks: of the graph against the program first, then of each one-pass transition; proofs: of
    index maps and event tables, name -> "proved" or "sampled"; versions: of more tools than
    torch, numpy, Python and superopt; search: the algebraic spaces that were searched, which of
    them are closed, and under which axioms. ``layers`` says of each layer what is claimed: "proved"
    (an error bound, or a proof), "sampled" (no bound), "tested" (the binary) or "none".
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
        "layers": _layers(checks, gate, proofs or {}),
        "search": _plain(search or {}),
        "versions": {**_versions(), **(versions or {})},
    }
    return {**body, "digest": _digest(body)}


def _check(check: Equivalence) -> dict[str, Any]:
    out = _plain(asdict(check))
    name, primes = check.field
    out["field"] = name
    out["primes"] = list(primes)
    return out


def _layers(
    checks: Sequence[Equivalence], gate: Gate | None, proofs: Mapping[str, str]
) -> dict[str, str]:
    """What is claimed of each layer."""
    kinds = {c.kind for c in checks}
    graph = (
        "none" if not checks or not all(checks) else "sampled" if "sampled" in kinds else "proved"
    )
    return {
        "graph": graph,
        "index_maps": proofs.get("index_maps", "none"),
        "event_tables": proofs.get("event_tables", "none"),
        "binary": "tested" if gate is not None and gate.passed else "none",
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
        found = json.loads(text)
    except ValueError as error:
        raise CertificateCorrupt(what=f"it is no JSON: {error}", where="certificate") from None
    if not isinstance(found, dict) or not isinstance(found.get("schema"), int):
        raise CertificateCorrupt(what="it states no schema", where="certificate")
    if found["schema"] > SCHEMA:
        raise CertificateTooNew(
            what=f"its schema is {found['schema']}, this version reads up to {SCHEMA}",
            where="certificate",
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(found.get(key, ...), kind):
            raise CertificateCorrupt(
                what=f"{key!r} is missing or of another type", where="certificate"
            )
    if found["digest"] != _digest({k: v for k, v in found.items() if k != "digest"}):
        raise CertificateCorrupt(what="its digest does not fit its contents", where="certificate")
    return found


def check_belongs(certificate: Mapping[str, Any], program: Graph, mugraph: MuGraph) -> None:
    """Raises CertificateMismatch when the certificate is of another program or graph."""
    for key, found in (("program", graph_hash(program)), ("graph", mugraph_hash(mugraph))):
        if certificate[key] != found:
            raise CertificateMismatch(
                what=f"the certificate is of another {key}", where=f"hash {certificate[key][:12]}"
            )


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
