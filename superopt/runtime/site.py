"""Where kernels are made and kept: options, configuration, compiler and cache, with their keys."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt import trace
from superopt.config import Config, Options
from superopt.errors import CacheCorrupt, CompilerMissing
from superopt.mugraph.canonical import graph_hash
from superopt.mugraph.dispatch import Dispatch
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.text import parse_mugraph
from superopt.runtime.bucketed import Bucketed
from superopt.runtime.build import Compiler, find_compiler, toolchain_fingerprint
from superopt.runtime.cache import CHECKPOINTS, Cache, Entry, code_fingerprint, key
from superopt.runtime.isa import cpu_features
from superopt.runtime.kernels import Kernels
from superopt.runtime.keys import repeats
from superopt.runtime.plan import Plan

POLICY = 16
"""Raised whenever what a kernel is checked for, before it is kept, changes."""

Make = Callable[[Path], tuple[dict[str, bytes], dict[str, Any]]]


@dataclass(frozen=True)
class Built:
    """The kernels of one piece of a program, loaded from their cache entry.

    kernels: one program, or the several of a piece with symbolic sizes; texts: its graphs and its
    certificate as they were then; the entry itself may be evicted.
    """

    key: str
    kernels: Kernels | Bucketed
    entry: Entry
    warm: bool
    texts: Mapping[str, bytes]

    @property
    def meta(self) -> Mapping[str, Any]:
        """What was measured and counted when they were made."""
        return self.entry.meta

    @property
    def mugraph(self) -> MuGraph:
        """The placed graph; of several, the first."""
        return self.mugraphs[0]

    @property
    def mugraphs(self) -> tuple[MuGraph, ...]:
        """The placed graph of each program."""
        count = len(self.meta["libraries"])
        texts = (self.texts[numbered("mugraph.txt", n)] for n in range(count))
        return tuple(parse_mugraph(t.decode()) for t in texts)

    @property
    def rule(self) -> Dispatch | None:
        """Which sizes each program serves; None where there is one program for all."""
        return self.kernels.rule if isinstance(self.kernels, Bucketed) else None

    @property
    def certificate(self) -> dict[str, Any]:
        """The certificate."""
        return dict(json.loads(self.texts["certificate.json"]))


@dataclass(frozen=True)
class Site:
    """Where kernels are made and kept: options, configuration, compiler, cache."""

    options: Options
    config: Config
    cache: Cache
    compiler: Compiler | None

    @staticmethod
    def of(options: Options, config: Config) -> Site:
        """The site that options and configuration ask for; a missing compiler is met later."""
        try:
            compiler = find_compiler(config)
        except CompilerMissing:
            compiler = None
        return Site(options, config, Cache.open(config), compiler)

    def surroundings(self) -> dict[str, Any]:
        """What decides, beside the program, which kernel is right or best."""
        arch = self.options.target.arch if self.options.target is not None else "native"
        return {
            "options": self.options.key(),
            "device": sorted(cpu_features()),
            "threads": self.config.threads or torch.get_num_threads(),
            "memory": self.memory,
            "tile_memory": self.config.tile_memory,
            "toolchain": toolchain_fingerprint(self.compiler, arch),
            "flags": list(self.config.cxxflags),
            "torch": str(torch.__version__),
            "policy": POLICY,
            "code": code_fingerprint(),
        }

    @property
    def memory(self) -> int:
        """Bytes that a search may hold."""
        return self.options.memory or self.config.memory

    def checkpoint(self, graph: Graph) -> tuple[Path | None, dict[str, Any]]:
        """The file that holds the unfinished search for a program's kernels, and what it is of.

        Seconds do not tell searches apart: one that is given more goes on from what it had.
        """
        around = self.surroundings()
        candidates = self.options.budget.candidates
        around["options"] = {**around["options"], "budget": candidates}
        of = {"program": graph_hash(graph), **around}
        if self.options.checkpoint is not None:
            return Path(self.options.checkpoint), of
        if self.config.disable_cache:
            return None, of
        return self.config.cache_path / CHECKPOINTS / f"{key(of)}.jsonl", of

    def kernels(self, piece: Any, make: Make) -> Built:
        """The kernels of one piece, from the cache or made now: ``make(folder)`` gives files and facts."""
        around = self.surroundings()
        entry_key = (
            piece.key if isinstance(piece, Recalled) else key_of(graph_hash(piece.graph), around)
        )
        with self.cache.lock(entry_key):
            entry = self.cache.get(entry_key)
            warm = entry is not None
            if entry is None:
                if isinstance(piece, Recalled):
                    raise CacheCorrupt("a kernel is no longer in the cache", entry_key[:12])
                with tempfile.TemporaryDirectory(prefix="superopt-") as folder:
                    files, meta = make(Path(folder))
                entry = self.cache.put(entry_key, files, {**meta, "surroundings": around})
                if (checkpoint := self.checkpoint(piece.graph)[0]) is not None:
                    with contextlib.suppress(OSError):  # a folder that cannot be written has none
                        checkpoint.unlink()
            with trace.stage("load"):
                texts = [n for n in entry.sizes if n.startswith(("mugraph", "certificate"))]
                return Built(
                    entry_key,
                    _load(entry, self.config.threads, self.config.pack_memory),
                    entry,
                    warm,
                    {name: entry.read(name) for name in texts},
                )

    def shortcut(
        self, program: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | None:
        """The key under which a later process finds a program of this identity, if it may."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if program is None or self.options.dynamic:
            return None
        shapes: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor):
                shapes.append([str(leaf.dtype), list(leaf.shape), list(leaf.stride())])
            elif isinstance(leaf, bool | int | float | str | None):
                shapes.append(leaf)
            else:
                return None
        return key(
            {
                "program": program,
                "arguments": shapes,
                "structure": str(spec),
                "repeats": repeats(leaves),
                "gradient": torch.is_grad_enabled(),
                "wanted": [isinstance(x, torch.Tensor) and x.requires_grad for x in leaves],
                "default": str(torch.get_default_dtype()),
                **self.surroundings(),
            }
        )

    def remember(self, shortcut: str | None, program: Any, keys: Sequence[str]) -> None:
        """Notes which kernel a shortcut leads to, for programs that are one kernel call."""
        if (
            shortcut is None
            or isinstance(program, Shortcut)
            or len(keys) != 1
            or program.boundaries
        ):
            return
        positions = program.positions()
        if positions is not None and self.cache.get(keys[0]) is not None:
            meta = {
                "key": keys[0],
                "positions": positions,
                "result": pytree.treespec_dumps(program.captured.out_spec),
            }
            self.cache.put(shortcut, {}, meta, beside=keys)

    def recall(self, shortcut: str | None) -> Shortcut | None:
        """The program behind a shortcut, if the cache has both."""
        entry = self.cache.get(shortcut) if shortcut is not None else None
        if entry is None or self.cache.get(entry.meta["key"]) is None:
            return None
        result = pytree.treespec_loads(entry.meta["result"])
        return Shortcut(Recalled(entry.meta["key"]), tuple(entry.meta["positions"]), result)


def key_of(program: str, surroundings: Mapping[str, Any]) -> str:
    """The cache key of the kernels for a program (its hash), made in surroundings."""
    return key({"graph": program, **surroundings})


def numbered(name: str, n: int) -> str:
    """The file of the n-th program: ``plan.json``, ``plan-1.json``, ``plan-2.json``."""
    stem, _, kind = name.rpartition(".")
    return name if n == 0 else f"{stem}-{n}.{kind}"


def _load(entry: Entry, threads: int | None, pack_memory: int) -> Kernels | Bucketed:
    """The programs of an entry, and the rule among them if it has one."""
    programs = []
    for n, library in enumerate(entry.meta["libraries"]):
        plan = Plan.from_json(entry.read(numbered("plan.json", n)).decode())
        programs.append(Kernels(entry.file(library), plan, threads, pack_memory))
    if "dispatch.json" not in entry.sizes:
        return programs[0]
    return Bucketed(Dispatch.from_json(entry.read("dispatch.json").decode()), programs)


@dataclass(frozen=True)
class Recalled:
    """A piece that is known by its cache key alone."""

    key: str


@dataclass(frozen=True)
class Shortcut:
    """A program of one kernel call: which flat arguments it takes, and how its result is packed."""

    piece: Recalled
    positions: tuple[int, ...]
    result: Any
    boundaries: tuple[Any, ...] = ()

    @property
    def supported(self) -> tuple[Recalled, ...]:
        """The one piece."""
        return (self.piece,)

    def wiring(self) -> tuple[list[Any], list[int], Any]:
        """The flat arguments that are its inputs, its outputs in order, and how they are packed."""
        return list(self.positions), list(range(self.result.num_leaves)), self.result

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call: Callable[..., Any],
        held: Any = None,
    ) -> Any:
        """Runs the kernel on the arguments it takes; such a function holds no tensors."""
        flat = pytree.tree_leaves((args, kwargs)) if kwargs else pytree.tree_leaves(args)
        out = call(self.piece, [flat[p] for p in self.positions])
        return pytree.tree_unflatten(list(out), self.result)
