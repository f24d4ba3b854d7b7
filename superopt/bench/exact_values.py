"""Runs expressions of the C++ of kernels over exact forms: names, functions, operators, calls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from superopt.bench.cpp_parse import Function, Node, Type, Unreadable
from superopt.bench.exact import Exact
from superopt.bench.exact_calls import Helpers, Lambda, pointer
from superopt.bench.exact_memory import BYTES, Arena, Block, Part, Pointer, Real
from superopt.bench.exact_numbers import Numbers
from superopt.bench.exact_sums import Reductions, Total

Run = Callable[[], Any]
"""A piece of a program that is ready to run: an expression gives its value, a statement None or Back."""

_FLAT = {"so_max": "max", "so_min": "min", "so_mul": "mul"}
_FLAT_SIGNS = {"+": "add", "*": "mul", "&": "and", "|": "or"}


@dataclass(frozen=True, slots=True)
class Back:
    """What a function returns."""

    value: Any


@dataclass
class Values:
    """Compiles functions to closures over variables that each have one place: nothing here recurses.

    unset: where the names of arrays go that are read before they were written.
    """

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
        slot = self.declare("so_wild")
        self.values[slot], self.kinds[slot] = 0, Type("int")

    # -- names

    def declare(self, name: str) -> int:
        """The place of a new variable."""
        self.values.append(None)
        self.scopes[-1][name] = len(self.values) - 1
        return len(self.values) - 1

    def find(self, name: str) -> int:
        """The place of a variable; raises Unreadable."""
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
            params = [self.declare(p) for p in made.params]
            self.ready[name] = params, self.block(made.body)
            self.scopes.pop()
        params, body = self.ready[name]
        return self._entered(params, body, args)

    def _entered(self, params: Sequence[int], body: Run, args: Sequence[Any]) -> Any:
        if len(params) != len(args):
            raise Unreadable("a call with other arguments")
        for slot, x in zip(params, args, strict=True):
            self.values[slot] = x
        back = body()
        return back.value if isinstance(back, Back) else None

    @abstractmethod
    def block(self, body: Sequence[Node]) -> Run:
        """Statements in a scope of their own."""

    # -- expressions

    def value(self, node: Node) -> Run:
        """An expression."""
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
                slot, values = self.find(name), self.values
                return lambda: values[slot]
            case ("void", _):
                return lambda: None
            case ("comma", first, second):
                one, two = self.value(first), self.value(second)
                return lambda: (one(), two())[1]
            case ("unary", sign, x):
                return self._unary(sign, self.value(x))
            case ("binary", "&&" | "||" as sign, x, y):
                p, q = self.condition(x), self.condition(y)
                return (lambda: p() and q()) if sign == "&&" else (lambda: p() or q())
            case ("binary", sign, x, y):
                return self._binary(sign, self.value(x), self.value(y))
            case ("choose", condition, x, y):
                test, yes, no = self.condition(condition), self.value(x), self.value(y)
                return lambda: yes() if test() else no()
            case ("index", x, k):
                return self._index(self.value(x), self.value(k))
            case ("member", x, name, args):
                return self._member(self.value(x), name, [self.value(a) for a in args])
            case ("call", name, types, args):
                return self._call(name, types, [self.value(a) for a in args])
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
            return self._applied(self.find(name), args)
        helper = self.helpers.table.get(name)
        if helper is None:
            raise Unreadable(f"the function {name}")

        def run() -> Any:
            given = [a() for a in args]
            try:
                return helper(types, given)
            except (IndexError, AttributeError, TypeError, ValueError) as error:
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
            key = self.key(f"arena {kind.name}")
            part = Part(self.exact, key, kind.name, 0, unset=self.unset, arena=arena, start=start)
            return Pointer(part, 0)
        raise Unreadable("memory as another type")

    def condition(self, node: Node) -> Callable[[], bool]:
        """An expression that decides a branch."""
        made = self.value(node)

        def run() -> bool:
            found = made()
            if not isinstance(found, int):
                raise Unreadable("a branch that depends on a number")
            return bool(found)

        return run

    def key(self, name: str) -> tuple[Any, ...]:
        """What tells an array from all others, and from itself in another task or step."""
        self.serial += 1
        return name, self.serial

    def _lambda(self, params: tuple[str, ...], body: tuple[Node, ...]) -> Run:
        self.scopes.append({})
        slots = [self.declare(p) for p in params]
        run = self.block(body)
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
