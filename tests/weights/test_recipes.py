"""Recipe trees: types, content equality, printing, refusals."""

import numpy as np
import pytest
from llmc.ir.types import DType, TensorType
from llmc.weights.recipes import (
    Apply,
    Cast,
    CheckpointTensor,
    Computed,
    Concat,
    InterleavePanels,
    Pack,
    Permute,
    Quantize,
    Reshape,
    Slice,
    Take,
    add,
    chunk,
    concat,
    leaves,
    mul,
    stack,
    transpose,
    unsqueeze,
)

pytestmark = pytest.mark.fast

A = CheckpointTensor("a", "q4_1", (20, 64))
B = CheckpointTensor("b", "bf16", (20, 64))


class Double:
    """Stands for an IR op."""

    def reference(self, x):
        return x * 2

    def __str__(self) -> str:
        return "double"


def test_types() -> None:
    assert A.type == B.type == TensorType(DType.F32, (20, 64))
    assert CheckpointTensor("p", "i64", (4,)).dtype is DType.I64
    assert Concat((A, B)).shape == (40, 64)
    assert concat([A, B], -1).shape == (20, 128)
    assert stack([A, B]).shape == (2, 20, 64)
    assert stack([A, B], 1).shape == (20, 2, 64)
    assert transpose(A).shape == (64, 20)
    assert unsqueeze(A, -1).shape == (20, 64, 1)
    assert InterleavePanels(A, B).shape == (64, 64)
    assert InterleavePanels(stack([A] * 3), stack([B] * 3)).shape == (3, 64, 64)
    assert [c.shape for c in chunk(A, 4, -1)] == [(20, 16)] * 4
    assert add(A, CheckpointTensor("w", "f32", (64,))).shape == (20, 64)
    assert Cast(B, DType.BF16).dtype is DType.BF16
    assert Quantize(DType.I4A, A).type == TensorType(DType.I4A, (20, 64))
    assert Pack("x16", DType.BF16, B).type == TensorType(DType.BF16, (20, 64))
    assert Apply(Double(), (A,), TensorType(DType.F32, (20, 64))).shape == (20, 64)


def test_equality_and_hash_are_by_content() -> None:
    def build(first=A):
        return Permute(Reshape(Concat((first, B)), (2, 20, 64)), (1, 0, 2))

    assert build() == build()
    assert hash(build()) == hash(build())
    assert build() != build(CheckpointTensor("c", "q4_1", (20, 64)))
    assert Reshape(A, (10, 128)) != Reshape(A, (128, 10))
    assert Concat((A, B)) != Concat((B, A))


def test_computed_constants_compare_by_value_not_name() -> None:
    values = np.linspace(0.1, 1, 8, dtype=np.float32)
    one, two = Computed.of("layers.0.inv_freq", values), Computed.of("layers.1.inv_freq", values)
    assert one == two
    assert hash(one) == hash(two)
    assert one != Computed.of("layers.0.inv_freq", values + 1e-7)
    assert one != Computed.of("layers.0.inv_freq", values.reshape(2, 4))
    with pytest.raises(ValueError, match="read-only"):
        one.value[0] = 3


def test_printing_is_deterministic_and_readable() -> None:
    recipe = Pack("x16", DType.I4A, Quantize(DType.I4A, InterleavePanels(A, A)))
    assert str(recipe) == "pack(quantize(interleave_panels(@a:q4_1, @a:q4_1), i4a), x16, i4a)"
    assert str(mul(add(B, 1.0), 0.5)) == "mul(add(@b:bf16, 1.0), 0.5)"
    assert str(Slice(B, 0, 2, 6)) == "slice(@b:bf16, 0, 2, 6)"
    assert str(Reshape(B, (2, 10, 64))) == "reshape(@b:bf16, [2, 10, 64])"
    applied = Apply(Double(), (B,), TensorType(DType.F32, (20, 64)))
    assert str(applied) == "apply(@b:bf16, double, f32[20, 64], 0)"


def test_leaves() -> None:
    assert list(leaves(mul(Concat((A, B)), 2.0)))[:2] == [A, B]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Reshape(A, (20, 63)),
        lambda: Permute(A, (0, 0)),
        lambda: Slice(A, 0, 5, 21),
        lambda: Concat((A, CheckpointTensor("c", "f32", (20, 32)))),
        lambda: Concat((A, CheckpointTensor("c", "i64", (20, 64)))),
        lambda: Take(A, 0, Computed.of("index", np.array([0, 20]))),
        lambda: InterleavePanels(A, CheckpointTensor("c", "f32", (16, 64))),
        lambda: chunk(A, 3),
        lambda: Quantize(DType.I4A, CheckpointTensor("c", "f32", (64,))),
        lambda: Pack("x16", DType.I4S, Quantize(DType.I4A, A)),
    ],
)
def test_impossible_recipes_are_refused(build) -> None:
    with pytest.raises(ValueError, match="impossible recipe"):
        build()
