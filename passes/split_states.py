"""Take apart what a model keeps in one tensor for all its layers, and clear away what is no state.

    state [T, C, L], read by slice(state, 3, 4), left as concat(x0, x1, …)
                                    =>  L states [T, C, 1], of which each layer reads and leaves one

In the step of a token (`spread_tokens`), a layer's part of such a tensor would otherwise wait for
the parts of all layers. Reads and writes of parts are followed through slices and concatenations
along one dimension. States that nothing reads go. A state that begins with another number than 0 is
read through `where(position == 0, number, state)`: states begin with 0.

Before: TRACED, packed, with inputs `Carried`. After: the same, such inputs in order, initial 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Binary, Concat, Reshape, Slice, Where
from ..ir.roles import Carried, StepArray
from ..ir.scalar import scalar
from ..ir.types import DType, T
from .canonicalize import canonicalize


@dataclass(frozen=True)
class _Piece:
    """Entries `start` to `stop` of a value along a dimension."""

    base: Value
    start: int
    stop: int


def split_states(graph: Graph) -> bool:
    """False if the graph isn't the step of a token."""
    if not carried_inputs(graph):
        return False
    _drop_unread(graph)
    for state in carried_inputs(graph):
        dims = {n.op.dim for n in state.users if isinstance(n.op, Slice)}
        if len(dims) == 1 and all(isinstance(n.op, Slice) for n in state.users):
            _split(graph, state, dims.pop())
    _drop_unread(graph)
    set_states(graph, [_squeezed(graph, *pair) for pair in state_pairs(graph)])
    for state in carried_inputs(graph):
        _begin_with_zero(graph, state)
    canonicalize(graph)
    return True


def carried_inputs(graph: Graph) -> list[Value]:
    """The states that a token finds, by number: output i + 1 is what it leaves of number i."""
    return [v for v in graph.inputs if isinstance(v.role, Carried)]


def state_pairs(graph: Graph) -> list[tuple[Value, Value]]:
    """What a token finds and what it leaves, of each state."""
    return list(zip(carried_inputs(graph), graph.outputs[1:], strict=True))


def set_states(graph: Graph, states: list[tuple[Value, Value]]) -> None:
    """Let the graph have these (found, left) states, numbered in this order."""
    others = [v for v in graph.inputs if not isinstance(v.role, Carried)]
    for number, (state, _) in enumerate(states):
        assert isinstance(state.role, Carried)
        state.role = Carried(number, state.role.initial)
        state.name = f"carried.{number}"
    graph.inputs = [*others, *(state for state, _ in states)]
    graph.outputs = [graph.outputs[0], *(left for _, left in states)]


def _drop_unread(graph: Graph) -> None:
    """Keep the states that logits depend on, at whatever later token."""
    pairs = state_pairs(graph)
    left = dict(pairs)
    live: set[Value] = set()
    pending = [graph.outputs[0]]
    seen: set[Value] = set()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in left:
            live.add(value)
            pending.append(left[value])
        if value.producer is not None:
            pending += value.producer.inputs
    set_states(graph, [(state, new) for state, new in pairs if state in live])
    graph.erase_dead()


def _split(graph: Graph, state: Value, dim: int) -> None:
    """Make states of the parts that are left and read each by itself, if they are."""
    assert isinstance(state.role, Carried)
    number = state.role.number
    _resolve_slices(graph, dim)
    written = _pieces(graph.outputs[1 + number], dim)
    ends = [sum(p.stop - p.start for p in written[: i + 1]) for i in range(len(written))]
    bounds = list(zip([0, *ends], ends, strict=False))
    reads = [n.op for n in state.users if isinstance(n.op, Slice)]
    whole = all((op.start, op.stop) in bounds and op.step == 1 for op in reads)
    kept = all(p.base is not state or (p.start, p.stop) in bounds for p in written)
    if len(written) < 2 or not whole or not kept or len(reads) != len(state.users):
        return
    pairs = state_pairs(graph)
    parts = {}
    for piece, (start, stop) in zip(written, bounds, strict=True):
        shape = list(state.type.shape)
        shape[dim] = stop - start
        part = graph.add_input("part", state.type.with_shape(shape), state.role)
        parts[part] = part if piece.base is state else _value_of(graph, piece, dim)
        for node in list(state.users):
            if isinstance(node.op, Slice) and node.op.start == start:
                graph.replace_uses(node.output, part)
                graph.erase(node)
    set_states(graph, [*pairs[:number], *parts.items(), *pairs[number + 1 :]])
    graph.erase_dead()


def _resolve_slices(graph: Graph, dim: int) -> None:
    """Let slices of slices and of concatenations read what these were made of."""
    for node in list(graph.nodes):
        op = node.op
        if not isinstance(op, Slice) or op.dim != dim or op.step != 1:
            continue
        pieces = _pieces(node.output, dim)
        if pieces[0].base is not node.inputs[0]:
            values = [_value_before(graph, node, piece, dim) for piece in pieces]
            new = values[0]
            if len(values) > 1:
                new = graph.insert_before(node, Concat(dim), values).output
            graph.replace_uses(node.output, new)
    graph.erase_dead()


def _pieces(value: Value, dim: int) -> list[_Piece]:
    """What `value` is made of along `dim`, slices and concatenations looked through."""
    size = value.type.shape[dim]
    assert isinstance(size, int)
    node = value.producer
    if node is not None and isinstance(node.op, Concat) and node.op.dim == dim:
        return [piece for part in node.inputs for piece in _pieces(part, dim)]
    if node is None or not isinstance(node.op, Slice) or (node.op.dim, node.op.step) != (dim, 1):
        return [_Piece(value, 0, size)]
    found, at = [], 0
    for piece in _pieces(node.inputs[0], dim):
        size = piece.stop - piece.start
        first, last = max(node.op.start - at, 0), min(node.op.stop - at, size)
        if first < last:
            found.append(_Piece(piece.base, piece.start + first, piece.start + last))
        at += size
    return found


def _value_before(graph: Graph, anchor: Node, piece: _Piece, dim: int) -> Value:
    if (piece.start, piece.stop) == (0, piece.base.type.shape[dim]):
        return piece.base
    return graph.insert_before(anchor, Slice(dim, piece.start, piece.stop), [piece.base]).output


def _value_of(graph: Graph, piece: _Piece, dim: int) -> Value:
    if (piece.start, piece.stop) == (0, piece.base.type.shape[dim]):
        return piece.base
    return graph.append(Slice(dim, piece.start, piece.stop), [piece.base]).output


def _squeezed(graph: Graph, state: Value, left: Value) -> tuple[Value, Value]:
    """The state without dimensions of one."""
    shape = (T, *(d for d in state.type.shape[1:] if d != 1))
    if shape == state.type.shape:
        return state, left
    new = graph.add_input(state.name, state.type.with_shape(shape), state.role)
    if state.users:
        first = min(state.users, key=graph.nodes.index)
        found = graph.insert_before(first, Reshape(state.type.shape), [new]).output
        graph.replace_uses(state, found)
    last = new if left is state else graph.append(Reshape(shape), [left]).output
    return new, last


def _begin_with_zero(graph: Graph, state: Value) -> None:
    assert isinstance(state.role, Carried)
    if state.role.initial == 0 or not state.users:
        return
    readers = list(state.users)
    anchor = min(readers, key=graph.nodes.index)
    positions = graph.input_as(StepArray.POSITIONS)
    assert positions is not None
    first = graph.insert_before(anchor, Binary("eq"), [positions, scalar(0, DType.I32)]).output
    shape = (T, *(1,) * (state.type.rank - 1))
    first = graph.insert_before(anchor, Reshape(shape), [first]).output
    operands = [first, scalar(state.role.initial), state]
    begun = graph.insert_before(anchor, Where(), operands).output
    graph.replace_uses(state, begun, where=lambda node: node in readers)
    state.role = Carried(state.role.number)
