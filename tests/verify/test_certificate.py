"""The certificate round-trips, and every broken one is refused with its own error."""

import json

import pytest
import torch

from superopt.cost.model import cost_on
from superopt.errors import CertificateCorrupt, CertificateMismatch, CertificateTooNew
from superopt.mugraph.placement import Kernel, MuGraph, Placement
from superopt.search import driver
from superopt.search.figures import claim
from superopt.verify import certificate
from superopt.verify.equal import check_equal
from superopt.verify.gate import numeric_gate
from superopt.verify.proofs.lemma import Lemma, Proofs
from tests.devices import known_device
from tests.programs import lora, rmsnorm_linear


def made(graph=None):
    source, found = rmsnorm_linear(late=False), graph or rmsnorm_linear(late=True)
    mugraph = MuGraph(found, (Kernel("k", tuple(o.node for o in found.outputs), Placement()),))
    check = check_equal(source, found, seed=3)
    gate = numeric_gate(lambda xs: xs[0] + 1, lambda x: x + 1, [torch.ones(3)])
    return source, mugraph, certificate.build(source, mugraph, [check], gate)


def test_it_round_trips_and_says_what_is_claimed():
    source, mugraph, proof = made()
    text = certificate.dumps(proof)
    assert certificate.loads(text) == json.loads(text) == proof
    certificate.check_belongs(proof, source, mugraph)
    assert proof["layers"] == {
        "graph": "proved",
        "index_maps": "none",
        "event_tables": "none",
        "binary": "tested",
    }
    (check,) = proof["checks"]
    assert check["verdict"] == "equal" and check["bound_log2"] >= 64 and check["seeds"] == [3]
    assert check["primes"][0] == 2147438927 and check["field"] == "p31a"
    assert set(proof["assumptions"]) == set(proof["explained"])
    assert all(proof["versions"].values())


def test_the_spaces_that_were_searched_are_listed():
    source, mugraph, _ = made()
    found = driver.search(
        source, cost_on(known_device(frozenset(), 2)), driver.Budget(None, 5, region_seconds=60.0)
    )
    proof = certificate.build(source, mugraph, [], None, search=claim(found.stats))
    assert certificate.loads(certificate.dumps(proof))["search"] == proof["search"]
    (space,) = proof["search"]["spaces"]
    assert proof["search"]["closed"] is space["closed"] is True
    assert space["rank"] == 3 and space["states"] > space["classes"] > 10 and not space["why"]
    assert len(proof["search"]["axioms"]) >= 5 and "rank" in proof["search"]["complete"]
    # A space that was not exhausted is listed as such.
    short = driver.Budget(None, 5, region_seconds=60.0, values=50)
    found = driver.search(source, cost_on(known_device(frozenset(), 2)), short)
    told = claim(found.stats)
    assert not told["closed"] and [s["why"] for s in told["spaces"]] == ["budget"]


def test_what_was_not_shown_is_not_claimed():
    source, mugraph, _ = made()
    proof = certificate.build(source, mugraph, [], None)
    assert proof["layers"]["graph"] == proof["layers"]["binary"] == "none"
    wrong = check_equal(source, lora(), seed=1)
    assert certificate.build(source, mugraph, [wrong], None)["layers"]["graph"] == "none"


DOMAIN = (("n", 2, 64),)


def with_buckets(*guards):
    source, mugraph, _ = made()
    checks = [check_equal(source, mugraph.graph, seed=3)]
    gate = numeric_gate(lambda xs: xs[0] + 1, lambda x: x + 1, [torch.ones(3)])
    buckets = [certificate.Shown((("n", *g),), mugraph, checks, gate) for g in guards[:-1]]
    buckets.append(certificate.Shown((("n", *guards[-1]),), None))
    return (
        source,
        mugraph,
        certificate.build(source, mugraph, checks, gate, domain=DOMAIN, buckets=buckets),
    )


def test_it_states_the_domain_and_what_was_shown_of_each_bucket():
    source, mugraph, proof = with_buckets((2, 9), (10, 40), (41, 64))
    assert certificate.loads(certificate.dumps(proof)) == proof
    certificate.check_belongs(proof, source, mugraph)
    (given,) = proof["domain"]
    assert (given["symbol"], given["low"], given["high"]) == ("n", 2, 64)
    assert [b["guard"] for b in proof["buckets"]] == [
        [["n", 2, 9]],
        [["n", 10, 40]],
        [["n", 41, 64]],
    ]
    assert [b["serves"] for b in proof["buckets"]] == ["generated", "generated", "original"]
    for b in proof["buckets"][:2]:
        assert b["checks"][0]["verdict"] == "equal" and b["gate"]["passed"]
        assert b["layers"]["graph"] == "proved" and b["layers"]["binary"] == "tested"
    last = proof["buckets"][2]
    assert last["graph"] is None and last["layers"]["binary"] == last["layers"]["graph"] == "none"


@pytest.mark.parametrize(
    "guards", [((2, 9), (11, 64)), ((2, 9), (9, 64)), ((3, 9), (10, 64)), ((2, 9), (10, 65))]
)
def test_buckets_that_do_not_divide_the_domain_are_refused(guards):
    with pytest.raises(CertificateCorrupt, match="do not divide its domain"):
        certificate.loads(certificate.dumps(with_buckets(*guards)[2]))


def test_a_certificate_of_before_there_were_buckets_is_read():
    _, _, proof = made()
    old = {k: v for k, v in proof.items() if k not in ("domain", "buckets", "digest")}
    old["schema"] = 1
    old["digest"] = certificate._digest(old)
    assert certificate.loads(certificate.dumps(old)) == old
    new = {**old, "schema": 2}
    new["digest"] = certificate._digest({k: v for k, v in new.items() if k != "digest"})
    with pytest.raises(CertificateCorrupt, match="domain"):
        certificate.loads(certificate.dumps(new))


def test_a_certificate_of_before_there_were_lemmas_is_read():
    _, _, proof = made()
    assert proof["proofs"] == {} and proof["layers"]["index_maps"] == "none"
    old = {k: v for k, v in proof.items() if k not in ("proofs", "digest")}
    for schema in (2, 3):
        old["schema"] = schema
        text = certificate.dumps({**old, "digest": certificate._digest(old)})
        if schema == 2:
            assert certificate.loads(text)["layers"] == proof["layers"]
        else:
            with pytest.raises(CertificateCorrupt, match="proofs"):
                certificate.loads(text)


@pytest.mark.parametrize("verdict", ["proved", "sampled"])
def test_lemmas_are_counted_and_those_that_are_sampled_are_named(verdict):
    source, mugraph, _ = made()
    some = [Lemma("in bounds", f"x{k}", "proved", solver=k < 2) for k in range(3)]
    some += [Lemma("stored once", "y", verdict, solver=True)] * 2
    proof = certificate.build(source, mugraph, [], None, lemmas=Proofs(tuple(some), "1.2"))
    assert certificate.loads(certificate.dumps(proof)) == proof
    assert proof["layers"]["index_maps"] == verdict
    assert proof["proofs"] == {
        "solver": "z3 1.2",
        "lemmas": {"in bounds": 3, "stored once": 2},
        "by_solver": 4,
        "sampled": ["stored once: y"] if verdict == "sampled" else [],
    }


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": "1"}', "null"])
def test_what_is_no_certificate_is_refused(text):
    with pytest.raises(CertificateCorrupt):
        certificate.loads(text)


def test_any_changed_value_is_refused():
    _, _, proof = made()
    for key in proof:
        if key == "schema":
            continue
        for change in (None, "x", {**proof, key: "0" * 64}[key]):
            with pytest.raises(CertificateCorrupt):
                certificate.loads(json.dumps({**proof, key: change}))
        with pytest.raises(CertificateCorrupt):
            certificate.loads(json.dumps({k: v for k, v in proof.items() if k != key}))


def test_a_newer_schema_is_told_apart():
    _, _, proof = made()
    with pytest.raises(CertificateTooNew):
        certificate.loads(json.dumps({**proof, "schema": certificate.SCHEMA + 1}))


def test_the_certificate_of_another_program_is_refused():
    source, mugraph, proof = made()
    with pytest.raises(CertificateMismatch):
        certificate.check_belongs(proof, lora(), mugraph)
    other = MuGraph(lora(), (Kernel("k", (lora().outputs[0].node,), Placement()),))
    with pytest.raises(CertificateMismatch):
        certificate.check_belongs(proof, source, other)
