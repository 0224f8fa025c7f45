"""The phases a graph goes through; each op says in which it is legal."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """Ordered: a pass may require at least one phase and ensure a later one."""

    TRACED = 0  # functional ATen as imported, one attention node per call site
    MODEL = 1  # norms, rotary, gated activations raised; batch dimension gone
    FUSED = 2  # merged projections, residual + norm, epilogues
    QUANTIZED = 3  # weights and activations in their final precision
    SERVING = 4  # state writes and reads, logits rows; repeated layers rolled
