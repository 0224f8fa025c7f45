"""The index that chooses keys: its writes, and the choice."""

from __future__ import annotations

from ...ir.graph import Node, Value
from ...ir.ops import KeyIndexWrite, PagedKeyIndex
from .emit_attention import cache_pool, cache_table
from .emitters import emits
from .function import Function, call, float_literal
from .operands import dense_matrix, matrix
from .traffic import Traffic

_SCRATCH = 1 << 19
"""Bytes of a thread's scratch memory for queries and what is best so far; the rest has a bit for
each position (`kernels/key_index.h`)."""


@emits(KeyIndexWrite)
def key_index_write(fn: Function, node: Node, op: KeyIndexWrite) -> None:
    pool_value, k_value, _, _, table = node.inputs
    k, pool = matrix(fn, fn.view(k_value)), cache_pool(fn, pool_value)
    line = call(
        "key_index_write", "s.batch", cache_table(fn, table), k.view.shape[-1], k.pointer,
        k.stride, pool.expression,
    )  # fmt: skip
    stored = Traffic(_token_bytes(pool_value), "T")
    fn.step([line], [k.view], [], extra=((), (pool.buffer,)), traffic=[stored])
    fn.pools[node.output] = pool


@emits(PagedKeyIndex)
def paged_key_index(fn: Function, node: Node, op: PagedKeyIndex) -> None:
    q_value, weight_value, pool_value, _, _, table = node.inputs
    q = matrix(fn, fn.view(q_value), keep=2)
    weights, pool = matrix(fn, fn.view(weight_value)), cache_pool(fn, pool_value)
    heads, size = q.view.shape[-2:]
    assert isinstance(heads, int)
    assert isinstance(size, int)
    if 8 * op.topk + 4 * (2 * heads + 1) * (size + 32) > _SCRATCH:
        raise fn.refuse(f"a choice of {op.topk} keys by {heads} heads of {size}")
    out = fn.result(node.output)
    choice = dense_matrix(fn, out)
    line = call(
        "key_index", "s.batch", cache_table(fn, table), heads, size, op.topk,
        float_literal(op.scale), q.pointer, q.stride, weights.pointer, weights.stride,
        pool.expression, choice.pointer,
    )  # fmt: skip
    fn.step(
        [line],
        [q.view, weights.view],
        [out],
        extra=((pool.buffer,), ()),
        traffic=[Traffic(_token_bytes(pool_value), "C")],
    )


def _token_bytes(pool: Value) -> int:
    """What a token's key takes in its pool [P, block, D]."""
    width = pool.type.shape[-1]
    assert isinstance(width, int)
    return width * pool.type.dtype.itemsize
