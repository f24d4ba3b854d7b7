"""Pruned against unpruned enumeration: nothing that lies on a merge-free derivation is removed.

What is compared. The brute force makes every term of at most L operators over the source's leaves
and operators (L: operators of the source, shared ones counted once per use), with no pruning, as
pairs (value, normal form). A step is *merge-free* (see ``part``) if its normal form has all the
monomials and factors that its arguments' forms have: nothing cancels, merges or is taken apart, and
no two literals multiply. A value or a step is *wanted* if it lies on a derivation of the target's
normal form, of at most L operators, that has merge-free steps only. Then:

1. every wanted value is a class of the pruned space, every wanted step one of its derivations;
2. the cheapest derivation in the pruned space is at most the cheapest merge-free one;
3. the cheapest derivation of all is at most the cheapest in the pruned space; where it is smaller,
   the program is listed (``only_unpruned.txt``, written anew with UPDATE_GOLDEN=1), and must cancel
   or merge.

A program like the variance has too many terms of its size. There the brute force keeps to what the
target is made of: no leaf, size, literal, function or bound axis more often than its normal form
has it. No merge-free step takes one away, so all merge-free derivations are still enumerated, with
no pruning rule; derivations that cancel are not, so that 3 is not asked.
"""

import math
import os
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from superopt.bench.generated import named, program
from superopt.search.abstract import Algebra, TooLarge
from superopt.search.oracle import (
    Unsupported,
    _Engine,
    combine,
    literals_of,
    source_forms,
)
from superopt.search.part import Targets
from superopt.search.problem import problem
from superopt.search.regions import regions
from superopt.search.values import Field

PROGRAMS, MANY = 45, 240
GOLDEN = Path(__file__).with_name("only_unpruned.txt")
MOST = 5  # operators of a source term, counted as a tree
MOST_TERMS = 1500


def tree_size(task, n, memo):
    if n not in memo:
        step = task.steps[n]
        memo[n] = bool(step.args) + sum(tree_size(task, a, memo) for a in step.args)
    return memo[n]


def degree(form):
    """Factors over all monomials, each with its exponent."""
    return sum(
        (
            sum((e for _, e in m[0]), Fraction(0))
            + sum((e for g in m[1] for *_, e in g[1]), Fraction(0))
            for m, _ in form
        ),
        Fraction(0),
    )


def merge_free(task, al, kind, index, args, form):
    if kind == "mul":
        a, b = args
        literal = [any(abs(c) != 1 or c < 0 for _, c in x) for x in args]
        return (
            len(form) == len(a) * len(b)
            and not all(literal)
            and degree(form) == len(b) * degree(a) + len(a) * degree(b)
        )
    if kind == "add":
        return len(form) == len(args[0]) + len(args[1])
    if kind == "reduce":
        return len(form) == len(args[0]) and degree(form) >= degree(args[0])
    p = args[0]
    for law, name in task.functions[index]:
        made = al.apply(law, name, p)
        if law in ("recip", "sqrt"):
            # One new atom of that law: nothing was taken apart.
            simple = (
                len(made) == 1
                and degree(made) == 1
                and all(c == 1 and [al.atoms[a].kind for a, _ in m[0]] == [law] for m, c in made)
            )
            if not simple:
                return False
        p = made
    return True


def made_of(al, form, out=None, times=1):
    """How often a form has each leaf, size, literal, function, bound axis and monomial."""
    out = Counter() if out is None else out
    for mono, c in form:
        out["monomials"] += times
        out["literal", abs(c)] += times * (abs(c) != 1)
        out["minus"] += times * (c < 0)
        out["bound"] += times * sum(n for g in mono[1] for _, n in g[0])
        for a, e in (*mono[0], *((a, e) for g in mono[1] for a, _, e in g[1])):
            atom = al.atoms[a]
            out[atom.kind, atom.name, atom.sign] += times * math.ceil(e)
            if atom.arg is not None:
                inner = frozenset({(atom.arg, Fraction(1))}) if atom.kind == "exp" else atom.arg
                made_of(al, inner, out, times * math.ceil(e))
    return out


class Brute:
    """All terms of at most ``most`` operators, as items (value key, form).

    ``target``: the source term whose derivations are wanted; of the largest terms only those that
    are it are kept. ``bounded``: only terms made of what its normal form is made of.
    """

    def __init__(self, task, numbers, most, target, bounded=False):
        self.task, self.numbers, self.most = task, numbers, most
        self.within, self.packed = None, {}
        self.al = Algebra()
        self.size = {}
        self.values = {}
        self.levels = [[] for _ in range(most + 1)]
        self.steps = []  # (item, kind, index, argument items, merge-free)
        self.done = True
        values = numbers.source()
        self.sources = []
        for n, (form, value) in enumerate(zip(source_forms(task, self.al), values, strict=True)):
            item = ((value.axes, value.fingerprint()), form)
            self.sources.append(item)
            if not task.steps[n].args:
                self.meet(item, value, 0)
        self.target = self.sources[target]
        if bounded:
            self.within = +made_of(self.al, self.target[1])
            self.guard = sum(128 << 8 * i for i in range(len(self.within)))
            self.room = sum((128 + n) << 8 * i for i, n in enumerate(self.within.values()))
            # Two factors that are sums have at least as many monomials as both, less one.
            self.room += 1 << 8 * list(self.within).index("monomials")
            for item in self.sources:
                self.pack(item[1])
        self.source_steps = {
            (s.kind, s.index, frozenset(self.sources[a] for a in s.args))
            for s in task.steps
            if s.args
        }
        self.grow()

    def meet(self, item, value, size):
        if item not in self.size:
            self.size[item] = size
            self.values[item[0]] = value
            self.levels[size].append(item)

    def grow(self):
        task = self.task
        for size in range(1, self.most + 1):
            for item in self.levels[size - 1]:
                for f in range(len(task.functions)):
                    self.attempt(size, "fn", f, (item,))
                for axis in item[0][0]:
                    if axis in task.reducible:
                        self.attempt(size, "reduce", axis, (item,))
            for left in range((size + 1) // 2):
                right = size - 1 - left
                for i, a in enumerate(self.levels[left]):
                    for b in self.levels[right][i if left == right else 0 :]:
                        if self.may_join(a, b) and len({*a[0][0], *b[0][0]}) <= task.rank:
                            self.attempt(size, "mul", 0, (a, b))
                            if task.sums:
                                self.attempt(size, "add", 0, (a, b))
                if len(self.size) > MOST_TERMS and size < self.most and not self.within:
                    self.done = False
                    return

    def pack(self, form):
        """What a form is made of, a byte each; None if the target has not all of it."""
        if form not in self.packed:
            parts = made_of(self.al, form)
            inside = all(n <= self.within[k] for k, n in parts.items())
            bytes_ = [parts[k] for k in self.within] if inside else []
            self.packed[form] = sum(n << 8 * i for i, n in enumerate(bytes_)) if inside else None
        return self.packed[form]

    def may_join(self, a, b):
        """Whether the target has all that two terms together have."""
        if self.within is None:
            return True
        x, y = self.packed[a[1]], self.packed[b[1]]
        if x is None or y is None:
            return False
        return (self.room - x - y) & self.guard == self.guard

    def attempt(self, size, kind, index, args):
        try:
            form = combine(self.task, self.al, kind, index, [a[1] for a in args])
        except TooLarge:
            return
        made = (kind, index, frozenset(args))
        if not form:
            return
        if self.within is not None and self.pack(form) is None and made not in self.source_steps:
            return
        if self.within is not None and size == self.most and form != self.target[1]:
            return
        x = [self.values[a[0]] for a in args]
        if kind == "mul":
            value = self.numbers.mul(*x)
        elif kind == "add":
            value = self.numbers.add(*x)
        elif kind == "reduce":
            value = self.numbers.reduce(x[0], index)
        else:
            value = self.numbers.apply(self.task.functions[index], x[0])
        if value is None:
            return
        item = ((value.axes, value.fingerprint()), form)
        if size == self.most and item[0] != self.target[0]:
            return
        free = (
            merge_free(self.task, self.al, kind, index, [a[1] for a in args], form)
            or made in self.source_steps
        )
        self.steps.append((item, kind, index, args, free))
        self.meet(item, value, size)

    def cheapest(self, target, free_only):
        """Least operators of a derivation of each item, and the items' and steps' totals."""
        inside = {i: 0 for i in self.size if self.size[i] == 0}
        steps = [s for s in self.steps if s[4] or not free_only]
        moved = True
        while moved:
            moved = False
            for item, _, _, args, _ in steps:
                if all(a in inside for a in args):
                    cost = 1 + sum(inside[a] for a in args)
                    if cost < inside.get(item, math.inf):
                        inside[item] = cost
                        moved = True
        outside = {i: 0 for i in inside if (i == target if free_only else i[0] == target[0])}
        moved = True
        while moved:
            moved = False
            for item, _, _, args, _ in steps:
                if item not in outside or any(a not in inside for a in args):
                    continue
                for n, a in enumerate(args):
                    rest = sum(inside[b] for m, b in enumerate(args) if m != n)
                    cost = outside[item] + 1 + rest
                    if cost + inside[a] <= self.most and cost < outside.get(a, math.inf):
                        outside[a] = cost
                        moved = True
        wanted = [
            (s, outside[s[0]] + 1 + sum(inside[a] for a in s[3]))
            for s in steps
            if s[0] in outside and all(a in inside for a in s[3])
        ]
        best = min(
            (inside[i] for i in inside if (i == target if free_only else i[0] == target[0])),
            default=math.inf,
        )
        return (
            best,
            {i for i in outside if inside[i] + outside[i] <= self.most},
            [s for s, total in wanted if total <= self.most],
        )


def pruned(task, seed=0):
    """The oracle's engine after an exhaustive run."""
    al = Algebra()
    forms = source_forms(task, al)
    literals, negations = literals_of(task, forms)
    targets = Targets(al, forms, literals)
    targets.allow_negations(negations)
    engine = _Engine(task, Field(task, seed), al, targets)
    class_of = engine.seed()
    for kind, index, items in engine.candidates():
        engine.attempt(kind, index, items)
        assert engine.states < 100_000
    return engine, class_of


def cheapest_in(engine, class_of, task):
    cost = {class_of[n]: 0 for n, s in enumerate(task.steps) if not s.args}
    moved = True
    while moved:
        moved = False
        for c, ms in enumerate(engine.derivations):
            for _, _, args in ms:
                if all(a in cost for a in args):
                    total = 1 + sum(cost[a] for a in args)
                    if total < cost.get(c, math.inf):
                        cost[c] = total
                        moved = True
    return cost


def compare(graph, bounded=False):
    """Compares one program; None, or (wanted values, wanted steps, costs of all and of the pruned).

    ``bounded``: the brute force keeps to what the target is made of, and its cheapest derivation is
    compared with the merge-free ones only.
    """
    parts = regions(graph)
    if len(parts) != 1:
        return None
    task = problem(graph, parts[0])
    target = task.term_of[graph.outputs[0].node]
    most = tree_size(task, target, {})
    if not bounded and not 2 <= most <= MOST:
        return None
    try:
        engine, class_of = pruned(task)
    except Unsupported:
        return None
    if any(not f for f in source_forms(task, Algebra())):
        return None  # a source term is zero
    brute = Brute(task, engine.numbers, most, target, bounded)
    if not brute.done:
        return None
    key = brute.sources[target]
    best, items, steps = brute.cheapest(key, free_only=True)
    anyhow = 0 if bounded else brute.cheapest(key, free_only=False)[0]
    for value, _ in items:
        assert value in engine.by_value, "a value on a merge-free derivation was pruned"
    for (value, _), kind, index, args, _ in steps:
        c = engine.by_value[value]
        classes = tuple(sorted(engine.by_value[a[0]] for a in args))
        if c not in classes:
            assert (kind, index, classes) in engine.derivations[c], "a merge-free step was pruned"
    mine = cheapest_in(engine, class_of, task)[class_of[target]]
    assert anyhow <= mine <= best
    return len({v for v, _ in items}), len(steps), anyhow, mine


def run(number, record_property):
    """Compares the first ``number`` generated programs that are small enough."""
    compared = values = steps = 0
    only_unpruned = []
    for seed in range(20 * number):
        graph = program(5000 + seed, ops=2 + seed % 3, literals=seed % 3 == 0)
        found = compare(graph)
        if found is None:
            continue
        compared += 1
        values += found[0]
        steps += found[1]
        if found[2] < found[3]:
            only_unpruned.append(f"{compared} {graph.name}: {found[2]} operators for {found[3]}")
        if compared == number:
            break
    record_property("found by the unpruned search alone", only_unpruned)
    assert compared == number
    assert values >= 4 * number
    assert steps >= 3 * number
    assert len(only_unpruned) <= number // 10
    if os.environ.get("UPDATE_GOLDEN") and number == MANY:
        GOLDEN.write_text("".join(f"{x}\n" for x in only_unpruned), encoding="utf-8")
    listed = GOLDEN.read_text(encoding="utf-8").splitlines()
    assert only_unpruned == [x for x in listed if int(x.split()[0]) <= number]


def test_pruning_removes_nothing_on_a_merge_free_derivation(record_property):
    run(PROGRAMS, record_property)


@pytest.mark.full
def test_pruning_removes_nothing_from_hundreds_of_programs(record_property):
    run(MANY, record_property)


@pytest.mark.parametrize("name", list(named()))
def test_named_cases(name):
    found = compare(named()[name]) or compare(named()[name], bounded=True)
    assert found is not None
    values, steps, _, _ = found
    assert values >= 2 and steps >= 1, "nothing was compared"
