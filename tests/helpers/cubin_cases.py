"""Kernels that tests compile: small ones, and some that are short of registers."""

from __future__ import annotations

from llmc.codegen.triton.kernel_spec import Constant, KernelSpec

SOURCE = """
import triton
import triton.language as tl

@triton.jit
def add(x_ptr, y_ptr, out_ptr, n, scale, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0).to(tl.float32)
    y = tl.load(y_ptr + at, mask=at < n, other=0).to(tl.float32)
    tl.store(out_ptr + at, (x * scale + y).to(out_ptr.dtype.element_ty), mask=at < n)

@triton.jit
def product(x_ptr, w_ptr, out_ptr, tokens, K: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
            COLUMNS: tl.constexpr, BK: tl.constexpr):
    row = tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, BK)
    sums = tl.zeros([COLUMNS, ROWS], tl.float32)
    for start in range(0, K, BK):
        w = tl.load(w_ptr + column[:, None] * K + (k + start)[None, :])
        x = tl.load(x_ptr + row[None, :] * K + (k + start)[:, None], mask=(row < tokens)[None, :],
                    other=0)
        sums = tl.dot(w, x, sums)
    tl.store(out_ptr + row[None, :] * N + column[:, None], sums, mask=(row < tokens)[None, :])

@triton.jit
def widest(x_ptr, out_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    x = tl.load(x_ptr + row[:, None] * COLUMNS + column[None, :])
    tl.store(out_ptr + column[:, None] * ROWS + row[None, :], tl.trans(x) * tl.sum(x))

@triton.jit
def unequal(x_ptr, y_ptr, n):
    tl.store(x_ptr + tl.arange(0, 8), tl.load(y_ptr + tl.arange(0, 8)) + tl.arange(0, 16))
"""


def add(block: Constant = 128, **options: object) -> KernelSpec:
    types = (("x_ptr", "*bf16"), ("y_ptr", "*fp32"), ("out_ptr", "*bf16"))
    numbers = (("n", "i32"), ("scale", "fp32"))
    spec: dict[str, object] = {"constants": (("BLOCK", block),), "source": SOURCE, **options}
    return KernelSpec("add", types + numbers, **spec)  # type: ignore[arg-type]


def product(
    rows: int = 16, columns: int = 64, bk: int = 64, unaligned: tuple[str, ...] = ()
) -> KernelSpec:
    types = (("x_ptr", "*bf16"), ("w_ptr", "*bf16"), ("out_ptr", "*fp32"), ("tokens", "i32"))
    sizes = (("K", 512), ("N", 256), ("ROWS", rows), ("COLUMNS", columns), ("BK", bk))
    return KernelSpec("product", types, sizes, 4, 3, unaligned, source=SOURCE)


def widest() -> KernelSpec:
    """More elements than registers: 256 in each thread."""
    types = (("x_ptr", "*fp32"), ("out_ptr", "*fp32"))
    return KernelSpec("widest", types, (("ROWS", 64), ("COLUMNS", 128)), 1, source=SOURCE)
