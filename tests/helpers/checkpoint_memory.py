"""A checkpoint in memory, of random numbers or of blocks: a `TensorReader` for tests of weights."""

import numpy as np
from llmc.ir.recipe import CheckpointTensor
from llmc.ir.types import DType
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import dequantize, quantize

STORED = {"q4_0": DType.I4S, "q4_1": DType.I4A, "q8_0": DType.I8B}


class Memory:
    """A checkpoint in memory; remembers how many rows were read."""

    def __init__(self) -> None:
        self.values: dict[str, np.ndarray] = {}
        self.quantized: dict[str, Quantized] = {}
        self.rows_read = 0

    def add(self, name: str, shape: tuple[int, ...], stored: str = "f32") -> CheckpointTensor:
        seed = sum(map(ord, name))
        values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        if stored in STORED:
            q = quantize(values.reshape(-1, shape[-1]), STORED[stored])
            self.quantized[name] = q
            values = dequantize(q).reshape(shape)
        self.values[name] = values
        return CheckpointTensor(name, stored, shape)

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        self.rows_read += len(rows)
        columns = tensor.of[-1] if len(tensor.of) > 1 else 1
        return self.values[tensor.name].reshape(-1, columns)[rows]

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Quantized:
        self.rows_read += len(rows)
        return self.quantized[tensor.name].take(rows)
