"""A twin is small, and of the same kind: shared heads, chosen experts, kinds of layers."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers
from llmc.models.auto import auto_class, text_config
from llmc.models.narrowing import BLOCK, THRESHOLD, WINDOW
from llmc.models.twin import narrow_config, twin
from transformers import AutoConfig

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-405b": {"model_type": "llama", "hidden_size": 16384, "num_attention_heads": 128,
                   "num_key_value_heads": 8, "num_hidden_layers": 126},
    "qwen3-moe": {"model_type": "qwen3_moe", "num_experts": 128, "num_experts_per_tok": 8,
                  "num_hidden_layers": 48, "hidden_size": 2048, "head_dim": 128},
    "deepseek-v3": {"model_type": "deepseek_v3"},
    "gemma3": {"model_type": "gemma3_text", "num_hidden_layers": 26},
    "gemma3n": {"model_type": "gemma3n_text"},
    "gemma4": {"model_type": "gemma4_text"},
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 36},
    "glm-4.5-air": {"model_type": "glm4_moe", "hidden_size": 4096, "num_attention_heads": 96,
                    "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 46},
    "gpt-oss": {"model_type": "gpt_oss"},
    "phi3": {"model_type": "phi3"},
    "opt": {"model_type": "opt"},
    "mpt": {"model_type": "mpt"},
    "granite-hybrid": {"model_type": "granitemoehybrid", "num_hidden_layers": 8,
                       "layer_types": ["mamba", "mamba", "attention", "mamba"] * 2},
    "minimax": {"model_type": "minimax", "num_hidden_layers": 8},
}  # fmt: skip


def model_of(config: Any) -> Any:
    auto: Any = auto_class(config)
    with torch.device("meta"):
        return auto.from_config(config)


def config_of(name: str) -> Any:
    return AutoConfig.for_model(**CONFIGS[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_twin_is_small_and_has_all_kinds(name: str) -> None:
    small = twin(config_of(name))
    assert small is not None
    assert sum(p.numel() for p in model_of(small.config).parameters()) < 60e6
    assert small.missing <= (1 if name == "gemma3n" else 0)


@pytest.mark.parametrize(
    ("name", "chosen", "experts"),
    [("qwen3-moe", "num_experts_per_tok", "num_experts"),
     ("deepseek-v3", "num_experts_per_tok", "n_routed_experts"),
     ("gpt-oss", "num_experts_per_tok", "num_local_experts")],
)  # fmt: skip
def test_fewer_experts_are_chosen_than_there_are(name: str, chosen: str, experts: str) -> None:
    small = twin(config_of(name))
    assert small is not None
    assert 1 < getattr(small.config, chosen) < getattr(small.config, experts)


def test_experts_stand_in_groups_of_which_some_are_chosen() -> None:
    config = twin(config_of("deepseek-v3")).config  # type: ignore[union-attr]
    assert 0 < config.topk_group < config.n_group
    assert config.n_routed_experts % config.n_group == 0
    assert config.n_routed_experts // config.n_group >= 2


def test_dense_first_layers_and_expert_layers_are_both_there() -> None:
    """`first_k_dense_replace` 3: the first three are dense, the fourth is not."""
    model = model_of(twin(config_of("deepseek-v3")).config)  # type: ignore[union-attr]
    names = [type(layer.mlp).__name__ for layer in model.model.layers]
    assert names == ["DeepseekV3MLP"] * 3 + ["DeepseekV3MoE"]


def test_layer_patterns_keep_their_order() -> None:
    gemma, smol = config_of("gemma3"), config_of("smollm3")
    small = twin(gemma).config  # type: ignore[union-attr]
    assert small.layer_types == gemma.layer_types[: len(small.layer_types)]
    assert {"sliding_attention", "full_attention"} == set(small.layer_types)
    small = twin(smol).config  # type: ignore[union-attr]
    assert small.no_rope_layers == smol.no_rope_layers[: small.num_hidden_layers]
    assert set(small.no_rope_layers) == {0, 1}


def test_a_kind_that_comes_late_is_taken_from_where_it_stands() -> None:
    """Forty layers of one kind before the first of another: not forty-one layers are needed."""
    kinds = ["full_attention"] * 40 + ["sliding_attention"]
    config = AutoConfig.for_model("gemma2", num_hidden_layers=41, layer_types=kinds)
    small = twin(config)
    assert small is not None
    assert small.missing == 0
    assert small.config.num_hidden_layers < 8


def test_heads_are_shared_alike() -> None:
    """Own keys and values stay own, one for all stays one, and several stay several."""
    for kv, expected in ((32, "own"), (1, "one"), (8, "some")):
        config = AutoConfig.for_model(
            "llama", hidden_size=4096, num_attention_heads=32, num_key_value_heads=kv
        )
        small = twin(config).config  # type: ignore[union-attr]
        heads, few = small.num_attention_heads, small.num_key_value_heads
        assert ("own" if few == heads else "one" if few == 1 else "some") == expected
        assert small.hidden_size < 1024


def test_a_hidden_size_other_than_the_heads_stays_so() -> None:
    config = twin(config_of("glm-4.5-air")).config  # type: ignore[union-attr]
    assert config.hidden_size != config.num_attention_heads * config.head_dim


def test_windows_blocks_and_thresholds_lie_within_a_short_text() -> None:
    assert twin(config_of("gemma3")).config.sliding_window == WINDOW  # type: ignore[union-attr]
    assert twin(config_of("minimax")).config.block_size == BLOCK  # type: ignore[union-attr]
    config = AutoConfig.for_model(
        "llama",
        rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    )  # fmt: skip
    rope = twin(config).config.rope_parameters  # type: ignore[union-attr]
    assert rope["original_max_position_embeddings"] == THRESHOLD
    assert rope["factor"] == 8.0


def test_text_parts_and_whole_multimodal_models() -> None:
    """Mistral 3's text part is a model of its own; Qwen 2.5 VL's isn't, so that its whole is."""
    mistral = AutoConfig.for_model("mistral3")
    assert isinstance(text_config(mistral), transformers.MistralConfig)
    qwen = AutoConfig.for_model("qwen2_5_vl")
    assert text_config(qwen) is qwen
    small = twin(qwen)
    assert small is not None
    assert small.config.text_config.hidden_size < 1024
    assert small.config.vision_config.depth == 1


def test_full_depth_stays_where_only_the_width_is_asked_for() -> None:
    changes = narrow_config(config_of("llama-405b"))
    assert isinstance(changes, Mapping)
    assert "num_hidden_layers" not in changes
    assert changes["hidden_size"] < 1024
