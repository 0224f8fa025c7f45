"""Adapters: what is compiled is what `peft` merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.names import bind
from llmc.compiler.frontend.sources import open_source
from llmc.weights.values import RecipeValues
from lora_adapters import merged, save_adapter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

pytest.importorskip("peft")

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0,
}  # fmt: skip
LLAMA = ("LlamaConfig", SIZES)
GPT2 = ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64})
BIASED = ("LlamaConfig", SIZES | {"attention_bias": True})
QWEN_MOE = (
    "Qwen3MoeConfig",
    SIZES | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
)  # fmt: skip
MIXTRAL = ("MixtralConfig", SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2})
GPT_OSS = (
    "GptOssConfig",
    SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
)  # fmt: skip
CLOSE = 2e-6
"""Of the largest weight: peft sums in float32, llmc rounds once."""


def save_base(path: Path, kind: tuple[str, dict[str, Any]]) -> Path:
    name, fields = kind
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**fields))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(path)
    return path


def values(source: Any) -> dict[str, np.ndarray]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config)
    read = RecipeValues(source.reader)
    return {name: read.value(recipe) for name, recipe in bind(model, source).recipes.items()}


def check(found: dict[str, np.ndarray], expected: Any, base: Path) -> None:
    state = expected.state_dict()
    untouched = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    assert set(found) == set(state)
    changed = [n for n in state if n not in untouched or not torch.equal(state[n], untouched[n])]
    assert changed
    for name, tensor in state.items():
        wanted = tensor.numpy()
        assert np.abs(found[name] - wanted).max() <= CLOSE * np.abs(wanted).max(), name


CASES = {
    "plain": (LLAMA, {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 7}),
    "all linear": (LLAMA, {"target_modules": "all-linear", "r": 3}),
    "a pattern": (LLAMA, {"target_modules": r".*layers\.[01]\..*_proj", "r": 2}),
    "some layers": (LLAMA, {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]}),
    "root of the rank": (LLAMA, {"target_modules": ["o_proj"], "r": 4, "use_rslora": True}),
    "ranks": (
        LLAMA,
        {
            "target_modules": ["q_proj", "down_proj"], "r": 4,
            "rank_pattern": {"q_proj": 2, r"^model.layers.1.mlp.down_proj": 6},
            "alpha_pattern": {"layers.2.self_attn.q_proj": 31},
        },
    ),
    "dora": (LLAMA, {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "r": 4}),
    "conv1d": (GPT2, {"target_modules": ["c_attn", "c_proj"], "r": 4}),
    "conv1d dora": (GPT2, {"target_modules": ["c_attn", "c_proj"], "r": 4, "use_dora": True}),
    "head and embedding saved": (
        LLAMA,
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    "norms saved": (LLAMA, {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    "embedding": (LLAMA, {"target_modules": ["embed_tokens", "lm_head", "k_proj"], "r": 4}),
    "embedding dora": (LLAMA, {"target_modules": ["embed_tokens"], "r": 4, "use_dora": True}),
    "trained tokens": (
        LLAMA,
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 60, 7]}},
    ),
    "biases": (BIASED, {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of lora": (BIASED, {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "experts": (
        QWEN_MOE,
        {
            "target_modules": ["q_proj"], "r": 2, "lora_alpha": 5,
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
    "one matrix of experts": (
        QWEN_MOE,
        {"target_modules": [], "r": 2, "target_parameters": ["mlp.experts.down_proj"]},
    ),
    "a router": (QWEN_MOE, {"target_modules": [], "target_parameters": ["mlp.gate.weight"]}),
    "experts the other way round": (
        GPT_OSS,
        {
            "target_modules": ["q_proj"], "r": 2,
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_merged_weights_are_those_of_peft(tmp_path: Path, case: str) -> None:
    kind, settings = CASES[case]
    base = save_base(tmp_path / "base", kind)
    adapter = save_adapter(base, tmp_path / "adapter", **settings)
    source = open_source(str(base), lora=[str(adapter)])
    check(values(source), merged(base, [adapter]), base)
