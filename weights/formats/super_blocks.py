"""What formats with super-blocks share: scales of blocks as small integers, the layout of GGUF's
K-quants (k-quants.h of the ggml project).

A super-block has one float16 scale (and one minimum); each of its blocks multiplies it with a whole
number. `super_block_length` says how many blocks that are.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from .number_format import NumberFormat, Quantized
from .rounding import CHUNK

Array = np.ndarray


class SuperBlockFormat(NumberFormat):
    """Rows are quantized super-block by super-block, each on its own."""

    code_type = np.uint8
    has_super_blocks = True

    @abstractmethod
    def quantize_blocks(self, x: Array) -> Quantized:
        """Rows of one super-block each: `x` f32 [block, blocks, B], `k` of the result unused."""

    def quantize(self, weights: Array) -> Quantized:
        n, k = weights.shape
        blocks, count = self.blocks(k), self.super_blocks(k)
        length = int((self.super_block_of(k) == 0).sum())
        codes = np.empty((n, count * length * self.block), np.uint8)
        shape = {True: (n, count), False: (n, count * length)}
        scales, mins = (np.empty(shape[True], np.float16) for _ in range(2))
        factors = np.empty(shape[False], np.uint8 if self.has_mins else np.int8)
        min_factors = np.empty(shape[False], np.uint8)
        step = max(1, CHUNK // codes.shape[1])
        for start in range(0, n, step):
            rows = slice(start, min(n, start + step))
            part = self.quantize_blocks(self._columns(weights[rows], count, length))
            used = slice(0, (rows.stop - start) * count)
            codes[rows] = part.codes[used].reshape(-1, codes.shape[1])
            scales[rows] = part.scales[used].reshape(-1, count)
            assert part.factors is not None
            factors[rows] = part.factors[used].reshape(-1, count * length)
            if part.mins is not None and part.min_factors is not None:
                mins[rows] = part.mins[used].reshape(-1, count)
                min_factors[rows] = part.min_factors[used].reshape(-1, count * length)
        codes = np.ascontiguousarray(codes[:, : self.padded(k)])
        codes[:, k:] = self.zero_code
        whole = Quantized(self, codes, scales, None, k, factors[:, :blocks].copy())
        if not self.has_mins:
            return whole
        return Quantized(
            self, codes, scales, mins, k, whole.factors, min_factors[:, :blocks].copy()
        )

    def _columns(self, rows: Array, count: int, length: int) -> Array:
        """Super-blocks of `rows` as f32 [block, blocks, B], so that numpy reduces along B.

        K is padded with the last column, which doesn't widen a block's range. A single super-block
        gets a second one: numpy sums a lone column in another order, and a row's codes must not
        depend on how many rows are quantized together.
        """
        missing = count * length * self.block - rows.shape[1]
        if missing:
            rows = np.pad(rows, ((0, 0), (0, missing)), mode="edge")
        columns = rows.reshape(-1, length, self.block).transpose(2, 1, 0)
        if columns.shape[2] == 1:
            columns = columns.repeat(2, axis=2)
        return np.ascontiguousarray(columns)


def by_super_block(values: Array) -> Array:
    """[.., blocks, B] as [B, all others], as rows are stored: block after block."""
    return np.ascontiguousarray(values.transpose(2, 1, 0) if values.ndim == 3 else values.T)
