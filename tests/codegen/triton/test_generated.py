"""Generated kernels under Triton's interpreter against the ops' references.

Graphs and tolerances are those of every backend (`generic_cases.py`). Buffers are poisoned, and
what lies behind them must stay as it was.
"""

from __future__ import annotations

import random

import generic_cases
import pytest
import torch
from generated_graphs import GraphRun
from generic_cases import CASES, TOLERANCE, given, graph_of, inputs_of, result
from llmc.codegen.triton.fusion import MOST_NODES, plan_groups
from llmc.ir.graph import Graph, Value
from llmc.ir.interpreter import interpret
from llmc.ir.ops import (
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
    Op,
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
from llmc.ir.roles import State
from llmc.ir.scalar import scalar
from llmc.ir.types import DType, R, T, TensorType

Inputs = dict[str, torch.Tensor]
BY_SIZE = ["mixed_types", "views", "reshape_of_turned", "scatter", "scans", "logits_rows"]


def check(graph: Graph, inputs: Inputs, tolerance: float | None = None) -> GraphRun:
    """Every output is the reference's, within the tolerance of its type."""
    run = GraphRun(graph, inputs, generic_cases.SIZES)
    wanted = interpret(graph, inputs, lambda _: torch.empty(0))
    for got, want, value in zip(run.run(), wanted, graph.outputs, strict=True):
        allowed = TOLERANCE.get(value.type.dtype, 0)
        if tolerance is not None and allowed:
            allowed = max(tolerance, allowed)
        torch.testing.assert_close(got, want, rtol=allowed, atol=allowed, equal_nan=True)
    return run


@pytest.mark.parametrize("name", CASES)
def test_matches_reference(name: str) -> None:
    graph = graph_of(name)
    check(graph, inputs_of(name, graph))


@pytest.mark.parametrize("tokens", [1, 7, 33])
@pytest.mark.parametrize("name", BY_SIZE)
def test_any_number_of_tokens(name: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(generic_cases.SIZES, "T", tokens)
    graph = graph_of(name)
    check(graph, inputs_of(name, graph))


def test_rows_longer_than_a_tile() -> None:
    """2100 columns: three tiles of sums, the last with a rest; 4100: three passes of softmax."""
    g = Graph("long")
    x, wide = given(g, 3, 2100), given(g, 2, 4100)
    few = result(g, Unary("floor"), x)  # many equal values
    picks = g.append(TopK(3), [few]).outputs
    g.outputs = [
        result(g, Reduce("sum", (-1,)), x),
        result(g, Reduce("amax", (-1,)), x),
        result(g, Reduce("argmax", (-1,)), few),
        result(g, CumSum(-1), result(g, Cast(DType.I64), few)),
        result(g, Softmax(-1), wide),
        result(g, Softmax(-1, log=True), wide),
        *picks,
    ]
    # A sum of 2100 numbers around 2 is added up in another order than torch's.
    check(g, inputs_of("long", g), tolerance=2e-5)


def test_nothing_to_be_kept_and_scalars() -> None:
    g = Graph("small")
    x, n = given(g, 5, 3), given(g)
    total = result(g, Reduce("sum", (-2, -1)), x)
    g.outputs = [
        total,
        result(g, Binary("mul"), total, n),
        result(g, Iota(6)),
        result(g, Binary("add"), result(g, Iota(1)), scalar(2)),
        result(g, Reduce("amin", (-2,), keepdim=True), x),
    ]
    check(g, inputs_of("small", g))


def constants_only(g: Graph) -> None:
    """Tiles that vary along no index, or along one of two."""
    flat = result(g, Full((T, 3)), scalar(2.5))
    flag = result(g, Binary("lt"), result(g, Iota(3)), scalar(1))
    g.outputs = [
        result(g, Unary("neg"), flat),
        result(g, Reduce("sum", (-1,)), flat),
        result(g, Reduce("any", (-1,)), result(g, Expand((T, 3)), flag)),
        result(g, Softmax(-1), result(g, Where(), flag, flat, scalar(float("-inf")))),
        result(g, Concat(-1), flat, result(g, Full((T, 2)), scalar(float("nan")))),
        result(g, Binary("eq"), result(g, Full((T, 1)), scalar(True)), scalar(False)),
    ]


def test_constants_only() -> None:
    g = Graph("constants")
    constants_only(g)
    given(g, T, 1)  # says what T is
    check(g, inputs_of("constants", g))


@pytest.mark.parametrize("fn", ["amax", "amin", "argmax", "sum"])
def test_reductions_take_in_nan_and_infinities(fn: str) -> None:
    g = Graph("special")
    g.outputs = [result(g, Reduce(fn, (-1,)), given(g, 6, 5))]
    x = torch.randn(6, 5)
    x[0, 3] = x[1, 0] = x[1, 4] = float("nan")
    x[2], x[3] = float("-inf"), float("inf")
    x[4, :2] = torch.tensor([0.0, -0.0])
    x[5, 1] = float("-inf")
    check(g, {"in0": x})


def test_top_k_of_special_numbers_is_stable() -> None:
    g = Graph("special")
    g.outputs = [*g.append(TopK(6), [given(g, 2, 9)]).outputs]
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[0.0, -0.0, 1, nan, 1, -inf, inf, nan, 0.0], [-inf] * 9])
    check(g, {"in0": x})


@pytest.mark.parametrize("dtype", [DType.I64, DType.I32, DType.U8, DType.BOOL])
def test_extremes_of_integers(dtype: DType) -> None:
    g = Graph("extremes")
    x = given(g, 4, 3, dtype=dtype)
    if dtype != DType.BOOL:
        g.outputs = [*g.append(TopK(2), [x]).outputs, result(g, Reduce("argmax", (-1,)), x)]
    g.outputs += [result(g, Reduce("amax", (-1,)), x), result(g, Reduce("amin", (-1,)), x)]
    torch_dtype = {DType.I64: torch.int64, DType.I32: torch.int32, DType.U8: torch.uint8}
    if dtype == DType.BOOL:
        values = torch.tensor([[True] * 3, [False] * 3, [False, True, False], [True, False, True]])
    else:
        info = torch.iinfo(torch_dtype[dtype])
        values = torch.randint(0, 100, (4, 3)).to(torch_dtype[dtype])
        values[0], values[1] = info.min, info.max
        values[2, 1] = info.min
    check(g, {"in0": values})


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_products_in_tiles(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    """One matrix for all rows, one for each head, tokens in the middle, a transposed right side."""
    monkeypatch.setitem(generic_cases.SIZES, "T", 35)
    g = Graph("products")
    x, heads = given(g, T, 2, 40, dtype=dtype), given(g, 2, 40, 17, dtype=dtype)
    whole, tall = given(g, 70, 40, dtype=dtype), given(g, 3, 1, 20, 40, dtype=dtype)
    by_head = result(g, MatMul(), result(g, Permute((-2, -3, -1)), x), heads)
    flat = result(g, Slice(-1, 0, 40), result(g, Reshape((T, 80)), x))
    turned = result(g, Permute((-1, -2)), whole)
    g.outputs = [
        by_head,
        result(g, MatMul(), flat, turned),
        result(g, MatMul(), tall, heads),
        result(g, MatMul(), whole, result(g, Permute((-1, -2)), flat)),
    ]
    run = check(g, inputs_of("products", g), tolerance=1e-5)  # sums of 40, in another order
    assert [k.function for k in run.kernels] == ["product_tiles"] * 4


# ---- what runs beside a row -------------------------------------------------------------------


def _all_kinds(g: Graph) -> None:
    x, at = given(g, T, 9), given(g, T, 4, dtype=DType.I64)
    b = given(g, 9, 3)
    picked = result(g, Gather(-1), x, at)
    softened = result(g, Softmax(-1), result(g, Unary("tanh"), x))
    g.outputs = [
        picked,
        softened,
        result(g, Scatter(-1, accumulate=True), softened, at, picked),
        result(g, CumSum(-1), x),
        result(g, MatMul(), x, b),
        *g.append(TopK(3), [x]).outputs,
    ]


def test_padded_rows_are_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of padding hold anything, strange indices too; real rows get the same bits as alone."""
    g = Graph("padded")
    _all_kinds(g)
    x, at, b = torch.randn(8, 9), torch.randint(0, 9, (8, 4)), torch.randn(9, 3)
    x[5:] = torch.tensor([float("nan"), float("inf"), -1e38])[:, None]
    at[5:] = torch.tensor([-(2**60), 2**60, -1])[:, None]
    monkeypatch.setitem(generic_cases.SIZES, "T", 5)
    alone = check(g, {"in0": x[:5], "in1": at[:5], "in2": b})
    padded = GraphRun(g, {"in0": x, "in1": at, "in2": b}, {"T": 8})
    padded.run()
    for value in g.outputs:
        few, many = alone.tensor(alone.view(value)), padded.tensor(padded.view(value))
        assert torch.equal(few, many[:5])


def test_wide_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a buffer may have more elements than 32 bits count, indices have 64."""
    g = Graph("wide")
    _all_kinds(g)
    inputs = {
        "in0": torch.randn(3, 9),
        "in1": torch.randint(0, 9, (3, 4)),
        "in2": torch.randn(9, 3),
    }
    run = GraphRun(g, inputs, {"T": 3}, longest=2**28)
    monkeypatch.setitem(generic_cases.SIZES, "T", 3)
    near = check(g, inputs)
    for got, want in zip(run.run(), near.run(), strict=True):
        assert torch.equal(got, want)
    assert all(".to(tl.int64) *" in k.source for k in run.kernels)
    assert not any(".to(tl.int64) *" in k.source for k in near.kernels)


def test_values_stored_in_16_bits() -> None:
    """f32 values that lie in memory as bf16: rounded once where they are written."""
    g = Graph("stored")
    x, rows = given(g, T, 6), given(g, R, dtype=DType.I32)
    y = result(g, Softmax(-1), x)
    g.outputs = [y, result(g, LogitsRows(), y, rows), result(g, Reduce("sum", (-1,)), y)]
    inputs = inputs_of("stored", g)
    run = GraphRun(g, inputs, generic_cases.SIZES)
    run.stored = dict.fromkeys(g.outputs[:2], DType.BF16)
    soft, picked, total = run.run()
    want = torch.softmax(inputs["in0"], -1)
    torch.testing.assert_close(soft, want.bfloat16(), rtol=2**-7, atol=0)
    assert torch.equal(picked, soft[inputs["in1"].long()])
    torch.testing.assert_close(total, soft.float().sum(-1))


# ---- fusion -----------------------------------------------------------------------------------


def _rotary(g: Graph) -> None:
    x, cos, sin = given(g, T, 4, 6), given(g, T, 1, 6), given(g, T, 1, 6)
    a, b = result(g, Slice(-1, 0, 3), x), result(g, Slice(-1, 3, 6), x)
    turned = result(g, Concat(-1), result(g, Unary("neg"), b), a)
    both = [result(g, Binary("mul"), *pair) for pair in ((x, cos), (turned, sin))]
    g.outputs = [result(g, Binary("add"), *both)]


def test_a_rotation_is_one_kernel() -> None:
    g = Graph("rotary")
    _rotary(g)
    run = check(g, inputs_of("rotary", g))
    assert len(run.kernels) == 1
    assert not run.kernels[0].in_place  # elements of x are read for others' results


def test_what_others_read_is_stored() -> None:
    g = Graph("shared")
    x = given(g, T, 6)
    y = result(g, Unary("exp"), x)  # read by a reduction and by the result
    scale = result(g, Unary("sqrt"), result(g, Reduce("sum", (-1,), keepdim=True), y))
    z = result(g, Unary("sigmoid"), result(g, Binary("mul"), y, y))  # one reader, twice
    g.outputs = [result(g, Binary("div"), z, scale), result(g, Permute((-1, -2)), y)]
    run = check(g, inputs_of("shared", g))
    # exp; sum; sqrt (small, and read once for each element of a row); the rest
    assert [k.function for k in run.kernels] == [
        "exp_elements", "reduce_rows", "sqrt_elements", "div_elements",
    ]  # fmt: skip


def test_a_chain_can_take_its_inputs_place() -> None:
    g = Graph("chain")
    x, y = given(g, T, 6), given(g, T, 6)
    turned = result(g, Reshape((T, 6)), result(g, Slice(-1, 0, 6), y))
    g.outputs = [result(g, Unary("exp"), result(g, Binary("mul"), x, turned))]
    run = check(g, inputs_of("chain", g))
    (kernel,) = run.kernels
    assert kernel.in_place == {kernel.storages["x0_ptr"].name, kernel.storages["x1_ptr"].name}


def test_kernels_have_a_largest_size() -> None:
    g = Graph("chain")
    y = given(g, T, 3)
    for _ in range(2 * MOST_NODES):
        y = result(g, Binary("add"), y, scalar(0.5))
    g.outputs = [y]
    assert len(check(g, inputs_of("chain", g)).kernels) == 2


def test_state_is_read_in_its_turn() -> None:
    """What reads memory that a later op writes in place isn't put off."""
    g = Graph("state")
    state = g.add_input("state", TensorType(DType.F32, (4, 3)), State("keys", 0))
    first = result(g, Unary("exp"), state)
    second = result(g, Unary("neg"), result(g, Unary("sqrt"), first))
    g.outputs = [second]
    groups = plan_groups(g)
    assert first.producer is not None
    assert second.producer is not None
    assert groups[first.producer].last is first.producer
    assert len(groups[second.producer].inside) == 1


# ---- random graphs ----------------------------------------------------------------------------

UNARIES = ("tanh", "sigmoid", "sin", "abs", "silu", "neg", "relu", "softplus", "floor", "gelu")
BINARIES = ("add", "mul", "sub", "maximum", "minimum", "atan2")


class Chains:
    """Random graphs whose numbers stay small, so that tolerances can be."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.graph = Graph(f"random{seed}")
        self.values: list[Value] = [given(self.graph, T, 4, 6) for _ in range(2)]

    def __call__(self, op: Op, *inputs: Value) -> Value:
        return result(self.graph, op, *inputs)

    def build(self, nodes: int) -> Graph:
        for _ in range(nodes):
            make = self.random.choice(
                [self.unary, self.binary, self.binary, self.turn, self.join, self.pick, self.fold]
            )
            self.values.append(make(self.any()))
        unread = [v for v in self.values if not v.users]
        self.graph.outputs = unread
        return self.graph

    def any(self) -> Value:
        return self.random.choice(self.values[-5:])

    def unary(self, x: Value) -> Value:
        return self(Unary(self.random.choice(UNARIES)), x)

    def binary(self, x: Value) -> Value:
        y = self(Binary(self.random.choice(BINARIES)), x, self.any())
        flag = self(Binary("gt"), y, scalar(self.random.uniform(-1, 1)))
        y = self(Unary("tanh"), y)
        return self(Where(), flag, y, self.any()) if self.random.random() < 0.3 else y

    def turn(self, x: Value) -> Value:
        """[T, 4, 6] seen as [T, 6, 4], read as [T, 4, 6] again."""
        turned = self(Permute((-3, -1, -2)), x)
        changed = self(Unary("neg"), turned) if self.random.random() < 0.5 else turned
        return self(Reshape((T, 4, 6)), changed)

    def join(self, x: Value) -> Value:
        """Parts of two values behind one another."""
        cut, dim = self.random.randint(1, 3), self.random.choice([-1, -2])
        size = {-1: 6, -2: 4}[dim]
        a = self(Slice(dim, size - cut, size), x)
        b = self(Slice(dim, 0, size - cut), self.any())
        return self(Concat(dim), self(Unary("abs"), a), b)

    def pick(self, x: Value) -> Value:
        """Elements at places that other numbers say."""
        at = self(Cast(DType.I64), self(Binary("mul"), self(Unary("sigmoid"), x), scalar(3.99)))
        return self(Gather(self.random.choice([-1, -2])), self.any(), at)

    def fold(self, x: Value) -> Value:
        """Less a mean or a largest of its row, or a softmax."""
        dim = self.random.choice([-1, -2])
        if self.random.random() < 0.3:
            return self(Softmax(dim), x)
        fn = self.random.choice(["mean", "amax", "sum"])
        total = self(Reduce(fn, (dim,), keepdim=True), x)
        return self(Unary("tanh"), self(Binary("sub"), x, total))


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs(seed: int) -> None:
    graph = Chains(seed).build(14)
    inputs = inputs_of("random", graph)
    # floor and Cast to whole numbers jump: seeds are such that no number lies near a jump. 14 ops
    # behind one another, each a few ulp off.
    run = check(graph, inputs, tolerance=1e-5)
    launches = sum(k.function.endswith("_elements") for k in run.kernels)
    assert launches < len(graph.nodes)
