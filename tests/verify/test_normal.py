"""The normal form of selections keeps the program's values, and brings spellings together."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from superopt.verify.cuts import Checker
from superopt.verify.normal import has_laws, normalized
from tests.strategies import graphs
from tests.verify.terms import K, T, float_values, program

COUNT = {"graphs": 0, "cells": 0}


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(graphs(max_steps=12, dtypes=("f32",)))
def _random_graphs(graph):
    if not has_laws(graph) or any(not isinstance(x.size, int) for x in graph.axes):
        return
    COUNT["graphs"] += 1
    new = normalized(graph)
    for positive in (False, True):
        for x, y in zip(
            float_values(graph, 1, positive), float_values(new, 1, positive), strict=True
        ):
            x, y = x.double(), y.double()
            both = x.isfinite() & y.isfinite() & (x.abs() < 1e12)
            COUNT["cells"] += int(both.sum())
            torch.testing.assert_close(x[both], y[both], rtol=1e-7, atol=1e-7)


def test_the_normal_form_has_the_same_values():
    COUNT.update(graphs=0, cells=0)
    _random_graphs()
    assert COUNT["graphs"] >= 100, COUNT
    assert COUNT["cells"] >= 1000, COUNT


def where(p, cond, x, y):
    return p.map("where", cond, x, y, dtype="f32")


EQUAL = {
    "shifted": (lambda p: (p.x + p.h).max(p.y + p.h), lambda p: p.h + p.x.max(p.y)),
    "scaled": (lambda p: (2.0 * p.x).max(2.0 * p.y), lambda p: 2.0 * p.x.max(p.y)),
    "negated": (lambda p: -(-p.x).max(-p.y), lambda p: p.x.min(p.y)),
    "scaled by a third": (lambda p: (p.x / 3.0).max(p.y / 3.0), lambda p: p.x.max(p.y) / 3.0),
    "rows shifted": (
        lambda p: (p.x + p.h).reduce("max", K),
        lambda p: p.h + p.x.reduce("max", K),
    ),
    "rows scaled by a square": (
        lambda p: (p.x * (p.h * p.h)).reduce("max", K),
        lambda p: (p.h * p.h) * p.x.reduce("max", K),
    ),
    "rows scaled by an exponential": (
        lambda p: (p.x * p.h.exp()).reduce("min", K),
        lambda p: p.h.exp() * p.x.reduce("min", K),
    ),
    "increasing": (lambda p: p.x.exp().max(p.y.exp()), lambda p: p.x.max(p.y).exp()),
    "increasing rows": (
        lambda p: p.s.exp().reduce("max", T),
        lambda p: p.s.reduce("max", T).exp(),
    ),
    "softmax of scaled scores": (
        lambda p: (2.0 * p.s - (2.0 * p.s).reduce("max", T)).exp(),
        lambda p: (2.0 * (p.s - p.s.reduce("max", T))).exp(),
    ),
    "leaky relu": (
        lambda p: where(p, p.map("gt", p.x, 0.0), p.x, 0.25 * p.x),
        lambda p: p.x.max(0.25 * p.x),
    ),
    "relu scaled": (lambda p: (3.0 * p.x).relu(), lambda p: 3.0 * p.x.relu()),
    "clamp scaled": (
        lambda p: (2.0 * p.x + 6.0).max(0.0).min(12.0),
        lambda p: 2.0 * (p.x + 3.0).max(0.0).min(6.0),
    ),
    "comparison shifted": (
        lambda p: where(p, (p.x + 1.0).lt(p.y), p.z, p.g),
        lambda p: where(p, p.x.lt(p.y - 1.0), p.z, p.g),
    ),
    "comparison turned": (
        lambda p: where(p, (-p.x).lt(-p.y), p.z, p.g),
        lambda p: where(p, p.y.lt(p.x), p.z, p.g),
    ),
    "root of a square": (lambda p: p.x.square().sqrt(), lambda p: p.x.abs()),
    "absolute value scaled": (lambda p: (2.0 * p.x).abs(), lambda p: 2.0 * p.x.abs()),
}
UNEQUAL = {
    "scaled by an input": (lambda p: (p.x * p.h).max(p.y * p.h), lambda p: p.h * p.x.max(p.y)),
    "negated the same": (lambda p: (-p.x).max(-p.y), lambda p: -p.x.max(p.y)),
    "shifted apart": (lambda p: (p.x + 1.0).max(p.y), lambda p: 1.0 + p.x.max(p.y)),
    "rows shifted by what varies": (
        lambda p: (p.x + p.y).reduce("max", K),
        lambda p: p.y.reduce("max", K) + p.x.reduce("max", K),
    ),
    "rows scaled by what may be negative": (
        lambda p: (p.x * p.h).reduce("max", K),
        lambda p: p.h * p.x.reduce("max", K),
    ),
    "decreasing": (lambda p: (-p.x).exp().max((-p.y).exp()), lambda p: (-p.x.max(p.y)).exp()),
    "strict when shifted": (
        lambda p: where(p, (p.x + 1.0).lt(p.y), p.z, p.g),
        lambda p: where(p, p.x.le(p.y - 1.0), p.z, p.g),
    ),
    "leaky with a steep side": (
        lambda p: where(p, p.map("gt", p.x, 0.0), p.x, 4.0 * p.x),
        lambda p: p.x.max(4.0 * p.x),
    ),
    "root of a square as itself": (lambda p: p.x.square().sqrt(), lambda p: p.x.max(p.x)),
}


@pytest.mark.parametrize("name", EQUAL)
def test_laws_of_order_are_shown(name):
    a, b = (program(make) for make in EQUAL[name])
    found = Checker(3)(normalized(a), normalized(b))
    assert found, found.reason


@pytest.mark.parametrize("name", UNEQUAL)
def test_what_is_no_law_is_refused(name):
    a, b = (program(make) for make in UNEQUAL[name])
    apart = [
        not torch.allclose(x.double(), y.double())
        for seed in range(4)
        for x, y in zip(float_values(a, seed), float_values(b, seed), strict=True)
    ]
    assert any(apart) or name == "strict when shifted"
    assert not Checker(3)(normalized(a), normalized(b))
