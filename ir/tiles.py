"""How matrices are cut: what ops, number formats and kernels agree on.

The kernels in `codegen/cpu/kernels` have the same numbers (`kLanes`, `kBlock`); a test compares
them.
"""

PANEL = 16
"""Output rows of one panel: what a kernel computes side by side. Gated layers alternate by it."""

BLOCK = 32
"""Elements along K that share a scale, in blocked weight formats and in quantized activations."""


def round_up(n: int, multiple: int) -> int:
    """`n` rounded up to a multiple."""
    return -(-n // multiple) * multiple
