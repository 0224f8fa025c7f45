"""Keys and values as the paged cache holds them: element types, and the codes of an int8 cache.

A pool is `[P, 64, H_kv, width]`. In f32 and bf16 the width is the head size. In an int8 cache a
token's head is its codes and then the 4 bytes of their float32 scale:

    value   codes round(v / scale), scale the least power of two that lets them fit
    key     codes round(r / s) with s = max|r| / 127 of r = H k, and the scale s / n

H is the Hadamard matrix of the largest power of two n that divides the head size rounded up to 16
(block-diagonal, entries 1 and -1; missing dimensions are 0). It spreads a key's few large
dimensions over all of them. (H q) · (H k) / n = q · k, so attention rotates its queries, too
(cf. QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

import torch

from ..types import DType

HEAD_MULTIPLE = 16
SCALE_BYTES = 4
LEAST_SCALE = 2.0**-60


def padded(size: int) -> int:
    """A head size rounded up to a multiple of 16."""
    return -(-size // HEAD_MULTIPLE) * HEAD_MULTIPLE


def pool_widths(cache: DType, key_dim: int, value_dim: int) -> tuple[int, int]:
    """Last dimensions of a key and a value pool."""
    if cache is not DType.I8:
        return key_dim, value_dim
    return padded(key_dim) + SCALE_BYTES, value_dim + SCALE_BYTES


def rotate(x: torch.Tensor) -> torch.Tensor:
    """x [..., D], zeros up to a multiple of 16, times the Hadamard matrix."""
    x = torch.nn.functional.pad(x, (0, padded(x.shape[-1]) - x.shape[-1]))
    width = x.shape[-1]
    size = width & -width
    x = x.unflatten(-1, (width // size, size))
    step = 1
    while step < size:
        pairs = x.unflatten(-1, (size // (2 * step), 2, step))
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = torch.stack((a + b, a - b), -2).flatten(-3)
        step *= 2
    return x.flatten(-2)


def encode_keys(k: torch.Tensor, cache: DType) -> torch.Tensor:
    """k [..., D] as a pool of type `cache` holds it."""
    if cache is not DType.I8:
        return k.to(torch.bfloat16 if cache is DType.BF16 else torch.float32)
    rotated = rotate(k.float())
    scale = rotated.abs().amax(-1, keepdim=True) / 127
    codes = torch.round(rotated * torch.where(scale > 0, 1 / scale, 0))
    width = rotated.shape[-1]
    return _joined(codes, scale / (width & -width))


def encode_values(v: torch.Tensor, cache: DType) -> torch.Tensor:
    """v [..., D] as a pool of type `cache` holds it."""
    if cache is not DType.I8:
        return v.to(torch.bfloat16 if cache is DType.BF16 else torch.float32)
    fraction, exponent = torch.frexp(v.float().abs().amax(-1, keepdim=True) / 127)
    scale = torch.ldexp(torch.ones_like(fraction), exponent - (fraction == 0.5).int())
    scale = scale.clamp_min(LEAST_SCALE)
    return _joined(torch.round(v / scale), scale)


def _joined(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.cat((codes.to(torch.int8), scale.float().contiguous().view(torch.int8)), -1)


def decode(stored: torch.Tensor) -> torch.Tensor:
    """What was stored, as f32: keys of an int8 cache still rotated, times 1 / n."""
    if stored.dtype != torch.int8:
        return stored.float()
    codes, scale = stored[..., :-SCALE_BYTES], stored[..., -SCALE_BYTES:]
    return codes.float() * scale.contiguous().view(torch.float32)
