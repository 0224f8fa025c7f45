"""Recipe values: every node against numpy, by whole and by slices, floats and stored blocks."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.ir.types import DType, TensorType
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import dequantize, quantize
from llmc.weights.held_blocks import held_formats, requantized_tensors
from llmc.weights.recipes import (
    Apply,
    Cast,
    CheckpointTensor,
    Computed,
    Concat,
    Elementwise,
    InterleavePanels,
    Permute,
    Quantize,
    Recipe,
    Reshape,
    Slice,
    Take,
    add,
    mul,
    stack,
    transpose,
)
from llmc.weights.values import RecipeValues

pytestmark = pytest.mark.fast

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


@dataclass(frozen=True)
class Outer:
    def reference(self, a, b):
        return torch.outer(a, b)


def panels(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """InterleavePanels written out with pad and reshape."""
    n, k = gate.shape[-2:]
    padded = -(-n // 16) * 16
    pad = [(0, 0)] * (gate.ndim - 2) + [(0, padded - n), (0, 0)]
    parts = [np.pad(x, pad).reshape(*x.shape[:-2], -1, 16, k) for x in (gate, up)]
    return np.stack(parts, axis=-3).reshape(*gate.shape[:-2], 2 * padded, k)


def cases() -> dict[str, tuple[Memory, Recipe, np.ndarray]]:
    m = Memory()
    a, b = m.add("a", (24, 64)), m.add("b", (40, 64))
    e, f, v = m.add("e", (3, 20, 64)), m.add("f", (3, 20, 64)), m.add("v", (24,))
    A, B, E, F, V = (m.values[t.name] for t in (a, b, e, f, v))
    order = np.random.default_rng(0).permutation(24)
    index = Computed.of("order", order)
    outer = Apply(Outer(), (v, v), TensorType(DType.F32, (24, 24)))
    table: dict[str, tuple[Recipe, np.ndarray]] = {
        "leaf": (a, A),
        "concat rows": (Concat((a, b)), np.concatenate([A, B])),
        "concat columns": (Concat((a, a), 1), np.concatenate([A, A], 1)),
        "concat inside experts": (Concat((e, f), 1), np.concatenate([E, F], 1)),
        "concat vectors": (Concat((v, v)), np.concatenate([V, V])),
        "stack": (stack([a, a, a]), np.stack([A, A, A])),
        "heads": (
            Reshape(Permute(Reshape(a, (3, 4, 2, 64)), (0, 2, 1, 3)), (24, 64)),
            A.reshape(3, 4, 2, 64).transpose(0, 2, 1, 3).reshape(24, 64),
        ),
        "heads of a bias": (
            Reshape(Permute(Reshape(v, (3, 4, 2)), (0, 2, 1)), (24,)),
            V.reshape(3, 4, 2).transpose(0, 2, 1).reshape(24),
        ),
        "transpose": (transpose(a), A.T),
        "transpose experts": (transpose(e), E.transpose(0, 2, 1)),
        "reshape columns": (Reshape(e, (3, 40, 32)), E.reshape(3, 40, 32)),
        "slice rows": (Slice(a, 0, 5, 17), A[5:17]),
        "slice columns": (Slice(a, 1, 3, 50), A[:, 3:50]),
        "slice experts": (Slice(e, 1, 4, 9), E[:, 4:9]),
        "take rows": (Take(a, 0, index), A[order]),
        "take columns": (Take(a, 1, index), A[:, order]),
        "panels": (InterleavePanels(a, a), panels(A, A)),
        "panels of experts": (InterleavePanels(e, f), panels(E, F)),
        "add scalar": (add(v, 1.0), V + 1),
        "scale columns": (mul(a, m.add("k", (64,))), A * m.values["k"]),
        "scale rows": (mul(a, Reshape(v, (24, 1))), A * V[:, None]),
        "scale experts": (mul(e, m.add("x", (3, 1, 1))), E * m.values["x"]),
        "log of negative": (
            Elementwise("log", (Elementwise("neg", (mul(mul(v, v), -1.0),)),)),
            np.log(V * V),
        ),
        "bf16": (Cast(a, DType.BF16), torch.from_numpy(A).bfloat16().float().numpy()),
        "computed": (add(Computed.of("c", A), a), A + A),
        "folded op": (outer, np.outer(V, V)),
        "slice of a transpose": (Slice(transpose(b), 0, 8, 30), B.T[8:30]),
        "columns of panels": (Slice(InterleavePanels(a, b_rows(b)), 1, 0, 32), None),  # type: ignore[dict-item]
    }
    table["columns of panels"] = (table["columns of panels"][0], panels(A, B[:24])[:, :32])
    return {name: (m, recipe, expected) for name, (recipe, expected) in table.items()}


def b_rows(b: Recipe) -> Recipe:
    return Slice(b, 0, 0, 24)


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_value(name: str) -> None:
    memory, recipe, expected = CASES[name]
    value = RecipeValues(memory).value(recipe)
    assert value.shape == recipe.shape
    assert np.array_equal(value, expected.astype(np.float32))


@settings(deadline=None)
@given(st.data())
def test_any_slice_equals_the_rows_of_the_whole(data: st.DataObject) -> None:
    memory, recipe, expected = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    whole = expected.reshape(-1, expected.shape[-1] if expected.ndim > 1 else 1)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    part = RecipeValues(memory).rows(recipe, start, stop)
    assert np.array_equal(part, whole[start:stop])


@pytest.mark.parametrize("name", ["concat rows", "heads", "panels", "scale columns", "take rows"])
def test_row_local_recipes_read_only_their_rows(name: str) -> None:
    memory, recipe, _ = CASES[name]
    memory.rows_read = 0
    RecipeValues(memory).rows(recipe, 4, 12)
    assert memory.rows_read <= 8 + 64  # 8 rows, and the vector that scales columns


def test_experts_are_transposed_one_by_one() -> None:
    memory, recipe, expected = CASES["transpose experts"]
    memory.rows_read = 0
    part = RecipeValues(memory).rows(recipe, 64, 128)
    assert memory.rows_read == 20
    assert np.array_equal(part, expected[1])


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
    assert held_formats(recipe) == (DType.I4A,)
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


def test_quantize_node_gives_the_values_of_its_codes() -> None:
    memory = Memory()
    x = memory.add("x", (24, 64))
    values = RecipeValues(memory)
    expected = dequantize(quantize(memory.values["x"], DType.I8C))
    assert np.array_equal(values.value(Quantize(DType.I8C, x)), expected)


def test_a_folded_op_of_another_shape_is_refused() -> None:
    memory = Memory()
    v = memory.add("v", (24,))
    wrong = Apply(Outer(), (v, v), TensorType(DType.F32, (24,)))
    with pytest.raises(ValueError, match="gave shape"):
        RecipeValues(memory).value(wrong)
