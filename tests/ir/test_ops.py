"""Type rules against references: for every op, `infer` says what `reference` gives."""

import pytest
import torch
from llmc.ir.ops import (  # fmt: skip
    BINARY,
    OPS,
    TORCH_DTYPE,
    UNARY,
    Attention,
    Binary,
    BodyOp,
    CacheWrite,
    Cast,
    CausalConv,
    CausalConvUpdate,
    CausalMask,
    CombineExperts,
    Concat,
    CumSum,
    Embedding,
    Expand,
    Full,
    Gather,
    GroupedLinear,
    HeadLinear,
    Iota,
    KeyIndex,
    KeyIndexWrite,
    LatentAttention,
    LatentWrite,
    Linear,
    LinearRecurrence,
    LinearRecurrenceUpdate,
    LogitsRows,
    MatMul,
    Norm,
    Op,
    OpBody,
    PagedAttention,
    PagedKeyIndex,
    PagedLatentAttention,
    Permute,
    QuantizeRows,
    Recurrence,
    RecurrenceUpdate,
    Reduce,
    Reshape,
    Rotary,
    RouteTokens,
    Scatter,
    SelectedAttention,
    SelectiveScan,
    SelectiveScanUpdate,
    Slice,
    SlotAttention,
    SlotWrite,
    Softmax,
    TokenCount,
    TopK,
    TopTokens,
    Unary,
    Where,
)
from llmc.ir.ops.stateful import Update
from llmc.ir.recipe import Scalar
from llmc.ir.types import DType, R, S, Sym, T, TensorType, bind_dim

pytestmark = pytest.mark.fast

ENV = {"T": 5, "S": 2, "R": 3, "B": 2, "P": 6, "S1": 3, "L": 9}
F32, I32, I64, BOOL, BF16 = DType.F32, DType.I32, DType.I64, DType.BOOL, DType.BF16
B, P, S1 = Sym("B"), Sym("P"), Sym("S1")


def f(*shape, dtype: DType = F32) -> TensorType:
    return TensorType(dtype, shape)


def i(*shape, dtype: DType = I64) -> TensorType:
    return TensorType(dtype, shape)


POOL = f(P, 64, 2, 8)
LATENTS = f(P, 64, 12)
META = (i(S1, dtype=I32), i(S, dtype=I32), i(S, B, dtype=I32))
# Two sequences of three tokens each in slots of nine.
N, CACHES = Sym("S", 3), (f(S, 2, Sym("L"), 8), f(S, 2, Sym("L"), 6))
START = i(S, dtype=I32)
META_VALUES = (
    torch.tensor([0, 4, 5]), torch.tensor([35, 1]), torch.tensor([[3, 1], [5, -1]]),
)  # fmt: skip
STEP = (i(S1, dtype=I32), i(S, dtype=I32), i(S, dtype=I32))
RECURRENCE = [f(T, 2, 5), f(T, 2, 5), f(T, 4, 3), f(T, 4), f(T, 4)]
SCAN = [f(T, 6), f(T, 6), f(T, 5), f(T, 5), f(6, 5)]
BODY = OpBody(
    (f(T, 6), f(6), f(T, 2, 3)),
    (
        BodyOp(Reshape((T, 6)), (2,)),
        BodyOp(Binary("mul"), (3, 1)),
        BodyOp(Binary("add"), (4, 0)),
        BodyOp(Reshape((T, 2, 3)), (5,)),
        BodyOp(Binary("lt"), (5, Scalar(0.5, F32))),
    ),
    (6, 5, 7),
)
"""carried' = carried * a + x, which is a result too, and whether it is below a half."""
LOGICAL = {"logical_and", "logical_or", "logical_xor", "logical_not"}
INTEGER = {"bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "shift_left", "shift_right"}

CASES: list[tuple[Op, list[TensorType]]] = [
    *((Unary(fn), [f(T, 4)]) for fn in UNARY if fn not in INTEGER),
    *((Unary(fn), [i(T, 4)]) for fn in ("neg", "abs", "sign", "square", "exp", "cos", "sigmoid")),
    (Unary("bitwise_not"), [i(T)]),
    *((Binary(fn), [f(T, 4), f(4)]) for fn in BINARY if fn not in INTEGER),
    *((Binary(fn), [i(T, 4), i(1, 4)]) for fn in sorted(INTEGER - {"bitwise_not"})),
    *((Binary(fn), [i(T, 4), f(T, 1)]) for fn in ("add", "mul", "div", "maximum", "lt")),
    *((Binary(fn), [i(T), i(T)]) for fn in ("add", "div", "floor_divide", "remainder", "eq")),
    (Binary("mul"), [f(T, dtype=BF16), f()]),
    (Binary("mul"), [i(T, dtype=I32), i()]),
    (Binary("add"), [i(T, dtype=I32), f()]),
    (Where(), [i(T, 1, dtype=BOOL), f(T, 4), f()]),
    *((Cast(d), [f(T, 3)]) for d in (BF16, DType.F16, I64, I32, BOOL, F32)),
    (Reshape((T, 2, 6)), [f(T, 12)]), (Reshape((Sym("T", 4), 3)), [f(T, 12)]),
    (Permute((-2, -3, -1)), [f(T, 2, 6)]),
    (Expand((T, 3, 4)), [f(T, 1, 4)]),
    (Slice(-1, 1, 6, 2), [f(T, 7)]), (Slice(-2, 1, 2), [f(3, T)]),
    (Slice(-1, 2, 2), [f(T, 7)]),
    (Concat(-1), [f(T, 3), f(T, 4), f(T, 3)]),
    (Embedding(), [f(9, 4), i(T)]), (Embedding(), [i(9, 4), i(T, 2)]),
    (Embedding(), [f(9, 4, dtype=BF16), i(T, dtype=I32)]),
    (Gather(-1), [f(T, 9), i(T, 2)]),
    (Scatter(-1), [f(T, 9), i(T, 2), f(T, 2)]), (Scatter(-1, True), [f(T, 9), i(T, 2), f()]),
    (Full((T, 3)), [f()]), (Iota(4), []), (Iota(4, I32), []),
    *((Reduce(fn, (-1,), k), [f(T, 4)]) for fn in ("sum", "mean", "amax", "amin", "prod", "argmax")
      for k in (False, True)),
    *((Reduce(fn, (-1, -2)), [f(T, 2, 4)]) for fn in ("sum", "mean", "amax", "prod")),
    *((Reduce(fn, (-1,)), [i(T, 4, dtype=I32)]) for fn in ("sum", "prod", "amax")),
    *((Reduce(fn, (-1,)), [i(T, 4, dtype=BOOL)]) for fn in ("any", "all")),
    (Softmax(-1), [f(T, 4)]), (Softmax(-1, log=True), [f(T, 4)]),
    (CumSum(-1), [f(T, 4)]), (CumSum(-1), [i(T, 4, dtype=I32)]),
    (TopK(3), [f(T, 8)]),
    (MatMul(), [f(T, 2, 3), f(T, 3, 4)]), (MatMul(), [f(2, T, 3), f(3, 4)]),
    (QuantizeRows(), [f(T, 40)]),
    (Linear(), [f(T, 6), f(5, 6)]), (Linear(bias=True, act="gelu"), [f(T, 6), f(5, 6), f(5)]),
    (Linear(residual=True, softcap=3.0), [f(T, 6), f(5, 6), f(T, 5)]),
    (Linear(gated=True, act="silu", out=20), [f(T, 6), f(64, 6)]),
    (Linear(quantized=True), [f(T, 64, dtype=DType.I8), f(T, 2), f(T, 2), f(5, 40)]),
    (RouteTokens(9), [i(T, 2)]),
    (GroupedLinear(), [f(Sym("T", 2), 6), f(2, 4, 6), i(3, dtype=I32)]),
    (GroupedLinear(bias=True, gather=True),
     [f(T, 6), f(2, 4, 6), f(2, 4), i(Sym("T", 2), dtype=I32), i(3, dtype=I32)]),
    (HeadLinear(), [f(T, 3, 6), f(3, 5, 6)]),
    (HeadLinear(quantized=True),
     [f(T, 3, 64, dtype=DType.I8), f(T, 3, 2), f(T, 3, 2), f(3, 5, 40)]),
    (CombineExperts(), [f(Sym("T", 2), 6), i(T, 2), f(T, 2)]),
    *((Norm(fn, 1e-5, weight=False), [f(T, 6)]) for fn in ("rms_norm", "layer_norm")),
    (Norm("layer_norm", bias=True), [f(T, 6), f(6), f(6)]),
    (Norm("rms_norm", add=True), [f(T, 6), f(T, 6), f(6)]),
    (Norm("rms_norm", quantize=True), [f(T, 40), f(40)]),
    (Norm("rms_norm", add=True, quantize=True), [f(T, 40), f(T, 40), f(40)]),
    (Rotary(4), [f(T, 2, 6), f(T, 2), f(T, 2)]),
    (Rotary(6, interleaved=True), [f(1, T, 2, 6), f(T, 3), f(T, 3)]),
    (Attention(0.5, 3, 2.0), [f(T, 4, 8), f(T, 2, 8), f(T, 2, 6)]),
    (CausalMask((1, T, T), 3), []),
    (Attention(0.5, slopes=True), [f(T, 4, 8), f(T, 2, 8), f(T, 2, 8), f(4)]),
    (Attention(0.5, sinks=True, slopes=True),
     [f(T, 4, 8), f(T, 2, 8), f(T, 2, 8), f(4), f(4)]),
    (Attention(0.5, sinks=True), [f(1, T, 4, 8), f(1, T, 2, 8), f(1, T, 2, 8), f(4)]),
    (CacheWrite(), [f(T, 2, 8), f(T, 2, 8), POOL, POOL, *META]),
    (CacheWrite(4), [f(T, 2, 8), f(T, 2, 8), POOL, POOL, *META, f(T, 2), f(T, 2)]),
    (PagedAttention(0.5), [f(T, 4, 8), POOL, POOL, *META]),
    (LatentAttention(0.5, 3, 2.0), [f(T, 4, 8), f(T, 8)]),
    (LatentAttention(0.5, sinks=True, rope=True),
     [f(T, 4, 8), f(T, 8), f(T, 4, 6), f(T, 1, 6), f(4)]),
    (LatentAttention(0.5, sinks=True, selected=True),
     [f(T, 4, 8), f(T, 8), f(4), i(T, 3, dtype=I32)]),
    (PagedLatentAttention(0.5, selected=True), [f(T, 4, 12), LATENTS, *META, i(T, 3, dtype=I32)]),
    (SelectedAttention(0.5, sinks=True),
     [f(1, T, 4, 8), f(1, T, 2, 8), f(1, T, 2, 6), f(4), i(1, T, 3)]),
    (TopTokens(3), [f(1, T, T)]), (TopTokens(7), [f(T, T)]),
    (KeyIndex(3, 0.5), [f(T, 2, 8), f(T, 8), f(T, 2)]),
    (KeyIndexWrite(), [LATENTS, f(T, 12), *META]),
    (PagedKeyIndex(3, 0.5), [f(T, 2, 12), f(T, 2), LATENTS, *META]),
    (LatentWrite(), [LATENTS, f(T, 12), *META]),
    (LatentWrite(rope=True), [LATENTS, f(T, 8), f(T, 1, 4), *META]),
    (LatentWrite(True, 4, True), [LATENTS, f(T, 8), f(T, 1, 4), *META, f(T, 2), f(T, 2)]),
    (PagedLatentAttention(0.5, 4), [f(T, 4, 12), LATENTS, *META]),
    (PagedLatentAttention(0.5, sinks=True, rope=True, rotary=4),
     [f(T, 4, 8), f(T, 4, 4), LATENTS, *META, f(4), f(T, 2), f(T, 2)]),
    (SlotWrite(), [f(N, 2, 8), f(N, 2, 6), *CACHES, START]),
    (SlotWrite(4), [f(N, 2, 8), f(N, 2, 6), *CACHES, START, f(N, 2), f(N, 2)]),
    (SlotAttention(0.5), [f(N, 4, 8), *CACHES, START]),
    (SlotAttention(0.5, 4, sinks=True), [f(N, 4, 8), *CACHES, START, f(4)]),
    (SlotAttention(0.5, 4, sinks=True, slopes=True), [f(N, 4, 8), *CACHES, START, f(4), f(4)]),
    (PagedAttention(0.5, 4, sinks=True), [f(T, 4, 8), POOL, POOL, *META, f(4)]),
    (PagedAttention(0.5, slopes=True), [f(T, 4, 8), POOL, POOL, *META, f(4)]),
    (TokenCount(), []),
    (LogitsRows(), [f(T, 6), i(R, dtype=I32)]),
    (CausalConv(True), [f(T, 6), f(6, 4), f(6)]),
    (CausalConvUpdate(), [f(T, 6), f(6, 4), f(2, 3, 6), *STEP]),
    (LinearRecurrence(), RECURRENCE[:4]),
    (LinearRecurrenceUpdate(True), [*RECURRENCE, f(2, 4, 5, 3), *STEP]),
    (SelectiveScan(), SCAN),
    (SelectiveScanUpdate(), [*SCAN, f(2, 5, 6), *STEP]),
    (Recurrence(BODY, 1), [f(T, 6), f(6)]),
    (RecurrenceUpdate(BODY, 1), [f(T, 6), f(6), f(2, 6), *STEP]),
]  # fmt: skip


def random_tensor(type: TensorType, generator: torch.Generator) -> torch.Tensor:
    """Values that are valid indices of any case (0 or 1) where the type is an integer."""
    shape = [bind_dim(d, ENV) for d in type.shape]
    if type.dtype.is_float:
        return torch.randn(shape, generator=generator).to(TORCH_DTYPE[type.dtype])
    return torch.randint(0, 2, shape, generator=generator).to(TORCH_DTYPE[type.dtype])


PAGED = (CacheWrite, KeyIndexWrite, LatentWrite, PagedAttention, PagedKeyIndex)
PAGED += (PagedLatentAttention,)


def operands_of(op: Op, types: list[TensorType]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    values = [random_tensor(t, generator) for t in types]
    if isinstance(op, Update):
        values[-3:] = [*META_VALUES[:2], torch.tensor([1, 0]).int()]
    if isinstance(op, PAGED):
        at = types.index(META[0])
        values[at : at + 3] = META_VALUES
    if isinstance(op, GroupedLinear):
        values[-1] = torch.tensor([0, 4, 10]).int()
    if op == Binary("floor_divide") or op == Binary("remainder"):
        values[1] = values[1] + 1  # integers have no division by 0
    return values


@pytest.mark.parametrize(("op", "types"), CASES, ids=lambda x: str(x)[:60])
def test_infer_agrees_with_reference(op: Op, types: list[TensorType]) -> None:
    result = op.bind(ENV).reference(*operands_of(op, types))
    results = result if isinstance(result, tuple) else (result,)
    inferred = op.infer(*types)
    assert [tuple(t.shape) for t in results] == [
        tuple(bind_dim(d, ENV) for d in t.shape) for t in inferred
    ]
    assert [t.dtype for t in results] == [TORCH_DTYPE[t.dtype] for t in inferred]


def test_every_op_has_a_case() -> None:
    """Calls are evaluated by the interpreter."""
    assert {op.mnemonic for op, _ in CASES} | {"call"} == set(OPS)


REFUSED: list[tuple[Op, list[TensorType]]] = [
    (Where(), [f(T), f(T), f(T)]),
    (Reshape((T, 5)), [f(T, 6)]), (Reshape((S, 6)), [f(T, 6)]),
    (Permute((-1, -1)), [f(T, 6)]), (Permute((0, 1)), [f(T, 6)]),
    (Expand((T, 4)), [f(T, 3)]), (Expand((4,)), [f(T)]),
    (Slice(-2, 0, 1), [f(T, 6)]), (Slice(-1, 0, 7), [f(T, 6)]), (Slice(-1, 3, 2), [f(T, 6)]),
    (Concat(-2), [f(T, 6), f(T, 6)]), (Concat(-1), [f(T, 6), f(S, 6)]),
    (Concat(-1), [f(T, 6), i(T, 6)]),
    (Embedding(), [f(9), i(T)]),
    (Gather(-1), [f(T, 6), i(T)]), (Gather(-1), [f(T, 6), i(1, 6)]),
    (Scatter(-1), [f(T, 6), i(T, 2), f(T, 3)]), (Scatter(-1), [f(T, 6), i(1, 2), f(1, 2)]),
    (Full((T,)), [f(1)]), (Iota(3), [f()]),
    (Reduce("sum", (-2,)), [f(T, 6)]), (CumSum(-1), [f(6, T)]),
    (TopK(7), [f(T, 6)]), (TopK(1), [f(6, T)]),
    (MatMul(), [f(T, 3), f(4, 3)]), (MatMul(), [f(3), f(3, 3)]),
    (QuantizeRows(), [f(6, T)]),
    (Linear(), [f(T, 5), f(4, 6)]), (Linear(), [f(T, 6), f(4, 6), f(4)]),
    (Linear(bias=True), [f(T, 6), f(4, 6), f(5)]),
    (Linear(residual=True), [f(T, 6), f(4, 6), f(T, 5)]),
    (Linear(gated=True, act="silu", out=20), [f(T, 6), f(40, 6)]),
    (Linear(quantized=True), [f(T, 40), f(T, 2), f(T, 2), f(4, 40)]),
    (RouteTokens(4), [i(3, 2)]),
    (GroupedLinear(), [f(T, 6), f(2, 4, 6), i(2)]),
    (GroupedLinear(bias=True), [f(T, 6), f(2, 4, 6), f(4), i(3)]),
    (HeadLinear(), [f(T, 2, 6), f(3, 5, 6)]), (HeadLinear(), [f(T, 18), f(3, 5, 6)]),
    (HeadLinear(bias=True), [f(T, 3, 6), f(3, 5, 6), f(5)]),
    (HeadLinear(act="silu"), [f(T, 3, 6), f(3, 5, 6)]),
    (CombineExperts(), [f(Sym("T", 2), 6), i(T, 2), f(T, 3)]),
    (Norm("rms_norm"), [f(T, 6), f(5)]), (Norm("rms_norm", add=True), [f(T, 6), f(6), f(6)]),
    (Norm("rms_norm", weight=False), [f(6, T)]), (Norm("rms_norm"), [f(T, 6), f(6), f(6)]),
    (Rotary(4), [f(T, 2, 6), f(T, 3), f(T, 3)]), (Rotary(4), [f(2, T, 6), f(T, 2), f(T, 2)]),
    (Attention(1.0), [f(T, 3, 8), f(T, 2, 8), f(T, 2, 8)]),
    (Attention(1.0), [f(T, 2, 8), f(T, 2, 6), f(T, 2, 8)]),
    (Attention(1.0, sinks=True), [f(T, 2, 8), f(T, 2, 8), f(T, 2, 8)]),
    (Attention(1.0, slopes=True), [f(T, 2, 8), f(T, 2, 8), f(T, 2, 8), f(3)]),
    (CacheWrite(), [f(T, 2, 6), f(T, 2, 8), POOL, POOL, *META]),
    (CacheWrite(4), [f(T, 2, 8), f(T, 2, 8), POOL, POOL, *META]),
    (PagedAttention(1.0), [f(T, 4, 6), POOL, POOL, *META]),
    (CausalConv(), [f(T, 6), f(6, 4), f(6)]), (CausalConv(), [f(T, 6), f(5, 4)]),
    (CausalConvUpdate(), [f(T, 6), f(6, 4), f(2, 4, 6), *STEP]),
    (LinearRecurrence(True), RECURRENCE[:4]),
    (LinearRecurrence(), [f(T, 3, 5), f(T, 3, 5), *RECURRENCE[2:4]]),
    (SelectiveScan(), [*SCAN[:4], f(6, 4)]),
    (LatentAttention(1.0), [f(T, 4, 8), f(T, 7)]),
    (LatentAttention(1.0, rope=True), [f(T, 4, 8), f(T, 8), f(T, 4, 6), f(T, 4, 6)]),
    (LatentAttention(1.0, sinks=True), [f(T, 4, 8), f(T, 8)]),
    (LatentWrite(), [LATENTS, f(T, 8), *META]), (TopTokens(3), [f(T, 8)]),
    (KeyIndex(3, 0.5), [f(T, 2, 8), f(T, 8), f(T, 3)]),
    (KeyIndexWrite(), [LATENTS, f(T, 8), *META]),
    (PagedKeyIndex(3, 0.5), [f(T, 2, 8), f(T, 2), LATENTS, *META]),
    (SelectedAttention(0.5), [f(T, 4, 8), f(T, 2, 8), f(T, 2, 8), i(3, 3)]),
    (LatentWrite(True, 4), [LATENTS, f(T, 8), f(T, 1, 4), *META]),
    (PagedLatentAttention(1.0), [f(T, 4, 8), LATENTS, *META]),
    (PagedLatentAttention(1.0, rope=True), [f(T, 4, 12), LATENTS, *META]),
    (Recurrence(BODY, 1), [f(T, 5), f(6)]), (Recurrence(BODY, 1), [f(T, 6)]),
    (Recurrence(BODY, 1, carried=2), [f(T, 6), f(6)]),
    (RecurrenceUpdate(BODY, 1), [f(T, 6), f(6), f(2, 5), *STEP]),
    (RecurrenceUpdate(BODY, 1), [f(T, 6), f(6), f(2, 2, 3), *STEP]),
]  # fmt: skip


@pytest.mark.parametrize(("op", "types"), REFUSED, ids=lambda x: str(x)[:60])
def test_impossible_operands_are_refused(op: Op, types: list[TensorType]) -> None:
    with pytest.raises((TypeError, ValueError)):
        op.infer(*types)
