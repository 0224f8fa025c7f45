"""Rotary embeddings as a GGUF file's metadata states them: base, width and scaling.

In: a `GgufFile`, and the config made of its metadata. Out: config fields under which transformers
computes the same frequencies. Factors that lie in tensors are `gguf_rope.py`'s.

The formulas are llama.cpp's (`ggml_rope_ext`, `src/llama-context.cpp`): inverse frequencies
`base^(-2i/d)` for d rotated dimensions, divided by `factor` (linear), or blended between divided
and plain ones (YaRN); sines and cosines are multiplied by `attn_factor`, with YaRN also by
`1 + 0.1 ln(factor)`. A factor without a type is linear; `rope.scale_linear` is its older name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.errors import LlmcError
from .buffers import compute_buffers
from .gguf_file import GgufFile
from .gguf_metadata import uniform
from .trace import build_on_meta

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_KNOWN = frozenset(
    f"rope.{key}"
    for key in (
        "dimension_count", "dimension_count_swa", "dimension_sections", "freq_base",
        "freq_base_swa", "scale_linear", "scaling.type", "scaling.factor", "scaling.attn_factor",
        "scaling.original_context_length", "scaling.finetuned", "scaling.yarn_ext_factor",
        "scaling.yarn_attn_factor", "scaling.yarn_beta_fast", "scaling.yarn_beta_slow",
        "scaling.alpha", "scaling.yarn_log_multiplier",
    )
)  # fmt: skip
_BASE = 10000.0
_FULL, _WINDOWS = "full_attention", "sliding_attention"
_ROUNDING = 1e-5  # of powers and divisions in float32, relative


def stated_rope(
    file: GgufFile, config: PreTrainedConfig, taken: frozenset[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config's `rope_parameters` as `file` states them, {} if they are that already; notes.

    `taken` are keys that were read for this architecture in a way of its own.

    Raises:
        LlmcError: E0403 for what the model's rotary embedding can't do, E0418 for keys that are no
            numbers.
    """
    prefix = f"{file.architecture}."
    keys = [n.removeprefix(prefix) for n in file.entries if n.startswith(f"{prefix}rope.")]
    notes = tuple(
        f"the metadata {prefix}{key} is not known: left out" for key in keys if key not in _KNOWN
    )
    keys = [key for key in keys if key not in taken and key in _KNOWN]
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, Mapping) or not rope:
        if [key for key in keys if key != "rope.scaling.finetuned"]:
            raise _refused(file, f"it has {prefix}{keys[0]}, the model no rotary embedding")
        return {}, notes
    nested = _FULL in rope
    full = dict(rope[_FULL] if nested else rope)
    _refuse_unknown_scaling(file)
    new = _with_scaling(file, config, _base(file, config, full, taken, nested))
    if not nested:
        _refuse_other_windows(file, new)
    changed = {**rope, _FULL: new, _WINDOWS: _windows(file, rope)} if nested else new
    return ({} if _equal(changed, rope) else {"rope_parameters": changed}), notes


def check_stated_rope(file: GgufFile, config: PreTrainedConfig) -> None:
    """Refuse a model that makes other rotary tables of `config` than llama.cpp's formulas do.

    Raises:
        LlmcError: E0403.
    """
    rope = config.rope_parameters
    assert isinstance(rope, Mapping)
    parts = {kind: rope[kind] for kind in (_FULL, _WINDOWS)} if _FULL in rope else {"": rope}
    buffers, _ = compute_buffers(build_on_meta(config), 1)
    for kind, part in parts.items():
        wanted = _frequencies(config, part)
        tables = [t for name, t in buffers.items() if _is_table(name, kind)]
        if wanted is None or not tables:
            continue
        for table in tables:
            found = table.double().numpy()
            close = found.shape == wanted.shape and np.allclose(
                found, wanted, rtol=_ROUNDING, atol=0
            )
            if not close:
                raise _refused(file, f"{config.model_type} computes its rotary tables by itself")


def _is_table(name: str, kind: str) -> bool:
    last = name.split(".")[-1]
    return last == (f"{kind}_inv_freq" if kind else "inv_freq")


def _base(
    file: GgufFile, config: PreTrainedConfig, full: dict[str, Any], taken: frozenset[str],
    nested: bool,
) -> dict[str, Any]:  # fmt: skip
    """Base and width; what else the class has for its kind of table stays."""
    ours = full.get("rope_type", "default") in _OURS
    new = {key: value for key, value in full.items() if not (ours and key in _SCALING_FIELDS)}
    new.setdefault("rope_type", "default")
    if "rope.freq_base" not in taken:
        default = full.get("rope_theta", _BASE) if nested else _BASE
        new["rope_theta"] = _number(file, "rope.freq_base", default)
    rotated = _number(file, "rope.dimension_count", 0.0)
    if rotated and "rope.dimension_count" not in taken and new["rope_type"] == "default":
        head = _head_dim(config)
        if head and int(head * new.get("partial_rotary_factor", 1.0)) != rotated:
            new["partial_rotary_factor"] = rotated / head
    return new


_OURS = ("linear", "yarn")
_SCALING_FIELDS = frozenset({
    "rope_type", "factor", "attention_factor", "beta_fast", "beta_slow", "truncate", "mscale",
    "mscale_all_dim", "original_max_position_embeddings",
})  # fmt: skip


def _with_scaling(file: GgufFile, config: PreTrainedConfig, new: dict[str, Any]) -> dict[str, Any]:
    kind = file.get(_key(file, "rope.scaling.type"), "linear") or "none"
    factor = _number(file, "rope.scaling.factor", 0.0) or _number(file, "rope.scale_linear", 0.0)
    attention = _number(file, "rope.scaling.attn_factor", 1.0)
    if kind == "yarn" and factor not in (0.0, 1.0):
        return new | _yarn(file, config, factor, attention)
    if kind == "linear" and factor not in (0.0, 1.0):
        new |= {"rope_type": "linear", "factor": factor}
    if attention != 1.0 and not _has_factors(file):
        raise _refused(file, f"rope.scaling.attn_factor {attention:g} with {kind} scaling")
    return new


def _yarn(
    file: GgufFile, config: PreTrainedConfig, factor: float, attention: float
) -> dict[str, Any]:
    context = file.get(_key(file, "context_length"))
    original = file.get(_key(file, "rope.scaling.original_context_length"), context)
    if not isinstance(original, int) or original < 1:
        raise LlmcError(
            "LLMC-E0418",
            f"{file.file.path.name}: rope scaling of an original context of {original}",
        )
    default = type(config)().rope_parameters or {}
    own = default if default.get("rope_type") == "yarn" else {}
    magnitude = 1.0 + 0.1 * math.log(factor) if factor > 1 else 1.0
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": _number(file, "rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": _number(file, "rope.scaling.yarn_beta_slow", 1.0),
        "attention_factor": _number(file, "rope.scaling.yarn_attn_factor", magnitude) * attention,
        # No key says whether the blended range ends at whole dimensions; a class may.
        **({"truncate": own["truncate"]} if "truncate" in own else {}),
    }


def _refuse_unknown_scaling(file: GgufFile) -> None:
    kind = file.get(_key(file, "rope.scaling.type"), "linear")
    known = kind in ("none", "", "linear", "yarn") or (kind == "longrope" and _has_factors(file))
    if not known:
        raise _refused(file, f"its rope scaling {kind!r:.40} is not known, or lacks its factors")
    for key, neutral in (("scaling.alpha", (0.0,)), ("scaling.yarn_log_multiplier", (0.0,)),
                         ("scaling.yarn_ext_factor", (1.0, -1.0))):  # fmt: skip
        value = _number(file, f"rope.{key}", neutral[0])
        if value not in neutral:
            raise _refused(file, f"rope.{key} = {value:g}")


def _has_factors(file: GgufFile) -> bool:
    return any(name.startswith("rope_factors_") for name in file.tensors)


def _windows(file: GgufFile, rope: Mapping[str, Any]) -> dict[str, Any]:
    """The table of layers with a window: never scaled."""
    own = dict(rope[_WINDOWS])
    return own | {"rope_theta": _number(file, "rope.freq_base_swa", own["rope_theta"])}


def _refuse_other_windows(file: GgufFile, new: dict[str, Any]) -> None:
    base = _number(file, "rope.freq_base_swa", new["rope_theta"])
    width = file.get(_key(file, "rope.dimension_count"))
    if (
        base != new["rope_theta"]
        or file.get(_key(file, "rope.dimension_count_swa"), width) != width
    ):
        raise _refused(file, "layers with a window have rotary tables of their own")


def _frequencies(config: PreTrainedConfig, rope: Mapping[str, Any]) -> np.ndarray | None:
    """Inverse frequencies by llama.cpp's formulas, f64 [rotated / 2]; None for other kinds."""
    kind, base = rope["rope_type"], float(rope["rope_theta"])
    rotated = int(_head_dim(config) * rope.get("partial_rotary_factor", 1.0))
    place = np.arange(rotated // 2)
    plain = base ** -(place / (rotated / 2))
    if kind == "default":
        return plain
    if kind == "linear":
        return plain / rope["factor"]
    if kind != "yarn":
        return None
    original = rope["original_max_position_embeddings"]

    def dimension(turns: float) -> float:
        return rotated * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(rope["beta_fast"]), dimension(rope["beta_slow"])
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(0, low), min(rotated - 1, high)
    divided = np.clip((place - low) / max(0.001, high - low), 0, 1)
    return plain * (1 - divided) + plain / rope["factor"] * divided


def _head_dim(config: PreTrainedConfig) -> int:
    own = getattr(config, "head_dim", None)
    return own or config.hidden_size // config.num_attention_heads


def _key(file: GgufFile, key: str) -> str:
    return f"{file.architecture}.{key}"


def _number(file: GgufFile, key: str, default: float) -> float:
    value = uniform(file, key, file.get(_key(file, key), default))
    bad = isinstance(value, bool) or not isinstance(value, int | float)
    least = -1 if key.endswith("ext_factor") else 1e-9 if "freq_base" in key else 0
    if bad or not math.isfinite(value) or value < least:
        raise LlmcError("LLMC-E0418", f"{file.file.path.name}: {_key(file, key)} is {value!r:.40}")
    return float(value)


def _equal(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    if new.keys() != old.keys():
        return False
    return all(
        _equal(new[k], old[k]) if isinstance(new[k], Mapping) else new[k] == old[k] for k in new
    )


def _refused(file: GgufFile, what: str) -> LlmcError:
    return LlmcError("LLMC-E0403", f"{file.file.path.name}: {what}: it can't be applied")
