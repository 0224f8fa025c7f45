"""Linear kernels compiled for GPUs: no spills, and the instructions that they are written for."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton")

from llmc.codegen.triton.kernel_build import build_kernel
from llmc.codegen.triton.kernel_spec import Cubin, KernelSpec
from llmc.codegen.triton.layout import in_panels, row_stride
from llmc.codegen.triton.linear_tiles import linear_tile
from llmc.codegen.triton.machines import MACHINES
from llmc.ir.types import DType

N, K = 4096, 4096
WEIGHTS = {DType.BF16: "*bf16", DType.I8C: "*i8"}


def built(sm: int, dtype: DType, rows: int, *, gated: bool = False, prefetch: int = 0) -> Cubin:
    """`linear_rows` at its default tile, with bf16 rows in and out."""
    machine = MACHINES[sm]
    tile = linear_tile(machine, dtype, N, K, rows)
    out = N // 2 if gated else N
    constants: dict[str, Any] = {
        "N": N, "K": K, "OUT": out, "W_STRIDE": 0 if in_panels(dtype) else row_stride(dtype, K),
        "ROWS": N, "X_STRIDE": K, "RESIDUAL_STRIDE": out, "OUT_STRIDE": out,
        "ACT": "silu" if gated else "", "GATED": gated,
        "FORMAT": "plain" if dtype is DType.BF16 else str(dtype), "HAS_BIAS": False,
        "HAS_RESIDUAL": not gated, "GATHER": False, "SOFTCAP": 0.0, "GROUP": tile.group,
        "PREFETCH": prefetch, "NATURAL": machine.multiplies_from_shared, "PORTABLE": False,
        "OVERLAPS": machine.overlaps, **tile.constants,
    }  # fmt: skip
    types = {
        "x_ptr": "*bf16", "w_ptr": WEIGHTS.get(dtype, "*u8"),
        "bias_ptr": "*fp32", "residual_ptr": "*fp32", "index_ptr": "*i32", "out_ptr": "*bf16",
        "rows": "i32",
    }  # fmt: skip
    return _built("linear.linear_rows", types, constants, sm, tile.num_warps, tile.num_stages)


def _built(
    function: str,
    types: dict[str, str],
    constants: dict[str, Any],
    sm: int,
    warps: int,
    stages: int,
) -> Cubin:
    spec = KernelSpec(
        function, tuple(types.items()), tuple(constants.items()), warps, stages,
        pdl=MACHINES[sm].overlaps,
    )  # fmt: skip
    return build_kernel(spec, sm, keep_ptx=True)


@pytest.mark.parametrize(
    ("sm", "instruction"),
    [
        (80, "mma.sync.aligned.m16n8k16"),
        (90, "wgmma.mma_async.sync.aligned.m64n8k16"),
        (100, "tcgen05.mma"),
        (120, "mma.sync.aligned.m16n8k16"),
    ],
)
def test_codes_for_few_rows(sm: int, instruction: str) -> None:
    """Weights arrive by 16 bytes, asynchronously, and threads read codes by 16 bytes."""
    cubin = built(sm, DType.I8C, 8, gated=True)
    assert cubin.spill_bytes == 0
    assert cubin.shared <= MACHINES[sm].shared_bytes
    assert instruction in cubin.ptx
    assert "cp.async.cg.shared.global" in cubin.ptx
    assert "ld.shared.v2.b8" not in cubin.ptx
    assert "ld.shared.b8" not in cubin.ptx
    if sm != 100:  # there codes go on to tensor memory in other pieces
        assert "ld.shared.v4.b32" in cubin.ptx


@pytest.mark.parametrize("rows", [8, 4096])
def test_bf16_on_hopper_is_wgmma_for_any_number_of_rows(rows: int) -> None:
    cubin = built(90, DType.BF16, rows)
    width = 8 if rows == 8 else 128
    assert f"wgmma.mma_async.sync.aligned.m64n{width}k16.f32.bf16.bf16" in cubin.ptx
    assert "mma.sync" not in cubin.ptx.replace("wgmma.mma_async.sync", "")
    assert cubin.spill_bytes == 0
    assert cubin.shared <= MACHINES[90].shared_bytes


@pytest.mark.parametrize(("dtype", "prefetches"), [(DType.BF16, 2), (DType.I4K, 1)])
def test_weights_are_asked_for_before_the_wait(dtype: DType, prefetches: int) -> None:
    """And nothing is read there; the kernel behind may begin at once. `prefetches`: lines, of 64
    rows 4 each, or of 2 panels 32, by 128 threads."""
    cubin = built(90, dtype, 8, prefetch=4)
    before, _, behind = cubin.ptx.partition("griddepcontrol.wait")
    assert before.count("prefetch.global.L2") == prefetches
    assert "prefetch.global.L2" not in behind
    assert "griddepcontrol.launch_dependents" in before
    assert not any(word in before for word in ("ld.global", "cp.async", "st.global"))
    assert cubin.spill_bytes == 0


def test_without_tensor_cores_no_barrier_is_in_the_loop() -> None:
    constants: dict[str, Any] = {
        "N": N, "K": K, "OUT": N, "W_STRIDE": K, "X_STRIDE": K, "RESIDUAL_STRIDE": N,
        "OUT_STRIDE": N, "FORMAT": "plain", "ACT": "", "GATED": False, "HAS_BIAS": False,
        "HAS_RESIDUAL": False, "SOFTCAP": 0.0, "ROWS": 1, "BLOCK_N": 8, "BLOCK_K": 512,
        "UNROLL": 4, "PORTABLE": False,
    }  # fmt: skip
    types = {
        "x_ptr": "*bf16", "w_ptr": "*bf16", "bias_ptr": "*fp32", "residual_ptr": "*fp32",
        "out_ptr": "*fp32", "rows": "i32",
    }  # fmt: skip
    cubin = _built("gemv.gemv_rows", types, constants, 90, 4, 1)
    assert cubin.spill_bytes == 0
    # All of them are in the sum at the end; 16 loads of weights are under way at once.
    assert cubin.ptx.count("bar.sync") <= 3
    assert cubin.ptx.count("L1::evict_first.L2::cache_hint.v4.b32") == 16
