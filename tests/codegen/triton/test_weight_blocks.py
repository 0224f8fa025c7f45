"""Products with weights in blocks, in Triton's interpreter, and the kernels' cubins.

The truth is the product in float64 of the dequantized weights with x rounded to bf16: codes enter
exactly, so only f32 sums differ. Tolerance: K additions, each rounded by 2^-24 of the largest
partial sum, which is below the sum of the products' magnitudes: 2^-20 of that sum leaves room.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

import torch
import triton
from interpreted_kernels import interpreted_source
from llmc.codegen.triton.layout import TRITON_LAYOUT, block_constants
from llmc.codegen.triton.mma_panels import panels_of
from llmc.ir.types import DType
from llmc.weights.formats.elements import rounded
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import FORMATS, dequantize, quantize
from llmc.weights.layout import section_offsets, total_bytes
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BLOCK_FORMATS = [dtype for dtype, format in FORMATS.items() if not format.per_row]

SOURCE = """
import triton
import triton.language as tl
from .weight_blocks import block_product, gated_order

@triton.jit
def linear(
    x_ptr, w_ptr, out_ptr, rows, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr,
    N: tl.constexpr, X_STRIDE: tl.constexpr, FIRST_PANEL: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCKS: tl.constexpr, STAGES: tl.constexpr, GATED: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    x_at = tl.minimum(t, rows - 1).to(tl.int64) * X_STRIDE
    panel = FIRST_PANEL + tl.program_id(0) * (BLOCK_N // 16)
    y = block_product(
        x_ptr, x_at, w_ptr, panel, FORMAT, PANELS, K, BLOCK_N, BLOCK_T, BLOCKS, STAGES, PORTABLE
    )
    if GATED:
        y = gated_order(y)
    stored = (n < N)[:, None] & (t < rows)[None, :]
    tl.store(out_ptr + t.to(tl.int64)[None, :] * N + n[:, None], y, mask=stored)
"""


def weights(seed: int, n: int, k: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)


def stored(matrices: list[Quantized], shape: tuple[int, ...]) -> np.ndarray:
    """Packed matrices behind one another; what is between sections is poisoned."""
    dtype = matrices[0].format.dtype
    sizes = TRITON_LAYOUT.sections(dtype, shape)
    data = np.full(total_bytes(sizes), 0xA5, np.uint8)
    parts = zip(*(TRITON_LAYOUT.pack(dtype, m) for m in matrices), strict=True)
    for at, size, section in zip(section_offsets(sizes), sizes, parts, strict=True):
        data[at : at + size] = np.concatenate(section)
    return data


def product(
    data: np.ndarray, dtype: DType, shape: tuple[int, ...], x: torch.Tensor, *, first: int = 0,
    block_n: int = 32, block_t: int = 8, blocks: int = 4, gated: bool = False,
) -> np.ndarray:  # fmt: skip
    """f32 [rows, N] of the matrix whose panels begin at `first`; x [rows, its stride]."""
    n, rows = shape[-2], len(x)
    out = torch.full((rows, n), float("nan"))
    constants: dict[str, Any] = block_constants(dtype, shape)
    interpreted_source(SOURCE, "block_linear").linear[(-(-n // block_n), -(-rows // block_t))](
        x, torch.from_numpy(data), out, rows, N=n, X_STRIDE=x.shape[1], FIRST_PANEL=first,
        BLOCK_N=block_n, BLOCK_T=block_t, BLOCKS=blocks, STAGES=2, GATED=gated, PORTABLE=True,
        **constants,
    )  # fmt: skip
    return out.numpy()


def check(found: np.ndarray, values: np.ndarray, x: torch.Tensor) -> None:
    exact = rounded(x[:, : values.shape[1]].float().numpy(), DType.BF16).astype(np.float64)
    wide = values.astype(np.float64)
    bound = np.abs(exact) @ np.abs(wide).T * 2.0**-20 + 1e-30
    assert (np.abs(found - exact @ wide.T) <= bound).all()


SHAPES = [(1, 17, 96), (3, 64, 33), (13, 1, 640), (1, 33, 576), (3, 1, 32), (13, 17, 128)]


def cases() -> Iterator[tuple[DType, tuple[int, int, int]]]:
    """Every format with three of the shapes, every shape with some formats."""
    for i, dtype in enumerate(BLOCK_FORMATS):
        for j in (0, 1, 3):
            yield dtype, SHAPES[(i + j) % len(SHAPES)]


@pytest.mark.parametrize(("dtype", "shape"), list(cases()))
def test_products_are_exact_but_for_the_sums(dtype: DType, shape: tuple[int, int, int]) -> None:
    rows, n, k = shape
    quantized = quantize(weights(n + k, n, k), dtype)
    # Rows of x are wider than K: what is behind K must not count.
    x = torch.full((rows, k + 5), float("nan"))
    x[:, :k] = torch.from_numpy(weights(rows, rows, k))
    if rows == 3:
        x = x.bfloat16()
    check(product(stored([quantized], (n, k)), dtype, (n, k), x), dequantize(quantized), x)


@pytest.mark.parametrize("dtype", [DType.I4K, DType.I6K, DType.I8B])
def test_a_row_s_bits_don_t_depend_on_the_tiles(dtype: DType) -> None:
    n, k = 32, 288
    data = stored([quantize(weights(1, n, k), dtype)], (n, k))
    x = torch.from_numpy(weights(2, 9, k))
    whole = product(data, dtype, (n, k), x, block_t=16)
    assert np.array_equal(product(data, dtype, (n, k), x[4:5], block_n=16), whole[4:5])


def test_an_expert_s_panels_begin_behind_those_of_the_others() -> None:
    shape, dtype = (3, 20, 64), DType.I5K
    matrices = [quantize(weights(i, 20, 64), dtype) for i in range(3)]
    data, x = stored(matrices, shape), torch.from_numpy(weights(9, 2, 64))
    for expert in (1, 2):
        found = product(data, dtype, shape, x, first=expert * panels_of(20))
        check(found, dequantize(matrices[expert]), x)


def test_gated_rows_alternate_by_eights() -> None:
    n, k, dtype = 64, 64, DType.I4A
    quantized = quantize(weights(3, n, k), dtype)
    data, x = stored([quantized], (n, k)), torch.from_numpy(weights(4, 2, k))
    natural, gated = (product(data, dtype, (n, k), x, gated=g) for g in (False, True))
    for row in range(n):
        # Outputs 0 .. 31 are those of panels 0 and 1, then 2 and 3; 8 of the gate, their 8 of up.
        output = row // 16 * 8 + row % 8
        source = output // 16 * 32 + row // 8 % 2 * 16 + output % 16
        assert np.array_equal(gated[:, row], natural[:, source])


@cache
def compiled_source() -> Any:
    """SOURCE as a module of the kernels' package, for the compiler."""
    import linecache

    file, name = "<block_linear>", "llmc.codegen.triton.kernels.block_linear"
    lines: list[str] = [*SOURCE.splitlines(keepends=True)]
    linecache.cache[file] = (len(SOURCE), None, lines, file)
    module = ModuleType(name)
    module.__package__, module.__file__ = name.rpartition(".")[0], file
    sys.modules[name] = module
    exec(compile(SOURCE, file, "exec"), module.__dict__)
    return module


def built(dtype: DType, sm: int, tile: tuple[int, int, int, int]) -> Any:
    """The kernel with tiles of (BLOCK_N, BLOCK_T, BLOCKS) and so many warps."""
    block_n, block_t, blocks, num_warps = tile
    fn = compiled_source().linear
    constants: dict[str, Any] = {
        **block_constants(dtype, (4096, 4096)), "N": 4096, "X_STRIDE": 4096, "FIRST_PANEL": 0,
        "BLOCK_N": block_n, "BLOCK_T": block_t, "BLOCKS": blocks, "STAGES": 4, "GATED": False,
        "PORTABLE": False,
    }  # fmt: skip
    types = {"x_ptr": "*bf16", "w_ptr": "*u8", "out_ptr": "*fp32", "rows": "i32"}
    names = fn.arg_names
    source = ASTSource(
        fn,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in range(3)},
    )
    options = {"num_warps": num_warps, "num_stages": 4, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)


def spilled_bytes(cubin: bytes, folder: Path) -> int:
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    tool = Path(nvidia.__path__[0]) / "bin/cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"(?:STACK|LOCAL):(\d+)", text)
    assert found
    return sum(int(n) for n in found)


FEW_ROWS, FIVE_BITS, MANY_ROWS = (16, 8, 8, 8), (32, 8, 4, 4), (64, 64, 4, 8)
BUILDS = [
    (DType.I4S, 90, FEW_ROWS), (DType.I4A, 80, FEW_ROWS), (DType.I4K, 120, FEW_ROWS),
    (DType.I5S, 80, FIVE_BITS), (DType.I5A, 100, FIVE_BITS), (DType.I5K, 90, FIVE_BITS),
    (DType.I6K, 100, FEW_ROWS), (DType.I8B, 90, FEW_ROWS), (DType.I4K, 90, MANY_ROWS),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "sm", "tile"), BUILDS)
def test_cubins(dtype: DType, sm: int, tile: tuple[int, int, int, int], tmp_path: Path) -> None:
    """They spill nothing, and loads and codes are what the kernels are written for."""
    kernel = built(dtype, sm, tile)
    assert spilled_bytes(kernel.asm["cubin"], tmp_path) == 0
    ptx = kernel.asm["ptx"]
    loop = re.search(r"(\$L__BB0_\d+):((?:(?!\$L__BB0_\d+:).)*?)bra\s+\1;", ptx, re.DOTALL)
    assert loop
    body = loop.group(2)
    assert "mma.sync.aligned.m16n8k16" in body
    assert "cp.async" in body
    assert "ld.global" not in body  # all loads are asynchronous
    assert body.count("bar.sync") <= 2
    if dtype is not DType.I8B:
        assert "lop3.b32" in body
        assert "fma.rn.bf16x2" in body
        assert "cvt.rn.bf16" not in body  # no code is converted by itself
