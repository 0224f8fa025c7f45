"""A format of the test's own goes the whole way, and what can't take it refuses it by name.

`docs/adding-a-weight-format.md` lists what a format touches. Here it is a class and two rows; every
reference is worked out in float64 by other code than the format's.
"""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.codegen.cpu.packing import PANEL16
from llmc.codegen.inductor.constants import parts_of, value_of
from llmc.codegen.tensorrt.emitters import check
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import TORCH_DTYPE
from llmc.ir.parser import parse
from llmc.ir.recipe import Computed
from llmc.ir.types import DType
from llmc.passes.quantize import Scheme
from llmc.passes.quantize import quantize as quantize_pass
from llmc.weights.recipes import Concat, InterleavePanels, Quantize, Recipe
from llmc.weights.row_layout import RowLayout
from llmc.weights.stream import WeightStream
from llmc.weights.table import WeightTable
from llmc.weights.values import RecipeValues
from toy_format import registered

RANDOM = np.random.default_rng(6)
A = Computed.of("a", RANDOM.normal(size=(20, 40)).astype(np.float32))
B = Computed.of("b", RANDOM.normal(size=(12, 40)).astype(np.float32))
LINEAR = """
graph main: FUSED
input x: f32[T, 40]
const @w: f32[20, 40] = @w:f32
%0: f32[T, 20] = linear(x, @w)
output %0
"""


@pytest.fixture
def toy() -> Iterator[DType]:
    with registered() as dtype:
        yield dtype


class NoCheckpoint:
    """The recipes here read no checkpoint."""

    def rows(self, tensor, rows):
        raise AssertionError(tensor)

    blocks = rows


def reference(values: np.ndarray) -> np.ndarray:
    """float64 values of 6-bit codes in blocks of 16, the scale as float16 has it."""
    padded = np.pad(values.astype(np.float64), ((0, 0), (0, -values.shape[1] % 16)))
    blocks = padded.reshape(len(values), -1, 16)
    largest = np.abs(blocks).max(axis=2, keepdims=True).astype(np.float32)
    scale = (largest / np.float32(31)).astype(np.float16).astype(np.float64)
    return (np.round(blocks / scale).clip(-31, 31) * scale).reshape(padded.shape)[
        :, : values.shape[1]
    ]


def constant(recipe: Recipe, dtype: DType) -> Value:
    return Graph.constant("w", recipe, recipe.type.with_dtype(dtype))


def stored(table: WeightTable) -> bytes:
    """The data section as it is written into an artifact."""
    out = io.BytesIO()
    stream = WeightStream(table.tensors, table.nbytes)
    stream.write(out, NoCheckpoint(), table.layout)
    return out.getvalue()[-stream.data_bytes :]


def test_from_recipe_to_bytes_and_back(toy: DType) -> None:
    """Quantize recipe → values → layout of rows → what the bytes say."""
    recipe = Quantize(toy, Concat((A, B)))
    assert str(recipe) == f"quantize(concat({A}, {B}, 0), i6t)"
    expected = reference(np.concatenate([A.value, B.value]))
    values = RecipeValues(NoCheckpoint())
    np.testing.assert_allclose(values.value(recipe), expected, rtol=1e-6)
    table = WeightTable(RowLayout())
    (codes_at, codes_bytes), (scales_at, scales_bytes) = table.packed(
        constant(recipe, toy)
    ).sections
    data = stored(table)
    codes = np.frombuffer(data, np.int8, codes_bytes, codes_at).reshape(32, 3, 16)
    scales = np.frombuffer(data, np.float32, scales_bytes // 4, scales_at).reshape(32, 3, 1)
    assert (codes.min(), codes.max()) == (-31, 31)
    assert (codes[:, 2, 8:] == 0).all()
    np.testing.assert_allclose((codes * scales).reshape(32, 48)[:, :40], expected, rtol=1e-6)


def test_unsigned_rows_and_padding_rows(toy: DType) -> None:
    recipe = Quantize(toy, InterleavePanels(A, A))
    table = WeightTable(RowLayout(unsigned=True))
    (at, nbytes), (scales_at, scales_bytes) = table.packed(constant(recipe, toy)).sections
    data = stored(table)
    codes = np.frombuffer(data, np.uint8, nbytes, at).reshape(2, 2, 16, 48)
    assert (codes.min(), codes.max()) == (128 - 31, 128 + 31)
    scales = np.frombuffer(data, np.float32, scales_bytes // 4, scales_at).reshape(2, 2, 16, 3)
    assert (scales[1, :, 4:] == 0).all()
    assert (codes[1, :, 4:] == 128).all()
    assert (scales[0] > 0).all()


def test_inductor_reads_it(toy: DType) -> None:
    """It computes with any format whose facts it can ask."""
    table, value = WeightTable(RowLayout()), constant(Quantize(toy, A), toy)
    parts = parts_of(table.packed(value))
    data = bytearray(stored(table))
    tensors = [
        torch.frombuffer(
            data, dtype=TORCH_DTYPE[p.dtype], offset=p.offset, count=int(np.prod(p.shape))
        ).view(p.shape)
        for p in parts
    ]
    np.testing.assert_allclose(value_of(value.type, tensors).numpy(), reference(A.value), rtol=1e-6)


def test_a_scheme_that_names_it_gives_it_to_weights(toy: DType) -> None:
    graph = parse(LINEAR)
    assert quantize_pass(graph, Scheme("toy", toy, toy, DType.F32), quantized_inputs=False)
    text = str(graph)
    assert "const @w: i6t[20, 40] = quantize(@w:f32, i6t)" in text
    assert str(parse(text)) == text


def test_targets_without_it_refuse_it_by_name(toy: DType) -> None:
    value = constant(Quantize(toy, A), toy)
    with pytest.raises(LlmcError, match=r"cpu.* i6t") as no_kernel:
        WeightTable(PANEL16).packed(value)
    assert no_kernel.value.id == "LLMC-E0231"
    graph = parse(LINEAR)
    quantize_pass(graph, Scheme("toy", toy, toy, DType.F32), quantized_inputs=False)
    with pytest.raises(LlmcError, match="i6t") as no_layer:
        check(graph)
    assert no_layer.value.id == "LLMC-E0401"


def test_nothing_is_left_of_it() -> None:
    with registered() as dtype:
        assert DType("i6t") is dtype
    with pytest.raises(ValueError, match="i6t"):
        DType("i6t")
