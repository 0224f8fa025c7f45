"""Raise rotary position embeddings.

    x * cos + cat(-x[d/2:], x[:d/2]) * sin            =>  rotary(x, cos, sin)
    cat(x1 cos - x2 sin, x2 cos + x1 sin)             =>  rotary(x, cos, sin)
    the same, x1 and x2 the even and odd elements     =>  y = rotary(x, cos, sin) {interleaved}
                                                          cat(y[0::2], y[1::2])
    x * cos + stack(-x[1::2], x[0::2]) * sin          =>  rotary(x, cos, sin) {interleaved}
    stack(x1 cos - x2 sin, x2 cos + x1 sin)           =>  the same, x1 = x[0::2], x2 = x[1::2]
    cat(rotary(x[:r]), x[r:])                         =>  rotary(x) {dim=r}

The tables that models build hold every angle twice (`cat(f, f)` or `repeat_interleave(f, 2)`);
a table's half is rebuilt from its definition, and where that doesn't prove both copies equal
the pattern is left alone. Rotary works on [T, H, D]; heads in [H, T, D] are permuted around
it, which `canonicalize` cancels.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Binary, Cast, Concat, Expand, Op, Permute, Reshape, Rotary, Slice, Unary
from ..ir.types import Sym
from .rewrite import Bindings, Pat, Pattern, Rule, Var, apply_rules, op

_X, _C, _S = Var("x"), Var("cos"), Var("sin")


def _slice(start: bool, step: int = 1, name: str = ""):
    """A slice of the last dimension that is the first or second half (or the even/odd lanes)."""

    def check(o: Op) -> bool:
        if not isinstance(o, Slice) or o.dim != -1 or o.step != step:
            return False
        if step == 2:
            return o.start == int(not start)
        return (o.start == 0) == start

    return op("slice", _X, name=name, check=check)


def _cat(*parts: Pattern) -> Pat:
    """A concatenation along the last dimension."""
    return op("concat", *parts, check=lambda o: isinstance(o, Concat) and o.dim == -1)


_LOW, _HIGH = _slice(True, name="low"), _slice(False, name="high")
_ROTATED = _cat(op("neg", _HIGH), _LOW)
_HALF = op("add", op("mul", _X, _C), op("mul", _ROTATED, _S))
_EVEN, _ODD = _slice(True, 2, name="low"), _slice(False, 2, name="high")


def _split(first: Pat, second: Pat) -> Pat:
    """The rotated pairs, all first elements before all second ones."""
    return _cat(
        op("sub", op("mul", first, _C), op("mul", second, _S)),
        op("add", op("mul", second, _C), op("mul", first, _S)),
    )


_STACKED = op(
    "reshape",
    _cat(op("reshape", op("neg", _slice(False, 2))), op("reshape", _slice(True, 2))),
)
_LANES = op("add", op("mul", _X, _C), op("mul", _STACKED, _S))
_PAIRS = op(
    "reshape",
    _cat(
        op("reshape", op("sub", op("mul", _EVEN, _C), op("mul", _ODD, _S))),
        op("reshape", op("add", op("mul", _ODD, _C), op("mul", _EVEN, _S))),
    ),
    check=lambda o: isinstance(o, Reshape),
)


def _to_rotary(interleaved: bool, doubled: bool, apart: bool = False):
    """`apart`: interleaved pairs are put apart, first elements before second ones."""

    def rewrite(graph: Graph, node: Node, m: Bindings) -> Value | str:
        x, dim = m["x"], m["x"].type.shape[-1]
        assert isinstance(dim, int)
        if "low" in m and 2 * m["low"].type.shape[-1] != dim:  # type: ignore[operator]
            return "the slices are not halves"
        tables = []
        for table in (m["cos"], m["sin"]):
            half = half_table(graph, table, interleaved) if doubled else table
            if half is None:
                return "the table's two copies can't be proven equal"
            width = numel_last(half)
            if width != dim // 2 or not isinstance(_tokens(half), Sym):
                return f"table {half.type} for heads {x.type}"
            tables.append(_flat(graph, node, half))
        y = _emit(graph, node, x, tables, Rotary(dim, interleaved))
        if not apart or isinstance(y, str):
            return y
        halves = [graph.insert_before(node, Slice(-1, i, dim, 2), [y]).output for i in (0, 1)]
        return graph.insert_before(node, Concat(-1), halves).output

    return rewrite


def numel_last(value: Value) -> int:
    last = value.type.shape[-1]
    assert isinstance(last, int)
    return last


def _tokens(table: Value) -> Sym | None:
    """T, if the table is [T, width] up to unit dimensions."""
    dims = [d for d in table.type.shape[:-1] if d != 1]
    return dims[0] if len(dims) == 1 and isinstance(dims[0], Sym) else None


def _flat(graph: Graph, node: Node, table: Value) -> Value:
    """The table as [T, width]."""
    shape = (_tokens(table), table.type.shape[-1])
    if table.type.shape == shape:
        return table
    return graph.insert_before(node, Reshape(shape), [table]).output  # type: ignore[arg-type]


def _emit(graph: Graph, node: Node, x: Value, tables: list[Value], rotary: Rotary) -> Value | str:
    """Rotary on [T, H, D]; x may be [H, T, D] or [T, D]."""
    shape = x.type.shape
    if len(shape) == 3 and isinstance(shape[0], Sym):
        return graph.insert_before(node, rotary, [x, *tables]).output
    if len(shape) == 3 and isinstance(shape[1], Sym):
        swap = Permute((-2, -3, -1))
        heads = graph.insert_before(node, swap, [x]).output
        y = graph.insert_before(node, rotary, [heads, *tables]).output
        return graph.insert_before(node, swap, [y]).output
    return f"heads {x.type} are neither [T, H, D] nor [H, T, D]"


def half_table(graph: Graph, value: Value, interleaved: bool) -> Value | None:
    """A value with the distinct half of a doubled table, or None if it is not provably doubled."""
    node = value.producer
    if node is None or len(node.outputs) != 1:
        return None
    o = node.op
    if isinstance(o, Concat) and o.dim == -1 and not interleaved and len(node.inputs) == 2:
        a, b = node.inputs
        return a if a is b else None
    if isinstance(o, Reshape) and interleaved:
        pair = _paired(graph, node)
        if pair is not None:
            return pair
    if isinstance(o, Reshape) and o.shape[-1] == node.inputs[0].type.shape[-1]:
        half = half_table(graph, node.inputs[0], interleaved)
        return half and _again(
            graph, node, replace(o, shape=(*o.shape[:-1], numel_last(half))), half
        )
    if isinstance(o, Unary | Cast):
        half = half_table(graph, node.inputs[0], interleaved)
        return half and _again(graph, node, o, half)
    if isinstance(o, Binary):
        for i in (0, 1):
            other = node.inputs[1 - i]
            if other.type.rank and other.type.shape[-1] != 1:
                continue
            half = half_table(graph, node.inputs[i], interleaved)
            return half and _again(graph, node, o, half, other, first=i == 0)
    return None


def _paired(graph: Graph, node: Node) -> Value | None:
    """f of `reshape(expand(f[..., None], 2))` or `reshape(cat(f[..., None], f[..., None]))`."""
    inner = node.inputs[0].producer
    if inner is None or node.inputs[0].type.shape[-1] != 2:
        return None
    if isinstance(inner.op, Concat):
        if len(inner.inputs) != 2 or inner.inputs[0] is not inner.inputs[1]:
            return None
    elif not isinstance(inner.op, Expand) or inner.inputs[0].type.shape[-1] != 1:
        return None
    shape = (*node.output.type.shape[:-1], numel_last(node.output) // 2)
    return graph.insert_after(inner, Reshape(shape), [inner.inputs[0]]).output


def _again(graph: Graph, node: Node, o: Op, *operands: Value, first: bool = True) -> Value:
    """The node's op on other operands, next to it (so that it is defined as early)."""
    return graph.insert_after(node, o, operands if first else operands[::-1]).output


def _partial(graph: Graph, node: Node, m: Bindings) -> Value | str:
    x, rotary = m["x"], m["rotary"].producer
    assert rotary is not None
    assert isinstance(rotary.op, Rotary)
    low, high = m["low"].producer, m["high"].producer
    assert low is not None
    assert high is not None
    if not isinstance(high.op, Slice) or high.op.start != rotary.op.dim:
        return "the parts are not adjacent"
    return graph.insert_before(node, rotary.op, [x, *rotary.inputs[1:]]).output


_RULES = (
    Rule("x cos + rotate_half(x) sin => rotary", (_HALF,), _to_rotary(False, doubled=True)),
    Rule(
        "cat(x1 c - x2 s, x2 c + x1 s) => rotary",
        (_split(_LOW, _HIGH),),
        _to_rotary(False, doubled=False),
    ),
    Rule(
        "cat(x1 c - x2 s, x2 c + x1 s) of lanes => rotary",
        (_split(_EVEN, _ODD),),
        _to_rotary(True, doubled=False, apart=True),
    ),
    Rule("x cos + rotate_lanes(x) sin => rotary", (_LANES,), _to_rotary(True, doubled=True)),
    Rule("stack(x1 c - x2 s, x2 c + x1 s) => rotary", (_PAIRS,), _to_rotary(True, doubled=False)),
)
_PARTIAL = Rule(
    "cat(rotary(x[:r]), x[r:]) => rotary {dim=r}",
    (_cat(op("rotary", _LOW, Var("c"), Var("s"), name="rotary"), _HIGH),),
    _partial,
)


def raise_rotary(graph: Graph) -> bool:
    """Raise whole-head rotations; True if any was."""
    return apply_rules(graph, _RULES)


def raise_partial_rotary(graph: Graph) -> bool:
    """Widen rotations of a head's first part; after `canonicalize` has sunk the permutes."""
    return apply_rules(graph, (_PARTIAL,))
