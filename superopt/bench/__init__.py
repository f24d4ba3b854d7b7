"""Workloads, peers, floors and suites: how superopt is measured."""
