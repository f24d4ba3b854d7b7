"""Sizes in an exported program: nodes without tensors, and what they are at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from superopt.errors import UnsupportedOperator
from superopt.frontend.cleanup import op_name
from superopt.frontend.where import location
from superopt.mugraph.axes import Stride, Sym

_SYMBOLIC = torch.SymInt | torch.SymFloat | torch.SymBool
_CHECKS = ("assert", "sym_constrain", "_check")


def free(node: fx.Node) -> bool:
    """Whether a node costs nothing at run time: a size, an attribute, or an assertion about sizes.

    The guards of the caller have made the assertions. A number read out of a tensor is not free.
    A question about types (``promote_types``) is free once it is answered: tracing leaves the
    answer in the operators after it, and the question behind without a user.
    """
    if node.op == "get_attr":
        return True
    if node.op != "call_function":
        return False
    value = node.meta.get("val")
    if isinstance(value, _SYMBOLIC):
        return not _unbacked(value)
    name = op_name(node)
    return isinstance(value, int | float | bool) or (
        not node.users and (any(check in name for check in _CHECKS) or _answered(node))
    )


def _answered(node: fx.Node) -> bool:
    """Whether an operator gives no tensor, writes nothing, and left no number to be read later."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.meta.get("val") is not None:
        return False
    schema = node.target._schema
    kinds = [str(r.type) for r in schema.returns]
    return bool(kinds) and not schema.is_mutable and not any("Tensor" in kind for kind in kinds)


def _unbacked(value: Any) -> bool:
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return bool(free_unbacked_symbols(value))


def symbol_values(nodes: Sequence[fx.Node], env: Mapping[fx.Node, Any]) -> dict[str, int]:
    """The run-time value of every size symbol that is a dimension of one of these tensors."""
    out: dict[str, int] = {}
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            for d, n in enumerate(value.shape):
                size: Any = n
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                    out[str(n)] = int(env[node].shape[d])
    return out


def number(node: fx.Node, sizes: Mapping[str, int]) -> Any:
    """The value of a free node for these values of the symbols."""
    return resolved(node.meta.get("val"), sizes, location(node))


def resolved(value: Any, sizes: Mapping[str, int], where: str = "") -> Any:
    """A number that may be symbolic, for these values of the symbols."""
    if not isinstance(value, _SYMBOLIC):
        return value
    done = value.node.expr.subs({s: sizes[str(s)] for s in value.node.expr.free_symbols})
    if getattr(done, "free_symbols", ()):
        raise UnsupportedOperator(f"the size {value.node.expr} is not known", where)
    if isinstance(value, torch.SymInt):
        return int(done)
    return bool(done) if isinstance(value, torch.SymBool) else float(done)


def stride_of(value: Any, symbols: Mapping[str, Sym]) -> Stride | None:
    """A torch stride as a product of symbols and a number; None when it is anything else."""
    if isinstance(value, int):
        return Stride(value)
    coef, factors = 1, []
    for base, power in value.node.expr.as_powers_dict().items():
        if base.is_Integer and power.is_Integer:
            coef *= int(base) ** int(power)
        elif str(base) in symbols and power.is_Integer and int(power) > 0:
            factors += [symbols[str(base)]] * int(power)
        else:
            return None
    return Stride(coef, tuple(sorted(factors)))


def hint_of(value: Any) -> int:
    """A size or stride; one that may be symbolic as it was in the example, 0 if that is not known."""
    return value if isinstance(value, int) else int(value.node.hint or 0)


def blank(node: fx.Node, sizes: Mapping[str, int]) -> torch.Tensor:
    """Zeros in the place of a tensor of which only the shape is read."""
    value = node.meta["val"]
    shape = [resolved(n, sizes) for n in value.shape]
    return torch.zeros(shape, dtype=value.dtype, device=value.device)
