"""Linear layers, embeddings, row quantization and experts: calls of the packed-weight kernels."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.graph import Node, Value
from ...ir.ops import CombineExperts, Embedding, GroupedLinear, Linear, QuantizeRows, RouteTokens
from ...ir.ops.linear import quantized_types
from ...ir.tiles import PANEL
from ...ir.types import Dim
from ...weights.formats.registry import is_quantized
from ..views import View
from .emit_movement import row_lookup
from .emitters import emits
from .function import Function, call, float_literal
from .loops import Nest, loop_nest
from .operands import Matrix, dense_matrix, int32, matrix, takes_place_of, vector
from .packing import PACKED, panel_bytes
from .traffic import traffic_of_rows

MADE = ("made.q", "made.scale", "made.sum")
"""Where a kernel puts quantized rows: members of `RowsForTeam`."""

_ACTS = {
    "": "none", "relu": "relu", "silu": "silu", "gelu": "gelu_erf", "gelu_tanh": "gelu_tanh",
    "relu2": "relu2", "sigmoid": "sigmoid", "tanh": "tanh_",
}  # fmt: skip
"""IR name of an activation → `Act` of `kernels/simd.h`."""


@emits(Linear)
def linear(fn: Function, node: Node, op: Linear) -> None:
    x_values, weight, bias, residual = op.split(node.inputs)
    operand, views, rows = _input(fn, x_values, weight)
    epilogue, added = _epilogue(fn, op, bias, residual)
    out = fn.result(node.output)
    target = matrix(fn, out)
    line = call(
        f"linear_{weight.type.dtype}", rows, *_sizes(op, weight), operand,
        fn.weight(weight, packed=True), epilogue, target.pointer, target.stride,
    )  # fmt: skip
    pairs = [(out, x) for x in added if takes_place_of(out, x)]
    _fetch_ahead(fn, op, weight, rows)
    fn.step([line], views + added, [out], in_place=pairs)
    fn.last_linear = len(fn.code) - 1
    if op.softcap and op.residual:
        _softcap(fn, out, op.softcap)


def _fetch_ahead(fn: Function, op: Linear, weight: Value, rows: str) -> None:
    """Let the threads that wait after the previous linear layer fetch this one's weights."""
    if fn.last_linear is None:
        return
    n, k = _sizes(op, weight)
    assert isinstance(k, int)
    panels = 2 if op.gated else 1
    units = -(-n // panels // PANEL)
    nbytes = panels * panel_bytes(weight.type.dtype, k)
    address = fn.weight(weight, packed=True)
    fn.code[fn.last_linear].append(call("fetch_ahead", rows, units, nbytes, address))


def _softcap(fn: Function, y: View, cap: float) -> None:
    """`y = c tanh(y / c)` where the epilogue can't do it: it caps before it adds a residual."""
    c = float_literal(cap)

    def body(nest: Nest) -> list[str]:
        return [f"{nest.at(y)} = {c} * op::tanh({nest.at(y)} / {c});"]

    fn.step(loop_nest(y.shape, [y], body), [y], [y], rowwise=True)


def _sizes(op: Linear, weight: Value) -> tuple[int, Dim]:
    """(n, k) as the kernels take them: n of a gated layer counts gate and up without padding."""
    n, k = weight.type.shape[-2:]
    assert isinstance(n, int)
    return 2 * (op.out or n // 2) if op.gated else n, k


def _input(fn: Function, values: tuple[Value, ...], weight: Value) -> tuple[str, list[View], str]:
    """(kernel argument, views read, number of rows) of a linear layer's input."""
    quantized = is_quantized(weight.type.dtype)
    views = [fn.view(v) for v in values]
    if quantized and len(views) == 1:
        views = quantize(fn, views[0])
    if quantized != (len(views) == 3):
        raise fn.refuse(f"an input of {len(views)} operands for a {weight.type.dtype} weight")
    if not quantized:
        x = matrix(fn, views[0])
        return f"{x.pointer}, {x.stride}", [x.view], x.rows
    return quantized_rows(views), views, matrix(fn, views[0]).rows


def _epilogue(
    fn: Function, op: Linear, bias: Value | None, residual: Value | None
) -> tuple[str, list[View]]:
    """The kernel's `Epilogue`, and what it reads."""
    if op.act not in _ACTS:
        raise fn.refuse(f"activation {op.act} in an epilogue")
    added: Matrix | None = None if residual is None else matrix(fn, fn.view(residual))
    pointer, stride = ("nullptr", 0) if added is None else (added.pointer, added.stride)
    gated = "true" if op.gated else "false"
    bias_pointer, reads = vector(fn, bias)
    fields = f"Act::{_ACTS[op.act]}, {gated}, {bias_pointer}, {pointer}, {stride}"
    softcap = 0.0 if op.residual else op.softcap
    text = f"Epilogue{{{fields}, {float_literal(softcap)}}}"
    return text, reads if added is None else [added.view, *reads]


def quantized_rows(views: Sequence[View]) -> str:
    """Name of the `QRows` that the step which made codes, scales and totals set."""
    storage = views[0].storage
    assert storage is not None
    return f"rows_{storage.name}"


def make_rows(fn: Function, rows: Matrix, results: Sequence[View], line: str) -> list[str]:
    """`line`, which quantizes `rows` by way of `made`, and what is around it."""
    width = results[0].shape[-1]
    assert isinstance(width, int)
    name = quantized_rows(results)
    fn.declarations[name] = f"QRows {name};"
    places = ", ".join(r.pointer for r in results)
    capacity = fn.capacity(rows.count)
    made = f"RowsForTeam made(team, {rows.rows}, {capacity}, {width}, {places});"
    return [made, line, f"{name} = made.done();"]


def quantize(fn: Function, x: View) -> list[View]:
    """A step that quantizes the rows of `x`: codes, scales, totals."""
    width = x.shape[-1]
    assert isinstance(width, int)
    results = [fn.fresh(t) for t in quantized_types(x.shape[:-1], width)]
    quantize_into(fn, x, results)
    return results


def quantize_into(fn: Function, x: View, results: list[View]) -> None:
    source = matrix(fn, x)
    width = x.shape[-1]
    line = call("quantize_rows", source.rows, width, source.pointer, source.stride,
                *MADE, team="made.team()")  # fmt: skip
    fn.step(make_rows(fn, source, results, line), [source.view], results, delivers=results)


@emits(QuantizeRows)
def quantize_rows(fn: Function, node: Node, _: QuantizeRows) -> None:
    x = fn.view(node.inputs[0])
    quantize_into(fn, x, [fn.result(v) for v in node.outputs])


@emits(Embedding)
def embedding(fn: Function, node: Node, _: Embedding) -> None:
    table, ids = node.inputs
    if not table.is_constant and table not in fn.weight_inputs:
        return row_lookup(fn, node, fn.view(table), ids)
    if table.type.dtype not in PACKED:
        raise fn.refuse(f"a table of {table.type.dtype}")
    index = int32(fn, fn.view(ids))
    out = fn.result(node.output)
    target = matrix(fn, out)
    n, k = table.type.shape
    line = call(
        f"embedding_{table.type.dtype}", target.rows, index.pointer, n, k,
        fn.weight(table, packed=True), 1.0, target.pointer, target.stride,
    )  # fmt: skip
    assert isinstance(n, int)
    row = traffic_of_rows(out, fn.packed_bytes(table) // n)
    fn.step([line], [index], [out], traffic=[row])
    return None


@emits(RouteTokens)
def route_tokens(fn: Function, node: Node, op: RouteTokens) -> None:
    index = int32(fn, fn.view(node.inputs[0]))
    row_index, offsets, slot = (fn.result(v) for v in node.outputs)
    line = call(
        "route_tokens", matrix(fn, index).rows, index.shape[-1], op.experts,
        index.pointer, row_index.pointer, offsets.pointer, slot.pointer,
    )  # fmt: skip
    fn.step([line], [index], [row_index, offsets, slot])


@emits(GroupedLinear)
def grouped_linear(fn: Function, node: Node, op: GroupedLinear) -> None:
    x_values, weight, bias, row_index, offsets = op.split_groups(node.inputs)
    operand, views, _ = _input(fn, x_values, weight)
    epilogue, added = _epilogue(fn, op, bias, None)
    extra = [int32(fn, fn.view(v)) for v in (offsets, row_index) if v is not None]
    out = fn.result(node.output)
    target = matrix(fn, out)
    line = call(
        f"grouped_linear_{weight.type.dtype}", weight.type.shape[0], extra[0].pointer,
        *_sizes(op, weight), operand, fn.weight(weight, packed=True), epilogue,
        target.pointer, target.stride,
        *[v.pointer for v in extra[1:]],
    )  # fmt: skip
    experts, every = weight.type.shape[0], fn.packed_bytes(weight)
    assert isinstance(experts, int)
    chosen = traffic_of_rows(out, every // experts, every)
    fn.step([line], views + extra + added, [out], traffic=[chosen])


@emits(CombineExperts)
def combine_experts(fn: Function, node: Node, _: CombineExperts) -> None:
    values = [fn.view(v) for v in node.inputs]
    y = dense_matrix(fn, values[0])
    slot, weights = dense_matrix(fn, int32(fn, values[1])), dense_matrix(fn, values[2])
    out = fn.result(node.output)
    topk, n = values[1].shape[-1], values[0].shape[-1]
    line = call(
        "combine_experts", slot.rows, topk, n, y.pointer, slot.pointer, weights.pointer,
        out.pointer, n,
    )  # fmt: skip
    fn.step([line], [y.view, slot.view, weights.view], [out])
