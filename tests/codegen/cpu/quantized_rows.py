"""What `QuantizeRows` means to the kernels, bit for bit: the reference in numpy."""

import numpy as np
from llmc.ir.tiles import BLOCK, round_up

Array = np.ndarray


def quantize_rows(x: Array) -> tuple[Array, Array, Array]:
    """Dynamic quantization of activations: float32 [T, K] to int8 blocks of 32.

    Returns `q` i8 [T, Kp], `scale` f32 [T, Kp/32] and `sum` f32 [T, Kp/32], where
    `scale = max|x| / 127`, `q = round_half_even(x / scale)` and `sum = scale * sum(q)`. A block of
    zeros has scale 0. `sum` is what a kernel multiplies a block's minimum (or offset) with.
    """
    t, k = x.shape
    padded = np.zeros((t, round_up(k, BLOCK)), np.float32)
    padded[:, :k] = x
    blocks = padded.reshape(t, -1, BLOCK)
    scale = np.abs(blocks).max(axis=2) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0.0
    q = np.rint(blocks * inverse[..., None]).clip(-127, 127).astype(np.int8)
    total = scale * q.sum(axis=2, dtype=np.int32).astype(np.float32)
    return q.reshape(t, -1), scale, total
