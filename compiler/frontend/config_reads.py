"""Which config fields a model reads while it is built and traced.

A field of `config.json` that matters and that nothing read would be ignored silently;
`unread_fields` finds such fields, so that the compile can refuse them by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

INERT = frozenset({
    "_name_or_path", "architectures", "auto_map", "bos_token_id", "decoder_start_token_id",
    "dtype", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "id2label",
    "initializer_range", "is_decoder", "is_encoder_decoder", "label2id", "max_position_embeddings",
    "max_window_layers", "model_type", "output_attentions", "output_hidden_states",
    "output_router_logits", "pad_token_id", "pretraining_tp", "problem_type", "return_dict",
    "router_aux_loss_coef", "sep_token_id", "tie_word_embeddings", "tokenizer_class",
    "torch_dtype", "torchscript", "transformers_version", "transformers.js_config",
    "unsloth_version", "use_cache", "use_sliding_window", "vocab_size", "is_llama_config",
    "quantization_config", "attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop",
    "attn_pdrop", "router_jitter_noise", "rope_interleaved", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "add_cross_attention", "tie_encoder_decoder",
    "task_specific_params",
})  # fmt: skip
"""Fields that don't change a causal language model's logits (names, training, generation).

Some (`max_position_embeddings`, `vocab_size`) are checked elsewhere: by the weights'
shapes and by the artifact's context limit.
"""


@contextlib.contextmanager
def record_reads(config: Any) -> Iterator[set[str]]:
    """Collect the names of attributes read from `config` (and its sub-configs) in the block."""
    reads: set[str] = set()
    cls: Any = type(config)
    original = cls.__getattribute__

    def recording(self: Any, name: str) -> Any:
        reads.add(name)
        return original(self, name)

    cls.__getattribute__ = recording
    try:
        yield reads
    finally:
        cls.__getattribute__ = original


def unread_fields(raw: dict[str, Any], config: Any, reads: frozenset[str]) -> list[str]:
    """Fields of the raw `config.json` that were neither read nor are known to be inert.

    A field under an old name counts as read if the config's attribute map leads to a
    name that was, and `rope_*` fields if the standardized `rope_parameters` were.
    """
    aliases = getattr(type(config), "attribute_map", {})
    rope_read = bool({"rope_parameters", "rope_scaling"} & reads)
    result = []
    for name, value in raw.items():
        known = name in INERT or name in reads or aliases.get(name, name) in reads
        if known or name.startswith("_") or name.endswith("_token_id") or value in (None, False):
            continue
        if rope_read and name.startswith(("rope_", "partial_rotary")):
            continue
        result.append(name)
    return sorted(result)
