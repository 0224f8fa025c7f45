"""Paged attention against the op's reference, under Triton's interpreter; its invariance; and that
its registers are enough.

The interpreter takes milliseconds a tile of keys: contexts are as short as what they show allows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from attention_steps import Geometry, Step, pool_pointer, power, prepared, to_memory
from compiled_kernels import spilled_bytes
from interpreted_kernels import interpreted
from llmc.codegen.triton.attention_tiles import AttentionTiles, WorkClass, key_loop
from llmc.codegen.triton.kernels.paged_attention import paged_attention
from llmc.codegen.triton.machines import MACHINES
from llmc.ir.ops.attention import PagedAttention
from llmc.ir.types import DType

MIXED = [(1, 1), (64, 1), (70, 11), (65, 5)]
ONE = Geometry(kv_heads=1)
SOFT = PagedAttention(scale=0.25)


@dataclass(frozen=True)
class Tiles:
    """What the compile chooses. Segments double every 16, so `levels` shows at 16 x segment."""

    rows: int = 16
    keys: int = 32
    short: int = 8
    segment: int = 32
    levels: int = 0
    programs: int = 3

    def most(self, step: Step) -> int:
        """Segments of the longest context: no less than the kernel may need, and no more."""
        context, count, end = int(step.context_len.max()), 0, 0
        while end < context:
            end += self.segment << min(count // 16, self.levels)
            count += 1
        return count


def attend(step: Step, q, memory, op: PagedAttention, tiles: Tiles, sinks=None, slopes=None):
    """The kernel's result [T, H, Dv]; the output is poisoned and wider than the result."""
    g = step.geometry
    tile = tiles.rows // g.group
    work = torch.full((step.slots + 1,), -9, dtype=torch.int32)
    ignored = torch.zeros(step.tokens, dtype=torch.int32)
    classes = (op.window, tile, tiles.short, tiles.segment, tiles.levels)
    interpreted("step_metadata").step_metadata[(1,)](
        ignored, ignored, step.query_start, step.context_len, ignored, ignored, ignored, work,
        step.tokens, step.slots, CLASSES=classes, WORK_STRIDE=step.slots + 1,
        STEPS=step.slots.bit_length(), BLOCK=16, PORTABLE=True,
    )  # fmt: skip
    rows = step.slots * g.kv_heads * tiles.most(step) * tiles.short * g.group
    partial = torch.full((rows * g.value + 64,), float("nan"))
    stats = torch.full((rows * 2 + 64,), float("nan"))
    arrivals = torch.zeros((step.slots, g.kv_heads, -(-tiles.short // tile)), dtype=torch.int32)
    width = g.heads * g.value
    out = torch.full((step.tokens + 1, width + 8), float("nan"), dtype=q.dtype)
    interpreted("paged_attention").paged_attention[(tiles.programs,)](
        prepared(step, q, op, block=16), pool_pointer(g, memory), sinks, slopes, step.query_start,
        step.context_len, step.table, work, partial, stats, arrivals, out, step.slots,
        GROUP=g.group, KV_HEADS=g.kv_heads, KEY=g.key, VALUE=g.value, OUT_STRIDE=out.stride(0),
        COLUMNS=step.table.shape[1], BLOCK_BYTES=g.block_bytes, SCALE=op.scale,
        SOFTCAP=op.softcap, WINDOW=op.window, SINKS=op.sinks, SLOPES=op.slopes, SHORT=tiles.short,
        SEGMENT=tiles.segment, LEVELS=tiles.levels, SEGMENTS=tiles.most(step), ROWS=tiles.rows,
        KEYS=tiles.keys, KEY_BLOCK=power(g.key), VALUE_BLOCK=power(g.value), PORTABLE=True,
    )  # fmt: skip
    assert (arrivals == 0).all()
    assert partial[-64:].isnan().all()
    assert stats[-64:].isnan().all()
    assert out[:, width:].isnan().all()
    assert out[int(step.query_start[-1]) :].isnan().all()
    return out[: int(step.query_start[-1]), :width].unflatten(1, (g.heads, g.value))


def queries(step: Step) -> torch.Tensor:
    """q [T, H, D], a slice of something wider of which nothing else may be read."""
    g = step.geometry
    product = 2 * step.normal(step.tokens, g.heads * g.key + 12)
    product[:, -12:] = float("nan")
    return product[:, : g.heads * g.key].unflatten(1, (g.heads, g.key))


CASES = [
    (Geometry(), replace(SOFT, sinks=True), Tiles(), MIXED),
    (ONE, replace(SOFT, window=40), Tiles(keys=16, segment=64, programs=1), MIXED),
    (ONE, replace(SOFT, sinks=True, softcap=5.0, window=65), Tiles(), [(130, 3), (70, 11)]),
    (Geometry(group=3, kv_heads=1, key=20, value=12), SOFT, Tiles(), [(1, 1), (70, 6)]),
    (Geometry(group=1, kv_heads=3, key=32), SOFT, Tiles(short=1, keys=64), [(63, 3), (130, 1)]),
    (Geometry(group=4, kv_heads=1), replace(SOFT, softcap=3.0), Tiles(rows=32), [(40, 40)]),
    (Geometry(), replace(SOFT, slopes=True), Tiles(), MIXED),
    (ONE, replace(SOFT, slopes=True, sinks=True, softcap=5.0, window=40), Tiles(), [(130, 3)]),
    (Geometry(group=5, kv_heads=1), SOFT, Tiles(keys=16, segment=16, levels=2), [(300, 2)]),
]


@pytest.mark.parametrize(("geometry", "op", "tiles", "sequences"), CASES)
def test_attention_in_f32(geometry, op, tiles, sequences):
    check(geometry, op, tiles, sequences, 1e-5)


def check(geometry, op, tiles, sequences, tolerance: float) -> None:
    """Tolerances are for values of the size of 1, on the largest error."""
    step = Step(replace(geometry, window=op.window), sequences, spare=2, empty=2, seed=len(str(op)))
    q = queries(step)
    heads = step.geometry.heads
    sinks = step.normal(heads) if op.sinks else None
    slopes = step.normal(heads).abs() / 8 if op.slopes else None
    pools = step.filled_pools()
    got = attend(step, q, to_memory(step.geometry, *pools), op, tiles, sinks, slopes)
    owned = int(step.query_start[-1])
    pools = [pool if pool.dtype == torch.int8 else pool.float() for pool in pools]
    inputs = [q[:owned], *pools, step.query_start, step.context_len, step.table]
    want = op.reference(*inputs, *(x for x in (sinks, slopes) if x is not None))
    assert (got - want).abs().max() < tolerance


@pytest.mark.parametrize(
    ("cache", "key", "value", "window"),
    [(torch.bfloat16, 20, 12, 50), (torch.float16, 16, 16, 0), (torch.int8, 80, 48, 0)],
)
def test_attention_over_narrow_caches(cache, key, value, window):
    """Queries and weights are rounded to the cache's type (bf16 for codes): 2^-9 of a score."""
    geometry = Geometry(kv_heads=1, key=key, value=value, cache=cache)
    op = PagedAttention(scale=key**-0.5 / 2, window=window, softcap=20.0, slopes=not window)
    tolerance = 4e-3 if cache == torch.float16 else 3e-2
    check(geometry, op, Tiles(), [(1, 1), (70, 2), (65, 10)], tolerance)


@pytest.mark.parametrize(("cache", "window"), [(torch.float32, 0), (torch.int8, 45)])
def test_a_token_gets_the_same_bits_however_it_comes(cache, window):
    """In a whole prompt, split anywhere, alone, in company, decoded, verified."""
    geometry = Geometry(kv_heads=1, cache=cache, window=window)
    op = PagedAttention(scale=0.25, window=window, sinks=True, slopes=True)
    whole = Step(geometry, [(75, 75)])
    k, v = whole.normal(75, 1, 16), whole.normal(75, 1, 16)
    q, sinks, slopes = whole.normal(75, 2, 16), whole.normal(2), whole.normal(2).abs() / 8

    def last(context: int, count: int, others: list[tuple[int, int]], rows=16) -> torch.Tensor:
        step = Step(geometry, [*others, (context, count)], empty=1, seed=context)
        keys = [step.normal(n, 1, 16) for n, _ in others] + [k[:context]]
        values = [step.normal(n, 1, 16) for n, _ in others] + [v[:context]]
        memory = to_memory(geometry, *step.filled_pools(keys, values))
        rest = step.normal(sum(n for _, n in others), 2, 16)
        x = torch.cat((rest, q[context - count : context]))
        return attend(step, x, memory, op, Tiles(rows), sinks, slopes)[-count:]

    want = last(75, 75, [], rows=64)
    assert torch.equal(last(75, 19, [(20, 20)]), want[56:])
    assert torch.equal(last(75, 1, [(33, 1), (9, 2)]), want[74:])
    assert torch.equal(last(75, 2, [], rows=32), want[73:])
    assert torch.equal(last(53, 11, [(64, 2)]), want[42:53])


@pytest.mark.parametrize(("cache", "head"), [(DType.BF16, 128), (DType.I8, 64)])
def test_registers_are_enough(cache, head):
    """What most models have, where a warp group multiplies: 255 registers are the limit."""
    work = WorkClass(window=0, tile=16, short=8, segment=128, levels=2)
    tiles = AttentionTiles(4, 8, head, head, cache, rows=64, segments=40, work=work)
    loop = key_loop(tiles, MACHINES[90])
    pool, block = ("*i8", 1) if cache is DType.I8 else ("*bf16", 2)
    types = dict.fromkeys(paged_attention.arg_names[:12], "*i32") | {
        "queries_ptr": "*bf16", "pool_ptr": pool, "partial_ptr": "*fp32", "stats_ptr": "*fp32",
        "out_ptr": "*bf16", "sequences": "i32",
    }  # fmt: skip
    constants = {
        "GROUP": 4, "KV_HEADS": 8, "KEY": head, "VALUE": head, "OUT_STRIDE": 32 * head,
        "COLUMNS": 64, "BLOCK_BYTES": 64 * 8 * (2 * head * block + 8), "SCALE": 0.1,
        "SOFTCAP": 0.0, "WINDOW": 0, "SINKS": False, "SLOPES": False, "SHORT": 8,
        "SEGMENT": 128, "LEVELS": 2, "SEGMENTS": 40, "ROWS": 64, "KEYS": loop.keys,
        "KEY_BLOCK": head, "VALUE_BLOCK": head,
    }  # fmt: skip
    spilled = spilled_bytes(paged_attention, types, constants, 90, loop.num_warps, loop.num_stages)
    assert spilled == 0
