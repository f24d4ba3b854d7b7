"""Workloads, peers, floors and suites: how superopt is measured."""

from superopt.bench.measure import Timing, measure
from superopt.bench.peers import PEERS, Peer
from superopt.bench.suite import run_suite
from superopt.bench.workloads import SUITES, WORKLOADS, Workload, suite, workload

__all__ = [
    "PEERS",
    "SUITES",
    "WORKLOADS",
    "Peer",
    "Timing",
    "Workload",
    "measure",
    "run_suite",
    "suite",
    "workload",
]
