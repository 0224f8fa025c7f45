"""Projections: linear layers with epilogues, grouped (expert) linear layers, row quantization.

A weight is `[N, K]`, one row per output. A *gated* weight holds gate and up rows in
alternating panels of 16 rows (`recipes.InterleavePanels`), so that the kernel has
both halves of an output in one register tile; `out` is the number of outputs.
A *quantized* input is the three results of `QuantizeRows` in place of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F

from ..phase import Phase
from ..tiles import BLOCK, PANEL, round_up
from ..types import Dim, DType, TensorType, numel
from .base import Op, require
from .elementwise import UNARY


@dataclass(frozen=True)
class QuantizeRows(Op):
    """x f32[..., K] → q i8[..., Kp], scale f32[..., Kp/32], total f32[..., Kp/32].

    Symmetric per block of 32: scale = max|x| / 127, q = round_half_even(x / scale),
    total = scale * sum(q) (what a weight's minimum is multiplied with). Kp is K
    rounded up to 32; the padding is 0.
    """

    first_phase = Phase.QUANTIZED

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        k = x.shape[-1]
        require(isinstance(k, int), "quantize_rows needs a static last dimension")
        assert isinstance(k, int)
        return quantized_types(x.shape[:-1], k)

    def reference(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (x,) = inputs
        x = F.pad(x.float(), (0, -x.shape[-1] % BLOCK))
        blocks = x.unflatten(-1, (-1, BLOCK))
        scale = blocks.abs().amax(-1) / 127
        q = torch.round(blocks / torch.where(scale == 0, 1.0, scale).unsqueeze(-1))
        return q.flatten(-2).to(torch.int8), scale, scale * q.sum(-1)


def quantized_types(rows: tuple[Dim, ...], k: int) -> tuple[TensorType, ...]:
    """Types of the three results of quantizing `[*rows, k]`."""
    padded = round_up(k, BLOCK)
    scales = TensorType(DType.F32, (*rows, padded // BLOCK))
    return TensorType(DType.I8, (*rows, padded)), scales, scales


def dequantized(q: torch.Tensor, scale: torch.Tensor, k: int) -> torch.Tensor:
    """f32[..., k] from codes and block scales."""
    return (q.float().unflatten(-1, (-1, BLOCK)) * scale.unsqueeze(-1)).flatten(-2)[..., :k]


@dataclass(frozen=True)
class Linear(Op):
    """`y = softcap([residual +] act(x Wᵀ + bias))`, or `act(gate) * up` where gated.

    Inputs: x (or q, scale, total), weight, then bias and residual if present.
    Result f32[..., out]. `softcap` c > 0 applies `c * tanh(y / c)`.
    """

    bias: bool = False
    residual: bool = False
    act: str = ""
    gated: bool = False
    softcap: float = 0.0
    out: int = 0
    quantized: bool = False

    @property
    def num_x(self) -> int:
        """How many operands the input takes."""
        return 3 if self.quantized else 1

    def split(self, inputs: tuple) -> tuple:
        """(x operands, weight, bias or None, residual or None)."""
        x, rest = inputs[: self.num_x], list(inputs[self.num_x :])
        weight = rest.pop(0)
        bias = rest.pop(0) if self.bias else None
        residual = rest.pop(0) if self.residual else None
        require(not rest, f"{self} has too many inputs")
        return x, weight, bias, residual

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x, *_), weight, bias, residual = self.split(inputs)
        require(weight.rank == 2, f"linear takes a weight [N, K], not {weight}")
        n, k = weight.shape
        k_in = round_up(k, BLOCK) if self.quantized else k
        require(x.shape[-1] == k_in, f"linear: {x} does not fit weight {weight}")
        out = self.out or n
        if self.gated:
            require(n == 2 * round_up(out, PANEL), f"gated weight {weight} for {out} outputs")
        result = TensorType(DType.F32, (*x.shape[:-1], out))
        if bias is not None:
            require(bias.shape == (n,), f"bias {bias} for weight {weight}")
        if residual is not None:
            require(residual == result, f"residual {residual} for result {result}")
        return (result,)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, weight, bias, residual = self.split(inputs)
        value = dequantized(x[0], x[1], weight.shape[-1]) if self.quantized else x[0]
        y = F.linear(value, weight.to(value.dtype), bias)
        return self.epilogue(y, residual)

    def epilogue(self, y: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        if self.gated:
            gate, up = y.unflatten(-1, (-1, 2, PANEL)).unbind(-2)
            y = UNARY[self.act](gate.flatten(-2)) * up.flatten(-2)
            y = y[..., : self.out]
        elif self.act:
            y = UNARY[self.act](y)
        if residual is not None:
            y = y + residual
        return self.softcap * torch.tanh(y / self.softcap) if self.softcap else y


@dataclass(frozen=True)
class RouteTokens(Op):
    """Sort token copies by expert: indices [T, k] → row_index, offsets, slot.

    row_index i32[k*T]: the token of each sorted row. offsets i32[E+1]: where each
    expert's rows begin. slot i32[T, k]: the sorted row of each (token, choice). The
    sort is stable. (T is a symbol, or 1 in the step of one token.)
    """

    experts: int

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (index,) = inputs
        tokens, k = index.shape
        require(isinstance(k, int) and not (isinstance(tokens, int) and tokens > 1), f"{index}")
        rows = TensorType(DType.I32, (numel((tokens, k)),))
        return rows, TensorType(DType.I32, (self.experts + 1,)), index.with_dtype(DType.I32)

    def reference(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (index,) = inputs
        flat = index.flatten().long()
        order = torch.argsort(flat, stable=True)
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order))
        offsets = F.pad(torch.bincount(flat, minlength=self.experts).cumsum(0), (1, 0))
        k = index.shape[1]
        return (order // k).int(), offsets.int(), slot.view(index.shape).int()


@dataclass(frozen=True)
class GroupedLinear(Linear):
    """`Linear` whose rows choose their weight: weight [E, N, K], bias [E, N].

    Inputs: x (or q, scale, total), weight, bias if present, then `row_index` if
    `gather` (which input row each result row reads) and `offsets` (rows per expert).
    """

    gather: bool = False

    def split_groups(self, inputs: tuple) -> tuple:
        """(x operands, weight, bias or None, row_index or None, offsets)."""
        *front, offsets = inputs
        row_index = front.pop() if self.gather else None
        x, weight, bias, _ = self.split(tuple(front))
        return x, weight, bias, row_index, offsets

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x, *_), weight, bias, row_index, offsets = self.split_groups(inputs)
        require(not self.residual and weight.rank == 3, f"grouped_linear: weight {weight}")
        experts, n, k = weight.shape
        require(offsets.shape == (experts + 1,), f"offsets {offsets} for {experts} experts")
        k_in = round_up(k, BLOCK) if self.quantized else k
        require(x.shape[-1] == k_in, f"grouped_linear: {x} does not fit weight {weight}")
        require(bias is None or bias.shape == (experts, n), f"bias {bias} for {weight}")
        rows = row_index.shape if row_index is not None else x.shape[:-1]
        return (TensorType(DType.F32, (*rows, self.out or n)),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, weight, bias, row_index, offsets = self.split_groups(inputs)
        value = dequantized(x[0], x[1], weight.shape[-1]) if self.quantized else x[0]
        if row_index is not None:
            value = value[row_index.long()]
        bounds = offsets.tolist()
        parts = []
        for e, (a, b) in enumerate(pairwise(bounds)):
            y = F.linear(value[a:b], weight[e].to(value.dtype), None if bias is None else bias[e])
            parts.append(self.epilogue(y, None))
        return torch.cat(parts)


@dataclass(frozen=True)
class CombineExperts(Op):
    """`y[t] = Σ_j weights[t, j] * x[slot[t, j]]`: f32[k*T, N], i32[T, k], f32[T, k] → f32[T, N].

    The sum runs over j in order, so a token's result doesn't depend on its batch.
    """

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x, slot, weights = inputs
        require(slot.shape == weights.shape, f"{slot} vs {weights}")
        return (TensorType(DType.F32, (slot.shape[0], x.shape[-1])),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, slot, weights = inputs
        return (x[slot.long()] * weights.unsqueeze(-1)).sum(1)
