"""Sections of a matrix behind one another."""

from llmc.weights.layout import aligned, section_offsets, total_bytes


def test_sections_start_aligned() -> None:
    assert section_offsets((1, 64, 65, 3)) == (0, 64, 128, 256)
    assert total_bytes((1, 64, 65, 3)) == 259


def test_sizes_are_rounded_up_to_the_alignment() -> None:
    assert [aligned(n) for n in (0, 1, 64, 65)] == [0, 64, 64, 128]
