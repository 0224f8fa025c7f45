"""GGUF files: metadata, tensor table and rows.

In: a `.gguf` file. Out: its metadata, `CheckpointTensor` leaves and a `TensorReader` over them.
Layout: magic, version, counts, key-value pairs, tensor table, padding to `general.alignment`, data.
Source of the layout: the GGUF specification of the ggml project. All counts, lengths and offsets
are hostile until checked. Tensor dimensions are stored fastest first; here they are row-major.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import LlmcError
from ...weights.formats.elements import from_bf16
from ...weights.formats.number_format import Quantized
from ...weights.recipes import CheckpointTensor
from ...weights.rows import matrix_shape
from .gguf_blocks import UNPACK
from .row_file import Extent, RowFile, require_finite

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_PLAIN = {
    "F32": ("f32", "<f4"), "F16": ("f16", "<f2"), "F64": ("f64", "<f8"), "BF16": ("bf16", "<u2"),
    "I8": ("i8", "i1"), "I32": ("i32", "<i4"), "I64": ("i64", "<i8"),
}  # fmt: skip
_NUMPY = dict(_PLAIN.values())
_KEPT_STRINGS = 1024  # longer arrays of strings (vocabularies) are counted, not kept


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """A key's value and the bytes `start:stop` of the file that its pair takes.

    `value` of a long array of strings is None; `count` is the number of elements of an array.
    """

    value: Any
    count: int
    start: int
    stop: int


class GgufFile:
    """One GGUF file; a `TensorReader` over its own tensors."""

    def __init__(self, path: Path) -> None:
        """Read and check metadata and tensor table.

        Raises:
            LlmcError: E0417 if it isn't a sound GGUF file, E0407 for an unknown block format.
        """
        self.file = RowFile(path)
        self.entries: dict[str, MetadataEntry] = {}
        self.tensors: dict[str, CheckpointTensor] = {}
        self._extents: dict[str, Extent] = {}
        try:
            with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                self._parse(_Cursor(data))
        except (ValueError, struct.error, UnicodeDecodeError, OverflowError) as error:
            self.file.close()
            raise LlmcError(
                "LLMC-E0417", f"{path.name} is not a sound GGUF file: {error}"
            ) from None
        except LlmcError:
            self.file.close()
            raise

    @property
    def architecture(self) -> str:
        return str(self.get("general.architecture", "unknown"))

    def get(self, key: str, default: Any = None) -> Any:
        """Value of a metadata key."""
        entry = self.entries.get(key)
        return default if entry is None else entry.value

    def strings(self, key: str) -> list[str]:
        """An array of strings, however long; the long ones are read from the file again.

        Raises:
            LlmcError: E0417 if it is none, or isn't there.
        """
        entry = self.entries.get(key)
        if entry is None or not (entry.value is None or isinstance(entry.value, list)):
            raise LlmcError("LLMC-E0417", f"{self.file.path.name}: {key} is no array of texts")
        texts = entry.value
        if texts is None:
            texts = _strings(self.file.read(entry.start, entry.stop - entry.start), entry.count)
        if not all(isinstance(text, str) for text in texts):
            raise LlmcError("LLMC-E0417", f"{self.file.path.name}: {key} is no array of texts")
        return texts

    def _parse(self, cursor: _Cursor) -> None:
        if cursor.take(4) != b"GGUF":
            raise ValueError("it does not start with GGUF")
        version = cursor.number("<I")
        if version and version & 0xFFFF == 0:
            raise LlmcError(
                "LLMC-E0417",
                f"{self.file.path.name} is a big-endian GGUF file",
                "take a little-endian one, or turn it with the gguf package's gguf-convert-endian",
            )
        if version not in (2, 3):
            raise ValueError(f"version {version}")
        tensor_count, pair_count = cursor.number("<Q"), cursor.number("<Q")
        for _ in range(pair_count):
            start, key = cursor.at, cursor.string()
            value, count = cursor.value(cursor.number("<I"))
            self.entries[key] = MetadataEntry(value, count, start, cursor.at)
        self.table_start = cursor.at
        table = [self._table_row(cursor) for _ in range(tensor_count)]
        self.table_stop = cursor.at
        alignment = self.get("general.alignment", 32)
        if type(alignment) is not int or alignment <= 0:
            raise ValueError(f"alignment {alignment}")
        base = -(-cursor.at // alignment) * alignment
        ends = 0
        for name, shape, kind, offset in sorted(table, key=lambda row: row[3]):
            self._add(name, shape, kind, base + offset)
            extent = self._extents[name]
            if extent.offset < ends or extent.stop > self.file.size:
                raise ValueError(f"{name} does not lie within the file")
            ends = extent.stop

    def _table_row(self, cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
        name, rank = cursor.string(), cursor.number("<I")
        if rank > 8 or name in self.tensors:
            raise ValueError(f"the entry of {name}")
        shape = tuple(cursor.number("<Q") for _ in range(rank))[::-1]
        if 0 in shape:
            raise ValueError(f"{name} has no elements")
        return name, shape, cursor.number("<I"), cursor.number("<Q")

    def _add(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> None:
        import gguf

        try:
            block_format = gguf.GGMLQuantizationType(kind)
        except ValueError:
            raise LlmcError("LLMC-E0407", f"tensor {name} has GGUF type {kind}") from None
        block, block_bytes = gguf.GGML_QUANT_SIZES[block_format]
        if block_format.name in _PLAIN:
            stored = _PLAIN[block_format.name][0]
        else:
            stored = block_format.name.lower()
        rows, columns = matrix_shape(shape)
        if stored not in _NUMPY and len(shape) < 2:
            rows, columns = 1, prod(shape)
        if columns % block:
            raise ValueError(f"{name}: {columns} columns in blocks of {block}")
        self.tensors[name] = CheckpointTensor(name, stored, shape)
        self._extents[name] = Extent(offset, rows, columns // block * block_bytes)

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        """Values of `rows`, blocks dequantized: float32 for floating dtypes.

        Raises:
            LlmcError: E0417 if the file was cut short, E0408 for NaN or infinity.
        """
        raw = self.file.rows(self._extents[tensor.name], rows)
        if tensor.stored in _NUMPY:
            values = raw.view(np.dtype(_NUMPY[tensor.stored]))
            if tensor.stored == "bf16":
                values = from_bf16(values)
            elif tensor.stored in ("f16", "f64"):
                values = values.astype(np.float32)
        else:
            values = _dequantize(raw, tensor)
        return require_finite(values, tensor.name) if values.dtype.kind == "f" else values

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Quantized:
        """Stored blocks of a type that `gguf_blocks.py` unpacks, bit for bit.

        Raises:
            LlmcError: E0417 if the file was cut short, E0408 for a scale that is NaN or infinite.
        """
        raw = self.file.rows(self._extents[tensor.name], rows)
        quantized = UNPACK[tensor.stored](raw, tensor.of[-1])
        if not quantized.is_finite():
            raise LlmcError("LLMC-E0408", f"a scale of tensor {tensor.name} is not finite")
        return quantized


class _Cursor:
    """Reads little-endian values one after another, never past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self.at:
            raise ValueError("it is cut short")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return value

    def string(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> tuple[Any, int]:
        """A value of type `kind`, and its number of elements if it is an array."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind]), 0
        if kind == _STRING:
            return self.string(), 0
        if kind != _ARRAY:
            raise ValueError(f"metadata type {kind}")
        kind, count = self.number("<I"), self.number("<Q")
        if kind in _SCALARS:
            layout = _SCALARS[kind]
            raw = self.take(count * struct.calcsize(layout))
            return list(struct.unpack(f"<{count}{layout[1]}", raw)), count
        if kind != _STRING:
            raise ValueError(f"metadata array of type {kind}")
        if count <= _KEPT_STRINGS:
            return [self.string() for _ in range(count)], count
        for _ in range(count):
            self.take(self.number("<Q"))
        return None, count


def _strings(pair: bytearray, count: int) -> list[str]:
    """The texts of a key-value pair whose bounds were checked when it was first read."""
    (key,) = struct.unpack_from("<Q", pair)
    at, texts = 8 + key + 4 + 4 + 8, []  # behind the key: two types and the count
    length = struct.Struct("<Q").unpack_from
    for _ in range(count):
        (size,) = length(pair, at)
        texts.append(pair[at + 8 : at + 8 + size].decode("utf-8", errors="replace"))
        at += 8 + size
    return texts


def _dequantize(raw: np.ndarray, tensor: CheckpointTensor) -> np.ndarray:
    import gguf

    kind = gguf.GGMLQuantizationType[tensor.stored.upper()]
    try:
        return gguf.quants.dequantize(raw, kind).astype(np.float32, copy=False)
    except NotImplementedError:
        raise LlmcError(
            "LLMC-E0407", f"tensor {tensor.name} is stored as {tensor.stored}"
        ) from None
