"""Every key of a GGUF file's metadata that describes its model, applied to the config or refused.

In: a `GgufFile`, and the config that transformers made of its metadata. Out: config fields under
which the config says all that the file says. transformers drops most keys, and the defaults of its
config classes are one checkpoint's: a key that was dropped would give another model.

Meanings, and what a missing key stands for, are llama.cpp's (`src/llama-arch.cpp`,
`src/llama-model.cpp`). Rotary embeddings have a file of their own, `gguf_rope_scaling.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...base.errors import LlmcError
from .gguf_file import GgufFile

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_HARMLESS = frozenset({
    "attention.rope_pattern", "classifier.output_labels", "decoder_block_count",
    "decoder_start_token_id", "embedding_length_out", "n_deepstack_layers", "deepstack_mapping",
    "rope.dimension_sections", "rope.scaling.finetuned", "tensor_data_layout", "vocab_size",
})  # fmt: skip
"""Keys that don't change the logits of text, or say again what tensors' shapes say."""
_MORE_LAYERS = "nextn_predict_layers"
ROPE = "rope."
_SCALE_OF_WIDTH = {("gemma2", 46), ("gemma3", 62)}
"""Architectures and layer counts whose attention is scaled by hidden size over heads."""


@dataclass(frozen=True, slots=True)
class _Key:
    """Names that config classes have for a key, and the values that need none of them.

    `neutral`: values under which a model without such a field is the one that the file describes.
    """

    fields: tuple[str, ...] = ()
    neutral: tuple[Any, ...] = ()


_OFF = (0, 0.0, False, None)
_KEYS: dict[str, _Key] = {
    "embedding_length": _Key(("hidden_size", "n_embd", "d_model")),
    "block_count": _Key(("num_hidden_layers", "n_layer", "num_layers")),
    "feed_forward_length": _Key(("intermediate_size", "ffn_hidden_size", "n_inner", "d_ff")),
    "attention.head_count": _Key(("num_attention_heads", "n_head", "num_heads"), _OFF),
    "attention.head_count_kv": _Key(("num_key_value_heads", "num_kv_heads"), _OFF),
    "attention.layer_norm_rms_epsilon": _Key(("rms_norm_eps", "norm_eps", "layer_norm_epsilon")),
    "attention.layer_norm_epsilon": _Key(
        ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
    ),
    "attention.group_norm_epsilon": _Key(("group_norm_eps",)),
    "attention.clamp_kqv": _Key(("clip_qkv",), _OFF),
    "attention.causal": _Key((), (True,)),
    "attention.q_lora_rank": _Key(("q_lora_rank",), _OFF),
    "attention.kv_lora_rank": _Key(("kv_lora_rank",), _OFF),
    "attention.shared_kv_layers": _Key(("num_kv_shared_layers",), _OFF),
    "attention.temperature_length": _Key((), _OFF),
    "attention.temperature_scale": _Key((), _OFF),
    "attention.output_scale": _Key((), (*_OFF, 1.0)),
    "attention.value_scale": _Key((), (*_OFF, 1.0)),
    "attention.relative_buckets_count": _Key(("relative_attention_num_buckets",)),
    "embedding_length_per_layer_input": _Key(("hidden_size_per_layer_input",), _OFF),
    "attn_logit_softcapping": _Key(("attn_logit_softcapping",), _OFF),
    "final_logit_softcapping": _Key(("final_logit_softcapping",), _OFF),
    "router_logit_softcapping": _Key(("router_logit_softcapping",), _OFF),
    "logit_scale": _Key(("logits_scaling", "logit_scale"), (*_OFF, 1.0)),
    "residual_scale": _Key(("residual_multiplier",), (*_OFF, 1.0)),
    "embedding_scale": _Key(("embedding_multiplier",), (*_OFF, 1.0)),
    "expert_count": _Key(("num_experts", "num_local_experts", "n_routed_experts"), _OFF),
    "expert_used_count": _Key(("num_experts_per_tok", "top_k_experts"), _OFF),
    "expert_feed_forward_length": _Key(("moe_intermediate_size", "intermediate_size"), _OFF),
    "expert_shared_feed_forward_length": _Key(("shared_expert_intermediate_size",), _OFF),
    "expert_shared_count": _Key(("n_shared_experts", "num_shared_experts"), _OFF),
    "expert_group_count": _Key(("n_group",), (*_OFF, 1)),
    "expert_group_used_count": _Key(("topk_group",), (*_OFF, 1)),
    "expert_weights_scale": _Key(("routed_scaling_factor",), (*_OFF, 1.0)),
    "expert_weights_norm": _Key(("norm_topk_prob",)),
    "expert_group_scale": _Key((), (*_OFF, 1.0)),
    "experts_per_group": _Key((), _OFF),
    "leading_dense_block_count": _Key(("first_k_dense_replace",), _OFF),
    "moe_every_n_layers": _Key(("decoder_sparse_step",), (*_OFF, 1)),
    "interleave_moe_layer_step": _Key(("interleave_moe_layer_step",), (*_OFF, 1)),
    "hidden_activation": _Key(("hidden_act", "hidden_activation", "activation_function")),
    "pooling_type": _Key((), _OFF),
    "swiglu_clamp_exp": _Key(("swiglu_limit",), _OFF),
    "swiglu_clamp_shexp": _Key((), _OFF),
    "use_parallel_residual": _Key(("use_parallel_residual", "parallel_attn"), (False,)),
    "ssm.conv_kernel": _Key(("conv_kernel", "linear_conv_kernel_dim")),
    "ssm.state_size": _Key(("state_size",)),
    "ssm.inner_size": _Key(("intermediate_size",)),
    "ssm.time_step_rank": _Key(("time_step_rank",)),
    "ssm.dt_b_c_rms": _Key(("use_mambapy_norms",), _OFF),
    "shortconv.l_cache": _Key(("conv_L_cache",)),
    _MORE_LAYERS: _Key((), _OFF),
}
_BY_LAYER = ("attention.sliding_window_pattern", "attention.recurrent_layers")
_LENGTHS = ("attention.key_length", "attention.value_length", "attention.sliding_window")
_GATES = {0: "softmax", 1: "softmax", 2: "sigmoid"}


def stated_fields(
    file: GgufFile, config: PreTrainedConfig, taken: frozenset[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of `config` that must change to say what `file` says, and lines on keys left out.

    `taken` are keys that were read for this architecture in a way of its own.

    Raises:
        LlmcError: E0403 for a key that `config` has no way to say, E0418 for one without sense.
    """
    changes: dict[str, Any] = {}
    notes = []
    for key, value in _keys(file, taken):
        special = _SPECIAL.get(key)
        if special is not None:
            single = value if key in _BY_LAYER else uniform(file, key, value)
            changes |= special(file, config, single)
        elif key in _KEYS:
            changes |= _applied(file, config, key, value)
        else:
            notes.append(f"the metadata {file.architecture}.{key} is not known: left out")
    if "attention.scale" not in taken and file.get(f"{file.architecture}.attention.scale") is None:
        changes |= _unstated_scale(file, config)
    return changes, tuple(notes)


def without_arrays(file: GgufFile, fields: dict[str, Any], taken: frozenset[str]) -> dict[str, Any]:
    """`fields` with one number for each array that has the same one for every layer.

    Raises:
        LlmcError: E0403 for an array of several values, which no config has a field for.
    """
    arrays = [
        (value, uniform(file, key, value))
        for key, value in _keys(file, taken)
        if isinstance(value, list) and (key in _KEYS or key in _LENGTHS)
    ]
    single = {name: one for name, found in fields.items() for many, one in arrays if found == many}
    return fields | single


def require_stated(file: GgufFile, config: PreTrainedConfig, changes: dict[str, Any]) -> None:
    """Refuse a config class that took other values than `changes`. Raises: E0403."""
    for field, value in changes.items():
        if not _same(getattr(config, field, None), value):
            raise _refused(file, f"its {field} {value!r:.60}", config)


def uniform(file: GgufFile, key: str, value: Any) -> Any:
    """The one value of an array with an entry for each layer. Raises: E0403 if they differ."""
    if not isinstance(value, list):
        return value
    if not value or any(item != value[0] for item in value):
        raise LlmcError(
            "LLMC-E0403",
            f"{file.file.path.name}: {file.architecture}.{key} differs between layers, which no "
            "config of this architecture can say",
        )
    return value[0]


def _keys(file: GgufFile, taken: frozenset[str]) -> Iterator[tuple[str, Any]]:
    prefix = f"{file.architecture}."
    for name, entry in file.entries.items():
        key = name.removeprefix(prefix)
        if name.startswith(prefix) and key not in taken | _HARMLESS and not key.startswith(ROPE):
            yield key, entry.value


def _applied(file: GgufFile, config: PreTrainedConfig, key: str, value: Any) -> dict[str, Any]:
    """The change that a key asks for; none if the config says it already."""
    value = uniform(file, key, value)
    known = _KEYS[key]
    field = next((name for name in known.fields if hasattr(config, name)), None)
    if field is None:
        neutral = (*known.neutral, *_implied(config, key))
        if any(_same(value, other) for other in neutral):
            return {}
        raise _refused(file, f"{file.architecture}.{key} = {value!r:.60}", config)
    if _same(getattr(config, field), value) or (
        getattr(config, field) is None and any(_same(value, other) for other in known.neutral)
    ):
        return {}
    return {field: value}


def _implied(config: PreTrainedConfig, key: str) -> tuple[Any, ...]:
    """What classes without a field for `key` always do."""
    if key == "feed_forward_length":
        return (4 * config.hidden_size,)
    if key == "attention.head_count_kv":
        return (getattr(config, "num_attention_heads", None),)
    return ()


def _head_dim(config: PreTrainedConfig) -> int:
    own = getattr(config, "head_dim", None)
    return own or config.hidden_size // config.num_attention_heads


def _context(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    """Which matters where positions are learned; some classes have no such field."""
    name = "max_position_embeddings"
    return {name: value} if getattr(config, name, value) != value else {}


def _key_length(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    for field in ("global_head_dim", "head_dim"):
        if getattr(config, field, None) is not None or hasattr(config, field):
            return {} if getattr(config, field) == value else {field: value}
    if value != _head_dim(config):
        raise _refused(file, f"{file.architecture}.attention.key_length = {value}", config)
    return {}


def _key_length_of_windows(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    if hasattr(config, "global_head_dim"):
        return {} if config.head_dim == value else {"head_dim": value}
    if value != file.get(f"{file.architecture}.attention.key_length"):
        raise _refused(file, f"{file.architecture}.attention.key_length_swa = {value}", config)
    return {}


def _value_length(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    """Values are as long as keys in every class that has no field for them."""
    prefix = file.architecture
    keys = uniform(file, "key_length", file.get(f"{prefix}.attention.key_length"))
    if value != (keys or _head_dim(config)):
        raise _refused(file, f"{prefix}.attention.value_length = {value}", config)
    return {}


def _scale(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    """A factor of attention's scores, instead of the root of the head's size."""
    if not isinstance(value, float | int) or not math.isfinite(value) or value < 0:
        raise LlmcError("LLMC-E0418", f"{file.file.path.name}: an attention.scale of {value!r:.40}")
    if value == 0:
        return {}
    if hasattr(config, "attention_multiplier"):
        return {} if _same(config.attention_multiplier, value) else {"attention_multiplier": value}
    if hasattr(config, "query_pre_attn_scalar"):
        return _scalar(config, value**-2)
    if not _same(value, _stated_head(file, config) ** -0.5):
        raise _refused(file, f"{file.architecture}.attention.scale = {value:g}", config)
    return {}


def _stated_head(file: GgufFile, config: PreTrainedConfig) -> int:
    length = file.get(f"{file.architecture}.attention.key_length")
    return length if isinstance(length, int) and length > 0 else _head_dim(config)


def _unstated_scale(file: GgufFile, config: PreTrainedConfig) -> dict[str, Any]:
    """What llama.cpp scales by where the file has no key and the config a number of its own."""
    if not hasattr(config, "query_pre_attn_scalar"):
        return {}
    layers = file.get(f"{file.architecture}.block_count")
    wide = (file.architecture, layers) in _SCALE_OF_WIDTH
    heads = config.num_attention_heads
    return _scalar(config, config.hidden_size // heads if wide else _stated_head(file, config))


def _scalar(config: PreTrainedConfig, value: float) -> dict[str, Any]:
    whole = round(value)
    value = whole if _same(value, whole) else value
    same = _same(config.query_pre_attn_scalar, value)
    return {} if same else {"query_pre_attn_scalar": value}


def _window(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    if hasattr(config, "sliding_window"):
        value = value or None
        return {} if config.sliding_window == value else {"sliding_window": value}
    context = file.get(f"{file.architecture}.context_length")
    numbers = isinstance(context, int) and isinstance(value, int)
    if value and not (numbers and value >= context):
        raise _refused(file, f"{file.architecture}.attention.sliding_window = {value}", config)
    return {}


def _window_pattern(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    """Which layers have a window: one flag a layer, or every n-th has none."""
    layers = config.num_hidden_layers
    if isinstance(value, list) and len(value) == layers:
        windows = [bool(item) for item in value]
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        windows = [value == 0 or i % value < value - 1 for i in range(layers)]
    else:
        raise LlmcError(
            "LLMC-E0418",
            f"{file.file.path.name}: attention.sliding_window_pattern says nothing of {layers} "
            "layers",
        )
    types = ["sliding_attention" if window else "full_attention" for window in windows]
    if getattr(config, "layer_types", None) is not None:
        return {} if list(config.layer_types) == types else {"layer_types": types}
    if any(windows) != bool(getattr(config, "sliding_window", None)) or len(set(windows)) > 1:
        key = f"{file.architecture}.attention.sliding_window_pattern"
        raise _refused(file, f"the windows of {key}", config)
    return {}


def _recurrent(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    """Which layers keep a state in place of keys and values: one flag a layer."""
    types = list(getattr(config, "layer_types", None) or ())
    flags = [bool(flag) for flag in value] if isinstance(value, list) else []
    if [kind == "linear_attention" for kind in types] != flags[: len(types)] or not types:
        raise _refused(file, f"{file.architecture}.attention.recurrent_layers", config)
    return {}


def _gate(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    """How scores of experts become weights: 1 softmax, 2 sigmoid, 3 softmax of those chosen."""
    if hasattr(config, "scoring_func") and value in _GATES:
        name = _GATES[value]
        return {} if config.scoring_func == name else {"scoring_func": name}
    if value not in ((0, 3) if "gpt" in file.architecture else (0, 1)):
        raise _refused(file, f"{file.architecture}.expert_gating_func = {value!r:.40}", config)
    return {}


def _bias(file: GgufFile, config: PreTrainedConfig, value: Any) -> dict[str, Any]:
    """ALiBi, whose slopes begin at 2^-8 in every class that has them."""
    alibi = getattr(config, "alibi", config.model_type == "bloom")
    if bool(value) != bool(alibi) or value not in (0, 8):
        raise _refused(file, f"{file.architecture}.attention.max_alibi_bias = {value}", config)
    return {}


_Special = Callable[[GgufFile, "PreTrainedConfig", Any], dict[str, Any]]
_SPECIAL: dict[str, _Special] = {
    "attention.key_length": _key_length,
    "context_length": _context,
    "attention.key_length_swa": _key_length_of_windows,
    "attention.value_length": _value_length,
    "attention.value_length_swa": lambda file, config, value: {},  # no class has it apart
    "attention.scale": _scale,
    "attention.sliding_window": _window,
    "attention.sliding_window_pattern": _window_pattern,
    "attention.max_alibi_bias": _bias,
    "attention.recurrent_layers": _recurrent,
    "expert_gating_func": _gate,
}


def _same(found: Any, value: Any) -> bool:
    numbers = (float, int)
    if isinstance(found, bool) or isinstance(value, bool):
        return found is value or (found in (0, 1) and value in (0, 1) and found == value)
    if isinstance(found, numbers) and isinstance(value, numbers):
        return math.isclose(found, value, rel_tol=1e-6)
    return found == value


def _refused(file: GgufFile, what: str, config: PreTrainedConfig) -> LlmcError:
    return LlmcError(
        "LLMC-E0403",
        f"{file.file.path.name}: {what} can't be applied to transformers' {type(config).__name__}",
    )
