"""Reads the C++ of a kernel over exact forms: what every cell of its outputs is, as its text says.

The entry is run as written, on one thread, with memory of the sizes that the arrays have. It shares
nothing with the printer: what the helpers of the headers do is said in ``exact_calls`` and
``exact_sums``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from superopt.bench.cpp_parse import Node, Type, Unreadable, functions
from superopt.bench.exact import Exact
from superopt.bench.exact_memory import Block, Pointer, buffer, contents, ordered
from superopt.bench.exact_numbers import Numbers
from superopt.bench.exact_sums import Total
from superopt.bench.exact_values import Back, Run, Values
from superopt.mugraph.tileir import Program


@dataclass(frozen=True)
class Reading:
    """What a text computes: the forms of its outputs by name.

    unset: the arrays that are read before they were written; undefined: whether a value was met that
    has no number (``exact_forms``).
    """

    outputs: dict[str, np.ndarray]
    unset: frozenset[str]
    undefined: bool

    def same(self, other: Reading) -> bool:
        """Whether all cells of all outputs have the same forms."""
        mine, theirs = self.outputs, other.outputs
        return mine.keys() == theirs.keys() and all((mine[n] == theirs[n]).all() for n in mine)


def read(
    exact: Exact,
    source: Any,
    programs: Sequence[Program],
    sizes: Mapping[str, int],
    rounds: bool = False,
) -> Reading:
    """Runs a source (of ``codegen.backends.cpu``) that was printed of these programs, or a mutant of it.

    sizes: of the symbols; rounds: as for ``Numbers``. Inputs of integers must be given to ``exact``.
    Raises Stray where it reads or writes outside an array, Unreadable and TooMuch where it is not read.
    """
    start = source.text.index(f"static void {source.entry}_k")
    defined = functions(source.text[start:])
    unset: set[str] = set()
    buffers = ordered(source.buffers, programs)
    blocks = [buffer(exact, b, sizes) for b in buffers]
    for block in blocks:
        block.unset = unset
    exact.undefined = False
    machine = _Machine(exact, Numbers(exact, rounds), defined, unset)
    ints = [*(sizes[n] for n in source.ints[:-1]), 1]
    status = machine.call(source.entry, [blocks, ints])
    if status != 0:
        raise Unreadable(f"status {status}")
    outputs = {
        b.name: contents(block, b, sizes)
        for b, block in zip(buffers, blocks, strict=True)
        if b.space == "output"
    }
    return Reading(outputs, frozenset(unset), exact.undefined)


class _Machine(Values):
    """Compiles statements."""

    def block(self, body: Sequence[Node]) -> Run:
        """Statements in a scope of their own."""
        self.scopes.append({})
        steps = [self._statement(x) for x in body]
        self.scopes.pop()

        def run() -> Any:
            for step in steps:
                if (back := step()) is not None:
                    return back
            return None

        return run

    def _statement(self, node: Node) -> Run:
        match node:
            case ("block", body):
                return self.block(body)
            case ("declare", kind, name, value):
                return self._declaration(kind, name, value)
            case ("array", kind, name, size):
                return self._array(kind, name, size)
            case ("list", name, items):
                made = [self.value(x) for x in items]
                return self._setter(self.declare(name), lambda: [x() for x in made])
            case ("assign", sign, target, value):
                return self._assignment(sign, target, value)
            case ("do", value):
                run = self.value(value)

                def done() -> None:
                    run()

                return done
            case ("return", value):
                result = self.value(value)
                return lambda: Back(result())
            case ("if", condition, yes, no):
                test, then = self.condition(condition), self._statement(yes)
                other = self._statement(no) if no else (lambda: None)
                return lambda: then() if test() else other()
            case ("for", start, condition, step, body):
                return self._loop(start, condition, step, body)
        raise Unreadable(f"a statement {node[0]}")

    def _setter(self, slot: int, made: Run) -> Run:
        values = self.values

        def run() -> None:
            values[slot] = made()

        return run

    def _declaration(self, kind: Type, name: str, value: Node | None) -> Run:
        if kind.name == "so_arena" and value is None:
            return self._setter(self.declare(name), lambda: None)
        if kind.name == "so_sum" and value is None:
            return self._setter(self.declare(name), lambda: Total(self.numbers, kind))
        if value is None:
            raise Unreadable(f"{name} without a value")
        made, typed = self.value(value), self.helpers.typed
        slot = self.declare(name)
        self.kinds[slot] = kind
        return self._setter(slot, lambda: typed(kind, made()))

    def _array(self, kind: Type, name: str, size: int) -> Run:
        def made() -> Pointer:
            return Pointer(Block(self.exact, self.key(name), kind.name, size, unset=self.unset), 0)

        return self._setter(self.declare(name), made)

    def _assignment(self, sign: str, target: Node, value: Node) -> Run:
        made = self.value(value)
        if target[0] == "index":
            if sign != "=":
                raise Unreadable("a step of an element")
            at, k, put = self.value(target[1]), self.value(target[2]), self.helpers.put
            return lambda: put(at(), k(), made())
        if target[0] != "name":
            raise Unreadable("an assignment to a value")
        slot, values, binary = self.find(target[1]), self.values, self.numbers.binary
        if sign == "=":
            typed, kind = self.helpers.typed, self.kinds[slot]
            return self._setter(slot, lambda: typed(kind, made()))

        def step() -> None:
            values[slot] = binary(sign[0], values[slot], made())

        return step

    def _loop(self, start: Node, condition: Node, step: Node, body: Node) -> Run:
        self.scopes.append({})
        begin, test = self._statement(start), self.condition(condition)
        further, inner = self._statement(step), self._statement(body)
        self.scopes.pop()

        def run() -> Any:
            begin()
            while test():
                self.exact.spend(1)
                if (back := inner()) is not None:
                    return back
                further()
            return None

        return run
