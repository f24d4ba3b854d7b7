"""Holds what a certificate claims against what was found of an artefact now."""

from __future__ import annotations

from superopt.mugraph.dispatch import ORIGINAL
from superopt.pipeline.rechecking.derivation import Graphs
from superopt.pipeline.rechecking.outcome import BAD, EQUAL, Layer
from superopt.pipeline.rechecking.parts import Parts
from superopt.runtime.keys import code_fingerprint
from superopt.verify.claims import beyond, contradictions
from superopt.verify.equivalence import ASSUMPTIONS


def check_claims(parts: Parts, graphs: Graphs) -> Layer:
    """Whether the certificate claims more than was found now."""
    proof = parts.certificate
    wrong: list[str] = []
    words = {n: ASSUMPTIONS.get(n.split(":")[0], "") for n in proof["assumptions"]}
    same = proof["versions"]["code"] == code_fingerprint()
    if sorted(proof["explained"]) != sorted(words) or (same and proof["explained"] != words):
        wrong.append("it does not explain the assumptions that it names")
    named = {a for c in proof["checks"] for a in c["assumptions"]}
    if not named <= set(proof["assumptions"]):
        wrong.append("its checks rest on assumptions that it does not list")
    if parts.rule is None:
        wrong += beyond("", proof, graphs.checks[0])
    else:
        wrong += contradictions("", proof)
        for k, (bucket, stated) in enumerate(
            zip(parts.rule.buckets, proof["buckets"], strict=True)
        ):
            if bucket.program != ORIGINAL:
                wrong += beyond(f"bucket {k + 1}: ", stated, graphs.checks[bucket.program])
        listed = [c for b in proof["buckets"] for c in b["checks"]]
        if any(c not in listed for c in proof["checks"]):
            wrong.append("it lists checks of no bucket")
    wrong += [
        f"it claims event_tables as {part['layers']['event_tables']}; found now: none"
        for part in (proof, *proof["buckets"])
        if part["layers"]["event_tables"] != "none"
    ]
    lemmas = proof["proofs"]
    fits = "none" if not lemmas else "sampled" if lemmas["sampled"] else "proved"
    if proof["layers"]["index_maps"] != fits:
        wrong.append(
            f"it states index_maps as {proof['layers']['index_maps']}, its lemmas as {fits}"
        )
    if wrong:
        return Layer("certificate", BAD, "; ".join(wrong))
    stated = proof["layers"]
    text = f"graph {stated['graph']}, binary {stated['binary']}; no claim is stronger than what was found"
    return Layer("certificate", EQUAL, text)
