"""``superopt verify``: genuine artefacts are equal; whatever is changed in one is found."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from superopt import superoptimize
from superopt.cli import app
from superopt.mugraph.graph import Const, Input, Map, Reduce, SizeOf
from superopt.mugraph.placement import MuGraph
from superopt.pipeline import rechecking
from superopt.pipeline.rechecking import recheck
from superopt.report.verify import STATUS
from superopt.search import buckets
from tests.api.artefacts import CASES, Forgery, compiled, genuine, printed, signed, with_node

SHARED_CACHE = True
EQUAL, DIFFERENT, UNDECIDED, BAD = range(4)
runner = CliRunner()


@pytest.fixture(autouse=True)
def several_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "FACTOR", 1.0001)
    monkeypatch.setattr(buckets, "MOST_BUCKETS", 3)


@pytest.fixture
def entry(kernels_folder: Path) -> Callable[[str], Path]:
    return lambda name: genuine(name, kernels_folder)


def verified(path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """The exit status of the command and what it tells as JSON."""
    done = runner.invoke(app, ["verify", str(path), "--json", *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    told = json.loads(done.stdout)
    if done.exit_code in STATUS.values():
        assert STATUS[told["verdict"]] == done.exit_code
    return done.exit_code, told


def layers(told: dict[str, Any]) -> dict[str, str]:
    (one,) = told["artefacts"]
    return {x["name"]: x["text"] for x in one["layers"]}


# -- genuine artefacts


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
    [[], ["nowhere"], ["--bogus", "."], [".", "."], [".", "--seed", "x"], [".", "--seed", "-1"]],
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


# -- any byte changed


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


# -- a wrong binary, every hash made to fit

ENTRY_LINE = 'extern "C" int superopt_entry(void** bufs, const int64_t* ints) {'
TAMPERED: dict[str, tuple[str, str]] = {
    "crashes": ("*(volatile int*)8 = 1;", "SIGSEGV"),
    "hangs": ('for (;;) asm volatile("");', "did not answer"),
    "ends the process": ("_exit(0);", "status 0"),
    "computes nothing": ("return 0;", "NaN"),
    "fails": ("return 4;", "status 4"),
    "claims an index": ("return 2;", "index outside"),
    "writes to an input": ("((float*)bufs[0])[0] += 1.0f;", "wrote to an input"),
    "changes the last element": (
        "struct S { void** b; ~S() { ((float*)b[3])[8 * 48 - 1] *= 1.01f; } } s{bufs};",
        "output 0 at (7, 47)",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_binary_is_different(
    name: str, entry: Callable[[str], Path], tmp_path: Path
) -> None:
    line, told = TAMPERED[name]
    forged = Forgery(entry("rmsnorm_linear"))
    text = forged.text("kernel.cpp")
    assert ENTRY_LINE in text
    head = 'extern "C" void _exit(int);\n' if "_exit" in line else ""
    source = head + text.replace(ENTRY_LINE, f"{ENTRY_LINE}\n{line}\n")
    isa = forged.proof["versions"]["isa"]
    forged.binary(compiled(source, tmp_path, isa))
    if list(TAMPERED).index(name) % 2:  # beside its own source, or beside that which it claims
        forged.files["kernel.cpp"] = source.encode()
    found = recheck(forged.write(tmp_path / "entry"), limit_s=6.0 if name == "hangs" else 60.0)
    assert found.verdict == "different", found
    assert told in found.reason
    if name not in ("computes nothing", "claims an index", "changes the last element"):
        assert "on inputs of class 'given'" in found.reason


def test_a_binary_that_only_prints_is_still_equal(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    forged = Forgery(entry("rmsnorm_linear"))
    text = forged.text("kernel.cpp")
    source = "#include <cstdio>\n" + text.replace(
        ENTRY_LINE, f'{ENTRY_LINE}\nstd::puts("{{}}"); std::fflush(stdout);\n'
    )
    forged.binary(compiled(source, tmp_path, forged.proof["versions"]["isa"]))
    assert verified(forged.write(tmp_path / "entry"))[0] == EQUAL


def first(mugraph: MuGraph, kind: type, **like: Any) -> int:
    """The first node of a kind, with such attributes."""
    return next(
        i
        for i, n in enumerate(mugraph.graph.nodes)
        if isinstance(n, kind) and all(getattr(n, k) == v for k, v in like.items())
    )


def a_constant(m: MuGraph) -> MuGraph:
    i = first(m, Const)
    return with_node(m, i, value=m.graph.nodes[i].value * 1.5)


def a_size(m: MuGraph) -> MuGraph:
    i = first(m, SizeOf)
    node = m.graph.nodes[i]
    assert isinstance(node, SizeOf)
    return with_node(m, i, axis=next(a for a in m.graph.axes if a.size != node.axis.size))


def an_index(m: MuGraph) -> MuGraph:
    """The rows of the weights read where their columns are."""
    i = max(k for k, n in enumerate(m.graph.nodes) if isinstance(n, Input) and len(n.dims) == 2)
    node = m.graph.nodes[i]
    assert isinstance(node, Input)
    return with_node(m, i, strides=node.strides[::-1])


def a_dropped_term(m: MuGraph) -> MuGraph:
    """What reads a sum of two reads the first of them alone."""
    nodes = m.graph.nodes
    i = next(
        k
        for k, n in enumerate(nodes)
        if isinstance(n, Map) and n.op == "add" and nodes[n.operands[0]].axes == n.axes
    )
    node = nodes[i]
    assert isinstance(node, Map)
    for user in m.graph.users()[i]:
        reads = nodes[user]
        assert isinstance(reads, Map)
        others = tuple(node.operands[0] if a == i else a for a in reads.operands)
        m = with_node(m, user, operands=others)
    return m


def a_reduction(m: MuGraph) -> MuGraph:
    return with_node(m, first(m, Reduce, op="add"), op="max")


def a_lost_rescale(m: MuGraph) -> MuGraph:
    kernels = tuple(
        replace(k, carries=tuple(replace(c, factor=1.0) for c in k.carries)) for k in m.kernels
    )
    assert any(k.carries for k in kernels)
    return replace(m, kernels=kernels)


WRONG: list[tuple[str, Callable[[MuGraph], MuGraph]]] = [
    ("several", a_constant),
    ("several", a_size),
    ("several", a_reduction),
    ("normed", a_constant),
    ("normed", a_dropped_term),
    ("gated_mlp", an_index),
    ("rmsnorm_linear_bf16", a_reduction),
    ("causal", a_reduction),
    ("attention", a_lost_rescale),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=[f"{n}-{w.__name__}" for n, w in WRONG])
def test_the_binary_of_another_program_is_different(
    name: str, wrong: Callable[[MuGraph], MuGraph], entry: Callable[[str], Path], tmp_path: Path
) -> None:
    forged = Forgery(entry(name))
    isa = forged.proof["versions"]["isa"]
    source = printed(wrong(forged.mugraph), isa)
    assert source != forged.text("kernel.cpp")
    forged.binary(compiled(source, tmp_path, isa))
    forged.files["kernel.cpp"] = source.encode()
    status, told = verified(forged.write(tmp_path / "entry"))
    assert status == DIFFERENT, told
    where = told["artefacts"][0]["difference"]
    assert where["got"] != where["expected"] and "'" in where["inputs"]
    verdicts = {x["name"]: x["verdict"] for x in told["artefacts"][0]["layers"]}
    assert verdicts["graph"] == verdicts["plan"] == "equal"
    assert verdicts["source"] == "bad artefact" and verdicts["binary"] == "different"


# -- graphs and plans


def edited_constant(text: str) -> str:
    """The text of a graph with its first float literal half as large again."""
    line = next(x for x in text.splitlines() if "= const 0x" in x)
    word = line.split()[3]
    return text.replace(word, float.hex(float.fromhex(word) * 1.5).replace("0000p", "p"), 1)


@pytest.mark.parametrize(
    "which", [("program.txt",), ("mugraph.txt",), ("program.txt", "mugraph.txt")]
)
def test_edited_graphs_with_hashes_that_fit_are_different(
    which: tuple[str, ...], entry: Callable[[str], Path], tmp_path: Path
) -> None:
    forged = Forgery(entry("several"))
    for name in which:
        forged.files[name] = edited_constant(forged.text(name)).encode()
    status, told = verified(forged.write(tmp_path / "entry"))
    assert status == DIFFERENT, told
    verdicts = {x["name"]: x["verdict"] for x in told["artefacts"][0]["layers"]}
    assert verdicts["graph"] == ("equal" if len(which) == 2 else "different")
    assert verdicts["binary"] == ("equal" if which == ("mugraph.txt",) else "different")


def test_swapped_results_are_found(entry: Callable[[str], Path], tmp_path: Path) -> None:
    for n, which in enumerate([("program.txt",), ("mugraph.txt",), ("program.txt", "mugraph.txt")]):
        forged = Forgery(entry("several"))
        for name in which:
            lines = forged.text(name).splitlines()
            k, j = (
                next(i for i, x in enumerate(lines) if x.startswith(f'  return "y{m}"'))
                for m in (1, 2)
            )
            (one, first_), (two, second) = (lines[i].split(" = ") for i in (k, j))
            lines[k], lines[j] = f"{one} = {second}", f"{two} = {first_}"
            forged.files[name] = ("\n".join(lines) + "\n").encode()
        status, told = verified(forged.write(tmp_path / str(n)))
        assert status in (DIFFERENT, BAD), told
        assert status == DIFFERENT or len(which) == 2


def plan_edits(plan: dict[str, Any]) -> dict[str, Callable[[dict[str, Any]], None]]:
    def swap(p: dict[str, Any]) -> None:
        places = [k for k, b in enumerate(p["buffers"]) if b[0] == "output" and b[1] > 0]
        a, b = places
        p["buffers"][a], p["buffers"][b] = p["buffers"][b], p["buffers"][a]

    return {
        "buffers swapped": swap,
        "a buffer dropped": lambda p: p["buffers"].pop(),
        "a buffer twice": lambda p: p["buffers"].append(p["buffers"][0]),
        "no such buffer": lambda p: p["buffers"].__setitem__(0, ["input", 9]),
        "no such kind": lambda p: p["buffers"].__setitem__(0, ["other", 0]),
        "entry": lambda p: p.update(entry="other"),
        "a dtype": lambda p: p["outputs"][1].update(dtype="bf16"),
        "a shape": lambda p: p["outputs"][0]["dims"][0].update(coef=9),
        "an order": lambda p: p["outputs"][0].update(order=[1, 0]),
        "an input": lambda p: p["inputs"].reverse(),
        "a symbol": lambda p: p["symbols"].append(["n", 0, 0, 1, 1, 9]),
        "scratch": lambda p: p["scratch"].append({"coef": 4, "syms": []}),
        "a key": lambda p: p.pop("entry"),
    }


def test_a_plan_that_is_not_the_graphs_is_refused(
    entry: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecking, "check_binary", lambda *_: pytest.fail("it was run"))
    plan = json.loads(Forgery(entry("several")).text("plan.json"))
    edits = plan_edits(plan)
    for n, (name, edit) in enumerate(edits.items()):
        forged = Forgery(entry("several"))
        plan = json.loads(forged.text("plan.json"))
        edit(plan)
        forged.files["plan.json"] = json.dumps(plan, sort_keys=True).encode()
        status, told = verified(forged.write(tmp_path / str(n)))
        assert status == BAD, (name, told)
    assert len(edits) >= 13


def test_a_dispatch_rule_that_is_not_the_programs_is_refused(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    def shifted(d: dict[str, Any]) -> None:  # the border of two buckets moved
        d["buckets"][0]["guard"][0][2] += 1
        d["buckets"][1]["guard"][0][1] += 1

    def exchanged(d: dict[str, Any]) -> None:
        a, b = d["buckets"][:2]
        a["program"], b["program"] = b["program"], a["program"]

    edits: list[Callable[[dict[str, Any]], Any]] = [
        shifted,
        exchanged,
        lambda d: d["buckets"][0].update(program=-1),
        lambda d: d["buckets"][0].update(program=7),
        lambda d: d["buckets"][0].update(slower=not d["buckets"][0]["slower"]),
        lambda d: d["buckets"].pop(),
        lambda d: d["domain"][0].__setitem__(2, 301),
        lambda d: d.pop("domain"),
    ]
    for n, edit in enumerate(edits):
        forged = Forgery(entry("sizes"))
        rule = json.loads(forged.text("dispatch.json"))
        edit(rule)
        forged.files["dispatch.json"] = json.dumps(rule, sort_keys=True).encode()
        status, told = verified(forged.write(tmp_path / str(n)))
        assert status == BAD, (n, told)
    for name in ("dispatch.json", "size-one.json"):
        forged = Forgery(entry("sizes"))
        del forged.files[name]
        assert verified(forged.write(tmp_path / name))[0] == BAD, name


# -- bad input


def refused(forged: Forgery, folder: Path, *words: str, error: str = "") -> None:
    status, told = verified(forged.write(folder))
    reason = told["artefacts"][0]["reason"]
    assert status == BAD, told
    assert all(w in reason for w in words), reason
    assert not error or told["artefacts"][0]["error"] == error, told


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
