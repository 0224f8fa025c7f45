"""Attention over slots: cache updates in place and the attention layer, or its arithmetic.

The run's shape [S, Q] is that of the input `token_ids`; rows [T, ...] are unfolded to it here.
Rotation and the scale (which the layer doesn't have: queries are multiplied) are f32, then queries
and keys are rounded to the caches' type.

- no window: the layer with `LOWER_RIGHT` causality and key lengths start + Q, so query j sees
  keys up to start + j. What padded queries see doesn't matter: nobody reads their results.
- window: the layer with a mask of the keys that each query may see.
- soft-cap, sinks, slopes, or values of another width than keys: the layer has none of them;
  products, softmax in f32, over the whole slot.

The layer is built to fail rather than be decomposed where TensorRT has fused kernels: f16 and
bf16, head sizes 16 to 256 in steps of 8 (tried on every SM of TensorRT for RTX 1.7.1).
"""

from __future__ import annotations

import numpy as np

from ...ir.graph import Node
from ...ir.ops import Rotary, SlotAttention, SlotWrite
from ...ir.ops.attention import heads_operands
from .emit_linear import soft_cap
from .emit_reduction import softmax
from .emitters import emits
from .net import Net, Tensor

HIDDEN = -1e30
"""Added to the scores of keys that a query may not see."""


@emits(SlotWrite)
def slot_write(net: Net, node: Node, op: SlotWrite) -> tuple[Tensor, Tensor]:
    """Keys (rotated) and values into their slots; the caches after it."""
    k, v, key_cache, value_cache, start, *angles = node.inputs
    keys = heads_first(net, net.raw(k), k.type.shape)
    if op.rotary:
        keys = rotate(net, keys, [net.read(a) for a in angles], op.rotary, op.interleaved)
    values = heads_first(net, net.raw(v), v.type.shape)
    return (
        _update(net, net.raw(key_cache), keys, net.read(start)),
        _update(net, net.raw(value_cache), values, net.read(start)),
    )


def _update(net: Net, cache: Tensor, new: Tensor, start: Tensor) -> Tensor:
    mode = net.trt.KVCacheMode.LINEAR
    layer = net.network.add_kv_cache_update(cache, net.cast(new, cache.dtype), start, mode)
    return net.out(layer)


def heads_first(net: Net, rows: Tensor, shape: tuple) -> Tensor:
    """[T, H, D] as [S, H, Q, D]."""
    dims = net.sizes(("S", "Q", *shape[1:]))
    return net.permute(net.reshape_to(rows, dims), (0, 2, 1, 3))


def rotate(net: Net, x: Tensor, angles: list[Tensor], dim: int, interleaved: bool) -> Tensor:
    """Rotate the first `dim` elements of [S, H, Q, D] in f32; cos and sin are [T, dim / 2]."""

    def unfolded(table: Tensor) -> Tensor:
        key = ("unfolded", id(table))
        return net.once(key, lambda: net.reshape_to(table, net.sizes(("S", "Q", dim // 2))))

    cos, sin = map(unfolded, angles)
    x = net.cast(x, net.trt.float32)
    return net.out(net.network.add_rotary_embedding(x, cos, sin, interleaved, dim))


@emits(Rotary)
def rotary(net: Net, node: Node, op: Rotary) -> Tensor:
    """A rotation outside of attention: every token is a batch of its own."""
    x, cos, sin = (net.read(v) for v in node.inputs)
    _, heads, width = node.inputs[0].type.shape
    batched = net.reshape(x, (-1, heads, 1, width))
    tables = [net.reshape(t, (-1, 1, op.dim // 2)) for t in (cos, sin)]
    layer = net.network.add_rotary_embedding(batched, *tables, op.interleaved, op.dim)
    return net.reshape(net.out(layer), (-1, heads, width))


@emits(SlotAttention)
def slot_attention(net: Net, node: Node, op: SlotAttention) -> Tensor:
    """[T, H, D] and the caches to [T, H, Dv]."""
    q, key_cache, value_cache, start = node.inputs[:4]
    queries = heads_first(net, net.raw(q), q.type.shape)
    if op.rotary:
        angles = [net.read(a) for a in node.inputs[-2:]]
        queries = rotate(net, queries, angles, op.rotary, op.interleaved)
    queries = net.scaled(net.cast(queries, net.trt.float32), op.scale)
    keys, values = net.raw(key_cache), net.raw(value_cache)
    queries = net.cast(queries, keys.dtype)
    widths_differ = keys.shape[-1] != values.shape[-1]  # which the layer doesn't take
    if op.softcap or op.sinks or op.slopes or widths_differ:
        given = heads_operands(op, node.inputs[4:])
        sinks, slopes = (None if v is None else net.read(v) for v in given)
        y = _spelled_out(net, op, queries, keys, values, sinks, slopes)
    else:
        y = _layer(net, op, queries, keys, values, net.read(start))
    heads, width = node.output.type.shape[1:]
    return net.reshape(net.permute(y, (0, 2, 1, 3)), (-1, heads, width))


def _layer(net: Net, op: SlotAttention, q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> Tensor:
    kinds = net.trt.CausalMaskKind
    windowed = 0 < op.window < k.shape[2]
    causal = kinds.NONE if windowed else kinds.LOWER_RIGHT
    softmax_op = net.trt.AttentionNormalizationOp.SOFTMAX
    layer = net.add(net.network.add_attention_v2(q, k, v, softmax_op, causal))
    fused = k.dtype != net.trt.float32 and all(
        d % 8 == 0 and 16 <= d <= 256 for d in (k.shape[3], v.shape[3])
    )
    layer.decomposable = not fused
    layer.key_value_lengths = net.once("lengths", lambda: _lengths(net, start))
    if windowed:
        layer.mask = visible_keys(net, k.shape[2], op.window)
    return layer.get_output(0)


def _lengths(net: Net, start: Tensor) -> Tensor:
    """start + Q, i32 [S]."""
    return net.binary(start, net.cast(net.sizes(("Q",)), net.trt.int32), "SUM")


def visible_keys(net: Net, length: int, window: int) -> Tensor:
    """bool [S, 1, Q, L]: key j at or before the query's position, and within the window."""

    def make() -> Tensor:
        trt, rank = net.trt, 4
        at, keys = _positions(net, length)
        seen = net.unary(net.binary(keys, at, "GREATER"), "NOT")
        if not 0 < window < length:
            return seen
        oldest = net.binary(at, net.literal(window, trt.int32, rank), "SUB")
        return net.binary(seen, net.binary(keys, oldest, "GREATER"), "AND")

    return net.once(("visible", length, window), make)


def _positions(net: Net, length: int) -> tuple[Tensor, Tensor]:
    """Positions of queries, i32 [S, 1, Q, 1], and of keys, i32 [1, 1, 1, L]."""
    begin = net.reshape(net.cast(net.start, net.trt.int32), (-1, 1, 1, 1))
    queries = net.reshape_to(net.sizes.iota(net.sizes(("Q",))), net.sizes((1, 1, "Q", 1)))
    keys = net.array(np.arange(length, dtype=np.int32).reshape(1, 1, 1, length))
    return net.binary(begin, queries, "SUM"), keys


def _distances(net: Net, length: int) -> Tensor:
    """How far behind its query a key stands, as a negative number, f32 [S, 1, Q, L]."""

    def make() -> Tensor:
        at, keys = _positions(net, length)
        return net.cast(net.binary(keys, at, "SUB"), net.trt.float32)

    return net.once(("distances", length), make)


def _spelled_out(
    net: Net, op: SlotAttention, q: Tensor, k: Tensor, v: Tensor,
    sinks: Tensor | None, slopes: Tensor | None,
) -> Tensor:  # fmt: skip
    """softmax(mask(softcap(q kᵀ)))·v, heads that share keys side by side: [S, Hkv, G * Q, ·]."""
    kv_heads, length = k.shape[1], k.shape[2]
    heads, width = q.shape[1], q.shape[3]
    group = heads // kv_heads
    none, transposed = net.trt.MatrixOperation.NONE, net.trt.MatrixOperation.TRANSPOSE
    shared = net.reshape_to(q, net.sizes(("S", kv_heads, -1, width)))
    scores = net.out(net.network.add_matrix_multiply(shared, none, k, transposed))
    scores = net.reshape_to(net.cast(scores, net.trt.float32), net.sizes(("S", heads, "Q", length)))
    if op.softcap:
        scores = soft_cap(net, scores, op.softcap)
    if slopes is not None:
        steep = net.reshape(slopes, (1, -1, 1, 1))
        scores = net.binary(scores, net.binary(steep, _distances(net, length), "PROD"), "SUM")
    hidden = net.literal(HIDDEN, net.trt.float32, 4)
    mask = visible_keys(net, length, op.window)
    scores = net.out(net.network.add_select(mask, scores, hidden))
    p = softmax(net, scores, -1) if sinks is None else _with_sinks(net, scores, sinks)
    p = net.reshape_to(net.cast(p, v.dtype), net.sizes(("S", kv_heads, -1, length)))
    y = net.out(net.network.add_matrix_multiply(p, none, v, none))
    return net.reshape_to(y, net.sizes(("S", kv_heads * group, "Q", v.shape[3])))


def _with_sinks(net: Net, scores: Tensor, sinks: Tensor) -> Tensor:
    """Softmax in which each head's sink takes its share: exp(s - m) / (Σ exp(s - m) + exp(b - m)),
    m the largest of the scores and the sink b."""
    from .emit_reduction import reduce

    sink = net.reshape(sinks, (1, -1, 1, 1))
    most = net.binary(reduce(net, scores, "MAX", (-1,), True), sink, "MAX")
    weights = net.unary(net.binary(scores, most, "SUB"), "EXP")
    own = net.unary(net.binary(sink, most, "SUB"), "EXP")
    total = net.binary(reduce(net, weights, "SUM", (-1,), True), own, "SUM")
    return net.binary(weights, total, "DIV")
