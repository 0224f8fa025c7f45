"""Weights as TensorRT takes them: one kept array per constant.

In: a graph's constant and the evaluator of recipes. Out: `Held`, bytes with a TensorRT type. Rows
are evaluated slice by slice into the array, so that beyond the array itself a compile needs a few
slices; large arrays lie in an unlinked temporary file that the system may write out.

TensorRT copies none of it before the engine is built: what `Net` holds has to outlive the build.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from math import prod

import numpy as np

from ...ir.graph import Value
from ...ir.types import DType
from ...weights.formats.elements import to_elements
from ...weights.formats.registry import dequantize, format_of
from ...weights.recipes import Quantize, Recipe
from ...weights.rows import matrix_shape
from ...weights.values import RecipeValues

_SLICE_ELEMENTS = 1 << 21
_IN_FILE_BYTES = 1 << 20


@dataclass(eq=False)
class Held:
    """A constant's bytes: `type` is TensorRT's name of the element type, `count` the elements."""

    name: str
    type: str
    shape: tuple[int, ...]
    array: np.ndarray
    count: int


_TYPES = {
    DType.F32: ("float32", np.float32), DType.F16: ("float16", np.float16),
    DType.BF16: ("bfloat16", np.uint16), DType.I64: ("int64", np.int64),
    DType.I32: ("int32", np.int32), DType.BOOL: ("bool", np.bool_),
}  # fmt: skip


class Constants:
    """Evaluates the constants of a graph."""

    def __init__(self, values: RecipeValues) -> None:
        self._values = values

    def plain(self, value: Value, dtype: DType) -> Held:
        """A constant in `dtype`; a quantized one as the values that its codes stand for."""
        type_name, numpy_type = _TYPES[dtype]
        recipe, shape = value.recipe, _shape(value)
        rows, columns = matrix_shape(shape)
        array = _allocate((rows, columns), numpy_type)
        for start, stop in _slices(rows, columns):
            part = self._float_rows(recipe, start, stop)
            array[start:stop] = to_elements(part, dtype)
        return Held(value.name, type_name, shape, array, prod(shape))

    def _float_rows(self, recipe: Recipe, start: int, stop: int) -> np.ndarray:
        if isinstance(recipe, Quantize):
            return dequantize(self._values.quantized_rows(recipe, recipe.format, start, stop))
        return self._values.rows(recipe, start, stop)

    def int8(self, value: Value) -> tuple[Held, np.ndarray]:
        """Codes [..., N, K] of an `i8c` matrix and its scales f32 [..., N]."""
        shape = _shape(value)
        rows, columns = matrix_shape(shape)
        codes, scales = _allocate((rows, columns), np.int8), np.empty(rows, np.float32)
        for start, stop in _slices(rows, columns):
            part = self._values.quantized_rows(value.recipe, DType.I8C, start, stop)
            codes[start:stop] = part.codes[:, :columns]
            scales[start:stop] = part.scales
        held = Held(value.name, "int8", shape, codes, prod(shape))
        return held, scales.reshape(shape[:-1])

    def int4(self, value: Value) -> tuple[Held, Held]:
        """Codes [..., N, Kp] (two's complement, low nibble first) and f16 scales [..., N, Kp/32].

        Kp is K rounded up to whole blocks; columns past K hold 0.
        """
        shape = _shape(value)
        rows, columns = matrix_shape(shape)
        format = format_of(DType.I4S)
        padded, blocks = format.padded(columns), format.blocks(columns)
        codes = _allocate((rows, padded // 2), np.uint8)
        scales = _allocate((rows, blocks), np.float16)
        for start, stop in _slices(rows, columns):
            part = self._values.quantized_rows(value.recipe, DType.I4S, start, stop)
            codes[start:stop] = format.packed(part.codes)
            scales[start:stop] = part.scales
        lead = shape[:-1]
        return (
            Held(value.name, "int4", (*lead, padded), codes, rows * padded),
            Held(f"{value.name}.scale", "float16", (*lead, blocks), scales, scales.size),
        )

    def fp8(self, value: Value) -> tuple[Held, np.ndarray]:
        """E4M3 codes [..., N, K] of a float matrix and its scales f32 [..., N]."""
        shape = _shape(value)
        rows, columns = matrix_shape(shape)
        codes, scales = _allocate((rows, columns), np.uint8), np.empty(rows, np.float32)
        for start, stop in _slices(rows, columns):
            part = self._float_rows(value.recipe, start, stop)
            scale = np.abs(part).max(axis=1) / np.float32(E4M3_MAX)
            scales[start:stop] = np.where(scale == 0, 1, scale)
            codes[start:stop] = to_e4m3(part / scales[start:stop, None])
        held = Held(value.name, "fp8", shape, codes, prod(shape))
        return held, scales.reshape(shape[:-1])


E4M3_MAX = 448.0


def to_e4m3(values: np.ndarray) -> np.ndarray:
    """Bits (u8) of float32 values rounded to FP8 E4M3, half to even, clipped to ±448."""
    import torch

    clipped = np.ascontiguousarray(np.clip(values, -E4M3_MAX, E4M3_MAX), np.float32)
    return torch.from_numpy(clipped).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def _shape(value: Value) -> tuple[int, ...]:
    assert all(isinstance(d, int) for d in value.type.shape)
    return value.type.shape  # type: ignore[return-value]


def _allocate(shape: tuple[int, int], dtype: type) -> np.ndarray:
    if prod(shape) * np.dtype(dtype).itemsize < _IN_FILE_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="llmc-") as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def _slices(rows: int, columns: int) -> list[tuple[int, int]]:
    step = max(1, _SLICE_ELEMENTS // max(columns, 1))
    return [(start, min(rows, start + step)) for start in range(0, rows, step)]
