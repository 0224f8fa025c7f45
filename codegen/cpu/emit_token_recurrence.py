"""Recurrences without a kernel: the body as a function of one token, inside a loop over tokens.

The body is emitted by the same emitters as everything else, as an inner function with one token:
its inputs are rows of what the enclosing function has stored, its frame is private to a thread (or,
if that is too large, to a sequence). New states are made beside the old ones, then copied to them.
Where every op of the body treats the elements of a row alike, rows are cut into tiles that threads
share out; otherwise a sequence is one thread's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ...ir.bodies import graph_of
from ...ir.graph import Graph, Node, Value
from ...ir.ops import Binary, Cast, Linear, MatMul, OpBody, Permute, RecurrenceUpdate, Unary, Where
from ...ir.plan import Schedule
from ...ir.types import DType, Sym, T, TensorType
from ..views import View
from .bodies import Planned, finish, plan_function
from .emit_movement import as_dtype, copy, dense
from .emit_stateful import mixer_operands
from .emitters import emit_node, emits
from .function import Function
from .loops import indent
from .render import declarations
from .traffic import LOOP, Traffic, kernel_name

_SCRATCH = 1 << 20
"""Bytes of a thread's own memory (kernels/team.h)."""
_TILE = 256
"""Elements of a row that are worth a tile."""
_LINE = 16
"""Floats of a cache line, which no two tiles have parts of."""
_ELEMENTWISE = (Unary, Binary, Where, Cast)
_HEAD = (
    "[&](Team& team, const Step& s, int64_t tile, int64_t token, int sequence, float* carried, "
    "bool first) {"
)


@dataclass(frozen=True, slots=True)
class _Row:
    """What a body's input or output is: its name inside, its type, and C++ of where it begins."""

    name: str
    type: TensorType
    pointer: str


@emits(RecurrenceUpdate)
def recurrence(fn: Function, node: Node, op: RecurrenceUpdate) -> None:
    given, part = mixer_operands(fn, node, op)
    body, tiles = _tiled(op.body)
    stored = [as_dtype(fn, dense(fn, fn.view(v)), v.type.dtype) for v in given]
    results = [fn.result(v) for v in node.outputs[1:]]
    inputs = [
        _Row(f"in{i}", body.inputs[i], _place(view, op.body.inputs[i], body.inputs[i]))
        for i, view in enumerate(stored)
    ]
    states, floats = _states(op, body)
    outputs = [
        _Row(f"out{i}", narrow, _place(view, wide, narrow))
        for i, (view, wide, narrow) in enumerate(
            zip(results, op.body.results[op.carried :], body.results[op.carried :], strict=True)
        )
    ]
    token = _emitted(fn, node, body, [*inputs, *states], outputs)
    frame, memory = _frame(fn, token)
    call = f"token_recurrence(team, s, {part.expression}, {tiles}, {_HEAD}"
    lines = [call, *indent(_token_lines(token, frame, states)), "});"]
    moved = [Traffic(2 * 4 * floats, "S")]
    fn.step(lines, stored, [*results, *memory], extra=((), (part.buffer,)), traffic=moved)
    fn.pools[node.outputs[0]] = part


def _states(op: RecurrenceUpdate, body: OpBody) -> tuple[list[_Row], int]:
    """The states of a tile, one behind the other in the slot's part; floats of all of them."""
    rows, offset = [], 0
    for i in range(op.carried):
        wide, narrow = op.body.inputs[i - op.carried], body.inputs[i - op.carried]
        pointer = f"carried + {offset}" + _tile_term(wide, narrow)
        rows.append(_Row(f"was{i}", narrow, pointer))
        offset += _numbers(wide)
    return rows, offset


def _place(view: View, wide: TensorType, narrow: TensorType) -> str:
    token = f" + token * {_numbers(wide)}" if wide.is_symbolic else ""
    return f"{view.pointer}{token}{_tile_term(wide, narrow)}"


def _tile_term(wide: TensorType, narrow: TensorType) -> str:
    return "" if wide == narrow else f" + tile * {_numbers(narrow)}"


def _numbers(type: TensorType) -> int:
    """Elements for one token."""
    return prod(d.scale if isinstance(d, Sym) else d for d in type.shape)


def _tiled(body: OpBody) -> tuple[OpBody, int]:
    """The body of a tile, and how many there are: 1 where an op looks at a whole row."""
    states = body.inputs[-1:]
    width = states[0].shape[-1]
    rows, vectors = ((T, width), (T, 1)), ((width,), (1,), ())
    whole = [t.shape in rows or (not t.is_symbolic and t.shape in vectors) for t in body.types]
    alike = all(isinstance(each.op, _ELEMENTWISE) for each in body.ops)
    full = all(t.shape == (T, width) for t in body.results)
    if not (alike and full and all(whole) and isinstance(width, int)):
        return body, 1
    counts = range(max(width // _TILE, 1), 1, -1)
    tiles = next((n for n in counts if width % n == 0 and width // n % _LINE == 0), 1)

    def cut(type: TensorType) -> TensorType:
        return type.with_shape(width // tiles if d == width else d for d in type.shape)

    return OpBody(tuple(map(cut, body.inputs)), body.ops, body.outputs), tiles


def _emitted(
    fn: Function, node: Node, body: OpBody, inputs: Sequence[_Row], outputs: Sequence[_Row]
) -> Planned:
    """The body as a function of one token; what leaves it goes to `outputs` and over the states."""
    graph = _plain_products(graph_of(body))
    token = Function("token", {"T": 1}, fn.weights, Schedule("token"))
    token.outputs = frozenset(graph.outputs)
    for value, row in zip(graph.inputs, inputs, strict=True):
        token.views[value] = token.external(row.name, row.type, row.pointer)
    left, made = graph.outputs[: -len(outputs)], graph.outputs[-len(outputs) :]
    places = [token.external(r.name, r.type, r.pointer, const=False) for r in outputs]
    for value, place in zip(made, places, strict=True):
        if value.producer is not None and place.storage is not None:
            token.result_storage.setdefault(value, place.storage)
    for inside in graph.nodes:
        inside.scope, inside.source = node.scope, node.source
        emit_node(token, inside)
    for value, place in zip(made, places, strict=True):
        finish(token, {value: place})
    _leave(token, left, inputs[-len(left) :])
    return plan_function(token)


def _leave(token: Function, left: Sequence[Value], states: Sequence[_Row]) -> None:
    """Put new states in the places of the old ones, none of which is read any more then."""
    token.node = None
    memory = {row.name for row in states}
    views = []
    for value in left:
        view = token.view(value)
        if view.storage is not None and view.storage.name in memory:
            staged = token.fresh(value.type)
            copy(token, view, staged)
            view = staged
        views.append(view)
    for row, view in zip(states, views, strict=True):
        place = token.external(f"{row.name}_after", row.type, row.pointer, const=False)
        copy(token, view, place)


def _plain_products(graph: Graph) -> Graph:
    """Layers whose weights are inputs here, which no kernel has packed, as products."""
    for node in list(graph.nodes):
        if not isinstance(node.op, Linear):
            continue
        x, weight, *bias = node.inputs
        turned = graph.insert_before(node, Permute((-1, -2)), [weight]).output
        y = graph.insert_before(node, MatMul(), [x, turned]).output
        if bias:
            y = graph.insert_before(node, Binary("add"), [y, *bias]).output
        graph.replace_uses(node.output, y)
        graph.erase(node)
    return graph


def _frame(fn: Function, token: Planned) -> tuple[str, list[View]]:
    """Where the inner function's memory begins (C++), and what it is of the outer one's."""
    nbytes = token.plan.arena_bytes
    kernels = any(kernel_name(lines) != LOOP for lines in token.function.code)  # they use scratch
    if nbytes <= _SCRATCH and not kernels:
        return "team.scratch", []
    memory = fn.fresh(TensorType(DType.U8, (Sym("S", nbytes),)))
    return f"{memory.pointer} + (int64_t)sequence * {nbytes}", [memory]


def _token_lines(token: Planned, frame: str, states: Sequence[_Row]) -> list[str]:
    """The inside of the loop."""
    cleared = [f"memset({r.pointer}, 0, {4 * _numbers(r.type)});" for r in states]
    lines = ["if (first) {", *indent(cleared), "}"]
    lines += [f"uint8_t* const frame = (uint8_t*)({frame});", *declarations(token, "frame")]
    for code in token.function.code:
        lines += ["{", *indent(code), "}"]
    return lines
