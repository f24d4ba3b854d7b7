"""Workloads, peers, floors and suites: how superopt is measured."""

from superopt.bench.peers import PEERS
from superopt.bench.suite import run_suite
from superopt.bench.workloads import SUITES, WORKLOADS

__all__ = ["PEERS", "SUITES", "WORKLOADS", "run_suite"]
