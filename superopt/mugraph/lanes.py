"""Register tiles of contractions: which fit into registers, and which one is usual.

A register tile keeps ``rows`` times ``cols`` vectors of sums. What a placement asks for is fitted to
the rows and vectors that a statement really has, by these rules, in the backend as in the model.
"""

from __future__ import annotations

from superopt.mugraph.placement import Lane

FEW_ROWS = {1: 8, 2: 8, 3: 4, 4: 4}
"""Vectors beside few rows, so that enough independent sums hide the latency of one; else 3."""

MOST_ROWS = 16
"""Rows of a register tile at most: the generated loops over them are unrolled."""

SCATTERED, TURNED = 1.5, 0.2
"""Prices beside ``waste``: of a factor that is read out of order, and of a result that is made so."""


def copied(rows: int) -> float:
    """The price, beside ``waste``, of copying a factor into another layout for so many rows."""
    return 6.0 / max(rows, 1)


def dot(steps: int) -> float:
    """The price, as a factor, of vectors along the summed axis: each sum's lanes are added up at the end."""
    return 1.0 + 10.0 / max(steps, 1)


_USUAL = {64: (8, 2), 32: (6, 2)}
_MOST_SUMS = {64: 24, 32: 12}


def waste(n: int) -> float:
    """What so many columns cost in whole vectors of sixteen, over what they would."""
    return -(-n // 16) * 16 / max(n, 1)


def usual_tile(vector_bytes: int) -> tuple[int, int]:
    """Rows and vectors of the register tile where a placement leaves it to the backend."""
    return _USUAL.get(vector_bytes, (4, 3))


def most_sums(vector_bytes: int) -> int:
    """Vectors of sums that stay in registers, beside what is read."""
    return _MOST_SUMS.get(vector_bytes, 12)


def asked_tile(lane: Lane, vector_bytes: int) -> tuple[int, int]:
    """The register tile that a lane asks for: the usual one where it is left open, or the vectors differ."""
    if lane == Lane() or lane.vector * 4 != vector_bytes:
        return usual_tile(vector_bytes)
    return lane.rows, lane.cols


def fitted_tile(
    tile: tuple[int, int], vector_bytes: int, rows: int, vectors: int
) -> tuple[int, int]:
    """A register tile fitted to what there is; vectors: 0 where their number is not known."""
    most = most_sums(vector_bytes)
    r, c = min(tile[0], MOST_ROWS, most), tile[1]
    if rows < r:
        r = max(rows, 1)
        c = max(c, FEW_ROWS.get(r, 3))
    return r, max(1, min(c, vectors or 1, most // r))


def steps_of(lane: Lane, vector_bytes: int, rows: int) -> int:
    """Summed steps per block of a statement of so many rows.

    Few rows wait for memory: short blocks. One or two rows stream better by themselves. Many rows
    use a block again and again.
    """
    if lane.unroll > 1 and lane.vector * 4 == vector_bytes and rows >= lane.rows:
        return lane.unroll
    if rows <= 2:
        return 8
    return 16 if rows <= FEW else 64


FEW = 16
"""Rows up to which the other factor is read ahead from memory; for more it is copied first."""
