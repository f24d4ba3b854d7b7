"""The tasks of the suite ``verify``, each done in a process of its own: from a name to a row."""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from superopt.api import equivalent
from superopt.bench import verify_cases
from superopt.bench.generated import program
from superopt.bench.identities import BEYOND, IDENTITIES, NEAR_MISSES, Identity, NearMiss
from superopt.bench.inputs import make_inputs
from superopt.bench.judge import Judge
from superopt.bench.verify_cases import DTYPES, Case, searched
from superopt.mugraph.canonical import graph_hash
from superopt.mugraph.graph import Graph
from superopt.mugraph.mutants import edits, mutant, sampled, twice
from superopt.pipeline.mutation import Checked, Pairs, carried, pieces, placed, rewrites
from superopt.pipeline.mutation_fields import cases as field_cases
from superopt.pipeline.mutation_fields import measured

SEED = 20
BOUNDARY = (
    "outputs permuted",
    "outputs reordered",
    "output dropped",
    "output node",
    "inputs exchanged",
    "inputs reordered",
)
RANDOM = 60
"""Random programs of one task, of 3 to 8 operators."""

EACH = 20
"""Rewrites of one random program, at most."""

LISTED = 30
"""Pairs of the lists of identities and near misses of one task."""


@dataclass
class Row:
    """What was tried in one task, as it is written to the results.

    rejected: by the layer that refused, accepted: how they were shown equal, with how many; rewritten:
    of the accepted, those that a search could have made; explained: of the accepted mutants, by the
    argument that they are the same; wrong: mutants accepted that differ, correct pairs refused;
    unexplained: accepted mutants that were seen to be the same and for which there is no argument;
    seconds: of a check, as total, median, p90, max; bounds: of those shown equal, by their size.
    """

    part: str
    case: str
    tried: int = 0
    rewritten: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    bounds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def checked(self, kind: str, found: Checked) -> None:
        """Notes what the verifier said of a pair."""
        self.tried += 1
        self.kinds[kind] += 1
        self.times.append(found.seconds)
        if found.accepted:
            self.accepted[found.layer] += 1
            self.rewritten += found.rewritten
            self.bounds[_size(found)] += 1
        else:
            self.rejected[found.layer] += 1

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON."""
        t = sorted(self.times)
        seconds = {
            "total": sum(t),
            "median": statistics.median(t) if t else 0.0,
            "p90": t[int(0.9 * (len(t) - 1))] if t else 0.0,
            "max": max(t, default=0.0),
        }
        out: dict[str, Any] = {k: getattr(self, k) for k in ("part", "case", "tried", "rewritten")}
        for k in ("rejected", "accepted", "explained", "kinds", "bounds"):
            out[k] = dict(sorted(getattr(self, k).items()))
        return {
            **out,
            "wrong": self.wrong,
            "unexplained": self.unexplained,
            "seconds": seconds,
            "more": self.more,
        }


def _size(found: Checked) -> str:
    if found.kind != "bound" or found.bound_log2 is None:
        return found.kind
    return "2^-64 or less" if found.bound_log2 >= 64 else "more than 2^-64"


def _graphs(case: Case) -> list[Graph]:
    w = searched(case.workload)
    args = w.inputs(case.params, DTYPES[case.dtype])
    return [p.graph for p in pieces(w.reference, args, case.precision)]


def _change(before: Graph, after: Graph) -> str:
    """What a mutant's text has that the graph's has not, for a reader."""
    old, new = str(before).split("\n"), str(after).split("\n")
    lost = [f"- {x.strip()}" for x in old if x not in new]
    return "; ".join([*lost, *(f"+ {x.strip()}" for x in new if x not in old)])[:600]


def _mutants(
    row: Row, graph: Graph, made: Iterable[tuple[str, Graph]], check: Callable[..., Checked]
) -> None:
    judge = Judge(graph)
    for kind, other in made:
        found = check(graph, other)
        row.checked(kind, found)
        if not found.accepted:
            continue
        what = f"{row.case}: {kind}: {_change(graph, other)}"
        if differs := judge.differs(other):
            row.wrong.append(f"{what} ({differs})")
        elif argument := judge.argument(other):
            row.explained[argument] += 1
        else:
            row.unexplained.append(what)


def graph_mutants(case: Case, share: float) -> Row:
    """Single mutants of a program, and mutants of those where there are not enough."""
    row = Row("graph mutants", str(case))
    graphs = _graphs(case)
    for graph in graphs:
        asked = max(2, round(share * case.mutants / len(graphs)))
        made = sampled(graph, asked, SEED)
        if len(made) < asked:
            made += twice(graph, asked - len(made), SEED)
        # Whole layers are checked as candidates are; the other ways take seconds for each.
        pairs = Pairs(SEED)
        check = pairs.rewritten if case.workload.endswith("layer") else pairs.any
        _mutants(row, graph, made, check)
    return row


def boundary_mutants(case: Case, share: float) -> Row:
    """Every permutation of two outputs, and every exchange of two inputs of one shape."""
    row = Row("outputs and inputs", str(case))
    for graph in _graphs(case):
        made = [(e.kind, m) for e in edits(graph) if e.kind in BOUNDARY and (m := mutant(e))]
        if share < 1:
            made = made[:: max(1, round(0.2 / share))]
        pairs = Pairs(SEED)
        _mutants(row, graph, made, pairs.rewritten if len(graph.nodes) > 100 else pairs.any)
    return row


def _shown(row: Row, kind: str, a: Graph, b: Graph, pairs: Pairs) -> None:
    """Notes a correct pair; where the laws of the field do not show it, it may be shown otherwise."""
    found = pairs.rewritten(a, b)
    if not found.accepted:
        second = pairs.any(a, b)
        seconds = found.seconds + second.seconds
        found = Checked(**{**second.__dict__, "seconds": seconds})
    row.checked(kind, found)
    if not found.accepted:
        differs = Judge(a).differs(b)
        row.wrong.append(f"{row.case}: {_change(a, b)} ({found.reason}; {differs or 'the same'})")


def workload_rewrites(case: Case, share: float) -> Row:
    """Programs that the search holds equal to a workload, and what its placements rest on."""
    row = Row("rewrites", str(case))
    for graph in _graphs(case):
        pairs, seen = Pairs(SEED), {graph_hash(graph)}
        for other in rewrites(graph, max(2, round(share * case.rewrites)), SEED):
            if (key := graph_hash(other)) not in seen:
                seen.add(key)
                _shown(row, "rewritten", graph, other, pairs)
        for mugraph in placed(graph, 4, 64, 2048) if share >= 1 else []:
            for a, b in carried(mugraph):
                _shown(row, "carried accumulator", a, b, pairs)
    return row


def random_rewrites(first: int, share: float) -> Row:
    """Programs that the search holds equal to random ones."""
    row = Row("rewrites", f"random programs {first} to {first + RANDOM - 1}")
    for n in range(first, first + max(1, round(RANDOM * share))):
        graph = program(n, 3 + n % 6, signs=n % 2 == 0, literals=n % 3 == 0)
        if not Judge(graph).defined():  # it divides by x - x, say: nothing is correct there
            row.more["undefined"] = row.more.get("undefined", 0) + 1
            continue
        pairs, seen = Pairs(SEED), {graph_hash(graph)}
        for other in rewrites(graph, EACH, n, states=3000):
            if (key := graph_hash(other)) not in seen:
                seen.add(key)
                _shown(row, "rewritten", graph, other, pairs)
    return row


def identities(first: int, share: float) -> Row:
    """Pairs of PyTorch functions that agree, from a list that was written without the search."""
    listed = IDENTITIES[first : first + LISTED]
    row = Row("identities", f"{first} to {first + len(listed) - 1}")
    for pair in listed[:: max(1, round(1 / share))]:
        found = _decided(row, "identity", pair)
        if found.verdict == "equal":
            row.accepted[f"{found.kind} {_bounded(found)}".strip()] += 1
            row.bounds[_bounded(found) or found.kind] += 1
        elif found.verdict == "different":
            row.rejected["taken for different"] += 1
            row.wrong.append(f"{pair.name}: taken for different: {found.reason}"[:400])
        elif pair.name in BEYOND:
            row.rejected["undecided, as documented"] += 1
            row.more.setdefault("undecided", []).append(f"{pair.name}: {BEYOND[pair.name]}")
        else:
            row.rejected["undecided"] += 1
            row.wrong.append(f"{pair.name}: {_undecided(found.reason)}: {found.reason}"[:400])
    return row


def _undecided(reason: str) -> str:
    """Why two functions were neither shown equal nor told apart, as one of three kinds."""
    if "cannot be captured" in reason:
        return "undecided: an operator outside the supported set"
    if reason.startswith("alike in"):
        return "undecided: alike, but not every case was met"
    return "undecided: not shown equal"


def near_misses(first: int, share: float) -> Row:
    """Pairs of PyTorch functions that look alike and differ; a counterexample is the best answer."""
    listed = NEAR_MISSES[first : first + LISTED]
    row = Row("near misses", f"{first} to {first + len(listed) - 1}")
    for pair in listed[:: max(1, round(1 / share))]:
        found = _decided(row, "near miss", pair)
        if found.verdict == "equal":
            row.accepted[found.kind] += 1
            row.wrong.append(f"{pair.name}: taken for equal ({found.claim})")
        else:
            found_out = found.verdict == "different"
            row.rejected["counterexample" if found_out else _undecided(found.reason)] += 1
    return row


def _decided(row: Row, kind: str, pair: Identity | NearMiss) -> Any:
    """What ``superopt.equivalent`` says of two functions, and how long it took."""
    begun = time.perf_counter()
    args = make_inputs(pair.inputs, SEED)
    if isinstance(pair, Identity) and pair.partial:  # both have a value on the arguments as given
        args = tuple(x.abs() + 0.1 if x.is_floating_point() else x for x in args)
    found = equivalent(pair.f, pair.g, *args, seed=SEED)
    row.tried += 1
    row.kinds[kind] += 1
    row.times.append(time.perf_counter() - begun)
    return found


def _bounded(found: Any) -> str:
    if found.kind != "bound" or found.bound_log2 is None:
        return ""
    return "2^-64 or less" if found.bound_log2 >= 64 else "more than 2^-64"


def tiny_fields(n: int, share: float) -> Row:
    """How often a field that is small enough to fail accepts a wrong program."""
    case = field_cases()[n]
    row = Row("tiny fields", f"{case.name} mod {case.primes[0]}, {case.trials} trials")
    begun = time.perf_counter()
    rate = measured(case, max(100, round(4000 * share)))
    row.tried, row.times = rate.runs, [(time.perf_counter() - begun) / rate.runs]
    low, high = rate.interval
    row.more = {
        "runs": rate.runs,
        "accepted": rate.accepted,
        "rate": rate.accepted / rate.runs,
        "theory": case.rate,
        "low": low,
        "high": high,
    }
    if not rate.agrees:
        row.wrong.append(f"{row.case}: {row.more['rate']:.4f} for {case.rate:.4f}")
    return row


def kernel_mutants(n: int, share: float) -> Row:
    """Mutants of a kernel's tile programs and of its C++."""
    from superopt.bench.verify_kernels import tried

    case = verify_cases.KERNELS[n]
    return tried(Row("kernel mutants", str(case)), case, share)


Task = tuple[str, Any]
TASKS: dict[str, Callable[[Any, float], Row]] = {
    "graph mutants": graph_mutants,
    "outputs and inputs": boundary_mutants,
    "rewrites": workload_rewrites,
    "random rewrites": random_rewrites,
    "identities": identities,
    "near misses": near_misses,
    "tiny fields": tiny_fields,
    "kernel mutants": kernel_mutants,
}


def done(task: Task, share: float) -> dict[str, Any]:
    """The row of a task, as plain JSON."""
    torch.set_num_threads(1)  # a kernel is gated in forks, which threads would not survive
    begun = time.perf_counter()
    kind, value = task
    row = TASKS[kind](value, share).to_json()
    gc.collect()
    return {
        **row,
        "task": f"{kind}: {value}",
        "share": share,
        "wall_s": time.perf_counter() - begun,
    }
