"""Reports for people: what was found, how far it is proved, how fast it is."""

from superopt.report.explain import explain

__all__ = ["explain"]
