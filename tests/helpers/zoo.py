"""The conformance zoo: one tiny random model per family and feature.

`ZOO` holds what must compile and match `transformers` eager; `EXTENDED` (its own files) holds the
families that nobody promised but people will try. Sizes are the smallest that still exercise the
feature: sliding windows of 8 tokens, rope thresholds at 32, contexts of 128.
"""

from __future__ import annotations

from typing import Any

from tiny_model import (
    BOS,
    EOS,
    HEAD,
    PAD,
    THRESHOLD,
    VOCAB,
    WINDOW,
    ZooModel,
    decoder,
    rope,
    without,
)
from zoo_dense import DENSE
from zoo_experts import EXPERTS, LATENT
from zoo_others import OLD, STATEFUL

__all__ = ["EXTENDED", "ZOO", "ZooModel", "find"]

_LLAMA3 = rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=THRESHOLD,
)
_YARN = rope("yarn", factor=4.0, original_max_position_embeddings=THRESHOLD)


def _longrope(pairs: int, **parameters: Any) -> dict[str, Any]:
    """Return longrope parameters for `pairs` rotated pairs, with factors that all differ."""
    return rope(
        "longrope",
        short_factor=[1.0 + 0.05 * i for i in range(pairs)],
        long_factor=[1.0 + 0.5 * i for i in range(pairs)],
        original_max_position_embeddings=THRESHOLD,
        **parameters,
    )


_LLAMA = (
    ZooModel(
        "llama",
        "LlamaConfig",
        decoder(tie_word_embeddings=True, rope_parameters=_LLAMA3, num_hidden_layers=3),
        ("tied head", "rope llama3", "grouped heads"),
    ),
    ZooModel("llama-untied", "LlamaConfig", decoder(), ("untied head", "rope default")),
    ZooModel(
        "llama-bias",
        "LlamaConfig",
        decoder(attention_bias=True, mlp_bias=True, hidden_act="gelu"),
        ("attention bias", "mlp bias", "exact gelu"),
    ),
    ZooModel(
        "llama-linear",
        "LlamaConfig",
        decoder(rope_parameters=rope("linear", factor=4.0)),
        ("rope linear",),
    ),
    ZooModel(
        "llama-yarn",
        "LlamaConfig",
        decoder(rope_parameters=_YARN),
        ("rope yarn", "attention scaling"),
    ),
    ZooModel(
        "llama-dynamic",
        "LlamaConfig",
        decoder(
            rope_parameters=rope("dynamic", factor=4.0),
            max_position_embeddings=THRESHOLD,
        ),
        ("rope dynamic, table fixed for the context",),
    ),
    ZooModel(
        "llama-longrope",
        "LlamaConfig",
        decoder(rope_parameters=_longrope(HEAD // 2, factor=4.0)),
        ("rope longrope", "attention scaling"),
    ),
)

_QWEN = (
    ZooModel(
        "qwen2",
        "Qwen2Config",
        decoder(tie_word_embeddings=True),
        ("qkv bias", "tied head"),
    ),
    ZooModel(
        "qwen2-window",
        "Qwen2Config",
        decoder(
            use_sliding_window=True,
            sliding_window=WINDOW,
            max_window_layers=1,
            rope_parameters=_YARN,
        ),
        ("qkv bias", "window from one layer on", "rope yarn"),
    ),
    ZooModel(
        "qwen3",
        "Qwen3Config",
        decoder(head_dim=24, tie_word_embeddings=True),
        ("qk norm", "head size is not hidden/heads", "tied head"),
    ),
    ZooModel(
        "qwen3-moe",
        "Qwen3MoeConfig",
        decoder(
            head_dim=HEAD,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            norm_topk_prob=True,
        ),
        ("experts", "normalised top-k weights", "qk norm"),
    ),
)

_MISTRAL = (
    ZooModel(
        "mistral",
        "MistralConfig",
        decoder(sliding_window=WINDOW, head_dim=HEAD),
        ("window in every layer",),
    ),
    ZooModel(
        "mixtral",
        "MixtralConfig",
        decoder(num_local_experts=4, num_experts_per_tok=2),
        ("experts",),
    ),
    ZooModel(
        "mixtral-window",
        "MixtralConfig",
        decoder(num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW),
        ("experts", "window in every layer"),
    ),
)

_GEMMA = (
    ZooModel(
        "gemma2",
        "Gemma2Config",
        decoder(
            head_dim=24,
            query_pre_attn_scalar=40,
            sliding_window=WINDOW,
            num_hidden_layers=4,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=6.0,
        ),
        (
            "attention softcap",
            "logits softcap",
            "alternating window",
            "attention scale from the config",
            "1 + w norms",
            "scaled embedding",
            "norms before and after",
        ),
        embedding_std=0.06,
    ),
    ZooModel(
        "gemma3",
        "Gemma3TextConfig",
        decoder(
            head_dim=24,
            query_pre_attn_scalar=40,
            sliding_window=WINDOW,
            num_hidden_layers=7,
            rope_parameters={
                "sliding_attention": rope("default"),
                "full_attention": {
                    "rope_type": "linear",
                    "rope_theta": 1000000.0,
                    "factor": 8.0,
                },
            },
        ),
        ("five windowed layers to one full", "local and global rope", "qk norm with 1 + w"),
        embedding_std=0.06,
    ),
)

_PHI3 = (
    ZooModel(
        "phi3",
        "Phi3Config",
        decoder(
            rope_parameters=_longrope(6, partial_rotary_factor=0.75),
            original_max_position_embeddings=THRESHOLD,
        ),
        ("fused qkv", "fused gate and up", "rope longrope", "partial rotary"),
    ),
    ZooModel(
        "phi3-short",
        "Phi3Config",
        decoder(
            rope_parameters=_longrope(HEAD // 2),
            original_max_position_embeddings=THRESHOLD,
            max_position_embeddings=256,
        ),
        ("rope longrope compiled for a short context",),
        max_context=THRESHOLD,
    ),
    ZooModel(
        "phi3-window",
        "Phi3Config",
        decoder(sliding_window=WINDOW, num_key_value_heads=4, tie_word_embeddings=True),
        ("fused qkv", "window in every layer", "one key head a query head"),
    ),
)

_DEEPSEEK = (
    ZooModel(
        "deepseek-v3",
        "DeepseekV3Config",
        decoder(
            **LATENT,
            first_k_dense_replace=1,
            n_routed_experts=8,
            n_shared_experts=1,
            n_group=4,
            topk_group=2,
            num_nextn_predict_layers=0,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
        ),
        ("latent attention", "grouped routing with a correction", "interleaved rope"),
    ),
)

_OPT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}

_GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}

_OTHERS = (
    ZooModel(
        "smollm3",
        "SmolLM3Config",
        decoder(num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0], tie_word_embeddings=True),
        ("layers without positions", "tied head"),
    ),
    ZooModel(
        "gpt2",
        "GPT2Config",
        _GPT2,
        ("learned positions", "transposed weights", "fused qkv", "tanh gelu", "biases", "tied"),
    ),
    ZooModel(
        "gpt2-scaled",
        "GPT2Config",
        {**_GPT2, "scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu"},
        ("attention scale per layer", "exact gelu"),
    ),
    ZooModel(
        "opt",
        "OPTConfig",
        _OPT,
        ("learned positions with offset 2", "relu", "biases", "norm before"),
    ),
    ZooModel(
        "opt-post-norm",
        "OPTConfig",
        {**_OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
        ("norm after", "embedding projections", "relu", "biases"),
    ),
)

_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}

_SPELLED_OUT = (
    ZooModel(
        "bloom",
        "BloomConfig",
        {"vocab_size": VOCAB, "hidden_size": 72, "n_layer": 2, "n_head": 6, **_IDS},
        ("alibi", "norm of embeddings"),
    ),
    ZooModel(
        "falcon",
        "FalconConfig",
        without(decoder(), "num_key_value_heads", "intermediate_size"),
        ("one key head", "parallel block"),
    ),
    ZooModel(
        "mpt",
        "MptConfig",
        {"vocab_size": VOCAB, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 256},
        ("alibi", "no biases"),
    ),
    ZooModel(
        "gpt-neo",
        "GPTNeoConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 256,
            "window_size": WINDOW,
            "attention_types": [[["global", "local"], 1]],
            "bos_token_id": BOS,
            "eos_token_id": EOS,
        },
        ("unscaled attention", "local layers", "learned positions"),
    ),
)
"""Models that compute attention themselves."""

ZOO: tuple[ZooModel, ...] = (
    _LLAMA + _QWEN + _MISTRAL + _GEMMA + _PHI3 + _DEEPSEEK + _OTHERS + _SPELLED_OUT
)

DISTINCT: tuple[str, ...] = (
    "llama-bias", "llama-longrope", "qwen2-window", "qwen3", "qwen3-moe", "mixtral-window",
    "gemma2", "gemma3", "phi3", "phi3-window", "deepseek-v3", "smollm3", "gpt2", "opt", "bloom",
)  # fmt: skip
"""One name for each thing that a graph of the zoo can have; the others differ in numbers alone."""

EXTENDED: tuple[ZooModel, ...] = DENSE + OLD + EXPERTS + STATEFUL


def find(name: str) -> ZooModel:
    """Return the model called `name`; raises `KeyError` with the names there are."""
    for model in ZOO + EXTENDED:
        if model.name == name:
            return model
    raise KeyError(f"{name}: not in the zoo; there are {', '.join(m.name for m in ZOO + EXTENDED)}")
