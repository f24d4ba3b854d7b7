"""The figures of a search, and how far its algebraic spaces were exhausted under which axioms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from superopt.search.enumerate import Space
from superopt.search.regions import Region

AXIOMS = (
    "sums and products are associative and commutative, products distribute over sums, "
    "coefficients are exact rationals",
    "the sum over an axis is linear, sums over axes commute, a factor that lacks the axis moves "
    "out, and the sum of a term that lacks it is the term times the size of the axis",
    "exp(a + b) = exp(a) exp(b), exp(c u) = exp(u)^c for rational c, 1/exp(u) = exp(-u), "
    "sqrt(exp(u)) = exp(u/2)",
    "reciprocals and square roots of products are taken factor by factor, common factors of a sum "
    "first; 1/(1/a) = a; a size times its reciprocal is one",
    "any other function is known by its name alone",
)
"""What *closed* stands on (``abstract`` has the details)."""

COMPLETE = (
    "A closed space holds every derivation of its targets by these axioms in which no two terms "
    "cancel or merge, over values of at most *rank* axes."
)


def spaces_of(explored: Sequence[tuple[Region, Space]]) -> list[dict[str, Any]]:
    """A row for each region: its size, what was looked at, the rank bound, and whether it closed.

    terms: nodes of the region; states: terms tried; classes: values found; kept: those on
    derivations of the region's own terms; why: the reason of a space that is not closed; operators, due:
    see ``Space.stats``.
    """
    return [
        {
            "terms": len(region.nodes),
            "targets": len(region.targets),
            "states": int(space.stats.get("states", 0)),
            "classes": int(space.stats.get("classes", 0)),
            "kept": len(space.classes),
            "rank": int(space.stats.get("rank", 0)),
            "closed": space.closed,
            "why": str(space.stats.get("why", "")),
            "operators": space.stats.get("operators"),
            "due": space.stats.get("due"),
        }
        for region, space in explored
    ]


def claim(stats: Mapping[str, Any]) -> dict[str, Any]:
    """What a search may claim of its algebraic spaces, for a certificate: no times, plain JSON."""
    keys = ("terms", "states", "classes", "rank", "closed", "why")
    return {
        "closed": stats["closed"],
        "spaces": [{k: space[k] for k in keys} for space in stats["spaces"]],
        "axioms": list(AXIOMS),
        "complete": COMPLETE,
    }


def stats_of(
    explored: Sequence[tuple[Region, Space]], unsafe: int, graphs: int, costed: int
) -> dict[str, Any]:
    """The figures of one search: unsafe derivations left out, term graphs and kernels costed."""
    spaces = [space for _, space in explored]
    regions_of = [
        {
            "states": int(s.stats.get("states", 0)),
            "values": int(s.stats.get("states", 0)),
            "classes": len(s.classes),
            "removed": dict(s.stats.get("removed", {})),
            "closed": s.closed,
        }
        for s in spaces
    ]
    rest = {
        "states": costed,
        "values": 0,
        "classes": 0,
        "removed": {"safety": unsafe},
        "closed": True,
    }
    total = joined_stats([rest, *regions_of])
    total.update(
        graphs=graphs,
        kernels_costed=costed,
        regions=len(explored),
        spaces=spaces_of(explored),
    )
    return total


def joined_stats(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of several searches as those of one: counts add up, all must be closed."""
    out: dict[str, Any] = {"removed": {}, "closed": all(p["closed"] for p in parts)}
    for part in parts:
        for key, value in part.items():
            if key in ("removed", "not_lowerable", "open"):
                counts = out.setdefault(key, {})
                for rule, n in value.items():
                    counts[rule] = counts.get(rule, 0) + n
            elif key == "spaces":
                out.setdefault(key, []).extend(value)
            elif key not in ("closed", "seconds"):
                out[key] = out.get(key, 0) + value
    return out
