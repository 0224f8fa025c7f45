"""A graph in phase SERVING → the launches of a step and the memory that they share.

    begin_step      sequences of tokens, positions, work lists: from what the host says
    node by node    an emitter each; chains of plain element operations as one kernel
    finish_step     the best token of every row

Launches that draw tokens lie apart: a step whose rows are read greedily has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...artifact.manifest import Limits
from ...ir.graph import Graph
from ...ir.plan import MemoryPlan
from ...passes.plan_memory import plan_memory
from ...passes.quantize import Scheme
from ...passes.verify_plan import verify_plan
from ...weights.table import WeightTable
from .emit_generated import emit_copy, emit_group
from .emit_sampling import emit_argmax, emit_sampling
from .emit_step import begin_step
from .emitters import emit_node
from .fusion import is_generated, plan_groups
from .program import Program
from .stored_types import compute_type
from .tile_table import TileRow

LOGITS = "logits"


@dataclass(frozen=True)
class Generated:
    """A program and the memory plan of its arena."""

    program: Program
    memory: MemoryPlan


def generate(
    graph: Graph,
    limits: Limits,
    weights: WeightTable,
    scheme: Scheme,
    *,
    batch_invariant: bool = True,
    tiles: Sequence[TileRow] = (),
) -> Generated:
    """The program of a graph; tensors that it reads go to `weights`. `tiles`: see `Program`.

    Raises:
        LlmcError: LLMC-E0401, an op that this target can't do; E0103, a wrong memory plan.
    """
    program = Program(graph, limits, weights, compute_type(scheme), batch_invariant, [*tiles])
    begin_step(program)
    _emit_nodes(program)
    emit_argmax(program)
    steps = len(program.launches)
    emit_sampling(program)
    program.sampling = program.launches[steps:]
    del program.launches[steps:]
    memory = plan_memory(program.schedule)
    # A stream runs one kernel after the other: each waits for the one before.
    verify_plan(program.schedule, memory, range(len(program.schedule.steps)))
    return Generated(program, memory)


def _emit_nodes(program: Program) -> None:
    """All nodes; the logits end up where they are kept."""
    graph = program.graph
    (logits,) = graph.outputs
    kept = program.keep(LOGITS, logits.type)
    if logits.producer is not None:
        program.place(logits, kept)
    selected = program.prologues.selected
    groups = plan_groups(graph, lambda node: is_generated(node) and node not in selected)
    for node in graph.nodes:
        if node in selected:  # the layers behind it read by its index
            continue
        group = groups.get(node)
        if group is None:
            emit_node(program, node)
        elif node is group.last:
            emit_group(program, group)
    program.nodes = ()
    found = program.view(logits)
    if found != kept:
        emit_copy(program, found, kept)
