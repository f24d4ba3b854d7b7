"""OpenVINO's CPU plugin: weights as constants, which it packs, tuned for latency, inputs bound.

Quantized linear layers are given as its own graphs over compressed constants. By itself it rounds their
inputs to 8 bits too: that is tried where the error leaves room for it, in bfloat16, and kept if faster.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from superopt.bench.cpu.peers import Held, Prepared, Task, fastest


def prepare(task: Task) -> Prepared:
    """The program compiled for the precision of the case; of several forms the fastest."""
    ov = importlib.import_module("openvino")
    if task.workload.name in ("linear_int8", "linear_int4"):
        model = _compressed(ov, task)
        forms = {"inputs as given": _compiled(ov, task, model, task.args[:1], 0)}
        if task.dtype == torch.bfloat16:
            forms["inputs of 8 bits"] = _compiled(ov, task, model, task.args[:1], None)
        return fastest(forms)
    module = Held(task).eval()
    program = torch.export.export(module, module.free)
    return _compiled(ov, task, ov.convert_model(program), module.free, None)


def _compiled(
    ov: Any, task: Task, model: Any, free: tuple[Tensor, ...], rounded: int | None
) -> Prepared:
    """rounded: the group of inputs that is rounded to 8 bits (0: none, None: as it likes)."""
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if task.dtype == torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": task.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if rounded is not None:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = rounded
    compiled = ov.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    for k, tensor in enumerate(free):
        request.set_input_tensor(k, _shared(ov, tensor))

    def outputs(_: Any) -> tuple[Tensor, ...]:
        return tuple(
            _tensor(ov, request.get_output_tensor(k)) for k in range(len(compiled.outputs))
        )

    return Prepared({"openvino": request.infer}, outputs)


def _compressed(ov: Any, task: Task) -> Any:
    """x @ ((w - shift) * step).T over constants of 8 or 4 bits."""
    op = importlib.import_module("openvino.opset13")
    numpy = importlib.import_module("numpy")
    x, w, step = task.args
    kind = ov.Type.bf16 if task.dtype == torch.bfloat16 else ov.Type.f32
    given = op.parameter(list(x.shape), kind)
    n, k = w.shape[0], x.shape[1]
    if task.workload.name == "linear_int8":
        values = op.convert(op.constant(w.numpy()), kind)
        weight = op.multiply(values, _constant(ov, op, step, [n, 1]))
    else:
        groups = step.shape[1]
        packed = ov.Tensor(w.numpy(), [n, groups, k // groups], ov.Type.u4)
        shift = ov.Tensor(numpy.array([8], dtype=numpy.uint8), [1, 1, 1], ov.Type.u4)
        values = op.subtract(*(op.convert(op.constant(t), kind) for t in (packed, shift)))
        scaled = op.multiply(values, _constant(ov, op, step, [n, groups, 1]))
        weight = op.reshape(scaled, op.constant(numpy.array([n, k])), False)
    return ov.Model([op.matmul(given, weight, False, True)], [given])


def _constant(ov: Any, op: Any, tensor: Tensor, shape: list[int]) -> Any:
    if tensor.dtype == torch.bfloat16:
        return op.constant(ov.Tensor(tensor.view(torch.uint16).numpy(), shape, ov.Type.bf16))
    return op.constant(tensor.reshape(shape).numpy())


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
