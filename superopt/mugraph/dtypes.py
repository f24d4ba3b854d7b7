"""Element types of the graph: name, torch dtype, C type, bytes, and how they promote."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from superopt.errors import UnsupportedOperator


@dataclass(frozen=True, slots=True)
class DType:
    """One element type. ``kind`` is "float", "int" or "bool"; ``ulp`` is the unit roundoff."""

    name: str
    torch: torch.dtype
    c: str
    bytes: int
    kind: str
    ulp: float = 0.0


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType("f64", torch.float64, "double", 8, "float", 2.0**-53),
        DType("f32", torch.float32, "float", 4, "float", 2.0**-24),
        DType("f16", torch.float16, "so_f16", 2, "float", 2.0**-11),
        DType("bf16", torch.bfloat16, "so_bf16", 2, "float", 2.0**-8),
        DType("i64", torch.int64, "int64_t", 8, "int"),
        DType("i32", torch.int32, "int32_t", 4, "int"),
        DType("i16", torch.int16, "int16_t", 2, "int"),
        DType("i8", torch.int8, "int8_t", 1, "int"),
        DType("u8", torch.uint8, "uint8_t", 1, "int"),
        DType("bool", torch.bool, "bool", 1, "bool"),
    )
}

_BY_TORCH = {d.torch: d for d in DTYPES.values()}


def from_torch(dtype: torch.dtype) -> DType:
    """The row of a torch dtype; raises UnsupportedOperator for a dtype the graph does not have."""
    if dtype not in _BY_TORCH:
        raise UnsupportedOperator(
            what=f"tensors of dtype {dtype}",
            where="graph input",
            fix="cast to a supported dtype: " + ", ".join(DTYPES),
        )
    return _BY_TORCH[dtype]


def is_float(name: str) -> bool:
    """Whether the dtype named ``name`` holds real numbers."""
    return DTYPES[name].kind == "float"


def compute_dtype(name: str) -> str:
    """The dtype in which a value of this dtype is computed and accumulated (f32 for 16-bit)."""
    return "f32" if name in ("f16", "bf16") else name


def promote(*names: str) -> str:
    """The dtype of an elementwise result over tensors of these dtypes, as torch promotes them."""
    out = DTYPES[names[0]].torch
    for name in names[1:]:
        out = torch.promote_types(out, DTYPES[name].torch)
    return from_torch(out).name
