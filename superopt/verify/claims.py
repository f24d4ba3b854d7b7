"""Compares what a certificate claims with what was found now: nothing stronger may stand in it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from superopt.mugraph.algebras.chain import CHAINS
from superopt.verify.certificate import layers
from superopt.verify.equivalence import Equivalence
from superopt.verify.gate import FACTOR, ClassResult, Gate
from superopt.verify.inputs import CLASSES

SLACK = 1.0
"""Bits by which a bound may be below the claimed one: a part of it is found by random probing."""

MORE_TRIALS = 4
"""How many times as many trials may have been needed, by luck, as are needed now."""

STRENGTH = {"none": 0, "sampled": 1, "tested": 1, "proved": 2}
"""Of the words for a layer."""

_CLASS = re.compile(r"(\w+)( in input \d+)?( [^ =,]+=\d+(,[^ =,]+=\d+)*)?\Z")
"""A class of inputs, which input it touches, and the sizes."""

_FIELDS = {("none", ()), *((c.name, tuple(c.primes)) for c in CHAINS)}


def beyond(where: str, claimed: Mapping[str, Any], found: Sequence[Equivalence]) -> list[str]:
    """What is claimed of one program, or bucket, beyond what its checks gave now.

    claimed: a part of the certificate with its ``checks``, ``gate`` and ``layers``; found: the checks
    in the same order.
    """
    out = contradictions(where, claimed)
    checks = [(n, c) for n, c in enumerate(claimed["checks"]) if c["kind"] != "second"]
    main = [c for c in found if c.kind != "second"]
    if len(checks) != len(main):
        what = f"{where}lists {len(checks)} checks, and its graphs ask for {len(main)}"
        return [*out, what]
    # A second check may have no result with other seeds, and claims nothing by itself.
    beside = [(n, c) for n, c in enumerate(claimed["checks"]) if c["kind"] == "second"]
    again = [c for c in found if c.kind == "second"]
    pairs = [*zip(checks, main, strict=True), *zip(beside, again, strict=False)]
    for (n, mine), now in pairs:
        name = f"{where}check {n + 1}"
        bound = mine["bound_log2"]
        if mine["kind"] == "identical" != now.kind:
            out.append(f"{name} claims that nothing had to be checked; found now: {now.kind}")
        elif bound is not None and now.kind == "sampled":
            out.append(f"{name} claims an error of at most 2^-{bound:.0f}; found now: no bound")
        elif bound is not None and bound > (now.bound_log2 or math.inf) + SLACK:
            what = f"an error of at most 2^-{bound:.1f}; found now: 2^-{now.bound_log2:.1f}"
            out.append(f"{name} claims {what}")
        if now.cases and not mine["cases"]:
            out.append(f"{name} does not say that cases may not have been met")
        if now.kind != "identical" and mine["trials"] > MORE_TRIALS * max(now.trials, 64):
            out.append(f"{name} claims {mine['trials']} trials; found now: {now.trials}")
        if hidden := sorted(set(now.assumptions) - set(mine["assumptions"])):
            out.append(f"{name} does not name its assumption {hidden[0]!r}")
    strongest = layers(found, None, None, {})["graph"]
    if STRENGTH[claimed["layers"]["graph"]] > STRENGTH[strongest]:
        what = f"the graph as {claimed['layers']['graph']}; found now: {strongest}"
        out.append(f"{where}claims {what}")
    return out


def contradictions(where: str, claimed: Mapping[str, Any]) -> list[str]:
    """What a part of a certificate says that does not fit what else it says."""
    out = []
    checks = claimed["checks"]
    for n, check in enumerate(checks):
        name = f"{where}check {n + 1}"
        if check["verdict"] != "equal":
            out.append(f"{name} is not equal, and yet its program is served")
        if (check["kind"] == "bound") != (check["bound_log2"] is not None):
            out.append(f"{name} is of kind {check['kind']} and has the bound {check['bound_log2']}")
        if check["cases"] and check["kind"] != "sampled":
            out.append(f"{name} is of kind {check['kind']} and has cases that were not met")
        if check["kind"] == "identical" and (check["trials"] or check["tied_trials"]):
            out.append(f"{name} had nothing to check, and claims trials")
        if (check["field"], tuple(check["primes"])) not in _FIELDS:
            out.append(f"{name} is over no field of this version")
    out += _gate_contradictions(where, claimed["gate"])
    gate = claimed["gate"]
    passed = Gate(True, FACTOR, (), "") if gate is not None and gate["passed"] else None
    kinds = [Equivalence(c["verdict"], c["bound_log2"], c["kind"]) for c in checks]
    fits = layers(kinds, passed, None, {})
    for name in ("graph", "binary"):
        if claimed["layers"][name] != fits[name]:
            what = f"the {name} as {claimed['layers'][name]}, its own checks as {fits[name]}"
            out.append(f"{where}states {what}")
    return out


def _gate_contradictions(where: str, gate: Mapping[str, Any] | None) -> list[str]:
    if gate is None:
        return []
    out = []
    classes = gate["classes"]
    if gate["passed"] != all(c["passed"] for c in classes) or not classes:
        out.append(f"{where}the gate's verdict is not that of its classes")
    if not gate["passed"]:
        out.append(f"{where}the gate did not pass, and yet its program is served")
    if gate["factor"] < FACTOR:
        out.append(f"{where}claims the factor {gate['factor']:g}; the gate's is {FACTOR:g}")
    for c in classes:
        error, limit = (_number(c[k]) for k in ("candidate", "limit"))
        if c["passed"] and not error <= limit:
            out.append(f"{where}class {c['name']!r} passed with an error beyond its limit")
        named = _CLASS.match(c["name"])
        if named is None or named[1] not in ("given", *CLASSES):
            out.append(f"{where}there is no class of inputs {c['name']!r}")
    return out


def _number(value: Any) -> float:
    """JSON has no infinities and no NaN: they are words there."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def worst(gate: Gate) -> ClassResult | None:
    """The class whose error came closest to its limit."""
    return max(
        gate.classes, key=lambda c: c.candidate / c.limit if c.limit > 0 else 0.0, default=None
    )
