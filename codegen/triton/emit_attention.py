"""Rotary embedding, cache writes and paged attention: launches of the attention kernels."""

from __future__ import annotations

from ...artifact.launch_plan import Extent
from ...ir.graph import Node, Value
from ...ir.ops import CacheWrite, PagedAttention, Rotary
from ...ir.ops.cache_codes import padded
from ...ir.types import DType, S, TensorType, numel
from ..views import View
from .attention_tiles import AttentionTiles, key_loop, power_of_two, tiles_of
from .emit_step import positions, sequence_of, work
from .emitters import emits
from .forms import Form
from .machines import Machine
from .operands import POINTER, Choice, Operand, extent
from .program import Program

PROGRAMS_PER_MULTIPROCESSOR = 2
"""What fits with the registers that the accumulators take."""
MANY = 1 << 20


@emits(Rotary)
def rotary(program: Program, node: Node, op: Rotary) -> None:
    x, cos, sin = (program.view(value) for value in node.inputs)
    _rotate(program, x, (cos, sin), program.result(node.output), op, hadamard=0)


def _rotate(
    program: Program,
    x: View,
    tables: tuple[View, ...],
    out: View,
    op: Rotary | PagedAttention,
    *,
    hadamard: int,
) -> None:
    """x [T, H, D] → out, whose heads may be wider; tables: cos and sin, or none."""
    tokens, heads, head = x.shape[-3:]
    width = out.shape[-1]
    assert isinstance(head, int)
    assert isinstance(width, int)
    block = power_of_two(width)
    rows = max(1, 1024 // block)
    cos, sin = tables or (x, x)
    dim = op.dim if isinstance(op, Rotary) else op.rotary
    constants = {
        "HEADS": heads, "HEAD": head, "WIDTH": width, "X_STRIDE": _row_stride(program, x),
        "TABLE_STRIDE": _table_stride(program, tables), "OUT_STRIDE": _row_stride(program, out),
        "ROTARY": dim, "INTERLEAVED": op.interleaved, "HADAMARD": hadamard,
        "BLOCK_ROWS": rows, "BLOCK": block,
    }  # fmt: skip
    grid = (extent(numel((tokens, heads)), rows),)
    program.launch(
        "rotary.rotary_rows",
        {
            "x_ptr": program.read(x),
            "cos_ptr": program.read(cos),
            "sin_ptr": program.read(sin),
            "out_ptr": program.write(out),
            "tokens": program.size(tokens),
        },
        lambda machine, form: Choice(grid, {**constants, "PORTABLE": not machine.overlaps}),
    )


@emits(CacheWrite)
def cache_write(program: Program, node: Node, op: CacheWrite) -> None:
    k_value, v_value, key_pool, _, _, _, table, *tables = node.inputs
    k, v = program.view(k_value), program.view(v_value)
    heads, key, value = k.shape[-2], k.shape[-1], v.shape[-1]
    assert isinstance(heads, int)
    assert isinstance(key, int)
    assert isinstance(value, int)
    angles = tuple(program.view(t) for t in tables)
    cos, sin = angles or (k, k)
    tokens = k.shape[-3]
    constants = {
        "KEY": key, "VALUE": value, "K_STRIDE": _row_stride(program, k),
        "V_STRIDE": _row_stride(program, v),
        "TABLE_STRIDE": _table_stride(program, angles),
        "COLUMNS": program.columns, "BLOCK_BYTES": program.pool(key_pool).block_bytes,
        "ROTARY": op.rotary, "INTERLEAVED": op.interleaved,
        "KEY_BLOCK": power_of_two(padded(key)), "VALUE_BLOCK": power_of_two(padded(value)),
    }  # fmt: skip

    def choose(machine: Machine, form: Form) -> Choice:
        block = 8 if form.wide else 1
        grid = (extent(tokens, block), Extent("", heads))
        facts = {"BLOCK_TOKENS": block, "PORTABLE": not machine.overlaps}
        return Choice(grid, constants | facts, num_warps=4 if form.wide else 1)

    program.launch(
        "cache_write.cache_write",
        {
            "k_ptr": program.read(k),
            "v_ptr": program.read(v),
            "cos_ptr": program.read(cos),
            "sin_ptr": program.read(sin),
            "sequence_of_ptr": program.read(sequence_of(program)),
            "positions_ptr": program.read(positions(program)),
            "block_table_ptr": program.read(table),
            "pool_ptr": _pool(program, key_pool, "w"),
            "tokens": program.size(tokens),
            "sequences": program.size(S),
        },
        choose,
    )


@emits(PagedAttention)
def paged_attention(program: Program, node: Node, op: PagedAttention) -> None:
    q_value, key_pool, _, query_start, context_len, table, *rest = node.inputs
    sinks = rest[: int(op.sinks)]
    angles = tuple(program.view(t) for t in rest[int(op.sinks) :])
    tiles = tiles_of(node, program.limits)
    q, out = program.view(q_value), program.result(node.output)
    if tiles.cache is DType.I8:
        q, angles = _meeting_codes(program, q, angles, op), ()
    cos, sin = angles or (q, q)
    partial, stats, arrivals = _scratch(program, tiles)
    constants = {
        **_constants(program, tiles, op),
        "Q_STRIDE": _row_stride(program, q), "OUT_STRIDE": _row_stride(program, out),
        "TABLE_STRIDE": _table_stride(program, angles),
        "BLOCK_BYTES": program.pool(key_pool).block_bytes, "ROTARY": op.rotary if angles else 0,
    }  # fmt: skip
    grid = (Extent("", MANY, per_multiprocessor=PROGRAMS_PER_MULTIPROCESSOR),)

    def choose(machine: Machine, form: Form) -> Choice:
        loop = key_loop(tiles, machine)
        facts = {"KEYS": loop.keys, "PORTABLE": not machine.overlaps}
        return Choice(grid, constants | facts, loop.num_warps, loop.num_stages)

    program.launch(
        "paged_attention.paged_attention",
        {
            "q_ptr": program.read(q),
            "pool_ptr": _pool(program, key_pool, "r"),
            "sinks_ptr": program.read(sinks[0]) if sinks else program.read(q),
            "cos_ptr": program.read(cos),
            "sin_ptr": program.read(sin),
            "query_start_ptr": program.read(query_start),
            "context_len_ptr": program.read(context_len),
            "block_table_ptr": program.read(table),
            "work_ptr": program.read(work(program, tiles.work)),
            "partial_ptr": program.write(partial),
            "stats_ptr": program.write(stats),
            "arrivals_ptr": program.update(arrivals),
            "out_ptr": program.write(out),
            "sequences": program.size(S),
        },
        choose,
    )


def _meeting_codes(program: Program, q: View, angles: tuple[View, ...], op: PagedAttention) -> View:
    """Queries as an int8 cache's keys are: rotated by the Hadamard matrix, too."""
    *lead, head = q.shape
    assert isinstance(head, int)
    width = padded(head)
    out = program.fresh(TensorType(DType.BF16, (*lead[-2:], width)))
    _rotate(program, q, angles, out, op, hadamard=width & -width)
    return out


def _constants(program: Program, tiles: AttentionTiles, op: PagedAttention) -> dict[str, object]:
    return {
        "GROUP": tiles.group, "KV_HEADS": tiles.kv_heads, "KEY": tiles.key, "VALUE": tiles.value,
        "COLUMNS": program.columns, "SCALE": op.scale, "SOFTCAP": op.softcap,
        "WINDOW": op.window, "SINKS": op.sinks, "INTERLEAVED": op.interleaved,
        "SHORT": tiles.work.short, "SEGMENT": tiles.work.segment,
        "LEVELS": tiles.work.levels, "SEGMENTS": tiles.segments, "ROWS": tiles.rows,
        "KEY_BLOCK": tiles.key_block, "VALUE_BLOCK": tiles.value_block, "MERGES": True,
    }  # fmt: skip


def _scratch(program: Program, tiles: AttentionTiles) -> tuple[View, View, View]:
    """Partial results, their maxima and sums, and counters that kernels set back to zero."""
    rows = (S, tiles.kv_heads, tiles.segments, tiles.work.short * tiles.group)
    partial = program.fresh(TensorType(DType.F32, (*rows, tiles.value)))
    stats = program.fresh(TensorType(DType.F32, (*rows, 2)))
    counters = TensorType(DType.I32, (S, tiles.kv_heads, tiles.short_tiles))
    name = f"arrivals.{tiles.kv_heads}x{tiles.short_tiles}"
    return partial, stats, program.keep(name, counters)


def _pool(program: Program, key_pool: Value, access: str) -> Operand:
    """The layer's part of the first block: keys and values, and scales of codes."""
    return program.pool_pointer(key_pool, access, POINTER[key_pool.type.dtype])


def _row_stride(program: Program, view: View) -> int:
    """Elements between tokens of [T, H, D], whose heads lie one behind another."""
    heads, head = view.shape[-2:]
    if view.storage is None or view.strides[-1] != 1 or (heads != 1 and view.strides[-2] != head):
        raise program.refuse("heads that don't lie one behind another")
    return view.strides[-3]


def _table_stride(program: Program, tables: tuple[View, ...]) -> int:
    """Elements between tokens of cos and sin [T, dim / 2]; 0 where there are none."""
    if not tables:
        return 0
    cos, sin = tables
    if cos.strides[-2:] != sin.strides[-2:] or cos.strides[-1] != 1 or cos.storage is None:
        raise program.refuse("angles of another layout")
    return cos.strides[-2]
