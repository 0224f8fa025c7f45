"""Tiles of linear layers: what batch invariance asks of them, and that they fit their machines."""

from __future__ import annotations

import itertools

import pytest
from llmc.codegen.triton.layout import in_panels
from llmc.codegen.triton.linear_tiles import NARROW, block_of_k, linear_tile
from llmc.codegen.triton.machines import MACHINES, Machine
from llmc.codegen.triton.tile_table import table
from llmc.ir.types import DType

DTYPES = (DType.F32, DType.BF16, DType.F16, DType.I8C, DType.I8B, DType.I4K, DType.I6K)
SHAPES = ((1, 24), (576, 576), (4096, 4096), (28672, 4096), (2880, 2880), (128256, 2048))
ROWS = (1, 8, 9, 64, 65, 512, 8192)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda m: f"sm{m.sm}")
def test_rows_never_change_the_order_along_k(machine: Machine) -> None:
    for dtype, (n, k) in itertools.product(DTYPES, SHAPES):
        tiles = [linear_tile(machine, dtype, n, k, rows) for rows in ROWS]
        tiles += [linear_tile(machine, dtype, n, k, rows, experts=32) for rows in ROWS]
        assert len({tile.block_k for tile in tiles}) == 1
        # From 64 weight rows and 4 warps on, Hopper and SM 100 multiply for a whole warp group.
        widths = {tile.block_n for tile in tiles}
        whole = machine.multiplies_from_shared and not in_panels(dtype)
        assert min(widths) >= (64 if whole else 32)
        assert all(tile.num_warps >= 4 for tile in tiles)


def test_narrow_tiles_fill_the_machine() -> None:
    for dtype, n, width in [(DType.I4K, 4096, 32), (DType.I4K, 28672, 64), (DType.BF16, 4096, 64)]:
        assert linear_tile(MACHINES[90], dtype, n, 4096, 2).block_n == width
    assert linear_tile(MACHINES[80], DType.BF16, 4096, 4096, 8).block_n == 32
    assert linear_tile(MACHINES[80], DType.BF16, 4096, 4096, 512).block_n >= 64


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda m: f"sm{m.sm}")
def test_pipelines_fit_shared_memory(machine: Machine) -> None:
    for dtype, (n, k), rows in itertools.product(DTYPES, SHAPES, ROWS):
        size = {DType.F32: 4, DType.BF16: 2, DType.F16: 2}.get(dtype, 1)
        tile = linear_tile(machine, dtype, n, k, rows)
        x_size = 4 if dtype is DType.F32 else 2
        stage = tile.block_k * (tile.block_n * size + tile.block_t * x_size)
        assert tile.num_stages >= 2
        assert tile.num_stages * stage <= machine.shared_bytes


def test_tiles_are_as_high_as_there_are_rows() -> None:
    for rows in NARROW:
        assert linear_tile(MACHINES[90], DType.BF16, 4096, 4096, rows).block_t == rows
    assert linear_tile(MACHINES[90], DType.BF16, 4096, 4096, 4096).block_t == 128
    # 128 experts share 64 rows: most get one.
    tile = linear_tile(MACHINES[90], DType.BF16, 1536, 2048, 64, experts=128)
    assert tile.block_t == 8


@pytest.mark.parametrize("k", [576, 2880, 4096, 14336])
def test_common_widths_have_no_rest(k: int) -> None:
    for dtype in (DType.F32, DType.BF16, DType.I8C):
        assert k % block_of_k(dtype, k) == 0


def test_the_table_goes_before_the_formula() -> None:
    row = table()[0]
    near = linear_tile(MACHINES[row.sm], DType(row.format), row.n * 5 // 4, row.k, row.block_t)
    assert (near.num_stages, near.num_warps) == (row.num_stages, row.num_warps)


def test_rows_of_the_table_say_where_they_were_measured() -> None:
    for row in table():
        assert row.measured
        assert row.sm in MACHINES
        assert row.block_n >= 64
        assert row.block_t in (*NARROW, 128)
        dtype = DType(row.format)
        size = {DType.F32: 4, DType.BF16: 2, DType.F16: 2}.get(dtype, 1)
        stage = block_of_k(dtype, row.k) * (row.block_n * size + row.block_t * 2)
        assert row.num_stages * stage <= MACHINES[row.sm].shared_bytes
