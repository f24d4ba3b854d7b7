"""``superopt verify``: what is no artefact, or not of this program or machine, is refused clearly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.api.artefacts import (
    BAD,
    DIFFERENT,
    EQUAL,
    UNDECIDED,
    Forgery,
    compiled,
    genuine,
    layers,
    refused,
    signed,
    verified,
)

SHARED_CACHE = True


@pytest.fixture
def entry(kernels_folder: Path) -> Callable[[str], Path]:
    """The folder of a case's entry."""
    return lambda name: genuine(name, kernels_folder)


def test_the_certificate_of_another_program_is_refused(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    forged = Forgery(entry("rmsnorm_linear"))
    forged.files["certificate.json"] = (entry("gated_mlp") / "certificate.json").read_bytes()
    status, told = verified(forged.write(tmp_path / "a", hashes=False))
    assert status == BAD and told["artefacts"][0]["error"] == "CertificateMismatch", told
    other = json.loads((entry("gated_mlp") / "certificate.json").read_text())
    forged.proof = {**other, "artefact": forged.proof["artefact"]}
    forged.files["certificate.json"] = signed(forged.proof).encode()
    status, told = verified(forged.write(tmp_path / "b", hashes=False))
    assert status == BAD and "another program" in told["artefacts"][0]["reason"]


def test_newer_corrupt_and_older_certificates_are_refused_clearly(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    forged = Forgery(entry("several"))
    forged.proof["schema"] = 4
    refused(forged, tmp_path / "new", "its schema is 4", "upgrade", error="CertificateTooNew")
    texts = {
        "half": forged.text("certificate.json")[:300],
        "no JSON": "certificate",
        "NaN": '{"schema": 3, "x": NaN}',
        "huge": '{"schema": 3, "x": 1e999}',
        "deep": "[" * 100000,
        "list": "[]",
        "nothing": "",
    }
    for name, text in texts.items():
        forged = Forgery(entry("several"))
        forged.files["certificate.json"] = text.encode()
        status, told = verified(forged.write(tmp_path / name, hashes=False))
        assert status == BAD, (name, told)
        assert told["artefacts"][0]["error"] == "CertificateCorrupt", told
    forged = Forgery(entry("several"))
    old = {k: v for k, v in forged.proof.items() if k not in ("artefact", "seeds")}
    forged.files["certificate.json"] = signed({**old, "schema": 2}).encode()
    del forged.files["program.txt"]
    status, told = verified(forged.write(tmp_path / "old", hashes=False))
    assert status == BAD and "made by an older version" in told["artefacts"][0]["reason"]


def test_constants_of_a_program_that_are_no_numbers(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    text = Forgery(entry("several")).text("program.txt")
    word = next(x for x in text.splitlines() if "= const 0x" in x).split()[3]
    for n, name in enumerate(("program.txt", "mugraph.txt")):
        forged = Forgery(entry("several"))
        forged.edit(name, word, "nan")
        refused(forged, tmp_path / f"nan{n}", "a NaN literal", "left to PyTorch", name)
    # An infinite one is legal, as in a mask; here it makes another program.
    forged = Forgery(entry("several"))
    for name in ("program.txt", "mugraph.txt"):
        forged.edit(name, word, "inf")
    assert verified(forged.write(tmp_path / "inf"))[0] == DIFFERENT
    assert "inf" in (entry("causal") / "program.txt").read_text()


def test_graphs_that_cannot_be_read_are_refused(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    for n, (name, content) in enumerate(
        [
            ("program.txt", b"graph"),
            ("program.txt", b"\xff\xfe"),
            ("mugraph.txt", b""),
            ("mugraph.txt", b"graph g\n" + b"(" * 50000),
            ("plan.json", b"[" * 50000),
            ("plan.json", b"\xff"),
            ("kernel.cpp", b"\xff\xff"),
        ]
    ):
        forged = Forgery(entry("several"))
        forged.files[name] = content
        refused(forged, tmp_path / str(n), name)


def test_a_manifest_that_lies_is_refused(entry: Callable[[str], Path], tmp_path: Path) -> None:
    path = entry("several")
    edits: list[Callable[[Forgery], Any]] = [
        lambda f: f.meta["surroundings"].update(threads=77),
        lambda f: f.meta.pop("surroundings"),
        lambda f: f.meta.update(libraries=[]),
        lambda f: f.meta.update(libraries="kernel.so"),
        lambda f: f.meta.update(libraries=f.meta["libraries"] * 2),
        lambda f: setattr(f, "key", "0" * 64),
    ]
    for n, edit in enumerate(edits):
        forged = Forgery(path)
        edit(forged)
        assert verified(forged.write(tmp_path / str(n), hashes=False))[0] == BAD, n


def test_a_binary_for_another_machine_is_undecided(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    forged = Forgery(entry("several"))
    forged.proof["versions"]["machine"] = "riscv64"
    status, told = verified(forged.write(tmp_path / "a"))
    assert status == UNDECIDED and "riscv64" in told["artefacts"][0]["reason"]
    forged = Forgery(entry("several"))
    forged.proof["versions"]["isa"] = "neon" if torch.backends.cpu.get_cpu_capability() else "avx2"
    status, told = verified(forged.write(tmp_path / "b"))
    assert status != EQUAL
    assert "lacks" in layers(told)["binary"]


def test_what_is_no_library_is_refused(entry: Callable[[str], Path], tmp_path: Path) -> None:
    forged = Forgery(entry("several"))
    forged.binary(b"\x7fELF" + bytes(500))
    refused(forged, tmp_path / "a", "cannot be loaded")
    forged = Forgery(entry("several"))
    isa = forged.proof["versions"]["isa"]
    forged.binary(compiled('extern "C" int other() { return 0; }', tmp_path, isa))
    refused(forged, tmp_path / "b", "lacks the entry")
