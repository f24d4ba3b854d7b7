"""Scans the textual form into tokens with lines and columns, and reads its atoms off a cursor."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import NoReturn

from superopt.errors import ParseError, closest
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Dims

RESERVED = frozenset({"clamp", "inf", "nan", "true", "false"})
"""Identifiers that a name may be only in quotes, because they mean something where names stand."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#.*)
      |(?P<string>"(?:[^"\\]|\\.)*")
      |(?P<real>0x[0-9a-f]+(?:\.[0-9a-f]*)?p[+-]?[0-9]+|[0-9]+\.[0-9]+(?:e[+-]?[0-9]+)?|[0-9]+e[+-]?[0-9]+)
      |(?P<int>[0-9]+)
      |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
      |(?P<node>%[0-9]+)
      |(?P<arg>\$[0-9]+)
      |(?P<mark>:=|->|//|\.\.|[\[\](){}:,=+\-*%])""",
    re.VERBOSE,
)
_DIGITS = 40  # longer numbers are no sizes, and Python refuses to read very long ones


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    column: int


class Cursor:
    """A cursor over the tokens of a text; each method reads one construct, or raises ParseError."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ParseError(f"{type(text).__name__} is no text", "the textual form", "give a str")
        self.tokens = _scan(text)
        self.at = 0
        self.axes: dict[str, Axis] = {}
        self.symbols: dict[str, Sym] = {}

    # -- the cursor

    @property
    def here(self) -> _Token:
        return self.tokens[self.at]

    def fail(self, expected: str, token: _Token | None = None) -> NoReturn:
        """Raises ParseError at a token, by default the next one."""
        token = token or self.here
        found = {"line": "the end of the line", "end": "the end"}.get(token.kind, repr(token.text))
        raise ParseError(
            what=f"expected {expected}, found {found}",
            where=f"line {token.line}, column {token.column}",
            fix="see superopt/mugraph/text.py for the form",
        )

    def take(self, kind: str, expected: str, text: str | None = None) -> _Token:
        token = self.here
        if token.kind != kind or (text is not None and token.text != text):
            self.fail(expected)
        self.at += 1
        return token

    def mark(self, text: str) -> None:
        self.take("mark", repr(text), text)

    def word(self, text: str) -> None:
        self.take("word", repr(text), text)

    def has(self, kind: str, text: str | None = None) -> bool:
        return self.here.kind == kind and (text is None or self.here.text == text)

    def skip(self, kind: str, text: str) -> bool:
        if self.has(kind, text):
            self.at += 1
            return True
        return False

    def end_line(self) -> None:
        self.take("line", "the end of the line")

    def end(self) -> None:
        """Nothing may follow."""
        if not self.has("end"):
            self.fail("the end of the text")

    # -- atoms

    def name(self, what: str) -> str:
        token = self.here
        if token.kind == "word" and token.text not in RESERVED:
            self.at += 1
            return token.text
        return self.string(what)

    def string(self, what: str) -> str:
        token = self.take("string", what)
        try:
            return str(json.loads(token.text))
        except ValueError:
            self.fail(f"{what} as a JSON string", token)

    def integer(self, what: str) -> int:
        minus = self.skip("mark", "-")
        token = self.take("int", what)
        value = int(token.text)
        if value >= 1 << 63:
            self.fail(f"{what} of less than 2**63", token)
        return -value if minus else value

    def number(self) -> float | int:
        minus = self.skip("mark", "-")
        token = self.here
        value: float | int
        if token.kind == "int":
            value = int(token.text)
        elif token.kind == "real":
            try:
                value = float.fromhex(token.text) if token.text[:2] == "0x" else float(token.text)
            except (OverflowError, ValueError):
                self.fail("a number that a float can hold")
            if math.isinf(value):
                self.fail("a number that a float can hold")
        elif self.has("word", "inf"):
            value = math.inf
        elif self.has("word", "nan"):
            self.fail("a number: a program with a NaN literal is left to PyTorch")
        else:
            self.fail("a number")
        self.at += 1
        return -value if minus else value

    def axis(self) -> Axis:
        token = self.here
        name = self.name("an axis name")
        if name not in self.axes:
            self.fail(f"a declared axis ({closest(name, self.axes)})", token)
        return self.axes[name]

    def axis_list(self, close: str) -> tuple[Axis, ...]:
        out: list[Axis] = []
        while not self.skip("mark", close):
            if out:
                self.mark(",")
            out.append(self.axis())
        return tuple(out)

    def ref(self) -> int:
        return int(self.take("node", "a node such as %0").text[1:])

    def dtype(self) -> str:
        token = self.take("word", "a dtype")
        if token.text not in DTYPES:
            self.fail(f"a dtype ({closest(token.text, DTYPES)})", token)
        return token.text

    def dims(self) -> Dims:
        out: list[tuple[Axis, ...]] = []
        self.mark("[")
        while not self.skip("mark", "]"):
            if out:
                self.mark(",")
            if self.skip("mark", "("):
                merged: list[Axis] = []
                while not self.skip("mark", ")"):
                    merged.append(self.axis())
                out.append(tuple(merged))
            else:
                out.append((self.axis(),))
        return tuple(out)


def _scan(text: str) -> list[_Token]:
    """The tokens of a text; each line that holds any ends in a "line" token, all in an "end"."""
    out: list[_Token] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        at, before = 0, len(out)
        while at < len(line):
            found = _TOKEN.match(line, at)
            long = found and found.lastgroup in ("int", "node", "arg") and len(found[0]) > _DIGITS
            if found is None or long:
                what = (
                    f"a number of at most {_DIGITS} digits"
                    if found
                    else "a name, a number or a mark"
                )
                shown = line[at : at + 12]
                raise ParseError(
                    what=f"expected {what}, found {shown!r}",
                    where=f"line {number}, column {at + 1}",
                    fix="quote names that are no plain identifiers",
                )
            if found.lastgroup != "space":
                out.append(_Token(str(found.lastgroup), found[0], number, at + 1))
            at = found.end()
        if len(out) > before:
            out.append(_Token("line", "", number, len(line) + 1))
    out.append(_Token("end", "", len(lines), len(lines[-1]) + 1))
    return out
