"""Rotary embedding, cache writes and paged attention: calls of the attention kernels."""

from __future__ import annotations

from ...ir.graph import Node, Value
from ...ir.ops import CacheWrite, PagedAttention, Rotary
from .function import Function, Pool, call, float_literal
from .operands import Matrix, matrix, vector

SCRATCH = "attention_scratch"


def emit_rotary(fn: Function, node: Node) -> None:
    op = node.op
    assert isinstance(op, Rotary)
    x = matrix(fn, fn.view(node.inputs[0]), keep=2)
    cos, sin = (matrix(fn, fn.view(v)) for v in node.inputs[1:])
    out = fn.result(node.output)
    y = matrix(fn, out, keep=2)
    heads, head_dim = x.view.shape[-2:]
    line = call(
        "rotary", x.rows, heads, head_dim, op.dim, op.interleaved, x.pointer, x.stride,
        cos.pointer, cos.stride, sin.pointer, sin.stride, y.pointer, y.stride,
    )  # fmt: skip
    fn.step([line], [x.view, cos.view, sin.view], [out])


def emit_cache_write(fn: Function, node: Node) -> None:
    op = node.op
    assert isinstance(op, CacheWrite)
    k_value, v_value, key_value, value_value, _, _, table, *tables = node.inputs
    k, v = (matrix(fn, fn.view(value), keep=2) for value in (k_value, v_value))
    keys, values = _pool(fn, key_value), _pool(fn, value_value)
    heads, dk = k.view.shape[-2:]
    dv = v.view.shape[-1]
    angles = [matrix(fn, fn.view(t)) for t in tables]
    name = "rotary_cache_write" if angles else "cache_write"
    line = call(
        name, "s.batch", _table(fn, table), heads, dk, dv,
        *_rotary_table(op, angles), k.pointer, k.stride, v.pointer, v.stride,
        keys.expression, values.expression,
    )  # fmt: skip
    pools = (keys.buffer, values.buffer)
    fn.step([line], [m.view for m in (k, v, *angles)], [], extra=((), pools))
    fn.pools[node.outputs[0]], fn.pools[node.outputs[1]] = keys, values


def _rotary_table(op: CacheWrite, angles: list[Matrix]) -> list[str]:
    if not angles:
        return []
    cos, sin = angles
    interleaved = "true" if op.interleaved else "false"
    places = f"{cos.pointer}, {cos.stride}, {sin.pointer}, {sin.stride}"
    return [f"RotaryTable{{{op.rotary}, {interleaved}, true, {places}}}"]


def emit_paged_attention(fn: Function, node: Node) -> None:
    op = node.op
    assert isinstance(op, PagedAttention)
    q_value, key_value, value_value, _, _, table, *sinks = node.inputs
    q = matrix(fn, fn.view(q_value), keep=2)
    keys, values = _pool(fn, key_value), _pool(fn, value_value)
    out = fn.result(node.output)
    y = matrix(fn, out, keep=2)
    heads, dk = q.view.shape[-2:]
    kv_heads, dv = value_value.type.shape[-2:]
    sink_pointer, sink_views = vector(fn, sinks[0] if sinks else None)
    line = call(
        "paged_attention", "s.batch", _table(fn, table), heads, kv_heads, dk, dv,
        float_literal(op.scale), float_literal(op.softcap), op.window,
        sink_pointer, "nullptr",
        q.pointer, q.stride, keys.expression, values.expression, y.pointer, y.stride,
        "s.attention_scratch",
    )  # fmt: skip
    fn.step(
        [line],
        [q.view, *sink_views],
        [out],
        extra=((keys.buffer, values.buffer), (SCRATCH,)),
    )


def _pool(fn: Function, value: Value) -> Pool:
    if value not in fn.pools:
        raise fn.refuse("a cache pool that is no input of the graph")
    return fn.pools[value]


def _table(fn: Function, value: Value) -> str:
    if value not in fn.tables:
        raise fn.refuse("a block table that is no input of the graph")
    return fn.tables[value]
