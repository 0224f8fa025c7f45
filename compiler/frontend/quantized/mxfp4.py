"""MXFP4 as GPT-OSS has it: the experts' matrices in 4-bit floats.

| tensor     | type, shape               |                                                   |
|------------|---------------------------|---------------------------------------------------|
| `X_blocks` | u8 [E, N, K / 32, 16]     | two codes a byte, the first in the low half       |
| `X_scales` | u8 [E, N, K / 32]         | the scale of a block is 2^(byte - 127)            |

The model's own parameter `X` is [E, K, N].

Source: `convert_moe_packed_tensors` of transformers, after OpenAI's gpt-oss.
"""

from __future__ import annotations

from ....base.errors import LlmcError
from .parts import Parts
from .settings import Settings
from .small_floats import MX_GROUP, mx_weight
from .weight import Taken


def take(settings: Settings, parts: Parts) -> Taken:
    """The weights of an MXFP4 checkpoint.

    Raises:
        LlmcError: E0406, E0407 a part is missing, of another shape or type.
    """
    taken = Taken()
    for name in parts.with_suffix("_blocks"):
        blocks = parts.find(f"{name}_blocks", "u8")
        if len(blocks.of) != 4 or blocks.of[-1] != MX_GROUP // 2 or 0 in blocks.of:
            raise LlmcError("LLMC-E0406", f"{blocks.name} is {list(blocks.of)}")
        experts, n, count, _ = blocks.of
        scales = parts.find(f"{name}_scales", ("u8", "e8m0"), blocks.of[:-1])
        taken.weights[name] = mx_weight(
            (experts, n, count * MX_GROUP), parts.bytes_of(blocks, count), parts.bytes_of(scales)
        )
        taken.parts |= {blocks.name, scales.name}
        taken.transposed.add(name)
    return taken
