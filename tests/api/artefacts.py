"""Genuine cache entries, made once, and forged ones: with any file changed and every hash made to fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F
from typer.testing import CliRunner

from superopt import superoptimize
from superopt.cli import app
from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.codegen.packing import packing
from superopt.mugraph.canonical import graph_hash, mugraph_hash
from superopt.mugraph.dispatch import ORIGINAL, Dispatch
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.text import parse_graph, parse_mugraph
from superopt.pipeline.making import ENTRY
from superopt.report.verify import STATUS
from superopt.runtime.artefact import read_artefact
from superopt.runtime.build import compile_shared, find_compiler
from superopt.runtime.entries import write_entry
from superopt.runtime.site import key_of, numbered
from superopt.search import buckets
from superopt.verify import certificate
from tests.api.programs import gated_mlp, rmsnorm_linear, softmax

r = torch.randn


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def several(x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * g
    return y, x.sum(-1), x.amax(-1)


def bare(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    e = torch.exp(x)
    return (e / e.sum(-1, keepdim=True)) @ w


def normed(x: torch.Tensor, g: torch.Tensor, b: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.gelu(F.layer_norm(x, (x.shape[-1],), g, b) @ w)


def picked(t: torch.Tensor, i: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.embedding(i, t) @ w


Inputs = Callable[[], tuple[torch.Tensor, ...]]
Case = tuple[Callable[..., Any], Inputs, dict[str, Any]]


def _bf16(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(t.bfloat16() for t in tensors)


_G, _W = torch.ones(256), torch.ones(256, 32) / 16
_TOKENS = Dim("tokens", min=1, max=300)

CASES: dict[str, Case] = {
    "rmsnorm_linear": (rmsnorm_linear, lambda: (r(8, 64), r(64), r(64, 48)), {}),
    "rmsnorm_linear_bf16": (rmsnorm_linear, lambda: _bf16(r(8, 64), r(64), r(64, 48)), {}),
    "gated_mlp": (gated_mlp, lambda: (r(8, 64), r(64, 48), r(64, 48)), {}),
    "attention": (attention, lambda: (r(1, 16, 16), r(1, 4096, 16), r(1, 4096, 16)), {}),
    "causal": (causal, lambda: tuple(r(1, 2, 24, 16) for _ in range(3)), {}),
    "several": (several, lambda: (r(8, 64), r(64)), {}),
    "bare": (bare, lambda: (r(8, 100), r(100, 16)), {}),
    "normed": (normed, lambda: (r(8, 96), r(96), r(96), r(96, 32)), {}),
    "picked": (picked, lambda: (r(50, 32), torch.randint(0, 50, (9,)), r(32, 16)), {}),
    "sizes": (rmsnorm_linear, lambda: (r(40, 256), _G, _W), {"x": {0: _TOKENS}}),
    "sizes_softmax": (softmax, lambda: (r(40, 48),), {"x": {0: _TOKENS}}),
}
"""A function, its inputs, and its dynamic sizes."""

_made: dict[tuple[str, str], Path] = {}


def genuine(name: str, cache: Path) -> Path:
    """The folder of the entry of a case."""
    if (name, str(cache)) not in _made:
        fn, make, dynamic = CASES[name]
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch:
            # A factor that hardly any program serves the whole domain within, on any machine.
            patch.setattr(buckets, "FACTOR", 1.0001)
            patch.setattr(buckets, "MOST_BUCKETS", 3)
            if name == "attention":  # its keys must be looped over, with a running maximum
                patch.setenv("SUPEROPT_TILE_MEMORY", "16K")
            options = {"dynamic": dynamic} if dynamic else {}
            result = superoptimize(fn, **options).result(*make())
        assert len(result.pieces) == 1 and not result.boundaries
        _made[name, str(cache)] = result.pieces[0].entry.path
    return _made[name, str(cache)]


@dataclass
class Forgery:
    """A copy of an entry whose files, certificate and meta data may be changed, then written."""

    source: Path
    files: dict[str, bytes] = field(init=False)
    meta: dict[str, Any] = field(init=False)
    proof: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        artefact = read_artefact(self.source)
        self.files, self.meta = dict(artefact.files), dict(artefact.entry.meta)
        self.proof = json.loads(self.files["certificate.json"])
        self.key = artefact.entry.key

    def text(self, name: str) -> str:
        return self.files[name].decode()

    def edit(self, name: str, old: str, new: str) -> None:
        assert old in self.text(name), (name, old)
        self.files[name] = self.text(name).replace(old, new, 1).encode()

    @property
    def mugraph(self) -> MuGraph:
        return parse_mugraph(self.text("mugraph.txt"))

    def binary(self, content: bytes, n: int = 0) -> None:
        """Another binary, under the name that tells its content."""
        del self.files[self.meta["libraries"][n]]
        name = f"kernel-{hashlib.sha256(content).hexdigest()[:16]}.so"
        libraries = list(self.meta["libraries"])
        libraries[n] = name
        self.meta["libraries"] = libraries
        self.files[name] = content

    def write(self, folder: Path, hashes: bool = True) -> Path:
        """Writes the entry, with graphs', files' and certificate's hashes and its key made to fit."""
        if hashes:
            self._graphs()
            others = {n: c for n, c in self.files.items() if n != "certificate.json"}
            self.proof["artefact"] = {n: hashlib.sha256(c).hexdigest() for n, c in others.items()}
            self.files["certificate.json"] = signed(self.proof).encode()
            self.key = key_of(self.proof["program"], self.meta["surroundings"])
        folder.mkdir(parents=True)
        write_entry(folder, self.key, self.files, self.meta)
        return folder

    def _graphs(self) -> None:
        """The structural hashes, where the graphs can be read."""
        try:
            self.proof["program"] = graph_hash(parse_graph(self.text("program.txt")))
            count = len(self.meta["libraries"])
            texts = [self.text(numbered("mugraph.txt", n)) for n in range(count)]
            hashes = [mugraph_hash(parse_mugraph(t)) for t in texts]
            self.proof["graph"] = hashes[0]
            if "dispatch.json" in self.files:
                rule = Dispatch.from_json(self.text("dispatch.json"))
                for bucket, stated in zip(rule.buckets, self.proof["buckets"], strict=True):
                    if bucket.program != ORIGINAL:
                        stated["graph"] = hashes[bucket.program]
        except Exception:
            return


def signed(proof: Mapping[str, Any]) -> str:
    """A certificate with a digest that fits."""
    body = {k: v for k, v in proof.items() if k != "digest"}
    return certificate.dumps({**body, "digest": certificate._digest(body)})


def compiled(source: str, folder: Path, isa: str) -> bytes:
    """A binary of C++ text, quickly rather than well."""
    compiler = find_compiler()
    flags = (*cpu.COMPILE_FLAGS, *cpu.Isa.named(isa).flags, *compiler.openmp_flags, "-O1")
    out = compile_shared(source, flags, folder / "forged.so", 120.0, compiler=compiler)
    return out.read_bytes()


def printed(mugraph: MuGraph, isa: str) -> str:
    """The C++ of a placed graph."""
    programs, to = lower(mugraph), cpu.Isa.named(isa)
    return cpu.emit(programs, ENTRY, to, packing=packing(programs, to.vector_bytes)).text


def with_node(mugraph: MuGraph, i: int, **changes: Any) -> MuGraph:
    """The placed graph with one node changed."""
    nodes = list(mugraph.graph.nodes)
    nodes[i] = replace(nodes[i], **changes)
    return replace(mugraph, graph=replace(mugraph.graph, nodes=tuple(nodes)))


EQUAL, DIFFERENT, UNDECIDED, BAD = range(4)
"""The exit statuses."""

runner = CliRunner()


def verified(path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """The exit status of the command and what it tells as JSON."""
    done = runner.invoke(app, ["verify", str(path), "--json", *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    told = json.loads(done.stdout)
    if done.exit_code in STATUS.values():
        assert STATUS[told["verdict"]] == done.exit_code
    return done.exit_code, told


def layers(told: dict[str, Any]) -> dict[str, str]:
    (one,) = told["artefacts"]
    return {x["name"]: x["text"] for x in one["layers"]}


def refused(forged: Forgery, folder: Path, *words: str, error: str = "") -> None:
    status, told = verified(forged.write(folder))
    reason = told["artefacts"][0]["reason"]
    assert status == BAD, told
    assert all(w in reason for w in words), reason
    assert not error or told["artefacts"][0]["error"] == error, told
