"""Linear layers that normalize their rows: bit for bit what two launches make, and as cubins.

The two launches are `norm_rows` and `linear_rows`, which have tests of their own against the ops'
references; here nothing may differ, so there is no tolerance.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from interpreted_kernels import interpreted
from linear_cases import Case, Weight, make_weight
from llmc.codegen.triton.kernel_build import build_kernel
from llmc.codegen.triton.kernel_spec import KernelSpec
from llmc.codegen.triton.layout import row_stride
from llmc.codegen.triton.linear_tiles import linear_tile
from llmc.codegen.triton.machines import MACHINES
from llmc.ir.ops.linear import Linear
from llmc.ir.types import DType

EPS = 1e-5
POISON = float("nan")


def rows_of(count: int, n: int) -> torch.Tensor:
    """Rows of a wider buffer whose rest is NaN."""
    wide = torch.full((count, n + 3), POISON)
    wide[:, :n] = torch.randn(count, n) * 3
    return wide[:, :n]


def normalized(
    x: torch.Tensor, added: torch.Tensor | None, scale: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum, rows of `dtype`), as the norm's kernel makes them in other forms."""
    rows, n = x.shape
    sums, out = torch.full((rows, n), POISON), torch.full((rows, n), POISON, dtype=dtype)
    block_n = min(1 << (n - 1).bit_length(), 256)  # longer rows are read in pieces
    interpreted("norm").norm_rows[(rows,)](
        x, added, scale, None, sums, out, None, None, rows,
        X_STRIDE=x.stride(0), RESIDUAL_STRIDE=0 if added is None else added.stride(0),
        SUM_STRIDE=n, OUT_STRIDE=n, SCALE_STRIDE=0, GROUP=1, N=n, EPS=EPS, CENTERED=False,
        ADD=added is not None, WEIGHT=scale is not None, BIAS=False, QUANTIZE="", ROWS=1,
        BLOCK_N=block_n, ORDERED=True, PORTABLE=True,
    )  # fmt: skip
    return sums, out


def launch(
    function: str,
    weight: Weight,
    case: Case,
    x: torch.Tensor,
    added: torch.Tensor | None,
    scale: torch.Tensor | None,
    **tile: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum, result) of one launch."""
    rows, k = x.shape
    _, n, _ = weight.values.shape
    out = case.op.out or n
    result = torch.full((rows + 1, out), POISON)
    sums = torch.full((rows + 1, k), POISON) if added is not None else None
    kernel = getattr(interpreted("normed_linear"), function)
    kernel[(-(-n // tile["BLOCK_N"]),)](
        x, added, scale, sums, weight.data, case.bias if case.bias is not None else x, x, result,
        rows, N=n, K=k, OUT=out, X_STRIDE=x.stride(0),
        ADDED_STRIDE=0 if added is None else added.stride(0), SUM_STRIDE=k, RESIDUAL_STRIDE=0,
        OUT_STRIDE=out, EPS=EPS, ACT=case.op.act, GATED=case.op.gated,
        HAS_BIAS=case.bias is not None, HAS_RESIDUAL=False, SOFTCAP=0.0, FORMAT=weight.format,
        W_STRIDE=weight.stride, PORTABLE=True, **tile,
    )  # fmt: skip
    assert result[rows:].isnan().all()
    assert sums is None or sums[rows:].isnan().all()
    return x if sums is None else sums[:rows], result[:rows]


@pytest.mark.parametrize(
    ("kind", "n", "k", "rows", "add", "scaled", "gated"),
    [
        ("f32", 17, 100, 1, True, True, False),
        ("bf16", 64, 520, 2, True, True, True),  # longer than a tile of the norm and a partial sum
        ("bf16", 33, 60, 2, False, False, False),
        ("f16", 32, 64, 1, False, True, False),
        ("i8c", 64, 130, 2, True, True, True),
        ("i4k", 64, 300, 2, True, True, True),
        ("i6k", 32, 64, 1, True, True, False),
        ("i8b", 32, 96, 2, False, True, False),
    ],
)
def test_bits_are_those_of_two_launches(
    kind: str, n: int, k: int, rows: int, *, add: bool, scaled: bool, gated: bool
) -> None:
    torch.manual_seed(k)
    weight = make_weight(kind, n, k)
    x = rows_of(rows, k)
    added = rows_of(rows, k) if add else None
    scale = torch.rand(k) + 0.5 if scaled else None
    op = Linear(act="silu", gated=True, out=n // 2) if gated else Linear(bias=True)
    bias = None if gated else torch.randn(1, n)
    total, y = normalized(x, added, scale, weight.compute)
    case = Case(op, weight, y, bias)
    want = case.run()
    few = {"BLOCK_N": 32, "BLOCK_T": 8, "BLOCK_K": 64, "STAGES": 1, "NATURAL": True}
    few |= {"MOST": 2, "ROWS": n}
    sums, got = launch("normed_rows", weight, case, x, added, scale, **few)
    assert torch.equal(got, want)
    if add:
        assert torch.equal(sums, total)
    if weight.format in ("plain", "i8c"):
        tile = {"BLOCK_N": 32, "BLOCK_K": 64, "UNROLL": 1, "ROWS": 2}
        sums, got = launch("normed_gemv", weight, case, x, added, scale, **tile)
        assert torch.equal(got, case.run_gemv())
        if add:
            assert torch.equal(sums, total)


@pytest.mark.parametrize(
    ("sm", "dtype"), [(90, DType.BF16), (120, DType.BF16), (90, DType.I4K), (120, DType.I8C)]
)
def test_cubins_spill_nothing(sm: int, dtype: DType) -> None:
    n, k = 6144, 4096
    machine = MACHINES[sm]
    tile = linear_tile(machine, dtype, n, k, 2, x_size=12)
    coded = dtype is not DType.BF16
    constants: dict[str, Any] = {
        "N": n, "K": k, "OUT": n, "W_STRIDE": row_stride(dtype, k) if dtype is not DType.I4K else 0,
        "ROWS": n, "X_STRIDE": k, "ADDED_STRIDE": k, "SUM_STRIDE": k, "RESIDUAL_STRIDE": 0,
        "OUT_STRIDE": n, "EPS": EPS, "MOST": 2, "FORMAT": str(dtype) if coded else "plain",
        "ACT": "", "GATED": False, "HAS_BIAS": False, "HAS_RESIDUAL": False, "SOFTCAP": 0.0,
        "NATURAL": machine.multiplies_from_shared, "PORTABLE": False,
        "OVERLAPS": machine.overlaps, **tile.constants,
    }  # fmt: skip
    types = {
        "x_ptr": "*fp32", "added_ptr": "*fp32", "scale_ptr": "*fp32", "sum_ptr": "*fp32",
        "w_ptr": {DType.BF16: "*bf16", DType.I8C: "*i8"}.get(dtype, "*u8"), "bias_ptr": "*fp32",
        "residual_ptr": "*fp32", "out_ptr": "*bf16", "rows": "i32",
    }  # fmt: skip
    spec = KernelSpec(
        "normed_linear.normed_rows", tuple(types.items()), tuple(constants.items()),
        tile.num_warps, tile.num_stages, pdl=machine.overlaps,
    )  # fmt: skip
    cubin = build_kernel(spec, sm, keep_ptx=True)
    assert cubin.spill_bytes == 0
    assert cubin.shared <= machine.shared_bytes
    assert "cp.async" in cubin.ptx
