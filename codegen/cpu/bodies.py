"""Rolled layers: a body becomes one C++ function, each call of it a row of constants.

What differs between calls travels in two structs: `_Call` (constants: weight offsets, cache
pools, parts of slots, cache groups) and `_Args` (pointers: the body's frame in the arena,
activations in and out). Activations cross as freshly laid out values, so the body's strides are
constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...ir.graph import Graph, Node, Value
from ...ir.plan import Buffer, MemoryPlan, Schedule
from ...ir.roles import State, Table
from ...ir.scalar import scalar_of
from ...ir.states import is_slot_part
from ...ir.types import DType, TensorType
from ...passes.place_barriers import place_barriers
from ...passes.plan_memory import plan_memory
from ...passes.verify_plan import verify_plan
from ..views import View
from .emit_attention import SCRATCH
from .emit_movement import copy, dense
from .emitters import emit_node
from .function import C_TYPE, Function, Pool, call
from .operands import takes_place_of


@dataclass(slots=True)
class Planned:
    """A function with its memory plan and barriers."""

    function: Function
    plan: MemoryPlan
    barriers: frozenset[int]


@dataclass(slots=True)
class Body:
    """One emitted body and the constants of its calls so far."""

    name: str
    graph: Graph
    planned: Planned
    activations: dict[int, str] = field(default_factory=dict)  # input position → `_Args` field
    results: dict[int, str] = field(default_factory=dict)  # output position → `_Args` field
    pools: list[int] = field(default_factory=list)  # input positions
    slot_parts: list[int] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)


def plan_function(fn: Function) -> Planned:
    """Plan memory and barriers of a finished function, and check both.

    Raises:
        LlmcError: LLMC-E0103, the plan is wrong.
    """
    plan = plan_memory(fn.schedule)
    barriers = place_barriers(fn.schedule, plan)
    verify_plan(fn.schedule, plan, barriers)
    return Planned(fn, plan, barriers)


def finish(fn: Function, outputs: dict[Value, View]) -> None:
    """Copy to its place whatever result no emitter wrote there itself."""
    fn.node = None
    for value, place in outputs.items():
        view = fn.view(value)
        if view.storage != place.storage:
            copy(fn, view, place)


def bind_pool(fn: Function, value: Value, pool: str, buffer: str) -> None:
    """Let `value` be the pool that the C++ expression `pool` (a `char*`) gives."""
    dtype = value.type.dtype
    fn.schedule.buffers[buffer] = Buffer(buffer, 0, external=True)
    fn.pools[value] = Pool(f"({C_TYPE[dtype]}*){pool}", buffer, dtype)


def bind_slot_part(fn: Function, value: Value, offset: str, buffer: str) -> None:
    """Let `value` be the part at `offset` (C++) of each sequence's slot."""
    fn.schedule.buffers[buffer] = Buffer(buffer, 0, external=True)
    fn.pools[value] = Pool(f"s.part({offset})", buffer, value.type.dtype)


def emit_body(graph: Graph, main: Function, calls: Sequence[Node]) -> Body:
    """The function of a body, given every call of it."""
    name = f"body_{_identifier(graph.name)}"
    fn = Function(name, main.limits, main.weights, Schedule(name))
    fn.outputs = frozenset(graph.outputs)
    fn.schedule.buffers[SCRATCH] = Buffer(SCRATCH, 0, external=True)
    body = Body(name, graph, Planned(fn, MemoryPlan({}, 0, 0), frozenset()))
    for position, value in enumerate(graph.inputs):
        _bind_input(body, fn, main, position, value, [c.inputs[position] for c in calls])
    outputs = _bind_results(body, fn)
    for node in graph.nodes:
        emit_node(fn, node)
    finish(fn, outputs)
    _allow_in_place(body, fn)
    body.planned = plan_function(fn)
    return body


def _bind_input(
    body: Body, fn: Function, main: Function, position: int, value: Value, given: list[Value]
) -> None:
    first = given[0]
    if all(v.is_constant for v in given):
        if scalar_of(first) is not None and all(v.recipe == first.recipe for v in given):
            fn.views[value] = main.view(first)
        else:
            fn.weight_inputs |= {value}
    elif isinstance(value.role, State) and is_slot_part(value):
        place = len(body.slot_parts)
        bind_slot_part(fn, value, f"c.parts[{place}]", f"slot_arg{place}")
        body.slot_parts.append(position)
    elif isinstance(value.role, State):
        bind_pool(fn, value, f"s.pools[c.pools[{len(body.pools)}]]", f"pool_arg{len(body.pools)}")
        body.pools.append(position)
    elif isinstance(value.role, Table):
        fn.tables[value] = f"s.groups[c.groups[{len(body.tables)}]]"
        body.tables.append(position)
    elif all(v is first for v in given) and first.producer is None:
        fn.views[value] = fn.external(first.name, value.type, f"s.{first.name}")
    else:
        name = body.activations[position] = f"x{len(body.activations)}"
        fn.views[value] = fn.external(name, value.type, f"a.{name}")


def _bind_results(body: Body, fn: Function) -> dict[Value, View]:
    outputs: dict[Value, View] = {}
    for position, value in enumerate(body.graph.outputs):
        if value.state is not None:
            continue  # written in place
        name = body.results[position] = f"y{len(body.results)}"
        place = fn.external(name, value.type, f"a.{name}", const=False)
        if value not in outputs and value.producer is not None and place.storage:
            fn.result_storage[value] = place.storage
        outputs[value] = place
    return outputs


def _allow_in_place(body: Body, fn: Function) -> None:
    """A result may take the place of an activation that is read no later than it is written."""
    steps = fn.schedule.steps
    for result in body.results.values():
        first = next(i for i, s in enumerate(steps) if result in {a.buffer for a in s.writes})
        for operand in body.activations.values():
            reads = [i for i, s in enumerate(steps) if operand in {a.buffer for a in s.reads}]
            last = max(reads, default=-1)
            if last < first or (last == first and (result, operand) in steps[first].in_place):
                fn.schedule.aliases.add(frozenset((result, operand)))


def emit_call(fn: Function, node: Node, body: Body) -> None:
    """A call in the main function: one row of constants, one line of pointers."""
    fn.node = node
    arguments = {i: dense(fn, fn.view(node.inputs[i])) for i in body.activations}
    results = {i: fn.result(node.outputs[i]) for i in body.results}
    frame = fn.fresh(TensorType(DType.U8, (body.planned.plan.arena_bytes,)))
    pools = [fn.pools[node.inputs[i]] for i in (*body.pools, *body.slot_parts)]
    row = len(body.calls)
    body.calls.append(_call_row(fn, node, body))
    pointers = [v.pointer for v in (frame, *arguments.values(), *results.values())]
    line = call(
        body.name, "s", f"{body.name}_calls[{row}]", f"{body.name}_Args{{{', '.join(pointers)}}}"
    )
    touched = (*(p.buffer for p in pools), SCRATCH)
    fn.step(
        [line],
        arguments.values(),
        [frame, *results.values()],
        in_place=_in_place(body, arguments, results),
        extra=((), touched),
    )
    _pass_pools(fn, node, body)


def _in_place(
    body: Body, arguments: dict[int, View], results: dict[int, View]
) -> list[tuple[View, View]]:
    aliases = body.planned.function.schedule.aliases
    pairs: list[tuple[View, View]] = []
    for i, result in results.items():
        for argument in arguments.values():
            same = [j for j, other in arguments.items() if other.storage == argument.storage]
            allowed = all(
                frozenset((body.results[i], body.activations[j])) in aliases for j in same
            )
            if allowed and takes_place_of(result, argument):
                pairs.append((result, argument))
    return pairs


def _call_row(fn: Function, node: Node, body: Body) -> str:
    """Initializer of the call's constants."""
    weights: list[str] = []
    positions = {value: i for i, value in enumerate(body.graph.inputs)}
    for value, stored in body.planned.function.slots:
        constant = node.inputs[positions[value]]
        weights.append(str(getattr(fn.weights, stored)(constant).offset))
    pools = [fn.pools[node.inputs[i]].expression for i in body.pools]
    numbers = [p[p.index("[") + 1 : -1] for p in pools]
    offsets = [
        fn.pools[node.inputs[i]].expression.removeprefix("s.part(")[:-1] for i in body.slot_parts
    ]
    groups = [fn.tables[node.inputs[i]].removeprefix("s.groups[")[:-1] for i in body.tables]
    parts = [part for part in (weights, numbers, offsets, groups) if part]
    return "{" + ", ".join("{" + ", ".join(part) + "}" for part in parts) + "}"


def _pass_pools(fn: Function, node: Node, body: Body) -> None:
    """Pools that the body returns are the memory it was given."""
    given = {fn_pool.buffer: i for i, fn_pool in _given_pools(body)}
    for value, result in zip(body.graph.outputs, node.outputs, strict=True):
        if value.state is not None:
            position = given[body.planned.function.pools[value].buffer]
            fn.pools[result] = fn.pools[node.inputs[position]]


def _given_pools(body: Body) -> list[tuple[int, Pool]]:
    places = (*body.pools, *body.slot_parts)
    return [(i, body.planned.function.pools[body.graph.inputs[i]]) for i in places]


def call_fields(body: Body) -> list[str]:
    """Declarations inside the `_Call` struct."""
    counts = (
        ("uint64_t weights", len(body.planned.function.slots)),
        ("int pools", len(body.pools)),
        ("int64_t parts", len(body.slot_parts)),
        ("int groups", len(body.tables)),
    )
    return [f"{what}[{count}];" for what, count in counts if count]


def argument_fields(body: Body) -> list[str]:
    """Declarations inside the `_Args` struct."""
    inputs, outputs = body.graph.inputs, body.graph.outputs
    fields = ["uint8_t* frame;"]
    fields += [f"const {C_TYPE[inputs[i].type.dtype]}* {n};" for i, n in body.activations.items()]
    return fields + [f"{C_TYPE[outputs[i].type.dtype]}* {n};" for i, n in body.results.items()]


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
