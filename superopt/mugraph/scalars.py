"""The scalar table: a scalar function is a row, and its meanings are the columns.

A row with a ``body`` is a composite: it is given by other rows and inherits every meaning from
them; a column given beside the body overrides the inherited one (``tanh`` keeps its own float
meaning, because its body cancels near zero). A row without a body is a primitive of the finite
field (``field``), or, where the field has no such function, a *keyed random function* (``field``
is ``"keyed"``): equal arguments give equal results, and nothing else is known about it.

To add an operator, add one row: tests, documentation and search eligibility follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from superopt.mugraph.late import Late
from superopt.mugraph.scalar import A as A
from superopt.mugraph.scalar import Arg as Arg
from superopt.mugraph.scalar import B as B
from superopt.mugraph.scalar import C as C
from superopt.mugraph.scalar import Scalar as Scalar
from superopt.mugraph.scalar import Term as Term
from superopt.mugraph.scalar import inline as inline

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

AC = frozenset({"commutative", "associative"})
ACI = AC | {"idempotent"}
JUMPS = frozenset({"jumps"})
KEEPS = JUMPS | {"keeps infinities"}
ODD, EVEN = frozenset({"odd"}), frozenset({"even"})
RISES, RISES_ABOVE_ZERO = frozenset({"increasing"}), frozenset({"increasing", "not negative"})


def _keyed(name: str, arity: int, fn: Callable[..., torch.Tensor], c: str, **kw: Any) -> Scalar:
    return Scalar(name, arity, field="keyed", abstract="fn", fn=fn, c=c, **kw)


def _unary(name: str, fn: Callable[..., torch.Tensor], **kw: Any) -> Scalar:
    """A primitive of the field that has one name everywhere."""
    return Scalar(name, 1, field=name, fn=fn, c=f"so_{name}({{0}})", torch=(name,), **kw)


def _floor_divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.div(a, b, rounding_mode="floor")


def _rows() -> tuple[Scalar, ...]:
    neg, sub = ("mul", -1.0, A), ("add", A, ("mul", -1.0, B))
    sigmoid = ("recip", ("add", 1.0, ("exp", ("neg", A))))
    tanh = ("add", 1.0, ("mul", -2.0, ("recip", ("add", 1.0, ("exp", ("mul", 2.0, A))))))
    inner = (
        "mul",
        math.sqrt(2 / math.pi),
        ("add", A, ("mul", 0.044715, ("mul", A, ("mul", A, A)))),
    )
    return (
        # -- the ring
        Scalar(
            "add",
            2,
            field="add",
            abstract="add",
            fn=torch.add,
            c="({0} + {1})",
            identity=0.0,
            laws=AC,
            torch=("add",),
        ),
        Scalar(
            "mul",
            2,
            field="mul",
            abstract="mul",
            fn=torch.mul,
            c="so_mul({0}, {1})",
            identity=1.0,
            laws=AC,
            torch=("mul",),
        ),
        Scalar("neg", 1, body=neg, abstract="expand", fn=torch.neg, c="(-{0})", torch=("neg",)),
        Scalar(
            "sub", 2, body=sub, abstract="expand", fn=torch.sub, c="({0} - {1})", torch=("sub",)
        ),
        Scalar(
            "square",
            1,
            body=("mul", A, A),
            abstract="expand",
            fn=torch.square,
            c="so_mul({0}, {0})",
            torch=("square",),
        ),
        # -- the field
        Scalar(
            "recip",
            1,
            field="recip",
            fn=torch.reciprocal,
            c="(1.0f / {0})",
            flops=4,
            torch=("reciprocal",),
        ),
        Scalar(
            "div",
            2,
            body=("mul", A, ("recip", B)),
            abstract="expand",
            fn=torch.div,
            c="({0} / {1})",
            flops=4,
            torch=("div", "true_divide"),
        ),
        _unary("sqrt", torch.sqrt, laws=RISES_ABOVE_ZERO, flops=6),
        Scalar(
            "rsqrt",
            1,
            body=("recip", ("sqrt", A)),
            fn=torch.rsqrt,
            c="(1.0f / so_sqrt({0}))",
            flops=8,
            torch=("rsqrt",),
        ),
        # -- exponentials
        _unary("exp", torch.exp, laws=RISES_ABOVE_ZERO, flops=12),
        _unary("log", torch.log, laws=RISES, flops=16),
        Scalar(
            "sigmoid",
            1,
            body=sigmoid,
            fn=torch.sigmoid,
            c="(1.0f / (1.0f + so_exp(-{0})))",
            laws=RISES_ABOVE_ZERO,
            flops=18,
            torch=("sigmoid",),
        ),
        Scalar(
            "silu",
            1,
            body=("mul", A, sigmoid),
            fn=torch.nn.functional.silu,
            c="({0} / (1.0f + so_exp(-{0})))",
            flops=19,
            torch=("silu",),
        ),
        Scalar(
            "tanh",
            1,
            body=tanh,
            fn=torch.tanh,
            c="so_tanh({0})",
            laws=RISES,
            flops=20,
            torch=("tanh",),
        ),
        Scalar(
            "gelu_tanh",
            1,
            body=("mul", 0.5, ("mul", A, ("add", 1.0, ("tanh", inner)))),
            fn=lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
            flops=28,
        ),
        Scalar(
            "log1p",
            1,
            body=("log", ("add", 1.0, A)),
            fn=torch.log1p,
            c="so_log1p({0})",
            laws=RISES,
            flops=18,
            torch=("log1p",),
        ),
        Scalar(
            "expm1",
            1,
            body=("add", -1.0, ("exp", A)),
            fn=torch.expm1,
            c="so_expm1({0})",
            laws=RISES,
            flops=14,
            torch=("expm1",),
        ),
        # -- functions known by name alone
        _keyed("erf", 1, torch.erf, "so_erf({0})", flops=24, laws=ODD | RISES, torch=("erf",)),
        Scalar(
            "erfc",
            1,
            body=("sub", 1.0, ("erf", A)),  # which cancels where erf is nearly 1
            fn=torch.erfc,
            c="so_erfc({0})",
            flops=60,
            torch=("erfc", "special_erfc"),
        ),
        Scalar(
            "gelu",
            1,
            body=("mul", 0.5, ("mul", A, ("add", 1.0, ("erf", ("mul", math.sqrt(0.5), A))))),
            fn=torch.nn.functional.gelu,
            flops=30,
        ),
        _keyed("sin", 1, torch.sin, "so_sin({0})", flops=20, laws=ODD, torch=("sin",)),
        _keyed("cos", 1, torch.cos, "so_cos({0})", flops=20, laws=EVEN, torch=("cos",)),
        _keyed("pow", 2, torch.pow, "so_pow({0}, {1})", flops=40, laws=JUMPS),
        _keyed("floordiv_real", 2, _floor_divide, "so_floordiv({0}, {1})", flops=12, laws=JUMPS),
        _keyed("mod_real", 2, torch.remainder, "so_mod({0}, {1})", flops=10, laws=JUMPS),
        _keyed("floor", 1, torch.floor, "so_floor({0})", laws=KEEPS, torch=("floor",)),
        _keyed("ceil", 1, torch.ceil, "so_ceil({0})", laws=KEEPS, torch=("ceil",)),
        # -- selections
        Scalar(
            "max",
            2,
            field="max",
            abstract="atom",
            fn=torch.maximum,
            c="so_max({0}, {1})",
            identity=-math.inf,
            laws=ACI,
            torch=("maximum",),
        ),
        Scalar(
            "min",
            2,
            field="min",
            abstract="atom",
            fn=torch.minimum,
            c="so_min({0}, {1})",
            identity=math.inf,
            laws=ACI,
            torch=("minimum",),
        ),
        Scalar("relu", 1, body=("max", A, 0.0), abstract="atom", fn=torch.relu, torch=("relu",)),
        Scalar(
            "abs",
            1,
            body=("max", A, neg),
            abstract="atom",
            fn=torch.abs,
            c="so_abs({0})",
            torch=("abs",),
        ),
        Scalar(
            "lt",
            2,
            field="lt",
            abstract="atom",
            result="bool",
            fn=torch.lt,
            c="({0} < {1})",
            torch=("lt",),
        ),
        Scalar(
            "le",
            2,
            field="le",
            abstract="atom",
            result="bool",
            fn=torch.le,
            c="({0} <= {1})",
            torch=("le",),
        ),
        Scalar(
            "gt",
            2,
            body=("lt", B, A),
            abstract="atom",
            result="bool",
            fn=torch.gt,
            c="({0} > {1})",
            torch=("gt",),
        ),
        Scalar(
            "ge",
            2,
            body=("le", B, A),
            abstract="atom",
            result="bool",
            fn=torch.ge,
            c="({0} >= {1})",
            torch=("ge",),
        ),
        Scalar(
            "eq",
            2,
            field="eq",
            abstract="atom",
            result="bool",
            fn=torch.eq,
            c="({0} == {1})",
            laws=frozenset({"commutative"}),
            torch=("eq",),
        ),
        Scalar(
            "ne",
            2,
            body=("not", ("eq", A, B)),
            abstract="atom",
            result="bool",
            fn=torch.ne,
            c="({0} != {1})",
            laws=frozenset({"commutative"}),
            torch=("ne",),
        ),
        Scalar(
            "where",
            3,
            field="where",
            abstract="atom",
            result="attr",
            fn=torch.where,
            c="so_where({0}, {1}, {2})",
        ),
        # -- booleans and integers, exact
        Scalar(
            "not",
            1,
            field="not",
            abstract="atom",
            result="bool",
            fn=torch.logical_not,
            c="(!{0})",
            torch=("logical_not", "bitwise_not"),
        ),
        Scalar(
            "and",
            2,
            field="and",
            abstract="atom",
            result="bool",
            fn=torch.logical_and,
            c="({0} & {1})",
            identity=True,
            laws=ACI,
            torch=("logical_and", "bitwise_and"),
        ),
        Scalar(
            "or",
            2,
            field="or",
            abstract="atom",
            result="bool",
            fn=torch.logical_or,
            c="({0} | {1})",
            identity=False,
            laws=ACI,
            torch=("logical_or", "bitwise_or"),
        ),
        Scalar(
            "floordiv",
            2,
            field="floordiv",
            abstract="atom",
            fn=_floor_divide,
            c="so_floordiv({0}, {1})",
        ),
        Scalar("mod", 2, field="mod", abstract="atom", fn=torch.remainder, c="so_mod({0}, {1})"),
        # -- conversions: the node's dtype is the target
        Scalar("cast", 1, field="cast", abstract="cast", result="attr", flops=0),
        Scalar("round", 1, field="keyed", abstract="fn", result="attr", laws=KEEPS, flops=1),
    )


SCALARS: dict[str, Scalar] = {row.name: row for row in _rows()}
"""Every scalar function. ``cast`` changes the dtype; ``round`` marks a rounding to the node's
dtype that must be kept (``precision="eager"``), so the algebra may not move anything across it."""

REDUCTIONS: dict[str, Scalar] = {r.name: r for r in SCALARS.values() if r.identity is not None}
"""The rows that may reduce an axis: those with a neutral element."""


def uses(name: str, *fields: str) -> bool:
    """Whether a row, or what its body is made of, computes one of these field primitives."""

    def inside(term: Term) -> bool:
        return isinstance(term, tuple) and (
            uses(term[0], *fields) or any(inside(t) for t in term[1:])
        )

    row = SCALARS[name]
    return row.field in fields or (row.body is not None and inside(row.body))


def adds(name: str) -> bool:
    """Whether a row is a sum of its arguments, or of multiples of them (``sub``)."""
    row = SCALARS[name]
    return "add" in (row.abstract, row.body[0] if isinstance(row.body, tuple) else "")
