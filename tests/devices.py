"""Devices whose caches do not depend on the machine that the tests run on."""

from __future__ import annotations

from dataclasses import replace

from superopt.cost.devices import Device, cpu_device


def known_device(features: frozenset[str], cores: int) -> Device:
    """A CPU of the device table with 1 MiB of cache a core and 32 MiB for all."""
    return replace(cpu_device(features, cores), l2=1 << 20, l3_bytes=32 << 20)
