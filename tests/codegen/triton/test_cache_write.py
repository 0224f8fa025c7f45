"""Cache writes and rotary embedding against the ops' references, under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from attention_steps import Geometry, Step, from_memory, pool_pointer, to_memory
from interpreted_kernels import interpreted
from llmc.ir.ops.attention import CacheWrite, Rotary

SEQUENCES = [(1, 1), (65, 3), (64, 2), (130, 5)]


def write(step: Step, memory: torch.Tensor, k, v, tables, op: CacheWrite, block: int) -> None:
    g = step.geometry
    cos, sin = tables or (torch.zeros(1), torch.zeros(1))
    interpreted("cache_write").cache_write[(-(-step.tokens // block), g.kv_heads)](
        k, v, cos, sin, step.sequence_of(), step.positions(), step.table,
        pool_pointer(g, memory), step.tokens, step.slots,
        KEY=g.key, VALUE=g.value, K_STRIDE=k.stride(0), V_STRIDE=v.stride(0),
        TABLE_STRIDE=cos.stride(0), COLUMNS=step.table.shape[1], BLOCK_BYTES=g.block_bytes,
        ROTARY=op.rotary, INTERLEAVED=op.interleaved, BLOCK_TOKENS=block,
        KEY_BLOCK=power(g.key), VALUE_BLOCK=power(g.value), PORTABLE=True,
    )  # fmt: skip


def power(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


def angles(step: Step, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    angle = step.normal(step.tokens, dim // 2)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("cache", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize(
    ("key", "value", "rotary", "interleaved", "block"),
    [(16, 16, 0, False, 4), (20, 12, 8, True, 1), (64, 48, 64, False, 4), (80, 80, 32, False, 8)],
)
def test_the_pools_are_those_of_the_op(cache, key, value, rotary, interleaved, block):
    geometry = Geometry(kv_heads=2, key=key, value=value, cache=cache)
    step = Step(geometry, SEQUENCES, spare=3, empty=2, seed=key)
    # Keys and values are slices of one product of which nothing else may be read.
    product = step.normal(step.tokens, 2 * (key + value) + 8)
    product[:, -8:] = float("nan")
    k = product[:, : 2 * key].unflatten(1, (2, key))
    v = product[:, 2 * key : 2 * (key + value)].unflatten(1, (2, value))
    tables = angles(step, rotary) if rotary else ()
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
    write(step, memory, k, v, tables, op, block)
    for got, want in zip(from_memory(geometry, memory), expected, strict=True):
        assert torch.equal(got.view(torch.int8), want.view(torch.int8))
    assert torch.equal(memory[:, :128], before[:, :128]), "other layers' bytes"
    assert torch.equal(memory[:, -128:], before[:, -128:]), "other layers' bytes"


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
    write(step, memory, k, v, (), CacheWrite(), 8)
    expected = CacheWrite().reference(k, v, *pools, *arrays)
    for got, want in zip(from_memory(geometry, memory), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(("dim", "interleaved"), [(20, False), (8, True), (6, False)])
@pytest.mark.parametrize("out_type", [torch.float32, torch.bfloat16])
def test_rotary_rows(dim, interleaved, out_type):
    tokens, heads, head = 5, 3, 20
    generator = torch.Generator().manual_seed(dim)
    x = torch.randn((tokens, heads * head + 4), generator=generator)
    angle = torch.randn((tokens, dim // 2), generator=generator)
    view = x[:, : heads * head].unflatten(1, (heads, head))
    out = torch.full((tokens + 1, heads * head + 8), float("nan"), dtype=out_type)
    interpreted("rotary").rotary_rows[(4,)](
        x, angle.cos(), angle.sin(), out, tokens,
        HEADS=heads, HEAD=head, WIDTH=head, X_STRIDE=x.stride(0), TABLE_STRIDE=dim // 2,
        OUT_STRIDE=out.stride(0), ROTARY=dim, INTERLEAVED=interleaved, HADAMARD=0,
        BLOCK_ROWS=4, BLOCK=32, PORTABLE=True,
    )  # fmt: skip
    want = Rotary(dim, interleaved).reference(view, angle.cos(), angle.sin()).to(out_type)
    assert torch.equal(out[:tokens, : heads * head], want.flatten(1))
    assert out[tokens:].isnan().all()
    assert out[:, heads * head :].isnan().all()
