"""Emitted C++ broken in one place: numbers, signs, bounds, offsets, functions, lost statements."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

_INTEGER = re.compile(r"(?<![\w.])\d+(?![\w.])")
_WIDTHS = re.compile(r"(?<!so_fix)<[^<>()]*>")
"""Arguments of templates: how many lanes at a time, which is no part of what is computed."""

_FLOAT = re.compile(r"(?<![\w.])\d+\.\d+(?:e[+-]?\d+)?f?(?!\w)")
_OFFSET = re.compile(r"\bi_\w+\b")
_NAME = re.compile(r"\b[vp]\d+\b")
_SWAPS = (
    ("sign", " + ", " - "),
    ("sign", " - ", " + "),
    ("sign", "+=", "-="),
    ("product for sum", " + ", " * "),
    ("sum for product", " * ", " + "),
    ("bound", " < ", " <= "),
    ("comparison", " == ", " != "),
    ("function", "so_max(", "so_min("),
    ("function", "so_min(", "so_max("),
    ("function", "so_exp(", "so_log("),
    ("function", "so_mul(", "so_max("),
    ("function", "so_sqrt(", "so_exp("),
    ("flag", "false", "true"),
    ("flag", "true", "false"),
    ("infinity", "-std::numeric_limits<float>::infinity()", "0.0f"),
    (
        "infinity",
        "-std::numeric_limits<float>::infinity()",
        "std::numeric_limits<float>::infinity()",
    ),
)
_STATEMENT = re.compile(r"^\s*(?:so_store|so_mm|so_dot|so_add_lanes|\w+\[|\w+ [-+*]?= ).*;$")


@dataclass(frozen=True)
class TextMutant:
    """A kind, the line (from one) that was changed, what it was and is, and the whole text."""

    kind: str
    line: int
    before: str
    after: str
    text: str


def text_mutants(text: str, entry: str, count: int, seed: int) -> list[TextMutant]:
    """At most ``count`` mutants of the task functions of a source, of all kinds in turn."""
    rng = random.Random(seed)
    lines = text.split("\n")
    kinds: dict[str, list[TextMutant]] = {}
    for k in _inside(lines, entry):
        for kind, new in _changes(lines, k):
            if new != lines[k]:
                kinds.setdefault(kind, []).append(TextMutant(kind, k + 1, lines[k], new, ""))
    for found in kinds.values():
        rng.shuffle(found)
    turns = list(kinds)
    rng.shuffle(turns)
    kinds = {k: kinds[k] for k in turns}
    out: list[TextMutant] = []
    seen: set[tuple[int, str]] = set()
    while kinds and len(out) < count:
        for kind in list(kinds):
            if not kinds[kind]:
                del kinds[kind]
                continue
            m = kinds[kind].pop()
            if (m.line, m.after) in seen or len(out) == count:
                continue
            seen.add((m.line, m.after))
            changed = [*lines[: m.line - 1], m.after, *lines[m.line :]]
            out.append(replace(m, text="\n".join(changed)))
    return out


def _inside(lines: list[str], entry: str) -> Iterator[int]:
    """The lines of the functions that run a task.

    What shares the tasks out is not among them, nor how much room a buffer has.
    """
    inside = False
    start = re.compile(rf"^static void {re.escape(entry)}_k\d+\(")
    for k, line in enumerate(lines):
        if start.match(line):
            inside = True
        elif line.startswith("}"):
            inside = False
        elif inside and not line.lstrip().startswith("//") and "alignas(" not in line:
            yield k


def _changes(lines: list[str], k: int) -> Iterator[tuple[str, str]]:
    line = lines[k]
    widths = [w.span() for w in _WIDTHS.finditer(line)]
    for m in _INTEGER.finditer(line):
        if any(a <= m.start() < b for a, b in widths):
            continue
        for step in (1, -1):
            new = str(int(m.group()) + step)
            yield "number", line[: m.start()] + new + line[m.end() :]
    for m in _FLOAT.finditer(line):
        value = float(m.group().rstrip("f"))
        tail = "f" if m.group().endswith("f") else ""
        for other in (value * (1 + 2.0**-10), -value, value * 2) if value else (1.0,):
            yield "literal", f"{line[: m.start()]}{other!r}{tail}{line[m.end() :]}"
    for kind, old, new in _SWAPS:
        at = line.find(old)
        while at >= 0:
            yield kind, line[:at] + new + line[at + len(old) :]
            at = line.find(old, at + 1)
    for m in _OFFSET.finditer(line):
        declared = line[: m.start()].endswith("int64_t ")
        if not declared and line[m.end() : m.end() + 2] != " =":
            yield "offset", f"{line[: m.start()]}({m.group()} + 1){line[m.end() :]}"
    if _STATEMENT.match(line):
        yield "statement lost", ""
    yield from _other_names(lines, k)


def _other_names(lines: list[str], k: int) -> Iterator[tuple[str, str]]:
    """A value in the place of another one that was made on the lines before."""
    line = lines[k]
    before = {n for other in lines[max(0, k - 8) : k] for n in _NAME.findall(other)}
    for m in _NAME.finditer(line):
        if line[m.end() : m.end() + 2] == " =":
            before.discard(m.group())  # what is made here has no value yet
    for m in _NAME.finditer(line):
        if line[m.end() : m.end() + 2] == " =":
            continue
        for name in sorted(before):
            if name != m.group() and name[0] == m.group()[0]:
                yield "other value", line[: m.start()] + name + line[m.end() :]
