"""ONNX Runtime's CPU provider: weights as initializers, which it packs, inputs and outputs bound."""

from __future__ import annotations

import importlib
import io
from typing import Any

import torch
from torch import Tensor

from superopt.bench.cpu.peers import Held, Prepared, Skipped, Task

_KERNEL_MISSING = "NOT_IMPLEMENTED"


def prepare(task: Task) -> Prepared:
    """The exported program in a session; Skipped where the provider has no kernel for the dtype."""
    ort = importlib.import_module("onnxruntime")
    onnx = importlib.import_module("onnx")
    module = Held(task).eval()
    program = torch.onnx.export(module, module.free, dynamo=True, verbose=False, optimize=True)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    text = io.BytesIO()
    onnx.save_model(program.model_proto, text)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = task.threads
    settings.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            text.getvalue(), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        if _KERNEL_MISSING in str(error):
            raise Skipped(f"no kernel: {str(error).splitlines()[0][:200]}") from error
        raise
    binding = session.io_binding()
    for given, tensor in zip(session.get_inputs(), module.free, strict=True):
        binding.bind_ortvalue_input(given.name, _value(ort, onnx, tensor))
    # Allocated once: the outputs of the runs lie where those of the first lie.
    outs = [torch.empty_like(t) for t in _shaped(task)]
    for wanted, tensor in zip(session.get_outputs(), outs, strict=True):
        binding.bind_ortvalue_output(wanted.name, _value(ort, onnx, tensor))

    def run() -> None:
        session.run_with_iobinding(binding)

    return Prepared({"onnxruntime": run}, lambda _: tuple(outs))


def _shaped(task: Task) -> tuple[Tensor, ...]:
    """The outputs of the program, for their shapes."""
    out = task.workload.reference(*(a.to("meta") for a in task.args))
    return tuple(
        torch.empty(t.shape, dtype=t.dtype) for t in ((out,) if isinstance(out, Tensor) else out)
    )


def _value(ort: Any, onnx: Any, tensor: Tensor) -> Any:
    """The tensor's own memory as a value of ONNX Runtime."""
    if tensor.dtype == torch.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
            tensor.view(torch.uint16).numpy(), int(onnx.TensorProto.BFLOAT16)
        )
    return ort.OrtValue.ortvalue_from_numpy(tensor.numpy())
