"""The norm kernel against the ops' references, in Triton's interpreter, and as cubins.

Tolerance: sums of squares in another order, and a division and a square root instead of `rsqrt`:
a few roundings of f32 (1e-5 of values near 1), or one of the result's 16 bits. Codes may differ by
one where a value lies next to a half: such a rounding moves it by less than 1e-4 of a step.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from compiled_kernels import SMS, spilled_bytes
from interpreted_kernels import interpreted, interpreted_source
from llmc.codegen.triton.kernels import norm as compiled
from llmc.ir.ops import Norm
from triton.runtime import interpreter

POISON = float("nan")


def norm(
    op: Norm,
    x: torch.Tensor | None,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    *,
    out: torch.Tensor,
    sums: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    total: torch.Tensor | None = None,
    quantize: str = "",
    tile: tuple[int, int] = (1, 0),
    group: int = 1,
    rows: int = 0,
) -> None:
    assert x is not None
    n = out.shape[-1] if quantize != "block" else x.shape[-1]
    rows = rows or x.shape[0] * group
    per_program, block_n = tile[0], tile[1] or max(32, 1 << (n - 1).bit_length())
    stride = {t: v.stride(0) if v is not None else 0 for t, v in enumerate((x, residual, sums))}
    interpreted("norm").norm_rows[(-(-rows // per_program),)](
        x, residual, weight, bias, sums, out, scale, total, rows,
        X_STRIDE=stride[0], RESIDUAL_STRIDE=stride[1], SUM_STRIDE=stride[2],
        OUT_STRIDE=out.stride(0), SCALE_STRIDE=scale.stride(0) if scale is not None else 0,
        GROUP=group, N=n, EPS=op.eps, CENTERED=op.fn == "layer_norm", ADD=op.add,
        WEIGHT=op.weight, BIAS=op.bias, QUANTIZE=quantize, ROWS=per_program, BLOCK_N=block_n,
        PORTABLE=True,
    )  # fmt: skip


def inputs(op: Norm, rows: int, n: int, seed: int = 0) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, n), (rows, n) if op.add else None)
    vectors = ((n,) if op.weight else None, (n,) if op.bias else None)
    return [
        None if s is None else torch.randn(s, generator=generator) * 2 for s in (*shapes, *vectors)
    ]


def expected(op: Norm, values: list[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
    result = op.reference(*(v for v in values if v is not None))
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("fn", "weight", "bias", "add"),
    [("rms_norm", True, False, True), ("rms_norm", False, False, False),
     ("layer_norm", True, True, False), ("layer_norm", False, True, True)],
)  # fmt: skip
def test_rows_are_the_references(
    fn: str, weight: bool, bias: bool, add: bool, element: torch.dtype
) -> None:
    op = Norm(fn, 1e-5, weight=weight, bias=bias, add=add)
    for (rows, n), tile in product([(1, 37), (5, 80)], [(1, 0), (2, 0), (1, 32)]):
        values = inputs(op, rows, n)
        out = torch.full((rows, n + 3), POISON, dtype=element)
        sums = torch.full((rows, n + 1), POISON) if add else None
        norm(op, *values, out=out[:, :n], sums=sums, tile=tile)
        *total, y = expected(op, values)
        bits = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}[element]
        torch.testing.assert_close(out[:, :n].float(), y, rtol=bits, atol=1e-5)
        assert out[:, n:].isnan().all()
        if sums is not None:
            assert torch.equal(sums[:, :n], total[0])
            assert sums[:, n:].isnan().all()


def test_small_rows_of_heads_lie_inside_tokens() -> None:
    """Heads of a token are rows; they lie behind one another in a wider row of a projection."""
    op = Norm("rms_norm", 1e-6)
    generator = torch.Generator().manual_seed(3)
    for tokens, heads, size in ((1, 3, 16), (3, 5, 24)):
        fused = torch.randn((tokens, heads * size + 40), generator=generator)
        weight = torch.randn(size, generator=generator)
        out = torch.full((tokens, heads * size), POISON)
        x = fused[:, : heads * size].view(tokens, heads, size)
        interpreted_out = out.view(tokens, heads, size)
        norm(op, x, None, weight, None, out=interpreted_out, group=heads, tile=(4, 0))
        want = op.reference(x, weight)
        assert isinstance(want, torch.Tensor)
        torch.testing.assert_close(interpreted_out, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", [(1, 0), (2, 0), (1, 32)])
def test_codes_in_blocks_are_the_references(tile: tuple[int, int]) -> None:
    op = Norm("rms_norm", 1e-5, quantize=True)
    rows, n, padded = 3, 72, 96
    values = inputs(op, rows, n)
    q = torch.full((rows, padded), 0x55, dtype=torch.int8)
    scale, total = torch.full((2, rows, padded // 32), POISON)
    norm(op, *values, out=q, scale=scale, total=total, quantize="block", tile=tile)
    want_q, want_scale, want_total = expected(op, values)
    assert (q[:, n:] == 0).all()
    torch.testing.assert_close(scale, want_scale, rtol=1e-6, atol=0)
    off = q.int() - want_q.int()
    assert off.abs().max() <= 1
    assert (off != 0).sum() <= 1
    torch.testing.assert_close(total, want_total, rtol=1e-5, atol=float(scale.max()) * 1.01)


@pytest.fixture
def _rounding_to_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter loses the carry where rounding to e4m3 reaches the next power of 2."""
    convert = interpreter._convert_float

    def rounded(data: np.ndarray, source: Any, to: Any, mode: Any) -> np.ndarray:
        if (source.name, to.name) != ("fp32", "fp8e4nv"):
            return convert(data, source, to, mode)
        numbers = np.ascontiguousarray(data).view(np.float32)
        return torch.from_numpy(numbers.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", rounded)


@pytest.mark.usefixtures("_rounding_to_8_bits")
@pytest.mark.parametrize("element", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("tile", [(1, 0), (2, 0), (1, 32)])
def test_codes_of_whole_rows(element: torch.dtype, tile: tuple[int, int]) -> None:
    op = Norm("layer_norm", 1e-5, bias=True)
    rows, n = 3, 70
    values = inputs(op, rows, n)
    y = expected(op, values)[0]
    q = torch.full((rows, n), 0x55, dtype=torch.uint8).view(element)
    scale = torch.full((rows,), POISON)
    norm(op, *values, out=q, scale=scale, quantize="row", tile=tile)
    limit = 127 if element == torch.int8 else 448
    torch.testing.assert_close(scale, y.abs().amax(1) / limit, rtol=1e-5, atol=0)
    step = scale[:, None] * (0.5 if element == torch.int8 else 1 / 1024)
    error = (q.float() * scale[:, None] - y).abs()
    # e4m3 keeps 3 bits behind the first: half a step is at most 1/16 of a value
    relative = 0.0 if element == torch.int8 else 1 / 16
    assert (error <= torch.maximum(step, y.abs() * relative) * 1.001).all()
    assert (q.float().abs().amax(1) == limit).all()


@pytest.mark.parametrize("add", [False, True])
def test_a_row_of_zeros_has_codes_of_zero(add: bool) -> None:
    op = Norm("rms_norm", 1e-5, weight=False, add=add)
    x = torch.zeros(2, 64)
    sums = torch.full((2, 64), POISON)
    for quantize, blocks in (("row", 1), ("block", 2)):
        q = torch.full((2, 64), 0x55, dtype=torch.int8)
        scale, total = torch.full((2, 2, blocks), POISON)
        norm(op, x, x, None, None, out=q, sums=sums, scale=scale, total=total, quantize=quantize)
        assert (q == 0).all()
        assert (scale == 0).all()


@pytest.mark.parametrize("tile", [(2, 0), (2, 32)])
def test_a_row_does_not_depend_on_the_others(tile: tuple[int, int]) -> None:
    op = Norm("rms_norm", 1e-5, add=True)
    x, residual, weight, _ = inputs(op, 5, 67)
    assert x is not None
    assert residual is not None
    together, alone = torch.full((2, 5, 67), POISON)
    sums = torch.full((5, 67), POISON)
    norm(op, x, residual, weight, None, out=together, sums=sums, tile=tile)
    for i in range(5):
        row = slice(i, i + 1)
        norm(op, x[row], residual[row], weight, None, out=alone[row], sums=sums[row], tile=tile)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("tile", [(1, 0), (1, 32)])
def test_results_may_overwrite_operands(tile: tuple[int, int]) -> None:
    op = Norm("rms_norm", 1e-5, add=True)
    values = inputs(op, 3, 45)
    total, y = expected(op, values)
    x, residual = values[:2]
    assert x is not None
    assert residual is not None
    norm(op, *values, out=x, sums=residual, tile=tile)
    assert torch.equal(residual, total)
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def test_rows_behind_the_last_are_left_alone() -> None:
    op = Norm("rms_norm", 1e-5)
    values = inputs(op, 4, 40)
    out = torch.full((4, 40), POISON)
    norm(op, *values, out=out, rows=3, tile=(2, 0))
    assert out[3].isnan().all()
    assert not out[:3].isnan().any()


FACTORS = """
import triton
import triton.language as tl
from .norm import row_factors
@triton.jit
def factors(x_ptr, out_ptr, rows, N: tl.constexpr, BLOCK_T: tl.constexpr):
    row = tl.arange(0, BLOCK_T)
    result = row_factors(x_ptr, None, None, row, rows, 0, N, 0, 0, N, 1e-6, BLOCK_T)
    tl.store(out_ptr + row, result, mask=row < rows)
"""


def test_factors_of_rows_have_one_order_of_sums() -> None:
    kernel = interpreted_source(FACTORS, "factors_of_rows").factors
    x = torch.randn((3, 200), generator=torch.Generator().manual_seed(0))
    out = torch.full((2, 3), POISON)
    kernel[(1,)](x, out[0], 3, 200, 4)
    for i in range(3):
        kernel[(1,)](x[i], out[1, i:], 1, 200, 1)
    assert torch.equal(out[0], out[1])
    torch.testing.assert_close(out[0], torch.rsqrt(x.pow(2).mean(1) + 1e-6), rtol=1e-6, atol=0)


CASES: list[tuple[int, int, int, int, str, str]] = [
    (4096, 1, 4096, 8, "", "*bf16"),
    (8192, 1, 8192, 8, "block", "*i8"),
    (128, 8, 128, 1, "", "*fp32"),
    (20000, 1, 8192, 8, "row", "*fp8e4nv"),
]


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize(("n", "rows", "block_n", "warps", "quantize", "element"), CASES)
def test_cubins_spill_nothing(
    sm: int, n: int, rows: int, block_n: int, warps: int, quantize: str, element: str
) -> None:
    if sm < 89 and element == "*fp8e4nv":
        element = "*i8"  # such a GPU has no 8-bit floats
    pointers = ("x", "residual", "weight", "bias", "sum", "scale", "total")
    types = {f"{name}_ptr": "*fp32" for name in pointers} | {"rows": "i32", "out_ptr": element}
    strides: dict[str, Any] = {
        f"{name}_STRIDE": n for name in ("X", "RESIDUAL", "SUM", "OUT", "SCALE")
    }
    constants = strides | {
        "GROUP": 8 if rows > 1 else 1, "N": n, "EPS": 1e-6, "CENTERED": quantize == "row",
        "ADD": rows == 1, "WEIGHT": True, "BIAS": quantize == "row", "QUANTIZE": quantize,
        "ROWS": rows, "BLOCK_N": block_n, "PORTABLE": sm < 90,
    }  # fmt: skip
    assert spilled_bytes(compiled.norm_rows, types, constants, sm, warps) == 0
