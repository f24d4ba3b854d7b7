"""The search for one piece as the pipeline runs it: its workers, its checkpoint, its progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from superopt import trace
from superopt.codegen.lower import why_not_lowerable
from superopt.cost.devices import Device
from superopt.cost.model import cost_on
from superopt.mugraph.graph import Graph
from superopt.runtime.site import Site
from superopt.search import driver
from superopt.search.checkpoint import Checkpoint
from superopt.search.points import points
from superopt.search.workers import Serial, workers


@contextlib.contextmanager
def crew(site: Site, graph: Graph) -> Iterator[Serial]:
    """The workers that the options, or else the settings, ask for, to search a program."""
    asked = site.options.workers or site.config.workers or str(site.config.job_count)
    count = int(asked) if asked.isdecimal() else site.config.job_count
    with workers(asked, count) as found:
        found.expect(len(graph.nodes))
        yield found


def search(graph: Graph, of: Graph, site: Site, device: Device, who: Serial) -> driver.Found:
    """Searches for kernels of a piece, going on from what an interrupted search has left.

    graph: the program to search; of: the program of the piece, by which its checkpoint is known.
    """
    options = site.options
    budget = driver.Budget(options.budget.seconds, options.budget.candidates)
    path, identity = site.checkpoint(of)
    checkpoint = Checkpoint(path, identity, named=options.checkpoint is not None)
    if checkpoint.resumed:
        trace.log("search", f"going on from {path}: {checkpoint.resumed} pieces of work are done")

    def told(stage: str, done: dict[str, float]) -> None:
        trace.report(stage, done["graphs"], budget.candidates, figures(done))

    try:
        return driver.search(
            graph,
            cost_on(device),
            budget,
            seed=options.seed,
            lowerable=why_not_lowerable,
            progress=told,
            workers=who,
            checkpoint=checkpoint,
            memory=site.memory,
            points=points(graph),
        )
    finally:
        checkpoint.close()
        who.rest()


def figures(done: dict[str, float]) -> str:
    """How far a search is, in words: states, classes, term graphs, best cost so far."""
    text = (
        f"{done['states']:,.0f} states, {done['classes']:,.0f} classes, {done['graphs']:.0f} graphs"
    )
    best = done["best"]
    return text + (f", best {best * 1e6:,.1f} us" if best < float("inf") else "")
