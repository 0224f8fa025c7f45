"""Tiles of linear layers: a table of what was found for shapes, else a formula.

In: the machine, the weight's shape and format, the most rows of the launch. Out: a `Tile`, the
constants of `kernels/linear.py` and how many warps and stages run it.

What may never differ between the tiles of one layer: BLOCK_K, and the kind of instruction. BLOCK_K
follows from the format and K alone. Where a GPU has products of a whole warp group (`wgmma` of
SM 90, `tcgen05` of SM 100), BLOCK_N is at least 64 for weights in rows, so that these are always
taken. `mma.sync`, which multiplies weights in panels everywhere and all weights elsewhere, is the
same for tiles of any width: so those of few rows may be as narrow as filling the GPU asks for.

Formula. Up to 64 rows a layer is bound by memory: 64 weight rows a block, or fewer where such
blocks leave multiprocessors idle; stages as deep as shared memory allows for the blocks that a
multiprocessor holds. More rows: larger tiles, so that operands are read from shared memory less
often, as long as there are blocks for every multiprocessor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.tiles import BLOCK
from ...ir.types import DType
from ...weights.formats.registry import is_quantized
from .layout import in_panels
from .machines import Machine
from .tile_table import MOST_STAGES, TileRow, nearest, table

NARROW = (8, 16, 32, 64)
WIDE = 128
PANEL_BLOCKS = 4
"""Blocks of 32 columns that a step takes of weights in panels."""
SIDE_BY_SIDE = 8
"""Tiles of rows that walk along N together: a wave of blocks then re-reads few weights from L2."""
_FEWEST_STAGES, _MOST_BLOCKS = 2, 4
_RESERVED = 1024
"""Bytes of shared memory that a block takes beyond what it asks for; a multiprocessor has that much
more than one block may ask for."""
_BARRIERS = 256
"""Bytes of shared memory, at most, that Triton adds for barriers and such."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How a launch of a linear layer is cut."""

    block_n: int
    block_t: int
    block_k: int
    num_warps: int
    num_stages: int
    group: int = 1

    @property
    def constants(self) -> dict[str, int]:
        """The constants that `linear_rows` and `grouped_linear` both have."""
        return {
            "BLOCK_N": self.block_n,
            "BLOCK_T": self.block_t,
            "BLOCK_K": self.block_k,
            "STAGES": self.num_stages,
        }


def linear_tile(
    machine: Machine,
    dtype: DType,
    n: int,
    k: int,
    rows: int,
    *,
    x_size: int = 2,
    experts: int = 1,
    tiles: Sequence[TileRow] = (),
) -> Tile:
    """The tile of a layer [n, k] for at most `rows` rows in elements of `x_size` bytes.

    `experts`: the rows are shared out to so many weights; all of them work at once. `tiles`: a
    table that goes before the package's own.
    """
    block_k = block_of_k(dtype, k)
    panels = in_panels(dtype)
    block_t = _block_t(dtype, -(-2 * rows // experts) if experts > 1 else rows)
    group = SIDE_BY_SIDE if rows > NARROW[-1] and experts == 1 else 1
    key = (machine.sm, str(dtype), n, k, block_t)
    row = (nearest(tiles, *key) or nearest(table(), *key)) if experts == 1 else None
    if row is not None:
        most = fitting(machine, dtype, k, row.block_n, block_t, x_size)
        stages = max(1, min(row.num_stages, most))
        return Tile(row.block_n, block_t, block_k, row.num_warps, stages, group)
    wide = block_t >= WIDE and _fills(machine, n, rows)
    block_n = 128 if wide else _block_n(machine, dtype, n, block_t, experts)
    count = -(-n // block_n) * (-(-rows // block_t) if experts == 1 else min(experts, rows))
    nbytes = _stage_bytes(dtype, k, block_n, block_t, x_size)
    stages = min(_stages(machine, count, nbytes), max(_FEWEST_STAGES, -(-k // block_k)))
    # Products with panels hold sums of 4 blocks side by side, so the same tile takes more warps.
    many = block_n * block_t * (2 if panels else 1) >= 64 * WIDE and dtype is not DType.F32
    warps = 8 if many else 4
    return Tile(block_n, block_t, block_k, warps, stages, group)


def fitting(
    machine: Machine, dtype: DType, k: int, block_n: int, block_t: int, x_size: int, blocks: int = 1
) -> int:
    """The most stages with which `blocks` such tiles share the memory of a multiprocessor."""
    return _fitting(machine, blocks, _stage_bytes(dtype, k, block_n, block_t, x_size))


def _stage_bytes(dtype: DType, k: int, block_n: int, block_t: int, x_size: int) -> int:
    return block_of_k(dtype, k) * (block_n * _bytes(dtype) + block_t * _x_bytes(dtype, x_size))


def block_of_k(dtype: DType, k: int) -> int:
    """Columns of a step along K: 128 bytes of weights, or half where only that divides K."""
    if in_panels(dtype):
        return PANEL_BLOCKS * BLOCK
    full = 128 // max(1, _bytes(dtype))
    return next((size for size in (full, full // 2) if k % size == 0), full)


def _bytes(dtype: DType) -> int:
    """Bytes of shared memory that a weight takes at most; codes of fewer bits take a byte."""
    return 1 if is_quantized(dtype) else dtype.itemsize


def _x_bytes(dtype: DType, x_size: int) -> int:
    """Of an element of x; where it must be rounded, the rounded one lies there too."""
    multiplied = 4 if dtype is DType.F32 else 2
    return x_size if x_size == multiplied else x_size + multiplied


def _block_t(dtype: DType, rows: int) -> int:
    """The height of tiles. Products in f32 don't use tensor cores, taller ones gain nothing; those
    with panels have no registers for them."""
    widest = NARROW[-1] if dtype is DType.F32 or in_panels(dtype) else WIDE
    return next((height for height in NARROW if rows <= height), widest)


def _fills(machine: Machine, n: int, rows: int) -> bool:
    """Tiles of 128 by 128 give most multiprocessors one."""
    return -(-n // 128) * -(-rows // 128) >= 0.8 * machine.multiprocessors


def _block_n(machine: Machine, dtype: DType, n: int, block_t: int, experts: int) -> int:
    """64, or 32 where that leaves multiprocessors idle and bits don't depend on it. Gated layers
    need 32: 16 rows of the gate and 16 of the up projection."""
    warp_products = in_panels(dtype) or not machine.multiplies_from_shared
    few = block_t <= NARROW[0] and experts == 1 and dtype is not DType.F32
    return 32 if warp_products and few and -(-n // 64) < machine.multiprocessors else 64


def _stages(machine: Machine, tiles: int, stage_bytes: int) -> int:
    """The deepest pipeline that fits as often as blocks share a multiprocessor."""
    blocks = min(_MOST_BLOCKS, max(1, -(-tiles // machine.multiprocessors)))
    while blocks > 1 and _fitting(machine, blocks, stage_bytes) < 3:
        blocks -= 1
    return max(_FEWEST_STAGES, min(MOST_STAGES, _fitting(machine, blocks, stage_bytes)))


def _fitting(machine: Machine, blocks: int, stage_bytes: int) -> int:
    share = (machine.shared_bytes + _RESERVED) // blocks - _RESERVED
    return (min(share, machine.shared_bytes) - _BARRIERS) // stage_bytes
