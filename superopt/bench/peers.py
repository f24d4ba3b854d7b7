"""The peers as rows: what else runs a PyTorch function on this machine, and how to prepare it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from superopt.errors import BadOption, closest

Function = Callable[..., Any]


@dataclass(frozen=True)
class Installed:
    """Something that may be installed here: the modules it needs, and whose version is reported."""

    name: str
    needs: tuple[str, ...]
    distribution: str

    def version(self) -> str:
        """The installed version, or "" when it is missing."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return ""

    def missing(self) -> str:
        """Why it cannot run, or "" when it can."""
        absent = [m for m in self.needs if importlib.util.find_spec(m) is None]
        if not absent:
            return ""
        return f"not installed: {', '.join(absent)} (pip install 'superopt-compiler[peers]')"


@dataclass(frozen=True)
class Peer(Installed):
    """One peer of the suites that run in this process.

    prepare: compiles a function for given tensors, and returns a callable of such tensors (it may
    raise anything); dtypes: those it takes as inputs.
    """

    prepare: Callable[[Function, tuple[torch.Tensor, ...]], Function]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)


def _eager(fn: Function, args: tuple[torch.Tensor, ...]) -> Function:
    return fn


def _compiled(**options: Any) -> Callable[[Function, tuple[torch.Tensor, ...]], Function]:
    def prepare(fn: Function, args: tuple[torch.Tensor, ...]) -> Function:
        call = torch.compile(fn, dynamic=False, fullgraph=True, **options)
        call(*args)
        return call

    return prepare


class _Program(torch.nn.Module):
    def __init__(self, fn: Function) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args: torch.Tensor) -> Any:
        return self.fn(*args)


def _unpack(outputs: list[torch.Tensor]) -> Any:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _openvino(fn: Function, args: tuple[torch.Tensor, ...]) -> Function:
    """OpenVINO's CPU plugin in full precision, with all tensors as inputs, shared without copies."""
    ov = importlib.import_module("openvino")
    program = torch.export.export(_Program(fn), args)
    compiled = ov.Core().compile_model(
        ov.convert_model(program),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()

    def call(*xs: torch.Tensor) -> Any:
        out = request.infer([x.numpy() for x in xs], share_inputs=True)
        return _unpack([torch.from_numpy(out[k]) for k in range(len(compiled.outputs))])

    return call


def _onnxruntime(fn: Function, args: tuple[torch.Tensor, ...]) -> Function:
    """ONNX Runtime's CPU provider on the exported program, with all tensors as inputs."""
    ort = importlib.import_module("onnxruntime")
    program = torch.onnx.export(_Program(fn), args, dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(
        program.model_proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]

    def call(*xs: torch.Tensor) -> Any:
        feed = dict(zip(names, (x.numpy() for x in xs), strict=True))
        return _unpack([torch.from_numpy(o) for o in session.run(None, feed)])

    return call


PEERS: tuple[Peer, ...] = (
    Peer("eager", (), "torch", _eager),
    Peer("inductor", (), "torch", _compiled()),
    Peer("inductor-max-autotune", (), "torch", _compiled(mode="max-autotune-no-cudagraphs")),
    Peer("openvino", ("openvino",), "openvino", _openvino, (torch.float32,)),
    Peer(
        "onnxruntime",
        ("onnxruntime", "onnx", "onnxscript"),
        "onnxruntime",
        _onnxruntime,
        (torch.float32,),
    ),
)


def forget() -> None:
    """Drops what torch.compile has compiled: cases of one function would count as recompilations."""
    torch.compiler.reset()


def peer(name: str) -> Peer:
    """The peer of this name; BadOption if there is none."""
    for p in PEERS:
        if p.name == name:
            return p
    raise BadOption(f"no peer {name!r}", "option --peers", closest(name, (p.name for p in PEERS)))
