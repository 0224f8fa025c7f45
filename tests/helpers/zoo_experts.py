"""Extended zoo: mixtures of experts.

`expected` is measured, not wished: "compiles" holds a model to the zoo's tolerance, "refused" holds
the compiler to a clear refusal. Moving one from "refused" to "compiles" is progress; the other way
is a regression.
"""

from __future__ import annotations

from typing import Any

from tiny_model import HEAD, VOCAB, WINDOW, ZooModel, decoder, rope, without

_MIXED = ["sliding_attention", "full_attention"]
_MOE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}

EXPERTS: tuple[ZooModel, ...] = (
    ZooModel(
        "granite-moe",
        "GraniteMoeConfig",
        decoder(num_local_experts=4, num_experts_per_tok=2, attention_multiplier=0.3),
        ("experts", "multipliers"),
    ),
    ZooModel(
        "granite-moe-shared",
        "GraniteMoeSharedConfig",
        decoder(
            num_local_experts=4,
            num_experts_per_tok=2,
            shared_intermediate_size=48,
            residual_multiplier=0.5,
            attention_multiplier=0.3,
        ),
        ("experts", "shared expert", "multipliers"),
    ),
    ZooModel(
        "qwen2-moe",
        "Qwen2MoeConfig",
        decoder(num_experts=4, shared_expert_intermediate_size=48, **_MOE),
        ("experts", "gated shared expert", "qkv bias"),
    ),
    ZooModel(
        "olmoe",
        "OlmoeConfig",
        decoder(num_experts=4, num_experts_per_tok=2),
        ("experts", "qk norm over all heads"),
    ),
    ZooModel(
        "flex-olmo",
        "FlexOlmoConfig",
        decoder(num_experts=4, num_experts_per_tok=2),
        ("experts", "norm after"),
    ),
    ZooModel(
        "gpt-oss",
        "GptOssConfig",
        decoder(
            head_dim=HEAD,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=WINDOW,
            layer_types=_MIXED,
            rope_parameters=rope(
                "yarn",
                factor=4.0,
                original_max_position_embeddings=32,
                truncate=False,
                beta_fast=32.0,
                beta_slow=1.0,
            ),
        ),
        ("sinks", "experts with biases", "interleaved gate", "clamped activation"),
    ),
    ZooModel(
        "deepseek-v2",
        "DeepseekV2Config",
        decoder(
            **LATENT,
            first_k_dense_replace=1,
            n_routed_experts=4,
            n_shared_experts=1,
            **_MOE,
        ),
        ("latent attention", "experts", "dense first layer"),
    ),
    ZooModel(
        "dots1",
        "Dots1Config",
        decoder(
            n_routed_experts=4,
            n_shared_experts=1,
            first_k_dense_replace=1,
            norm_topk_prob=True,
            **_MOE,
        ),
        ("experts", "routing with a correction", "qk norm"),
    ),
    ZooModel(
        "glm4-moe",
        "Glm4MoeConfig",
        decoder(
            n_routed_experts=4,
            first_k_dense_replace=1,
            use_qk_norm=True,
            num_nextn_predict_layers=0,
            rope_parameters=rope("default", partial_rotary_factor=0.5),
            **_MOE,
        ),
        ("experts", "routing with a correction", "partial rotary"),
    ),
    ZooModel(
        "ernie4.5-moe",
        "Ernie4_5_MoeConfig",
        decoder(
            moe_intermediate_size=32,
            moe_k=2,
            moe_num_experts=4,
            moe_num_shared_experts=1,
            moe_layer_start_index=1,
            moe_layer_end_index=1,
        ),
        ("experts", "routing with a correction", "dense first layer"),
    ),
    ZooModel(
        "hunyuan-moe",
        "HunYuanMoEV1Config",
        decoder(head_dim=HEAD, num_experts=4, moe_topk=2),
        ("experts", "shared expert", "qk norm after rope"),
    ),
    ZooModel(
        "minimax-m2",
        "MiniMaxM2Config",
        decoder(
            head_dim=HEAD,
            num_local_experts=4,
            num_experts_per_tok=2,
            rope_parameters=rope("default", partial_rotary_factor=0.5),
        ),
        ("experts", "routing with a correction", "qk norm over all heads"),
    ),
    ZooModel(
        "phimoe",
        "PhimoeConfig",
        decoder(
            num_local_experts=4,
            num_experts_per_tok=2,
            attention_bias=True,
            lm_head_bias=True,
        ),
        ("experts", "sparse mixer routing", "layer norm", "head bias"),
    ),
    ZooModel(
        "dbrx",
        "DbrxConfig",
        {
            "vocab_size": VOCAB,
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 256,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 1.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        },
        ("experts", "clamped qkv", "layer norm without bias"),
        expected="refused",
    ),
    ZooModel(
        "afmoe",
        "AfmoeConfig",
        decoder(
            head_dim=HEAD,
            num_dense_layers=1,
            num_experts=4,
            num_shared_experts=1,
            sliding_window=WINDOW,
            layer_types=_MIXED,
            mup_enabled=True,
            **_MOE,
        ),
        ("experts", "gated attention output", "windowed and full layers"),
        embedding_std=0.06,
    ),
    ZooModel(
        "solar-open",
        "SolarOpenConfig",
        without(decoder(head_dim=HEAD, n_routed_experts=4, **_MOE), "intermediate_size"),
        ("experts", "routing with a correction"),
    ),
    ZooModel(
        "exaone-moe",
        "ExaoneMoeConfig",
        decoder(
            sliding_window=WINDOW,
            layer_types=_MIXED,
            mlp_layer_types=["dense", "sparse"],
            num_experts=4,
            **_MOE,
        ),
        ("experts", "windowed and full layers"),
    ),
    ZooModel(
        "mimo-v2-flash",
        "MiMoV2FlashConfig",
        decoder(
            head_dim=HEAD,
            v_head_dim=12,
            sliding_window=WINDOW,
            layer_types=["full_attention", "sliding_attention"],
            mlp_layer_types=["dense", "sparse"],
            n_routed_experts=4,
            **_MOE,
        ),
        ("experts", "sinks", "value heads of another size"),
    ),
    ZooModel(
        "jetmoe",
        "JetMoeConfig",
        without(
            decoder(kv_channels=16, num_local_experts=4, num_experts_per_tok=2),
            "num_attention_heads",
        ),
        ("experts in attention",),
        expected="refused",
    ),
    ZooModel(
        "llama4",
        "Llama4TextConfig",
        decoder(
            head_dim=HEAD,
            intermediate_size_mlp=96,
            num_hidden_layers=4,
            num_local_experts=4,
            num_experts_per_tok=1,
            interleave_moe_layer_step=2,
            attention_chunk_size=WINDOW,
            floor_scale=16,
        ),
        ("chunked attention", "queries scaled by position", "experts"),
        expected="refused",
    ),
    ZooModel(
        "granite-moe-window",
        "GraniteMoeSWAConfig",
        decoder(
            num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW, layer_types=_MIXED
        ),
        ("experts", "windowed and full layers"),
    ),
    ZooModel(
        "cohere2-moe",
        "Cohere2MoeConfig",
        decoder(
            head_dim=HEAD,
            sliding_window=WINDOW,
            layer_types=_MIXED,
            num_experts=4,
            num_experts_per_tok=2,
        ),
        ("experts", "parallel block", "interleaved rope"),
    ),
    ZooModel(
        "glm4-moe-lite",
        "Glm4MoeLiteConfig",
        decoder(**LATENT, n_routed_experts=4, n_shared_experts=1, **_MOE),
        ("latent attention", "experts"),
    ),
    ZooModel(
        "aria",
        "AriaTextConfig",
        decoder(moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1),
        ("grouped experts of its own", "shared expert"),
    ),
    ZooModel(
        "mellum",
        "MellumConfig",
        decoder(head_dim=HEAD, num_experts=4, **_MOE),
        ("experts",),
    ),
    ZooModel(
        "laguna",
        "LagunaConfig",
        decoder(head_dim=HEAD, num_experts=4, shared_expert_intermediate_size=32, **_MOE),
        ("experts",),
    ),
    ZooModel(
        "hy-v3",
        "HYV3Config",
        decoder(head_dim=HEAD, num_experts=4, **_MOE),
        ("experts",),
    ),
    ZooModel(
        "deepseek-v3.2",
        "DeepseekV32Config",
        decoder(
            **LATENT,
            n_routed_experts=8,
            n_shared_experts=1,
            n_group=4,
            topk_group=2,
            first_k_dense_replace=1,
            index_topk=16,
            index_n_heads=16,  # few would leave many scores at exactly 0
            index_head_dim=16,
            **_MOE,
        ),
        ("latent attention", "keys chosen by an index"),
    ),
)
