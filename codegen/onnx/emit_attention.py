"""Rotation, writes into the cache, and attention over it, with operators of ONNX alone.

The cache is written by TensorScatter and read whole by Attention, with the number of valid keys of
each sequence beside it. ONNX's attention knows no sinks, and no windows in opset 24: windows become
a mask, which all layers with the same window share; with sinks or slopes attention is spelled out.
"""

from __future__ import annotations

import onnx_ir as ir

from ...ir.graph import Node, Value
from ...ir.ops import Rotary, SlotAttention, SlotWrite
from ...ir.ops.attention import heads_operands
from ...ir.types import DType, S, Sym
from .constants import ONNX_TYPE
from .emit_linear import capped
from .emitters import emits
from .model import Model

QUERY = Sym("Q")
"""Query tokens that every sequence of a run brings."""


@emits(Rotary)
def rotary(model: Model, node: Node, op: Rotary) -> None:
    """Rotate the first elements of every head."""
    x, cos, sin = model.operands()
    type = node.inputs[0].type
    if type.rank != 3:
        raise model.refuse(f"heads {type} are not [T, H, D]")
    model.result(rotated(model, op, x, type.shape[1:], cos, sin))


def rotated(
    model: Model, op: Rotary, x: ir.Value, head: tuple, cos: ir.Value, sin: ir.Value
) -> ir.Value:
    """x [T, H, D] (`head` is (H, D)) rotated by cos and sin [T, dim / 2], as [T, H, D]."""
    heads, width = head
    flat = model.add("Reshape", x, model.int64(1, -1, heads * width))
    tables = (model.shared(("unsqueezed", t), lambda t=t: model.add("Unsqueeze", t, model.int64(0)))
              for t in (cos, sin))  # fmt: skip
    y = model.add(
        "RotaryEmbedding", flat, *tables,
        interleaved=int(op.interleaved), num_heads=heads, rotary_embedding_dim=op.dim,
    )  # fmt: skip
    return model.add("Reshape", y, model.int64(-1, heads, width))


@emits(SlotWrite)
def slot_write(model: Model, node: Node, op: SlotWrite) -> None:
    """Scatter this run's keys and values into the slots."""
    k, v, _, _, _, *tables = model.operands()
    k_value, v_value, key_cache, value_cache, start = node.inputs[:5]
    if op.rotary:
        k = rotated(model, Rotary(op.rotary, op.interleaved), k, k_value.type.shape[1:], *tables)
    results = []
    for x, value, cache in ((k, k_value, key_cache), (v, v_value, value_cache)):
        rows = by_sequence(model, x, value.type.shape[1:])
        if cache.type.dtype is not model.kind(value):
            rows = model.add("Cast", rows, to=ONNX_TYPE[cache.type.dtype].value)
        past = model.read(cache)
        written = model.add("TensorScatter", past, rows, starts(model, start), axis=-2)
        model.caches[cache] = written
        results.append(written)
    model.result(*results)


def by_sequence(model: Model, x: ir.Value, head: tuple) -> ir.Value:
    """x [T, H, D] as [S, H, Q, D]."""
    shape = model.shape((S, QUERY, *head))
    return model.add("Transpose", model.add("Reshape", x, shape), perm=[0, 2, 1, 3])


def starts(model: Model, start: Value) -> ir.Value:
    """`start` as i64[S]."""
    return model.shared("starts", lambda: model.cast(model.read(start), DType.I64))


@emits(SlotAttention)
def slot_attention(model: Model, node: Node, op: SlotAttention) -> None:
    """Attention over the slots."""
    q, keys, values, _, *rest = model.operands()
    q_value, key_cache, value_cache, start = node.inputs[:4]
    if op.rotary:
        q = rotated(model, Rotary(op.rotary, op.interleaved), q, q_value.type.shape[1:], *rest[-2:])
    q = by_sequence(model, q, q_value.type.shape[1:])
    keys = _in_precision(model, keys, key_cache)
    values = _in_precision(model, values, value_cache)
    if op.sinks or op.slopes:
        y = _spelled_out(model, op, q, keys, values, node, *heads_operands(op, rest))
    else:
        y = _attention(model, op, q, keys, values, start)
    y = model.add("Transpose", y, perm=[0, 2, 1, 3])
    heads, width = node.output.type.shape[1:]
    model.result(model.reshape(y, (Sym("rows"), heads, width)))


def _in_precision(model: Model, cache: ir.Value, value: Value) -> ir.Value:
    """A cache in the precision that attention is computed in."""
    return cache if value.type.dtype is model.computes_in else model.cast(cache, model.computes_in)


def _attention(
    model: Model, op: SlotAttention, q: ir.Value, keys: ir.Value, values: ir.Value, start: Value
) -> ir.Value:
    """The Attention operator, on [S, H, Q, D]; `valid` counts a sequence's keys, padding's too."""
    valid = model.shared("valid", lambda: _valid_keys(model, start))
    mask = _window_mask(model, start, op.window) if op.window else None
    return model.add(
        "Attention", q, keys, values, mask, None, None, valid,
        is_causal=1, scale=op.scale, softcap=op.softcap,
    )  # fmt: skip


def _valid_keys(model: Model, start: Value) -> ir.Value:
    """Keys in each slot after this run's write, i64[S]."""
    return model.add("Add", starts(model, start), model.size(QUERY))


def _positions(model: Model, start: Value) -> tuple[ir.Value, ir.Value]:
    """Positions of queries, i64[S, 1, Q, 1], and of keys, i64[L]."""

    def counted(size: ir.Value) -> ir.Value:
        end = model.add("Squeeze", size, model.int64(0))
        return model.add("Range", model.number(0, DType.I64), end, model.number(1, DType.I64))

    def queries() -> ir.Value:
        first = model.add("Unsqueeze", starts(model, start), model.int64(1, 2, 3))
        steps = model.add("Unsqueeze", counted(model.size(QUERY)), model.int64(1))
        return model.add("Add", first, steps)

    return (
        model.shared("query_positions", queries),
        model.shared("key_positions", lambda: counted(model.size(Sym("L")))),
    )


def _distances(model: Model, start: Value) -> ir.Value:
    """How far behind its query a key stands, as a negative number, f32 [S, 1, Q, L]."""
    i, j = _positions(model, start)
    return model.shared("distances", lambda: model.cast(model.add("Sub", j, i), DType.F32))


def _window_mask(model: Model, start: Value, window: int) -> ir.Value:
    """Keys that a window of tokens still reaches, bool [S, 1, Q, L]; causality is not in it."""
    i, j = _positions(model, start)

    def mask() -> ir.Value:
        return model.add("Greater", j, model.add("Sub", i, model.number(window, DType.I64)))

    return model.shared(("window", window), mask)


def _visible(model: Model, start: Value, window: int) -> ir.Value:
    """Keys that each query sees, bool [S, 1, Q, L]."""
    i, j = _positions(model, start)
    causal = model.shared("causal", lambda: model.add("LessOrEqual", j, i))
    if not window:
        return causal
    near = _window_mask(model, start, window)
    return model.shared(("visible", window), lambda: model.add("And", causal, near))


def _spelled_out(
    model: Model, op: SlotAttention, q: ir.Value, keys: ir.Value, values: ir.Value,
    node: Node, sinks: ir.Value | None, slopes: ir.Value | None,
) -> ir.Value:  # fmt: skip
    """Scores, slopes, mask, sinks, softmax: [S, H, Q, Dv]. Query heads that share keys stand
    together."""
    heads, width = node.inputs[0].type.shape[1:]
    kv_heads, value_width = node.inputs[2].type.shape[1::2]
    assert isinstance(heads, int)
    assert isinstance(kv_heads, int)
    grouped = model.add("Reshape", q, model.shape((0, kv_heads, -1, width)))
    scores = model.add("MatMul", grouped, model.add("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = model.add("Mul", scores, model.number(op.scale, DType.F32))
    scores = model.add("Reshape", scores, model.shape((S, heads, QUERY, Sym("L"))))
    scores = capped(model, scores, op.softcap)
    if slopes is not None:
        steep = model.add("Reshape", slopes, model.int64(1, heads, 1, 1))
        bias = model.add("Mul", steep, _distances(model, node.inputs[3]))
        scores = model.add("Add", scores, bias)
    least = model.number(float("-inf"), DType.F32)
    scores = model.add("Where", _visible(model, node.inputs[3], op.window), scores, least)
    if sinks is None:
        weights = model.add("Softmax", scores, axis=-1)
    else:
        column = model.add("Reshape", sinks, model.int64(1, heads, 1, 1))
        column = model.add("Expand", column, model.shape((S, 1, QUERY, 1)))
        weights = model.add("Softmax", model.add("Concat", scores, column, axis=-1), axis=-1)
        weights = model.add("Slice", weights, model.int64(0), model.int64(-1), model.int64(3))
    weights = model.add("Reshape", weights, model.shape((S, kv_heads, -1, Sym("L"))))
    y = model.add("MatMul", weights, values)
    return model.add("Reshape", y, model.shape((S, heads, QUERY, value_width)))
