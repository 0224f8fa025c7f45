"""What a step must do at least, counted from the graph of its program.

Weights once (of a table only the rows that are looked up), keys and values once for each sequence,
and the operations of matrix products and attention. What kernels read twice, or write for one
another, isn't in it: a time over these is a fraction of what the machine could do at best.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from llmc.codegen.triton.backend import CompiledTriton
from llmc.ir.graph import Graph, Node
from llmc.ir.ops import Embedding, Linear, PagedAttention
from llmc.ir.types import Dim, bind_dim
from llmc.weights.table import WeightTable, WeightTensor

from .shapes import Case
from .suite import StepCost


def step_cost(compiled: CompiledTriton, table: WeightTable, level: str, case: Case) -> StepCost:
    """Of a step of `case`, with the plan of `level`."""
    program = compiled.generated.program
    env = {"T": case.tokens, "S": case.sequences, "S1": case.sequences + 1, "R": case.rows}
    plan = compiled.plans[level].plan
    form = plan.form_for(case.tokens)
    return StepCost(
        weight_bytes=_weight_bytes(program.graph, table, case),
        cache_bytes=_cache_bytes(compiled, case),
        operations=sum(_operations(node, case, env) for node in program.graph.nodes),
        launches=sum(launch.forms[form].kernel >= 0 for launch in plan.launches),
    )


def _weight_bytes(graph: Graph, table: WeightTable, case: Case) -> int:
    looked_up = _tables(graph, table)
    read = sum(tensor.nbytes for tensor in table.tensors if tensor.name not in looked_up)
    rows = sum(tensor.nbytes // tensor.shape[0] for tensor in looked_up.values())
    return read + rows * case.tokens


def _tables(graph: Graph, table: WeightTable) -> dict[str, WeightTensor]:
    """Tensors that are read by rows only."""
    values = {
        node.inputs[0]
        for node in graph.nodes
        if isinstance(node.op, Embedding) and node.inputs[0].is_constant
    }
    own = [v for v in values if all(isinstance(user.op, Embedding) for user in v.users)]
    found = [table.packed(value) for value in own]
    shared = {
        table.packed(value).name
        for node in graph.nodes
        if isinstance(node.op, Linear)
        for value in node.inputs[node.op.num_x : node.op.num_x + 1]
    }
    return {tensor.name: tensor for tensor in found if tensor.name not in shared}


def _cache_bytes(compiled: CompiledTriton, case: Case) -> int:
    """Written for each token, read up to the end of each sequence."""
    seen = case.sequences * case.context + case.tokens
    return sum(group.bytes_per_block // group.block_size * seen for group in compiled.cache_groups)


def _operations(node: Node, case: Case, env: dict[str, int]) -> int:
    op = node.op
    if isinstance(op, Linear):
        weights = _size(node.inputs[op.num_x].type.shape, env)
        return 2 * _size(node.output.type.shape[:-1], env) * weights
    if isinstance(op, PagedAttention):
        start = case.context - case.query
        pairs = case.sequences * sum(start + i + 1 for i in range(case.query))
        heads, key_size = node.inputs[0].type.shape[-2:]
        widths = _size((heads, key_size), env) + _size(node.output.type.shape[1:], env)
        return 2 * pairs * widths
    return 0


def _size(shape: Iterable[Dim], env: dict[str, int]) -> int:
    return prod(bind_dim(dim, env) for dim in shape)
