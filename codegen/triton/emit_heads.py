"""Heads of queries, keys and values: rotated, made ready for attention, written to the cache.

A cache write and the attention that reads the cache next are prepared in one launch, where the
attention stands. Each is launched alone where there is no such pair: layers that read another
layer's cache, or rotations by different angles.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...artifact.launch_plan import Extent
from ...ir.graph import Node, Value
from ...ir.ops import CacheWrite, PagedAttention, Rotary
from ...ir.ops.cache_codes import padded
from ...ir.types import Dim, DType, S, TensorType, numel
from ..views import View
from .attention_tiles import power_of_two
from .emit_step import positions, sequence_of
from .emitters import emits
from .forms import Form
from .machines import Machine
from .operands import POINTER, Choice, Operand, extent
from .program import Program

TILE = 1024
"""Elements of one head's tokens that a program of a wide step takes."""
_OPERANDS = (
    "q_ptr", "k_ptr", "v_ptr", "cos_ptr", "sin_ptr", "sequence_of_ptr", "positions_ptr",
    "block_table_ptr", "queries_ptr", "pool_ptr", "tokens", "sequences",
)  # fmt: skip
"""In the kernel's order. Those that a launch doesn't have are None."""
_ABSENT = {
    "HEADS": 0, "KV_HEADS": 0, "VALUE": 0, "VALUE_BLOCK": 0, "Q_STRIDE": 0, "K_STRIDE": 0,
    "V_STRIDE": 0, "COLUMNS": 0, "BLOCK_BYTES": 0, "Q_ROTARY": 0, "K_ROTARY": 0,
    "INTERLEAVED": False, "HADAMARD": 0,
}  # fmt: skip
"""Constants of what a launch doesn't have."""


@emits(Rotary)
def rotary(program: Program, node: Node, op: Rotary) -> None:
    x, cos, sin = (program.view(value) for value in node.inputs)
    out = program.result(node.output)
    tokens, heads, head = x.shape[-3:]
    assert isinstance(head, int)
    block = power_of_two(head)
    rows = max(1, TILE // block)
    constants = {
        "HEADS": heads, "HEAD": head, "X_STRIDE": row_stride(program, x),
        "TABLE_STRIDE": _table_stride(program, (cos, sin)),
        "OUT_STRIDE": row_stride(program, out), "ROTARY": op.dim, "INTERLEAVED": op.interleaved,
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
        lambda machine, form: Choice(grid, constants),
    )


@emits(CacheWrite)
def cache_write(program: Program, node: Node, op: CacheWrite) -> None:
    if _companion(program, node) is None:
        _launch(program, _keys(program, node, op))


def prepare_heads(program: Program, node: Node, op: PagedAttention) -> View:
    """Launch what attention needs first. Returns its queries [T, H, D rounded up to 16], in the
    type that they are multiplied in."""
    out, queries = _queries(program, node, op)
    write = node.inputs[1].producer
    if write is None or _companion(program, write) is not node:
        _launch(program, queries)
    else:
        assert isinstance(write.op, CacheWrite)
        program.nodes = (write,)
        _launch(program, _keys(program, write, write.op), queries)
        program.nodes = (node,)
    return out


def _companion(program: Program, write: Node) -> Node | None:
    """The first attention that reads what `write` has written, if it has the same angles."""
    readers = [user for value in write.outputs for user in value.users]
    first = next((node for node in program.graph.nodes if node in readers), None)
    if first is None or not isinstance(first.op, PagedAttention):
        return None
    assert isinstance(write.op, CacheWrite)
    if not (write.op.rotary and first.op.rotary):
        return first
    same = write.inputs[-2:] == first.inputs[-2:] and write.op.interleaved == first.op.interleaved
    return first if same else None


@dataclass(frozen=True, slots=True)
class _Heads:
    """What queries, or keys and values, bring to a launch. `count`: programs of a tile of tokens;
    `angles`: cos and sin, or nothing; `width`: elements of the longest row in a tile."""

    tokens: Dim
    count: int
    width: int
    angles: tuple[View, ...]
    operands: dict[str, Operand]
    constants: dict[str, object]


def _queries(program: Program, node: Node, op: PagedAttention) -> tuple[View, _Heads]:
    q, cache = program.view(node.inputs[0]), node.inputs[1].type.dtype
    tokens, heads, key = q.shape[-3:]
    assert isinstance(heads, int)
    assert isinstance(key, int)
    width, codes = padded(key), cache is DType.I8
    out = program.fresh(TensorType(DType.BF16 if codes else cache, (tokens, heads, width)))
    constants = {
        "HEADS": heads, "KEY": key, "KEY_BLOCK": power_of_two(width),
        "Q_STRIDE": row_stride(program, q), "HADAMARD": width & -width if codes else 0,
        **_rotary("Q", op),
    }  # fmt: skip
    operands = {"q_ptr": program.read(q), "queries_ptr": program.write(out)}
    angles = _angles(program, node, op)
    return out, _Heads(tokens, heads, power_of_two(width), angles, operands, constants)


def _keys(program: Program, node: Node, op: CacheWrite) -> _Heads:
    k_value, v_value, pool, _, _, _, table = node.inputs[:7]
    k, v = program.view(k_value), program.view(v_value)
    tokens, heads, key = k.shape[-3:]
    value = v.shape[-1]
    assert isinstance(heads, int)
    assert isinstance(key, int)
    assert isinstance(value, int)
    blocks = power_of_two(padded(key)), power_of_two(padded(value))
    constants = {
        "KV_HEADS": heads, "KEY": key, "VALUE": value, "K_STRIDE": row_stride(program, k),
        "V_STRIDE": row_stride(program, v), "COLUMNS": program.columns,
        "BLOCK_BYTES": program.pool(pool).block_bytes, "KEY_BLOCK": blocks[0],
        "VALUE_BLOCK": blocks[1], **_rotary("K", op),
    }  # fmt: skip
    operands = {
        "k_ptr": program.read(k),
        "v_ptr": program.read(v),
        "sequence_of_ptr": program.read(sequence_of(program)),
        "positions_ptr": program.read(positions(program)),
        "block_table_ptr": program.read(table),
        "pool_ptr": pool_pointer(program, pool, "w"),
    }
    return _Heads(tokens, heads, max(blocks), _angles(program, node, op), operands, constants)


def _rotary(which: str, op: CacheWrite | PagedAttention) -> dict[str, object]:
    return {f"{which}_ROTARY": op.rotary, "INTERLEAVED": op.interleaved} if op.rotary else {}


def _angles(program: Program, node: Node, op: CacheWrite | PagedAttention) -> tuple[View, ...]:
    return tuple(program.view(table) for table in node.inputs[-2:]) if op.rotary else ()


def _launch(program: Program, *parts: _Heads) -> None:
    """One launch for queries, keys and values, or what there is of them."""
    angles = next((part.angles for part in parts if part.angles), ())
    operands = {name: operand for part in parts for name, operand in part.operands.items()}
    operands |= {n: program.read(t) for n, t in zip(("cos_ptr", "sin_ptr"), angles, strict=False)}
    operands |= {"tokens": program.size(parts[0].tokens), "sequences": program.size(S)}
    constants = _ABSENT | {name: None for name in _OPERANDS if name not in operands}
    for part in parts:
        constants |= part.constants
    constants["TABLE_STRIDE"] = _table_stride(program, angles)
    count, width = sum(part.count for part in parts), max(part.width for part in parts)

    def choose(machine: Machine, form: Form) -> Choice:
        block = max(1, TILE // width) if form.wide else 1
        grid = (extent(parts[0].tokens, block), Extent("", count))
        return Choice(grid, constants | {"BLOCK_TOKENS": block}, num_warps=4 if form.wide else 1)

    given = {name: operands[name] for name in _OPERANDS if name in operands}
    program.launch("prepare_heads.prepare_heads", given, choose)


def pool_pointer(program: Program, key_pool: Value, access: str) -> Operand:
    """The layer's part of the first block: keys and values, and scales of codes."""
    return program.pool_pointer(key_pool, access, POINTER[key_pool.type.dtype])


def row_stride(program: Program, view: View) -> int:
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
