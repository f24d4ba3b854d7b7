"""Reports for people: what was found, how far it is proved, how fast it is."""

from superopt.report.explain import as_json, explain, why, why_nothing

__all__ = ["as_json", "explain", "why", "why_nothing"]
