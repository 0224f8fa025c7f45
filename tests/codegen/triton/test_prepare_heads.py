"""Queries made ready, cache writes and rotary embedding against the ops' references, under Triton's
interpreter."""

from __future__ import annotations

import pytest
import torch
from attention_steps import Geometry, Step, from_memory, prepared, to_memory
from interpreted_kernels import interpreted
from llmc.ir.ops.attention import CacheWrite, PagedAttention, Rotary
from llmc.ir.ops.cache_codes import padded, rotate

SEQUENCES = [(1, 1), (65, 3), (64, 2)]


def angles(step: Step, dim: int) -> tuple[torch.Tensor, ...]:
    angle = step.normal(step.tokens, dim // 2)
    return (angle.cos(), angle.sin()) if dim else ()


@pytest.mark.parametrize(
    ("cache", "key", "value", "rotary", "interleaved", "block"),
    [
        (torch.float32, 16, 16, 0, False, 4),
        (torch.bfloat16, 20, 12, 8, True, 2),
        (torch.float16, 80, 80, 32, False, 8),
        (torch.int8, 64, 48, 64, False, 4),
        (torch.int8, 20, 12, 8, True, 1),
    ],
)
def test_pools_and_queries_are_those_of_the_ops(cache, key, value, rotary, interleaved, block):
    geometry = Geometry(group=2, kv_heads=2, key=key, value=value, cache=cache)
    step = Step(geometry, SEQUENCES, spare=2, empty=2, seed=key)
    # Queries, keys and values are slices of one product of which nothing else may be read.
    product = step.normal(step.tokens, 2 * (3 * key + value) + 8)
    product[:, -8:] = float("nan")
    q = product[:, : 4 * key].unflatten(1, (4, key))
    k = product[:, 4 * key : 6 * key].unflatten(1, (2, key))
    v = product[:, 6 * key : -8].unflatten(1, (2, value))
    tables = angles(step, rotary)
    op = CacheWrite(rotary, interleaved)
    pools = step.empty_pools()
    memory = to_memory(geometry, *pools)
    before = memory.clone()
    owned = int(step.query_start[-1])
    # The reference's own casts: this step's tokens only.
    expected = op.reference(
        k[:owned], v[:owned], *pools, step.query_start, step.context_len, step.table,
        *(table[:owned] for table in tables),
    )  # fmt: skip
    queries = prepared(step, q, op, tables, memory, k, v, block=block)
    for got, want in zip(from_memory(geometry, memory), expected, strict=True):
        assert torch.equal(got.view(torch.int8), want.view(torch.int8))
    assert torch.equal(memory[:, :128], before[:, :128]), "other layers' bytes"
    assert torch.equal(memory[:, -128:], before[:, -128:]), "other layers' bytes"

    want = Rotary(rotary, interleaved).reference(q, *tables) if rotary else q
    want = torch.nn.functional.pad(want, (0, padded(key) - key))
    want = rotate(want) if cache == torch.int8 else want
    assert torch.equal(queries[: step.tokens], want.to(queries.dtype))
    assert queries[step.tokens :].isnan().all()


def test_one_without_the_other():
    """Queries alone, as of a layer that reads another one's cache; keys and values alone."""
    step = Step(Geometry(cache=torch.int8), SEQUENCES)
    q, k, v = (step.normal(step.tokens, heads, 16) for heads in (4, 2, 2))
    tables = angles(step, 16)
    op = CacheWrite(16)
    together, alone = (to_memory(step.geometry, *step.empty_pools()) for _ in range(2))
    want = prepared(step, q, op, tables, together, k, v)
    got = prepared(step, q, PagedAttention(1.0, rotary=16), tables)
    assert torch.equal(got[: step.tokens], want[: step.tokens])
    prepared(step, None, op, tables, alone, k, v)
    assert torch.equal(alone, together)


def test_codes_of_zeros_and_of_ties():
    """A row of zeros, one whose codes lie between two, and scales at the least power of two."""
    geometry = Geometry(kv_heads=1, cache=torch.int8)
    step = Step(geometry, [(5, 5)])
    k, v = step.normal(5, 1, 16), step.normal(5, 1, 16)
    k[0], v[0] = 0, 0
    v[1] = torch.arange(16) * 0.5
    v[1, 0, 0] = 127
    v[2] *= 1e-30
    k[2] *= 1e-30
    v[3] = 127 * 2.0**-7
    pools = step.empty_pools()
    memory = to_memory(geometry, *pools)
    arrays = (step.query_start, step.context_len, step.table)
    prepared(step, None, CacheWrite(), (), memory, k, v, block=8)
    expected = CacheWrite().reference(k, v, *pools, *arrays)
    for got, want in zip(from_memory(geometry, memory), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("dim", "interleaved", "out_type"),
    [(20, False, torch.float32), (8, True, torch.bfloat16), (6, False, torch.float32)],
)
def test_rotary_rows(dim, interleaved, out_type):
    tokens, heads, head = 5, 3, 20
    generator = torch.Generator().manual_seed(dim)
    x = torch.randn((tokens, heads * head + 4), generator=generator)
    angle = torch.randn((tokens, dim // 2), generator=generator)
    view = x[:, : heads * head].unflatten(1, (heads, head))
    out = torch.full((tokens + 1, heads * head + 8), float("nan"), dtype=out_type)
    interpreted("rotary").rotary_rows[(4,)](
        x, angle.cos(), angle.sin(), out, tokens,
        HEADS=heads, HEAD=head, X_STRIDE=x.stride(0), TABLE_STRIDE=dim // 2,
        OUT_STRIDE=out.stride(0), ROTARY=dim, INTERLEAVED=interleaved,
        BLOCK_ROWS=4, BLOCK=32, PORTABLE=True,
    )  # fmt: skip
    want = Rotary(dim, interleaved).reference(view, angle.cos(), angle.sin()).to(out_type)
    assert torch.equal(out[:tokens, : heads * head], want.flatten(1))
    assert out[tokens:].isnan().all()
    assert out[:, heads * head :].isnan().all()
