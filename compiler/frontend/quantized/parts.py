"""The tensors of a quantized checkpoint, looked up and checked, and read by rows or columns.

In: the tensors of safetensors files and their reader. Out: parts of the shape and type that a
method asks for, or an error that names the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import prod

import numpy as np

from ....base.errors import LlmcError
from ....weights.recipes import CheckpointTensor
from ....weights.rows import matrix_shape
from ..safetensors_file import SafetensorsReader
from .weight import Rows, Shape

Array = np.ndarray

FLOATS = ("f32", "f16", "bf16")
"""What scales may be stored as."""


class Parts:
    """Tensors by name; a method takes those that belong to its weights."""

    def __init__(self, tensors: Mapping[str, CheckpointTensor], reader: SafetensorsReader) -> None:
        self.tensors = tensors
        self._reader = reader

    def with_suffix(self, suffix: str) -> list[str]:
        """What stands before `suffix` in the names that end in it, sorted."""
        return sorted(n.removesuffix(suffix) for n in self.tensors if n.endswith(suffix))

    def find(
        self, name: str, stored: Collection[str] | str, shape: Shape | None = None
    ) -> CheckpointTensor:
        """The tensor `name`, which must be of one of the `stored` types and of `shape`, if given.

        Raises:
            LlmcError: E0406 it is missing or has another shape, E0407 it has another type.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise LlmcError("LLMC-E0406", f"the quantized checkpoint lacks tensor {name}")
        allowed = (stored,) if isinstance(stored, str) else tuple(stored)
        if tensor.stored not in allowed:
            raise LlmcError(
                "LLMC-E0407", f"{name} is stored as {tensor.stored}, not {' or '.join(allowed)}"
            )
        if shape is not None and tensor.of != shape:
            raise LlmcError("LLMC-E0406", f"{name} is {list(tensor.of)}, not {list(shape)}")
        return tensor

    def matrix(self, name: str, stored: Collection[str] | str) -> CheckpointTensor:
        """The tensor `name`, which must have two dimensions, none of them 0.

        Raises:
            LlmcError: as `find`.
        """
        tensor = self.find(name, stored)
        if len(tensor.of) != 2 or not prod(tensor.of):
            raise LlmcError("LLMC-E0406", f"{name} is {list(tensor.of)}, not a matrix")
        return tensor

    def rows(self, tensor: CheckpointTensor, rows: Array) -> Array:
        """Values of `rows`: float32, or the stored integers."""
        return self._reader.rows(tensor, rows)

    def whole(self, tensor: CheckpointTensor) -> Array:
        """All values of a small tensor, in its shape."""
        count = matrix_shape(tensor.of)[0]
        return self._reader.rows(tensor, np.arange(count)).reshape(tensor.of)

    def columns(self, tensor: CheckpointTensor, start: int, stop: int) -> Array:
        """Columns `start:stop` of a matrix, as [rows, stop - start]; other columns aren't read."""
        return self._reader.columns(tensor, start, stop)

    def transposed(self, tensor: CheckpointTensor) -> Rows:
        """Rows of the transpose of a matrix: columns of the stored one."""

        def read(rows: Array) -> Array:
            start, stop = int(rows.min()), int(rows.max()) + 1
            return np.ascontiguousarray(self.columns(tensor, start, stop).T)[rows - start]

        return read

    def of_rows(self, tensor: CheckpointTensor) -> Rows:
        """A function of rows that reads those of `tensor`."""
        return lambda rows: self.rows(tensor, rows)

    def bytes_of(self, tensor: CheckpointTensor, joined: int = 1) -> Rows:
        """The bytes of rows, u8, whatever type of one byte they have.

        `joined` rows of the tensor behind one another are one row of the result.
        """
        raw = CheckpointTensor(tensor.name, "u8", tensor.of)

        def read(rows: Array) -> Array:
            each = (rows[:, None] * joined + np.arange(joined)).reshape(-1)
            return self._reader.rows(raw, each).reshape(len(rows), -1)

        return read

    def offset(self, tensor: CheckpointTensor, zero: int) -> Rows:
        """Rows of signed bytes as unsigned codes with `zero` added; E0408 beyond their range."""

        def codes(rows: Array) -> Array:
            found = self.rows(tensor, rows).astype(np.int16) + zero
            if found.min(initial=0) < 0 or found.max(initial=0) >= 2 * zero:
                raise LlmcError("LLMC-E0408", f"a code of {tensor.name} is beyond ±{zero}")
            return found.astype(np.uint8)

        return codes

    def number(self, name: str) -> float:
        """The only element of tensor `name`."""
        tensor = self.find(name, FLOATS)
        if prod(tensor.of) != 1:
            raise LlmcError("LLMC-E0406", f"{name} is {list(tensor.of)}, not one number")
        return float(self.whole(tensor).reshape(-1)[0])

    def flat_bytes(
        self, name: str, stored: Collection[str], count: int
    ) -> Callable[[int, int], Array]:
        """A function of a range of the `count` bytes of tensor `name`, whatever its shape.

        Raises:
            LlmcError: as `find`; E0406, it has another number of bytes.
        """
        tensor = self.find(name, stored)
        if prod(tensor.of) != count or tensor.of[-1:] != (1,):
            raise LlmcError("LLMC-E0406", f"{name} is {list(tensor.of)}, not {count} bytes")
        return lambda start, stop: self.rows(tensor, np.arange(start, stop))[:, 0]
