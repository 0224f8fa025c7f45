"""MLX: codes packed along K, with a scale and a bias for each group of columns.

| tensor   | type, shape             |                                                      |
|----------|-------------------------|------------------------------------------------------|
| `weight` | u32 [..., K * bits / 32] | a stream of bits, the lowest of a word first        |
| `scales` | [..., K / group]        | value = scale * code + bias                          |
| `biases` | [..., K / group]        | transformers' "metal" calls them `qbiases`           |

`group_size` and `bits` stand in the config, for all layers and for single ones by their names.

Source: `mx.quantize` and `nn.quantize` of Apple's MLX.
"""

from __future__ import annotations

from ....base.errors import LlmcError
from .bits import unpack
from .grouped import GroupedIntegers
from .parts import FLOATS, Parts
from .settings import Settings
from .weight import Array, Taken

_BITS = (2, 3, 4, 5, 6, 8)
_BIASES = (".biases", ".qbiases")


def take(settings: Settings, parts: Parts) -> Taken:
    """The weights of an MLX checkpoint.

    Raises:
        LlmcError: E0406, E0407 a part is missing, of another shape or type; E0418 a setting makes
            no sense; E0419 another mode than affine.
    """
    mode = settings.get("mode")
    if mode not in (None, "affine"):
        raise settings.unknown(f"in mode {str(mode)[:40]!r}")
    taken = Taken()
    for suffix in _BIASES:
        for name in parts.with_suffix(suffix):
            if f"{name}.scales" not in parts.tensors:
                continue
            own = settings.get(name) or {}
            layer = Settings(settings.method, settings.raw | (own if isinstance(own, dict) else {}))
            taken.weights[f"{name}.weight"] = _weight(name, suffix, layer, parts)
            taken.parts |= {f"{name}.weight", f"{name}.scales", f"{name}{suffix}"}
    return taken


def _weight(name: str, suffix: str, settings: Settings, parts: Parts) -> GroupedIntegers:
    bits, group = settings.one_of("bits", _BITS), settings.group_size()
    words = parts.find(f"{name}.weight", "u32")
    scales = parts.find(f"{name}.scales", FLOATS)
    biases = parts.find(f"{name}{suffix}", FLOATS, scales.of)
    k = scales.of[-1] * group if scales.of else 0
    if k <= 0 or words.of != (*scales.of[:-1], k * bits // 32) or len(words.of) not in (2, 3):
        raise LlmcError(
            "LLMC-E0406",
            f"{name}.weight is {list(words.of)}, its scales {list(scales.of)}: "
            f"not {bits} bits in groups of {group}",
        )

    def codes(rows: Array) -> Array:
        return unpack(parts.rows(words, rows), bits, k)

    shape = (*words.of[:-1], k)
    return GroupedIntegers(
        shape, bits, group, codes, parts.of_rows(scales), mins=parts.of_rows(biases)
    )
