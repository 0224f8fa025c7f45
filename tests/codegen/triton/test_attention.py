"""Paged attention against the op's reference, under Triton's interpreter; and its invariance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from attention_steps import Geometry, Step, pool_pointer, to_memory
from interpreted_kernels import interpreted
from llmc.ir.ops.attention import PagedAttention
from llmc.ir.ops.cache_codes import padded

MIXED = [(1, 1), (64, 1), (130, 3), (70, 11), (65, 5)]
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
    merges: bool = True
    programs: int = 3

    def most(self, step: Step) -> int:
        """Segments of the longest context: no less than the kernel may need, and no more."""
        context, count, end = int(step.context_len.max()), 0, 0
        while end < context:
            end += self.segment << min(count // 16, self.levels)
            count += 1
        return count


def attend(step: Step, q, memory, op: PagedAttention, tiles: Tiles, sinks=None, tables=()):
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
    cos, sin = tables or (torch.zeros(1), torch.zeros(1))
    sizes = {
        "GROUP": g.group, "KV_HEADS": g.kv_heads, "VALUE": g.value, "OUT_STRIDE": out.stride(0),
        "SCALE": op.scale, "SOFTCAP": op.softcap, "WINDOW": op.window, "SINKS": op.sinks,
        "SHORT": tiles.short, "SEGMENT": tiles.segment, "LEVELS": tiles.levels,
        "SEGMENTS": tiles.most(step), "VALUE_BLOCK": power(g.value),
        "PORTABLE": True,
    }  # fmt: skip
    sinks = torch.zeros(1) if sinks is None else sinks
    rotary = op.rotary
    if g.cache == torch.int8:
        q, rotary = hadamard_queries(step, q, op, cos, sin), 0
    interpreted("paged_attention").paged_attention[(tiles.programs,)](
        q, pool_pointer(g, memory), sinks, cos, sin, step.query_start, step.context_len,
        step.table, work, partial, stats, arrivals, out, step.slots,
        KEY=g.key, Q_STRIDE=q.stride(0), TABLE_STRIDE=cos.stride(0),
        COLUMNS=step.table.shape[1], BLOCK_BYTES=g.block_bytes, ROTARY=rotary,
        INTERLEAVED=op.interleaved, KEYS=tiles.keys, KEY_BLOCK=power(g.key),
        ROWS=tiles.rows, MERGES=tiles.merges, **sizes,
    )  # fmt: skip
    assert (arrivals == 0).all()
    if not tiles.merges:
        interpreted("attention_merge").merge_segments[(step.slots, g.kv_heads)](
            sinks, step.query_start, step.context_len, partial, stats, out, **sizes
        )
    assert partial[-64:].isnan().all()
    assert stats[-64:].isnan().all()
    assert out[:, width:].isnan().all()
    assert out[int(step.query_start[-1]) :].isnan().all()
    return out[: int(step.query_start[-1]), :width].unflatten(1, (g.heads, g.value))


def hadamard_queries(step: Step, q, op: PagedAttention, cos, sin) -> torch.Tensor:
    """What meets the keys of an int8 cache, made by its kernel."""
    g = step.geometry
    width = padded(g.key)
    out = torch.full((step.tokens, g.heads, width), float("nan"), dtype=torch.bfloat16)
    interpreted("rotary").rotary_rows[(-(-step.tokens * g.heads // 8),)](
        q, cos, sin, out, step.tokens, HEADS=g.heads, HEAD=g.key, WIDTH=width,
        X_STRIDE=q.stride(0), TABLE_STRIDE=cos.stride(0), OUT_STRIDE=g.heads * width,
        ROTARY=op.rotary, INTERLEAVED=op.interleaved, HADAMARD=width & -width, BLOCK_ROWS=8,
        BLOCK=power(g.key), PORTABLE=True,
    )  # fmt: skip
    return out


def power(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


def queries(step: Step) -> torch.Tensor:
    """q [T, H, D], a slice of something wider of which nothing else may be read."""
    g = step.geometry
    product = 2 * step.normal(step.tokens, g.heads * g.key + 12)
    product[:, -12:] = float("nan")
    return product[:, : g.heads * g.key].unflatten(1, (g.heads, g.key))


def reference(step: Step, q, pools, op: PagedAttention, sinks=None, tables=()) -> torch.Tensor:
    owned = int(step.query_start[-1])
    pools = [pool if pool.dtype == torch.int8 else pool.float() for pool in pools]
    inputs = [q[:owned].float(), *pools, step.query_start, step.context_len, step.table]
    inputs += [sinks] if sinks is not None else []
    return op.reference(*inputs, *(table[:owned] for table in tables))


CASES = [
    (Geometry(), SOFT, Tiles(), MIXED),
    (ONE, SOFT, Tiles(keys=16, segment=64, merges=False, programs=1), MIXED),
    (ONE, replace(SOFT, window=40), Tiles(), MIXED),
    (ONE, replace(SOFT, window=70), Tiles(merges=False), MIXED),
    (ONE, replace(SOFT, softcap=3.0), Tiles(keys=64, segment=64), MIXED),
    (ONE, replace(SOFT, sinks=True), Tiles(), MIXED),
    (ONE, replace(SOFT, sinks=True, softcap=5.0, window=65), Tiles(merges=False), MIXED),
    (Geometry(group=3, kv_heads=1, key=20, value=12), SOFT, Tiles(), MIXED),
    (Geometry(group=1, kv_heads=3, key=64, value=64), SOFT, Tiles(short=1), [(63, 3), (200, 1)]),
    (Geometry(group=4, kv_heads=1, key=48, value=80), replace(SOFT, rotary=12), Tiles(), MIXED),
    (Geometry(group=4, kv_heads=1), replace(SOFT, rotary=16, interleaved=True), Tiles(), MIXED),
    (Geometry(group=4, kv_heads=1), SOFT, Tiles(rows=32), [(63, 63)]),
    (Geometry(group=5, kv_heads=1), SOFT, Tiles(keys=16, segment=16, levels=2), [(300, 2)]),
]


@pytest.mark.parametrize(("geometry", "op", "tiles", "sequences"), CASES)
def test_attention_in_f32(geometry, op, tiles, sequences):
    check(geometry, op, tiles, sequences, 1e-5)


def check(geometry, op, tiles, sequences, tolerance: float) -> None:
    """Tolerances are for values of the size of 1, on the largest error."""
    step = Step(replace(geometry, window=op.window), sequences, spare=2, empty=2, seed=len(str(op)))
    q = queries(step)
    sinks = step.normal(step.geometry.heads) if op.sinks else None
    tables = ()
    if op.rotary:
        angle = step.normal(step.tokens, op.rotary // 2)
        tables = angle.cos(), angle.sin()
    pools = step.filled_pools()
    memory = to_memory(step.geometry, *pools)
    got = attend(step, q, memory, op, tiles, sinks, tables)
    want = reference(step, q, pools, op, sinks, tables)
    assert (got - want).abs().max() < tolerance


@pytest.mark.parametrize("cache", [torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize(("key", "value", "window"), [(16, 16, 0), (20, 12, 50), (80, 48, 0)])
def test_attention_over_narrow_caches(cache, key, value, window):
    """Queries and weights are rounded to the cache's type (bf16 for codes): 2^-9 of a score."""
    geometry = Geometry(kv_heads=1, key=key, value=value, cache=cache)
    op = PagedAttention(scale=key**-0.5 / 2, window=window, softcap=20.0, rotary=8)
    tolerance = 4e-3 if cache == torch.float16 else 3e-2
    check(geometry, op, Tiles(), [(1, 1), (130, 2), (65, 20)], tolerance)


@pytest.mark.parametrize("cache", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("window", [0, 45])
def test_a_token_gets_the_same_bits_however_it_comes(cache, window):
    """In a whole prompt, split anywhere, alone, in company, decoded, verified."""
    geometry = Geometry(kv_heads=1, cache=cache, window=window)
    op = PagedAttention(scale=0.25, window=window, sinks=True)
    whole = Step(geometry, [(75, 75)])
    k, v = whole.normal(75, 1, 16), whole.normal(75, 1, 16)
    q, sinks = whole.normal(75, 2, 16), whole.normal(2)
    tiles = Tiles()

    def last(context: int, count: int, others: list[tuple[int, int]], tiles=tiles) -> torch.Tensor:
        step = Step(geometry, [*others, (context, count)], empty=1, seed=context)
        keys = [step.normal(n, 1, 16) for n, _ in others] + [k[:context]]
        values = [step.normal(n, 1, 16) for n, _ in others] + [v[:context]]
        memory = to_memory(geometry, *step.filled_pools(keys, values))
        rest = step.normal(sum(n for _, n in others), 2, 16)
        x = torch.cat((rest, q[context - count : context]))
        return attend(step, x, memory, op, tiles, sinks)[-count:]

    want = last(75, 75, [])
    assert torch.equal(last(75, 19, [(20, 20)]), want[56:])
    assert torch.equal(last(75, 5, []), want[70:])
    assert torch.equal(last(75, 1, [(33, 1), (9, 2)]), want[74:])
    assert torch.equal(last(75, 2, [], replace(tiles, merges=False, rows=32)), want[73:])
    assert torch.equal(last(53, 11, [(64, 2)]), want[42:53])
