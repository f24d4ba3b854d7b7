"""llama.cpp on a decoder layer: a model file of one layer with the case's weights, decoding a token.

A time is that of ``llama_decode`` for one token (given as a vector) over a cache of the case's
length: it includes the final norm and a head of 32 words, which a layer lacks, and the removal of
the token from the cache, and leaves out no part of the layer. The cache holds what the layer makes of
random tokens, in float16 where the case is bfloat16, so outputs are not compared with the reference.
"""

from __future__ import annotations

import ctypes
import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superopt.bench.cpu.peers import Prepared, Task

WORDS = 32
_BATCH = 512


def prepare(task: Task) -> Prepared:
    """A context whose cache is full up to the token that is decoded."""
    llama = importlib.import_module("llama_cpp")
    p = task.params
    given = {s.name: a for s, a in zip(task.workload.specs(p), task.args, strict=True)}
    llama.llama_backend_init()
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, None)
    with tempfile.TemporaryDirectory(prefix="superopt-llama-") as place:
        path = Path(place) / "layer.gguf"
        _write(path, p, given, task.dtype)
        settings = llama.llama_model_default_params()
        settings.use_mmap = False  # the file is gone when the model runs
        model = llama.llama_model_load_from_file(str(path).encode(), settings)
    if not model:
        raise RuntimeError("llama.cpp did not load the model file")
    wanted = llama.llama_context_default_params()
    wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = p["ctx"] + 256, _BATCH, _BATCH
    wanted.n_threads = wanted.n_threads_batch = task.threads
    kind = llama.GGML_TYPE_F32 if task.dtype == torch.float32 else llama.GGML_TYPE_F16
    wanted.type_k = wanted.type_v = kind
    context = llama.llama_init_from_model(model, wanted)
    if not context:
        raise RuntimeError("llama.cpp made no context")
    memory = llama.llama_get_memory(context)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, p["ctx"], _BATCH):
        count = min(_BATCH, p["ctx"] - start)
        batch = _batch(llama, torch.randn(count, p["h"], generator=generator), start)
        if llama.llama_decode(context, batch):
            raise RuntimeError("llama.cpp did not fill its cache")
    token = _batch(llama, given["x"].float().reshape(1, -1), p["ctx"])
    kept = (quiet, model, context, batch)  # they must outlive the runs

    def run() -> Any:
        llama.llama_memory_seq_rm(memory, 0, p["ctx"], -1)
        if llama.llama_decode(context, token):
            raise RuntimeError("llama.cpp did not decode")
        return kept

    info = {"includes": f"final norm, head of {WORDS} words", "cache_type": int(kind)}
    return Prepared({"llama.cpp": run}, lambda _: (), checked=False, info=info)


def _batch(llama: Any, vectors: Tensor, start: int) -> Any:
    """A batch of tokens given as vectors [count, h], the last of which has an output."""
    count, h = vectors.shape
    batch = llama.llama_batch_init(count, h, 1)
    batch.n_tokens = count
    ctypes.memmove(batch.embd, vectors.contiguous().data_ptr(), 4 * count * h)
    for k in range(count):
        batch.pos[k], batch.n_seq_id[k], batch.seq_id[k][0] = start + k, 1, 0
        batch.logits[k] = int(k == count - 1)
    return batch


def _write(path: Path, p: Any, given: dict[str, Tensor], dtype: torch.dtype) -> None:
    """A model file of one layer; rows of wq and wk in the order that llama.cpp rotates."""
    gguf = importlib.import_module("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(p["ctx"] + 256)
    writer.add_embedding_length(p["h"])
    writer.add_feed_forward_length(p["inter"])
    writer.add_head_count(p["heads"])
    writer.add_head_count_kv(p["kv"])
    writer.add_key_length(p["d"])
    writer.add_value_length(p["d"])
    writer.add_rope_dimension_count(p["d"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("no_vocab")
    tensors = {
        "token_embd.weight": torch.randn(WORDS, p["h"]),
        "output_norm.weight": torch.ones(p["h"]),
        "output.weight": torch.randn(WORDS, p["h"]),
        "blk.0.attn_norm.weight": given["gain_in"],
        "blk.0.ffn_norm.weight": given["gain_out"],
        "blk.0.attn_q.weight": _pairs(given["wq"], p["heads"]),
        "blk.0.attn_k.weight": _pairs(given["wk"], p["kv"]),
        "blk.0.attn_v.weight": given["wv"],
        "blk.0.attn_output.weight": given["wo"],
        "blk.0.ffn_gate.weight": given["w_gate"],
        "blk.0.ffn_up.weight": given["w_up"],
        "blk.0.ffn_down.weight": given["w_down"],
    }
    for name, tensor in tensors.items():
        if tensor.dim() == 1 or dtype == torch.float32:
            writer.add_tensor(name, tensor.float().contiguous().numpy())
            continue
        bits = tensor.to(torch.bfloat16).contiguous().view(torch.uint8)
        writer.add_tensor(name, bits.numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _pairs(w: Tensor, heads: int) -> Tensor:
    """Rows of a projection with the halves of each head interleaved."""
    return w.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
