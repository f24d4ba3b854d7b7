"""The rules of the house: who imports whom, sizes of files, C++ without operator names."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "superopt"
STAGES = {"frontend", "search", "verify", "cost", "codegen", "runtime"}
SHARED = {"_core", "config", "options", "errors", "trace"}
DOORS = {"api", "cli", "torch_backend", "serve"}
FURNITURE = {"bench", "report"}
MOST_LINES = 400
SOURCES = sorted(PACKAGE.rglob("*.py"))


def allowed(place: str) -> set[str]:
    """The parts of superopt that the part ``place`` may import (itself always)."""
    if place in STAGES:
        return {"mugraph"} | SHARED
    if place == "mugraph":
        return SHARED
    if place in DOORS:
        return {"pipeline"} | (SHARED - {"_core"}) | FURNITURE | DOORS
    if place == "pipeline":
        return STAGES | {"mugraph"} | SHARED
    if place == "errors":
        return set()
    if place == "options":
        return {"errors"}
    if place == "config":
        return {"errors", "options"}
    if place == "trace":
        return {"errors", "options", "config"}
    if place == "__init__":
        return DOORS | (SHARED - {"_core"})
    if place in FURNITURE:
        return {"pipeline", "api", "mugraph"} | SHARED | FURNITURE
    return {"cli"} if place == "__main__" else set()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_parts(module: ast.Module, package: tuple[str, ...]) -> set[tuple[str, int]]:
    """The parts of superopt that a module imports, each with its line; relative imports too."""
    found = set()
    for node in ast.walk(module):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [stem] if stem != "superopt" else [f"{stem}.{a.name}" for a in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "superopt" and len(parts) > 1:
                found.add((parts[1], node.lineno))
    return found


def broken_imports(module: ast.Module, place: str, package: tuple[str, ...]) -> list[str]:
    may = allowed(place) | {place}
    return [
        f"line {line}: {place} imports {part}"
        for part, line in sorted(imported_parts(module, package))
        if part not in may and part != "version"
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_design(path):
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    package = ("superopt", *inside[:-1])
    assert broken_imports(tree(path), inside[0], package) == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("search", "from superopt.cost import model"),
        ("search", "from superopt import verify"),
        ("search", "from ..cost import model"),
        ("search", "import superopt.runtime.cache"),
        ("search", "def f():\n    from superopt.pipeline import run"),
        ("api", "from superopt.search import space"),
        ("mugraph", "from superopt.frontend import x"),
        ("bench", "from superopt.cost import x"),
    ],
)
def test_a_broken_import_is_found(place, source):
    assert broken_imports(ast.parse(source), place, ("superopt", place)) != []


def test_every_part_has_a_rule():
    known = STAGES | SHARED | DOORS | FURNITURE | {"mugraph", "pipeline", "__init__", "__main__"}
    # _device holds the installed headers of csrc/device, and no Python.
    parts = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in SOURCES}
    assert parts <= known


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_assert_no_star_no_exit(path):
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert vanishes under -O"
        if isinstance(node, ast.ImportFrom):
            assert all(a.name != "*" for a in node.names), f"line {node.lineno}: star import"
        if isinstance(node, ast.Call) and path.name not in ("cli.py", "__main__.py"):
            name = ast.unparse(node.func)
            assert name not in ("exit", "quit", "sys.exit", "os._exit"), f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_opens_with_one_plain_sentence(path):
    text = ast.get_docstring(tree(path))
    assert text, "a module docstring is missing"
    first = text.split("\n\n")[0]
    assert first.rstrip().endswith("."), first


def code_files() -> list[Path]:
    places = [PACKAGE, ROOT / "csrc", ROOT / "tests", ROOT / "tools", ROOT / "examples"]
    suffixes = {".py", ".cpp", ".h", ".cuh", ".cu", ".hpp", ".j2"}
    return sorted(p for d in places for p in d.rglob("*") if p.suffix in suffixes)


@pytest.mark.parametrize("path", code_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{lines} lines; split it"


# Words that would betray an operator in C++; add, mul and max are the structure of fast paths.
OPERATORS = re.compile(
    r"\b(silu|swish|gelu\w*|sigmoid|softmax|tanh|relu|rms_?norm|layer_?norm|attention|rsqrt|"
    r"matmul|linear|lora|embedding|rope|rotary)\b",
    re.IGNORECASE,
)


def operator_names(text: str) -> list[str]:
    return [m[0] for line in text.splitlines() for m in OPERATORS.finditer(line)]


def test_cpp_knows_no_operator_by_name():
    sources = sorted((ROOT / "csrc" / "core").glob("*"))
    assert sources
    # Two are also words of mathematics, and are looked for in string literals only.
    for path in sources:
        text = path.read_text(encoding="utf-8")
        code = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
        found = [n for n in operator_names(code) if n.lower() not in ("linear", "embedding")]
        found += [n for literal in re.findall(r'"[^"\n]*"', code) for n in operator_names(literal)]
        assert not found, f"{path.name} names {sorted(set(found))}"


def test_an_operator_name_in_cpp_is_found():
    assert operator_names('case Op::SILU: return "softmax";') == ["SILU", "softmax"]


def test_environment_variables_are_listed_once():
    from superopt.config import Config

    known = {s.env for s in Config.settings()}
    for path in SOURCES:
        names = set(re.findall(r"\bSUPEROPT_[A-Z_]+\b", path.read_text(encoding="utf-8")))
        assert names <= known, f"{path.name} reads {names - known}, which config.py does not list"
