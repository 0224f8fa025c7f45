"""Random well-formed graphs for property tests: hypothesis draws ops, attributes and wiring."""

from __future__ import annotations

from hypothesis import strategies as st
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import (
    Binary,
    Cast,
    Concat,
    Full,
    Iota,
    Norm,
    Op,
    Permute,
    Reshape,
    Slice,
    Softmax,
    TopK,
    Unary,
)
from llmc.ir.recipe import CheckpointTensor
from llmc.ir.scalar import scalar
from llmc.ir.types import DType, Sym, T, TensorType

WIDTHS = (2, 3, 6)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=9)
SCALARS = st.one_of(
    st.floats(width=32).map(scalar),
    st.integers(-(2**40), 2**40).map(scalar),
    st.integers(-100, 100).map(lambda i: scalar(i, DType.I32)),
    st.booleans().map(scalar),
)


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 12) -> Graph:
    """A graph over f32[T, width] inputs; every value is reachable from the outputs or dead."""
    graph = Graph(draw(NAMES))
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    values = [graph.add_input(n, _type(draw)) for n in names]
    for _ in range(draw(st.integers(1, max_nodes))):
        op, operands = _step(draw, values)
        node = graph.append(op, operands, draw(st.sampled_from(["", "layers.0", "a b # c"])))
        values += [v for v in node.outputs if v.type.dtype == DType.F32]
    graph.outputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    return graph


def _type(draw: st.DrawFn) -> TensorType:
    rows = draw(st.sampled_from([T, Sym("T", 2), 5]))
    return TensorType(DType.F32, (rows, draw(st.sampled_from(WIDTHS))))


def _step(draw: st.DrawFn, values: list[Value]) -> tuple[Op, list[Value]]:
    x = draw(st.sampled_from([v for v in values if isinstance(v.type.shape[-1], int)]))
    width = x.type.shape[-1]
    assert isinstance(width, int)
    kind = draw(st.sampled_from(["unary", "binary", "scalar", "norm", "reshape", "slice", "concat",
                                 "permute", "softmax", "top_k", "cast", "source"]))  # fmt: skip
    if kind == "binary":
        same = [v for v in values if v.type == x.type]
        return Binary(draw(st.sampled_from(["add", "mul", "sub"]))), [
            x,
            draw(st.sampled_from(same)),
        ]
    if kind == "scalar":
        return Binary("mul"), [x, draw(SCALARS)]
    if kind == "norm":
        name = draw(NAMES)
        recipe = CheckpointTensor(name, "f32", (width,))
        return Norm("rms_norm", draw(st.floats(1e-8, 1))), [
            x,
            Graph.constant(name, recipe, recipe.type),
        ]
    if kind == "reshape":
        return Reshape((*x.type.shape, 1) if x.type.rank < 4 else x.type.shape), [x]
    if kind == "slice":
        start = draw(st.integers(0, width - 1))
        return Slice(-1, start, draw(st.integers(start + 1, width))), [x]
    if kind == "concat":
        return Concat(-1), [x, x]
    if kind == "permute":
        return Permute(tuple(draw(st.permutations(range(-x.type.rank, 0))))), [x]
    if kind == "softmax" and isinstance(x.type.shape[-1], int):
        return Softmax(-1, draw(st.booleans())), [x]
    if kind == "top_k":
        return TopK(draw(st.integers(1, width))), [x]
    if kind == "cast":
        return Cast(draw(st.sampled_from([DType.BF16, DType.I64, DType.F32]))), [x]
    if kind == "source":
        return draw(st.sampled_from([(Iota(3), []), (Full((T, 3)), [scalar(0.5)])]))
    return Unary(draw(st.sampled_from(["neg", "silu", "exp"]))), [x]
