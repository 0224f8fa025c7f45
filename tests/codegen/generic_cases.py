"""Graphs of generic ops on odd shapes, views and every dtype, and inputs for them.

Every backend runs them against the ops' references. Tolerances: results of float math functions
differ from torch's vectorized ones by a few ulp, sums by their order; bf16 and f16 results may
round to the neighbouring value. Integers and bools are exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import (
    BINARY,
    UNARY,
    Binary,
    Cast,
    Concat,
    CumSum,
    Expand,
    Full,
    Gather,
    Iota,
    LogitsRows,
    MatMul,
    Permute,
    Reduce,
    Reshape,
    Scatter,
    Slice,
    Softmax,
    TopK,
    Unary,
    Where,
)
from llmc.ir.scalar import scalar
from llmc.ir.types import DType, R, Sym, T, TensorType

Build = Callable[[Graph], None]
CASES: dict[str, Build] = {}
SCALE: dict[str, float] = {}
TOLERANCE = {DType.F32: 2e-6, DType.BF16: 2**-7, DType.F16: 2**-10}
SIZES = {"T": 11, "R": 3}

INT_UNARY = {"abs", "neg", "sign", "square", "bitwise_not", "logical_not", "relu"}
INT_UNARY |= {"isnan", "isinf", "isfinite"}
TO_FLOAT = {"exp", "sqrt", "sigmoid", "cos"}
BITS = {"bitwise_and", "bitwise_or", "bitwise_xor", "shift_left", "shift_right"}


def case(name: str) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        assert name not in CASES
        CASES[name] = build
        return build

    return add


def given(graph: Graph, *shape: int | Sym, dtype: DType = DType.F32) -> Value:
    return graph.add_input(f"in{len(graph.inputs)}", TensorType(dtype, tuple(shape)))


def result(graph: Graph, op, *inputs: Value) -> Value:
    return graph.append(op, inputs).outputs[0]


def _unary(name: str, dtype: DType) -> Build:
    def build(g: Graph) -> None:
        g.outputs = [result(g, Unary(name), given(g, T, 5, 3, dtype=dtype))]

    return build


def _binary(name: str, dtype: DType) -> Build:
    def build(g: Graph) -> None:
        a, b = given(g, T, 5, 3, dtype=dtype), given(g, T, 1, 3, dtype=dtype)
        g.outputs = [result(g, Binary(name), a, b)]

    return build


for _name in UNARY:
    if _name != "bitwise_not":
        CASES[f"{_name}_f32"] = _unary(_name, DType.F32)
    if _name in INT_UNARY | TO_FLOAT:
        CASES[f"{_name}_i64"] = _unary(_name, DType.I64)
    if _name in {"logical_not", "bitwise_not"}:
        CASES[f"{_name}_bool"] = _unary(_name, DType.BOOL)
    if _name in {"exp", "neg", "isnan", "silu"}:
        CASES[f"{_name}_bf16"] = _unary(_name, DType.BF16)
        CASES[f"{_name}_f16"] = _unary(_name, DType.F16)
for _name in BINARY:
    if _name not in BITS:
        CASES[f"{_name}_f32"] = _binary(_name, DType.F32)
    if _name != "atan2":
        CASES[f"{_name}_i64"] = _binary(_name, DType.I64)
        CASES[f"{_name}_i32"] = _binary(_name, DType.I32)
    if _name.startswith(("logical", "bitwise", "eq", "ne")) or _name in {"mul", "add"}:
        CASES[f"{_name}_bool"] = _binary(_name, DType.BOOL)
    if _name in {"add", "mul", "lt", "maximum"}:
        CASES[f"{_name}_bf16"] = _binary(_name, DType.BF16)


@case("mixed_types")
def _(g: Graph) -> None:
    a, b = given(g, T, 4), given(g, T, 4, dtype=DType.I64)
    total = result(g, Binary("add"), a, b)
    flag = result(g, Binary("gt"), total, scalar(0.25))
    chosen = result(g, Where(), flag, total, scalar(-7.5))
    g.outputs = [chosen, result(g, Binary("mul"), b, scalar(3)), flag]


@case("casts")
def _(g: Graph) -> None:
    x = given(g, T, 6)
    i = result(g, Cast(DType.I32), x)
    g.outputs = [
        i,
        result(g, Cast(DType.I64), i),
        result(g, Cast(DType.BF16), x),
        result(g, Cast(DType.F16), x),
        result(g, Cast(DType.BOOL), i),
        result(g, Cast(DType.F32), result(g, Cast(DType.BF16), x)),
        result(g, Cast(DType.I8), i),
        result(g, Cast(DType.U8), result(g, Unary("abs"), i)),
    ]


@case("views")
def _(g: Graph) -> None:
    """A merged projection taken apart, heads permuted and sliced with a step, then added."""
    x = given(g, T, 24)
    heads = result(g, Reshape((T, 4, 6)), result(g, Slice(-1, 0, 24), x))
    swapped = result(g, Permute((-2, -3, -1)), heads)
    even = result(g, Slice(-1, 0, 6, 2), swapped)
    odd = result(g, Slice(-1, 1, 6, 2), swapped)
    g.outputs = [result(g, Binary("sub"), even, odd)]


@case("token_dim_last")
def _(g: Graph) -> None:
    x = given(g, T, 3, 5)
    turned = result(g, Permute((-2, -1, -3)), x)
    doubled = result(g, Binary("add"), turned, turned)
    g.outputs = [result(g, Reshape((15, T)), doubled), doubled]


@case("reshape_needs_copy")
def _(g: Graph) -> None:
    x = given(g, T, 4, 6)
    swapped = result(g, Permute((-3, -1, -2)), x)
    flat = result(g, Reshape((T, 24)), swapped)
    g.outputs = [result(g, Unary("neg"), flat), flat]


@case("reshape_of_turned")
def _(g: Graph) -> None:
    """[H, T, D] → [H, T*D] has no strides and no row-major copy; only a refined copy does it."""
    x = given(g, T, 4, 6)
    swapped = result(g, Permute((-2, -3, -1)), x)
    flat = result(g, Reshape((4, Sym("T", 6))), swapped)
    g.outputs = [result(g, Reshape((4, T, 2, 3)), flat)]


@case("tokens_times_choices")
def _(g: Graph) -> None:
    x = given(g, T, 2, 5)
    rows = result(g, Reshape((Sym("T", 2), 5)), x)
    total = result(g, Reduce("sum", (-1,)), rows)
    g.outputs = [result(g, Binary("mul"), rows, rows), result(g, Reshape((T, 2)), total)]


@case("expand_and_full")
def _(g: Graph) -> None:
    x = given(g, T, 1, 4)
    wide = result(g, Expand((T, 3, 4)), x)
    full = result(g, Full((T, 3, 4)), scalar(2.5))
    g.outputs = [result(g, Binary("mul"), wide, full), wide]


@case("concat")
def _(g: Graph) -> None:
    a, b = given(g, T, 3, 4), given(g, T, 2, 4)
    c = result(g, Slice(-2, 1, 3), result(g, Unary("neg"), a))
    g.outputs = [result(g, Concat(-2), a, b, c)]


@case("gather")
def _(g: Graph) -> None:
    x, index = given(g, T, 9, 2), given(g, T, 4, 2, dtype=DType.I64)
    g.outputs = [result(g, Gather(-2), x, result(g, Binary("remainder"), index, scalar(9)))]


@case("gather_by_token")
def _(g: Graph) -> None:
    """A table read at each token's position."""
    table, index = given(g, 9), given(g, T, dtype=DType.I64)
    g.outputs = [result(g, Gather(-1), table, result(g, Binary("remainder"), index, scalar(9)))]


@case("scatter")
def _(g: Graph) -> None:
    x, index, src = given(g, T, 9), given(g, T, 4, dtype=DType.I64), given(g, T, 4)
    index = result(g, Binary("remainder"), index, scalar(9))
    order = result(g, TopK(4), x).producer
    assert order is not None
    g.outputs = [
        result(g, Scatter(-1), x, order.outputs[1], src),
        result(g, Scatter(-1), x, index, scalar(0.5)),
        result(g, Scatter(-1, accumulate=True), x, index, src),
    ]


@case("iota_mask")
def _(g: Graph) -> None:
    x = given(g, T, 7)
    below = result(g, Binary("lt"), result(g, Iota(7)), scalar(4))
    g.outputs = [result(g, Where(), below, x, scalar(float("-inf")))]


@case("reductions")
def _(g: Graph) -> None:
    x = given(g, T, 5, 7)
    g.outputs = [
        result(g, Reduce("sum", (-1,)), x),
        result(g, Reduce("mean", (-1,), keepdim=True), x),
        result(g, Reduce("amax", (-2,)), x),
        result(g, Reduce("amin", (-2, -1)), x),
        result(g, Reduce("prod", (-1,), keepdim=True), x),
        result(g, Reduce("argmax", (-2,)), x),
        result(g, Reduce("sum", (-2, -1)), x),
    ]


@case("reductions_int")
def _(g: Graph) -> None:
    x = given(g, T, 5, 4, dtype=DType.I32)
    positive = result(g, Binary("gt"), x, scalar(0))
    g.outputs = [
        result(g, Reduce("sum", (-1,)), x),
        result(g, Reduce("prod", (-1,)), x),
        result(g, Reduce("any", (-1,)), positive),
        result(g, Reduce("all", (-1,), keepdim=True), positive),
        result(g, Reduce("sum", (-2,)), result(g, Cast(DType.I64), positive)),
        result(g, Reduce("amax", (-1,)), x),
        result(g, Reduce("argmax", (-1,)), x),
    ]


@case("softmaxes")
def _(g: Graph) -> None:
    x = given(g, T, 5, 6)
    turned = result(g, Permute((-1, -2, -3)), x)
    g.outputs = [
        result(g, Softmax(-1), x),
        result(g, Softmax(-2, log=True), x),
        result(g, Softmax(-3), turned),
    ]


@case("scans")
def _(g: Graph) -> None:
    x, n = given(g, T, 5, 6), given(g, T, 8, dtype=DType.I32)
    g.outputs = [result(g, CumSum(-2), x), result(g, CumSum(-1), n)]


@case("top_k")
def _(g: Graph) -> None:
    x, n = given(g, T, 16), given(g, T, 3, 8, dtype=DType.I64)
    few = result(g, Binary("remainder"), n, scalar(3))  # many equal values
    a, b = g.append(TopK(5), [x]), g.append(TopK(8), [few])
    g.outputs = [*a.outputs, *b.outputs]


@case("matmuls")
def _(g: Graph) -> None:
    a, b, c = given(g, T, 4, 5), given(g, T, 5, 3), given(g, 7, 5)
    turned = result(g, Permute((-1, -2)), c)
    by_token = result(g, Reshape((T, 20)), a)
    row, column = (result(g, Reshape(shape), by_token) for shape in ((T, 1, 20), (T, 20, 1)))
    g.outputs = [
        result(g, MatMul(), a, b),
        result(g, MatMul(), a, turned),
        result(g, MatMul(), row, column),
        result(g, MatMul(), c, result(g, Permute((-1, -2)), result(g, Slice(-1, 0, 5), by_token))),
    ]


@case("logits_rows")
def _(g: Graph) -> None:
    x = given(g, T, 6)
    rows = given(g, R, dtype=DType.I32)
    picked = result(g, LogitsRows(), x, rows)
    g.outputs = [result(g, Binary("mul"), picked, scalar(0.5))]


@case("chain_in_place")
def _(g: Graph) -> None:
    x = given(g, T, 33)
    y = result(g, Unary("exp"), x)
    for _ in range(3):
        y = result(g, Unary("sqrt"), y)
        y = result(g, Binary("add"), y, scalar(0.125))
    mean = result(g, Reduce("mean", (-1,), keepdim=True), y)
    g.outputs = [result(g, Binary("div"), y, mean)]


ELEMENTWISE = [n for n in CASES if n.rsplit("_", 1)[0] in {*UNARY, *BINARY}]


def random_input(type: TensorType, seed: int, special: bool, name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = [d if isinstance(d, int) else SIZES[d.name] * d.scale for d in type.shape]
    if type.dtype == DType.BOOL:
        return torch.rand(shape, generator=generator) > 0.5
    if not type.dtype.is_float:
        values = torch.randint(-5, 6, shape, generator=generator)
        if type.shape[0] == R:
            values = torch.randint(0, SIZES["T"], shape, generator=generator)
        return values.to(torch.int32 if type.dtype == DType.I32 else torch.int64)
    values = torch.randn(shape, generator=generator) * 2
    if special:
        flat = values.view(-1)
        flat[:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 2.5])
        if name.startswith("gelu_f"):
            flat[1] = 40.0  # torch multiplies infinity by a zero there and gives NaN
    dtypes = {DType.BF16: torch.bfloat16, DType.F16: torch.float16}
    return values.to(dtypes.get(type.dtype, torch.float32))


def inputs_of(name: str, graph: Graph) -> dict[str, torch.Tensor]:
    """Random inputs of a case; elementwise ones get NaN, infinities and signed zeros as well."""
    special = name in ELEMENTWISE
    inputs = {v.name: random_input(v.type, i, special, name) for i, v in enumerate(graph.inputs)}
    if name.endswith(("_i64", "_i32")) and "in1" in inputs:
        divides = name.startswith(("div", "floor_divide", "fmod", "remainder"))
        if divides:
            inputs["in1"][inputs["in1"] == 0] = 3
        if name.startswith(("pow", "shift")):
            inputs["in1"] = inputs["in1"].abs()
    return inputs


def graph_of(name: str) -> Graph:
    """The graph of a case."""
    graph = Graph(name)
    CASES[name](graph)
    return graph
