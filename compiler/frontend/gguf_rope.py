"""Rotary frequencies that a GGUF file scales by tensors: Llama 3.1 and later, LongRoPE.

In: a `GgufFile` with `rope_freqs.weight`, or with `rope_factors_long.weight` and its short twin,
and the config made of its metadata. Out: config fields under which transformers computes the same
frequencies, so that trace, probe, quality gate and eager model all see one model.

llama.cpp divides each inverse frequency by its factor: `theta^(-2i/d) / factor[i]`, factors f32
[d/2] for d rotated dimensions (`ggml_rope_ext`; `convert_hf_to_gguf.py` makes `rope_freqs` from the
parameters of `llama3`, which the file doesn't hold). transformers has the same formula for
`longrope`, which takes one list for short contexts and another for long ones: `rope_freqs` is both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...base.errors import LlmcError
from .buffers import compute_buffers
from .gguf_file import GgufFile
from .trace import build_on_meta

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_ANY, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = frozenset((_ANY, _LONG, _SHORT))
_ROUNDING = 1e-5  # of a power and a division in float32, relative


def scaled_rope(file: GgufFile, config: PreTrainedConfig) -> dict[str, Any]:
    """Config fields with the factors that `file` holds, for a model of `config` without them.

    Raises:
        LlmcError: E0406 a list of factors is missing, E0407, E0408 or E0418 they are no positive
            numbers, E0403 the model's rotary embedding can't take them.
    """
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or rope.get("rope_type") != "default":
        raise _not_taken(file, f"its rotary embedding is {_kind(rope)}")
    if _ANY in file.tensors and not file.tensors.keys() & {_LONG, _SHORT}:
        long = short = _factors(file, _ANY)
        original = getattr(config, "max_position_embeddings", None)
    else:
        long, short = _factors(file, _LONG), _factors(file, _SHORT)
        original = file.get(f"{file.architecture}.rope.scaling.original_context_length")
    if not isinstance(original, int) or original < 1:
        raise LlmcError(
            "LLMC-E0418",
            f"{file.file.path.name} has rope factors but no original_context_length for them",
        )
    attention = file.get(f"{file.architecture}.rope.scaling.attn_factor", 1.0)
    parameters = {
        "rope_theta": rope["rope_theta"],
        **_partial(file, config),
        "rope_type": "longrope",
        "long_factor": long,
        "short_factor": short,
        "original_max_position_embeddings": original,
        "factor": 1.0,  # only says what `attention_factor` is without one
        "attention_factor": float(attention),
    }
    # Where a config has the field itself, transformers prefers it.
    own = hasattr(config, "original_max_position_embeddings")
    stated = {"original_max_position_embeddings": original} if own else {}
    return {"rope_parameters": parameters, **stated}


def check_rope(file: GgufFile, config: PreTrainedConfig) -> None:
    """Refuse a model that makes its rotary tables in another way than `config` asks for.

    Raises:
        LlmcError: E0403; E0406 the factors aren't one for each frequency.
    """
    rope = config.rope_parameters
    assert isinstance(rope, Mapping)
    count = _rotated(config, rope) // 2
    for key in ("long_factor", "short_factor"):
        if len(rope[key]) != count:
            raise LlmcError(
                "LLMC-E0406",
                f"{file.file.path.name} has {len(rope[key])} rope factors, "
                f"the model {count} rotary frequencies",
            )
    buffers, _ = compute_buffers(build_on_meta(config), 1)  # one token: the short factors
    exponents = np.arange(count, dtype=np.float64) / count
    wanted = float(rope["rope_theta"]) ** -exponents / np.array(rope["short_factor"])
    tables = [value for name, value in buffers.items() if name.split(".")[-1] == "inv_freq"]
    if not tables or not all(_equal(table, wanted) for table in tables):
        raise _not_taken(file, f"{config.model_type} computes its rotary tables by itself")


def _equal(table: torch.Tensor, wanted: np.ndarray) -> bool:
    found = table.double().numpy()
    return found.shape == wanted.shape and bool(np.allclose(found, wanted, rtol=_ROUNDING, atol=0))


def _factors(file: GgufFile, name: str) -> list[float]:
    """The values of a factor tensor, f32 [rotary frequencies]."""
    tensor = file.tensors.get(name)
    if tensor is None or len(tensor.of) != 1:
        what = "lacks" if tensor is None else "has a matrix for"
        raise LlmcError("LLMC-E0406", f"{file.file.path.name} {what} {name}")
    if tensor.stored not in ("f32", "f16", "bf16"):
        raise LlmcError("LLMC-E0407", f"{name} is stored as {tensor.stored}")
    values = file.rows(tensor, np.arange(tensor.of[0])).reshape(-1)
    if not (values > 0).all():
        raise LlmcError("LLMC-E0418", f"{name} holds a factor that is not above 0")
    return [float(value) for value in values]


def _partial(file: GgufFile, config: PreTrainedConfig) -> dict[str, float]:
    """How much of a head is rotated, if the file says that it isn't all."""
    rotated = file.get(f"{file.architecture}.rope.dimension_count")
    head = _head_dim(config)
    if not isinstance(rotated, int) or rotated == head:
        return {}
    return {"partial_rotary_factor": rotated / head}


def _head_dim(config: PreTrainedConfig) -> int:
    own = getattr(config, "head_dim", None)
    return own or config.hidden_size // config.num_attention_heads


def _rotated(config: PreTrainedConfig, rope: Mapping[str, Any]) -> int:
    return int(_head_dim(config) * rope.get("partial_rotary_factor", 1.0))


def _kind(rope: Any) -> str:
    if not isinstance(rope, dict):
        return "not one that transformers scales"
    return repr(rope["rope_type"]) if "rope_type" in rope else "another one in each kind of layer"


def _not_taken(file: GgufFile, reason: str) -> LlmcError:
    name = min(file.tensors.keys() & ROPE_TENSORS)
    return LlmcError(
        "LLMC-E0403", f"the factors {name} of {file.file.path.name} can't be applied: {reason}"
    )
