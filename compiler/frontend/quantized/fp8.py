"""Checkpoints in 8-bit floats: DeepSeek's blocks, one scale a tensor or a row, fused experts.

Each weight `X` in E4M3 or E5M2 has its scales beside it, under one of `_SCALES`; blocks are those
of `weight_block_size`, 128 x 128 if nothing is said. Weights of packed 4-bit floats (bytes, with a
power of two for 32 columns) may be among them. Scales of activations aren't used: inputs are
rounded to what each step brings.

Source: `FineGrainedFP8Config`, `FbgemmFp8Config` and `Fp8Dequantize` of transformers, and the
exports of NVIDIA's ModelOpt.
"""

from __future__ import annotations

from ....base.errors import LlmcError
from ....weights.recipes import CheckpointTensor
from .parts import Parts
from .scales import find_scales
from .settings import Settings
from .small_floats import FLOAT8_WEIGHTS, MX_GROUP, float8_weight, mx_weight
from .weight import StoredWeight, Taken

_SCALES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
_FUSED = ("_scale_inv", "_scale")
_ACTIVATIONS = (
    ".activation_scale", ".input_scale", ".qscale_act", ".input_scale_ub", ".k_scale", ".v_scale",
    ".output_scale", ".q_scale", ".prob_output_scale",
)  # fmt: skip


def take(settings: Settings, parts: Parts) -> Taken:
    """The weights of a checkpoint in 8-bit floats.

    Raises:
        LlmcError: E0406, E0407 scales that don't fit; E0418 a setting makes no sense.
    """
    taken, block = Taken(), _block_size(settings)
    for name, tensor in parts.tensors.items():
        scales = _scales_of(name, parts)
        if tensor.stored not in (*FLOAT8_WEIGHTS, "i8", "u8") or scales is None:
            continue
        taken.weights[name] = _weight(tensor, scales, block, parts)
        taken.parts |= {name, scales}
    drop_activation_scales(taken, parts)
    return taken


def drop_activation_scales(taken: Taken, parts: Parts) -> None:
    """Leave out scales of inputs and of the cache, with a note."""
    dropped = {name for name in parts.tensors if name.endswith(_ACTIVATIONS)} - taken.parts
    if dropped:
        taken.dropped |= dropped
        taken.notes.append(
            f"{len(dropped)} scales of activations aren't used: inputs are rounded as they come"
        )


def _scales_of(name: str, parts: Parts) -> str | None:
    """The name of the scales of weight `name`, None if it has none."""
    names = [f"{name}{suffix}" for suffix in _FUSED]
    if name.endswith(".weight"):
        names = [name.removesuffix("weight") + scale for scale in _SCALES]
    return next((scale for scale in names if scale in parts.tensors), None)


def _weight(
    tensor: CheckpointTensor, scales: str, block: tuple[int, int], parts: Parts
) -> StoredWeight:
    if len(tensor.of) not in (2, 3):
        raise LlmcError("LLMC-E0406", f"{tensor.name} is {list(tensor.of)}, not a matrix")
    if tensor.stored in FLOAT8_WEIGHTS:
        return float8_weight(tensor, find_scales(scales, parts, tensor.of, block), parts)
    *lead, half = tensor.of
    shape = (*lead, 2 * half)
    exponents = parts.find(scales, ("u8", "e8m0"), (*lead, shape[-1] // MX_GROUP))
    return mx_weight(shape, parts.bytes_of(tensor), parts.bytes_of(exponents))


def _block_size(settings: Settings) -> tuple[int, int]:
    value = settings.get("weight_block_size")
    if value is None:
        return (128, 128)
    sizes = value if isinstance(value, list) else []
    if len(sizes) != 2 or not all(type(s) is int and 0 < s < 1 << 31 for s in sizes):
        raise settings.wrong("weight_block_size", value)
    return sizes[0], sizes[1]
