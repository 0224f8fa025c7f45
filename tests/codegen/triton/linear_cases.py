"""Weights as linear kernels take them, and launches of these kernels in the interpreter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from interpreted_kernels import interpreted
from llmc.codegen.triton.layout import TRITON_LAYOUT, row_stride
from llmc.ir.ops.linear import GroupedLinear, Linear
from llmc.ir.types import DType
from llmc.weights.formats.registry import dequantize, quantize
from llmc.weights.layout import section_offsets, total_bytes

COMPUTE = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
PADDING = 7
"""Elements between rows of inputs and outputs: strides differ from widths."""


@dataclass
class Weight:
    """`data` as in memory, `values` f32 [E, N, K] that it stands for."""

    format: str
    data: torch.Tensor
    values: torch.Tensor
    compute: torch.dtype
    stride: int

    @property
    def constants(self) -> dict[str, Any]:
        experts, n, _ = self.values.shape
        return {"FORMAT": self.format, "W_STRIDE": self.stride, "ROWS": experts * n}


def plain_weight(kind: str, experts: int, n: int, k: int) -> Weight:
    """Rows padded to 16 bytes with NaN."""
    values = torch.randn(experts, n, k).to(COMPUTE[kind])
    step = 16 // values.itemsize
    stride = -(-k // step) * step
    data = torch.full((experts, n, stride), float("nan"), dtype=values.dtype)
    data[..., :k] = values
    return Weight("plain", data, values.float(), values.dtype, stride)


def coded_weight(kind: str, experts: int, n: int, k: int) -> Weight:
    """8-bit codes in fragment order, then the rows' scales; codes past K are any."""
    stride = -(-k // 64) * 64
    if kind == "i8c":
        codes = torch.randint(-128, 128, (experts, n, stride), dtype=torch.int8)
        values, scale = codes.float(), 0.02
    else:
        bits = torch.randint(0, 256, (experts, n, stride), dtype=torch.uint8)
        codes = torch.where((bits & 0x7F) == 0x7F, 0x7E, bits)  # no NaN
        values, scale = codes.view(torch.float8_e4m3fn).float(), 0.01
    scales = torch.rand(experts, n) * scale + scale
    parts = [in_fragment_order(codes), scales]
    data = torch.cat([part.flatten().view(torch.uint8) for part in parts]).view(codes.dtype)
    exact = (values * scales[..., None])[..., :k]
    return Weight(kind, data, exact, torch.bfloat16, stride)


def in_fragment_order(codes: torch.Tensor) -> torch.Tensor:
    """Columns to where `fragments.py` says that they stand."""
    out = torch.empty_like(codes)
    for column in range(64):
        s, rest = divmod(column, 16)
        h, rest = divmod(rest, 8)
        q, j = divmod(rest, 2)
        out[..., 16 * q + 4 * s + 2 * h + j :: 64] = codes[..., column::64]
    return out.contiguous()


def quantized_weight(kind: str, experts: int, n: int, k: int) -> Weight:
    """What the layout of the target makes of random weights."""
    rows = [quantize(torch.randn(n, k).numpy(), DType(kind)) for _ in range(experts)]
    sections = zip(*(TRITON_LAYOUT.pack(DType(kind), each) for each in rows), strict=True)
    sizes = TRITON_LAYOUT.sections(DType(kind), (experts, n, k))
    data = np.full(total_bytes(sizes), 0xA5, np.uint8)
    for at, parts in zip(section_offsets(sizes), sections, strict=True):
        section = np.concatenate(parts)
        data[at : at + len(section)] = section
    values = torch.stack([torch.from_numpy(dequantize(each)) for each in rows])
    stride = row_stride(DType.I8C, k)
    tensor = torch.from_numpy(data)
    tensor = tensor.view(torch.int8) if kind == "i8c" else tensor
    return Weight(kind, tensor, values, torch.bfloat16, stride)


def make_weight(kind: str, n: int, k: int, experts: int = 1) -> Weight:
    """Random weights of a kind: `f32`, `bf16`, `f16`, `f8c`, or a number format.

    `i8c` is packed here, by the words of `fragments.py`.
    """
    if kind in COMPUTE:
        return plain_weight(kind, experts, n, k)
    make = coded_weight if kind in ("i8c", "f8c") else quantized_weight
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
        tile = {"BLOCK_N": 32, "BLOCK_T": 8, "BLOCK_K": 64, "STAGES": 1} | self.tile | tile
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
            SOFTCAP=self.op.softcap, PORTABLE=True, FORMAT=self.weight.format,
            W_STRIDE=self.weight.stride, **tile,
        )  # fmt: skip
        assert result[rows:].isnan().all(), "wrote past the rows"
        assert result[:, out:].isnan().all(), "wrote past the outputs"
        return result[:rows, :out]

    def first_rows(self, count: int) -> Case:
        """The same for the first rows only."""
        residual = None if self.residual is None else self.residual[:count]
        return replace(self, x=self.x[:count], residual=residual)
