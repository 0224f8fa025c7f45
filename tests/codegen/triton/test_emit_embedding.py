"""Launches of the embedding kernel, from packed tables as a file has them, against the op.

Tolerance of block formats: the product and the minimum's sum may round once or twice, 2^-23 of the
largest of both.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

import torch
from launched_program import LaunchedProgram
from llmc.artifact.launch_plan import Pointer
from llmc.codegen.triton.emitters import emit_node
from llmc.codegen.triton.operands import PlannedLaunch
from llmc.compiler.frontend.probe import StateReader
from llmc.ir.graph import Graph, Value
from llmc.ir.ops.shape import Embedding
from llmc.ir.recipe import CheckpointTensor
from llmc.ir.types import DType, T, TensorType
from llmc.weights.formats.elements import rounded
from llmc.weights.formats.registry import dequantize, is_quantized, quantize
from llmc.weights.recipes import Cast, Quantize
from llmc.weights.stream import WeightStream

ROWS, WIDTH, TOKENS = 19, 70, 3


class Packed(LaunchedProgram):
    """With a weights entry in memory."""

    weights = torch.empty(0)

    def pack(self, tensors: dict[str, torch.Tensor]) -> None:
        table = self.program.weights
        stream, out = WeightStream(table.tensors, table.nbytes), io.BytesIO()
        stream.write(out, StateReader(tensors), table.layout)
        data = out.getvalue()[stream.size - stream.data_bytes :]
        self.weights = torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def _argument(self, launch: PlannedLaunch, name: str) -> Any:
        argument = launch.operands[name].argument
        if not isinstance(argument, Pointer) or argument.space != "weights":
            return super()._argument(launch, name)
        assert argument.early
        part = self.weights[argument.offset : argument.offset + argument.nbytes]
        type = {"*fp32": torch.float32, "*bf16": torch.bfloat16, "*fp16": torch.float16}
        return part.view(type.get(launch.operands[name].type, torch.uint8))


def ids_of(count: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    ids = torch.randint(0, ROWS, (count,), generator=torch.Generator().manual_seed(count))
    ids[0] = ROWS - 1
    return ids.to(dtype)


@pytest.mark.parametrize(
    "dtype", [DType.F32, DType.BF16, DType.F8C, DType.I8C, DType.I4K, DType.I6K]
)
def test_tables_are_read_as_they_are_packed(dtype: DType) -> None:
    weights = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    source = CheckpointTensor("w", "f32", (ROWS, WIDTH))
    recipe = Quantize(dtype, source) if is_quantized(dtype) else Cast(source, dtype)
    table = Graph.constant("w", recipe, TensorType(dtype, (ROWS, WIDTH)))
    graph, ids = Graph(), Value(TensorType(DType.I32, (T,)))
    node = graph.append(Embedding(), [table, ids])
    run = Packed(graph, {"T": TOKENS})
    run.give(ids, ids_of(TOKENS))
    emit_node(run.program, node)
    # Where a head multiplies with the same matrix, it's there once.
    assert run.program.weights.packed(table) is run.program.weights.tensors[0]
    assert len(run.program.weights.tensors) == 1
    run.pack({"w": weights})
    run.run(TOKENS)
    values = weights.numpy()
    if is_quantized(dtype):
        values = dequantize(quantize(values, dtype))
    elif dtype is not DType.F32:
        values = rounded(values, dtype)
    want = Embedding().reference(torch.from_numpy(values), ids_of(TOKENS))
    atol = float(np.abs(values).max()) * 2.0**-23 if is_quantized(dtype) else 0
    torch.testing.assert_close(run.tensor(node.output), want, rtol=0, atol=atol)


def test_tables_may_be_activations_and_ids_of_several_dimensions() -> None:
    graph = Graph()
    table, ids = Value(TensorType(DType.I32, (ROWS, 3))), Value(TensorType(DType.I64, (T, 2)))
    node = graph.append(Embedding(), [table, ids])
    run = Packed(graph, {"T": TOKENS})
    numbers = torch.arange(ROWS * 3, dtype=torch.int32).view(ROWS, 3)
    index = ids_of(2 * TOKENS, torch.int64).view(TOKENS, 2)
    run.give(table, numbers)
    run.give(ids, index)
    emit_node(run.program, node)
    run.run(TOKENS)
    assert torch.equal(run.tensor(node.output), Embedding().reference(numbers, index))
