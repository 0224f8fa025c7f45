"""Panels and blocks of the kernels are those that the compiler counts with."""

import re
from pathlib import Path

import llmc.codegen.cpu.packing as packing
import pytest
from llmc.ir.tiles import BLOCK, PANEL

KERNELS = Path(packing.__file__).parent / "kernels"


@pytest.mark.parametrize(
    ("header", "name", "value"), [("simd.h", "kLanes", PANEL), ("int_dot.h", "kBlock", BLOCK)]
)
def test_the_kernels_count_alike(header: str, name: str, value: int) -> None:
    (defined,) = re.findall(rf"constexpr int {name} = (\d+);", (KERNELS / header).read_text())
    assert int(defined) == value
