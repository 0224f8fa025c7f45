"""Generic path: data movement. Most of it is a view and costs nothing; the rest are copies."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ...ir.graph import Node, Value
from ...ir.ops import Concat, Expand, Gather, LogitsRows, Permute, Reshape, Scatter, Slice
from ...ir.types import DType, TensorType
from .. import views
from ..views import View
from .emitters import emits
from .function import Function
from .loops import Nest, element, loop_nest, term


@emits(Permute)
def permute(fn: Function, node: Node, op: Permute) -> None:
    fn.views[node.output] = views.permute(fn.view(node.inputs[0]), op.dims)


@emits(Expand)
def expand(fn: Function, node: Node, op: Expand) -> None:
    fn.views[node.output] = views.expand(fn.view(node.inputs[0]), op.shape)


@emits(Slice)
def slice_(fn: Function, node: Node, op: Slice) -> None:
    length = node.output.type.shape[op.dim]
    assert isinstance(length, int)
    fn.views[node.output] = views.slice_dim(
        fn.view(node.inputs[0]), op.dim, op.start, length, op.step
    )


@emits(Reshape)
def reshape(fn: Function, node: Node, op: Reshape) -> None:
    fn.views[node.output] = reshaped(fn, fn.view(node.inputs[0]), op.shape)


def reshaped(fn: Function, view: View, shape: tuple) -> View:
    """`view` under another shape: the same memory if strides express it, else a copy."""
    result = views.reshaped(view, shape, fn.fresh, partial(copy, fn))
    if result is None:
        raise fn.refuse(f"a reshape of {view.type} that mixes tokens")
    return result


def dense(fn: Function, view: View) -> View:
    """`view` if it is laid out like a fresh value, else a copy that is."""
    return views.dense(view, fn.fresh, partial(copy, fn))


def as_dtype(fn: Function, view: View, dtype: DType) -> View:
    """`view` converted to `dtype`, or itself."""
    if view.dtype == dtype and view.storage is not None:
        return view
    target = fn.fresh(TensorType(dtype, view.shape))
    copy(fn, view, target)
    return target


def copy(fn: Function, source: View, target: View) -> None:
    """A step that copies `source` to `target` (same shape), converting the element type."""
    places = [target, source]
    lines = loop_nest(
        target.shape,
        places,
        lambda nest: [f"op::store({nest.at(target)}, op::load({nest.at(source)}));"],
        simd=True,
    )
    fn.step(lines, [source], [target], rowwise=True)


@emits(Concat)
def concat(fn: Function, node: Node, op: Concat) -> None:
    parts = [fn.view(v) for v in node.inputs]
    out = fn.result(node.output)
    lines: list[str] = []
    start = 0
    for part in parts:
        length = part.shape[op.dim]
        assert isinstance(length, int)
        target = views.slice_dim(out, op.dim, start, length, 1)
        lines += _copy_lines(part, target)
        start += length
    fn.step(lines, parts, [out], rowwise=True)


def _copy_lines(source: View, target: View) -> list[str]:
    return loop_nest(
        target.shape,
        [target, source],
        lambda nest: [f"op::store({nest.at(target)}, op::load({nest.at(source)}));"],
        simd=True,
    )


@emits(Gather)
def gather(fn: Function, node: Node, op: Gather) -> None:
    """`out[…, i, …] = x[…, index[…, i, …], …]`: x's other dimensions run with the output's."""
    x, index = (fn.view(v) for v in node.inputs)
    if not isinstance(x.shape[op.dim], int):
        raise fn.refuse("a gather along a symbolic dimension")
    rest, stride = _without(x, op.dim, index.shape)
    out = fn.result(node.output)

    def body(nest: Nest) -> list[str]:
        place = term(f"(int64_t){nest.at(index)}", stride)
        return [f"{nest.at(out)} = {nest.at(rest, *place)};"]

    fn.step(loop_nest(out.shape, [out, index, rest], body), [x, index], [out], rowwise=True)


@emits(Scatter)
def scatter(fn: Function, node: Node, op: Scatter) -> None:
    """A copy of x, then one pass over the indices in order, row by row."""
    x, index, source = (fn.view(v) for v in node.inputs)
    if not isinstance(x.shape[op.dim], int) or not isinstance(index.shape[op.dim], int):
        raise fn.refuse("a scatter along a symbolic dimension")
    source = views.expand(source, index.shape)
    out = fn.result(node.output)
    rest, stride = _without(out, op.dim, index.shape)

    def body(nest: Nest) -> list[str]:
        target = nest.at(rest, *term(f"(int64_t){nest.at(index)}", stride))
        value = f"op::load({nest.at(source)})"
        if op.accumulate:
            value = f"op::load({target}) + {value}"
        return [f"op::store({target}, {value});"]

    lines = _copy_lines(x, out) + loop_nest(index.shape, [index, source, rest], body)
    fn.step(lines, [x, index, source], [out], rowwise=True)


def _without(view: View, dim: int, shape: tuple) -> tuple[View, int]:
    """`view` with dimension `dim` fixed at its start and stretched to `shape`; its stride."""
    strides = list(view.strides)
    stride, strides[dim] = strides[dim], 0
    return replace(view, shape=tuple(shape), strides=tuple(strides)), stride


@emits(LogitsRows)
def logits_rows(fn: Function, node: Node, _: LogitsRows) -> None:
    """Copy the wanted rows; they are shared out over R, so any thread may read any token's row."""
    x, wanted = fn.view(node.inputs[0]), fn.view(node.inputs[1])
    out = fn.result(node.output)
    row = replace(x, shape=out.shape, strides=(0, *x.strides[1:]))
    stride = x.strides[0]

    def body(nest: Nest) -> list[str]:
        place = term(f"(int64_t){element(wanted, ['t'])}", stride)
        return [f"{nest.at(out)} = {nest.at(row, *place)};"]

    fn.step(loop_nest(out.shape, [out, row], body, simd=True), [x, wanted], [out])


def row_lookup(fn: Function, node: Node, table: View, ids: Value) -> None:
    """Embedding from a table that is stored row-major."""
    index = fn.view(ids)
    out = fn.result(node.output)
    wide = views.expand(
        replace(index, shape=(*index.shape, 1), strides=(*index.strides, 0)), out.shape
    )
    lead = len(out.shape) - 1
    row = replace(table, shape=out.shape, strides=(0,) * lead + table.strides[1:])

    def body(nest: Nest) -> list[str]:
        place = term(f"(int64_t){nest.at(wide)}", table.strides[0])
        return [f"op::store({nest.at(out)}, op::load({nest.at(row, *place)}));"]

    lines = loop_nest(out.shape, [out, wide, row], body, simd=True)
    fn.step(lines, [index, table], [out], rowwise=True)
