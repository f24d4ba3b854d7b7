"""Reads descriptions of input tensors, such as ``f32[8,4096],bf16[3]``, and makes the tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from superopt.errors import BadOption, closest
from superopt.mugraph.dtypes import DTYPES

_NAMES = {name: d.torch for name, d in DTYPES.items()}
_LONG = {str(d).removeprefix("torch."): d for d in _NAMES.values()}
_FIX = "write one dtype[sizes] for each tensor, such as 'f32[8,4096],bf16[3],i64[]'"


@dataclass(frozen=True)
class TensorSpec:
    """A dtype and a shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Normal values for floats, zeros and ones for bool and integers (valid as indices).

        Raises BadOption for a tensor that does not fit into memory.
        """
        try:
            if self.dtype.is_floating_point:
                return torch.randn(self.shape, generator=generator).to(self.dtype)
            return torch.randint(0, 2, self.shape, generator=generator).to(self.dtype)
        except (RuntimeError, MemoryError) as error:
            sizes = ",".join(map(str, self.shape))
            raise BadOption(
                f"there is no memory for a tensor of [{sizes}]", "option --inputs", _FIX
            ) from error


def parse_inputs(text: str) -> tuple[TensorSpec, ...]:
    """The tensors that ``text`` describes; BadOption names the part that cannot be read."""
    parts = _split(text)
    if not parts:
        raise BadOption("no inputs are given", "option --inputs", _FIX)
    return tuple(_one(part) for part in parts)


def parse_dtype(word: str, where: str = "option --dtypes") -> torch.dtype:
    """The dtype of a short (f32) or long (float32) name; BadOption otherwise."""
    dtype = _NAMES.get(word) or _LONG.get(word)
    if dtype is None:
        raise BadOption(f"no dtype {word!r}", where, closest(word, DTYPES))
    return dtype


def short(dtype: torch.dtype) -> str:
    """The short name of a dtype: f32 for torch.float32."""
    return next((name for name, d in _NAMES.items() if d == dtype), str(dtype))


def make_inputs(text: str, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Tensors for the description ``text``, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(spec.draw(generator) for spec in parse_inputs(text))


def _split(text: str) -> list[str]:
    """Cuts at the commas outside brackets."""
    return [p.strip() for p in re.split(r",(?![^\[]*\])", text) if p.strip()]


def _one(part: str) -> TensorSpec:
    match = re.fullmatch(r"([A-Za-z]\w*)\s*\[([^\[\]]*)\]", part)
    if match is None:
        raise BadOption(f"{part!r} is not a tensor", "option --inputs", _FIX)
    dtype = parse_dtype(match[1], f"option --inputs, at {part!r}")
    sizes = [s.strip() for s in re.split(r"[,x×]", match[2])] if match[2].strip() else []
    for size in sizes:
        if not re.fullmatch(r"\d{1,12}", size):
            raise BadOption(f"{size!r} is not a size", f"option --inputs, at {part!r}", _FIX)
    return TensorSpec(dtype, tuple(int(s) for s in sizes))
