"""Reads the C++ of a kernel over exact forms: what every cell of its outputs is, as its text says.

The entry is run as written, on one thread, with memory of the sizes that the arrays have. It shares
nothing with the printer: what the helpers of the headers do is said in ``exact_calls`` and
``exact_sums``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from superopt.bench.cpp_parse import Function, Node, Type, Unreadable, functions
from superopt.bench.exact import Exact
from superopt.bench.exact_calls import Helpers, Lambda, pointer
from superopt.bench.exact_memory import (
    BYTES,
    Arena,
    Block,
    Part,
    Pointer,
    Real,
    buffer,
    contents,
    ordered,
)
from superopt.bench.exact_numbers import Numbers
from superopt.bench.exact_sums import Reductions, Total
from superopt.mugraph.tileir import Program

Run = Callable[[], Any]
"""A piece of a program that is ready to run: an expression gives its value, a statement None or Back."""

_FLAT = {"so_max": "max", "so_min": "min", "so_mul": "mul"}
_FLAT_SIGNS = {"+": "add", "*": "mul", "&": "and", "|": "or"}


@dataclass(frozen=True)
class Reading:
    """What a text computes: the forms of its outputs by name, and the arrays read before they were
    written."""

    outputs: dict[str, np.ndarray]
    unset: frozenset[str]


def read(
    exact: Exact,
    source: Any,
    programs: Sequence[Program],
    sizes: Mapping[str, int],
    given: Mapping[str, np.ndarray],
    rounds: bool = False,
) -> Reading:
    """Runs a source (of ``codegen.backends.cpu``) that was printed of these programs, or a mutant of it.

    sizes: of the symbols; given: the inputs of integers; rounds: as for ``Numbers``.
    Raises Stray where it reads or writes outside an array, Unreadable and TooMuch where it is not read.
    """
    start = source.text.index(f"static void {source.entry}_k")
    defined = functions(source.text[start:])
    unset: set[str] = set()
    buffers = ordered(source.buffers, programs)
    blocks = [buffer(exact, b, sizes, given) for b in buffers]
    for block in blocks:
        block.unset = unset
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
    return Reading(outputs, frozenset(unset))


@dataclass(frozen=True, slots=True)
class _Back:
    """What a function returns."""

    value: Any


@dataclass
class _Machine:
    """Compiles functions to closures over variables that each have one place: nothing here recurses."""

    exact: Exact
    numbers: Numbers
    defined: Mapping[str, Function]
    unset: set[str]
    values: list[Any] = field(default_factory=list)
    scopes: list[dict[str, int]] = field(default_factory=lambda: [{}])
    ready: dict[str, tuple[list[int], Run]] = field(default_factory=dict)
    kinds: dict[int, Type] = field(default_factory=dict)
    serial: int = 0

    def __post_init__(self) -> None:
        self.helpers = Helpers(self.numbers)
        Reductions(self.helpers)
        slot = self._declare("so_wild")
        self.values[slot], self.kinds[slot] = 0, Type("int")

    # -- names

    def _declare(self, name: str) -> int:
        self.values.append(None)
        self.scopes[-1][name] = len(self.values) - 1
        return len(self.values) - 1

    def _find(self, name: str) -> int:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise Unreadable(f"the name {name}")

    # -- functions

    def call(self, name: str, args: Sequence[Any]) -> Any:
        """Runs a function."""
        if name not in self.ready:
            if name not in self.defined:
                raise Unreadable(f"the function {name}")
            made = self.defined[name]
            self.scopes.append({})
            params = [self._declare(p) for p in made.params]
            self.ready[name] = params, self._block(made.body)
            self.scopes.pop()
        params, body = self.ready[name]
        return self._entered(params, body, args)

    def _entered(self, params: Sequence[int], body: Run, args: Sequence[Any]) -> Any:
        if len(params) != len(args):
            raise Unreadable("a call with other arguments")
        for slot, x in zip(params, args, strict=True):
            self.values[slot] = x
        back = body()
        return back.value if isinstance(back, _Back) else None

    # -- statements

    def _block(self, body: Sequence[Node]) -> Run:
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
                return self._block(body)
            case ("declare", kind, name, value):
                return self._declaration(kind, name, value)
            case ("array", kind, name, size):
                return self._array(kind, name, size)
            case ("list", name, items):
                made = [self._value(x) for x in items]
                return self._setter(self._declare(name), lambda: [x() for x in made])
            case ("assign", sign, target, value):
                return self._assignment(sign, target, value)
            case ("do", value):
                run = self._value(value)

                def done() -> None:
                    run()

                return done
            case ("return", value):
                result = self._value(value)
                return lambda: _Back(result())
            case ("if", condition, yes, no):
                test, then = self._condition(condition), self._statement(yes)
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
            return self._setter(self._declare(name), lambda: None)
        if kind.name == "so_sum" and value is None:
            return self._setter(self._declare(name), lambda: Total(self.numbers, kind))
        if value is None:
            raise Unreadable(f"{name} without a value")
        made, typed = self._value(value), self.helpers.typed
        slot = self._declare(name)
        self.kinds[slot] = kind
        return self._setter(slot, lambda: typed(kind, made()))

    def _array(self, kind: Type, name: str, size: int) -> Run:
        def made() -> Pointer:
            return Pointer(Block(self.exact, self._key(name), kind.name, size, unset=self.unset), 0)

        return self._setter(self._declare(name), made)

    def _key(self, name: str) -> tuple[Any, ...]:
        """What tells an array from all others, and from itself in another task or step."""
        self.serial += 1
        return name, self.serial

    def _assignment(self, sign: str, target: Node, value: Node) -> Run:
        made = self._value(value)
        if target[0] == "index":
            if sign != "=":
                raise Unreadable("a step of an element")
            at, k, put = self._value(target[1]), self._value(target[2]), self.helpers.put
            return lambda: put(at(), k(), made())
        if target[0] != "name":
            raise Unreadable("an assignment to a value")
        slot, values, binary = self._find(target[1]), self.values, self.numbers.binary
        if sign == "=":
            typed, kind = self.helpers.typed, self.kinds[slot]
            return self._setter(slot, lambda: typed(kind, made()))

        def step() -> None:
            values[slot] = binary(sign[0], values[slot], made())

        return step

    def _condition(self, node: Node) -> Callable[[], bool]:
        made = self._value(node)

        def run() -> bool:
            found = made()
            if not isinstance(found, int):
                raise Unreadable("a branch that depends on a number")
            return bool(found)

        return run

    def _loop(self, start: Node, condition: Node, step: Node, body: Node) -> Run:
        self.scopes.append({})
        begin, test = self._statement(start), self._condition(condition)
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

    # -- expressions

    def _value(self, node: Node) -> Run:
        match node:
            case ("number", n):
                return lambda: n
            case ("constant", value):
                return lambda: value
            case ("real", n):
                real = self.numbers.real(n)
                return lambda: real
            case ("limit", what):
                if what != "infinity":
                    raise Unreadable(what)
                infinity = Real(self.exact.high)
                return lambda: infinity
            case ("name", name):
                slot, values = self._find(name), self.values
                return lambda: values[slot]
            case ("void", _):
                return lambda: None
            case ("comma", first, second):
                one, two = self._value(first), self._value(second)
                return lambda: (one(), two())[1]
            case ("unary", sign, x):
                return self._unary(sign, self._value(x))
            case ("binary", "&&" | "||" as sign, x, y):
                p, q = self._condition(x), self._condition(y)
                return (lambda: p() and q()) if sign == "&&" else (lambda: p() or q())
            case ("binary", sign, x, y):
                return self._binary(sign, self._value(x), self._value(y))
            case ("choose", condition, x, y):
                test, yes, no = self._condition(condition), self._value(x), self._value(y)
                return lambda: yes() if test() else no()
            case ("index", x, k):
                return self._index(self._value(x), self._value(k))
            case ("member", x, name, args):
                return self._member(self._value(x), name, [self._value(a) for a in args])
            case ("call", name, types, args):
                return self._call(name, types, [self._value(a) for a in args])
            case ("lambda", params, body):
                return self._lambda(params, body)
        raise Unreadable(f"an expression {node[0]}")

    def _unary(self, sign: str, x: Run) -> Run:
        numbers = self.numbers
        if sign == "-":
            return lambda: numbers.lanes(numbers.negative, x())

        def inverse() -> Any:
            found = x()
            if found is None or isinstance(found, Arena):
                return found is None
            return numbers.lanes(numbers.inverse, found, masks=True)

        return inverse

    def _binary(self, sign: str, x: Run, y: Run) -> Run:
        binary = self.numbers.binary

        def run() -> Any:
            a, b = x(), y()
            if isinstance(a, Pointer | Arena):
                if sign not in "+-" or not isinstance(b, int):
                    raise Unreadable("an operation on a pointer")
                by = b if sign == "+" else -b
                return (a, by) if isinstance(a, Arena) else Pointer(a.block, a.at + by)
            return binary(sign, a, b)

        return run

    def _index(self, x: Run, k: Run) -> Run:
        def run() -> Any:
            found, at = x(), k()
            if not isinstance(at, int):
                raise Unreadable("no integer where one is expected")
            if isinstance(found, list):
                if not 0 <= at < len(found):
                    raise Unreadable("a buffer that there is not")
                return found[at]
            return pointer(found).read(at)

        return run

    def _member(self, x: Run, name: str, args: list[Run]) -> Run:
        def run() -> Any:
            found, given = x(), [a() for a in args]
            if isinstance(found, Total):
                return found.member(name, given)
            if found is None and name == "get":
                return Arena(given[0])
            raise Unreadable(f"a call of {name}")

        return run

    def _call(self, name: str, types: tuple[Any, ...], args: list[Run]) -> Run:
        if name in ("static_cast", "reinterpret_cast"):
            ((kind,), (value,)) = types, args
            return lambda: self._viewed(kind, value())
        if name in BYTES:
            (value,) = args
            convert = self.numbers.convert
            return lambda: convert(name, value())
        if name in self.defined:
            return lambda: self.call(name, [a() for a in args])
        if any(name in scope for scope in self.scopes):
            return self._applied(self._find(name), args)
        helper = self.helpers.table.get(name)
        if helper is None:
            raise Unreadable(f"the function {name}")

        def run() -> Any:
            given = [a() for a in args]
            try:
                return helper(types, given)
            except (IndexError, AttributeError, TypeError) as error:
                raise Unreadable(f"a call of {name}: {error}") from error

        return run

    def _applied(self, slot: int, args: list[Run]) -> Run:
        values = self.values

        def run() -> Any:
            if not isinstance(found := values[slot], Lambda):
                raise Unreadable("a call of no lambda")
            return found.call(*(a() for a in args))

        return run

    def _viewed(self, kind: Type, value: Any) -> Pointer:
        """A buffer, or a part of the arena, as an array of a type."""
        if isinstance(value, Block) and value.ctype == kind.name:
            return Pointer(value, 0)
        if isinstance(value, tuple) and isinstance(value[0], Arena):
            arena, start = value
            if start < 0 or start % BYTES[kind.name]:
                raise Unreadable("an array that is not aligned")
            arena.starts.add(start)
            key = self._key(f"arena {kind.name}")
            part = Part(self.exact, key, kind.name, 0, unset=self.unset, arena=arena, start=start)
            return Pointer(part, 0)
        raise Unreadable("memory as another type")

    def _lambda(self, params: tuple[str, ...], body: tuple[Node, ...]) -> Run:
        self.scopes.append({})
        slots = [self._declare(p) for p in params]
        run = self._block(body)
        self.scopes.pop()

        def call(*args: Any) -> Any:
            return self._entered(slots, run, args)

        made = Lambda(call, _flat(params, body))
        return lambda: made


def _flat(params: tuple[str, ...], body: tuple[Node, ...]) -> str:
    """The associative operation that a lambda of two arguments is, or the empty string."""
    if len(params) != 2 or len(body) != 1 or body[0][0] != "return":
        return ""
    both = [("name", p) for p in params]
    match body[0][1]:
        case ("binary", sign, x, y) if [x, y] == both:
            return _FLAT_SIGNS.get(sign, "")
        case ("call", name, (), (x, y)) if [x, y] == both:
            return _FLAT.get(name, "")
    return ""
