"""ONNX Runtime's CPU provider: weights as initializers, which it packs, inputs and outputs bound.

Quantized linear layers are given with weights dequantized ahead and, of 4 bits, as its own operator
over packed weights (inputs stay in float32); the faster form is kept.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.bench.cpu.peers import Held, Prepared, Skipped, Task, fastest
from superopt.bench.cpu.programs import GROUP

_KERNEL_MISSING = "NOT_IMPLEMENTED"


def prepare(task: Task) -> Prepared:
    """The program in a session; Skipped where the provider has no kernel for the dtype."""
    onnx = importlib.import_module("onnx")
    if task.workload.name not in ("linear_int8", "linear_int4"):
        return _exported(onnx, task)
    if task.dtype != torch.float32:
        raise Skipped("no kernel of a quantized linear layer takes bfloat16")
    forms = {"dequantized ahead": _exported(onnx, _dequantized(task))}
    if task.workload.name == "linear_int4" and task.params["k"] % GROUP == 0:
        forms["MatMulNBits"] = _bound(task, onnx, task.args[:1], _packed(task, onnx))
    return fastest(forms)


def _exported(onnx: Any, task: Task) -> Prepared:
    module = Held(task).eval()
    program = torch.onnx.export(module, module.free, dynamo=True, verbose=False, optimize=True)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    text = io.BytesIO()
    onnx.save_model(program.model_proto, text)
    return _bound(task, onnx, module.free, text.getvalue())


def _dequantized(task: Task) -> Task:
    """The same linear layer over weights that were dequantized once."""
    x, *held = task.args
    weight = task.workload.reference(torch.eye(x.shape[1], dtype=x.dtype), *held).t().contiguous()
    given, first, *_ = task.workload.specs(task.params)
    specs = given, dataclasses.replace(first, shape=tuple(weight.shape), kind="normal")
    workload = dataclasses.replace(task.workload, reference=F.linear, specs=lambda p: specs)
    return dataclasses.replace(task, workload=workload, args=(x, weight))


def _packed(task: Task, onnx: Any) -> bytes:
    """A model of one operator over packed weights, whose inputs stay in float32."""
    x, w, step = task.args
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    n, k = w.shape[0], x.shape[1]
    held = [
        onnx.numpy_helper.from_array(w.reshape(n, k // GROUP, GROUP // 2).numpy(), "w"),
        onnx.numpy_helper.from_array(step.reshape(-1).numpy(), "step"),
    ]
    node = make.make_node(
        "MatMulNBits",
        ["x", "w", "step"],
        ["y"],
        domain="com.microsoft",
        K=k,
        N=n,
        bits=4,
        block_size=GROUP,
        accuracy_level=1,
    )
    graph = make.make_graph(
        [node],
        "linear",
        [make.make_tensor_value_info("x", kind, list(x.shape))],
        [make.make_tensor_value_info("y", kind, [x.shape[0], n])],
        held,
    )
    domains = [make.make_opsetid("", 20), make.make_opsetid("com.microsoft", 1)]
    made: bytes = make.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()
    return made


def _bound(task: Task, onnx: Any, free: tuple[Tensor, ...], model: bytes) -> Prepared:
    """A session of a model whose inputs and outputs lie in tensors of ours."""
    ort = importlib.import_module("onnxruntime")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = task.threads
    settings.log_severity_level = 3
    try:
        session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        if _KERNEL_MISSING in str(error):
            raise Skipped(f"no kernel: {str(error).splitlines()[0][:200]}") from error
        raise
    binding = session.io_binding()
    for given, tensor in zip(session.get_inputs(), free, strict=True):
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
