"""The sizes of a model's config, and what they become in a narrow twin of it.

In: the fields of a `transformers` text config (`to_dict()`). Out: the fields to change, so that a
model of the new config is small but of the same kind: heads are shared alike, fewer experts are
chosen than there are, windows, chunks and rope thresholds lie within a short text. How many layers
there are is decided in `twin.py`. Names are those that config classes of `transformers` use for
one thing or another; a name that a config lacks is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .narrow_scans import narrow_scans

WINDOW = 8
"""Sliding windows and attention chunks of a twin, in tokens."""
BLOCK = 16
"""Blocks of scans and linear attention, in tokens: one step of the probe spans several."""
THRESHOLD = 32
"""Original context length of a twin's rotary tables, in tokens."""
POSITIONS = 4 * THRESHOLD
"""The longest position that a twin claims."""
VOCAB = 288

Fields = Mapping[str, Any]

_MOST: tuple[tuple[int, tuple[str, ...]], ...] = (
    (VOCAB, ("vocab_size", "vocab_size_per_layer_input")),
    (96, ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "n_inner", "ffn_hidden_size", "dff",
          "feed_forward_size", "intermediate_size_mlp", "dense_intermediate_size", "dim_ff",
          "alignment_intermediate_size")),
    (64, ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size",
          "shared_intermediate_size", "moe_shared_expert_intermediate_size",
          "shared_experts_intermediate_size", "q_lora_rank")),
    (32, ("kv_lora_rank", "hidden_size_per_layer_input")),
    # An index sums positive parts over its heads: few of them leave many scores at exactly 0, and
    # which of equal ones are chosen is nobody's promise.
    (16, ("laurel_rank", "dim_model_base", "state_size", "ssm_state_size", "mamba_d_state",
          "time_step_rank", "mamba_dt_rank", "index_n_heads")),
    (8, ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
         "num_routed_experts")),
    (2, ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts",
         "moe_topk", "moe_k", "moe_top_k", "num_selected_experts", "n_shared_experts",
         "num_shared_experts", "moe_num_shared_experts", "zero_expert_num")),
    (WINDOW, ("sliding_window", "sliding_window_size", "attention_window_size", "window_size",
              "local_attention", "attention_chunk_size", "index_topk", "floor_scale")),
    (BLOCK, ("block_size", "chunk_size", "mamba_chunk_size", "index_block_size")),
    (THRESHOLD, ("original_max_position_embeddings",)),
    (POSITIONS, ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len",
                 "model_max_length", "max_target_positions")),
)  # fmt: skip
"""The most that a size, or each entry of a list of sizes, may be."""

_GROUPS = ("n_group", "num_expert_group")
_CHOSEN_GROUPS = ("topk_group", "num_limited_groups")

_HIDDEN = ("hidden_size", "n_embd", "d_model", "embedding_dim")
_HEAD_DIM = ("head_dim", "attention_head_dim", "d_head", "attention_head_size", "dim_head")
_HEADS = (
    ("num_attention_heads", ("num_key_value_heads", "num_global_key_value_heads",
                             "num_kv_heads", "num_query_groups", "multi_query_group_num")),
    ("n_head", ("n_head_kv",)),
    ("n_heads", ()),
    ("num_heads", ()),
    ("attention_heads", ()),
    ("decoder_attention_heads", ()),
    ("swa_num_attention_heads", ("swa_num_key_value_heads",)),
    ("linear_num_value_heads", ("linear_num_key_heads",)),
    ("linear_num_heads", ()),
)  # fmt: skip
"""Heads of queries (or values), and those of which several of them share one."""
_ATTENTION_WIDTH = 512
"""Heads times their size in a twin, about."""


def narrowed(fields: Fields, heads: bool = True) -> dict[str, Any]:
    """The fields of a config that a narrow model has different, with their new values.

    `heads`: fewer heads and a smaller hidden size; without, both stay as they are, for the rare
    config whose other fields depend on them.
    """
    new = _capped(fields)
    new |= _experts(fields)
    new |= _rope(fields)
    if heads:
        new |= _few_heads(fields)
    for token, name in enumerate(("pad_token_id", "bos_token_id", "eos_token_id")):
        if fields.get(name) is not None:
            new[name] = token
    for name, value in fields.items():
        if is_by_layer(value):
            new[name] = {i: _of_layer(fields, new, own) for i, own in value.items()}
    return {name: value for name, value in new.items() if fields[name] != value}


def is_by_layer(value: Any) -> bool:
    """Whether a field holds what single layers have different, by the layer's number."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(str(i).isdecimal() and isinstance(own, Mapping) for i, own in value.items())
    )


def _of_layer(fields: Fields, new: Fields, own: Fields) -> dict[str, Any]:
    """What a layer has different, as narrow as the model: it has the heads of all layers."""
    together = {**fields, **own}
    sizes = {**together, **_capped(together), **_experts(together)}
    for heads, shared in _HEADS:
        if heads in own:
            sizes |= {n: few for n, few in _few_heads(together).items() if n in (heads, *shared)}
            continue
        for name in _present(own, shared):
            if _is_size(fields.get(heads)):
                sizes[name] = max(1, new.get(heads, fields[heads]) * own[name] // fields[heads])
    return {name: sizes[name] for name in own}


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _present(fields: Fields, names: Iterable[str]) -> list[str]:
    """Those of `names` that are sizes in `fields`."""
    return [name for name in names if _is_size(fields.get(name))]


def _capped(fields: Fields) -> dict[str, Any]:
    """Sizes, and lists of a size for each layer, that are over what a twin may have."""
    new: dict[str, Any] = {}
    for most, names in _MOST:
        for name in names:
            value: Any = fields.get(name)
            if _is_size(value):
                new[name] = min(value, most)
            elif isinstance(value, list) and all(map(_is_size, value)):
                new[name] = [min(size, most) for size in value]
    return new


def _experts(fields: Fields) -> dict[str, Any]:
    """Where experts stand in groups: two or more a group, fewer groups chosen than there are."""
    new: dict[str, Any] = {}
    groups = next((fields[n] for n in _present(fields, _GROUPS)), 1)
    if groups > 1:
        few = min(groups, 4)
        new |= dict.fromkeys(_present(fields, _GROUPS), few)
        for name in _present(fields, _CHOSEN_GROUPS):
            new[name] = min(fields[name], few - 1, 2)
    return new


def _rope(fields: Fields) -> dict[str, Any]:
    """Rope thresholds within a short text; `rope_parameters` may be one, or one a layer type."""
    rope = fields.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return {}

    def early(part: Any) -> Any:
        if isinstance(part, Mapping) and part.get("original_max_position_embeddings"):
            return {**part, "original_max_position_embeddings": THRESHOLD}
        return part

    return {"rope_parameters": early({key: early(value) for key, value in rope.items()})}


def _few_heads(fields: Fields) -> dict[str, Any]:
    """Fewer heads of the same size that share keys and values alike, and a hidden size for them."""
    new: dict[str, Any] = {}
    hidden = _present(fields, _HIDDEN)
    width = fields[hidden[0]] if hidden else 0
    for name, shared in _HEADS:
        if not _is_size(fields.get(name)):
            continue
        heads = fields[name]
        size = _head_size(fields, width, heads)
        if size is None:
            continue
        others = _present(fields, shared)
        few, few_kv = _head_counts(heads, fields[others[0]] if others else heads, size)
        new[name] = few
        for other in others[1:]:
            new[other] = max(1, few * fields[other] // heads)
        new |= dict.fromkeys(others[:1], few_kv)
        if not name.startswith(("swa_", "linear_")):
            new |= dict.fromkeys(hidden, _hidden_size(fields, width, heads * size, few * size))
    if hidden and "state_size" in fields:  # scans alone, often without heads
        new.setdefault(hidden[0], min(width, 128))
    if hidden:
        narrow = new.get(hidden[0], width)
        new |= _wide_heads(fields, width, narrow) | narrow_scans(fields, width, narrow)
    if "word_embed_proj_dim" in fields and fields["word_embed_proj_dim"] == width:
        new["word_embed_proj_dim"] = new.get(hidden[0], width)
    return new


def _wide_heads(fields: Fields, width: int, narrow: int) -> dict[str, Any]:
    """Heads that are together a stated multiple of the hidden size wide, whatever their size."""
    names = ("attention_hidden_size", "attention_head_dim", "num_attention_heads")
    if len(_present(fields, names)) < len(names):
        return {}
    wide, size, heads = (fields[name] for name in names)
    if heads * size != wide:
        return {}
    few = min(heads, 4)
    new = {"attention_hidden_size": wide * narrow // width, "num_attention_heads": few}
    kept = ("num_key_value_heads", "num_query_groups")
    new |= {name: few for name in _present(fields, kept) if fields[name] == heads}
    return new | {"attention_head_dim": new["attention_hidden_size"] // few}


def _head_size(fields: Fields, width: int, heads: int) -> int | None:
    """Elements of a head; None where they can't be told."""
    stated = _present(fields, _HEAD_DIM)
    if stated:
        return fields[stated[0]]
    latent = _present(fields, ("v_head_dim",))
    if latent:
        return fields[latent[0]]
    return width // heads if width and width % heads == 0 else None


def _head_counts(heads: int, kv: int, size: int) -> tuple[int, int]:
    """A twin's heads of `size` elements, and how many keys and values they share.

    Each head has its own where that is so (`kv == heads`), all share one where they do, and else
    two are shared, each by as many heads as fit.
    """
    fitting = max(2, min(4, _ATTENTION_WIDTH // size))
    if kv == heads or heads % kv:
        few = min(heads, fitting)
        return few, few
    few_kv = min(kv, 2)
    few = few_kv * min(heads // kv, max(2, fitting // few_kv))
    return few, few_kv


def _hidden_size(fields: Fields, width: int, attention: int, few: int) -> int:
    """Equal to the heads' width where it was, and else different from it."""
    if width == attention and "v_head_dim" not in fields:
        return few
    return min(width, 128 if few != 128 else 192)
