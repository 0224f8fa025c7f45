"""Formats with a float16 scale per block of consecutive elements along K.

A subclass says how the codes and scales of a few blocks are chosen; cutting rows into blocks and
the padding of K are here.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from .number_format import NumberFormat, Quantized
from .rounding import CHUNK

Array = np.ndarray


class BlockFormat(NumberFormat):
    """Rows are quantized block by block, each on its own."""

    @abstractmethod
    def quantize_blocks(self, x: Array) -> tuple[Array, Array, Array | None]:
        """Codes [block, B], scales f16 [B], minima f16 [B] or None of `x` f32 [block, B]."""

    def quantize(self, weights: Array) -> Quantized:
        n, k = weights.shape
        blocks = self.blocks(k)
        codes = np.empty((n, blocks * self.block), self.code_type)
        scales = np.empty((n, blocks), np.float16)
        mins = np.empty((n, blocks), np.float16) if self.has_mins else None
        step = max(1, CHUNK // max(1, blocks * self.block))
        for start in range(0, n, step):
            rows = slice(start, min(n, start + step))
            q, d, m = self.quantize_blocks(self._columns(weights[rows]))
            count = (rows.stop - start) * blocks
            codes[rows] = q[:, :count].T.reshape(-1, blocks * self.block)
            scales[rows] = d[:count].reshape(-1, blocks)
            if mins is not None and m is not None:
                mins[rows] = m[:count].reshape(-1, blocks)
        codes[:, k:] = self.zero_code
        return Quantized(self, codes, scales, mins, k)

    def _columns(self, rows: Array) -> Array:
        """Blocks of `rows` as columns [block, B], so that numpy reduces with vectors along B.

        K is padded with the last column, which doesn't widen a block's range. A single block gets a
        second column: numpy sums a lone column in another order, and a row's codes must not depend
        on how many rows are quantized together.
        """
        missing = -rows.shape[1] % self.block
        if missing:
            rows = np.pad(rows, ((0, 0), (0, missing)), mode="edge")
        columns = rows.reshape(-1, self.block).T
        return np.ascontiguousarray(columns if columns.shape[1] > 1 else columns.repeat(2, axis=1))
