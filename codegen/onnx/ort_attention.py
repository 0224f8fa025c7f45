"""Attention over a cache in place: ONNX Runtime's GroupQueryAttention.

It writes keys and values behind what a slot holds and attends, in one operator, if past and present
are bound to the same memory. On CPUs it takes several rows with a past only if each brings a
single token, so who drives the model runs prompts one by one. What it can't do at all (keys and
values of different widths, a cache that several layers read, caches of another precision) is left
to the operators of ONNX.
"""

from __future__ import annotations

import onnx_ir as ir

from ...ir.graph import Node, Value
from ...ir.ops import SlotAttention, SlotWrite
from ...ir.types import DType, S, Sym
from .emit_attention import (
    QUERY,
    emit_slot_attention,
    emit_slot_write,
    starts,
)
from .model import Model
from .ort_linear import DOMAIN, unshaped

_HEAD_MULTIPLE = 8


def ort_slot_write(model: Model, node: Node) -> None:
    """Nothing where attention writes too; else scatter."""
    if _reader(model, node) is None:
        emit_slot_write(model, node)


def ort_slot_attention(model: Model, node: Node) -> None:
    """Write this run's keys and values and attend."""
    op = node.op
    write = node.inputs[1].producer
    if write is None or _reader(model, write) is not node:
        emit_slot_attention(model, node)
        return
    assert isinstance(op, SlotAttention)
    q, *rest = (model.operand(x) for x in (node.inputs[0], *node.inputs[4:]))
    heads, width = _sizes(node.inputs[0])
    kv_heads, _ = _sizes(write.inputs[0])
    k, v, *tables = (model.operand(x) for x in (*write.inputs[:2], *write.inputs[5:]))
    assert isinstance(write.op, SlotWrite)
    sinks = [None, None, None, None, rest[0]] if op.sinks else []
    key_cache, value_cache = write.inputs[2:4]
    y, keys, values = model.add_many(
        "GroupQueryAttention", 3,
        _rotated(model, op, _rows(model, q, heads * width), heads, rest[-2:]),
        _rotated(model, write.op, _rows(model, k, kv_heads * width), kv_heads, tables),
        _rows(model, v, kv_heads * width),
        model.read(key_cache), model.read(value_cache), *_lengths(model, node.inputs[3]), *sinks,
        domain=DOMAIN, num_heads=heads, kv_num_heads=kv_heads,
        scale=op.scale, local_window_size=op.window or -1, softcap=op.softcap,
    )  # fmt: skip
    for cache, written, present in zip(
        (key_cache, value_cache), write.outputs, (keys, values), strict=True
    ):
        model.caches[cache.name] = present
        model.define(written, present)
    model.result(model.reshape(y, (Sym("rows"), heads, width)))


def _reader(model: Model, write: Node) -> Node | None:
    """The only node that reads what `write` writes, if GroupQueryAttention can do both."""
    if not isinstance(write.op, SlotWrite):
        return None
    readers = {user for cache in write.outputs for user in cache.users}
    (key_width, value_width) = (x.type.shape[-1] for x in write.inputs[:2])
    assert isinstance(key_width, int)
    cache_type = write.inputs[2].type.dtype
    fits = key_width == value_width and key_width % _HEAD_MULTIPLE == 0
    if len(readers) != 1 or not fits or cache_type is not model.precision:
        return None
    (reader,) = readers
    return reader if isinstance(reader.op, SlotAttention) else None


def _rows(model: Model, x: ir.Value, width: int) -> ir.Value:
    """x [T, H, D] as [S, Q, H * D]."""
    return model.add("Reshape", unshaped(x), model.shape((S, QUERY, width)))


def _rotated(
    model: Model, op: SlotAttention | SlotWrite, x: ir.Value, heads: int, tables: list[ir.Value]
) -> ir.Value:
    """x [S, Q, H * D] rotated by cos and sin [T, rotary / 2], if there are any."""
    if not op.rotary:
        return x
    by_row = (
        model.shared(("by sequence", t), lambda t=t: _rows(model, t, op.rotary // 2))
        for t in tables
    )
    return model.add(
        "RotaryEmbedding", x, *by_row,
        interleaved=int(op.interleaved), num_heads=heads, rotary_embedding_dim=op.rotary,
    )  # fmt: skip


def _lengths(model: Model, start: Value) -> tuple[ir.Value, ir.Value]:
    """Where each row's last token stands, i32[S], and keys of the longest row, i32[1]."""

    def last() -> ir.Value:
        stands = model.add("Add", starts(model, start), model.size(QUERY))
        return model.cast(model.add("Sub", stands, model.int64(1)), DType.I32)

    def total() -> ir.Value:
        longest = model.add("ReduceMax", starts(model, start), keepdims=1)
        return model.cast(model.add("Add", longest, model.size(QUERY)), DType.I32)

    return model.shared("last tokens", last), model.shared("longest row", total)


def _sizes(value: Value) -> tuple[int, int]:
    """Heads and their width, of [T, H, D]."""
    heads, width = value.type.shape[-2:]
    assert isinstance(heads, int)
    assert isinstance(width, int)
    return heads, width
