"""Small GGUF models for tests, written with the gguf package from tiny random models."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

Kind = gguf.GGMLQuantizationType
LLAMA = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "head_dim": 16, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "max_position_embeddings": 128,
}  # fmt: skip


def llama_model() -> PreTrainedModel:
    return random_model("LlamaConfig", LLAMA)


def gemma_model() -> PreTrainedModel:
    return random_model("Gemma2Config", LLAMA | {"tie_word_embeddings": True})


def experts_model() -> PreTrainedModel:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    return random_model("Qwen3MoeConfig", LLAMA | experts)


def random_model(kind: str, fields: Mapping[str, object]) -> PreTrainedModel:
    """A model of config class `kind`, the same one each time."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**fields))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def llama_rope(weights: np.ndarray, heads: int) -> np.ndarray:
    """The order in which llama.cpp stores query and key rows: pairs beside one another."""
    shape = (heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape)


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    arch: str,
    kinds: Callable[[str], Kind] = lambda name: Kind.F32,
    change: Callable[[dict[str, np.ndarray]], None] | None = None,
    extra: Callable[[gguf.GGUFWriter], None] | None = None,
    rotated: int = 16,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Write `model`; returns the values that the file holds, by GGUF name.

    `change` has the last word on the tensors, `extra` on the metadata; `rotated`: how many of the
    16 dimensions of a head are; `options` are the writer's (byte order, splitting).
    """
    config = model.config
    writer = gguf.GGUFWriter(path, arch, **options)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(rotated)
    writer.add_key_length(16)
    writer.add_vocab_size(config.vocab_size)
    if arch == "qwen3moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_eos_token_id(2)
    if extra is not None:
        extra(writer)
    tensors = _gguf_tensors(model, arch)
    if change is not None:
        change(tensors)
    held = {}
    for name, values in tensors.items():
        kind = kinds(name) if values.ndim > 1 else Kind.F32
        data = gguf.quants.quantize(values, kind)
        held[name] = gguf.quants.dequantize(data, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _gguf_tensors(model: PreTrainedModel, arch: str) -> dict[str, np.ndarray]:
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = tensor.detach().float().numpy()
        if name.endswith("gate_up_proj"):
            block = name.split(".")[2]
            gate, up = np.split(values, 2, axis=1)
            tensors[f"blk.{block}.ffn_gate_exps.weight"] = np.ascontiguousarray(gate)
            tensors[f"blk.{block}.ffn_up_exps.weight"] = np.ascontiguousarray(up)
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None, name
        target += "" if target.endswith((".weight", ".bias")) else ".weight"
        if arch == "llama" and ".attn_q." in target:
            values = llama_rope(values, model.config.num_attention_heads)
        if arch == "llama" and ".attn_k." in target:
            values = llama_rope(values, model.config.num_key_value_heads)
        if arch in ("gemma2", "gemma3") and "norm" in target:
            values = values + 1
        tensors[target] = values
    return tensors
