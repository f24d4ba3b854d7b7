"""Further checks of two programs that were not shown equal as they are, or by sampling alone."""

from __future__ import annotations

from collections.abc import Iterator

from superopt.mugraph.graph import Graph, Iota, SizeOf
from superopt.verify.casewise import by_cases, continuous
from superopt.verify.cuts import Checker
from superopt.verify.equal import check_equal
from superopt.verify.equivalence import Equivalence
from superopt.verify.freed import freed
from superopt.verify.literals import read
from superopt.verify.normal import has_laws, normalized
from superopt.verify.probe import unfolded
from superopt.verify.proofs.pointwise import proved

SHAPES = "the shapes, types and strides of the example inputs"

ALONE = f"{SHAPES} alone; other sizes were not shown equal"
"""The domain of what holds at the own sizes, and is not shown for others."""

RANGES = "all sizes in the given ranges, beside the other sizes of the example inputs"
"""The domain of what was shown with sizes that are numbers read as literals."""

Attempt = tuple[str, frozenset[str], Equivalence]
"""For which sizes (empty: for those of the first check), what is assumed beside, and the check."""

Spelling = tuple[tuple[Graph, Graph], frozenset[str]]
"""Two programs, and what is assumed where they stand for others."""


def proofs(
    show: Checker, a: Graph, b: Graph, assumes: frozenset[str] = frozenset()
) -> Iterator[Attempt]:
    """A proof for all values, where there is one."""
    if (proof := proved(a, b, show.seed)) is not None:
        yield "", assumes, proof


def attempts(show: Checker, a: Graph, b: Graph, *, symbolic: bool) -> Iterator[Attempt]:
    """The checks in turn, each dearer or claiming less than the one before.

    By a proof for all values; by the laws of selections; with free values for maxima; with literals
    as the numbers that they stand for; by cases; and then with sizes that are numbers as literals, and,
    unless some are symbolic, for these sizes alone, by evaluation.
    """
    spellings = _spellings(a, b, sizes=False)
    for pair, assumes in spellings:
        yield from proofs(show, *pair, assumes)
        yield from (("", assumes, check) for check in _by_laws(show, *pair))
    for pair, assumes in spellings:
        yield from (("", assumes, check) for check in _by_cases(show, *pair))
    if symbolic:
        for pair, assumes in _spellings(a, b, sizes=True)[1:]:
            yield from ((RANGES, assumes, check) for check in _by_laws(show, *pair))
        return
    sized = any(isinstance(n, Iota | SizeOf) for g in (a, b) for n in g.nodes)
    if sized and (proof := proved(a, b, show.seed, own_sizes=True)) is not None:
        yield ALONE, frozenset(), proof
    for pair, assumes in _spellings(a, b, sizes=True)[1:]:
        yield from ((ALONE, assumes, check) for check in _by_laws(show, *pair))
    check = check_equal(
        a,
        b,
        seed=show.seed,
        at_own_sizes=True,
        nan_counts=show.nan_counts,
        most_patterns=show.most_patterns,
    )
    yield ALONE, frozenset(), check


def _spellings(a: Graph, b: Graph, *, sizes: bool) -> list[Spelling]:
    """Both programs as they are, and with literals read as what they stand for, where that differs."""
    out: list[Spelling] = [((a, b), frozenset())]
    seen = [(unfolded(a), unfolded(b))]
    for logarithms in (False, True):
        first, second = (read(g, sizes=sizes, logarithms=logarithms) for g in seen[0])
        if (first, second) not in seen:
            seen.append((first, second))
            out.append(((first, second), frozenset({"literals"})))
    return out


def _by_laws(show: Checker, a: Graph, b: Graph) -> Iterator[Equivalence]:
    """By the laws of selections and of odd functions, and with free values for maxima."""
    lawful = has_laws(a) or has_laws(b)
    yield show(normalized(a), normalized(b)) if lawful else show(a, b)
    if (free := freed(a, b)) is not None:
        yield show(*free)


def _by_cases(show: Checker, a: Graph, b: Graph) -> Iterator[Equivalence]:
    """With choices in place of selections, and of maxima along axes freed before.

    Continuous programs are compared as a whole off ties: pieces of them need not be continuous.
    """
    for mine, other in filter(None, ((a, b), freed(a, b, along=True))):
        cases = by_cases(mine), by_cases(other)
        if cases == (None, None):
            continue
        pair = [c or g for c, g in zip(cases, (mine, other), strict=True)]
        yield show(*pair)
        if continuous(mine) and continuous(other):
            yield check_equal(
                *pair,
                seed=show.seed,
                nan_counts=show.nan_counts,
                most_patterns=show.most_patterns,
                ties=False,
            )
