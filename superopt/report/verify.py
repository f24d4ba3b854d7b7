"""What ``superopt verify`` tells of an artefact, as lines and as plain data, and its status."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from superopt.errors import BadOption, SuperoptError

STATUS = {"equal": 0, "different": 1, "undecided": 2, "bad artefact": 3}
"""The exit status of each verdict."""


def lines(found: Any) -> list[str]:
    """A ``Recheck`` as text: a line for each layer, the seeds, then the verdict."""
    out = [f"artefact {found.path}"]
    for layer in found.layers:
        mark = "" if layer.status == "equal" else f"{layer.status.upper()}: "
        out.append(f"  {layer.name:12} {mark}{layer.text}")
    if found.seeds:
        out.append(f"  {'seeds':12} {_seeds(found.seeds)}")
    return [*out, f"  {'verdict':12} {found.verdict}"]


def _seeds(seeds: dict[str, list[int]]) -> str:
    return "; ".join(f"{what} {', '.join(map(str, drawn))}" for what, drawn in seeds.items())


def as_json(found: Any) -> dict[str, Any]:
    """The same as plain data."""
    difference = None
    if found.difference is not None:
        difference = {
            k: str(v) if isinstance(v, float) and not abs(v) < float("inf") else v
            for k, v in asdict(found.difference).items()
        }
    return {
        "path": str(found.path),
        "verdict": found.verdict,
        "status": STATUS[found.verdict],
        "reason": found.reason,
        "error": found.error,
        "layers": [{"name": x.name, "verdict": x.status, "text": x.text} for x in found.layers],
        "seeds": dict(found.seeds),
        "difference": difference,
    }


def words(what: str, functions: bool, sampled: bool, sanitize: bool) -> None:
    """Raises BadOption for options of the other kind of check, and for a function that is alone."""
    if functions and sanitize:
        raise BadOption("--sanitize is of kernels", "superopt verify", "give a PATH alone")
    if not functions and sampled:
        raise BadOption("--sampled is of functions", "superopt verify", "leave it out")
    if not functions and ".py:" in what and not Path(what).exists():
        fix = "give a second one and --inputs, or the PATH of an artefact"
        raise BadOption(f"{what} is a function, and alone", "superopt verify", fix)


def two_functions(
    first: str,
    second: str | None,
    inputs: str | None,
    sampled: bool,
    precision: str,
    seed: int | None,
) -> Any:
    """The certificate of two functions that the command line names."""
    if second is None or inputs is None:
        missing = "a second function" if second is None else "its inputs"
        raise BadOption(
            f"{first!r} is given without {missing}",
            "superopt verify",
            "write: superopt verify a.py:f b.py:g --inputs 'f32[8,64]'",
        )
    from superopt import api
    from superopt.bench.inputs import make_inputs
    from superopt.bench.load import load_function, unfit

    args = make_inputs(inputs, seed or 0)
    functions = [load_function(name) for name in (first, second)]
    try:
        return api.equivalent(*functions, *args, seed=seed, precision=precision, sampled=sampled)
    except SuperoptError:
        raise
    except Exception as error:
        raise unfit(error) from error
