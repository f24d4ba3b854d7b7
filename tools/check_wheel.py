"""Installs the newest wheel beside this environment's packages and imports it from there."""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# Folders that a build or a run makes; no archive may carry them.
MADE = {"build", "dist", "node_modules"}

CHECK = """
import sys, pathlib, superopt, superopt._core
here = pathlib.Path(superopt.__file__).resolve()
assert here.is_relative_to(sys.argv[1]), f"imported from {here}"
assert pathlib.Path(superopt._core.__file__).resolve().is_relative_to(sys.argv[1])
assert (here.parent / "py.typed").exists(), "py.typed is missing"
from superopt.runtime import build, cache
print("wheel imports:", here)
"""


def main(folder: Path) -> int:
    """Try the newest wheel of ``folder``; the exit status says whether it imports."""
    wheel = max(folder.glob("*.whl"), key=lambda p: p.stat().st_mtime)
    sdist = max(folder.glob("*.tar.gz"), key=lambda p: p.stat().st_mtime)
    with tarfile.open(sdist) as archive:
        places = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    if stray := {p for p in places if p.startswith(".") and p != ".gitignore"} | places & MADE:
        print(f"{sdist.name} holds {sorted(stray)}", file=sys.stderr)
        return 1
    print(f"{wheel.name} {wheel.stat().st_size} bytes, {sdist.name} {sdist.stat().st_size} bytes")
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place]
        subprocess.run([*pip, str(wheel)], check=True)
        # -S leaves out site's .pth files, and with them the editable install; the dependencies
        # come back through the path.
        path = os.pathsep.join([place, *(p for p in sys.path if p.endswith("site-packages"))])
        return subprocess.run(
            [sys.executable, "-S", "-c", CHECK, str(Path(place).resolve())],
            env={**os.environ, "PYTHONPATH": path},
            cwd=place,
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
