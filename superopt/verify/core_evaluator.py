"""The compiled field evaluator: graphs become flat programs that superopt._core runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from superopt._core import field_run
from superopt.config import usable_cores
from superopt.mugraph.algebras.chain import Chain, generators
from superopt.mugraph.algebras.field_values import Draw
from superopt.mugraph.algebras.levels import Levels
from superopt.mugraph.axes import Axis
from superopt.mugraph.flatten import compile_graph
from superopt.mugraph.graph import Graph
from superopt.verify.evaluators import Cells


class CoreEvaluator:
    """Runs graphs in C++ on all usable cores; agrees bit for bit with ``PythonEvaluator``."""

    name = "core"

    def outputs(
        self,
        graph: Graph,
        plan: Levels,
        levels: Sequence[int],
        chain: Chain,
        draw: Draw,
        sizes: Mapping[Axis, int],
    ) -> list[Cells]:
        """See ``Evaluator.outputs``."""
        program = compile_graph(graph, plan, levels, chain, sizes, draw.ranges, draw.literals)
        omega = generators(chain, draw.keys)
        found = field_run(
            program.code,
            program.pool,
            list(chain.primes),
            draw.keys,
            draw.pooled.astype(np.uint8),
            omega,
            usable_cores(),
        )
        out = []
        for o, real, (data, status) in zip(graph.outputs, program.outputs, found, strict=True):
            shape = (len(draw.keys), *(sizes[a] for dim in o.dims for a in dim))
            data = data if real else data.view(np.int64)
            out.append(Cells(data.reshape(shape), status.reshape(shape)))
        return out
