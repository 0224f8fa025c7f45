"""Latents as the paged cache holds them: element types, and the codes of an int8 cache.

A pool is `[P, 64, width]`. In f32 and bf16 a token has its latent and the part beside it, one
behind the other. In an int8 cache it has the codes of both, each rounded up to a multiple of 16,
then the 4 bytes of a float32 `e` and those of a float32 `s`:

    latent   codes round(x / 2^e') of x = H c; e' is the least multiple of 1/16 that lets them
             fit, e = e' - log2 n
    beside   codes round(x / s') with s' = max|x| / 127 of x = H k, and s = s' / n

with H and n as for keys (`cache_codes.py`). The same codes are read as keys and as values: a score
is (H q) · codes 2^e, a value H (codes 2^e). The exponent is stored, since values add it to scores;
in sixteenths it costs next to no precision (4 % of a code's range at most).
"""

from __future__ import annotations

import torch

from ..types import DType
from .cache_codes import padded, rotate

EXPONENT_STEPS = 16
LEAST_EXPONENT = -60.0
TAIL_BYTES = 8
"""The exponent and the scale of a token."""


def latent_width(cache: DType, latent: int, rope: int) -> int:
    """Last dimension of a pool."""
    if cache is not DType.I8:
        return latent + rope
    return padded(latent) + padded(rope) + TAIL_BYTES


def encode_latents(c: torch.Tensor, k_rope: torch.Tensor | None, cache: DType) -> torch.Tensor:
    """c [..., R] and k_rope [..., r] as a pool of type `cache` holds them."""
    if cache is not DType.I8:
        kind = torch.bfloat16 if cache is DType.BF16 else torch.float32
        return torch.cat([c] if k_rope is None else [c, k_rope], -1).to(kind)
    x = rotate(c.float())
    log = torch.log2(x.abs().amax(-1, keepdim=True) / 127)
    exponent = (torch.ceil(log * EXPONENT_STEPS) / EXPONENT_STEPS).clamp_min(LEAST_EXPONENT)
    codes = [torch.round(x / torch.exp2(exponent))]
    scale = torch.zeros_like(exponent)
    if k_rope is not None:
        x = rotate(k_rope.float())
        scale = x.abs().amax(-1, keepdim=True) / 127
        codes.append(torch.round(x * torch.where(scale > 0, 1 / scale, 0)))
        scale = scale / _mixed(k_rope.shape[-1])
    tail = torch.cat((exponent - _log(c.shape[-1]), scale), -1)
    return torch.cat((torch.cat(codes, -1).to(torch.int8), tail.view(torch.int8)), -1)


def decode_latents(stored: torch.Tensor, latent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(keys, values) f32 of what was stored; of an int8 cache those that rotated queries meet."""
    if stored.dtype != torch.int8:
        return stored.float(), stored[..., :latent].float()
    codes = stored[..., :-TAIL_BYTES].float()
    exponent, scale = stored[..., -TAIL_BYTES:].contiguous().view(torch.float32).split(1, -1)
    values = codes[..., : padded(latent)] * torch.exp2(exponent)
    return torch.cat((values, codes[..., padded(latent) :] * scale), -1), values


def rotated_queries(q: torch.Tensor, q_rope: torch.Tensor | None, cache: DType) -> torch.Tensor:
    """Queries in one piece, as they meet the keys of `decode_latents`."""
    parts = [q] if q_rope is None else [q, q_rope]
    return torch.cat([rotate(p) if cache is DType.I8 else p for p in parts], -1)


def turned_back(values: torch.Tensor, latent: int) -> torch.Tensor:
    """Sums of values of an int8 cache → sums of latents."""
    return rotate(values)[..., :latent]


def _mixed(size: int) -> int:
    """How many dimensions the Hadamard matrix mixes."""
    width = padded(size)
    return width & -width


def _log(size: int) -> int:
    return _mixed(size).bit_length() - 1
