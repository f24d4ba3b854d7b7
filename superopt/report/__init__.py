"""Reports for people: what was found, how far it is proved, how fast it is."""

from superopt.report.explain import explain, why, why_nothing

__all__ = ["explain", "why", "why_nothing"]
