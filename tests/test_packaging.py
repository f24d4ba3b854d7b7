"""What importing superopt costs, and that the package's parts agree with one another."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "z3",
    "rich",
    "typer",
    "matplotlib",
    "transformers",
    "triton",
    "networkx",
    "jinja2",
    "sqlite3",
    "filelock",
    "onnxruntime",
)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules_after(statement: str) -> set[str]:
    """The modules that a new process holds after ``statement`` and did not hold after torch."""
    code = (
        "import sys, torch\nbefore = set(sys.modules)\n"
        f"{statement}\nprint(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import superopt", "from superopt import superoptimize"])
def test_import_loads_nothing_heavy(statement):
    if "superoptimize" in statement and not (ROOT / "superopt" / "api.py").exists():
        pytest.skip("the decorator is not there yet")
    new = modules_after(statement)
    assert "superopt" in new
    assert not {m for m in new if m.split(".")[0] in HEAVY}
    # A bound on their number stands for the time, which a loaded machine would blur.
    assert len({m for m in new if not m.startswith("superopt")}) < 150


def test_import_needs_no_gpu_package():
    code = (
        "import sys\n"
        "for name in ('triton', 'cuda', 'transformers', 'ray', 'onnxruntime', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import superopt, superopt.config, superopt.runtime.cache, superopt.runtime.build"
    )
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=ROOT)


def test_the_extension_is_built():
    import superopt._core

    assert superopt._core.__doc__


def test_every_requirement_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    assert pins["torch"] == "2.13.0"
    assert not [v for v in pins.values() if "+" in v], "a local label shuts out other builds"
    extras = project()["project"]["optional-dependencies"]
    wanted = project()["project"]["dependencies"] + extras["test"] + extras["demo"]
    wanted += project()["build-system"]["requires"]
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0]
        assert name.lower().replace("_", "-") in pins, f"{name} has no pin"


def test_the_extras_are_there():
    extras = project()["project"]["optional-dependencies"]
    assert set(extras) == {"test", "demo", "triton", "cuda", "serve", "peers", "ray"}
    assert extras["triton"] == ["triton>=3.6,<3.10"]


def test_no_machine_dependent_flags_in_the_build():
    text = re.sub(r"#.*", "", (ROOT / "CMakeLists.txt").read_text())
    assert "native" not in text
    assert "-Werror" in text


def test_the_repository_is_complete():
    for name in ("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "superopt/py.typed"):
        assert (ROOT / name).stat().st_size >= (0 if name.endswith("typed") else 100), name
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "Apache License" in (ROOT / "LICENSE").read_text()
