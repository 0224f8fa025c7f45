"""Config fields that nothing would honour.

A field of `config.json` that the config class doesn't declare, that nothing reads while the model
is built and traced, and that isn't known to be inert, would be ignored silently: a checkpoint of
a changed architecture under an old name. `unread_fields` finds such fields, so that the compile
can refuse them by name. What the class declares is the model code's own business, and that code is
what is traced; that our parts of the trace honour it, the probe checks against eager.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
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
    """Fields of the raw `config.json` that are neither declared, read, nor known to be inert.

    `rope_*` fields count as read if the standardized `rope_parameters` were. Fields that are off
    (null, false) can't matter.
    """
    known = INERT | reads | _declared(type(config))
    if {"rope_parameters", "rope_scaling"} & reads:
        known |= {name for name in raw if name.startswith(("rope_", "partial_rotary"))}
    return sorted(
        name
        for name, value in raw.items()
        if name not in known
        and not name.startswith("_")
        and not name.endswith("_token_id")
        and value not in (None, False)
    )


def _declared(cls: Any) -> set[str]:
    """Names that a config class takes, under every name it has for them."""
    bases = cls.__mro__
    names = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    for base in bases:
        if "__init__" in vars(base):
            names |= set(inspect.signature(base.__init__).parameters)
    aliases = getattr(cls, "attribute_map", {})
    return names | set(aliases) | set(aliases.values())
