"""Masks and shifts of integers: every value of the narrow types, every mask, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.frontend.harness import check, program

Tensor = torch.Tensor

BITWISE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "and": lambda x, m: x & m,
    "or": lambda x, m: x | m,
    "xor": lambda x, m: x ^ m,
}
SHIFTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "left": lambda x, c: x << c,
    "right": lambda x, c: x >> c,
}


def everything(dtype: torch.dtype) -> Tensor:
    """All values of an 8-bit type; of a wider one the ends, powers of two and their neighbours."""
    info = torch.iinfo(dtype)
    if info.bits == 8:
        return torch.arange(info.min, info.max + 1).to(dtype)
    near = [s * (1 << k) + d for k in range(info.bits - 1) for s in (-1, 1) for d in (-1, 0, 1)]
    return torch.tensor(sorted({info.min, info.max, 0, *near}), dtype=dtype)


def each(
    fn: Callable[[Tensor, int], Tensor], numbers: list[int]
) -> Callable[[Tensor], list[Tensor]]:
    return lambda x: [fn(x, m) for m in numbers]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8], ids=str)
@pytest.mark.parametrize("op", BITWISE)
def test_every_mask_of_every_byte(op: str, dtype: torch.dtype) -> None:
    """256 masks at 256 values; the masks that a signed type holds as negative numbers as well."""
    masks = list(range(256)) if dtype == torch.uint8 else list(range(-128, 128))
    for some in (masks[:128], masks[128:]):
        check(each(BITWISE[op], some), everything(dtype))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("op", BITWISE)
def test_masks_of_wider_integers(op: str, dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    masks = [0, 1, 15, 0xF0, 0x70F, -16, -1, 5, info.max, info.min, info.max - 255, info.min | 6]
    check(each(BITWISE[op], masks), everything(dtype))


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64], ids=str
)
@pytest.mark.parametrize("op", SHIFTS)
def test_every_shift(op: str, dtype: torch.dtype) -> None:
    """By every number of bits, by none, by the whole width and more, and by a negative number."""
    check(each(SHIFTS[op], list(range(-2, torch.iinfo(dtype).bits + 3))), everything(dtype))


def test_not_and_mixed_types() -> None:
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64):
        check(
            lambda x: (~x, 15 & x, 1 | x, x.bitwise_xor(3), x.logical_and(x > 2)), everything(dtype)
        )
    flags = torch.tensor([True, False])
    check(lambda x: (x & 3, x ^ 1, ~x, x & True), flags)


def test_a_signed_nibble_is_moved_up_and_down() -> None:
    made = check(lambda w: (w << 4) >> 4, everything(torch.int8))
    assert len(made.supported) == 1


def test_small_integers_are_whole_in_sixteen_bits() -> None:
    """Bfloat16 has every byte, so that a byte made into it is not rounded; a wider number is."""
    for dtype, rounds in ((torch.uint8, False), (torch.int8, False), (torch.int16, True)):
        made = check(lambda w: (w >> 2).to(torch.bfloat16) * 2, everything(dtype))
        ops = [getattr(n, "op", "") for n in made.supported[0].graph.nodes]
        assert ("round" in ops) == rounds, dtype


def test_what_is_left_to_pytorch_says_why() -> None:
    x = everything(torch.int8)
    for fn, reason in (
        (lambda x: (x & (x + 1)) + 1, "bitwise and of two tensors"),
        (lambda x: (x >> (x * 0 + 1)) + 1, "a shift by a tensor"),
        (lambda x: (2 << x) + 1, "what is no tensor of integers"),
    ):
        found = program(fn, x).boundaries
        assert any(reason in b.reason for b in found), found
