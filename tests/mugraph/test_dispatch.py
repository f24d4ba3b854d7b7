"""Dispatch rules: every size of the domain has one bucket, and no other rule is accepted."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from superopt.errors import CacheCorrupt
from superopt.mugraph.dispatch import (
    Bucket,
    Dispatch,
    Guard,
    guard_text,
    holds,
    hull,
    joined,
    middle,
    within,
)


def divided(rng: random.Random, domain: Guard, most: int) -> list[Guard]:
    """The domain cut at random into at most so many boxes."""
    boxes = [domain]
    while len(boxes) < most:
        box = rng.choice(boxes)
        k = rng.randrange(len(box))
        name, low, high = box[k]
        if low == high:
            break
        at = rng.randint(low, high - 1)
        parts = [(*box[:k], (name, a, z), *box[k + 1 :]) for a, z in ((low, at), (at + 1, high))]
        boxes = [b for b in boxes if b is not box] + parts
    rng.shuffle(boxes)
    return boxes


def drawn(seed: int) -> tuple[Guard, list[Guard]]:
    rng = random.Random(seed)
    names = ("a", "b", "c")[: rng.randint(1, 3)]
    domain = tuple((n, low := rng.randint(0, 5), low + rng.randint(0, 9)) for n in names)
    return domain, divided(rng, domain, rng.randint(1, 7))


def sizes_of(domain: Guard) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(low, high + 1) for _, low, high in domain)))


def test_every_size_has_the_bucket_that_holds_it() -> None:
    tried = 0
    for seed in range(60):
        domain, guards = drawn(seed)
        rule = Dispatch(domain, tuple(Bucket(g, n) for n, g in enumerate(guards)))
        assert Dispatch.from_json(rule.to_json()) == rule
        choose = rule.chooser([f"b{n}" for n in range(len(guards))])
        for sizes in sizes_of(domain):
            (want,) = [n for n, g in enumerate(guards) if holds(g, sizes)]
            there = {name: k for (name, _, _), k in zip(domain, sizes, strict=True)}
            assert rule.find(there) == want
            assert choose(there) == f"b{want}"
            tried += 1
    assert tried >= 2000, tried


def test_gaps_overlaps_and_strays_are_refused() -> None:
    refused = 0
    for seed in range(80):
        domain, guards = drawn(seed)
        rng = random.Random(seed)
        k, s = rng.randrange(len(guards)), rng.randrange(len(domain))
        name, low, high = guards[k][s]
        changes = [(low - 1, high), (low, high + 1), (low + 1, high), (low, high - 1)]
        wrong = [guards[:k] + guards[k + 1 :], [*guards, guards[k]]]
        for a, z in changes:
            changed = (*guards[k][:s], (name, a, z), *guards[k][s + 1 :])
            wrong.append([*guards[:k], changed, *guards[k + 1 :]])
        for some in wrong:
            with pytest.raises(ValueError):
                Dispatch(domain, tuple(Bucket(g, 0) for g in some))
            refused += 1
    assert refused == 480


def test_another_symbol_is_refused() -> None:
    with pytest.raises(ValueError, match="about the symbols"):
        Dispatch((("a", 1, 4),), (Bucket((("b", 1, 4),), 0),))
    with pytest.raises(ValueError, match="in order"):
        Dispatch((("b", 1, 4), ("a", 1, 4)), ())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"domain": [], "buckets": [{}]}', "7"])
def test_what_is_no_rule_is_a_damaged_entry(text: str) -> None:
    with pytest.raises(CacheCorrupt):
        Dispatch.from_json(text)


def test_a_changed_rule_is_a_damaged_entry() -> None:
    rule = Dispatch((("a", 2, 9),), (Bucket((("a", 2, 4),), 0), Bucket((("a", 5, 9),), 1)))
    raw = json.loads(rule.to_json())
    raw["buckets"][1]["guard"][0][1] = 6
    with pytest.raises(CacheCorrupt, match="have 0 buckets"):
        Dispatch.from_json(json.dumps(raw))


def test_joined_boxes_cover_the_same_sizes_with_the_same_values() -> None:
    fewer = 0
    for seed in range(60):
        domain, guards = drawn(seed)
        rng = random.Random(seed)
        boxes = [(tuple((a, z) for _, a, z in g), rng.randint(0, 1)) for g in guards]
        out = joined(boxes)
        fewer += len(out) < len(boxes)
        for sizes in sizes_of(domain):
            values = []
            for some in (boxes, out):
                (value,) = [
                    v
                    for box, v in some
                    if all(a <= k <= z for (a, z), k in zip(box, sizes, strict=True))
                ]
                values.append(value)
            assert values[0] == values[1]
    assert fewer >= 20, fewer


def test_guards_as_text_and_as_sets() -> None:
    a, b = (("m", 2, 4), ("n", 3, 9)), (("m", 7, 8), ("n", 5, 5))
    assert guard_text(a) == "2 <= m <= 4 and 3 <= n <= 9"
    assert guard_text(()) == "always"
    assert hull([a, b]) == (("m", 2, 8), ("n", 3, 9))
    assert within(a, hull([a, b])) and within(b, hull([a, b])) and not within(a, b)
    assert within((), ()) and hull([(), ()]) == ()
    for low, high in ((0, 0), (0, 9), (1, 4096), (7, 7), (2, 1 << 40)):
        assert low <= middle(low, high) <= high
