"""What the formats share in choosing codes: chunks, reciprocals, float16 scales, rounding."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

CHUNK = 1 << 15
"""Elements that are quantized together: small enough that the float32 working set of a search for
scales stays in a core's L2 cache, large enough that numpy's call overhead doesn't show."""

_F16_MAX = 65504.0


def reciprocal(scale: Array) -> Array:
    """1 / scale, and 0 where it is 0 or the quotient would overflow."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale.astype(np.float32)
    inverse[~np.isfinite(inverse)] = 0.0
    return inverse


def half(values: Array) -> Array:
    """Scales or minima as float16; OverflowError where they don't fit, never a clipped scale."""
    if values.size and not np.abs(values).max() <= _F16_MAX:
        raise OverflowError("a block's scale is beyond float16")
    return values.astype(np.float16)


def round_codes(
    x: Array, inverse: Array, low: int, high: int, out: Array, shift: Array | None = None
) -> None:
    """`out = clip(round(x * inverse - shift), low, high)`, without temporaries."""
    np.multiply(x, inverse, out=out)
    if shift is not None:
        np.subtract(out, shift, out=out)
    np.rint(out, out=out)
    np.clip(out, low, high, out=out)
