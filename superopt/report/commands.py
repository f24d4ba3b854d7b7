"""How the words of the command line are read, and how a mistake in them ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

_WORDS = "superopt.words"

USAGE = 64
"""Status of a mistake in the words of ``verify``, whose others are verdicts (EX_USAGE of sysexits.h)."""


class Commands(TyperGroup):
    """The commands: ``bench --json`` may stand alone, and a usage error is told in JSON as well."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words of the command line."""
        if args[:1] == ["bench"] and "--json" in args:
            after = args.index("--json") + 1
            if args[after : after + 1] == [] or args[after].startswith("--"):
                args = [*args[:after], "-", *args[after:]]
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that they name."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            said = getattr(
                error, "format_message", None
            )  # typer carries click's errors, or its own
            if said is not None and _wants_json(ctx.meta[_WORDS]):
                print_json({"status": "failed", "reason": " ".join(said().split())})
            if said is not None and ctx.meta[_WORDS][:1] == ["verify"]:
                error.exit_code = USAGE  # type: ignore[attr-defined]
            raise


def _wants_json(words: Sequence[str]) -> bool:
    """Whether JSON is expected on standard output; ``bench`` may write it to a file."""
    if "--json" not in words:
        return "--json=-" in words
    return words[0] != "bench" or words[words.index("--json") + 1] == "-"


def print_json(value: Any) -> None:
    """Prints plain data."""
    typer.echo(json.dumps(value, indent=1, default=str))
