"""AWQ in the GEMM layout: codes packed along N, eight in a word, even ones first.

| tensor    | type, shape        |                                                    |
|-----------|--------------------|----------------------------------------------------|
| `qweight` | i32 [K, N / 8]     | nibble i of a word is the output `_ORDER[i]` of 8  |
| `scales`  | f16 [G, N]         | one a group of `group_size` inputs                 |
| `qzeros`  | i32 [G, N / 8]     | zero points, in the same order                     |

Source: `WQLinear_GEMM` of AutoAWQ.
"""

from __future__ import annotations

import numpy as np

from ....weights.recipes import CheckpointTensor
from .bits import unpack
from .grouped import GroupedIntegers
from .parts import FLOATS, Parts
from .settings import Settings
from .weight import Array, Rows, Taken

_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
_NIBBLE_OF = np.argsort(_ORDER)  # the nibble that holds each of the 8 outputs


def take(settings: Settings, parts: Parts) -> Taken:
    """The weights of an AWQ checkpoint.

    Raises:
        LlmcError: E0406, E0407 a part is missing, of another shape or type; E0418 a setting makes
            no sense; E0419 a layout for certain kernels.
    """
    settings.one_of("bits", (4,), "w_bit")
    layout = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if layout != "gemm":
        raise settings.unknown(f"in the {layout!r} layout")
    taken = Taken()
    for name in parts.with_suffix(".qweight"):
        taken.weights[f"{name}.weight"] = _weight(name, settings.group_size(), parts)
        own = (f"{name}.{part}" for part in ("qweight", "scales", "qzeros"))
        taken.parts |= {part for part in own if part in parts.tensors}
    return taken


def _weight(name: str, group: int, parts: Parts) -> GroupedIntegers:
    qweight = parts.matrix(f"{name}.qweight", ("i32", "u32"))
    k, n = qweight.of[0], qweight.of[1] * 8
    group = k if group < 0 else min(group, k)
    count = -(-k // group)
    scales = parts.find(f"{name}.scales", FLOATS, (count, n))
    zeros: int | Rows = 8
    if f"{name}.qzeros" in parts.tensors:
        zeros = _interleaved(
            parts.find(f"{name}.qzeros", ("i32", "u32"), (count, qweight.of[1])), parts
        )
    codes = _interleaved(qweight, parts)
    return GroupedIntegers((n, k), 4, group, codes, parts.transposed(scales), zeros)


def _interleaved(tensor: CheckpointTensor, parts: Parts) -> Rows:
    """Rows u8 [n, R] of the codes that `tensor` [R, N / 8] holds."""

    def read(rows: Array) -> Array:
        start, stop = int(rows.min()) // 8, int(rows.max()) // 8 + 1
        words = parts.columns(tensor, start, stop)
        codes = unpack(words, 4, (stop - start) * 8)
        at = rows - start * 8
        return np.ascontiguousarray(codes[:, at // 8 * 8 + _NIBBLE_OF[at % 8]].T)

    return read
