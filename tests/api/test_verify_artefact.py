"""``superopt verify``: genuine artefacts are equal, and any byte changed in one is found."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from superopt import superoptimize
from superopt.cli import app
from superopt.pipeline import rechecking
from superopt.pipeline.rechecking import recheck
from tests.api.artefacts import (
    BAD,
    CASES,
    EQUAL,
    Forgery,
    genuine,
    layers,
    runner,
    verified,
)

SHARED_CACHE = True


@pytest.fixture
def entry(kernels_folder: Path) -> Callable[[str], Path]:
    """The folder of a case's entry."""
    return lambda name: genuine(name, kernels_folder)


@pytest.mark.parametrize("name", CASES)
def test_a_genuine_artefact_is_equal(name: str, entry: Callable[[str], Path]) -> None:
    path = entry(name)
    status, told = verified(path)
    assert status == EQUAL, told
    found = layers(told)
    files = {f.name for f in path.iterdir()}
    assert {"program.txt", "certificate.json", "manifest.json", "mugraph.txt"} <= files
    assert set(told["artefacts"][0]["seeds"]) >= {"gate", "graph"}
    programs = len([f for f in files if f.endswith(".so")])
    if name.startswith("sizes"):
        assert programs >= 2 and "size-one.json" in files and "size one" in found
        assert all(f"graph {n}" in found for n in range(programs))
    else:
        assert "operator by operator" in found["graph"] or "2^-" in found["graph"]
    if name == "bare":
        assert "2^-" in found["shifts"]
    if name == "attention":
        assert "carry" in (path / "mugraph.txt").read_text(), "another shape is needed here"
        assert "2^-" in found["carries"]
    classes = int(found["binary"].split()[0])
    assert classes >= (60 if name.startswith("sizes") else 15), found["binary"]


def test_seeds_are_fresh_and_can_be_given(entry: Callable[[str], Path]) -> None:
    path = entry("several")
    first, second = (verified(path)[1]["artefacts"][0]["seeds"] for _ in range(2))
    assert not {*first["gate"], *first["graph"]} & {*second["gate"], *second["graph"]}
    given = [verified(path, "--seed", "7")[1]["artefacts"][0]["seeds"] for _ in range(2)]
    assert given[0] == given[1] and 7 in given[0]["graph"]


def test_the_certificate_the_manifest_and_a_folder_of_entries_name_artefacts(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    path = entry("several")
    for name in ("certificate.json", "manifest.json"):
        assert verified(path / name)[0] == EQUAL
    shutil.copytree(path, tmp_path / "all" / "one")
    forged = Forgery(path)
    forged.edit("kernel.cpp", "// Generated code", "// generated code")
    forged.write(tmp_path / "all" / "two")
    status, told = verified(tmp_path / "all")
    assert status == BAD and len(told["artefacts"]) == 2
    assert [a["verdict"] for a in told["artefacts"]] == ["equal", "bad artefact"]
    text = runner.invoke(app, ["verify", str(tmp_path / "all" / "one")])
    assert text.exit_code == 0 and "verdict      equal" in text.stdout
    for line in ("files", "graph", "plan", "binary", "certificate", "unchecked", "seeds"):
        assert f"\n  {line}" in text.stdout


def test_explain_names_the_artefact(entry: Callable[[str], Path]) -> None:
    fn, make, _ = CASES["several"]
    text = superoptimize.explain(superoptimize(fn), *make())
    assert f"check it again: superopt verify {entry('several')}" in text


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nowhere"],
        ["--bogus", "."],
        [".", "."],
        [".", "--seed", "x"],
        [".", "--seed", "-1"],
        [".", "--sampled"],
        ["mod.py:f"],
        ["mod.py:f", "mod.py:g", "--inputs", "f32[3]", "--sanitize"],
    ],
)
def test_a_mistake_in_the_words_is_64(words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--json"]):
        assert runner.invoke(app, ["verify", *words, *more]).exit_code == 64
    (tmp_path / "notes.txt").write_text("x")
    assert runner.invoke(app, ["verify", "notes.txt"]).exit_code == 64
    assert runner.invoke(app, ["verify", "."]).exit_code == 64
    assert runner.invoke(app, ["bench", "--bogus"]).exit_code == 2
    assert runner.invoke(app, ["verify", "--help"]).exit_code == 0


def test_every_file_with_one_byte_changed_is_refused(
    entry: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecking, "_found", lambda *_: pytest.fail("a changed file was read"))
    rng, cases = random.Random(0), 0
    for name in ("rmsnorm_linear", "sizes"):
        path = tmp_path / name
        shutil.copytree(entry(name), path)
        for file in sorted(path.iterdir()):
            whole = file.read_bytes()
            places = {0, 1, len(whole) // 2, len(whole) - 2, len(whole) - 1}
            places |= {rng.randrange(len(whole)) for _ in range(8)}
            for at in sorted(places):
                for mask in (0x01, 0x07, 0x80):  # 0x07 makes the other end of line of one
                    changed = bytearray(whole)
                    changed[at] ^= mask
                    file.write_bytes(changed)
                    found = recheck(path)
                    assert found.verdict == "bad artefact", (file.name, at, mask)
                    assert found.error and found.reason
                    cases += 1
            file.write_bytes(whole + b"\n")
            assert recheck(path).verdict == "bad artefact", file.name
            file.write_bytes(whole[:-1])
            assert verified(path)[0] == BAD
            file.write_bytes(whole)
    assert cases >= 700, cases


def test_files_added_or_removed_are_refused(entry: Callable[[str], Path], tmp_path: Path) -> None:
    cases = 0
    for name in ("rmsnorm_linear", "sizes"):
        path = tmp_path / name
        shutil.copytree(entry(name), path)
        for file in sorted(path.iterdir()):
            moved = file.rename(tmp_path / "aside")
            status, told = verified(path)
            assert status == BAD and file.name in told["artefacts"][0]["reason"], told
            file.symlink_to(moved)
            assert file.name == "manifest.json" or verified(path)[0] == BAD
            file.unlink()
            moved.rename(file)
            cases += 1
        for more in ("more.txt", "kernel-1.so", "mugraph-9.txt", ".hidden"):
            (path / more).write_text("x")
            status, told = verified(path)
            assert status == BAD and more in told["artefacts"][0]["reason"]
            (path / more).unlink()
            (path / more).mkdir()
            assert verified(path)[0] == BAD
            (path / more).rmdir()
            cases += 1
    assert cases >= 30, cases


def test_a_listed_file_that_no_entry_has_is_refused(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    for k, name in enumerate(("more.txt", "plan-7.json", "kernel-0123456789abcdef.so")):
        forged = Forgery(entry("several"))
        forged.files[name] = b"x"
        assert verified(forged.write(tmp_path / str(k)))[0] == BAD
    for k, name in enumerate(Forgery(entry("several")).files):
        forged = Forgery(entry("several"))
        del forged.files[name]
        if name == "certificate.json":
            continue
        assert verified(forged.write(tmp_path / f"less{k}"))[0] == BAD, name
