"""Attention over a cache in place: ONNX Runtime's GroupQueryAttention.

It writes keys and values behind what a slot holds and attends, in one operator, if past and present
are bound to the same memory. On CPUs it takes several rows with a past only if each brings a
single token, so who drives the model runs prompts one by one. What it can't do at all (keys and
values of different widths, a cache that several layers read, caches of another precision, slopes)
is left to the operators of ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from ...ir.graph import Node, Value
from ...ir.ops import SlotAttention, SlotWrite
from ...ir.types import DType, S, Sym
from . import emit_attention
from .emit_attention import QUERY, starts
from .emitters import emits_ort
from .model import Model
from .ort_linear import DOMAIN, unshaped
from .ort_packed import packed_projections, rotates_inside, table_of

_HEAD_MULTIPLE = 8


@emits_ort(SlotWrite)
def slot_write(model: Model, node: Node, op: SlotWrite) -> None:
    """Nothing where attention writes too; else scatter."""
    if _reader(model, node) is None:
        emit_attention.slot_write(model, node, op)


@emits_ort(SlotAttention)
def slot_attention(model: Model, node: Node, op: SlotAttention) -> None:
    """Write this run's keys and values and attend."""
    write = node.inputs[1].producer
    if write is None or _reader(model, write) is not node:
        emit_attention.slot_attention(model, node, op)
        return
    heads, width = _sizes(node.inputs[0])
    kv_heads, _ = _sizes(write.inputs[0])
    inside = rotates_inside(node, write, model.slot_length)
    tables = _tables(model, node) if inside else [None, None]
    sinks = [None, None, model.operand(node.inputs[4])] if op.sinks else []
    key_cache, value_cache = write.inputs[2:4]
    y, keys, values = model.add_many(
        "GroupQueryAttention", 3,
        *_projections(model, node, write, rotate=not inside),
        model.read(key_cache), model.read(value_cache),
        *_lengths(model, node.inputs[3]), *tables, *sinks,
        domain=DOMAIN, num_heads=heads, kv_num_heads=kv_heads, scale=op.scale,
        local_window_size=op.window or -1, softcap=op.softcap,
        do_rotary=int(inside), rotary_interleaved=int(inside and op.interleaved),
    )  # fmt: skip
    for cache, written, present in zip(
        (key_cache, value_cache), write.outputs, (keys, values), strict=True
    ):
        model.caches[cache] = present
        model.define(written, present)
    model.result(model.reshape(y, (Sym("rows"), heads, width)))


def _projections(
    model: Model, attention: Node, write: Node, *, rotate: bool
) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
    """Queries, keys and values [S, Q, H * D]; or all of them side by side, where they come so."""
    op, own = attention.op, write.op
    assert isinstance(op, SlotAttention)
    assert isinstance(own, SlotWrite)
    parts = [attention.inputs[0], *write.inputs[:2]]
    whole = packed_projections(*parts)
    if whole is not None and not (rotate and op.rotary):
        width = whole.type.shape[-1]
        assert isinstance(width, int)
        return _rows(model, model.operand(whole), width), None, None
    q, k, v = (_rows(model, model.operand(x), prod(_sizes(x))) for x in parts)
    if rotate:
        q = _rotated(model, op, q, _sizes(parts[0])[0], attention.inputs[-2:])
        k = _rotated(model, own, k, _sizes(parts[1])[0], write.inputs[-2:])
    return q, k, v


def _tables(model: Model, attention: Node) -> list[ir.Value]:
    """Cosines and sines of every position of a slot, which all layers with these angles share."""

    def made(value: Value) -> ir.Value:
        return model.shared(
            ("table", value), lambda: model.read(table_of(value, model.slot_length))
        )

    return [model.in_precision(made(value)) for value in attention.inputs[-2:]]


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
    return reader if isinstance(reader.op, SlotAttention) and not reader.op.slopes else None


def _rows(model: Model, x: ir.Value, width: int) -> ir.Value:
    """x [T, H, D] as [S, Q, H * D]."""
    return model.add("Reshape", unshaped(x), model.shape((S, QUERY, width)))


def _rotated(
    model: Model, op: SlotAttention | SlotWrite, x: ir.Value, heads: int, angles: Sequence[Value]
) -> ir.Value:
    """x [S, Q, H * D] rotated by cos and sin [T, rotary / 2], if there are any."""
    if not op.rotary:
        return x
    tables = map(model.operand, angles)
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
