"""On fields small enough to fail, the rate of false accepts is what the theory says."""

import math

import pytest

from superopt.errors import BadOption
from superopt.mugraph.algebras.chain import Chain
from superopt.verify.equal import check_equal
from tests.verify.terms import program

RUNS = 600


def accepted(a, b, chain: Chain, trials: int) -> float:
    return (
        sum(
            bool(check_equal(a, b, seed=s, chains=(chain,), trials=trials, using="python"))
            for s in range(RUNS)
        )
        / RUNS
    )


def near(rate: float, theory: float) -> bool:
    return abs(rate - theory) <= 4 * math.sqrt(theory * (1 - theory) / RUNS) + 1e-9


# c and d are scalars: one cell, so that one trial is one throw of the dice. Both assignments of
# sizes run, so the rate of a check is that of twice its trials.
@pytest.mark.parametrize("primes", [(7, 3), (47, 23, 11)])
@pytest.mark.parametrize("trials", [1, 2])
def test_a_difference_of_degree_d_survives_d_over_q(primes, trials):
    chain = Chain("tiny", primes)
    p = primes[0]
    # c^2 = c at 0 and 1 alone.
    rate = accepted(program(lambda q: q.c * q.c), program(lambda q: q.c * 1.0), chain, trials)
    assert near(rate, (2 / p) ** (2 * trials))
    # c d = 0 on a cross of 2p - 1 points.
    rate = accepted(program(lambda q: q.c * q.d), program(lambda q: q.c * 0.0), chain, trials)
    assert near(rate, ((2 * p - 1) / p**2) ** (2 * trials))


@pytest.mark.parametrize("trials", [1, 3])
def test_a_root_of_a_square_is_a_coin_toss(trials):
    chain = Chain("tiny", (4079, 2039, 1019))
    rate = accepted(
        program(lambda q: (q.c * q.c).sqrt()), program(lambda q: q.c * 1.0), chain, trials
    )
    assert near(rate, 0.5 ** (2 * trials))


def test_exponentials_live_in_their_subgroup():
    # omega^c = omega^d exactly when c = d mod 11: the level above decides.
    chain = Chain("tiny", (23, 11))
    rate = accepted(program(lambda q: q.c.exp()), program(lambda q: q.d.exp()), chain, 1)
    assert near(rate, (1 / 11) ** 2)


def test_a_winner_is_as_likely_as_the_order_makes_it():
    # max(c, d) is c in half of the trials; ties are drawn besides, and show nothing here.
    chain = Chain("tiny", (4079, 2039, 1019))
    a, b = program(lambda q: q.c.max(q.d)), program(lambda q: q.c * 1.0)
    rate = accepted(a, b, chain, 1)
    tie = 1 / 3  # pooled trials: the two are equal, or the winner decides as well
    assert near(rate, (0.5 * (tie + (1 - tie) * 0.5)) ** 2)


def test_a_broken_chain_is_refused():
    for primes in ((23, 7), (13, 5), (2147483647,) * 2, (15, 7), ()):
        with pytest.raises(BadOption):
            Chain("broken", primes)
