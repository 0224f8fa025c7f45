"""Paged attention: a launch that prepares its heads, and one that attends."""

from __future__ import annotations

from ...artifact.launch_plan import Extent
from ...ir.graph import Node
from ...ir.ops import PagedAttention
from ...ir.ops.attention import heads_operands
from ...ir.types import DType, S, TensorType
from ..views import View
from .attention_tiles import AttentionTiles, key_loop, tiles_of
from .emit_heads import pool_pointer, prepare_heads, row_stride
from .emit_step import work
from .emitters import emits
from .forms import Form
from .machines import Machine
from .operands import Choice
from .program import Program

PROGRAMS_PER_MULTIPROCESSOR = 2
"""What fits with the registers that the accumulators take."""
MANY = 1 << 20


@emits(PagedAttention)
def paged_attention(program: Program, node: Node, op: PagedAttention) -> None:
    key_pool, _, query_start, context_len, table = node.inputs[1:6]
    sinks, slopes = heads_operands(op, node.inputs[6:])
    tiles = tiles_of(node, program.limits)
    queries, out = prepare_heads(program, node, op), program.result(node.output)
    partial, stats, arrivals = _scratch(program, tiles)
    constants = {
        **_constants(program, tiles, op),
        "OUT_STRIDE": row_stride(program, out),
        "BLOCK_BYTES": program.pool(key_pool).block_bytes,
    }
    grid = (Extent("", MANY, per_multiprocessor=PROGRAMS_PER_MULTIPROCESSOR),)

    def choose(machine: Machine, form: Form) -> Choice:
        loop = key_loop(tiles, machine)
        return Choice(grid, constants | {"KEYS": loop.keys}, loop.num_warps, loop.num_stages)

    program.launch(
        "paged_attention.paged_attention",
        {
            "queries_ptr": program.read(queries),
            "pool_ptr": pool_pointer(program, key_pool, "r"),
            "sinks_ptr": program.read(queries if sinks is None else sinks),
            "slopes_ptr": program.read(queries if slopes is None else slopes),
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


def _constants(program: Program, tiles: AttentionTiles, op: PagedAttention) -> dict[str, object]:
    return {
        "GROUP": tiles.group, "KV_HEADS": tiles.kv_heads, "KEY": tiles.key, "VALUE": tiles.value,
        "COLUMNS": program.columns, "SCALE": op.scale, "SOFTCAP": op.softcap,
        "WINDOW": op.window, "SINKS": op.sinks, "SLOPES": op.slopes,
        "SHORT": tiles.work.short, "SEGMENT": tiles.work.segment,
        "LEVELS": tiles.work.levels, "SEGMENTS": tiles.segments, "ROWS": tiles.rows,
        "KEY_BLOCK": tiles.key_block, "VALUE_BLOCK": tiles.value_block,
    }  # fmt: skip


def _scratch(program: Program, tiles: AttentionTiles) -> tuple[View, View, View]:
    """Partial results, their maxima and sums, and counters that kernels set back to zero."""
    rows = (S, tiles.kv_heads, tiles.segments, tiles.work.short * tiles.group)
    partial = program.fresh(TensorType(DType.F32, (*rows, tiles.value)))
    stats = program.fresh(TensorType(DType.F32, (*rows, 2)))
    counters = TensorType(DType.I32, (S, tiles.kv_heads, tiles.short_tiles))
    name = f"arrivals.{tiles.kv_heads}x{tiles.short_tiles}"
    return partial, stats, program.keep(name, counters)
