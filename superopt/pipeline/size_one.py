"""What was captured at size 1 beside a program with symbolic sizes, kept with its kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from superopt.errors import CacheCorrupt
from superopt.mugraph.graph import Graph
from superopt.mugraph.resize import symbols, with_symbols
from superopt.mugraph.text import parse_graph, print_graph
from superopt.mugraph.without import at_one
from superopt.verify.equivalence import Equivalence


@dataclass(frozen=True)
class SizeOne:
    """The function captured where some symbols are 1, and how it was shown to be the program there.

    inputs: each input of ``static``, and the program's input that it is; check: None of what was
    read from a file.
    """

    symbols: tuple[str, ...]
    static: Graph
    inputs: Mapping[str, str]
    check: Equivalence | None = None

    def pair(self, program: Graph) -> tuple[Graph, Graph] | None:
        """The two graphs whose equality is the claim; None where they cannot be compared.

        The other symbols are in the ranges of the capture.
        """
        captured = {s.name: s for s in symbols(self.static)}
        return at_one(with_symbols(program, captured), self.symbols, self.static, self.inputs)


def dumps(shown: Sequence[SizeOne]) -> str:
    """These as JSON text."""
    rows = [
        {"symbols": list(s.symbols), "inputs": dict(s.inputs), "graph": print_graph(s.static)}
        for s in shown
    ]
    return json.dumps(rows, indent=1, sort_keys=True) + "\n"


def loads(text: str, where: str) -> list[SizeOne]:
    """Reads what ``dumps`` wrote; CacheCorrupt, ParseError or IllFormedGraph on anything else."""
    try:
        rows = [(r["symbols"], r["graph"], r["inputs"]) for r in json.loads(text)]
        return [
            SizeOne(
                tuple(str(name) for name in names),
                parse_graph(graph),
                {str(k): str(v) for k, v in inputs.items()},
            )
            for names, graph, inputs in rows
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CacheCorrupt(
            f"what was captured at size 1 cannot be read ({error})", where, "build it again"
        ) from None
