"""Prime chains and keyed randomness: the number theory under the field algebra, in numpy.

A chain is p0 = 2 p1 + 1, p1 = 2 p2 + 1, ... with every p_i = 3 mod 4 (design section 6). exp goes
from residues mod p_(i+1) to the subgroup of order p_(i+1) mod p_i, and log comes back. All the
randomness of a check is a pure function of (seed, trial, name, level, index), so that a second
evaluator draws the same bits without being handed them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from superopt.errors import BadOption

U64 = np.uint64
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
"""Weyl increment of splitmix64 (Steele, Lea and Flood, OOPSLA'14)."""

INFINITE = 1 << 62
"""What, with a status added, stands for an infinity where a residue is hashed."""

_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of safe primes, largest first; ``name`` goes into certificates.

    Raises BadOption when a link p_i = 2 p_(i+1) + 1 or p_i = 3 mod 4 fails, a member is no prime,
    or a product of two residues would not fit 64 bits.
    """

    name: str
    primes: tuple[int, ...]

    def __post_init__(self) -> None:
        links = zip(self.primes, self.primes[1:], strict=False)
        good = (
            len(self.primes) in range(1, 9)
            and all(p == 2 * q + 1 for p, q in links)
            and all(p % 4 == 3 and p < 1 << 31 and _is_prime(p) for p in self.primes)
        )
        if not good:
            raise BadOption(
                what=f"{self.primes} is no chain of safe primes below 2^31",
                where=f"field {self.name!r}",
                fix="give p0 = 2 p1 + 1, p1 = 2 p2 + 1, ..., all prime and 3 mod 4",
            )

    @property
    def depth(self) -> int:
        """The number of levels."""
        return len(self.primes)

    @property
    def full(self) -> int:
        """The set of all levels, as a bit mask."""
        return (1 << len(self.primes)) - 1


def _is_prime(n: int) -> bool:
    """Deterministic Miller-Rabin for n < 2^31 (bases 2, 3, 5, 7 suffice below 3.2e9)."""
    if n < 11:
        return n in (2, 3, 5, 7)
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for a in (2, 3, 5, 7):
        x = pow(a, d, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(s - 1)):
            return False
    return True


CHAINS: tuple[Chain, ...] = (
    Chain("p31a", (2147438927, 1073719463, 536859731)),
    # 2, 3, 5 and 7 are squares at every level of the next two: for constants under a root.
    Chain("p31b", (2147335679, 1073667839, 536833919)),
    Chain("p31c", (2147365919, 1073682959, 536841479)),
    Chain("p31d", (2147438687, 1073719343, 536859671)),
)
"""The chains a check may use; the first is the default."""


# -- keyed randomness ------------------------------------------------------------------------------


def mix(z: np.ndarray) -> np.ndarray:
    """The splitmix64 finalizer on uint64 arrays; a bijection of 64-bit words."""
    z = (z ^ (z >> U64(30))) * U64(_M1)
    z = (z ^ (z >> U64(27))) * U64(_M2)
    return z ^ (z >> U64(31))


def mix_int(z: int) -> int:
    """``mix`` of one Python integer."""
    z = ((z ^ (z >> 30)) * _M1) & MASK
    z = ((z ^ (z >> 27)) * _M2) & MASK
    return z ^ (z >> 31)


def text_hash(text: str) -> int:
    """FNV-1a of a name, 64 bits: the same in every process and language."""
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def trial_keys(seed: int, trials: range) -> np.ndarray:
    """One 64-bit key per trial, shape [trials]; independent trials have independent keys."""
    base = mix_int((seed & MASK) ^ text_hash("trial"))
    numbers = np.arange(trials.start + 1, trials.stop + 1, dtype=np.int64).astype(U64)
    return mix(U64(base) + numbers * U64(GOLDEN))


def level_salt(level: int) -> int:
    """What tells the residues of one draw at different levels apart."""
    return (level + 1) * GOLDEN & MASK


# -- arithmetic ------------------------------------------------------------------------------------


def power(x: np.ndarray, exponent: int, p: int) -> np.ndarray:
    """x^exponent mod p, elementwise."""
    out, base = np.ones_like(x), x
    while exponent:
        if exponent & 1:
            out = out * base % U64(p)
        base = base * base % U64(p)
        exponent >>= 1
    return out


def dyadic(value: float | int, p: int) -> int:
    """The residue of a literal's exact (dyadic) value; p is odd, so 2^-k exists."""
    f = Fraction(value)
    return f.numerator % p * pow(f.denominator, -1, p) % p


def generators(chain: Chain, keys: np.ndarray) -> np.ndarray:
    """omega per trial and level, uint64 [trials, depth - 1]: omega[t, i] has order p_(i+1) mod p_i."""
    out = np.ones((len(keys), max(chain.depth - 1, 0)), dtype=U64)
    for i in range(chain.depth - 1):
        p, left = U64(chain.primes[i]), np.ones(len(keys), dtype=bool)
        h = mix(keys ^ U64(text_hash("omega")))
        while left.any():  # again where it is 0 or 1
            h = np.where(left, mix(h + U64(level_salt(i))), h)
            omega = h % p * (h % p) % p
            out[:, i] = np.where(left, omega, out[:, i])
            left &= omega <= 1
    return out


def exponential(omega: np.ndarray, x: np.ndarray, p: int) -> np.ndarray:
    """omega^x mod p; ``omega`` is [trials], broadcast over the cells of ``x`` [trials or 1, ...]."""
    base = omega.reshape((-1,) + (1,) * (x.ndim - 1)).astype(U64)
    out = np.ones(np.broadcast_shapes(base.shape, x.shape), dtype=U64)
    for k in range(31):
        bit = (x >> U64(k)) & U64(1)
        if not (x >> U64(k)).any():
            break
        out = np.where(bit == 1, out * base % U64(p), out)
        base = base * base % U64(p)
    return out


@lru_cache(maxsize=8)
def _baby_steps(p: int, order: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Sorted powers of 4 mod p with their exponents, and how many: the table of the giant steps."""
    count = 1
    while count * count < order or (count < 1 << 20 and count < order):
        count *= 2
    table = np.ones(1, dtype=U64)
    while len(table) < count:
        table = np.concatenate([table, table * U64(pow(4, len(table), p)) % U64(p)])
    at = np.argsort(table, kind="stable")
    return table[at], at.astype(U64), count


def logarithm(omega: np.ndarray, y: np.ndarray, p: int, order: int) -> np.ndarray:
    """The x in [0, order) with omega^x = y mod p, for y in the subgroup (baby step, giant step).

    4 generates every subgroup (its order is prime), so one table serves all trials:
    log_omega y = log_4 y / log_4 omega.
    """
    keys, exponents, count = _baby_steps(p, order)

    def base4(values: np.ndarray) -> np.ndarray:
        out = np.zeros(values.shape, dtype=U64)
        left = np.arange(len(values))
        now = values.copy()
        back = pow(pow(4, count, p), -1, p)
        for j in range(order // count + 1):
            at = np.minimum(np.searchsorted(keys, now), len(keys) - 1)
            hit = keys[at] == now
            out[left[hit]] = (exponents[at[hit]] + U64(j * count)) % U64(order)
            left, now = left[~hit], now[~hit] * U64(back) % U64(p)
            if not len(left):
                break
        return out

    logs = base4(np.ascontiguousarray(y).reshape(-1)).reshape(y.shape)
    unit = power(base4(omega.astype(U64)), order - 2, order)
    return logs * unit.reshape((-1,) + (1,) * (y.ndim - 1)) % U64(order)
