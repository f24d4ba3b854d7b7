"""Equal expressions are one object, and what is asked of an expression is worked out once.

Nested values use one another again and again: written out as a tree, a chain of n selections each
of which reads the one before twice has 2^n leaves, and n distinct parts. All that walks over
expressions goes by distinct parts, so that its work grows with n.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

Node = TypeVar("Node")
Answer = TypeVar("Answer")
Question = TypeVar("Question")


class Shared(type):
    """The type of frozen dataclasses whose equal instances are the same object.

    Equality and hash are then those of the object, and cost nothing however deep it is. Should two
    threads make equal expressions at the same moment, both are kept: sharing is lost, no meaning.
    """

    _made: ClassVar[WeakValueDictionary[tuple[object, ...], Any]] = WeakValueDictionary()

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        """The instance with these fields, made when there is none."""
        new = super().__call__(*args, **fields)
        names: tuple[str, ...] = cls.__match_args__  # type: ignore[attr-defined]
        return Shared._made.setdefault((cls, *(_key(getattr(new, n)) for n in names)), new)


def _key(field: object) -> object:
    # Equal numbers may be different literals: 1, 1.0 and True, or 0.0 and -0.0.
    return (type(field), repr(field)) if isinstance(field, int | float) else field


def unrolled(
    step: Callable[[Question], Generator[Question, Answer, Answer]], question: Question
) -> Answer:
    """Runs a recursive generator, which yields what it asks of itself, however deep it goes."""
    stack = [step(question)]
    answer: Answer | None = None
    while stack:
        try:
            # The first value sent to a generator is None by the rules of the language.
            asked = stack[-1].send(answer)  # type: ignore[arg-type]
        except StopIteration as done:
            stack.pop()
            answer = done.value
        else:
            stack.append(step(asked))
            answer = None
    return answer  # type: ignore[return-value]


def once(
    inner: Callable[[Node], Iterable[Node]],
) -> Callable[[Callable[[Node], Answer]], Callable[[Node], Answer]]:
    """Makes a function of an expression answer each distinct one once; ``inner`` gives its parts.

    Parts are asked before what they are part of, so a recursive function never goes deep. Answers
    must not hold the expression itself, which they would keep alive, and must not be changed.
    """

    def decorate(fn: Callable[[Node], Answer]) -> Callable[[Node], Answer]:
        known: WeakKeyDictionary[Node, Answer] = WeakKeyDictionary()

        @functools.wraps(fn)
        def ask(expr: Node) -> Answer:
            todo = [] if expr in known else [expr]
            while todo:
                top = todo[-1]
                parts = () if top in known else [e for e in inner(top) if e not in known]
                if parts:
                    todo += parts
                    continue
                todo.pop()
                if top not in known:
                    known[top] = fn(top)
            return known[expr]

        return ask

    return decorate
