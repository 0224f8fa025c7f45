"""bitsandbytes: 8-bit rows (LLM.int8) and 4-bit codebooks (NF4, FP4).

8 bits: `X.weight` i8 [N, K], `X.SCB` f32 [N], the largest of each row: value = code * SCB / 127.

4 bits: `X.weight` u8 [N * K / 2, 1], the first of two codes in the high half; the elements in
row-major order are cut into blocks, value = quant_map[code] * absmax[block]. `absmax` may itself
be codes (double quantization): nested_quant_map[code] * nested_absmax[block of codes] + offset.
`X.weight.quant_state.bitsandbytes__nf4` (or `fp4`) is JSON with shape, block sizes and offset.

Source: `QuantState.as_dict` and `dequantize_4bit` of bitsandbytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from ....base.errors import LlmcError
from .grouped import GroupedIntegers
from .parts import Parts
from .settings import Settings
from .weight import Array, Floats, Taken

_KINDS = ("nf4", "fp4")
_LARGEST_STATE = 1 << 16


def take(settings: Settings, parts: Parts) -> Taken:
    """The weights of a bitsandbytes checkpoint, of either kind.

    Raises:
        LlmcError: E0406, E0407 a part is missing, of another shape or type; E0417 a state that
            can't be read.
    """
    taken = Taken()
    for name in parts.with_suffix(".SCB"):
        taken.weights[f"{name}.weight"] = _rows(name, parts)
        own = (f"{name}.{part}" for part in ("weight", "SCB", "weight_format"))
        taken.parts |= {part for part in own if part in parts.tensors}
    for kind in _KINDS:
        state = f".weight.quant_state.bitsandbytes__{kind}"
        for name in parts.with_suffix(state):
            taken.weights[f"{name}.weight"] = _codebook(name, name + state, kind, parts)
            taken.parts |= {f"{name}.weight"} | {
                part for part in parts.tensors if part.startswith(f"{name}.weight.")
            }
    return taken


def _rows(name: str, parts: Parts) -> GroupedIntegers:
    codes = parts.matrix(f"{name}.weight", "i8")
    n, k = codes.of
    largest = parts.find(f"{name}.SCB", "f32", (n,))

    def scales(rows: Array) -> Array:
        return parts.rows(largest, rows) / np.float32(127)

    return GroupedIntegers((n, k), 8, k, parts.offset(codes, 128), scales, zeros=128)


@dataclass(frozen=True)
class _State:
    """What the JSON of a 4-bit weight says."""

    shape: tuple[int, int]
    block: int
    nested_block: int
    offset: float


def _codebook(name: str, state_name: str, kind: str, parts: Parts) -> Floats:
    state = _state(state_name, parts)
    n, k = state.shape
    total = n * k
    packed = parts.flat_bytes(f"{name}.weight", ("u8",), -(-total // 2))
    book = parts.whole(parts.find(f"{name}.weight.quant_map", "f32", (16,)))
    absmax = _absmax(name, state, -(-total // state.block), parts)

    def values(rows: Array) -> Array:
        start, stop = int(rows.min()), int(rows.max()) + 1
        first, last = start * k // 2, -(-stop * k // 2)
        data = packed(first, last)
        codes = np.stack([data >> 4, data & 15], axis=-1).reshape(-1)[start * k - 2 * first :]
        element = np.arange(start * k, stop * k)
        low = start * k // state.block
        scales = absmax(low, (stop * k - 1) // state.block + 1)
        found = book[codes[: len(element)]] * scales[element // state.block - low]
        return found.reshape(-1, k)[rows - start].astype(np.float32)

    return Floats(state.shape, kind, values)


def _absmax(name: str, state: _State, count: int, parts: Parts) -> Any:
    """A function of a range of blocks that gives their scales."""
    tensor = parts.find(f"{name}.weight.absmax", ("f32", "u8"), (count,))
    if tensor.stored == "f32":
        return lambda start, stop: parts.rows(tensor, np.arange(start, stop))[:, 0]
    nested = -(-count // state.nested_block)
    book = parts.whole(parts.find(f"{name}.weight.nested_quant_map", "f32", (256,)))
    outer = parts.find(f"{name}.weight.nested_absmax", "f32", (nested,))

    def scales(start: int, stop: int) -> Array:
        codes = parts.rows(tensor, np.arange(start, stop))[:, 0]
        of = parts.rows(outer, np.arange(start, stop) // state.nested_block)[:, 0]
        return book[codes] * of + np.float32(state.offset)

    return scales


def _state(name: str, parts: Parts) -> _State:
    tensor = parts.find(name, "u8")
    if len(tensor.of) != 1 or tensor.of[0] > _LARGEST_STATE:
        raise LlmcError("LLMC-E0417", f"{name} holds no state")
    try:
        raw = json.loads(bytes(parts.whole(tensor)))
        n, k = raw["shape"]
        sizes = [n, k, raw["blocksize"], raw.get("nested_blocksize", 1)]
        offset = float(raw.get("nested_offset", 0.0))
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise LlmcError("LLMC-E0417", f"{name} holds no shape and block sizes") from None
    if not (all(type(s) is int and 0 < s < 1 << 31 for s in sizes) and isfinite(offset)):
        raise LlmcError("LLMC-E0417", f"{name} holds sizes that make no sense")
    return _State((n, k), sizes[2], sizes[3], offset)
