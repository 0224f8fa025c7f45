"""What the launches of a step must move and compute, counted from the graph.

In: a `Program` and the sizes of a step. Out: bytes and operations for each launch, and a table. The
bytes are what there is to know at least: every value that crosses a launch's border once, every
weight once, the keys and values that queries see once per sequence. A kernel that reads something
twice takes more, and so does one that stores partial results; its time divided by these bytes says
how well it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from ...artifact.launch_plan import Pointer, Traffic
from ...ir.graph import Node, Value
from ...ir.ops import CACHE_BLOCK, CacheWrite, Embedding, Linear, PagedAttention
from ...ir.ops.linear import GroupedLinear
from ...ir.types import Dim, bind_dim
from .operands import PlannedLaunch
from .program import Program

_MANY = 1 << 30
"""Tokens and positions beyond all tables, experts and windows."""


@dataclass(frozen=True, slots=True)
class StepSize:
    """A step: query tokens, sequences, logits rows, and the tokens that each sequence has by its
    end."""

    tokens: int
    sequences: int
    rows: int
    context: int

    @property
    def env(self) -> dict[str, int]:
        """By the symbols of shapes."""
        return {
            "T": self.tokens,
            "S": self.sequences,
            "S1": self.sequences + 1,
            "R": self.rows,
            "B": -(-self.context // CACHE_BLOCK),
        }


@dataclass(frozen=True, slots=True)
class LaunchTraffic:
    """Bytes of weights, of values within the step, of the cache; multiplications and additions."""

    label: str
    weights: int = 0
    values: int = 0
    cache: int = 0
    operations: int = 0

    @property
    def nbytes(self) -> int:
        """All of them."""
        return self.weights + self.values + self.cache


def traffic_of(program: Program, size: StepSize) -> list[LaunchTraffic]:
    """One entry for each launch of a step. Of several that compute one node together, the last
    counts its values."""
    following = [*program.origins[1 : len(program.launches)], ()]
    return [
        _of_launch(program, launch, nodes, size, last=nodes != after)
        for launch, nodes, after in zip(program.launches, program.origins, following, strict=False)
    ]


def terms_of(program: Program) -> list[list[Traffic]]:
    """The bytes of `traffic_of` as they follow from the sizes of a step, for each launch."""

    def at(tokens: int = 1, sequences: int = 1, rows: int = 1, context: int = 1) -> list:
        return traffic_of(program, StepSize(tokens, sequences, rows, context))

    sizes = at(), at(tokens=2), at(sequences=2), at(rows=2), at(context=2)
    ends = at(tokens=_MANY), at(context=_MANY)
    return [_terms(*numbers) for numbers in zip(*sizes, *ends, strict=True)]


def _terms(
    one: LaunchTraffic,
    token: LaunchTraffic,
    sequence: LaunchTraffic,
    row: LaunchTraffic,
    position: LaunchTraffic,
    many: LaunchTraffic,
    long: LaunchTraffic,
) -> list[Traffic]:
    """Differences: everything grows evenly with each size, up to all weights or a window."""
    by_token, seen = token.weights - one.weights, position.cache - one.cache
    grown = (token.values - one.values, sequence.values - one.values, row.values - one.values)
    window = long.cache // seen if seen else 0
    found = [
        Traffic(by_token, "T", many.weights) if by_token else Traffic(one.weights),
        Traffic(max(0, one.values - sum(grown))),
        *(Traffic(each, unit) for each, unit in zip(grown, ("T", "S", "R"), strict=True)),
        Traffic(seen, "C", 0 if window >= _MANY else window),
        Traffic(token.cache - one.cache, "T"),
    ]
    return [term for term in found if term.nbytes]


def table(launches: Sequence[LaunchTraffic], bandwidth: float) -> str:
    """Lines for people: launches with the same last part of their label and the same numbers
    together. bandwidth: bytes a second, for the least time that memory allows."""
    counts: dict[LaunchTraffic, int] = {}
    for launch in launches:
        counts[_without_layer(launch)] = counts.get(_without_layer(launch), 0) + 1
    lines = [f"{'launches':>8} {'weights':>12} {'values':>12} {'cache':>12} {'Mop':>9} {'µs':>8}"]
    for launch, count in counts.items():
        lines.append(_row(launch, count, bandwidth))
    lines.append(_row(total(launches), len(launches), bandwidth))
    return "\n".join(lines) + "\n"


def total(launches: Iterable[LaunchTraffic]) -> LaunchTraffic:
    """The sums of all."""
    some = list(launches)
    return LaunchTraffic(
        "a step",
        sum(launch.weights for launch in some),
        sum(launch.values for launch in some),
        sum(launch.cache for launch in some),
        sum(launch.operations for launch in some),
    )


def _row(one: LaunchTraffic, count: int, bandwidth: float) -> str:
    """One line: bytes and operations of a launch."""
    return (
        f"{count:8} {one.weights:12,} {one.values:12,} {one.cache:12,} "
        f"{one.operations / 1e6:9.1f} {one.nbytes / bandwidth * 1e6:8.2f}  {one.label}"
    )


def _without_layer(launch: LaunchTraffic) -> LaunchTraffic:
    """The same of every layer: without the module path, but for its last part."""
    mnemonic, _, scope = launch.label.partition(" ")
    label = f"{mnemonic} {scope.rpartition('.')[2]}".strip()
    return LaunchTraffic(label, launch.weights, launch.values, launch.cache, launch.operations)


def _of_launch(
    program: Program, launch: PlannedLaunch, nodes: tuple[Node, ...], size: StepSize, *, last: bool
) -> LaunchTraffic:
    if not nodes:
        return LaunchTraffic(launch.label)
    weights = sum(_weight_bytes(launch, nodes[-1], size))
    if not last:
        return LaunchTraffic(launch.label, weights)
    return LaunchTraffic(
        launch.label,
        weights,
        _value_bytes(program, nodes, size),
        sum(_cache_bytes(program, node, size) for node in nodes),
        sum(_operations(node, size) for node in nodes),
    )


def _weight_bytes(launch: PlannedLaunch, node: Node, size: StepSize) -> Iterable[int]:
    """Of each section of weights what a step reads: rows of a table, experts that are chosen."""
    pointers = {
        operand.argument: None
        for operand in launch.operands.values()
        if isinstance(operand.argument, Pointer) and operand.argument.space == "weights"
    }
    parts, wanted = 1, 1
    if isinstance(node.op, Embedding):
        parts, wanted = _size(node.inputs[0].type.shape[:1], size), _elements(node.inputs[1], size)
    elif isinstance(node.op, GroupedLinear):
        parts = _size(node.inputs[node.op.num_x].type.shape[:1], size)
        wanted = _size(node.output.type.shape[:-1], size)
    return [pointer.nbytes * min(parts, wanted) // parts for pointer in pointers]


def _value_bytes(program: Program, nodes: tuple[Node, ...], size: StepSize) -> int:
    """What these nodes read from other launches, and what others read from them."""
    inside = {value for node in nodes for value in node.outputs}
    read = {v for node in nodes for v in node.inputs if v not in inside}
    read = {v for v in read if not v.is_constant and v.state is None}
    written = {v for v in inside if v.state is None and _is_read_outside(v, nodes)}
    return sum(
        _elements(value, size) * program.stored_type(value).itemsize for value in read | written
    )


def _is_read_outside(value: Value, nodes: tuple[Node, ...]) -> bool:
    return not value.users or any(user not in nodes for user in value.users)


def _cache_bytes(program: Program, node: Node, size: StepSize) -> int:
    """Keys and values that are written, or seen."""
    if not isinstance(node.op, CacheWrite | PagedAttention):
        return 0
    pool = node.inputs[2 if isinstance(node.op, CacheWrite) else 1]
    per_token = program.pool(pool).nbytes // program.limits.block_size
    if isinstance(node.op, CacheWrite):
        return size.tokens * per_token
    return size.sequences * _seen(node.op, size) * per_token


def _seen(op: PagedAttention, size: StepSize) -> int:
    """How many positions a sequence's queries see together."""
    queries = -(-size.tokens // max(size.sequences, 1))
    return min(size.context, op.window + queries - 1) if op.window else size.context


def _operations(node: Node, size: StepSize) -> int:
    """Of products of matrices; everything else is little beside its bytes."""
    op = node.op
    if isinstance(op, Linear):
        n, k = node.inputs[op.num_x].type.shape[-2:]
        return 2 * _size(node.output.type.shape[:-1], size) * _size((n, k), size)
    if isinstance(op, PagedAttention):
        queries, keys = node.inputs[0], _visible_pairs(op, size)
        width = _size(queries.type.shape[1:], size) + _size(node.output.type.shape[1:], size)
        return 2 * keys * width
    return 0


def _visible_pairs(op: PagedAttention, size: StepSize) -> int:
    """Pairs of a query and a position that it sees; the tokens are shared evenly by sequences."""
    queries = -(-size.tokens // max(size.sequences, 1))
    first = size.context - queries
    most = op.window or size.context
    growing = min(max(most - first, 0), queries)  # queries that see all before them
    seen = growing * (2 * first + growing + 1) // 2 + (queries - growing) * most
    return seen * size.tokens // max(queries, 1)


def _elements(value: Value, size: StepSize) -> int:
    return _size(value.type.shape, size)


def _size(shape: Iterable[Dim], size: StepSize) -> int:
    return prod(bind_dim(dim, size.env) for dim in shape)
