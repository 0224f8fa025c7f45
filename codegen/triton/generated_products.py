"""Generated kernels for products of matrices that no layer's weight is part of.

In: a MatMul. Out: its kernel. Where a matrix on the right serves many rows, tiles are multiplied
in f32 (`tl.dot`, every K in the same order whatever the number of rows); small products, one for
each token, are sums along rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir.types import Dim, DType, Sym
from .. import views
from ..views import View
from .expressions import converted, held_as
from .generated_rows import fold, rows_of
from .generated_text import Generated, Subject, count_text, finish, place_of, with_unit
from .tiles import Axis, frame_of, prod_of

ROWS, COLUMNS, DEPTH = 32, 64, 32
LEAST = 16
"""Rows, columns or elements of a sum below which tiles would be mostly empty."""
MOST_MATRICES = 65_535
"""Programs along the third dimension of a grid at most (CUDA's limit)."""


def matmul_kernel(subject: Subject) -> Generated:
    """`a[..., M, K] @ b[..., K, N]`; the kernel's shape is [..., M, N, K].

    Raises:
        ValueError: K is symbolic.
    """
    a, b = (subject.read(v) for v in subject.node.inputs)
    shape = (*subject.node.output.type.shape, a.shape[-1])
    turned = views.permute(b, [*range(b.rank - 2), b.rank - 1, b.rank - 2])
    left = views.expand(with_unit(a, a.rank - 1), shape)
    right = views.expand(with_unit(turned, b.rank - 2), shape)
    axes = _axes(shape, right)
    if subject.node.output.type.dtype.is_float and _fills_tiles(shape, *axes):
        return _tiled(subject, shape, left, right, axes)
    return _summed(subject, shape, left, right)


def _axes(shape: Sequence[Dim], right: View) -> tuple[Axis, Axis, Axis]:
    """Rows that share a right matrix, columns, and which matrix it is."""
    rank = len(shape)
    batch = [d for d in range(rank - 3) if shape[d] != 1 and right.strides[d]]
    rows = [d for d in views.storage_order(shape) if d <= rank - 3 and d not in batch]
    return (
        Axis("row", tuple(rows)),
        Axis("column", (rank - 2,)),
        Axis("batch", tuple(batch), masked=False),
    )


def _fills_tiles(shape: Sequence[Dim], row: Axis, column: Axis, batch: Axis) -> bool:
    rows, columns, matrices = (prod_of(shape[d] for d in a.dims) for a in (row, column, batch))
    depth = shape[-1]
    if isinstance(matrices, Sym) or isinstance(depth, Sym) or matrices > MOST_MATRICES:
        return False
    return all(isinstance(side, Sym) or side >= LEAST for side in (rows, columns, depth))


def _tiled(
    subject: Subject,
    shape: Sequence[Dim],
    left: View,
    right: View,
    axes: tuple[Axis, Axis, Axis],
) -> Generated:
    row, column, batch = axes
    last = (len(shape) - 1,)
    frame = frame_of(shape)
    tile = subject.tile(shape, [row, Axis("across", last), batch])
    a = tile.load(left, frame, "left")
    tile.axes = (Axis("down", last), column, batch)
    b = tile.load(right, frame, "right")
    tile.axes = axes
    out = with_unit(subject.write(subject.node.output), len(shape) - 1)
    place = place_of(tile, out, "out_ptr", axes[:2])
    counts = [tile.count(axis) for axis in axes]
    facts = {
        "lines": tile.lines,
        "left": converted(a, DType.F32),
        "right": converted(b, DType.F32),
        "out": place,
        "row_count": count_text(counts[0]),
        "column_count": count_text(counts[1]),
        "depth": shape[-1],
    }
    constants = {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH}
    grid = list(zip(counts, (ROWS, COLUMNS, 1), strict=True))
    return finish(tile, "product_tiles", "product", constants, facts, grid)


def _summed(subject: Subject, shape: Sequence[Dim], left: View, right: View) -> Generated:
    """The sum of a row times a column, for each element."""
    rows = rows_of(subject, shape, [-1])
    frame, of = frame_of(shape), subject.node.output.type.dtype
    terms = [rows.tile.load(view, frame, side) for view, side in ((left, "a"), (right, "b"))]
    facts = fold("sum", of, rows.size)
    dtype = facts.pop("dtype")
    assert isinstance(dtype, DType)
    text = " * ".join(f"({converted(term, dtype)})" for term in terms)
    rows.term = replace(terms[0], text=text, dtype=dtype)
    out = with_unit(subject.write(subject.node.output), len(shape) - 1)
    place = rows.place(out, whole=False)
    return rows.finish("reduce", {"out": place, "type": held_as(dtype), **facts})
