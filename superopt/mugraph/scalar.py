"""What a row of the scalar table is: its columns, and the terms that give composites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Term = Any  # a nested tuple (row name, *terms), an argument index wrapped in Arg, or a float


@dataclass(frozen=True, slots=True)
class Arg:
    """The i-th argument of a composite's body."""

    index: int


A, B, C = Arg(0), Arg(1), Arg(2)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One row of the scalar table.

    name:     the row's name, used in graphs and in the textual form
    arity:    number of arguments
    body:     for composites, a term over other rows; None for primitives
    field:    primitive of the finite field, or "keyed"; None where the body gives it
    abstract: "add", "mul" (the ring), "fn" (a function the algebra knows only by its laws),
              "expand" (the algebra sees the body), "atom" (the result starts afresh)
    result:   dtype rule: "same" (as the arguments), "bool", or "attr" (the node's own dtype)
    fn:       float meaning on torch tensors of any float dtype
    c:        C++ expression over {0}, {1}, ...; the device headers overload it for vectors
    identity: the neutral element when the row is used as a reduction, else None
    laws:     subset of {"commutative", "associative", "idempotent", "keeps infinities", "odd", "even",
              "increasing", "not negative", "jumps"}
    flops:    cost of one application, in floating-point operations
    torch:    ATen operators whose elementwise meaning is this row (overload packet names)
    """

    name: str
    arity: int
    body: Term | None = None
    field: str | None = None
    abstract: str = "fn"
    result: str = "same"
    fn: Callable[..., torch.Tensor] | None = None
    c: str | None = None
    identity: float | bool | None = None
    laws: frozenset[str] = frozenset()
    flops: int = 1
    torch: tuple[str, ...] = ()

    @property
    def keeps_infinities(self) -> bool:
        """Whether -inf and +inf are their own images, as for a rounding."""
        return "keeps infinities" in self.laws


def inline(
    term: Term,
    args: Sequence[Any],
    apply: Callable[[str, list[Any]], Any],
    const: Callable[[float], Any],
) -> Any:
    """Evaluates a composite's body: ``apply(row, args)`` at each function, ``const`` at literals."""
    if isinstance(term, Arg):
        return args[term.index]
    if isinstance(term, tuple):
        return apply(term[0], [inline(t, args, apply, const) for t in term[1:]])
    return const(term)
