"""``superopt verify``: a wrong binary, graph or plan is found when every hash fits it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from superopt.config import Config
from superopt.mugraph.graph import Const, Input, Map, Reduce, SizeOf
from superopt.mugraph.placement import MuGraph
from superopt.pipeline import rechecking
from superopt.pipeline.rechecking import recheck
from superopt.runtime.build import find_compiler
from superopt.runtime.sanitizer import library_of
from tests.api.artefacts import (
    BAD,
    DIFFERENT,
    EQUAL,
    Forgery,
    compiled,
    genuine,
    printed,
    verified,
    with_node,
)

SHARED_CACHE = True


@pytest.fixture
def entry(kernels_folder: Path) -> Callable[[str], Path]:
    """The folder of a case's entry."""
    return lambda name: genuine(name, kernels_folder)


ENTRY_LINE = 'extern "C" int superopt_entry(void** bufs, const int64_t* ints) {'
TAMPERED: dict[str, tuple[str, str]] = {
    "crashes": ("*(volatile int*)8 = 1;", "SIGSEGV"),
    "hangs": ('for (;;) asm volatile("");', "did not answer"),
    "ends the process": ("_exit(0);", "status 0"),
    "computes nothing": ("return 0;", "NaN"),
    "fails": ("return 5;", "status 5"),
    "claims a stale copy": ("return 4;", "out of date"),
    "claims an index": ("return 2;", "index outside"),
    "reads beyond an input": ("(void)((volatile float*)bufs[0])[8 * 64];", "SIGSEGV"),
    "reads before an input": ("(void)((volatile float*)bufs[0])[-1];", "SIGSEGV"),
    "writes to an input": ("((float*)bufs[0])[0] += 1.0f;", "wrote to an input"),
    "changes the last element": (
        "struct S { void** b; ~S() { ((float*)b[3])[8 * 48 - 1] *= 1.01f; } } s{bufs};",
        "output 0 at (7, 47)",
    ),
}


def injected(forged: Forgery, line: str, head: str) -> str:
    """The source of an artefact with one more line at the start of its entry, and one before all."""
    text = forged.text("kernel.cpp")
    assert ENTRY_LINE in text
    return f"{head}\n{text}".replace(ENTRY_LINE, f"{ENTRY_LINE}\n{line}\n")


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_binary_is_different(
    name: str, entry: Callable[[str], Path], tmp_path: Path
) -> None:
    line, told = TAMPERED[name]
    forged = Forgery(entry("rmsnorm_linear"))
    source = injected(forged, line, 'extern "C" void _exit(int);')
    isa = forged.proof["versions"]["isa"]
    forged.binary(compiled(source, tmp_path, isa))
    if list(TAMPERED).index(name) % 2:  # beside its own source, or beside that which it claims
        forged.files["kernel.cpp"] = source.encode()
    found = recheck(forged.write(tmp_path / "entry"), limit_s=6.0 if name == "hangs" else 60.0)
    assert found.verdict == "different", found
    assert told in found.reason
    if name == "reads before an input":  # seen where inputs begin at a page: in every other run
        assert "on inputs of class 'normal'" in found.reason
    elif name not in ("computes nothing", "claims an index", "changes the last element"):
        assert "on inputs of class 'given'" in found.reason  # the first; a hang is not tried again


STRAYS = {
    "writes beside an array": (
        "volatile float s[4]; volatile int k = 4; s[k] = 1;",
        "stack-buffer",
    ),
    "reads beside an array": (
        "volatile char s[9] = {}; volatile int k = 9; (void)s[k];",
        "stack-buffer",
    ),
    "reads what was freed": (
        "volatile char* p = (char*)malloc(64); free((void*)p); (void)p[8];",
        "heap-use-after-free",
    ),
}


@pytest.fixture
def sanitizer() -> None:
    """Skips where the compiler has no AddressSanitizer."""
    config = Config.from_env()
    if library_of(find_compiler(config), config) is None:
        pytest.skip("no AddressSanitizer to load")


@pytest.mark.usefixtures("sanitizer")
@pytest.mark.parametrize("name", STRAYS)
def test_a_source_that_strays_is_found_by_the_sanitizer(
    name: str, entry: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its results are right, and the binary beside it passes."""
    line, told = STRAYS[name]
    forged = Forgery(entry("rmsnorm_linear"))
    source = injected(forged, line, "#include <cstdlib>")
    forged.files["kernel.cpp"] = source.encode()
    found = recheck(forged.write(tmp_path / "entry"), sanitize=True)
    layers = {x.name: x for x in found.layers}
    assert layers["binary"].status == "equal"
    assert layers["sanitizer"].status == "different"
    assert "AddressSanitizer" in layers["sanitizer"].text and told in layers["sanitizer"].text


@pytest.mark.usefixtures("sanitizer")
def test_the_sanitizer_passes_what_is_right(entry: Callable[[str], Path]) -> None:
    found = recheck(entry("rmsnorm_linear"), sanitize=True)
    assert found.verdict == "equal", found
    assert [x.text[:2] for x in found.layers if x.name == "sanitizer"] == ["19"]


def test_a_compiler_without_a_sanitizer_is_undecided(
    entry: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superopt.pipeline.rechecking.binary.library_of", lambda *_: None)
    found = recheck(entry("rmsnorm_linear"), sanitize=True)
    assert found.verdict == "undecided" and "no AddressSanitizer" in found.reason


def test_a_binary_that_only_prints_is_still_equal(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    forged = Forgery(entry("rmsnorm_linear"))
    source = injected(forged, 'std::puts("{}"); std::fflush(stdout);', "#include <cstdio>")
    forged.binary(compiled(source, tmp_path, forged.proof["versions"]["isa"]))
    assert verified(forged.write(tmp_path / "entry"))[0] == EQUAL


def test_a_binary_that_finds_no_memory_is_undecided(
    entry: Callable[[str], Path], tmp_path: Path
) -> None:
    forged = Forgery(entry("rmsnorm_linear"))
    source = forged.text("kernel.cpp").replace(ENTRY_LINE, f"{ENTRY_LINE}\nreturn 1;\n")
    forged.binary(compiled(source, tmp_path, forged.proof["versions"]["isa"]))
    found = recheck(forged.write(tmp_path / "entry"))
    assert found.verdict == "undecided" and "no memory" in found.reason, found


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
