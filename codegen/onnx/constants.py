"""Weights as initializers of the model: external data in the artifact's one file of weights.

Offsets count from the beginning of the weights' data section (`folder.py` moves them where a file
has a header). Number formats become the integer tensors that ONNX knows, over the bytes of the
layout "rows"; one tensor may be seen as several, one for each expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

import onnx_ir as ir

from ...ir.graph import Value
from ...ir.types import DType
from ...weights.formats.number_format import NumberFormat
from ...weights.formats.registry import format_of
from ...weights.row_layout import RowLayout, code_columns, scales_per_row
from ...weights.table import WeightTable, WeightTensor

ONNX_TYPE: dict[DType, ir.DataType] = {
    DType.F32: ir.DataType.FLOAT,
    DType.F16: ir.DataType.FLOAT16,
    DType.BF16: ir.DataType.BFLOAT16,
    DType.I64: ir.DataType.INT64,
    DType.I32: ir.DataType.INT32,
    DType.I8: ir.DataType.INT8,
    DType.U8: ir.DataType.UINT8,
    DType.BOOL: ir.DataType.BOOL,
}
"""Element types of the IR as ONNX has them; number formats are made of several tensors."""


class HoldsInitializers(Protocol):
    """The model under construction, as far as constants need it."""

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """The value that holds `tensor`."""
        ...


@dataclass(frozen=True, slots=True)
class Matrix:
    """A quantized matrix [N, K]: in blocks along K, or with a scale for each row.

    `codes` i8 (u8 if `unsigned`) [N, Kp], 4-bit ones u8 [N, Kp/2], two to a byte; Kp is `padded`.
    `scales` f32 [N, blocks], or [N]; `minima` f32 [N, blocks] if the format has them, else None.
    `unsigned`: codes around zero have half their range added. Codes that count from a minimum are
    unsigned by nature and add nothing.
    """

    format: NumberFormat
    codes: ir.Value
    scales: ir.Value
    minima: ir.Value | None
    unsigned: bool
    n: int
    k: int

    @property
    def padded(self) -> int:
        """Columns that codes have."""
        return code_columns(self.format, self.k)

    @property
    def blocks(self) -> int:
        """Scales of a row."""
        return scales_per_row(self.format, self.k)

    @property
    def is_4_bit(self) -> bool:
        """Two codes share a byte."""
        return self.format.row_bits == 4

    @property
    def zero(self) -> int:
        """What stands for 0 among codes around zero, where these are unsigned."""
        return 1 << (self.format.row_bits - 1)


class Constants:
    """Makes initializers of the graph's constants, each once, through one weight table."""

    def __init__(self, table: WeightTable) -> None:
        self.location = location_of(table)
        self._table = table
        self._unsigned = isinstance(table.layout, RowLayout) and table.layout.unsigned
        self._known: dict[str, ir.Value] = {}

    def plain(self, model: HoldsInitializers, value: Value, expert: int | None = None) -> ir.Value:
        """A constant stored element by element; with `expert` one of its first dimension."""
        tensor = self._table.plain(value)
        shape, offset, nbytes = tensor.shape, tensor.offset, tensor.nbytes
        if expert is not None:
            shape, nbytes = shape[1:], nbytes // shape[0]
            offset += expert * nbytes
        dtype = ONNX_TYPE[value.type.dtype]
        return self._external(model, _name(tensor, expert), dtype, shape, (offset, nbytes))

    def matrix(self, model: HoldsInitializers, value: Value, expert: int | None = None) -> Matrix:
        """A quantized weight [N, K], or one of [E, N, K]."""
        tensor = self._table.packed(value)
        format = format_of(value.type.dtype)
        *experts, n, k = tensor.shape
        unsigned = self._unsigned and not format.per_row
        signed_bytes = format.row_bits == 8 and not (unsigned or format.has_mins)
        code_type = ir.DataType.INT8 if signed_bytes else ir.DataType.UINT8
        blocks = (n,) if format.per_row else (n, scales_per_row(format, k))
        parts = [
            ("codes", code_type, (n, code_columns(format, k) * format.row_bits // 8)),
            ("scales", ir.DataType.FLOAT, blocks),
            ("minima", ir.DataType.FLOAT, blocks),
        ]
        found: list[ir.Value] = []
        for (label, dtype, shape), (offset, total) in zip(parts, tensor.sections, strict=False):
            name = f"{_name(tensor, expert)}.{label}"
            nbytes = total // prod(experts)
            place = offset + (expert or 0) * nbytes, nbytes
            found.append(self._external(model, name, dtype, shape, place))
        codes, scales, *minima = found
        return Matrix(format, codes, scales, next(iter(minima), None), unsigned, n, k)

    def retyped(
        self, model: HoldsInitializers, known: ir.Value, dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.Value:
        """The bytes of an initializer seen as another type."""
        tensor = known.const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.offset is not None
        assert tensor.length is not None
        name = f"{known.name}:{dtype.name.lower()}"
        return self._external(model, name, dtype, shape, (tensor.offset, tensor.length))

    def _external(
        self,
        model: HoldsInitializers,
        name: str,
        dtype: ir.DataType,
        shape: tuple[int, ...],
        place: tuple[int, int],
    ) -> ir.Value:
        """The initializer over `place`, its offset and its bytes."""
        if name not in self._known:
            self._known[name] = model.initializer(
                ir.ExternalTensor(self.location, *place, dtype, shape=ir.Shape(shape), name=name)
            )
        return self._known[name]


def location_of(table: WeightTable) -> str:
    """The artifact's entry that holds the weights; ONNX calls that a location."""
    return f"weights/{table.layout.name}.safetensors"


def _name(tensor: WeightTensor, expert: int | None) -> str:
    return tensor.name if expert is None else f"{tensor.name}[{expert}]"
