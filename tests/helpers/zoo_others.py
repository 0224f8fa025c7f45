"""Extended zoo: older decoders with their own attention code, and models with recurrent state.

`expected` is measured, not wished: "compiles" holds a model to the zoo's tolerance, "refused" holds
the compiler to a clear refusal. Moving one from "refused" to "compiles" is progress; the other way
is a regression.
"""

from __future__ import annotations

from typing import Any

from tiny_model import BOS, EOS, HEAD, PAD, VOCAB, WINDOW, ZooModel, decoder, without

_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_GPT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}

OLD: tuple[ZooModel, ...] = (
    ZooModel("gptj", "GPTJConfig", {**_GPT, "rotary_dim": 8}, ("parallel block", "GPT-J rope")),
    ZooModel("codegen", "CodeGenConfig", {**_GPT, "rotary_dim": 8}, ("qkv split in four groups",)),
    ZooModel(
        "falcon-new",
        "FalconConfig",
        without(
            decoder(new_decoder_architecture=True, num_kv_heads=2, bias=True),
            "num_key_value_heads",
            "intermediate_size",
        ),
        ("grouped fused qkv", "two norms in parallel"),
    ),
    ZooModel(
        "falcon-alibi",
        "FalconConfig",
        without(
            decoder(alibi=True, multi_query=False, parallel_attn=False, bias=True),
            "num_key_value_heads",
            "intermediate_size",
        ),
        ("alibi",),
    ),
    ZooModel(
        "gpt-bigcode",
        "GPTBigCodeConfig",
        _GPT,
        ("one key head", "learned positions"),
    ),
    ZooModel(
        "biogpt",
        "BioGptConfig",
        without(decoder(), "num_key_value_heads"),
        ("learned positions with offset", "scaled embedding"),
        embedding_std=0.06,
    ),
    ZooModel(
        "xglm",
        "XGLMConfig",
        {
            "vocab_size": VOCAB,
            "d_model": 64,
            "ffn_dim": 96,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 256,
            **_IDS,
        },
        ("sinusoidal positions with offset", "scaled embedding"),
        embedding_std=0.06,
    ),
    ZooModel(
        "openai-gpt",
        "OpenAIGPTConfig",
        without(_GPT, "bos_token_id", "eos_token_id"),
        ("norm after", "learned positions"),
    ),
    ZooModel(
        "ctrl",
        "CTRLConfig",
        {"vocab_size": VOCAB, "n_positions": 256, "n_embd": 64, "dff": 96, "n_layer": 2}
        | {"n_head": 4},
        ("sinusoidal positions",),
        embedding_std=0.06,
    ),
    ZooModel(
        "gpt-neox-japanese",
        "GPTNeoXJapaneseConfig",
        without(decoder(intermediate_multiple_size=2), "num_key_value_heads", "intermediate_size"),
        ("bias added after attention",),
    ),
    ZooModel(
        "bert-decoder",
        "BertConfig",
        without(decoder(is_decoder=True), "num_key_value_heads"),
        ("an encoder family as a decoder", "norm after", "token types"),
    ),
    ZooModel(
        "rembert-decoder",
        "RemBertConfig",
        without(
            decoder(is_decoder=True, input_embedding_size=32, output_embedding_size=48),
            "num_key_value_heads",
        ),
        ("embeddings of another size than the head",),
    ),
)

_MOE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
STATEFUL: tuple[ZooModel, ...] = (
    ZooModel(
        "mamba",
        "MambaConfig",
        {"vocab_size": VOCAB, "hidden_size": 64, "state_size": 8, "num_hidden_layers": 2, **_IDS},
        ("recurrent state",),
    ),
    ZooModel(
        "lfm2",
        "Lfm2Config",
        decoder(layer_types=["conv", "full_attention"]),
        ("convolution state",),
    ),
    ZooModel(
        "qwen3-next",
        "Qwen3NextConfig",
        decoder(
            head_dim=HEAD,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            num_experts=4,
            shared_expert_intermediate_size=32,
            layer_types=["linear_attention", "full_attention"],
            **_MOE,
        ),
        ("linear attention", "gated attention output"),
    ),
    ZooModel(
        "minimax",
        "MiniMaxConfig",
        decoder(
            head_dim=HEAD,
            num_local_experts=4,
            num_experts_per_tok=2,
            block_size=16,
            layer_types=["linear_attention", "full_attention"],
        ),
        ("linear attention", "experts"),
    ),
    ZooModel(
        "rwkv",
        "RwkvConfig",
        {
            "vocab_size": VOCAB,
            "context_length": 256,
            "hidden_size": 64,
            "attention_hidden_size": 64,
            "num_hidden_layers": 2,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
        },
        ("recurrent state",),
    ),
    ZooModel(
        "qwen3.5",
        "Qwen3_5TextConfig",
        decoder(
            head_dim=HEAD,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            layer_types=["linear_attention", "full_attention"],
        ),
        ("linear attention",),
    ),
    ZooModel(
        "olmo-hybrid",
        "OlmoHybridConfig",
        decoder(
            layer_types=["linear_attention", "full_attention"],
            linear_num_key_heads=4,
            linear_num_value_heads=4,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
        ),
        ("linear attention",),
    ),
    ZooModel(
        "granite-hybrid",
        "GraniteMoeHybridConfig",
        decoder(
            layer_types=["mamba", "attention"],
            num_local_experts=4,
            num_experts_per_tok=2,
            shared_intermediate_size=96,
            mamba_n_heads=8,
            mamba_d_state=16,
        ),
        ("recurrent state", "experts"),
    ),
    ZooModel(
        "jamba",
        "JambaConfig",
        decoder(
            attn_layer_period=2,
            attn_layer_offset=1,
            num_experts=4,
            mamba_dt_rank=8,
            mamba_d_state=8,
        ),
        ("recurrent state", "experts"),
    ),
    ZooModel(
        "mamba2",
        "Mamba2Config",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "num_heads": 8,
            "head_dim": 16,
            "state_size": 16,
            "num_hidden_layers": 2,
            "n_groups": 1,
            **_IDS,
        },
        ("recurrent state",),
    ),
    ZooModel(
        "recurrent-gemma",
        "RecurrentGemmaConfig",
        without(
            decoder(
                lru_width=64, block_types=["recurrent", "attention"], attention_window_size=WINDOW
            ),
            "max_position_embeddings",
        ),
        ("recurrent state", "window"),
    ),
)
