"""OpenVINO's CPU plugin: weights as constants, which it packs, tuned for latency, inputs bound."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from superopt.bench.cpu.peers import Held, Prepared, Task


def prepare(task: Task) -> Prepared:
    """The exported program, compiled for the precision of the case."""
    ov = importlib.import_module("openvino")
    module = Held(task).eval()
    program = torch.export.export(module, module.free)
    compiled = ov.Core().compile_model(
        ov.convert_model(program),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if task.dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": task.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        },
    )
    request = compiled.create_infer_request()
    for k, tensor in enumerate(module.free):
        request.set_input_tensor(k, _shared(ov, tensor))

    def outputs(_: Any) -> tuple[Tensor, ...]:
        return tuple(
            _tensor(ov, request.get_output_tensor(k)) for k in range(len(compiled.outputs))
        )

    return Prepared({"openvino": request.infer}, outputs)


def _shared(ov: Any, tensor: Tensor) -> Any:
    """The tensor's own memory as a tensor of OpenVINO."""
    if tensor.dtype == torch.bfloat16:
        return ov.Tensor(tensor.view(torch.uint16).numpy(), tensor.shape, ov.Type.bf16)
    return ov.Tensor(tensor.numpy(), shared_memory=True)


def _tensor(ov: Any, given: Any) -> Tensor:
    if given.element_type == ov.Type.bf16:
        bits = torch.from_numpy(given.data.view("uint16").copy())
        return bits.view(torch.bfloat16).reshape(tuple(given.shape))
    return torch.from_numpy(given.data.copy())
