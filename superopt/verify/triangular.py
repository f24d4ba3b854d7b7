"""Exponents in triangular form, found by probing: then exponentials are independent variables.

Write every exponent as a combination, with small coefficients, of atoms u_1..u_M (what is left when
sums, literal factors, selections and renamings are taken off). If the atoms can be ordered so that
each is affine, with nonzero gradient, in some input element that all earlier ones lack, then the
residues of u_1..u_M mod p_(i+1) are independent and uniform, and so are z_j = omega^(u_j) in their
subgroup (design section 6). Exponents use the level above the one they feed, whose residues of the
inputs are independent of all lower ones, so the same input may occur outside the exponent too.

Which elements an atom depends on, and whether affinely, is measured: at a random point each element
is moved alone, twice. Selections inside are part of the measurement: an atom whose winner moves
with the element is not affine in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import U64, Chain, dyadic, power
from superopt.mugraph.algebras.levels import analyse, information, keyed_move, lowest
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Gather, Graph, Map, Reduce, SizeOf, View
from superopt.verify.probe import Probe, one_cell, pointwise, selects, unfolded
from superopt.verify.sizes import Sizing

MOST_MOVES = 1 << 20
"""Input elements times atoms, at most; beyond, no triangular form is looked for."""

MOST_HEIGHT = 256
"""Largest ratio of two coefficients of one atom."""


@dataclass(frozen=True)
class Exponents:
    """A triangular form: how many atoms, and the sum of coefficients of one exponent at most."""

    atoms: int
    height: float


def exponents(a: Graph, b: Graph, sizing: Sizing, chain: Chain, seed: int) -> Exponents | str:
    """The triangular form of all exponents of two graphs, or why none was found."""
    graphs = [unfolded(g) for g in (a, b)]
    probed = replace(sizing, sizes=one_cell(a, b, sizing))
    fixed = sorted(pointwise(a, b, sizing), key=lambda x: (x.name, str(x.size)))
    total, height = 0, 1.0
    try:
        for level in range(1, chain.depth):
            form = _at_level(graphs, level, probed, fixed, chain, seed)
            if isinstance(form, str):
                return form
            total, height = total + form.atoms, max(height, form.height)
    except VerificationFailed as error:
        return str(error)
    return Exponents(total, height)


def _at_level(
    graphs: list[Graph],
    level: int,
    sizing: Sizing,
    fixed: list[Axis],
    chain: Chain,
    seed: int,
) -> Exponents | str:
    """The form of the exponents that are used at one level."""
    parts: list[tuple[Probe, list[Fraction]]] = []
    height = Fraction(1)
    for graph in graphs:
        found: dict[int, set[Fraction]] = {}
        for i in _exponents_at(graph, level, chain):
            terms: dict[int, list[Fraction]] = {}
            if not _strip(graph, i, Fraction(1), terms):
                return "an exponent has too many terms"
            for atom, coefs in terms.items():
                found.setdefault(atom, set()).update(coefs)
            height = max(height, Fraction(sum(len(c) for c in terms.values())))
        if not found:
            continue
        atoms = sorted(found)
        if selects(graph, atoms):
            return "an exponent depends on a selection other than its shift"
        probe = Probe(graph, atoms, level, chain, sizing.sizes, sizing.ranges, seed)
        scales = []
        for atom in atoms:
            scale = min(abs(c) for c in found[atom])
            ratios = [c / scale for c in found[atom]]
            if any(r.denominator > 1 or abs(r) > MOST_HEIGHT for r in ratios):
                return "the coefficients of an exponent have no common measure"
            height *= max(abs(r) for r in ratios)
            cells = int(np.prod([sizing.sizes[x] for x in graph.nodes[atom].axes]))
            scales += [scale] * cells
        parts.append((probe, scales))
    if not parts:
        return Exponents(0, 1.0)
    places = np.concatenate([_places(probe, fixed) for probe, _ in parts])
    count = _peel(parts, places, chain.primes[level])
    return count if isinstance(count, str) else Exponents(count, float(height))


def _exponents_at(graph: Graph, level: int, chain: Chain) -> list[int]:
    """Arguments of the exps whose value at ``level - 1`` is wanted when level 0 of outputs is."""
    info = information(graph, chain.full)
    plan = analyse(graph, chain.full, {o.node: lowest(info[o.node].mask) for o in graph.outputs})
    return [
        node.operands[0]
        for i, node in enumerate(graph.nodes)
        if isinstance(node, Map)
        and node.op == "exp"
        and plan.want[i] >> (level - 1) & 1
        and not keyed_move("exp", info[node.operands[0]], chain.full)
    ]


def _strip(graph: Graph, i: int, coef: Fraction, out: dict[int, list[Fraction]]) -> bool:
    """Adds the atoms of an exponent with their coefficients; False when there are too many."""
    node = graph.nodes[i]
    if sum(len(c) for c in out.values()) > 64:
        return False
    if isinstance(node, (Const, SizeOf)) or not is_float(node.dtype):
        return True
    if isinstance(node, (View, Gather)) or (isinstance(node, Map) and node.op == "cast"):
        return _strip(graph, node.args[0], coef, out)
    if isinstance(node, Reduce) and node.op in ("max", "min"):
        return _strip(graph, node.operand, coef, out)
    if isinstance(node, Map):
        if node.op in ("add", "max", "min"):
            return all(_strip(graph, j, coef, out) for j in node.operands)
        if node.op == "where":
            return all(_strip(graph, j, coef, out) for j in node.operands[1:])
        if node.op == "mul":
            for k in (0, 1):
                literal = graph.nodes[node.operands[k]]
                if isinstance(literal, Const) and abs(float(literal.value)) not in (0, np.inf):
                    factor = coef * Fraction(literal.value)
                    return _strip(graph, node.operands[1 - k], factor, out)
    out.setdefault(i, []).append(coef)
    return True


def _places(probe: Probe, fixed: list[Axis]) -> np.ndarray:
    """[cells, fixed axes]: where each cell lies along the axes, -1 where it lacks one."""
    out = []
    for i in probe.nodes:
        axes = probe.graph.nodes[i].axes
        shape = [probe.sizes[x] for x in axes]
        grid = np.indices(shape).reshape(len(axes), math.prod(shape))
        lines = [grid[axes.index(x)] if x in axes else np.full(grid.shape[1], -1) for x in fixed]
        out.append(np.stack(lines, 1) if lines else np.zeros((grid.shape[1], 0), dtype=int))
    return np.concatenate(out)


def _peel(parts: list[tuple[Probe, list[Fraction]]], places: np.ndarray, p: int) -> int | str:
    """How many distinct atoms there are, when those below each cell can be ordered."""
    points = [probe.points(range(24)) for probe, _ in parts]
    values = np.concatenate([v for v, _ in points], 1)
    status = np.concatenate([s for _, s in points], 1)
    scales = np.array(
        [dyadic(c.numerator, p) * pow(c.denominator, -1, p) % p for _, cs in parts for c in cs],
        dtype=U64,
    )
    # A cell that is undefined or infinite at every point takes part in nothing.
    varying = (values != values[0]).any(0)
    values = values * scales % U64(p)
    clean = (status == 0)[:, varying].all(1)
    if clean.sum() < 4:
        return "no point was found at which all exponents are defined"
    columns = np.flatnonzero(varying)
    keep = _distinct(values[clean][:, columns], p)
    if keep is None:
        return "two exponents are multiples of one another without a small ratio"
    columns = columns[keep]
    base = int(np.flatnonzero(clean)[0])
    depends, affine = _dependence(parts, base, columns, p)
    # A cell of the outputs sees the atoms at its own place along the fixed axes.
    for place in np.unique(places[columns], axis=0):
        here = ((places[columns] == place) | (places[columns] < 0) | (place < 0)).all(1)
        if not _ordered(depends[:, here], affine[:, here]):
            return "the exponents have no triangular form"
    return len(columns)


def _ordered(depends: np.ndarray, affine: np.ndarray) -> bool:
    """Whether the atoms (columns) can be taken off one by one, each by an element of its own."""
    left = np.ones(depends.shape[1], dtype=bool)
    while left.any():
        rows = np.flatnonzero((depends & left).sum(1) == 1)
        owner = (depends[rows] & left).argmax(1)
        good = owner[affine[rows, owner]]
        if not len(good):
            return False
        left[good] = False
    return True


def _distinct(values: np.ndarray, p: int) -> np.ndarray | None:
    """One column of each class of columns that agree up to sign; None for another ratio."""
    keep: list[int] = []
    seen: dict[bytes, int] = {}
    inverse = power(values[:1], p - 2, p)
    shape = values * inverse % U64(p)  # a column and its multiples look alike
    for j in range(values.shape[1]):
        first = seen.setdefault(shape[:, j].tobytes(), j)
        if first == j:
            keep.append(j)
        elif int(values[0, j]) not in (int(values[0, first]), p - int(values[0, first])):
            return None
    return np.array(keep, dtype=int)


def _dependence(
    parts: list[tuple[Probe, list[Fraction]]], base: int, columns: np.ndarray, p: int
) -> tuple[np.ndarray, np.ndarray]:
    """[elements, atoms]: whether the atom moves with the element, and whether affinely."""
    elements = sorted({x for probe, _ in parts for x in probe.inputs()})
    cells = [(name, c) for name, count in elements for c in range(count)]
    if len(cells) * len(columns) > MOST_MOVES:
        raise VerificationFailed(
            what=f"{len(cells)} input elements of {len(columns)} exponents are too many to probe",
            where="exponents",
            fix="cut the check into pieces",
        )
    steps = (1, 2)
    moves = [(name, c, s) for name, c in cells for s in steps]
    found = []
    for probe, _ in parts:
        known = {name for name, _ in probe.inputs()}
        mine = [m for m in moves if m[0] in known]
        values, _ = probe.around(base, mine)
        full = np.repeat(values[:1], len(moves) + 1, axis=0)
        at = {m: k + 1 for k, m in enumerate(moves)}
        full[[0, *(at[m] for m in mine)]] = values
        found.append(full)
    values = np.concatenate(found, 1)[:, columns]
    once = (values[1::2] + U64(p) - values[:1]) % U64(p)
    twice = (values[2::2] + U64(p) - values[:1]) % U64(p)
    return (once != 0) | (twice != 0), twice == once * U64(2) % U64(p)
