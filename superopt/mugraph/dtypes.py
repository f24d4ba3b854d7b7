"""Element types of the graph: name, torch dtype, C type, bytes, and how they promote."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from superopt.errors import UnsupportedOperator

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class DType:
    """One element type. ``kind`` is "float", "int" or "bool"; ``ulp`` is the unit roundoff.

    torch_name: of the dtype among PyTorch's.
    """

    name: str
    torch_name: str
    c: str
    bytes: int
    kind: str
    ulp: float = 0.0

    @property
    def torch(self) -> torch.dtype:
        """The torch dtype."""
        import torch  # see ``late``

        found: torch.dtype = getattr(torch, self.torch_name)
        return found


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType("f64", "float64", "double", 8, "float", 2.0**-53),
        DType("f32", "float32", "float", 4, "float", 2.0**-24),
        DType("f16", "float16", "so_f16", 2, "float", 2.0**-11),
        DType("bf16", "bfloat16", "so_bf16", 2, "float", 2.0**-8),
        DType("i64", "int64", "int64_t", 8, "int"),
        DType("i32", "int32", "int32_t", 4, "int"),
        DType("i16", "int16", "int16_t", 2, "int"),
        DType("i8", "int8", "int8_t", 1, "int"),
        DType("u8", "uint8", "uint8_t", 1, "int"),
        DType("bool", "bool", "bool", 1, "bool"),
    )
}

_BY_TORCH = {d.torch_name: d for d in DTYPES.values()}


def from_torch(dtype: torch.dtype) -> DType:
    """The row of a torch dtype; raises UnsupportedOperator for a dtype the graph does not have."""
    name = str(dtype).removeprefix("torch.")
    if name not in _BY_TORCH:
        raise UnsupportedOperator(
            what=f"tensors of dtype {dtype}",
            where="graph input",
            fix="cast to a supported dtype: " + ", ".join(DTYPES),
        )
    return _BY_TORCH[name]


def is_float(name: str) -> bool:
    """Whether the dtype named ``name`` holds real numbers."""
    return DTYPES[name].kind == "float"


def short_float(dtype: str | None) -> str | None:
    """A dtype that is a 16-bit float; None for any other."""
    short = dtype is not None and is_float(dtype) and DTYPES[dtype].bytes == 2
    return dtype if short else None


def compute_dtype(name: str) -> str:
    """The dtype in which a value of this dtype is computed and accumulated (f32 for 16-bit)."""
    return "f32" if name in ("f16", "bf16") else name


def promote(*names: str) -> str:
    """The dtype of an elementwise result over tensors of these dtypes, as torch promotes them."""
    return functools.reduce(_common, names)


_KINDS = ("bool", "int", "float")


def _common(a: str, b: str) -> str:
    small, large = sorted((DTYPES[a], DTYPES[b]), key=lambda d: (_KINDS.index(d.kind), d.bytes))
    if small.kind != large.kind or small.bytes != large.bytes or a == b:
        return large.name
    return "f32" if small.kind == "float" else "i16"  # f16 and bf16; i8 and u8
