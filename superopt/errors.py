"""Errors that teach: one class per mistake a user can make, each saying what, where and how to fix."""

from __future__ import annotations


class SuperoptError(Exception):
    """Base of all errors of superopt. ``what`` happened, ``where``, and how to ``fix`` it."""

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        parts = [what, f"where: {where}" if where else "", f"fix: {fix}" if fix else ""]
        super().__init__("; ".join(p for p in parts if p))


class IllFormedGraph(SuperoptError):
    """A graph breaks a well-formedness rule."""


class UnsupportedOperator(SuperoptError):
    """An operator or dtype outside the supported set."""


class ShapeMismatch(SuperoptError):
    """Tensors whose shapes do not fit."""


class ParseError(SuperoptError):
    """The textual form of a graph cannot be read."""
