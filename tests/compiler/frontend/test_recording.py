"""Recorded arrays: torch and numpy programs give the same values as their recipes."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.recording import RecordedArray, RecordedTensor
from llmc.ir.types import DType
from llmc.weights.recipes import CheckpointTensor
from llmc.weights.values import RecipeValues

pytestmark = pytest.mark.fast

VALUES = np.random.default_rng(7).standard_normal((4, 6, 8)).astype(np.float32)


class Reader:
    def rows(self, tensor, rows):
        return VALUES.reshape(-1, 8)[rows]

    def blocks(self, tensor, rows):
        raise NotImplementedError


LEAF = CheckpointTensor("x", "f32", VALUES.shape)
ORDER = torch.tensor([2, 0, 3, 1])

TORCH_PROGRAMS = {
    "interleave": lambda x: x.reshape(4, 3, 2, 8).transpose(1, 2).reshape(x.shape).contiguous(),
    "chunk": lambda x: torch.chunk(x, 2, dim=1)[1].contiguous(),
    "split": lambda x: torch.split(x, [1, 3], dim=0)[1],
    "uneven split": lambda x: torch.split(x, 5, dim=-1)[1],
    "stack": lambda x: torch.stack([x, x], dim=1),
    "stack behind": lambda x: torch.stack([x, x], dim=-1),
    "cat": lambda x: torch.cat([x, x[:1]], dim=0),
    "transpose": lambda x: torch.transpose(x, 1, 2).contiguous(),
    "permute": lambda x: x.permute(2, 0, 1),
    "select": lambda x: x[2],
    "last": lambda x: x[:, -1],
    "strided": lambda x: x[:, 1::2],
    "index": lambda x: x[ORDER.to(x.device)],
    "index inside": lambda x: x[:, ORDER],
    "unsqueeze": lambda x: x.unsqueeze(-1).squeeze(-1).unsqueeze(0),
    "unbind": lambda x: torch.cat(list(torch.unbind(x, dim=1)), dim=0),
    "narrow": lambda x: x.narrow(1, 2, 3),
    "arithmetic": lambda x: (x.float() - 1.0) * 2 + x,
    "log of negated": lambda x: -torch.log(x.exp().neg().neg()),
    "bf16": lambda x: x.to(torch.bfloat16).float(),
    "flatten": lambda x: x.flatten(0, 1),
    "chained": lambda x: x.view(2, 2, 6, 8).transpose(1, 2).reshape(-1, 8).t(),
}


@pytest.mark.parametrize("name", TORCH_PROGRAMS)
def test_torch(name: str) -> None:
    program = TORCH_PROGRAMS[name]
    expected = program(torch.from_numpy(VALUES))
    recorded = program(RecordedTensor(LEAF))
    assert recorded.shape == expected.shape
    value = RecipeValues(Reader()).value(recorded.recipe)
    # numpy and torch round log and exp differently in the last bit; everything else is exact.
    tolerance = 1e-6 if "log" in name else 0
    assert np.allclose(value, expected.float().numpy(), rtol=tolerance, atol=tolerance)


NUMPY_PROGRAMS = {
    "reverse permute": lambda x: x.reshape(2, 2, 6, *x.shape[2:]).swapaxes(2, 1).reshape(x.shape),
    "transposed": lambda x: x.T,
    "minus one": lambda x: x - 1,
    "log": lambda x: np.log(-(x * x) * -1),
    "new axis": lambda x: np.expand_dims(x, axis=1),
    "split and stack": lambda x: np.stack(np.array_split(x, 2, axis=0), axis=1).reshape(24, 8),
    "flat": lambda x: np.concatenate([x, x]).flatten(),
    "copy": lambda x: np.copy(np.transpose(x, (0, 2, 1))),
}


@pytest.mark.parametrize("name", NUMPY_PROGRAMS)
def test_numpy(name: str) -> None:
    program = NUMPY_PROGRAMS[name]
    expected = program(VALUES)
    recorded = program(RecordedArray(LEAF))
    assert recorded.shape == expected.shape
    assert np.array_equal(RecipeValues(Reader()).value(recorded.recipe), expected)


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (lambda: torch.softmax(RecordedTensor(LEAF), -1), "softmax"),
        (lambda: RecordedTensor(LEAF).to(torch.int8), "int8"),
        (lambda: np.sort(cast(Any, RecordedArray(LEAF))), "numpy.sort"),
        (lambda: np.tanh(RecordedArray(LEAF)), "numpy.tanh"),
    ],
)
def test_other_operations_are_refused_by_name(program, named: str) -> None:
    with pytest.raises(LlmcError, match=named) as caught:
        program()
    assert caught.value.id == "LLMC-E0401"


def test_short_floats_keep_their_dtype() -> None:
    rounded = RecordedTensor(LEAF).to(torch.float16)
    assert isinstance(rounded, RecordedTensor)
    assert rounded.recipe.dtype is DType.F16
