"""Parses the part of C++ that kernels are printed in: functions, declarations, loops, calls, lambdas.

It is given the text after the headers. What it does not know it refuses, so that nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]
"""A kind and its parts: an expression or a statement."""


class Unreadable(Exception):
    """Text whose meaning is not known here."""


@dataclass(frozen=True)
class Type:
    """A name, the arguments of its template, and how many pointers lead to it."""

    name: str
    args: tuple[Any, ...] = ()
    pointers: int = 0


@dataclass(frozen=True)
class Function:
    """A function: its parameters by name, and its statements."""

    name: str
    params: tuple[str, ...]
    body: tuple[Node, ...]


_SKIP = re.compile(r"(?:\s|//[^\n]*|#[^\n]*|\[\[maybe_unused\]\])+")
_TOKEN = re.compile(
    r"""(?P<number>(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+)f?|\d+)(?!\w)
    |(?P<name>[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*)
    |(?P<sign>\+\+|--|[-+*/|&<>=!]=|&&|\|\||::|[-+*/%<>=!&|?:;,.(){}\[\]])
    |(?P<string>"\w*")""",
    re.VERBOSE,
)
_TYPES = frozenset(
    ("auto", "char", "void", "float", "double", "so_bf16", "so_f16", "bool", "int", "uint8_t")
    + ("int8_t", "int16_t", "int32_t", "int64_t", "so_vec", "so_mask", "so_sum", "so_arena")
)
_BEFORE = frozenset(("const", "static", "thread_local", "alignas"))
_TEMPLATES = frozenset(("static_cast", "reinterpret_cast", "std::numeric_limits"))
_LEVELS = (
    ("||",),
    ("&&",),
    ("|",),
    ("&",),
    ("==", "!="),
    ("<", "<=", ">", ">="),
    ("+", "-"),
    ("*", "/", "%"),
)
_ASSIGN = ("=", "+=", "-=", "*=", "/=", "|=", "&=")


def functions(text: str) -> dict[str, Function]:
    """The functions of a text, by name; raises Unreadable."""
    parser = _Parser(_tokens(text))
    found: dict[str, Function] = {}
    while parser.next != "":
        made = parser.function()
        found[made.name] = made
    return found


def _tokens(text: str) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    at = 0
    while True:
        if skipped := _SKIP.match(text, at):
            at = skipped.end()
        if at == len(text):
            return out
        found = _TOKEN.match(text, at)
        if found is None:
            raise Unreadable(text[at : at + 40])
        out.append((found.lastgroup or "", found.group()))
        at = found.end()


class _Parser:
    """Recursive descent over tokens."""

    def __init__(self, tokens: Sequence[tuple[str, str]]) -> None:
        self._tokens = [*tokens, ("end", "")]
        self._at = 0

    @property
    def next(self) -> str:
        """The text of the next token; empty at the end."""
        return self._tokens[self._at][1]

    def _take(self, *wanted: str) -> str:
        kind, text = self._tokens[self._at]
        if (wanted and text not in wanted) or kind == "end":
            raise Unreadable(f"{text!r} where {' or '.join(wanted) or 'something'} is expected")
        self._at += 1
        return text

    def _maybe(self, text: str) -> bool:
        if self.next == text:
            self._at += 1
            return True
        return False

    def _name(self) -> str:
        if self._tokens[self._at][0] != "name":
            raise Unreadable(f"{self.next!r} where a name is expected")
        return self._take()

    # -- functions and types

    def function(self) -> Function:
        """A function definition."""
        if self._maybe("extern"):
            self._take('"C"')
        self._type()
        name = self._name()
        self._take("(")
        params = self._params()
        return Function(name, params, self._braces())

    def _params(self) -> tuple[str, ...]:
        """The names of parameters, up to the closing bracket."""
        out: list[str] = []
        while not self._maybe(")"):
            if out:
                self._take(",")
            self._type()
            out.append(self._name())
        return tuple(out)

    def _type(self) -> Type:
        while self.next in _BEFORE:
            if self._take() == "alignas":
                self._take("(")
                self._take()
                self._take(")")
        name = self._name()
        if name not in _TYPES:
            raise Unreadable(f"{name!r} where a type is expected")
        args = self._template() if self.next == "<" else ()
        pointers = 0
        while self.next in ("*", "const", "__restrict"):
            pointers += self._take() == "*"
        return Type(name, args, pointers)

    def _template(self) -> tuple[Any, ...]:
        self._take("<")
        out: list[Any] = []
        while not self._maybe(">"):
            if out:
                self._take(",")
            kind, text = self._tokens[self._at]
            if kind == "number":
                out.append(int(self._take()))
            elif text == "-":
                self._take()
                out.append(-int(self._take()))
            elif text in _TYPES or text == "const":
                out.append(self._type())
            else:
                out.append({"true": True, "false": False}.get(text, text))
                self._take()
        return tuple(out)

    # -- statements

    def _braces(self) -> tuple[Node, ...]:
        self._take("{")
        out = []
        while not self._maybe("}"):
            out.append(self._statement())
        return tuple(out)

    def _statement(self) -> Node:
        match self.next:
            case "{":
                return ("block", self._braces())
            case "for":
                return self._for()
            case "if":
                self._take()
                self._take("(")
                condition = self._expression()
                self._take(")")
                yes = self._statement()
                return ("if", condition, yes, self._statement() if self._maybe("else") else None)
            case "return":
                self._take()
                value = self._expression()
                self._take(";")
                return ("return", value)
            case ";":  # what is left of a statement
                self._take()
                return ("block", ())
        out = self._declaration() if self._declares() else self._simple()
        self._take(";")
        return out

    def _declares(self) -> bool:
        return self.next in _BEFORE or self.next in _TYPES

    def _declaration(self) -> Node:
        kind = self._type()
        name = self._name()
        if self._maybe("["):
            if self._maybe("]"):
                self._take("=")
                return ("list", name, self._list("{", "}"))
            size = int(self._take())
            self._take("]")
            return ("array", kind, name, size)
        return ("declare", kind, name, self._expression() if self._maybe("=") else None)

    def _simple(self) -> Node:
        """An assignment, a step, or an expression."""
        if self.next in ("++", "--"):
            step = "+=" if self._take() == "++" else "-="
            return ("assign", step, self._unary(), ("number", 1))
        left = self._expression()
        if self.next in _ASSIGN:
            sign = self._take()
            return ("assign", sign, left, self._expression())
        while self._maybe(","):  # as in (void)a, (void)b
            left = ("comma", left, self._expression())
        return ("do", left)

    def _for(self) -> Node:
        self._take("for")
        self._take("(")
        start = self._declaration() if self._declares() else self._simple()
        self._take(";")
        condition = self._expression()
        self._take(";")
        step = self._simple()
        self._take(")")
        return ("for", start, condition, step, self._statement())

    # -- expressions

    def _expression(self) -> Node:
        out = self._binary(0)
        if self._maybe("?"):
            yes = self._expression()
            self._take(":")
            return ("choose", out, yes, self._expression())
        return out

    def _binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        out = self._binary(level + 1)
        while self.next in _LEVELS[level]:
            sign = self._take()
            out = ("binary", sign, out, self._binary(level + 1))
        return out

    def _unary(self) -> Node:
        if self.next in ("-", "!"):
            return ("unary", self._take(), self._unary())
        if self.next == "(" and self._tokens[self._at + 1][1] == "void":
            self._at += 2
            self._take(")")
            return ("void", self._unary())
        out = self._primary()
        while True:
            if self._maybe("["):
                out = ("index", out, self._expression())
                self._take("]")
            elif self._maybe("."):
                name = self._name()
                out = ("member", out, name, self._list("(", ")"))
            else:
                return out

    def _list(self, opened: str, closed: str) -> tuple[Node, ...]:
        self._take(opened)
        out: list[Node] = []
        while not self._maybe(closed):
            if out:
                self._take(",")
            out.append(self._expression())
        return tuple(out)

    def _primary(self) -> Node:
        kind, text = self._tokens[self._at]
        if kind == "number":
            self._take()
            return (
                ("number", int(text))
                if text.isdigit()
                else ("real", Fraction(float(text.rstrip("f"))))
            )
        if self._maybe("("):
            out = self._expression()
            self._take(")")
            return out
        if text == "[":
            return self._lambda()
        if text in ("true", "false", "nullptr"):
            self._take()
            return ("constant", {"true": True, "false": False, "nullptr": None}[text])
        name = self._name()
        args: tuple[Any, ...] = ()
        if self.next == "<" and (name.startswith("so_") or name in _TEMPLATES):
            args = self._template()
        if name == "std::numeric_limits":
            self._take("::")
            what = self._name()
            self._list("(", ")")
            return ("limit", what)
        if self.next == "(":
            return ("call", name, args, self._list("(", ")"))
        if self.next == "{":
            return ("call", name, args, self._list("{", "}"))
        return ("name", name)

    def _lambda(self) -> Node:
        self._take("[")
        self._maybe("&")
        self._take("]")
        self._take("(")
        params = self._params()
        self._take("SO_LAMBDA")
        return ("lambda", params, self._braces())
