"""The command line: explain, verify, bench, cache, doctor and version."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from superopt import trace
from superopt.errors import BadOption, SuperoptError, closest
from superopt.report.commands import USAGE, Commands, print_json

app = typer.Typer(
    cls=Commands,
    help="Finds, proves and runs faster kernels for PyTorch programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@contextlib.contextmanager
def _told(json_: bool = False, status: int = 2) -> Iterator[None]:
    """A user's mistake ends in one line on stderr and a status, not in a traceback.

    The details (a compiler's output) are in the log file that the line names. With ``json_``, stdout
    then holds ``{"status": "failed", "reason": ...}`` and, if there are any, ``"details"``.
    """
    try:
        yield
    except SuperoptError as error:
        reason = " ".join(str(error).split())
        told = {"status": "failed", "reason": reason}
        if error.details:
            told["details"] = error.details
            log = trace.write_details("cli", error.report())
            reason += f" (details: {log})" if log else ""
        typer.echo(f"superopt: {reason}", err=True)
        if json_:
            print_json(told)
        raise typer.Exit(status) from None
    except KeyboardInterrupt:
        typer.echo("superopt: stopped", err=True)
        raise typer.Exit(130) from None


@app.command()
def explain(
    where: Annotated[str, typer.Argument(metavar="MOD.py:FN", help="The function to optimize.")],
    inputs: Annotated[
        str, typer.Option("--inputs", help="Its tensors, such as 'f32[8,4096],bf16[3]'.")
    ],
    target: Annotated[
        str | None, typer.Option(help="cpu[:isa], cuda:sm_NN or triton:sm_NN.")
    ] = None,
    budget: Annotated[
        str, typer.Option(help="What the search may spend: 30s, or 100c (term graphs cut).")
    ] = "30s",
    precision: Annotated[str, typer.Option(help="default or eager.")] = "default",
    seed: Annotated[int, typer.Option(help="Seed of the inputs and of the search.")] = 0,
    memory: Annotated[str | None, typer.Option(help="What the search may hold: 800M, 4G.")] = None,
    workers: Annotated[
        str | None, typer.Option(help="Who searches: processes, ray or ray:ADDRESS.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="File to go on from, and to keep the search in.")
    ] = None,
    why: Annotated[
        bool, typer.Option("--why", help="List the best rejected alternatives, and why.")
    ] = False,
    json_: Json = False,
) -> None:
    """Optimize a function for these inputs, and show the graph, the certificate and the times."""
    with _told(json_):
        from superopt.bench.inputs import make_inputs
        from superopt.bench.load import load_function
        from superopt.config import Options

        options = Options.of(
            target=target,
            budget=budget,
            precision=precision,
            seed=seed,
            memory=memory,
            workers=workers,
            checkpoint=checkpoint,
        )
        args = make_inputs(inputs, seed)
        fn = load_function(where)
        import torch

        from superopt import api, pipeline, report

        # An already decorated function keeps its body, and takes the options given here.
        optimized = api.Optimized(fn.fn if isinstance(fn, api.Optimized) else fn, options)
        with torch.no_grad():  # kernels are for inference, and a module's weights want gradients
            try:
                result = _result(optimized, args)
            except SuperoptError as error:
                if why and not json_ and (found := pipeline.why_of(error)) is not None:
                    typer.echo(report.why_nothing(found))
                raise
        if json_:
            print_json(report.as_json(result))
        else:
            typer.echo(report.explain(result))
            if why:
                typer.echo("\n" + report.why(result))


def _result(optimized: Any, args: Sequence[Any]) -> Any:
    from superopt.bench.load import unfit

    try:
        return optimized.result(*args)
    except SuperoptError:
        raise
    except Exception as error:
        raise unfit(error) from error


@app.command()
def verify(
    what: Annotated[
        str,
        typer.Argument(
            metavar="PATH | MOD.py:F",
            help="A cache entry, its certificate, or a folder of them; or a function.",
        ),
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="[MOD.py:G]", help="Another function, with --inputs.")
    ] = None,
    inputs: Annotated[
        str | None, typer.Option("--inputs", help="Their tensors, such as 'f32[8,4096],i64[3]'.")
    ] = None,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Functions: take for equal where cases were sampled.")
    ] = False,
    precision: Annotated[str, typer.Option(help="Functions: default or eager.")] = "default",
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**62, help="Seed of what is drawn; fresh by default.")
    ] = None,
    sanitize: Annotated[
        bool, typer.Option("--sanitize", help="Kernels: also under AddressSanitizer, from source.")
    ] = False,
    json_: Json = False,
) -> None:
    """Check kernels again from their files alone, and run them; or whether two functions are equal.

    Status: 0 equal, 1 different, 2 undecided, 3 bad artefact, 64 usage.
    """
    with _told(json_, USAGE):
        from superopt.report.verify import STATUS, as_json, lines, two_functions, words

        words(what, other is not None or inputs is not None, sampled, sanitize)
        if other is not None or inputs is not None:
            claim = two_functions(what, other, inputs, sampled, precision, seed)
            typer.echo(claim.to_json() if json_ else str(claim))
            raise typer.Exit(STATUS[claim.verdict])
        from superopt.pipeline import rechecking

        found = []
        for entry in rechecking.entries_at(Path(what)):
            found.append(rechecking.recheck(entry, seed, sanitize=sanitize))
            if not json_:
                typer.echo("\n".join(lines(found[-1])))
        verdict = rechecking.gravest(r.verdict for r in found)
        if json_:
            print_json({"verdict": verdict, "artefacts": [as_json(r) for r in found]})
        elif len(found) > 1:
            typer.echo(f"all {len(found)}: {verdict}")
    raise typer.Exit(STATUS[verdict])


@app.command()
def bench(
    suite: Annotated[
        str,
        typer.Option(help="cpu, mirage, models, general, all, a model, search, verify, launch."),
    ] = "mirage",
    peers: Annotated[
        str | None, typer.Option(help="Peers, with commas: eager,inductor (cpu: all).")
    ] = None,
    dtypes: Annotated[
        str | None, typer.Option(help="Dtypes, with commas: f32,bf16 (search: bf16).")
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", help="File for the results ('-' or none: print them).")
    ] = None,
    only: Annotated[str, typer.Option(help="Workloads, with commas; * matches.")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every callable.")] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Timed seconds of one case: 2, cpu 6 (search: limit of a region: 60)."
        ),
    ] = None,
    max_block_ops: Annotated[
        int | None, typer.Option(min=1, help="Search: most compute nodes in one kernel.")
    ] = None,
    states: Annotated[
        int, typer.Option(min=1, help="Search: terms after which a region is stopped.")
    ] = 2_000_000,
    share: Annotated[
        float | None, typer.Option(help="Verify: part of the counts that is tried, such as 0.05.")
    ] = None,
    warm: Annotated[bool, typer.Option("--warm", help="Keep the data caches warm.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what the file holds.")] = False,
    budget: Annotated[str, typer.Option(help="What each search may spend.")] = "30s",
    fallbacks: Annotated[str, typer.Option(help="What may win instead of kernels.")] = "eager",
    ours: Annotated[bool, typer.Option("--ours/--no-ours", help="Measure superopt too.")] = True,
    lock: Annotated[
        Path | None, typer.Option(help="Cpu: file to lock, at high priority, while timing.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List suites and peers, and end.")] = False,
) -> None:
    """Measure workloads beside other systems, each output checked against float64."""
    to_stdout = json_ is not None and str(json_) == "-"
    with _told(to_stdout):
        if list_:
            from superopt.bench.listing import listed

            for line in listed(json_):
                typer.echo(line)
            return
        from superopt.bench.command import Wishes, run

        wishes = Wishes(
            suite=suite,
            peers=None if peers is None else _words(peers, "--peers"),
            dtypes=None if dtypes is None else _words(dtypes, "--dtypes", True),
            json_path=None if to_stdout else json_,
            only=_words(only, "--only"),
            threads=threads,
            seconds=seconds,
            max_block_ops=max_block_ops,
            states=states,
            share=share,
            warm=warm,
            resume=resume,
            budget=budget,
            fallbacks=_words(fallbacks, "--fallbacks"),
            ours=ours,
            lock=lock,
        )
        document, show, alright = run(wishes, _say)
        if to_stdout:
            print_json(document)
        else:
            show(document)
    if not alright:
        raise typer.Exit(1)


_begun = time.monotonic()


def _say(done: int, total: int, label: str) -> None:
    typer.echo(f"[{done}/{total}] {time.monotonic() - _begun:6.0f} s  {label}", err=True)


def _words(text: str, option: str, needed: bool = False) -> list[str]:
    words = [w.strip() for w in text.split(",") if w.strip()]
    if not words and (text or needed):
        raise BadOption(f"{text!r} names nothing", f"option {option}", "give words with commas")
    return words


@app.command()
def cache(
    action: Annotated[str, typer.Argument(help="stats, list or clear.")] = "stats",
    json_: Json = False,
) -> None:
    """Show or empty the cache of kernels."""
    with _told(json_):
        from superopt.report.cache import ACTIONS

        if action not in ACTIONS:
            raise BadOption(f"no action {action!r}", "superopt cache", closest(action, ACTIONS))
        from superopt import pipeline

        value, lines = ACTIONS[action](pipeline.cache())
        if json_:
            print_json(value)
        else:
            for line in lines:
                typer.echo(line)


@app.command()
def doctor(json_: Json = False) -> None:
    """Say what of the machine superopt can use, what is missing, and how to get it."""
    with _told(json_):
        from superopt import pipeline
        from superopt.config import Config
        from superopt.report.doctor import doctor_lines, doctor_table

        findings = pipeline.doctor()
        if json_:
            print_json(findings)
        elif sys.stdout.isatty():
            from rich.console import Console

            Console().print(doctor_table(findings))
        else:
            for line in doctor_lines(findings):
                typer.echo(line)
        if not json_:
            typer.echo("settings of the environment:")
            for s in Config.settings():
                typer.echo(f"  {s.env:26} {s.doc}")
    # A status for scripts: a compiler is the one thing that nothing works without.
    if any(f["name"] == "compiler" and f["status"] != "ok" for f in findings):
        raise typer.Exit(1)


@app.command()
def version(json_: Json = False) -> None:
    """Print the version."""
    from superopt.config import version as ours

    if json_:
        print_json({"version": ours()})
    else:
        typer.echo(ours())


def _version_asked(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def _superopt(
    version_: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_version_asked, is_eager=True
        ),
    ] = False,
) -> None:
    """Finds, proves and runs faster kernels for PyTorch programs."""


def main() -> None:
    """The entry point of the ``superopt`` command."""
    app()


if __name__ == "__main__":
    main()
