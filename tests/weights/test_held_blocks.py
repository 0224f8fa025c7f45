"""Blocks that a checkpoint holds keep their bits on every way that only moves rows."""

import numpy as np
import pytest
from checkpoint_memory import STORED, Memory
from llmc.ir.recipe import Computed
from llmc.ir.types import DType
from llmc.weights.formats.registry import dequantize, quantize
from llmc.weights.held_blocks import held_formats, requantized_tensors
from llmc.weights.recipes import (
    Concat,
    InterleavePanels,
    Permute,
    Quantize,
    Reshape,
    Slice,
    Take,
    mul,
    stack,
)
from llmc.weights.values import RecipeValues

MOVES = {
    "leaf": lambda x, y: x,
    "concat": lambda x, y: Concat((x, y)),
    "heads": lambda x, y: Reshape(Permute(Reshape(x, (3, 4, 2, 64)), (0, 2, 1, 3)), (24, 64)),
    "panels": InterleavePanels,
    "stack": lambda x, y: stack([x, y]),
    "stacked panels": lambda x, y: InterleavePanels(stack([x, y]), stack([y, x])),
    "slice": lambda x, y: Slice(x, 0, 3, 19),
    "take": lambda x, y: Take(x, 0, Computed.of("i", np.arange(24)[::-1].copy())),
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("move", MOVES)
def test_stored_blocks_keep_their_bits(stored: str, move: str) -> None:
    memory = Memory()
    recipe = MOVES[move](memory.add("x", (24, 64), stored), memory.add("y", (24, 64), stored))
    values = RecipeValues(memory)
    format = STORED[stored]
    assert held_formats(recipe)[0] is format
    assert requantized_tensors(recipe, format) == ()
    q = values.quantized_rows(recipe, format)
    assert q.format.dtype is format
    expected = values.rows(recipe)
    assert np.array_equal(dequantize(q), expected)
    # Not only equal values: the codes are stored ones, where requantizing would choose others.
    stored_rows = {row.tobytes() for s in memory.quantized.values() for row in s.codes}
    nonzero = np.abs(expected).max(axis=1) > 0
    assert all(row.tobytes() in stored_rows for row in q.codes[nonzero])
    middle = values.quantized_rows(recipe, format, 5, 14)
    assert np.array_equal(middle.codes, q.codes[5:14])


@pytest.mark.parametrize("format", [DType.I4A, DType.I8B])
def test_q4_0_is_held_exactly_by_wider_formats(format: DType) -> None:
    memory = Memory()
    x = memory.add("x", (24, 64), "q4_0")
    q = RecipeValues(memory).quantized_rows(x, format)
    assert q.format.dtype is format
    assert np.array_equal(dequantize(q), memory.values["x"])


def test_mixed_blocks_find_the_format_that_holds_both() -> None:
    memory = Memory()
    x, y = memory.add("x", (24, 64), "q4_0"), memory.add("y", (24, 64), "q4_1")
    recipe = Concat((x, y))
    assert held_formats(recipe) == (DType.I4A, DType.I5A)
    values = RecipeValues(memory)
    assert np.array_equal(dequantize(values.quantized_rows(recipe, DType.I4A)), values.rows(recipe))


def test_what_cannot_be_held_is_requantized_and_named() -> None:
    memory = Memory()
    x, y = memory.add("x", (24, 64), "q4_1"), memory.add("y", (24, 64), "q8_0")
    recipe = Concat((x, y))
    assert held_formats(recipe) == ()
    assert requantized_tensors(recipe, DType.I4A) == (y,)
    values = RecipeValues(memory)
    q = values.quantized_rows(recipe, DType.I4A)
    assert np.array_equal(q.codes[:24], memory.quantized["x"].codes)
    again = quantize(memory.values["y"], DType.I4A)
    assert np.array_equal(q.codes[24:], again.codes)
    assert requantized_tensors(mul(x, 2.0), DType.I4A) == (x,)
    assert requantized_tensors(Quantize(DType.I4A, x), DType.I4A) == ()
