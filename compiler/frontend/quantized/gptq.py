"""GPTQ: codes packed along K, zero points packed along N.

| tensor    | type, shape             |                                                         |
|-----------|-------------------------|---------------------------------------------------------|
| `qweight` | i32 [K * bits / 32, N]  | codes; element k of a column has the bits k * bits …    |
| `scales`  | f16 [G, N]              | one a group of `group_size` columns of W                |
| `qzeros`  | i32 [G, N * bits / 32]  | zero points; version 1 stores one less, modulo 2^bits   |
| `g_idx`   | i32 [K]                 | the group of each input, any order with `desc_act`      |

Source: `QuantLinear.pack` of AutoGPTQ and GPTQModel; "gptq_v2" stores zero points as they are.
"""

from __future__ import annotations

import numpy as np

from ....base.errors import LlmcError
from .bits import packed_along_rows, unpack, words_for
from .grouped import GroupedIntegers
from .parts import FLOATS, Parts
from .settings import Settings
from .weight import Array, Taken

_BITS = (2, 3, 4, 8)
_FORMATS = {"gptq": 1, "gptq_v2": 0}


def take(settings: Settings, parts: Parts) -> Taken:
    """The weights of a GPTQ checkpoint.

    Raises:
        LlmcError: E0406, E0407 a part is missing, of another shape or type; E0418 a setting makes
            no sense; E0419 a packing that isn't GPTQ's own.
    """
    bits = settings.one_of("bits", _BITS)
    packing = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
    if packing not in _FORMATS or settings.get("is_marlin_format"):
        raise settings.unknown(f"packed as {packing if packing not in _FORMATS else 'marlin'!r}")
    taken, group = Taken(), settings.group_size()
    for name in parts.with_suffix(".qweight"):
        if settings.get("dynamic"):
            bits, group = _own_sizes(name, parts)
        taken.weights[f"{name}.weight"] = _weight(name, bits, group, _FORMATS[packing], parts)
        own = (f"{name}.{part}" for part in ("qweight", "scales", "qzeros", "g_idx"))
        taken.parts |= {part for part in own if part in parts.tensors}
    return taken


def _own_sizes(name: str, parts: Parts) -> tuple[int, int]:
    """Bits and group size as the shapes of a layer's parts say them.

    GPTQModel's `dynamic` gives layers that its expressions match sizes of their own.
    """
    words, n = parts.matrix(f"{name}.qweight", ("i32", "u32")).of
    count, zeros = parts.matrix(f"{name}.qzeros", ("i32", "u32")).of
    bits = next((b for b in _BITS if words_for(n, b) == zeros), 0)
    if not bits:
        raise LlmcError("LLMC-E0406", f"{name}.qzeros is {[count, zeros]} for {n} outputs")
    return bits, -(-(words * 32 // bits) // count)


def _weight(name: str, bits: int, group: int, added: int, parts: Parts) -> GroupedIntegers:
    qweight = parts.matrix(f"{name}.qweight", ("i32", "u32"))
    words, n = qweight.of
    k = words * 32 // bits
    group = k if group < 0 else min(group, k)
    count = -(-k // group)
    scales = parts.find(f"{name}.scales", FLOATS, (count, n))
    zeros = parts.find(f"{name}.qzeros", ("i32", "u32"), (count, words_for(n, bits)))
    packed = packed_along_rows(parts.transposed(zeros), bits)
    read = parts.transposed(qweight)

    def codes(rows: Array) -> Array:
        return unpack(read(rows), bits, k)

    def zero_points(rows: Array) -> Array:
        return packed(rows) + np.uint8(added) & np.uint8((1 << bits) - 1)

    return GroupedIntegers(
        (n, k), bits, group, codes, parts.transposed(scales), zero_points,
        groups=column_groups(f"{name}.g_idx", k, group, parts),
    )  # fmt: skip


def column_groups(name: str, k: int, group: int, parts: Parts) -> Array | None:
    """The group of each of `k` columns, None where they follow one another.

    Raises:
        LlmcError: E0406, E0407 tensor `name` holds no such groups.
    """
    if name not in parts.tensors:
        return None
    groups = parts.whole(parts.find(name, ("i32", "i64"), (k,))).astype(np.int64)
    if (groups == np.arange(k) // group).all() or (groups == -1).all():  # -1: not set
        return None
    if groups.min() < 0 or groups.max() >= -(-k // group):
        raise LlmcError("LLMC-E0406", f"{name} names a group that has no scales")
    return groups
