"""The parts of an artefact, read and held against one another: files, certificate, plans, claims."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from superopt.errors import (
    CacheCorrupt,
    CertificateMismatch,
    ParseError,
    SuperoptError,
)
from superopt.mugraph.canonical import mugraph_hash
from superopt.mugraph.dispatch import ORIGINAL, Dispatch, Guard
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.resize import symbols
from superopt.mugraph.text import parse_graph, parse_mugraph
from superopt.pipeline import size_one
from superopt.pipeline.rechecking.outcome import EQUAL, Layer
from superopt.pipeline.size_one import SizeOne
from superopt.runtime.artefact import CERTIFICATE, DISPATCH, PROGRAM, SIZE_ONE, Artefact
from superopt.runtime.bucketed import fits
from superopt.runtime.plan import Plan
from superopt.runtime.site import key_of, numbered
from superopt.verify import certificate
from superopt.verify.schema import validate

_FIX = "build the program again"


@dataclass(frozen=True)
class Parts:
    """An artefact's parts; mugraphs, plans, sources and binaries are those of each program in order."""

    artefact: Artefact
    certificate: Mapping[str, Any]
    program: Graph
    size_one: Sequence[SizeOne]
    mugraphs: Sequence[MuGraph]
    plans: Sequence[Plan]
    sources: Sequence[str]
    binaries: Sequence[bytes]
    rule: Dispatch | None

    @property
    def versions(self) -> Mapping[str, str]:
        """Of what made it."""
        versions: Mapping[str, str] = self.certificate["versions"]
        return versions

    def guards(self, n: int) -> list[Guard]:
        """The buckets that a program serves; one without symbols where there is no rule."""
        if self.rule is None:
            return [()]
        return [b.guard for b in self.rule.buckets if b.program == n]

    def layer(self) -> Layer:
        """That all files and hashes fit."""
        programs = len(self.mugraphs)
        text = f"{len(self.artefact.files) + 1} files, {programs} program{'s' * (programs != 1)}; "
        return Layer("files", EQUAL, f"{text}manifest and certificate name each by its SHA-256")


def read_parts(artefact: Artefact) -> Parts | None:
    """The parts of an artefact, and whether the certificate names each; None if it has no kernel.

    Raises the errors of the readers, CertificateMismatch where the certificate is of other files, and
    CacheCorrupt where an older version made it.
    """
    if not artefact.files:
        return None
    where = str(artefact.path)
    proof = certificate.loads(artefact.text(CERTIFICATE))
    if proof["schema"] < certificate.SCHEMA or PROGRAM not in artefact.files:
        made = proof["versions"].get("superopt", "an unknown version")
        raise CacheCorrupt(
            f"it was made by an older version (superopt {made}, certificate schema "
            f"{proof['schema']}) and does not hold what is needed to check it again",
            where,
            "build the program again with this version",
        )
    validate(proof)
    _check_hashes(artefact, proof)
    program = _parsed(artefact, PROGRAM, parse_graph)
    count = len(artefact.libraries)
    mugraphs = [_parsed(artefact, numbered("mugraph.txt", n), parse_mugraph) for n in range(count)]
    certificate.check_belongs(proof, program, mugraphs[0])
    _check_key(artefact, proof)
    older = [SIZE_ONE] if SIZE_ONE in artefact.files else []
    parts = Parts(
        artefact,
        proof,
        program,
        [s for name in older for s in size_one.loads(artefact.text(name), name)],
        mugraphs,
        [Plan.from_json(artefact.text(numbered("plan.json", n))) for n in range(count)],
        [artefact.text(numbered("kernel.cpp", n)) for n in range(count)],
        [artefact.files[name] for name in artefact.libraries],
        _rule(artefact),
    )
    _check_rule(parts, where)
    return parts


def _parsed(artefact: Artefact, name: str, parse: Any) -> Any:
    """A graph of the artefact; errors name the file."""
    try:
        return parse(artefact.text(name))
    except SuperoptError as error:
        raise type(error)(error.what, f"{name}, {error.where}", _FIX) from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise ParseError(f"it cannot be read ({error})", name, _FIX) from None


def _check_hashes(artefact: Artefact, proof: Mapping[str, Any]) -> None:
    """The certificate names each file but itself by its hash."""
    others = {n: content for n, content in artefact.files.items() if n != CERTIFICATE}
    named = proof["artefact"]
    if missing := sorted(set(others) ^ set(named)):
        raise CertificateMismatch(
            f"the certificate is of other files: {missing[0]} is not in both", CERTIFICATE
        )
    for name, content in sorted(others.items()):
        if hashlib.sha256(content).hexdigest() != named[name]:
            raise CertificateMismatch(f"the certificate is of another {name}", CERTIFICATE)


_KEY = re.compile(r"[0-9a-f]{64}")


def _check_key(artefact: Artefact, proof: Mapping[str, Any]) -> None:
    """The key is the address of the program and of what the manifest says decided its kernels."""
    around = artefact.entry.meta.get("surroundings")
    try:
        key = key_of(proof["program"], around) if isinstance(around, dict) else ""
    except TypeError:
        key = ""
    if not isinstance(around, dict) or key != artefact.entry.key:
        what = "its key is not that of its program and surroundings"
        raise CacheCorrupt(what, str(artefact.path), _FIX)
    name = artefact.path.resolve().name
    if _KEY.fullmatch(name) and name != key:  # a copy may be called as one likes
        what = f"it lies under the key {name[:12]}, and is the entry of {key[:12]}"
        raise CacheCorrupt(what, str(artefact.path), _FIX)
    if around.get("code") != proof["versions"]["code"]:
        what = "manifest and certificate were made by different code"
        raise CacheCorrupt(what, str(artefact.path), _FIX)


def _rule(artefact: Artefact) -> Dispatch | None:
    if DISPATCH not in artefact.files:
        return None
    return Dispatch.from_json(artefact.text(DISPATCH))


def _check_rule(parts: Parts, where: str) -> None:
    """The rule and the certificate's buckets are of these programs, and of the program's symbols."""
    domain: Guard = tuple((s.name, s.lo, s.hi) for s in symbols(parts.program))
    rule, proof = parts.rule, parts.certificate
    if (rule.domain if rule is not None else ()) != domain:
        raise CacheCorrupt("the dispatch rule is not over the program's sizes", where, _FIX)
    if proof["domain"] != [certificate.range_of(parts.program, *r) for r in domain]:
        raise CertificateMismatch("the certificate states another domain", CERTIFICATE)
    hashes = [mugraph_hash(m) for m in parts.mugraphs]
    if proof["graph"] != hashes[0]:
        raise CertificateMismatch("the certificate is of another graph", CERTIFICATE)
    if rule is None:
        if len(parts.mugraphs) != 1 or proof["buckets"]:
            raise CacheCorrupt("several programs, and no rule among them", where, _FIX)
        return
    fits(rule, parts.plans)
    used = {b.program for b in rule.buckets} - {ORIGINAL}
    if used != set(range(len(hashes))):
        raise CacheCorrupt("a program serves no bucket", where, _FIX)
    stated = [
        (tuple(map(tuple, b["guard"])), b["serves"], b["eager_faster"], b["graph"])
        for b in proof["buckets"]
    ]
    wanted = [
        (b.guard, "original", b.slower, None)
        if b.program == ORIGINAL
        else (b.guard, "generated", b.slower, hashes[b.program])
        for b in rule.buckets
    ]
    if stated != wanted:
        raise CertificateMismatch("the certificate is of another dispatch rule", CERTIFICATE)
