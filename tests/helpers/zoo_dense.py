"""Extended zoo: decoders with one MLP a layer and attention that `transformers` dispatches.

`expected` is measured, not wished: "compiles" holds a model to the zoo's tolerance, "refused" holds
the compiler to a clear refusal. Moving one from "refused" to "compiles" is progress; the other way
is a regression.
"""

from __future__ import annotations

from tiny_model import BOS, EOS, HEAD, VOCAB, WINDOW, ZooModel, decoder, rope, without

_MIXED = ["sliding_attention", "full_attention"]

DENSE: tuple[ZooModel, ...] = (
    ZooModel(
        "phi",
        "PhiConfig",
        decoder(qk_layernorm=True, rope_parameters=rope("default", partial_rotary_factor=0.5)),
        ("parallel block", "partial rotary", "biases", "head bias", "qk layer norm"),
    ),
    ZooModel(
        "stablelm",
        "StableLmConfig",
        decoder(use_qkv_bias=True, rope_parameters=rope("default", partial_rotary_factor=0.25)),
        ("partial rotary", "layer norm", "qkv bias"),
    ),
    ZooModel(
        "stablelm-parallel",
        "StableLmConfig",
        decoder(use_parallel_residual=True, qk_layernorm=True),
        ("parallel block", "one norm a head"),
    ),
    ZooModel(
        "starcoder2",
        "Starcoder2Config",
        decoder(sliding_window=WINDOW),
        ("layer norm", "biases", "window", "mlp without a gate"),
    ),
    ZooModel(
        "olmo",
        "OlmoConfig",
        decoder(clip_qkv=1.0),
        ("layer norm without weights", "clamped qkv"),
    ),
    ZooModel("olmo2", "Olmo2Config", decoder(), ("norm after", "qk norm over all heads")),
    ZooModel(
        "olmo3",
        "Olmo3Config",
        decoder(
            sliding_window=WINDOW,
            num_hidden_layers=4,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
            rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=32),
        ),
        ("windowed and full layers", "rope yarn on full layers only", "qk norm over all heads"),
    ),
    ZooModel(
        "granite",
        "GraniteConfig",
        decoder(
            embedding_multiplier=6.0,
            logits_scaling=4.0,
            residual_multiplier=0.5,
            attention_multiplier=0.3,
        ),
        ("embedding, residual, attention and logits multipliers",),
        embedding_std=0.06,
    ),
    ZooModel(
        "granite-window",
        "GraniteSWAConfig",
        decoder(
            sliding_window=WINDOW,
            layer_types=_MIXED,
            attention_multiplier=0.3,
            residual_multiplier=0.5,
            layer_rope_theta=[10000.0, 0.0],
        ),
        ("windowed and full layers", "rope base per layer", "sinks"),
    ),
    ZooModel(
        "cohere",
        "CohereConfig",
        decoder(use_qk_norm=True, logit_scale=0.25),
        ("parallel block", "interleaved rope", "logit scale", "qk layer norm"),
    ),
    ZooModel(
        "cohere2",
        "Cohere2Config",
        decoder(
            head_dim=HEAD,
            num_hidden_layers=4,
            sliding_window=WINDOW,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
        ),
        ("parallel block", "interleaved rope", "full layers without positions"),
    ),
    ZooModel(
        "glm",
        "GlmConfig",
        decoder(head_dim=HEAD, rope_parameters=rope("default", partial_rotary_factor=0.5)),
        ("interleaved partial rope", "qkv bias", "fused gate and up"),
    ),
    ZooModel(
        "glm4",
        "Glm4Config",
        decoder(head_dim=HEAD, rope_parameters=rope("default", partial_rotary_factor=0.5)),
        ("interleaved partial rope", "four norms a layer"),
    ),
    ZooModel("helium", "HeliumConfig", decoder(head_dim=HEAD), ("interleaved rope",)),
    ZooModel(
        "nemotron",
        "NemotronConfig",
        decoder(head_dim=HEAD, rope_parameters=rope("default", partial_rotary_factor=0.5)),
        ("squared relu", "1 + w layer norm", "partial rotary"),
    ),
    ZooModel("arcee", "ArceeConfig", decoder(head_dim=HEAD), ("squared relu without a gate",)),
    ZooModel("apertus", "ApertusConfig", decoder(), ("xielu", "qk norm")),
    ZooModel(
        "gemma",
        "GemmaConfig",
        decoder(head_dim=24),
        ("1 + w norms", "scaled embedding"),
        embedding_std=0.06,
    ),
    ZooModel(
        "vaultgemma",
        "VaultGemmaConfig",
        decoder(head_dim=24, query_pre_attn_scalar=40, sliding_window=WINDOW),
        ("attention softcap", "logits softcap"),
        embedding_std=0.06,
    ),
    ZooModel(
        "gemma4",
        "Gemma4TextConfig",
        decoder(
            head_dim=HEAD,
            num_hidden_layers=4,
            sliding_window=WINDOW,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
            vocab_size_per_layer_input=VOCAB,
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=0,
        ),
        ("per-layer embeddings", "v norm", "head size per layer type", "layer scalars"),
        embedding_std=0.06,
    ),
    ZooModel(
        "gemma4-shared-cache",
        "Gemma4TextConfig",
        decoder(
            head_dim=HEAD,
            num_hidden_layers=4,
            sliding_window=WINDOW,
            layer_types=_MIXED * 2,
            vocab_size_per_layer_input=VOCAB,
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=2,
        ),
        ("layers that read another layer's keys and values",),
        embedding_std=0.06,
    ),
    ZooModel(
        "ernie4.5", "Ernie4_5Config", decoder(head_dim=HEAD), ("interleaved rope", "tied head")
    ),
    ZooModel("seed-oss", "SeedOssConfig", decoder(head_dim=HEAD), ("qkv bias but no output bias",)),
    ZooModel(
        "exaone4",
        "Exaone4Config",
        decoder(
            sliding_window=WINDOW,
            num_hidden_layers=4,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
        ),
        ("norm after", "qk norm", "full layers without positions"),
    ),
    ZooModel(
        "hunyuan-dense",
        "HunYuanDenseV1Config",
        decoder(head_dim=HEAD),
        ("qk norm after rope",),
    ),
    ZooModel("bitnet", "BitNetConfig", decoder(), ("norm inside attention and mlp",)),
    ZooModel(
        "cwm",
        "CwmConfig",
        decoder(head_dim=HEAD, sliding_window=WINDOW, layer_types=_MIXED),
        ("windowed and full layers", "rope llama3"),
    ),
    ZooModel(
        "nanochat",
        "NanoChatConfig",
        decoder(final_logit_softcapping=6.0),
        ("norms without weights", "rope turned the other way", "logits softcap"),
    ),
    ZooModel(
        "ministral",
        "MinistralConfig",
        decoder(head_dim=HEAD, sliding_window=WINDOW, layer_types=_MIXED),
        ("windowed and full layers",),
    ),
    ZooModel(
        "ministral3",
        "Ministral3Config",
        decoder(
            head_dim=HEAD,
            rope_parameters=rope(
                "yarn",
                factor=4.0,
                original_max_position_embeddings=32,
                llama_4_scaling_beta=0.1,
                mscale=1.0,
                mscale_all_dim=1.0,
                beta_fast=32.0,
                beta_slow=1.0,
            ),
        ),
        ("queries scaled by position",),
    ),
    ZooModel("diffllama", "DiffLlamaConfig", decoder(head_dim=HEAD), ("two softmaxes subtracted",)),
    ZooModel(
        "hyperclovax",
        "HyperCLOVAXConfig",
        decoder(head_dim=HEAD, attention_multiplier=0.3, residual_multiplier=0.5),
        ("norms before and after", "multipliers"),
    ),
    ZooModel("jais2", "Jais2Config", decoder(head_dim=HEAD), ("squared relu", "biases")),
    ZooModel(
        "persimmon",
        "PersimmonConfig",
        without(
            decoder(rope_parameters=rope("default", partial_rotary_factor=0.5)),
            "num_key_value_heads",
        ),
        ("qkv interleaved by head", "qk layer norm", "squared relu", "partial rotary"),
    ),
    ZooModel(
        "gpt-neox",
        "GPTNeoXConfig",
        without(
            decoder(rope_parameters=rope("default", partial_rotary_factor=0.25)),
            "num_key_value_heads",
        ),
        ("parallel block", "partial rotary", "qkv interleaved by head", "biases"),
    ),
    ZooModel(
        "gpt-neox-sequential",
        "GPTNeoXConfig",
        without(decoder(use_parallel_residual=False), "num_key_value_heads"),
        ("sequential block",),
    ),
    ZooModel(
        "modernbert-decoder",
        "ModernBertDecoderConfig",
        without(
            decoder(
                num_hidden_layers=3,
                local_attention=2 * WINDOW,
                layer_types=["full_attention", "sliding_attention", "sliding_attention"],
                cls_token_id=BOS,
                sep_token_id=EOS,
            ),
            "num_key_value_heads",
        ),
        ("norm skipped in the first layer", "rope base per layer type", "head with its own mlp"),
    ),
    ZooModel(
        "doge", "DogeConfig", decoder(keep_window_size=512), ("dynamic mask",), expected="refused"
    ),
    ZooModel(
        "minicpm3",
        "MiniCPM3Config",
        decoder(
            num_key_value_heads=4,
            kv_lora_rank=16,
            q_lora_rank=24,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=12,
            scale_emb=6,
            scale_depth=1.4,
            dim_model_base=32,
        ),
        ("latent attention", "value heads of another size"),
        embedding_std=0.06,
    ),
    ZooModel(
        "youtu",
        "YoutuConfig",
        decoder(
            num_key_value_heads=4,
            kv_lora_rank=16,
            q_lora_rank=24,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=12,
        ),
        ("latent attention", "interleaved rope"),
    ),
    ZooModel(
        "granite-hybrid-attention",
        "GraniteMoeHybridConfig",
        decoder(
            layer_types=["attention", "attention"],
            num_local_experts=0,
            shared_intermediate_size=96,
            attention_multiplier=0.3,
        ),
        ("hybrid family without its recurrent layers", "no positions"),
    ),
    ZooModel(
        "hrm-text",
        "HrmTextConfig",
        without(decoder(head_dim=HEAD, num_layers_per_stack=1), "num_key_value_heads"),
        ("layers that run several times",),
    ),
    ZooModel(
        "beam",
        "BeamConfig",
        decoder(sliding_window=WINDOW),
        ("windowed and full layers",),
    ),
)
