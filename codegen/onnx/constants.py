"""Weights as initializers of the model: external data in the artifact's one file of weights.

Offsets count from the beginning of the weights' data section (`folder.py` moves them where a file
has a header). Formats of `weights/quantization.py` become the integer tensors that ONNX knows, over
the bytes of the layout "rows"; one tensor may be seen as several, one for each expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import onnx_ir as ir

from ...ir.graph import Value
from ...ir.types import DType
from ...weights.quantization import BLOCK, WeightFormat, padded_k
from ...weights.row_layout import RowLayout
from ...weights.table import WeightTable, WeightTensor

if TYPE_CHECKING:
    from .model import Model

PLAIN_TYPE: dict[DType, ir.DataType] = {
    DType.F32: ir.DataType.FLOAT,
    DType.F16: ir.DataType.FLOAT16,
    DType.BF16: ir.DataType.BFLOAT16,
    DType.I64: ir.DataType.INT64,
    DType.I32: ir.DataType.INT32,
    DType.I8: ir.DataType.INT8,
    DType.U8: ir.DataType.UINT8,
    DType.BOOL: ir.DataType.BOOL,
}
"""Element types as they are stored."""
FOUR_BITS = (WeightFormat.I4S, WeightFormat.I4A)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A quantized matrix [N, K]: in blocks of 32 along K, or with a scale for each row (`i8c`).

    `codes` i8 (u8 if `unsigned`) [N, Kp], 4-bit ones u8 [N, Kp/2], two to a byte; Kp is `padded`.
    `scales` f32 [N, Kp/32], or [N]; `minima` f32 [N, Kp/32] for `i4a`, else None. `unsigned`: codes
    around zero have half their range added. `i4a` is unsigned by nature and adds nothing.
    """

    format: WeightFormat
    codes: ir.Value
    scales: ir.Value
    minima: ir.Value | None
    unsigned: bool
    n: int
    k: int

    @property
    def padded(self) -> int:
        """Columns that codes have."""
        return self.k if self.format is WeightFormat.I8C else padded_k(self.k)

    @property
    def blocks(self) -> int:
        """Scales of a row."""
        return 1 if self.format is WeightFormat.I8C else self.padded // BLOCK

    @property
    def is_4_bit(self) -> bool:
        """Two codes share a byte."""
        return self.format in FOUR_BITS

    @property
    def zero(self) -> int:
        """What stands for 0 among codes around zero."""
        return 8 if self.is_4_bit else 128


class Constants:
    """Makes initializers of the graph's constants, each once, through one weight table."""

    def __init__(self, table: WeightTable) -> None:
        self.location = location_of(table)
        self._table = table
        self._unsigned = isinstance(table.layout, RowLayout) and table.layout.unsigned
        self._known: dict[str, ir.Value] = {}

    def plain(self, model: Model, value: Value, expert: int | None = None) -> ir.Value:
        """A constant stored element by element; with `expert` one of its first dimension."""
        tensor = self._table.plain(value)
        shape, offset, nbytes = tensor.shape, tensor.offset, tensor.nbytes
        if expert is not None:
            shape, nbytes = shape[1:], nbytes // shape[0]
            offset += expert * nbytes
        dtype = PLAIN_TYPE[value.type.dtype]
        return self._external(model, _name(tensor, expert), dtype, shape, (offset, nbytes))

    def matrix(self, model: Model, value: Value, expert: int | None = None) -> Matrix:
        """A quantized weight [N, K], or one of [E, N, K]."""
        tensor = self._table.packed(value)
        format = WeightFormat(value.type.dtype.value)
        *experts, n, k = tensor.shape
        unsigned = format in FOUR_BITS or (format is WeightFormat.I8B and self._unsigned)
        code_type = ir.DataType.UINT8 if unsigned else ir.DataType.INT8
        columns = k if format is WeightFormat.I8C else padded_k(k)
        blocks = (n,) if format is WeightFormat.I8C else (n, padded_k(k) // BLOCK)
        parts = [
            ("codes", code_type, (n, columns // 2 if format in FOUR_BITS else columns)),
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
        unsigned = self._unsigned and format is not WeightFormat.I8C
        return Matrix(format, codes, scales, next(iter(minima), None), unsigned, n, k)

    def retyped(
        self, model: Model, known: ir.Value, dtype: ir.DataType, shape: tuple[int, ...]
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
        model: Model,
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
