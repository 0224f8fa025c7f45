"""ATen → IR: convolutions along the tokens.

A filter of a `conv1d` sees rows up to a token's own (`shifted_rows.py` says which those are). With
one filter a channel that is a `CausalConv`; one that mixes channels is a linear layer of the rows
side by side.
"""

from __future__ import annotations

from typing import Any

from ...ir import ops
from ...ir.graph import Value
from .aten_base import Builder, Handlers, binary, reshape
from .shifted_rows import Shifted, as_shifted, pad_rows, past_rows, settled, token_rows

HANDLERS = Handlers()


@HANDLERS.of("conv1d")
def _conv1d(
    b: Builder, x: Any, weight: Value, bias: Value | None = None, stride: Any = 1,
    padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Value | Shifted:  # fmt: skip
    """x [1, C, T] of values or shifted rows, weight [C', C / groups, K], bias [C']."""
    width = weight.type.shape[-1]
    assert isinstance(width, int)
    if {*_numbers(stride), *_numbers(dilation)} != {1} or (padding == "same" and width > 1):
        raise TypeError("a convolution with strides or gaps, or that sees later tokens")
    (beyond,) = (0,) if isinstance(padding, str) else _numbers(padding)
    rows = as_shifted(pad_rows(b, x, -1, beyond, beyond) if beyond else x, -1)
    plain = rows.value if rows.fill is None else binary(b, "sub", rows.value, rows.fill)
    flat, _ = token_rows(b, plain, -1)
    offset = bias
    if rows.fill is None:
        y = _filtered(b, flat, weight, bias, groups)
    else:
        fill = reshape(b, rows.fill, (1, flat.type.shape[1]))
        offset = reshape(
            b, _weighted(b, [fill] * width, weight, bias, groups), weight.type.shape[:1]
        )
        y = binary(b, "add", _filtered(b, flat, weight, None, groups), offset)
    value = b.emit(ops.Permute((-3, -1, -2)), reshape(b, y, (1, *y.type.shape)))
    fill = None if offset is None else reshape(b, offset, (1, *offset.type.shape, 1))
    first = rows.first + width - 1
    return settled(b, Shifted(value, -1, first, rows.more - width + 1, fill if first < 0 else None))


@HANDLERS.of("convolution")
def _convolution(
    b: Builder, x: Any, weight: Value, bias: Value | None, stride: Any, padding: Any,
    dilation: Any, transposed: bool, output_padding: Any, groups: int,
) -> Value | Shifted:  # fmt: skip
    if transposed or len(weight.type.shape) != 3:
        raise TypeError("a convolution that isn't one along the tokens")
    return _conv1d(b, x, weight, bias, stride, padding, dilation, groups)


def _numbers(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _filtered(b: Builder, x: Value, weight: Value, bias: Value | None, groups: int) -> Value:
    """x [T, C] → [T, C'], rows before the first one being 0."""
    out, _, width = weight.type.shape
    assert isinstance(width, int)
    if groups == out == x.type.shape[1] and width > 1:
        filters = reshape(b, weight, (out, width))
        rest = [] if bias is None else [bias]
        return b.emit(ops.CausalConv(bool(rest)), x, filters, *rest)
    rows = [x]
    while len(rows) < width:
        rows.append(past_rows(b, rows[-1], 1))
    return _weighted(b, rows[::-1], weight, bias, groups)


def _weighted(
    b: Builder, rows: list[Value], weight: Value, bias: Value | None, groups: int
) -> Value:
    """Of rows [N, C], one value for each place in the filter, the weighted sum [N, C']."""
    count, channels = rows[0].type.shape
    out, each, width = weight.type.shape
    assert isinstance(channels, int)
    assert isinstance(out, int)
    assert isinstance(each, int)
    assert isinstance(width, int)
    side_by_side = each * width
    by_place = b.emit(ops.Permute((-3, -1, -2)), weight)
    if groups == 1:
        matrix = reshape(b, by_place, (out, side_by_side))
        rest = [] if bias is None else [bias]
        return b.emit(ops.Linear(bias=bool(rest)), _joined(b, rows), matrix, *rest)
    parts = [reshape(b, row, (count, groups, each)) for row in rows]
    x = b.emit(ops.Permute((-2, -3, -1)), _joined(b, parts))
    matrices = reshape(b, by_place, (groups, out // groups, side_by_side))
    y = b.emit(ops.MatMul(), x, b.emit(ops.Permute((-3, -1, -2)), matrices))
    y = reshape(b, b.emit(ops.Permute((-2, -3, -1)), y), (count, out))
    return y if bias is None else binary(b, "add", y, bias)


def _joined(b: Builder, rows: list[Value]) -> Value:
    return rows[0] if len(rows) == 1 else b.emit(ops.Concat(-1), *rows)
