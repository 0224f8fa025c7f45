"""Where weights lie, decided before any of them is read."""

import pytest
from llmc.ir.graph import Graph, Value
from llmc.ir.recipe import CheckpointTensor, Recipe
from llmc.ir.types import DType
from llmc.weights.recipes import Pack, Quantize
from llmc.weights.row_layout import RowLayout
from llmc.weights.table import WeightTable

W = CheckpointTensor("w", "f32", (5, 33))
BIAS = CheckpointTensor("bias", "f32", (5,))


def constant(name: str, recipe: Recipe, dtype: DType | None = None) -> Value:
    return Graph.constant(name, recipe, recipe.type.with_dtype(dtype or recipe.dtype))


def test_tensors_follow_one_another_aligned() -> None:
    table = WeightTable(RowLayout())
    bias = table.plain(constant("bias", BIAS))
    w = table.packed(constant("w", Quantize(DType.I4A, W), DType.I4A))
    assert (bias.offset, bias.nbytes, bias.dtype) == (0, 20, DType.F32)
    # 5 rows of two blocks: 160 bytes of codes, then 40 of scales and of minima, each aligned to 64.
    assert w.sections == ((64, 160), (256, 40), (320, 40))
    assert (w.offset, w.nbytes, w.shape, w.dtype) == (64, 296, (5, 33), DType.I4A)
    assert w.recipe == Pack("rows", DType.I4A, Quantize(DType.I4A, W))
    assert table.nbytes == 384


def test_equal_recipes_are_one_tensor_and_names_are_unique() -> None:
    table = WeightTable(RowLayout())
    first = table.plain(constant("w", W))
    assert table.plain(constant("tied", CheckpointTensor("w", "f32", (5, 33)))) is first
    other = table.plain(constant("w", BIAS))
    assert [t.name for t in table.tensors] == ["w", "w.2"]
    assert other is table.tensors[1]


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_a_plain_and_a_packed_tensor_of_one_recipe_are_two(dtype: DType) -> None:
    table = WeightTable(RowLayout())
    value = constant("w", W, dtype)
    assert table.plain(value) is not table.packed(value)
    assert [t.nbytes for t in table.tensors] == [5 * 33 * dtype.itemsize] * 2
