"""Launches of rotary embedding, cache writes and attention, run as a plan has them.

In: a graph in phase SERVING. Nodes of other ops have buffers of their own, filled with what their
references compute; the launches run under Triton's interpreter. Memory is poisoned first.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from attention_steps import GAP, Geometry, Step, from_memory, to_memory
from interpreted_kernels import interpreted
from llmc.artifact.launch_plan import Pointer, Size
from llmc.artifact.manifest import Limits
from llmc.codegen.triton.emit_step import begin_step
from llmc.codegen.triton.emitters import emit_node
from llmc.codegen.triton.layout import TRITON_LAYOUT
from llmc.codegen.triton.machines import MACHINES
from llmc.codegen.triton.operands import Operand, PlannedLaunch
from llmc.codegen.triton.program import Program, total_bytes
from llmc.ir.ops import CacheWrite, PagedAttention, Rotary
from llmc.ir.parser import parse
from llmc.ir.types import DType
from llmc.weights.table import WeightTable

TEXT = """
graph main: SERVING
input token_ids: i32[T] as token_ids
input positions: i32[T] as positions
input logits_rows: i32[R] as logits_rows
input query_start: i32[S1] as query_start
input context_len: i32[S] as context_len
input block_table.0: i32[S, B] as table(0)
input key_pool.0: {pool}[P0, 64, 1, {width}] as state(0, key_pool)
input value_pool.0: {pool}[P0, 64, 1, {value_width}] as state(0, value_pool)
input key_pool.1: {pool}[P0, 64, 1, {width}] as state(1, key_pool)
input value_pool.1: {pool}[P0, 64, 1, {value_width}] as state(1, value_pool)
group 0: paged {{window={window}, heads=1, key=20, value=20, dtype={pool}}} sites=(0, 1)
const @table: f32[50, 84] = @table:f32
const @angles: f32[300, 8] = @angles:f32
const @head: f32[10, 40] = @head:f32
%0: f32[T, 84] = embedding(@table, token_ids)
%1: f32[T, 8] = embedding(@angles, positions)
%2: f32[T, 40] = slice(%0) {{dim=-1, start=0, stop=40}}
%3: f32[T, 2, 20] = reshape(%2) {{shape=(T, 2, 20)}}
%4: f32[T, 20] = slice(%0) {{dim=-1, start=40, stop=60}}
%5: f32[T, 1, 20] = reshape(%4) {{shape=(T, 1, 20)}}
%6: f32[T, 4] = slice(%1) {{dim=-1, start=0, stop=4}}
%7: f32[T, 4] = slice(%1) {{dim=-1, start=4, stop=8}}
%8: f32[T, 1, 20] = rotary(%5, %6, %7) {{dim=8}}
%9: {pool}[P0, 64, 1, {width}], %10: {pool}[P0, 64, 1, {value_width}] = cache_write(%8, %5, \
key_pool.1, value_pool.1, query_start, context_len, block_table.0, %6, %7) {{rotary=8}}
%11: f32[T, 2, 20] = paged_attention(%3, %9, %10, query_start, context_len, block_table.0, \
%6, %7) {{scale=0.25, window={window}, rotary=8}}
%12: f32[T, 40] = reshape(%11) {{shape=(T, 40)}}
%13: f32[R, 40] = logits_rows(%12, logits_rows)
%14: f32[R, 10] = linear(%13, @head)
output %14
"""
LIMITS = Limits(max_tokens=100, max_sequences=5, max_context=256, max_logits_rows=8, block_size=64)
OURS = (Rotary, CacheWrite, PagedAttention)
TORCH = {"*fp32": torch.float32, "*bf16": torch.bfloat16, "*i32": torch.int32, "*i8": torch.int8}


class Memory:
    """The spaces of a program, poisoned; what is kept is zero. `blocks` [P, bytes of a block]."""

    def __init__(self, program: Program, blocks: int) -> None:
        self.program = program
        spaces = {"step": total_bytes(program.step), "kept": total_bytes(program.kept)}
        self.spaces = {name: torch.zeros(n, dtype=torch.uint8) for name, n in spaces.items()}
        self.blocks = torch.full((blocks, program.groups[0].bytes_per_block), 0xFF).byte()
        self.spaces["cache"] = self.blocks.view(-1)
        self.buffers = {
            name: torch.full((buffer.nbytes,), 0xFF).byte()
            for name, buffer in program.schedule.buffers.items()
        }

    def operand(self, operand: Operand) -> torch.Tensor:
        pointer = operand.argument
        assert isinstance(pointer, Pointer)
        memory = self.buffers.get(operand.buffer)
        memory = self.spaces[pointer.space] if memory is None else memory
        return memory[pointer.offset :].view(TORCH[operand.type])

    def put(self, operand: Operand, values: torch.Tensor) -> None:
        target = self.operand(operand)
        target[: values.numel()] = values.flatten().to(target.dtype)


def run(launch: PlannedLaunch, memory: Memory, sizes: Mapping[str, int], form: int) -> None:
    machine = MACHINES[90]
    choice = launch.choose(machine, memory.program.forms[form])
    assert choice is not None
    named = {"": 1, **sizes}
    arguments = [
        o.argument.extent.value(named) if isinstance(o.argument, Size) else memory.operand(o)
        for o in launch.operands.values()
    ]
    grid = [extent.value(named, multiprocessors=2) for extent in choice.full_grid()]
    module, function = launch.function.split(".")
    constants = {**choice.constants, "PORTABLE": True}
    getattr(interpreted(module), function)[tuple(grid)](*arguments, **constants)


@pytest.mark.parametrize("form", [0, -1])
@pytest.mark.parametrize(("pool", "window"), [("f32", 0), ("bf16", 70), ("i8", 0)])
def test_a_layer(pool, window, form):
    i8 = pool == "i8"
    text = TEXT.format(
        pool=pool, window=window, width=36 if i8 else 20, value_width=24 if i8 else 20
    )
    program = Program(parse(text), LIMITS, WeightTable(TRITON_LAYOUT), DType.F32)
    begin_step(program)
    for node in program.graph.nodes:
        if isinstance(node.op, OURS):
            emit_node(program, node)
        else:
            program.views[node.output] = program.fresh(node.output.type)
    cache = {"f32": torch.float32, "bf16": torch.bfloat16, "i8": torch.int8}[pool]
    geometry = Geometry(group=2, kv_heads=1, key=20, value=20, window=window, cache=cache)
    step = Step(geometry, [(3, 3), (150, 2), (1, 1)], spare=1, empty=1)
    memory = Memory(program, step.blocks)
    pools = step.filled_pools()
    place = program.pool(next(v for v in program.graph.inputs if v.name == "key_pool.1"))
    part = slice(place.offset, place.offset + place.nbytes)
    memory.blocks[:, part] = to_memory(geometry, *pools)[:, GAP:-GAP]
    others = memory.blocks[:, : place.offset].clone()
    values = {v.name: v for v in program.graph.inputs}
    table = torch.full((step.slots, program.columns), -1)
    table[:, : step.table.shape[1]] = step.table
    for name, array in (
        ("query_start", step.query_start), ("context_len", step.context_len),
        ("block_table.0", table),
    ):  # fmt: skip
        memory.put(program.read(values[name]), array)
    q, k = step.normal(step.tokens, 2, 20), step.normal(step.tokens, 1, 20)
    angle = step.normal(step.tokens, 4)
    node_of = {node.op.mnemonic: node for node in program.graph.nodes}
    inputs = node_of["rotary"].inputs[1:]
    for value, tensor in (
        (node_of["rotary"].inputs[0], k), (inputs[0], angle.cos()), (inputs[1], angle.sin()),
        (node_of["paged_attention"].inputs[0], q),
    ):  # fmt: skip
        memory.put(program.read(value), tensor)
    sizes = {"T": step.tokens, "S": step.slots, "R": 1}
    for launch in program.launches:
        run(launch, memory, sizes, form)

    owned = int(step.query_start[-1])
    q, k, cos, sin = (x[:owned] for x in (q, k, angle.cos(), angle.sin()))
    arrays = (step.query_start, step.context_len, step.table)
    twice = Rotary(8).reference(k, cos, sin)
    pools = CacheWrite(8).reference(twice, k, *pools, *arrays, cos, sin)
    whole = torch.nn.functional.pad(memory.blocks[:, part], (GAP, GAP))
    for got, want in zip(from_memory(geometry, whole), pools, strict=True):
        assert torch.equal(got.view(torch.int8), want.view(torch.int8))
    op = node_of["paged_attention"].op
    wide = [x if x.dtype == torch.int8 else x.float() for x in pools]
    expected = op.reference(q, *wide, *arrays, cos, sin)
    result = memory.operand(program.read(node_of["paged_attention"].output))
    result = result[: expected.numel()].view_as(expected)
    assert (result - expected).abs().max() < (1e-5 if pool == "f32" else 3e-2)
    assert torch.equal(memory.blocks[:, : place.offset], others), "another layer's bytes"
