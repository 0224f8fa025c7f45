"""Weights in rows, read back by the exported program's own arithmetic."""

import numpy as np
import pytest
import torch
from llmc.codegen.inductor.constants import parts_of, value_of
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import TORCH_DTYPE
from llmc.ir.types import DType, TensorType
from llmc.passes.quantize import INTEGER_FORMATS
from llmc.weights.formats.registry import dequantize, quantize
from llmc.weights.recipes import CheckpointTensor
from llmc.weights.row_layout import RowLayout
from llmc.weights.table import WeightTable

pytestmark = pytest.mark.fast


def plain(name: str, *shape: int) -> Value:
    recipe = CheckpointTensor(name, "f32", shape)
    return Graph.constant(name, recipe, recipe.type)


def tensors_of(table: WeightTable, data: bytes, index: int) -> list[torch.Tensor]:
    return [
        torch.frombuffer(
            bytearray(data), dtype=TORCH_DTYPE[p.dtype], count=int(np.prod(p.shape)),
            offset=p.offset,
        ).view(p.shape)
        for p in parts_of(table.tensors[index])
    ]  # fmt: skip


@pytest.mark.parametrize("format", INTEGER_FORMATS)
@pytest.mark.parametrize("shape", [(5, 64), (7, 40), (3, 1), (2, 6, 33)])
def test_parts_mean_what_was_quantized(format: DType, shape: tuple[int, ...]) -> None:
    """K that no block fills, experts, and a tensor before it in the table. Scales are f16 in the
    format and f32 in the layout, so products are the same numbers, but for one rounding."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(int(np.prod(shape[:-1])), shape[-1])).astype(np.float32)
    quantized, layout = quantize(rows, format), RowLayout()
    table = WeightTable(layout)
    table.plain(plain("first", 3))
    type = TensorType(format, shape)
    value = Graph.constant("w", CheckpointTensor("w", "f32", shape), type)
    tensor = table.packed(value)
    data = bytearray(b"\xaa" * table.nbytes)
    for (offset, nbytes), part in zip(tensor.sections, layout.pack(format, quantized), strict=True):
        assert part.nbytes == nbytes
        data[offset : offset + nbytes] = part.tobytes()
    actual = value_of(type, tensors_of(table, bytes(data), 1))
    assert actual.shape == shape
    expected = dequantize(quantized).reshape(shape)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_rows_of_parts_give_rows_of_the_constant() -> None:
    """What an embedding reads of a quantized table."""
    codes = torch.randint(0, 255, (9, 32), dtype=torch.uint8)
    scales, minima = torch.rand(9, 2), torch.rand(9, 2)
    type, ids = TensorType(DType.I4A, (9, 64)), torch.tensor([7, 0, 7])
    parts = [codes, scales, minima]
    torch.testing.assert_close(
        value_of(type, [part[ids] for part in parts]), value_of(type, parts)[ids]
    )


def test_a_part_is_named_by_where_it_lies() -> None:
    table = WeightTable(RowLayout())
    for name, shape in (("a", (3,)), ("b", (2, 8))):
        table.plain(plain(name, *shape))
    names = [part.name for tensor in table.tensors for part in parts_of(tensor)]
    assert names == ["at0_f32_3", "at64_f32_2x8"]
