"""NVIDIA ModelOpt: FP8 with one scale a tensor, and NVFP4.

NVFP4: `X.weight` u8 [N, K / 2] with `X.weight_scale` E4M3 [N, K / 16] and `X.weight_scale_2`, one
number; value = code * weight_scale * weight_scale_2.

Source: the unified checkpoints that `export_hf_checkpoint` of ModelOpt writes.
"""

from __future__ import annotations

from . import fp8
from .parts import Parts
from .scales import find_scales
from .settings import Settings
from .small_floats import float4_weight
from .weight import Taken

_GROUP = 16


def take(settings: Settings, parts: Parts) -> Taken:
    """The weights of a ModelOpt checkpoint.

    Raises:
        LlmcError: E0406, E0407 a part is missing, of another shape or type; E0419 another
            algorithm.
    """
    algorithm = str(settings.get("quant_algo") or settings.get("quant_method")).upper()
    if algorithm in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO"):
        return fp8.take(settings, parts)
    if algorithm not in ("NVFP4", "FP4", "MODELOPT-FP4", "NVFP4_AWQ"):
        raise settings.unknown(f"algorithm {algorithm[:40]!r}")
    taken = Taken()
    for name in parts.with_suffix(".weight_scale_2"):
        packed = parts.matrix(f"{name}.weight", "u8")
        shape = (packed.of[0], 2 * packed.of[1])
        factor = parts.number(f"{name}.weight_scale_2")
        scales = find_scales(f"{name}.weight_scale", parts, shape, (1, _GROUP))
        taken.weights[f"{name}.weight"] = float4_weight(
            shape, parts.bytes_of(packed), scales, factor
        )
        taken.parts |= {f"{name}.{p}" for p in ("weight", "weight_scale", "weight_scale_2")}
    fp8.drop_activation_scales(taken, parts)
    return taken
