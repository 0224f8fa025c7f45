"""Rotary embedding, cache writes and paged attention: calls of the attention kernels."""

from __future__ import annotations

from ...ir.graph import Node, Value
from ...ir.ops import CacheWrite, LatentWrite, PagedAttention, PagedLatentAttention, Rotary
from ...ir.ops.attention import heads_operands
from .emitters import emits
from .function import Function, Pool, call, float_literal
from .operands import Matrix, matrix, vector
from .traffic import Traffic

SCRATCH = "attention_scratch"


@emits(Rotary)
def rotary(fn: Function, node: Node, op: Rotary) -> None:
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


@emits(CacheWrite)
def cache_write(fn: Function, node: Node, op: CacheWrite) -> None:
    k_value, v_value, key_value, value_value, _, _, table, *tables = node.inputs
    k, v = (matrix(fn, fn.view(value), keep=2) for value in (k_value, v_value))
    keys, values = cache_pool(fn, key_value), cache_pool(fn, value_value)
    heads, dk = k.view.shape[-2:]
    dv = v.view.shape[-1]
    angles = [matrix(fn, fn.view(t)) for t in tables]
    line = call(
        "cache_write", "s.batch", cache_table(fn, table), heads, dk, dv,
        rotary_table(op, angles), k.pointer, k.stride, v.pointer, v.stride, keys.expression,
    )  # fmt: skip
    pools = (keys.buffer, values.buffer)
    stored = Traffic(_token_bytes(key_value) + _token_bytes(value_value), "T")
    fn.step([line], [m.view for m in (k, v, *angles)], [], extra=((), pools), traffic=[stored])
    fn.pools[node.outputs[0]], fn.pools[node.outputs[1]] = keys, values


def rotary_table(
    op: CacheWrite | LatentWrite | PagedAttention | PagedLatentAttention, angles: list[Matrix]
) -> str:
    """C++ of the `RotaryTable` that an op's own rotation reads."""
    if not angles:
        return "kNoRotary"
    cos, sin = angles
    interleaved = "true" if op.interleaved else "false"
    places = f"{cos.pointer}, {cos.stride}, {sin.pointer}, {sin.stride}"
    return f"RotaryTable{{{op.rotary}, {interleaved}, true, {places}}}"


@emits(PagedAttention)
def paged_attention(fn: Function, node: Node, op: PagedAttention) -> None:
    q_value, key_value, value_value, _, _, table, *rest = node.inputs
    sinks, slopes = heads_operands(op, rest)
    tables = rest[op.sinks + op.slopes :]
    q = matrix(fn, fn.view(q_value), keep=2)
    keys, values = cache_pool(fn, key_value), cache_pool(fn, value_value)
    out = fn.result(node.output)
    y = matrix(fn, out, keep=2)
    heads, dk = q.view.shape[-2:]
    kv_heads, dv = key_value.type.shape[-2], y.view.shape[-1]
    sink_pointer, sink_views = vector(fn, sinks)
    slope_pointer, slope_views = vector(fn, slopes)
    angles = [matrix(fn, fn.view(t)) for t in tables]
    line = call(
        "paged_attention", "s.batch", cache_table(fn, table), heads, kv_heads, dk, dv,
        float_literal(op.scale), float_literal(op.softcap), op.window,
        sink_pointer, slope_pointer, rotary_table(op, angles),
        q.pointer, q.stride, keys.expression, y.pointer, y.stride, "s.attention_scratch",
    )  # fmt: skip
    fn.step(
        [line],
        [q.view, *sink_views, *slope_views, *(m.view for m in angles)],
        [out],
        extra=((keys.buffer, values.buffer), (SCRATCH,)),
        traffic=[Traffic(_token_bytes(key_value) + _token_bytes(value_value), "C", op.window)],
    )


def cache_pool(fn: Function, value: Value) -> Pool:
    """The pool that a value is."""
    if value not in fn.pools:
        raise fn.refuse("a cache pool that is no input of the graph")
    return fn.pools[value]


def _token_bytes(pool: Value) -> int:
    """What a token's keys or values of one site take in their pool [P, block, H, D]."""
    heads, width = pool.type.shape[-2:]
    assert isinstance(heads, int)
    assert isinstance(width, int)
    return heads * width * pool.type.dtype.itemsize


def cache_table(fn: Function, value: Value) -> str:
    """C++ of the group whose block table a value is."""
    if value not in fn.tables:
        raise fn.refuse("a block table that is no input of the graph")
    return fn.tables[value]
