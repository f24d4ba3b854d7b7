"""Why an accepted mutant of a kernel computes the same: by its machine code, or by exact values."""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from superopt.bench import exact_tiles
from superopt.bench.cpp_parse import Unreadable
from superopt.bench.exact import Exact
from superopt.bench.exact_forms import TooMuch
from superopt.bench.exact_ratio import within
from superopt.bench.exact_text import Reading, read
from superopt.bench.exact_tiles import Stray
from superopt.bench.judge import drawn, index_draws
from superopt.mugraph.axes import Sym, extent
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Graph, Input
from superopt.mugraph.tileir import Program
from superopt.pipeline.mutation_kernels import Bench

LIMITS = ((1, 2_000_000), (300, 3_000_000))
"""Terms of a sum, and operations on terms, with which exact values of kernels are tried in turn."""

MOST_SIZES = 64
"""Sizes that a kernel with symbolic ones is read at: all of the range, or there is no argument."""

STRAYS = " (reads or writes outside an array)"
UNSET = " (reads what was never written)"

_SIZE = re.compile(r"^.*const int64_t (s_\w+) = ints\[\d+\];$", re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """Sizes of the symbols, and numbers of the inputs of integers, with which a kernel is read."""

    sizes: Mapping[str, int]
    given: Mapping[str, np.ndarray]


class Argue:
    """Finds why an accepted mutant of a kernel computes the same."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._own = machine_code(bench.path)
        self._code: dict[str, tuple[bytes, ...]] = {}
        graph = bench.piece.graph
        self._sizes = sizes_in_range(graph)
        self._settings = list(settings(graph, bench.piece.inputs, bench.sizes(), self._sizes))
        self._exact: dict[tuple[int, int], Exact] = {}
        self._known: dict[tuple[Any, ...], Reading | None] = {}

    def why(
        self, kind: str, source: Any, programs: Sequence[Program] | None, path: Path
    ) -> tuple[str, str]:
        """The argument, or the empty string; and what is wrong with the mutant all the same.

        kind: of the mutant; source: its text; programs: its tile programs, where these were changed.
        """
        if machine_code(path) == self._own:
            return "the same machine code", ""
        if programs is not None and (found := self._by_tiles(programs)):
            return found, ""
        found, warning = self._by_text(source)
        if warning:
            return "", warning
        if self._optimized(source.text) == self._optimized(self.bench.source.text):
            return "the same machine code when optimized: what was changed is dead", ""
        if self._dead_in_range(source.text):
            return "the same machine code for sizes in their range", ""
        if not found and kind == "text: literal" and self._rounded_away(source):
            found = "differs by less than the result's type rounds: not told apart"
        return found, ""

    # -- machine code

    def _optimized(self, text: str) -> tuple[bytes, ...]:
        """The machine code of a text with every optimization; empty where there is none."""
        if text not in self._code:
            source = replace(self.bench.source, text=text)
            (path,) = self.bench.compiled([source], optimized=True)
            code = machine_code(path) if isinstance(path, Path) else ()
            if text != self.bench.source.text and text != self._ranged(self.bench.source.text):
                return code
            self._code[text] = code
        return self._code[text]

    def _dead_in_range(self, text: str) -> bool:
        """Whether a mutant is the kernel's machine code when sizes are known to be in their range."""
        own = self.bench.source.text
        if not _symbols(self.bench.piece.graph) or sizes_read(own) != sizes_read(text):
            return False
        mine = self._optimized(self._ranged(own))
        return mine != () and self._optimized(self._ranged(text)) == mine

    def _ranged(self, text: str) -> str:
        """A text in which the compiler is told the ranges of the sizes."""
        known = {f"s_{s.name}": s for s in _symbols(self.bench.piece.graph)}

        def told(line: re.Match[str]) -> str:
            name = line.group(1)
            if name not in known:
                return line.group()
            low, high = known[name].lo, known[name].hi
            return f"{line.group()} if (!({name} >= {low} && {name} <= {high})) __builtin_unreachable();"

        return _SIZE.sub(told, text)

    # -- exact values

    def _exactly(self, k: int, n: int) -> Exact:
        """Exact values at a limit and a setting."""
        given = self._settings[n].given
        key = (k, n if given else 0)  # cells have the same forms at all sizes
        if key not in self._exact:
            self._exact[key] = Exact(*LIMITS[k], given)
        self._exact[key].work = LIMITS[k][1]
        return self._exact[key]

    def _by_tiles(self, programs: Sequence[Program]) -> str:
        """The argument that tile programs give, at the kernel's own sizes."""
        own = [n for n, s in enumerate(self._settings) if s.sizes == self._settings[0].sizes]
        for k in range(len(LIMITS)):
            try:
                if all(
                    self._tiles(k, n, self.bench.programs).same(self._tiles(k, n, programs))
                    for n in own
                ):
                    return "equal in exact arithmetic, cell by cell, task by task" + self._draws()
            except (TooMuch, Stray):
                continue
        return ""

    def _tiles(self, k: int, n: int, programs: Sequence[Program]) -> Reading:
        def made() -> Reading:
            exact, sizes = self._exactly(k, n), self._settings[n].sizes
            exact.undefined = False
            outputs = exact_tiles.outputs(exact, programs, sizes)
            return Reading(outputs, frozenset(), exact.undefined)

        return self._kept(("tiles", k, n), made) if programs is self.bench.programs else made()

    def _kept(self, key: tuple[Any, ...], make: Any) -> Reading:
        """What the kernel itself is, made once; raises TooMuch where it cannot be had."""
        if key not in self._known:
            self._known[key] = None
            self._known[key] = make()
        found = self._known[key]
        if found is None:
            raise TooMuch
        return found

    def _text(self, k: int, n: int, source: Any, rounds: bool) -> Reading:
        def made() -> Reading:
            exact, sizes = self._exactly(k, n), self._settings[n].sizes
            return read(exact, source, self.bench.programs, sizes, rounds)

        return self._kept(("text", k, n, rounds), made) if source is self.bench.source else made()

    def _by_text(self, source: Any) -> tuple[str, str]:
        """The argument that the texts give, and what is wrong with the mutant."""
        if not self._sizes:
            return "", ""
        halves = any(
            b.dtype in ("bf16", "f16") for p in self.bench.programs for b in (*p.buffers, *p.tiles)
        )
        for rounds, k in itertools.product(
            (True, False) if halves else (False,), range(len(LIMITS))
        ):
            try:
                same, warning = self._texts_agree(k, source, rounds)
            except TooMuch:
                continue
            except Unreadable:
                return "", ""
            if warning and not same:
                return "", warning
            if same:
                found = "equal in exact arithmetic, cell by cell: the C++ is read"
                found += "; no result depends on what it reads unwritten" if warning else ""
                found += (
                    "; casts between float types are the identity" if halves and not rounds else ""
                )
                return found + self._at() + self._draws(), ""
        return "", ""

    def _texts_agree(self, k: int, source: Any, rounds: bool) -> tuple[bool, str]:
        """Whether the outputs are the same, and what the mutant does beside.

        What was never written is an unknown: where outputs are the same, they do not depend on it.
        """
        beside = ""
        for n in range(len(self._settings)):
            try:
                mine = self._text(k, n, self.bench.source, rounds)
            except Stray as error:
                raise Unreadable("the kernel itself reads or writes outside an array") from error
            try:
                theirs = self._text(k, n, source, rounds)
            except Stray:
                return False, STRAYS
            beside = UNSET if theirs.unset - mine.unset else beside
            if (theirs.undefined and not mine.undefined) or not mine.same(theirs):
                return False, beside
        return True, beside

    def _rounded_away(self, source: Any) -> bool:
        """Whether all results of a mutant are within the unit roundoff of their types from the kernel's."""
        if not self._sizes:
            return False
        ulps = {b.name: DTYPES[b.dtype].ulp for p in self.bench.programs for b in p.buffers}
        try:
            for n in range(len(self._settings)):
                mine = self._text(0, n, self.bench.source, False).outputs
                theirs = self._text(0, n, source, False).outputs
                exact = self._exactly(0, n)
                for name, forms in mine.items():
                    pairs = zip(forms.reshape(-1), theirs[name].reshape(-1), strict=True)
                    most = Fraction(ulps[name])
                    if not all(within(exact, int(a), int(b), most) for a, b in pairs):
                        return False
        except (TooMuch, Stray, Unreadable):
            return False
        return True

    def _at(self) -> str:
        return f", at all {len(self._sizes)} sizes of the range" if len(self._sizes) > 1 else ""

    def _draws(self) -> str:
        first = self._settings[0]
        return drawn(self.bench.piece.graph, first.sizes) if first.given else ""


def sizes_read(text: str) -> list[str]:
    """The lines of a text that read its sizes."""
    return [m.group() for m in _SIZE.finditer(text)]


def _symbols(graph: Graph) -> list[Sym]:
    sizes = {a.size for n in graph.inputs for d in n.dims for a in d}
    return sorted((s for s in sizes if isinstance(s, Sym)), key=lambda s: s.name)


# -- settings ----------------------------------------------------------------------------------------


def sizes_in_range(graph: Graph) -> list[dict[str, int]]:
    """All sizes that the symbols of a graph may have; nothing where they are more than are read."""
    symbols = _symbols(graph)
    if math.prod(s.hi - s.lo + 1 for s in symbols) > MOST_SIZES:
        return []
    ranges = [range(s.lo, s.hi + 1) for s in symbols]
    return [
        dict(zip((s.name for s in symbols), sizes, strict=True))
        for sizes in itertools.product(*ranges)
    ]


def settings(
    graph: Graph,
    inputs: Sequence[torch.Tensor],
    sizes: Mapping[str, int],
    others: Sequence[Mapping[str, int]],
) -> Iterator[Setting]:
    """The given sizes, then the others, each with the given indices and with others."""
    whole = [
        (n, t) for n, t in zip(graph.inputs, inputs, strict=True) if DTYPES[n.dtype].kind == "int"
    ]
    yield Setting(sizes, {n.name: _flat(t.numpy(), n, sizes) for n, t in whole})
    for there in (sizes, *(o for o in others if o != sizes)):
        if not whole and there != sizes:
            yield Setting(there, {})
        for numbers in index_draws(graph, there) if whole else ():
            yield Setting(there, numbers)


def _flat(numbers: np.ndarray, node: Input, sizes: Mapping[str, int]) -> np.ndarray:
    """Numbers over the axes of an input."""
    return numbers.reshape([extent(a.size, sizes) for dim in node.dims for a in dim])


def machine_code(path: Path) -> tuple[bytes, ...]:
    """The code and the constants of a shared object (ELF64): .text, .rodata and .data, in order."""
    raw = path.read_bytes()
    if raw[:5] != b"\x7fELF\x02":
        return (raw,)
    (at,) = struct.unpack_from("<Q", raw, 0x28)
    size, count, names = struct.unpack_from("<HHH", raw, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", raw, at + k * size) for k in range(count)]
    text = heads[names][4]
    out = []
    for name, kind, _, _, offset, length in heads:
        end = raw.index(b"\0", text + name)
        label = raw[text + name : end].decode()
        if label.startswith((".text", ".rodata", ".data")) and kind != 8:
            out.append(label.encode() + raw[offset : offset + length])
    return tuple(out)
