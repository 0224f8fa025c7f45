"""Packed codes to bf16: the instructions, run by a model of them in numpy on every byte."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

import torch
from interpreted_kernels import interpreted_source
from llmc.codegen.triton.kernels.block_format import zero_code
from llmc.codegen.triton.kernels.codes import instructions
from llmc.codegen.triton.kernels.fragments import e4m3_instructions
from llmc.weights.formats.elements import FLOAT8, from_bf16, to_bf16
from llmc.weights.formats.registry import FORMATS

pytestmark = pytest.mark.fast

Array = np.ndarray
PACKED = [str(dtype) for dtype, format in FORMATS.items() if format.bits < 8]


def _prmt(a: Array, b: Array, selector: Array) -> Array:
    picks = [(selector >> (4 * i)) & 7 for i in range(4)]
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    parts = [
        (both >> (pick.astype(np.uint64) * 8) & 255) << (8 * i) for i, pick in enumerate(picks)
    ]
    return np.bitwise_or.reduce(parts).astype(np.uint32)


def _lop3(a: Array, b: Array, c: Array, table: Array) -> Array:
    out = np.zeros(np.broadcast(a, b, c).shape, np.uint32)
    for entry in range(8):  # PTX ISA, lop3: bit 4 a + 2 b + c of the table
        if table[0] >> entry & 1:
            terms = [v if entry >> (2 - i) & 1 else ~v for i, v in enumerate((a, b, c))]
            out |= terms[0] & terms[1] & terms[2]
    return out


def _fma(a: Array, b: Array, c: Array) -> Array:
    """Two bf16 each; float64 holds a product and a sum of such numbers exactly."""
    halves = []
    for shift in (0, 16):
        x, y, z = (from_bf16((v >> shift).astype(np.uint16)).astype(np.float64) for v in (a, b, c))
        halves.append(to_bf16((x * y + z).astype(np.float32)).astype(np.uint32) << shift)
    return halves[0] | halves[1]


MODEL: dict[str, Callable[..., Array]] = {
    "mov.b32": lambda a: a, "and.b32": lambda a, b: a & b,
    "shr.u32": lambda a, n: a >> n, "shr.b32": lambda a, n: a >> n, "shl.b32": lambda a, n: a << n,
    "prmt.b32": _prmt, "lop3.b32": _lop3, "fma.rn.bf16x2": _fma,
}  # fmt: skip


def run(text: str, inputs: dict[str, Array]) -> dict[str, Array]:
    """Registers after the instructions of `text`; one that isn't in `MODEL` is a KeyError."""
    registers = dict(inputs)
    body = re.sub(r"[{}]|\.reg[^;]*;", "", text)
    for line in filter(None, (part.strip() for part in body.split(";"))):
        name, operands = line.split(maxsplit=1)
        out, *read = (operand.strip() for operand in operands.split(","))
        values = [
            registers[r] if r in registers else np.full(1, int(r, 0), np.uint32) for r in read
        ]
        registers[out] = MODEL[name](*values)
    return registers


def words_of(values: Array) -> Array:
    return np.ascontiguousarray(values, np.uint8).view(np.uint32).reshape(-1)


def pairs_of(low: Array, high: Array) -> Array:
    return low.astype(np.uint32) | high.astype(np.uint32) << 16


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("format", PACKED)
def test_instructions_give_the_codes_exactly(format: str, row: int) -> None:
    rng, bits = np.random.default_rng(row), int(format[1])
    codes = rng.integers(0, 1 << bits, (4096, 2, 4))  # half, column
    bytes_ = codes[:, 0] & 15 | (codes[:, 1] & 15) << 4
    # Bits of the other row are there, too: they mustn't show.
    others = rng.integers(0, 1 << bits, codes.shape)
    high = np.zeros((4096, 4), np.int64)
    for r, each in ((row, codes), (1 - row, others)):
        for half in range(2):
            for i in range(4):
                if bits == 5:
                    at = np.s_[:, i % 2 :: 2]  # bytes 0, 1, 0, 1
                    high[at] |= (each[:, half, i] >> 4 << (4 * (i // 2) + 2 * half + r))[:, None]
                elif bits == 6:
                    high[:, i] |= each[:, half, i] >> 4 << (4 * r + 2 * half)
    found = run(instructions(format, row), {"$4": words_of(bytes_), "$5": words_of(high)})
    zero = {"i4s": 8, "i5s": 16, "i6k": 32}.get(format, 0)
    values = to_bf16((codes - zero).astype(np.float32))
    for half in range(2):
        for pair in range(2):
            expected = pairs_of(values[:, half, 2 * pair], values[:, half, 2 * pair + 1])
            assert np.array_equal(found[f"${2 * half + pair}"], expected)


def test_floats_of_8_bits_become_bf16_exactly() -> None:
    bits = np.arange(256, dtype=np.uint8)
    bits = bits[np.isfinite(FLOAT8["e4m3"])]
    bits = np.random.default_rng(0).permutation(np.append(bits, [0, 0x80])).reshape(-1, 4)
    found = run(e4m3_instructions(), {"$2": words_of(bits)})
    values = to_bf16(FLOAT8["e4m3"][bits])
    for pair in range(2):
        expected = pairs_of(values[:, 2 * pair], values[:, 2 * pair + 1])
        assert np.array_equal(found[f"${pair}"], expected)


def test_zero_codes_are_those_of_the_formats() -> None:
    for dtype, format in FORMATS.items():
        if not format.per_row:
            assert zero_code(str(dtype)) == format.zero_code


SOURCE = """
import triton
import triton.language as tl
from .codes import four_bits, more_bits, ones

@triton.jit
def numbers(codes_ptr, bits_ptr, low_ptr, high_ptr, FORMAT: tl.constexpr, BYTES: tl.constexpr):
    lanes = tl.arange(0, 32)[None, None, :, None]
    at = lanes * 8 + tl.arange(0, 8)[None, None, None, :]
    codes = tl.load(codes_ptr + at)
    if BYTES == 0:
        low, high = four_bits(codes, FORMAT, True)
    else:
        bits = tl.load(bits_ptr + lanes * BYTES + tl.arange(0, BYTES)[None, None, None, :])
        low, high = more_bits(codes, bits, FORMAT, True)
    tl.store(low_ptr + at, low)
    tl.store(high_ptr + at, high)
"""


@pytest.mark.parametrize("format", PACKED)
def test_portable_codes_are_those_of_the_instructions(format: str) -> None:
    rng, count = np.random.default_rng(7), 2 * (int(format[1]) - 4)
    codes = rng.integers(0, 256, (32, 8), np.uint8)
    bits = rng.integers(0, 256, (32, max(count, 1)), np.uint8)
    low, high = (torch.full((32, 8), float("nan"), dtype=torch.bfloat16) for _ in range(2))
    kernel: Any = interpreted_source(SOURCE, "numbers_of_codes")
    kernel.numbers[(1,)](
        torch.from_numpy(codes), torch.from_numpy(bits), low, high, FORMAT=format, BYTES=count
    )
    repeated = np.tile(bits, (1, 2))[:, :4] if count == 2 else bits
    found = [v.view(torch.int16).numpy().view(np.uint16).reshape(32, 2, 4) for v in (low, high)]
    for row in range(2):
        inputs = {"$4": words_of(codes[:, 4 * row : 4 * row + 4]), "$5": np.zeros(32, np.uint32)}
        if count:
            inputs["$5"] = words_of(repeated)
        expected = run(instructions(format, row), inputs)
        for half in range(2):
            for pair in range(2):
                own = found[half][:, row, 2 * pair : 2 * pair + 2]
                assert np.array_equal(expected[f"${2 * half + pair}"], pairs_of(*own.T))
