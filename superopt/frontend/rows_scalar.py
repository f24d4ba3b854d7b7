"""Rows of elementwise operators: those of the scalar table, formulas over it, and conversions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows import ROWS, Row, row
from superopt.frontend.rows_bits import bitwise
from superopt.frontend.rows_integer import floor_divide, on_integers, trunc_divide
from superopt.frontend.tensors import NotSupported, Tensor, floating
from superopt.mugraph.scalars import SCALARS, A, B, C, Term

_REAL = ("neg", "square", "abs", "relu")
"""Rows whose body has a real number: on integers they are written otherwise."""


def common(args: tuple[Any, ...]) -> torch.dtype:
    """The dtype in which torch compares or combines these arguments."""
    out: Any = None
    for a in args:
        p = torch.empty((1,) * min(len(a.dims), 1), dtype=a.dtype) if isinstance(a, Tensor) else a
        if out is None or not (isinstance(out, torch.Tensor) or isinstance(p, torch.Tensor)):
            out = p
            continue
        rank = max(x.dim() if isinstance(x, torch.Tensor) else 0 for x in (out, p))
        out = torch.empty((1,) * rank, dtype=torch.result_type(out, p))
    return out.dtype if isinstance(out, torch.Tensor) else torch.get_default_dtype()


def _literal(value: Any, dtype: torch.dtype) -> Any:
    """A Python number as torch holds it when it compares in ``dtype``."""
    if not isinstance(value, int | float) or not floating(dtype):
        return value
    return torch.tensor(value, dtype=dtype).item()


def _scalar_row(name: str) -> Row:
    scalar = SCALARS[name]

    def convert(cx: Context, out: torch.dtype, *args: Any, **kw: Any) -> Tensor:
        alpha = kw.pop("alpha", 1)
        mode = kw.pop("rounding_mode", None)
        if mode is not None:
            return (floor_divide if mode == "floor" else trunc_divide)(cx, out, *args)
        if alpha != 1:
            scaled = cx.apply("mul", [args[1], alpha], out, out)
            args = (args[0], scaled)
        if name in ("not", "and", "or"):
            return _logical(cx, name, out, args)
        if scalar.result == "bool":
            work = common(args)
            return cx.apply(name, [_literal(a, work) for a in args], torch.bool, work)
        if not floating(out):
            if out == torch.bool and name != "relu":
                raise NotSupported(f"{cx.name} on booleans")
            if name in _REAL:
                return on_integers(cx, name, args[0], out)
        return cx.elementwise(name, args[: scalar.arity], out, out)

    return convert


for _row in SCALARS.values():
    for _name in _row.torch:
        ROWS[_name] = _scalar_row(_row.name)


def _logical(cx: Context, name: str, out: torch.dtype, args: tuple[Any, ...]) -> Tensor:
    if not cx.name.startswith("logical") and out != torch.bool:
        return bitwise(cx, name, out, args)
    return cx.apply("ne" if name == "xor" else name, list(args), torch.bool, torch.bool)


ROWS["__and__"], ROWS["__or__"] = ROWS["bitwise_and"], ROWS["bitwise_or"]


@row("logical_xor", "bitwise_xor", "__xor__")
def _xor(cx: Context, out: torch.dtype, a: Any, b: Any) -> Tensor:
    return _logical(cx, "xor", out, (a, b))


# -- formulas ------------------------------------------------------------------------------------

LN2 = math.log(2.0)
_ABS = ("abs", A)
_SOFTPLUS = ("add", ("max", A, 0.0), ("log1p", ("exp", ("neg", _ABS))))
_SIX: Term = ("min", ("max", ("add", A, 3.0), 0.0), 6.0)
_POSITIVE = ("lt", 0.0, A)
_INSIDE = ("and", ("le", ("neg", B), A), ("le", A, B))
_WHOLE = ("where", ("lt", A, 0.0), ("ceil", A), ("floor", A))
_FLOOR = ("floor", A)
_ABOVE_FLOOR = ("sub", A, _FLOOR)
_NEXT = ("add", _FLOOR, 1.0)
_EVEN = ("mul", 2.0, ("floor", ("mul", 0.5, _FLOOR)))

FORMULAS: dict[str, tuple[Term, tuple[float, ...]]] = {
    # name: (term over its arguments, defaults of the arguments after the first)
    "exp2": (("exp", ("mul", LN2, A)), ()),
    "log2": (("mul", 1.0 / LN2, ("log", A)), ()),
    "log10": (("mul", 1.0 / math.log(10.0), ("log", A)), ()),
    "tan": (("div", ("sin", A), ("cos", A)), ()),
    # Of the two differences from 1 each is exact to its own last place, so nothing cancels at 0.
    "sinh": (("mul", 0.5, ("sub", ("expm1", A), ("expm1", ("neg", A)))), ()),
    "cosh": (("mul", 0.5, ("add", ("exp", A), ("exp", ("neg", A)))), ()),
    "logaddexp": (
        # Equal infinities have no difference.
        (
            "where",
            ("eq", ("abs", ("max", A, B)), math.inf),
            ("max", A, B),
            ("add", ("max", A, B), ("log1p", ("exp", ("neg", ("abs", ("sub", A, B)))))),
        ),
        (),
    ),
    "mish": (("mul", A, ("tanh", _SOFTPLUS)), ()),
    "log_sigmoid": (("sub", ("min", A, 0.0), ("log1p", ("exp", ("neg", _ABS)))), ()),
    "leaky_relu": (("where", _POSITIVE, A, ("mul", A, B)), (0.01,)),
    "hardtanh": (("min", ("max", A, B), C), (-1.0, 1.0)),
    "relu6": (("min", ("max", A, 0.0), 6.0), ()),
    "hardsigmoid": (("mul", 1.0 / 6.0, _SIX), ()),
    "hardswish": (("mul", A, ("mul", 1.0 / 6.0, _SIX)), ()),
    "softshrink": (
        ("where", _INSIDE, 0.0, ("where", _POSITIVE, ("sub", A, B), ("add", A, B))),
        (0.5,),
    ),
    "hardshrink": (("where", _INSIDE, 0.0, A), (0.5,)),
    "trunc": (_WHOLE, ()),
    "fix": (_WHOLE, ()),
    "frac": (("sub", A, _WHOLE), ()),
    # To the nearer end; half-way, to the even one.
    "round": (
        (
            "where",
            ("lt", _ABOVE_FLOOR, 0.5),
            _FLOOR,
            (
                "where",
                ("lt", 0.5, _ABOVE_FLOOR),
                _NEXT,
                ("where", ("eq", _EVEN, _FLOOR), _FLOOR, _NEXT),
            ),
        ),
        (),
    ),
    "softsign": (("div", A, ("add", 1.0, _ABS)), ()),
    "sign": (
        ("sub", ("where", _POSITIVE, 1.0, 0.0), ("where", ("lt", A, 0.0), 1.0, 0.0)),
        (),
    ),
    "threshold": (("where", ("le", A, B), C, A), ()),
    # From the nearer end, as PyTorch does: at 1 it is B, however small beside A.
    "lerp": (
        (
            "where",
            ("lt", ("abs", C), 0.5),
            ("add", A, ("mul", C, ("sub", B, A))),
            ("sub", B, ("mul", ("sub", B, A), ("sub", 1.0, C))),
        ),
        (),
    ),
}
"""Elementwise operators that are a term over the scalar table, computed and rounded as one."""


def _formula_row(term: Term, defaults: tuple[float, ...]) -> Row:
    def convert(cx: Context, out: torch.dtype, *args: Any) -> Tensor:
        if not floating(out):
            raise NotSupported(f"{cx.name} on integers")
        missing = 1 + len(defaults) - len(args)
        return cx.formula(term, [*args, *(defaults[-missing:] if missing > 0 else ())], out)

    return convert


for _name, (_term, _defaults) in FORMULAS.items():
    ROWS[_name] = _formula_row(_term, _defaults)


@row("softplus")
def _softplus(
    cx: Context, out: torch.dtype, x: Tensor, beta: float = 1, threshold: float = 20
) -> Tensor:
    scaled: Term = ("mul", float(beta), A)
    log = ("log1p", ("exp", ("min", scaled, float(threshold))))
    above = ("lt", float(threshold), scaled)
    return cx.formula(("where", above, A, ("mul", 1.0 / beta, log)), [x], out)


@row("elu")
def _elu(
    cx: Context, out: torch.dtype, x: Tensor, alpha: float = 1, scale: float = 1, inner: float = 1
) -> Tensor:
    # The exponent is capped at 0, where the other branch is taken: it must not overflow.
    low = ("mul", float(alpha * scale), ("expm1", ("min", ("mul", float(inner), A), 0.0)))
    return cx.formula(("where", _POSITIVE, ("mul", float(scale), A), low), [x], out)


@row("selu")
def _selu(cx: Context, out: torch.dtype, x: Tensor) -> Tensor:
    return _elu(cx, out, x, 1.6732632423543772, 1.0507009873554805)


@row("celu")
def _celu(cx: Context, out: torch.dtype, x: Tensor, alpha: float = 1.0) -> Tensor:
    return _elu(cx, out, x, alpha, 1.0, 1.0 / alpha)


@row("prelu")
def _prelu(cx: Context, out: torch.dtype, x: Tensor, weight: Tensor) -> Tensor:
    """A slope per channel (dim 1), or one for all."""
    rank = len(x.dims)
    if cx.axes(weight, range(len(weight.dims))):
        weight = replace(weight, dims=(*weight.dims, *((),) * (rank - 2)))
    else:
        weight = replace(weight, dims=())
    return cx.formula(("where", _POSITIVE, A, ("mul", B, A)), [x, weight], out)


@row("gelu")
def _gelu(cx: Context, out: torch.dtype, x: Tensor, approximate: str = "none") -> Tensor:
    return cx.elementwise("gelu_tanh" if approximate == "tanh" else "gelu", [x], out, out)


@row("addcmul", "addcdiv")
def _addc(cx: Context, out: torch.dtype, x: Any, y: Any, z: Any, value: float = 1) -> Tensor:
    op = "mul" if cx.name == "addcmul" else "div"
    if not floating(out):
        raise NotSupported(f"{cx.name} on integers")
    return cx.formula(("add", A, ("mul", float(value), (op, B, C))), [x, y, z], out)


@row("rsub")
def _rsub(cx: Context, out: torch.dtype, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    return ROWS["sub"](cx, out, b, a, alpha=alpha)


@row("pow", "float_power")
def _pow(cx: Context, out: torch.dtype, x: Any, e: Any) -> Tensor:
    if isinstance(e, Tensor) or not isinstance(x, Tensor):
        if not floating(out):
            raise NotSupported("integer powers")
        if not isinstance(x, Tensor) and x == 2:  # an exponential: it gets a shift where it must
            return cx.formula(FORMULAS["exp2"][0], [e], out)
        return cx.elementwise("pow", [x, e], out, out)
    if e == 0:
        return cx.value(1.0 if floating(out) else 1, out).spread(x.dims)
    if isinstance(e, int | float) and e == int(e) and 1 <= abs(e) <= 8:
        if e < 0 and not floating(out):
            raise NotSupported("negative powers of integers")
        y: Term = A
        for _ in range(int(abs(e)) - 1):
            y = ("mul", y, A)
        return cx.formula(("recip", y) if e < 0 else y, [x], out)
    simple = {0.5: "sqrt", -0.5: "rsqrt"}
    if e in simple:
        return cx.elementwise(simple[e], [x], out, out)
    if not floating(out):
        raise NotSupported("integer powers")
    return cx.elementwise("pow", [x, float(e)], out, out)


@row("clamp", "clamp_min", "clamp_max", "clip")
def _clamp(
    cx: Context, out: torch.dtype, x: Tensor, low: Any = None, high: Any = None, **kw: Any
) -> Tensor:
    if cx.name == "clamp_max":
        low, high = None, low
    low, high = kw.get("min", low), kw.get("max", high)
    for op, bound in (("max", low), ("min", high)):
        if bound is not None:
            x = cx.elementwise(op, [x, bound], out, out)
    return cx.cast(x, out)


# -- what is no number ------------------------------------------------------------------------------

_INFINITE = ("eq", _ABS, math.inf)
_CLASSES: dict[str, Term] = {
    "isnan": ("ne", A, A),
    "isinf": _INFINITE,
    "isposinf": ("eq", A, math.inf),
    "isneginf": ("eq", A, -math.inf),
    "isfinite": ("lt", _ABS, math.inf),
}


def _class_row(term: Term) -> Row:
    def convert(cx: Context, out: torch.dtype, x: Tensor) -> Tensor:
        if not floating(x.dtype):
            raise NotSupported(f"{cx.name} of integers")
        return cx.unrounded(term, [x], x.dtype)

    return convert


for _name, _term in _CLASSES.items():
    ROWS[_name] = _class_row(_term)


@row("nan_to_num")
def _nan_to_num(
    cx: Context, out: torch.dtype, x: Tensor, nan: Any = None, high: Any = None, low: Any = None
) -> Tensor:
    if not floating(out):
        return x
    ends = torch.finfo(out)
    term: Term = A
    for name, value, default in (
        ("isneginf", low, ends.min),
        ("isposinf", high, ends.max),
        ("isnan", nan, 0.0),
    ):
        term = ("where", _CLASSES[name], float(default if value is None else value), term)
    return cx.formula(term, [x], out)


# -- selections and conversions --------------------------------------------------------------------


@row("where")
def _where(cx: Context, out: torch.dtype, c: Tensor, a: Any = None, b: Any = None) -> Tensor:
    if a is None:
        raise NotSupported("where with one argument has a data-dependent shape")
    return cx.where(c, a, b, out)


@row("masked_fill")
def _masked_fill(cx: Context, out: torch.dtype, x: Tensor, mask: Tensor, value: Any) -> Tensor:
    return cx.where(mask, value, x, out)


@row("_to_copy", "to", "type_as")
def _to(cx: Context, out: torch.dtype, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return cx.cast(x, out)


@row("clone", "contiguous", "detach", "detach_", "alias", "lift_fresh_copy", "lift_fresh")
def _same(cx: Context, out: torch.dtype, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


@row("dropout", "feature_dropout", "alpha_dropout")
def _dropout(cx: Context, out: torch.dtype, x: Tensor, p: float, train: bool) -> Tensor:
    if train and p:
        raise NotSupported("dropout in training draws random numbers")
    return x
