"""compressed-tensors (LLM Compressor): packed and plain integers, 8- and 4-bit floats.

| parts                                              | format                                   |
|----------------------------------------------------|------------------------------------------|
| `weight_packed` i32, `weight_shape`, `weight_scale` | pack-quantized: 1 to 8 bits along K     |
| `weight` i8, `weight_scale`                        | int-quantized, naive-quantized           |
| `weight` E4M3, `weight_scale`                      | float-quantized, naive-quantized         |
| `weight_packed` u8, `weight_scale` u8              | mxfp4-pack-quantized                     |
| … `weight_global_scale` (divides)                  | nvfp4-pack-quantized                     |

`weight_zero_point` is there where codes are asymmetric (packed along N where they are packed), and
`weight_g_idx` where columns are out of order. A config group says which modules it is for, by name,
by a regular expression (`re:`) or by class, and how many bits they have.

Source: the `compressors` of the compressed-tensors package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....base.errors import LlmcError
from .bits import packed_along_rows, unpack, words_for
from .fp8 import drop_activation_scales
from .gptq import column_groups
from .grouped import GroupedIntegers
from .parts import Parts
from .scales import Scales, find_scales
from .settings import Settings
from .small_floats import FLOAT8_WEIGHTS, float4_weight, float8_weight, mx_weight
from .weight import Array, Rows, StoredWeight, Taken

_FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision",
    "mxfp4-pack-quantized", "nvfp4-pack-quantized", "dense",
)  # fmt: skip
_PARTS = ("weight_packed", "weight", "weight_scale", "weight_shape", "weight_zero_point",
          "weight_g_idx", "weight_global_scale")  # fmt: skip
_ACTIVATIONS = (".input_global_scale", ".input_zero_point", ".output_zero_point")
_LONGEST_PATTERN = 500
_SLOW = re.compile(r"\([^()]*[+*}][^()]*\)[+*{]")  # repeated groups that repeat: (a+)+


def take(settings: Settings, parts: Parts) -> Taken:
    """The weights of a compressed-tensors checkpoint.

    Raises:
        LlmcError: E0406, E0407 a part is missing, of another shape or type; E0418 a setting makes
            no sense; E0419 sparse weights, rotated ones, or a format that isn't read.
    """
    _refuse(settings)
    groups = _config_groups(settings)
    taken = Taken()
    for name in parts.with_suffix(".weight_scale"):
        taken.weights[f"{name}.weight"] = _weight(name, _weights_of(name, groups, settings), parts)
        taken.parts |= {f"{name}.{p}" for p in _PARTS if f"{name}.{p}" in parts.tensors}
    taken.dropped |= {name for name in parts.tensors if name.endswith(_ACTIVATIONS)}
    drop_activation_scales(taken, parts)
    return taken


def _refuse(settings: Settings) -> None:
    sparsity = settings.get("sparsity_config") or {}
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        raise settings.unknown(f"with weights that are sparse ({sparsity.get('format')})")
    transforms = settings.get("transform_config")
    if isinstance(transforms, dict) and transforms.get("config_groups"):
        raise settings.unknown("with weights that are rotated (transform_config)")
    format = settings.get("format")
    if format is not None and format not in _FORMATS:
        raise settings.unknown(f"format {str(format)[:40]!r}")


def _config_groups(settings: Settings) -> list[tuple[list[str], Settings]]:
    """Targets, and what is said of weights, of each config group that has weights."""
    raw = settings.get("config_groups")
    groups = list(raw.values()) if isinstance(raw, dict) else []
    found = []
    for group in groups:
        targets = group.get("targets") if isinstance(group, dict) else None
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(targets, list) or not isinstance(weights, dict | None):
            raise settings.wrong("config_groups", group)
        if weights:
            own = Settings(settings.method, weights, settings.file)
            found.append(([t for t in targets if isinstance(t, str)], own))
    if not found:
        raise settings.wrong("config_groups", raw)
    return found


def _weights_of(
    name: str, groups: list[tuple[list[str], Settings]], settings: Settings
) -> Settings:
    """The group of module `name`: by its name before an expression, that before a class."""
    if len(groups) == 1:
        return groups[0][1]
    by_class = [weights for targets, weights in groups if any(_is_class(t) for t in targets)]
    for matches in (_is_named, _is_matched):
        for targets, weights in groups:
            if any(matches(target, name) for target in targets):
                return weights
    if len(by_class) == 1:
        return by_class[0]
    raise settings.unknown(f"whose config groups don't say which is for {name}")


def _is_class(target: str) -> bool:
    return not target.startswith("re:") and "." not in target


def _is_named(target: str, name: str) -> bool:
    return not target.startswith("re:") and name.split(".")[-len(target.split(".")) :] == (
        target.split(".")
    )


def _is_matched(target: str, name: str) -> bool:
    if not target.startswith("re:"):
        return False
    if len(target) > _LONGEST_PATTERN or _SLOW.search(target):
        raise LlmcError("LLMC-E0418", f"config_groups: {target[:60]!r} may take for ever to match")
    try:
        return re.match(target.removeprefix("re:"), name) is not None
    except re.error as error:
        raise LlmcError("LLMC-E0418", f"config_groups: {target!r}: {error}") from None


def _weight(name: str, settings: Settings, parts: Parts) -> StoredWeight:
    packed = parts.tensors.get(f"{name}.weight_packed")
    if packed is not None and packed.stored == "u8":
        return _float4(name, parts)
    if packed is not None:
        return _packed(name, settings, parts)
    weight = parts.matrix(f"{name}.weight", ("i8", *FLOAT8_WEIGHTS))
    scales = find_scales(f"{name}.weight_scale", parts, weight.of, _block(settings))
    if weight.stored in FLOAT8_WEIGHTS:
        return float8_weight(weight, scales, parts)
    bits = settings.one_of("num_bits", range(2, 9))
    half = 1 << (bits - 1)
    zeros: int | Rows = half
    if f"{name}.weight_zero_point" in parts.tensors:
        zeros = _plain_zeros(name, scales, weight.of, half, parts)
    codes = parts.offset(weight, half)
    groups = column_groups(f"{name}.weight_g_idx", weight.of[1], scales.group, parts)
    return GroupedIntegers(weight.of, bits, scales.group, codes, scales.rows, zeros, groups=groups)


def _block(settings: Settings) -> tuple[int, int] | None:
    value: Any = settings.get("block_structure")
    if value is not None:
        if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int for v in value):
            raise settings.wrong("block_structure", value)
        return max(1, value[0]), max(1, value[1])
    group = settings.group_size()
    return None if group < 0 else (1, group)


def _plain_zeros(
    name: str, scales: Scales, shape: tuple[int, ...], half: int, parts: Parts
) -> Rows:
    """Zero points as codes: one for each scale, a signed byte."""
    tensor = parts.find(f"{name}.weight_zero_point", ("i8", "i32", "i64"))
    count = -(-shape[1] // scales.group)
    if tensor.of not in ((shape[0], count), (shape[0],), (1,), ()) or (
        len(tensor.of) < 2 and count > 1
    ):
        raise LlmcError("LLMC-E0406", f"{tensor.name} is {list(tensor.of)} for {list(shape)}")

    def zeros(rows: Array) -> Array:
        if tensor.of in ((1,), ()):
            rows = rows * 0
        return parts.rows(tensor, rows).reshape(len(rows), -1).astype(np.int64) + half

    return zeros


def _packed(name: str, settings: Settings, parts: Parts) -> GroupedIntegers:
    bits = settings.one_of("num_bits", range(1, 9))
    words = parts.matrix(f"{name}.weight_packed", "i32")
    shape = parts.find(f"{name}.weight_shape", ("i64", "i32"), (2,))
    n, k = (int(size) for size in parts.whole(shape))
    if n != words.of[0] or k < 1 or words_for(k, bits) != words.of[1]:
        raise LlmcError(
            "LLMC-E0406", f"{words.name} is {list(words.of)}: not {bits} bits of [{n}, {k}]"
        )
    scales = find_scales(f"{name}.weight_scale", parts, (n, k), _block(settings))
    zeros: int | Rows = 1 << (bits - 1)
    if f"{name}.weight_zero_point" in parts.tensors:
        count = -(-k // scales.group)
        stored = parts.find(f"{name}.weight_zero_point", "i32", (words_for(n, bits), count))
        zeros = packed_along_rows(parts.of_rows(stored), bits)

    def codes(rows: Array) -> Array:
        return unpack(parts.rows(words, rows), bits, k)

    groups = column_groups(f"{name}.weight_g_idx", k, scales.group, parts)
    return GroupedIntegers((n, k), bits, scales.group, codes, scales.rows, zeros, groups=groups)


def _float4(name: str, parts: Parts) -> StoredWeight:
    packed = parts.matrix(f"{name}.weight_packed", "u8")
    shape = (packed.of[0], 2 * packed.of[1])
    tensors: Mapping[str, Any] = parts.tensors
    if f"{name}.weight_global_scale" in tensors:
        factor = 1 / parts.number(f"{name}.weight_global_scale")
        scales = find_scales(f"{name}.weight_scale", parts, shape, (1, 16))
        return float4_weight(shape, parts.bytes_of(packed), scales, factor)
    exponents = parts.find(f"{name}.weight_scale", ("u8", "e8m0"), (shape[0], shape[1] // 32))
    return mx_weight(shape, parts.bytes_of(packed), parts.bytes_of(exponents))
