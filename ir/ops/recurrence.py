"""Linear recurrences: matrices that each token lets fade, adds to and reads.

Forms: gated delta rule (arXiv 2412.06464), its variant with a gate per key channel (Kimi Delta
Attention, arXiv 2510.26692), state space duality (Mamba 2, arXiv 2405.21060), linear attention with
decay (Lightning Attention, arXiv 2401.04658), and the selective scan (Mamba, arXiv 2312.00752).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..types import DType, TensorType
from .base import require
from .stateful import Mixer, Tensors, Update


@dataclass(frozen=True)
class LinearRecurrence(Mixer):
    """q, k f32[T, G, K], v f32[T, H, V], decay f32[T, H] or f32[T, H, K] → f32[T, H, V].

    With `delta` a further input beta f32[T, H]. A sequence keeps a matrix S [K, V] for each head h,
    whose queries and keys are those of group g = h // (H / G):

        S ← decay_t S          row i of S by decay_t[i] where there is one for each key channel
        u = v_t, or with `delta`  beta_t (v_t - k_tᵀ S)
        S ← S + k_t uᵀ
        y_t = q_tᵀ S
    """

    parts = ("matrix",)

    delta: bool = False

    @property
    def rows(self) -> int:
        return 4 + self.delta

    def result(self, *inputs: TensorType) -> TensorType:
        require(len(inputs) == self.rows, f"{self}: {len(inputs)} inputs")
        q, k, v, decay, *beta = inputs
        require(q == k and q.rank == v.rank == 3, f"{self} of {q}, {k}, {v}")
        groups, heads = q.shape[1], v.shape[1]
        assert isinstance(groups, int)
        assert isinstance(heads, int)
        require(heads % groups == 0, f"{self}: {heads} heads for {groups} groups")
        by_head = v.shape[:2]
        require(decay.shape in (by_head, (*by_head, q.shape[2])), f"{self}: decay {decay}")
        require(all(b.shape == by_head for b in beta), f"{self}: beta {beta}")
        require(all(x.dtype == DType.F32 for x in inputs), f"{self} of {inputs}")
        return v

    def state_shapes(self, *inputs: TensorType) -> tuple[tuple[int, ...], ...]:
        shape = (inputs[2].shape[1], inputs[1].shape[2], inputs[2].shape[2])
        heads, key, value = (d for d in shape if isinstance(d, int))
        return ((heads, key, value),)

    def advance(self, inputs: Tensors, state: Tensors) -> tuple[torch.Tensor, Tensors]:
        q, k, v, decay, *beta = inputs
        each = v.shape[1] // q.shape[1]
        q, k = q.repeat_interleave(each, 1), k.repeat_interleave(each, 1)
        decay = decay.reshape(*v.shape[:2], -1, 1)
        (matrix,), y = state, torch.empty_like(v)
        for t in range(len(v)):
            matrix = matrix * decay[t]
            added = v[t]
            if self.delta:
                added = beta[0][t, :, None] * (added - torch.einsum("hk,hkv->hv", k[t], matrix))
            matrix = matrix + k[t, :, :, None] * added[:, None, :]
            y[t] = torch.einsum("hk,hkv->hv", q[t], matrix)
        return y, (matrix,)


class LinearRecurrenceUpdate(Update, LinearRecurrence):
    """`LinearRecurrence` of this step's tokens; state matrix f32[N, H, K, V]."""


@dataclass(frozen=True)
class SelectiveScan(Mixer):
    """x, dt f32[T, D], b, c f32[T, N], a f32[D, N] → f32[T, D].

    A sequence keeps h [D, N], of each channel N numbers:

        h ← exp(dt_t a) h + dt_t x_t b_t        y_t = h c_t

    They are stored by number, not by channel: [N, D].
    """

    parts = ("numbers",)

    @property
    def rows(self) -> int:
        return 4

    def result(self, *inputs: TensorType) -> TensorType:
        require(len(inputs) == 5, f"{self}: {len(inputs)} inputs")
        x, dt, b, c, a = inputs
        require(x == dt and b == c and x.rank == b.rank == 2, f"{self} of {x}, {dt}, {b}, {c}")
        require(a.shape == (x.shape[1], b.shape[1]), f"{self}: a is {a}")
        require(x.dtype == b.dtype == DType.F32, f"{self} of {x}, {b}")
        return x

    def state_shapes(self, *inputs: TensorType) -> tuple[tuple[int, ...], ...]:
        channels, numbers = inputs[4].shape
        assert isinstance(channels, int)
        assert isinstance(numbers, int)
        return ((numbers, channels),)

    def advance(self, inputs: Tensors, state: Tensors) -> tuple[torch.Tensor, Tensors]:
        x, dt, b, c, a = inputs
        (numbers,), y = state, torch.empty_like(x)
        for t in range(len(x)):
            decay = torch.exp(dt[t] * a.T)
            numbers = decay * numbers + b[t, :, None] * (dt[t] * x[t])
            y[t] = c[t] @ numbers
        return y, (numbers,)


class SelectiveScanUpdate(Update, SelectiveScan):
    """`SelectiveScan` of this step's tokens; state numbers f32[N slots, N, D]."""
