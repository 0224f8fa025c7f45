"""Latent attention: heads into the space of latents and back, writes, attention."""

from __future__ import annotations

from ...ir.graph import Node, Value
from ...ir.ops import HeadLinear, LatentWrite, PagedLatentAttention
from ...weights.formats.registry import is_quantized
from ..views import View
from .emit_attention import SCRATCH, cache_pool, cache_table, rotary_table
from .emit_linear import quantize, quantized_rows
from .emit_movement import as_dtype, dense
from .emitters import emits
from .function import Function, call, float_literal, size_expression
from .operands import Matrix, int32, matrix, vector
from .traffic import Traffic


@emits(HeadLinear)
def head_linear(fn: Function, node: Node, op: HeadLinear) -> None:
    x_values, weight, _, _ = op.split(node.inputs)
    heads, n, k = weight.type.shape
    out = fn.result(node.output)
    target = matrix(fn, out, keep=2)
    if is_quantized(weight.type.dtype):
        views = [fn.view(v) for v in x_values]
        views = views if len(views) == 3 else quantize(fn, views[0])
        operand = quantized_rows(views)
    else:
        x = _heads(fn, x_values[0])
        views, operand = [x], f"{x.pointer}, {x.strides[0]}, {x.strides[1]}"
    line = call(
        f"head_linear_{weight.type.dtype}", size_expression(out.shape[0]), heads, n, k, operand,
        fn.weight(weight, packed=True), target.pointer, target.stride,
    )  # fmt: skip
    fn.step([line], views, [out])


def _heads(fn: Function, value: Value) -> View:
    """[T, H, D] whose heads lie together, each; tokens and heads at any distance."""
    view = fn.view(value)
    if view.storage is not None and view.strides[-1] == 1:
        return view
    return dense(fn, as_dtype(fn, view, view.dtype))


@emits(LatentWrite)
def latent_write(fn: Function, node: Node, op: LatentWrite) -> None:
    pool_value, c_value, *rest = node.inputs
    beside = [matrix(fn, fn.view(rest.pop(0)), keep=2)] if op.rope else []
    _, _, table, *tables = rest
    c, pool = matrix(fn, fn.view(c_value)), cache_pool(fn, pool_value)
    angles = [matrix(fn, fn.view(t)) for t in tables]
    pointer, stride, rope = _beside(beside)
    line = call(
        "latent_write", "s.batch", cache_table(fn, table), c.view.shape[-1], rope,
        rotary_table(op, angles), c.pointer, c.stride, pointer, stride, pool.expression,
    )  # fmt: skip
    views = [m.view for m in (c, *beside, *angles)]
    stored = Traffic(_token_bytes(pool_value), "T")
    fn.step([line], views, [], extra=((), (pool.buffer,)), traffic=[stored])
    fn.pools[node.output] = pool


def _beside(parts: list[Matrix]) -> tuple[str, int, int]:
    """Address, stride and width of the part of keys beside the latent."""
    if not parts:
        return "nullptr", 0, 0
    width = parts[0].view.shape[-1]
    assert isinstance(width, int)
    return parts[0].pointer, parts[0].stride, width


@emits(PagedLatentAttention)
def paged_latent_attention(fn: Function, node: Node, op: PagedLatentAttention) -> None:
    q_value, *rest = node.inputs
    beside = [_heads(fn, rest.pop(0))] if op.rope else []
    pool_value, _, _, table, *rest = rest
    sinks, rest = rest[: int(op.sinks)], rest[int(op.sinks) :]
    choice = [int32(fn, fn.view(v)) for v in rest[: int(op.selected)]]
    tables = rest[int(op.selected) :]
    q, pool = matrix(fn, fn.view(q_value), keep=2), cache_pool(fn, pool_value)
    out = fn.result(node.output)
    y = matrix(fn, out, keep=2)
    heads, latent = q.view.shape[-2:]
    rope = [v.shape[-1] for v in beside] or [0]
    places = [f"{v.pointer}, {v.strides[0]}, {v.strides[1]}" for v in beside] or ["nullptr, 0, 0"]
    sink_pointer, sink_views = vector(fn, sinks[0] if sinks else None)
    angles = [matrix(fn, fn.view(t)) for t in tables]
    kernel = "selected_latent_attention" if choice else "latent_attention"
    line = call(
        kernel, "s.batch", cache_table(fn, table), heads, latent, *rope,
        float_literal(op.scale), float_literal(op.softcap), op.window, sink_pointer,
        rotary_table(op, angles), q.pointer, q.stride, *places, pool.expression,
        y.pointer, y.stride, "s.attention_scratch",
        *[f"{v.pointer}, {v.shape[-1]}" for v in choice],
    )  # fmt: skip
    fn.step(
        [line],
        [q.view, *beside, *choice, *sink_views, *(m.view for m in angles)],
        [out],
        extra=((pool.buffer,), (SCRATCH,)),
        traffic=[_read(pool_value, op, choice)],
    )


def _read(pool: Value, op: PagedLatentAttention, choice: list[View]) -> Traffic:
    """What attention reads of the pool: what a sequence sees, or what was chosen."""
    if choice:
        most = choice[0].shape[-1]
        assert isinstance(most, int)
        return Traffic(_token_bytes(pool), "C", min(op.window or most, most))
    return Traffic(_token_bytes(pool), "C", op.window)


def _token_bytes(pool: Value) -> int:
    """What a token's latent of one site takes in its pool [P, block, width]."""
    width = pool.type.shape[-1]
    assert isinstance(width, int)
    return width * pool.type.dtype.itemsize
