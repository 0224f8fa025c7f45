"""Rows of a quantized checkpoint: of its weights, and of the tensors that aren't quantized.

In: the reader of the files and the weights that a method found in them. Out: a `TensorReader` for
which every weight is one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....base.errors import LlmcError
from ....weights.formats.number_format import Quantized
from ....weights.recipes import CheckpointTensor
from ....weights.values import TensorReader
from ..row_file import require_finite
from .weight import StoredWeight


class QuantizedReader:
    """`weights` by name; all other tensors are `plain`'s."""

    def __init__(self, plain: TensorReader, weights: Mapping[str, StoredWeight]) -> None:
        self._plain = plain
        self._weights = weights

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        """Values of `rows`: float32 for floating dtypes and for every quantized weight.

        Raises:
            LlmcError: E0417 if a file was cut short, E0408 for NaN or infinity.
        """
        weight = self._weights.get(tensor.name)
        if weight is None:
            return self._plain.rows(tensor, rows)
        if not len(rows):
            return np.empty((0, weight.shape[-1]), np.float32)
        return require_finite(weight.values(rows), tensor.name)

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Quantized:
        """Codes and scales of a weight as the checkpoint holds them.

        Raises:
            LlmcError: E0417 if a file was cut short, E0408 for a scale that is NaN or infinite.
        """
        quantized = self._weights[tensor.name].blocks(rows)
        if not quantized.is_finite():
            raise LlmcError("LLMC-E0408", f"a scale of tensor {tensor.name} is beyond float16")
        return quantized
