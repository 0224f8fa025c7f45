"""The embedding kernel against the op's reference, in Triton's interpreter.

Tolerance of block formats: the product and the minimum's sum may round once or twice, 2^-23 of the
largest of both.
"""

import numpy as np
import pytest

pytest.importorskip("triton")

import torch
from interpreted_kernels import interpreted
from llmc.codegen.triton.layout import TRITON_LAYOUT, row_stride
from llmc.ir.ops.shape import Embedding
from llmc.ir.types import DType
from llmc.weights.formats.elements import rounded
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import FORMATS, dequantize, is_quantized, quantize
from llmc.weights.layout import section_offsets, total_bytes

PLAIN = {DType.F32: torch.float32, DType.BF16: torch.bfloat16, DType.F16: torch.float16}
SHAPES = [(37, 96), (16, 33), (5, 640)]


def packed(dtype: DType, rows: Quantized | np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
    sizes = TRITON_LAYOUT.sections(dtype, shape)
    data = np.full(total_bytes(sizes), 0xA5, np.uint8)
    for at, part in zip(section_offsets(sizes), TRITON_LAYOUT.pack(dtype, rows), strict=True):
        data[at : at + part.nbytes] = part
    return torch.from_numpy(data)


def looked_up(
    ids: torch.Tensor, table: torch.Tensor, out: torch.Tensor, format: str, shape: tuple[int, int],
    stride: int = 0,
) -> torch.Tensor:  # fmt: skip
    """`out` [tokens, columns] after the kernel, poisoned before and cut to the table's width."""
    (rows, k), tokens = shape, len(ids)
    out.view(torch.uint8).fill_(0xA5)
    interpreted("embedding").embedding_rows[(-(-tokens // 2), -(-k // 64))](
        ids, table, out, tokens, FORMAT=format, ROWS=rows, K=k, TABLE_STRIDE=stride,
        OUT_STRIDE=out.shape[1], BLOCK_T=2, BLOCK_K=64, PORTABLE=True,
    )  # fmt: skip
    assert (out[:, k:].contiguous().view(torch.uint8) == 0xA5).all()
    return out[:, :k]


def ids_of(rows: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    ids = torch.randint(0, rows, (count,), generator=torch.Generator().manual_seed(rows))
    ids[0], ids[-1] = rows - 1, 0
    return ids.to(dtype)


@pytest.mark.parametrize(("rows", "k"), SHAPES)
@pytest.mark.parametrize("dtype", FORMATS)
def test_rows_of_number_formats(dtype: DType, rows: int, k: int) -> None:
    weights = np.random.default_rng(k).standard_normal((rows, k)).astype(np.float32)
    quantized = quantize(weights, dtype)
    ids = ids_of(rows, 3, torch.int64)
    out = torch.empty(3, k + 3)
    found = looked_up(ids, packed(dtype, quantized, (rows, k)), out, str(dtype), (rows, k))
    (expected,) = (Embedding().reference(torch.from_numpy(dequantize(quantized)), ids),)
    torch.testing.assert_close(found, expected, rtol=0, atol=float(expected.abs().max()) * 2.0**-23)


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("dtype", PLAIN)
def test_rows_of_plain_tables(dtype: DType, tokens: int) -> None:
    rows, k = 11, 67
    weights = np.random.default_rng(tokens).standard_normal((rows, k)).astype(np.float32)
    ids = ids_of(rows, tokens, torch.int32)
    table = packed(dtype, weights, (rows, k)).view(PLAIN[dtype])
    out = torch.empty(tokens, k + 5)
    found = looked_up(ids, table, out, "plain", (rows, k), row_stride(dtype, k))
    values = weights if dtype is DType.F32 else rounded(weights, dtype)
    assert torch.equal(found, Embedding().reference(torch.from_numpy(values), ids))


@pytest.mark.parametrize("dtype", [DType.F32, DType.F8C, DType.I4K])
def test_ids_outside_of_the_table_take_its_first_row(dtype: DType) -> None:
    """Where no token could be chosen, the next step finds -1: nothing is read before the table."""
    rows, k = 11, 40
    weights = np.random.default_rng(2).standard_normal((rows, k)).astype(np.float32)
    held = quantize(weights, dtype) if is_quantized(dtype) else weights
    format = str(dtype) if is_quantized(dtype) else "plain"
    ids = torch.tensor([3, -1, rows, 0, -(2**31), 2**31 - 1], dtype=torch.int32)
    table, out = packed(dtype, held, (rows, k)), torch.empty(6, k)
    table = table if is_quantized(dtype) else table.view(PLAIN[dtype])
    found = looked_up(ids, table, out, format, (rows, k), row_stride(DType.F32, k))
    assert torch.equal(found[[1, 2, 4, 5]], found[3].expand(4, k))
    assert not torch.equal(found[0], found[3])


def test_whole_numbers_stay_what_they_are() -> None:
    table = torch.randint(-(2**40), 2**40, (7, 3))
    ids = ids_of(7, 5, torch.int64)
    out = torch.empty(5, 4, dtype=torch.int64)
    found = looked_up(ids, table, out, "plain", (7, 3), 3)
    assert torch.equal(found, Embedding().reference(table, ids))
