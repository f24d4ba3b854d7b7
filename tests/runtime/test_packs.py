"""Copies of tensors: when one is made, given, dropped and given up."""

from __future__ import annotations

import gc
import mmap
import threading
from collections.abc import Iterator

import pytest
import torch

from superopt.runtime import packs
from superopt.runtime.packs import Copy, Packs

SIZE = 4096


@pytest.fixture
def store() -> Iterator[Packs]:
    made = Packs()
    yield made
    made.clear()


def ask(
    store: Packs, t: torch.Tensor, times: int = 1, limit: int = 1 << 30, layout: str = "rows"
) -> Copy | None:
    copy = None

    def ones(memory: torch.Tensor) -> None:
        memory.fill_(1)

    for _ in range(times):
        copy = store.given(t, layout, SIZE, limit, ones)
    return copy


def test_a_tensor_is_packed_in_the_second_call_and_kept(store: Packs) -> None:
    t = torch.randn(32, 32)
    assert ask(store, t) is None
    copy = ask(store, t)
    assert copy is not None and bool((copy.memory == 1).all())
    assert ask(store, t, 3) is copy and copy.turn == 3
    assert copy.data_ptr() % 64 == 0
    assert store.bytes == SIZE and store.count == 1
    assert ask(store, t, layout="columns") is None  # another layout is another copy


def test_a_version_counts(store: Packs) -> None:
    t = torch.randn(32, 32)
    assert ask(store, t, 2) is not None
    t.add_(1)
    assert ask(store, t) is None and store.bytes == 0
    # Next time it takes more patience.
    assert ask(store, t, packs.STABLE * packs.PATIENCE - 2) is None
    assert ask(store, t) is not None


def test_what_always_changes_is_never_packed(store: Packs) -> None:
    t = torch.randn(32, 32)
    for _ in range(10):
        t.add_(1)
        assert ask(store, t) is None


@pytest.mark.parametrize("what", ["numpy", "frombuffer", "shared", "mapped", "inference"])
def test_memory_that_others_may_write_is_refused(store: Packs, what: str) -> None:
    if what == "inference":
        with torch.inference_mode():
            t = torch.randn(4, 4)
    elif what == "numpy":
        t = torch.from_numpy(torch.randn(4, 4).numpy().copy())
    elif what == "frombuffer":
        t = torch.frombuffer(bytearray(64), dtype=torch.float32).reshape(4, 4)
    elif what == "mapped":
        t = torch.frombuffer(mmap.mmap(-1, 4096), dtype=torch.float32, count=16)
    else:
        t = torch.randn(4, 4).share_memory_()
    assert ask(store, t, 6) is None


def test_a_live_alias_keeps_a_tensor_from_being_packed(store: Packs) -> None:
    t = torch.randn(32, 32)
    alias = t.data
    assert ask(store, t, 6) is None
    del alias
    assert ask(store, t) is not None
    array = t.numpy()
    assert store.count == 0  # at once
    assert ask(store, t, 40) is None
    del array
    assert ask(store, t, 40) is None  # PyTorch does not own it alone any more, and says so
    base = torch.randn(64, 32)
    view = base[:32]
    assert ask(store, view, 3) is not None  # a view shares the counter of its base
    base.mul_(2)
    assert ask(store, view) is None


def test_a_copy_dies_with_its_tensor_whatever_has_its_address_next(store: Packs) -> None:
    t = torch.randn(32, 32)
    assert ask(store, t, 2) is not None
    place = t.data_ptr()
    del t
    gc.collect()
    assert store.count == 0 and store.bytes == 0
    for _ in range(50):
        again = torch.randn(32, 32)
        if again.data_ptr() == place:
            assert ask(store, again) is None
            break


def test_a_stale_copy_is_dropped(store: Packs) -> None:
    t = torch.randn(32, 32)
    copy = ask(store, t, 2)
    assert copy is not None
    store.stale(copy)
    assert store.count == 0 and ask(store, t) is None


def test_memory_is_bounded_and_idle_copies_make_room(store: Packs) -> None:
    some = [torch.randn(8, 8) for _ in range(6)]
    for _ in range(3):  # in turns: none is idle, so the first ones keep their copies
        for t in some:
            ask(store, t, limit=3 * SIZE)
    assert store.bytes == 3 * SIZE
    held = [ask(store, t, limit=3 * SIZE) is not None for t in some]
    assert held == [True] * 3 + [False] * 3
    for _ in range(packs.IDLE * len(some) + 1):
        ask(store, some[5], limit=3 * SIZE)
    assert ask(store, some[5], limit=3 * SIZE) is not None
    assert store.bytes == 3 * SIZE
    assert ask(store, torch.randn(8, 8), 3, limit=SIZE - 1) is None


def test_what_changes_while_it_is_packed_is_not_kept(store: Packs) -> None:
    t = torch.randn(8, 8)

    def pack(memory: torch.Tensor) -> None:
        t.add_(1)

    ask(store, t)
    assert store.given(t, "rows", SIZE, 1 << 30, pack) is None
    assert store.bytes == 0 and store.count == 0

    def fails(memory: torch.Tensor) -> None:
        raise RuntimeError("no")

    u = torch.randn(8, 8)
    ask(store, u)
    with pytest.raises(RuntimeError):
        store.given(u, "rows", SIZE, 1 << 30, fails)
    assert store.bytes == 0 and ask(store, u) is not None


def test_one_of_many_threads_packs(store: Packs) -> None:
    t = torch.randn(8, 8)
    ask(store, t)
    made: list[int] = []
    gate = threading.Barrier(6)

    def work() -> None:
        gate.wait()
        for _ in range(50):
            store.given(t, "rows", SIZE, 1 << 30, lambda memory: made.append(1))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for x in threads:
        x.start()
    for x in threads:
        x.join()
    assert made == [1] and store.count == 1


def test_large_copies_begin_at_huge_pages() -> None:
    block = packs.memory(5 << 20)
    assert block.numel() == 5 << 20 and block.data_ptr() % 64 == 0
    assert bool((block == 0).all())
