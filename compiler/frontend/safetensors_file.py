"""Safetensors checkpoints: headers first, rows when they are asked for.

In: the files of a checkpoint. Out: `CheckpointTensor` leaves and a `TensorReader` over them.
Headers are hostile until checked: sizes, offsets, shapes, dtypes and overlaps are verified before
any of them is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import LlmcError
from ...weights.formats.elements import FLOAT8, from_bf16
from ...weights.formats.number_format import Quantized
from ...weights.recipes import CheckpointTensor
from ...weights.rows import matrix_shape
from .row_file import Extent, RowFile, require_finite

_MAX_HEADER = 100 * 1000 * 1000  # the format's own limit
_DTYPES = {
    "F64": ("f64", "<f8"), "F32": ("f32", "<f4"), "F16": ("f16", "<f2"), "BF16": ("bf16", "<u2"),
    "I64": ("i64", "<i8"), "I32": ("i32", "<i4"), "I8": ("i8", "i1"), "U8": ("u8", "u1"),
    "BOOL": ("bool", "?"), "U32": ("u32", "<u4"),
    "F8_E4M3": ("e4m3", "u1"), "F8_E5M2": ("e5m2", "u1"), "F8_E8M0": ("e8m0", "u1"),
}  # fmt: skip
_NUMPY = dict(_DTYPES.values())


class SafetensorsFile:
    """One file: its tensors and where they lie."""

    def __init__(self, path: Path) -> None:
        """Read and check the header of `path`.

        Raises:
            LlmcError: E0417 if it isn't a sound safetensors file, E0407 for an unknown dtype.
        """
        self.file = RowFile(path)
        self.tensors: dict[str, CheckpointTensor] = {}
        self.extents: dict[str, Extent] = {}
        try:
            self._parse()
        except LlmcError:
            self.file.close()
            raise

    def _parse(self) -> None:
        if self.file.size < 8:
            raise self._damaged("it is shorter than its header")
        length = int.from_bytes(self.file.read(0, 8), "little")
        if length > min(_MAX_HEADER, self.file.size - 8):
            raise self._damaged(f"its header claims {length} bytes of {self.file.size}")
        try:
            header = json.loads(bytes(self.file.read(8, length)))
        except (ValueError, RecursionError) as error:
            raise self._damaged("its header is not JSON") from error
        if not isinstance(header, dict):
            raise self._damaged("its header is not an object")
        base = 8 + length
        end = base + max((_stop(entry) for entry in header.values()), default=0)
        if end > self.file.size:
            raise self._damaged(f"it ends after {self.file.size} bytes of {end}")
        for name, entry in header.items():
            if name != "__metadata__":
                self._add(name, entry, base)
        ends = 0
        for extent in sorted(self.extents.values(), key=lambda e: (e.offset, e.stop)):
            if extent.offset < ends:
                raise self._damaged("its tensors overlap")
            ends = extent.stop

    def _add(self, name: str, entry: Any, base: int) -> None:
        try:
            dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
            start, stop = entry["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged(f"the entry of {name} is incomplete") from error
        if dtype not in _DTYPES:
            raise LlmcError("LLMC-E0407", f"tensor {name} is stored as {dtype}")
        numbers = (start, stop, *shape)
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
            raise self._damaged(f"the entry of {name} holds no sizes")
        stored, numpy_dtype = _DTYPES[dtype]
        itemsize = np.dtype(numpy_dtype).itemsize
        if stop - start != prod(shape) * itemsize or base + stop > self.file.size:
            raise self._damaged(f"{name} {list(shape)} does not lie within the file")
        rows, columns = matrix_shape(shape)
        self.tensors[name] = CheckpointTensor(name, stored, shape)
        self.extents[name] = Extent(base + start, rows, columns * itemsize)

    def _damaged(self, why: str) -> LlmcError:
        return LlmcError("LLMC-E0417", f"{self.file.path.name} is damaged: {why}")


def _stop(entry: Any) -> int:
    """Where an entry of a header says that its data ends; 0 if it doesn't say."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    stop = offsets[-1] if isinstance(offsets, list) and offsets else 0
    return stop if type(stop) is int else 0


class SafetensorsReader:
    """Rows of the tensors of several files (a `TensorReader`)."""

    def __init__(self, files: Mapping[str, SafetensorsFile]) -> None:
        """`files` maps each tensor name to the file that holds it."""
        self._files = files

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        """Values of `rows`: float32 for floating dtypes.

        Raises:
            LlmcError: E0417 if the file was cut short, E0408 for NaN or infinity.
        """
        source = self._files[tensor.name]
        return _values(tensor, source.file.rows(source.extents[tensor.name], rows))

    def columns(self, tensor: CheckpointTensor, start: int, stop: int) -> np.ndarray:
        """Columns `start:stop` of all rows, of which no others are read unless they are few.

        Raises:
            LlmcError: as `rows`.
        """
        source = self._files[tensor.name]
        extent, size = source.extents[tensor.name], np.dtype(_NUMPY[tensor.stored]).itemsize
        return _values(tensor, source.file.columns(extent, start * size, stop * size))

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Quantized:
        """Never called: safetensors hold no GGUF blocks."""
        raise TypeError(f"{tensor} holds no blocks")


def _values(tensor: CheckpointTensor, raw: np.ndarray) -> np.ndarray:
    """What the bytes u8 [N, …] of a tensor mean: float32 for floating dtypes, or integers."""
    if tensor.stored in FLOAT8:
        values = FLOAT8[tensor.stored][raw]
    else:
        values = raw.view(np.dtype(_NUMPY[tensor.stored]))
    if tensor.stored == "bf16":
        values = from_bf16(values)
    elif tensor.stored in ("f16", "f64"):
        values = values.astype(np.float32)
    return require_finite(values, tensor.name) if values.dtype.kind == "f" else values
