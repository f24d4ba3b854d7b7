"""The two field evaluators behind one call: numpy over the graph, and the compiled core over bytecode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from superopt.errors import BadOption, closest
from superopt.mugraph.algebras.chain import Chain
from superopt.mugraph.algebras.field import FieldAlgebra
from superopt.mugraph.algebras.field_values import Draw, Exact, Value, spread
from superopt.mugraph.algebras.levels import Levels
from superopt.mugraph.axes import Axis
from superopt.mugraph.evaluate import evaluate
from superopt.mugraph.graph import Graph


@dataclass(frozen=True, eq=False)
class Cells:
    """An output over all trials: residues or integers, and status, both [trials, *dims' axes]."""

    data: np.ndarray
    status: np.ndarray


class Evaluator(Protocol):
    """What computes the outputs of a graph over a field."""

    name: str

    def outputs(
        self,
        graph: Graph,
        plan: Levels,
        levels: Sequence[int],
        chain: Chain,
        draw: Draw,
        sizes: Mapping[Axis, int],
    ) -> list[Cells]:
        """One Cells per output, at the level (a one-bit mask) given for it."""


class PythonEvaluator:
    """The numpy field algebra under the one evaluator of graphs."""

    name = "python"

    def outputs(
        self,
        graph: Graph,
        plan: Levels,
        levels: Sequence[int],
        chain: Chain,
        draw: Draw,
        sizes: Mapping[Axis, int],
    ) -> list[Cells]:
        env = evaluate(graph, FieldAlgebra(graph, chain, draw, sizes, plan))
        return output_cells(graph, env, levels, len(draw.keys), sizes)


def output_cells(
    graph: Graph,
    env: Mapping[int, Value],
    levels: Sequence[int],
    trials: int,
    sizes: Mapping[Axis, int],
) -> list[Cells]:
    """The outputs of a graph that was evaluated, each at its level (a one-bit mask)."""
    out = []
    for o, level in zip(graph.outputs, levels, strict=True):
        flat = tuple(a for dim in o.dims for a in dim)
        value = spread(env[o.node], graph.nodes[o.node].axes, flat)
        shape = (trials, *(sizes[a] for a in flat))
        data = value.data if isinstance(value, Exact) else value.res[level.bit_length() - 1]
        out.append(Cells(np.broadcast_to(data, shape), np.broadcast_to(value.status, shape)))
    return out


def evaluator(name: str | None = None) -> Evaluator:
    """The evaluator of this name ("python" or "core"); None: the core where it is built."""
    if name not in (None, "python", "core"):
        raise BadOption(
            what=f"no evaluator {name!r}", where="using", fix=closest(str(name), ("python", "core"))
        )
    if name != "python":
        try:
            from superopt.verify.core_evaluator import CoreEvaluator

            return CoreEvaluator()
        except ImportError:
            if name == "core":
                raise
    return PythonEvaluator()
