"""Recipe values: every node against numpy, by whole and by slices."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from checkpoint_memory import Memory
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.ir.types import DType, TensorType
from llmc.weights.formats.registry import dequantize, quantize
from llmc.weights.recipes import (
    Apply,
    Cast,
    Computed,
    Concat,
    Elementwise,
    InterleavePanels,
    Norm,
    Permute,
    Product,
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
        "product": (Product(a, m.add("r", (64, 30))), _product(A, m.values["r"])),
        "norms of rows": (Norm(a, 1), np.sqrt((A.astype(float) ** 2).sum(1, keepdims=True))),
        "norms of columns": (Norm(a, 0), np.sqrt((A.astype(float) ** 2).sum(0, keepdims=True))),
        "divided": (Elementwise("div", (a, Reshape(v, (24, 1)))), A / V[:, None]),
        "folded op": (outer, np.outer(V, V)),
        "slice of a transpose": (Slice(transpose(b), 0, 8, 30), B.T[8:30]),
        "columns of panels": (Slice(InterleavePanels(a, b_rows(b)), 1, 0, 32), None),  # type: ignore[dict-item]
    }
    table["columns of panels"] = (table["columns of panels"][0], panels(A, B[:24])[:, :32])
    return {name: (m, recipe, expected) for name, (recipe, expected) in table.items()}


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left.astype(float) @ right.astype(float)


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
    whole = expected.astype(np.float32)
    whole = whole.reshape(-1, expected.shape[-1] if expected.ndim > 1 else 1)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    part = RecipeValues(memory).rows(recipe, start, stop)
    assert np.array_equal(part, whole[start:stop])


@pytest.mark.parametrize(
    "name", ["concat rows", "heads", "panels", "scale columns", "take rows", "product"]
)
def test_row_local_recipes_read_only_their_rows(name: str) -> None:
    memory, recipe, _ = CASES[name]
    memory.rows_read = 0
    RecipeValues(memory).rows(recipe, 4, 12)
    assert (
        memory.rows_read <= 8 + 64
    )  # 8 rows, and the vector that scales columns, or the product's other side


def test_experts_are_transposed_one_by_one() -> None:
    memory, recipe, expected = CASES["transpose experts"]
    memory.rows_read = 0
    part = RecipeValues(memory).rows(recipe, 64, 128)
    assert memory.rows_read == 20
    assert np.array_equal(part, expected[1])


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
