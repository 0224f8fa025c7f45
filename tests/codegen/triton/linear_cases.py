"""Weights as linear kernels take them, and launches of these kernels in the interpreter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from interpreted_kernels import interpreted
from llmc.ir.ops.linear import GroupedLinear, Linear
from triton.runtime import interpreter

COMPUTE = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
PADDING = 7
"""Elements between rows of inputs and outputs: strides differ from widths."""


def _multiply(builder: Any, a: Any, b: Any) -> Any:
    """The interpreter's product of two tensors; its own takes bf16's bits for whole numbers."""
    if a.dtype.scalar.name != "bf16":
        return builder.binary_op(a, b, np.multiply)
    left, right = (_bf16(each.data) for each in (a, b))
    bits = (left * right).view(torch.int16).numpy().view(np.uint16)
    return interpreter.TensorHandle(bits, a.dtype.scalar)


def _bf16(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)


setattr(interpreter.InterpreterBuilder, "create_fmul", _multiply)  # noqa: B010


@dataclass
class Weight:
    """`data` as in memory, `values` f32 [E, N, K] that it stands for."""

    format: str
    data: torch.Tensor
    values: torch.Tensor
    compute: torch.dtype
    stride: int = 1
    panels: int = 1

    @property
    def constants(self) -> dict[str, Any]:
        return {"FORMAT": self.format, "W_STRIDE": self.stride, "PANELS": self.panels}


def plain_weight(kind: str, experts: int, n: int, k: int) -> Weight:
    """Rows padded to 16 bytes with NaN."""
    values = torch.randn(experts, n, k).to(COMPUTE[kind])
    step = 16 // values.itemsize
    stride = -(-k // step) * step
    data = torch.full((experts, n, stride), float("nan"), dtype=values.dtype)
    data[..., :k] = values
    return Weight("plain", data, values.float(), values.dtype, stride)


def coded_weight(kind: str, experts: int, n: int, k: int) -> Weight:
    """8-bit codes in panels, then the rows' scales; codes past N and K are any."""
    n16, k32 = -(-n // 16) * 16, -(-k // 32) * 32
    if kind == "i8c":
        codes = torch.randint(-128, 128, (experts, n16, k32), dtype=torch.int8)
        values, scale = codes.float(), 0.02
    else:
        bits = torch.randint(0, 256, (experts, n16, k32), dtype=torch.uint8)
        codes = torch.where((bits & 0x7F) == 0x7F, 0x7E, bits)  # no NaN
        values, scale = codes.view(torch.float8_e4m3fn).float(), 0.01
    scales = torch.rand(experts, n16) * scale + scale
    bytes = [packed_panels(codes).flatten().view(torch.uint8), scales.flatten().view(torch.uint8)]
    data = torch.cat(bytes).view(torch.int8 if kind == "i8c" else torch.uint8)
    exact = (values * scales[..., None])[:, :n, :k]
    return Weight(kind, data, exact, torch.bfloat16, panels=experts * n16 // 16)


def packed_panels(codes: torch.Tensor) -> torch.Tensor:
    """Codes [E, N, K] as [E, panel, block, lane, 16 bytes], byte by byte as `panels.py` has it."""
    experts, n, k = codes.shape
    out = torch.empty(experts, n // 16, k // 32, 32, 16, dtype=codes.dtype)
    for lane in range(32):
        g, t = divmod(lane, 4)
        for byte in range(16):
            half, r, h, j = byte >> 3, byte >> 2 & 1, byte >> 1 & 1, byte & 1
            column = 16 * half + 8 * h + 2 * t + j
            out[..., lane, byte] = codes[:, 8 * r + g :: 16, column::32]
    return out


def make_weight(kind: str, n: int, k: int, experts: int = 1) -> Weight:
    """Random weights of a kind: `f32`, `bf16`, `f16`, `i8c`, `f8c`."""
    make = plain_weight if kind in COMPUTE else coded_weight
    return make(kind, experts, n, k)


def padded_rows(values: torch.Tensor) -> torch.Tensor:
    """`values` as rows of a wider buffer whose rest is NaN."""
    wide = torch.full((len(values), values.shape[1] + PADDING), float("nan"), dtype=values.dtype)
    wide[:, : values.shape[1]] = values
    return wide[:, : values.shape[1]]


@dataclass
class Case:
    """A layer and its operands. `x` [rows, K] in the type that it has in memory."""

    op: Linear
    weight: Weight
    x: torch.Tensor
    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    index: torch.Tensor | None = None
    offsets: torch.Tensor | None = None
    out_dtype: torch.dtype = torch.float32
    tile: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(rows, N, K, OUT)."""
        rows = len(self.x if self.index is None else self.index)
        _, n, k = self.weight.values.shape
        return rows, n, k, self.op.out or n

    def expected(self) -> torch.Tensor:
        """The op's reference in float64, of an x rounded to the type that is multiplied in."""
        x = self.x.to(self.weight.compute).double()
        w = self.weight.values.double()
        bias = None if self.bias is None else self.bias.double()
        if isinstance(self.op, GroupedLinear):
            given = [x, w, bias, self.index, self.offsets]
        else:
            x = x if self.index is None else x[self.index.long()]
            residual = None if self.residual is None else self.residual.double()
            given = [x, w[0], None if bias is None else bias[0], residual]
        return self.op.reference(*[v for v in given if v is not None])

    def run(self, **tile: Any) -> torch.Tensor:
        """What the kernel makes of it: [rows, OUT] within poisoned memory."""
        rows, n, k, out = self.shape
        tile = {"BLOCK_N": 32, "BLOCK_T": 8, "BLOCK_K": 32} | self.tile | tile
        result = torch.full((rows + 1, out + PADDING), float("nan")).to(self.out_dtype)
        constants = self.weight.constants | {
            "N": n, "K": k, "OUT": out, "X_STRIDE": self.x.stride(0),
            "OUT_STRIDE": result.stride(0), "ACT": self.op.act, "GATED": self.op.gated,
            "HAS_BIAS": self.bias is not None, "GATHER": self.index is not None,
            "SOFTCAP": self.op.softcap, "NATURAL": True, "PORTABLE": True,
        } | tile  # fmt: skip
        self._launch(result, constants)
        assert result[rows:].isnan().all(), "wrote past the rows"
        assert result[:, out:].isnan().all(), "wrote past the outputs"
        return result[:rows, :out]

    def _launch(self, result: torch.Tensor, constants: dict[str, Any]) -> None:
        rows, n, *_ = self.shape
        kernels = interpreted("linear")
        any = self.x
        bias = any if self.bias is None else self.bias
        index = any if self.index is None else self.index
        tiles_n, tiles_t = -(-n // constants["BLOCK_N"]), -(-rows // constants["BLOCK_T"])
        if isinstance(self.op, GroupedLinear):
            assert self.offsets is not None
            experts = len(self.offsets) - 1
            kernels.grouped_linear[(tiles_n, tiles_t + experts)](
                self.x, self.weight.data, bias, index, self.offsets, result,
                EXPERTS=experts, **constants,
            )  # fmt: skip
            return
        residual = any if self.residual is None else self.residual
        constants = {"GROUP": 1, "RESIDUAL_STRIDE": residual.stride(0)} | constants
        constants["HAS_RESIDUAL"] = self.residual is not None
        kernels.linear_rows[(tiles_n, tiles_t)](
            self.x, self.weight.data, bias, residual, index, result, rows, **constants
        )

    def run_gemv(self, **tile: Any) -> torch.Tensor:
        """What the kernel for one or two rows makes of it."""
        rows, n, k, out = self.shape
        tile = {"BLOCK_N": 32, "BLOCK_K": 64, "UNROLL": 1, "ROWS": 2} | tile
        result = torch.full((3, out + PADDING), float("nan")).to(self.out_dtype)
        any = self.x
        bias = any if self.bias is None else self.bias
        residual = any if self.residual is None else self.residual
        interpreted("gemv").gemv_rows[(-(-n // tile["BLOCK_N"]),)](
            self.x, self.weight.data, bias, residual, result, rows,
            N=n, K=k, OUT=out, X_STRIDE=self.x.stride(0), RESIDUAL_STRIDE=residual.stride(0),
            OUT_STRIDE=result.stride(0), ACT=self.op.act, GATED=self.op.gated,
            HAS_BIAS=self.bias is not None, HAS_RESIDUAL=self.residual is not None,
            SOFTCAP=self.op.softcap, PORTABLE=True, **self.weight.constants, **tile,
        )  # fmt: skip
        assert result[rows:].isnan().all(), "wrote past the rows"
        assert result[:, out:].isnan().all(), "wrote past the outputs"
        return result[:rows, :out]

    def first_rows(self, count: int) -> Case:
        """The same for the first rows only."""
        residual = None if self.residual is None else self.residual[:count]
        return replace(self, x=self.x[:count], residual=residual)
