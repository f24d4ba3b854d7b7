"""Broken kernels that only some sizes, or memory at pages without access, show: the gate refuses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from superopt.bench.verify_cases import KERNELS
from superopt.bench.verify_kernels import kernel
from superopt.codegen.backends import cpu
from superopt.errors import SuperoptError
from superopt.pipeline.mutation_kernels import Bench, Tried

ENTRY_LINE = 'extern "C" int superopt_entry(void** bufs, const int64_t* ints) {'


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A product of normalized rows, their number symbolic, 11 to a task."""
    case = next(c for c in KERNELS if c.name == "symbolic rows")
    return Bench(*kernel(case), tmp_path_factory.mktemp("bench"))


def broken(bench: Bench, old: str, new: str) -> tuple[Path, cpu.Source]:
    """The binary of the kernel with one text in place of another, and its source."""
    text = bench.source.text
    assert old in text
    source = replace(bench.source, text=text.replace(old, new))
    (path,) = bench.compiled([source])
    assert not isinstance(path, SuperoptError), path.report()
    return path, source


def test_reads_beyond_an_input_crash(bench: Bench) -> None:
    read = "(void)((volatile float*)bufs[0])[ints[0] * 40];"  # the row after the last one
    found = bench.tried(*broken(bench, ENTRY_LINE, f"{ENTRY_LINE}\n{read}\n"), 60.0)
    assert found.layer == "crash", found


def test_a_task_too_few_is_seen_where_the_last_has_one_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (symbol,) = bench.sizes()
    mutant = broken(bench, f"(s_{symbol} + 10) / 11", f"(s_{symbol} + 9) / 11")
    found = bench.tried(*mutant, 60.0)
    assert found.layer == "gate" and f"{symbol}=23" in found.reason, found

    def loaded(self: Bench, path: Path, source: object) -> Tried:
        self._mutant = self._load(path, source)  # type: ignore[arg-type]
        return Tried("", "")

    monkeypatch.setattr(Bench, "_judged", loaded)  # a gate that accepts all: what comes after it
    found = bench.tried(*mutant, 60.0)
    assert found.layer == "" and found.worst > 1.0 and f"{symbol}=23" in found.where, found
