"""Ops that are exported in another form than their reference: the same results, eagerly."""

import pytest
import torch
from llmc.codegen.inductor.forms import Run, evaluate
from llmc.ir.ops import GroupedLinear, RouteTokens, SlotAttention, SlotWrite
from llmc.ir.types import DType

RUN = Run(query=3, extent=9, env={})


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_routing() -> None:
    op = RouteTokens(experts=5)
    index = torch.tensor([[4, 0], [0, 2], [2, 4], [4, 0]])  # nobody chose 1 and 3
    for actual, expected in zip(evaluate(op, RUN, [index]), op.reference(index), strict=True):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(("n", "k"), [(8, 16), (7, 5)])
@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_grouped_linear(n: int, k: int, gather: bool, bias: bool) -> None:
    """Sizes that are no multiples of 16 bytes, an expert without rows."""
    op = GroupedLinear(bias=bias, act="silu", gather=gather)
    offsets = torch.tensor([0, 2, 2, 7, 10], dtype=torch.int32)
    operands = [torch.randn(4 if gather else 10, k), torch.randn(4, n, k)]
    operands += [torch.randn(4, n)] if bias else []
    operands += [torch.randint(0, 4, (10,), dtype=torch.int32)] if gather else []
    (actual,) = evaluate(op, RUN, [*operands, offsets])
    torch.testing.assert_close(actual, op.reference(*operands, offsets))


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("interleaved", [False, True])
def test_writing_happens_in_place(dtype: DType, interleaved: bool) -> None:
    op = SlotWrite(rotary=4, interleaved=interleaved)
    kind = {DType.F32: torch.float32, DType.BF16: torch.bfloat16}[dtype]
    k, v = torch.randn(6, 2, 8), torch.randn(6, 2, 5)
    caches = [torch.full((2, 2, 12, d), float("nan"), dtype=kind) for d in (8, 5)]
    start = torch.tensor([9, 0], dtype=torch.int32)
    operands = [k, v, *caches, start, torch.rand(6, 2), torch.rand(6, 2)]
    expected = op.reference(*operands)
    results = evaluate(op, RUN, operands)
    for cache, result, wanted in zip(caches, results, expected, strict=True):
        assert result is cache
        torch.testing.assert_close(cache, wanted, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("by_head", [False, True])
def test_attention_reads_up_to_the_extent(window: int, by_head: bool) -> None:
    """What lies behind is NaN, and isn't read."""
    op = SlotAttention(scale=0.5, window=window, sinks=by_head, slopes=by_head)
    caches = [torch.randn(2, 2, 12, d) for d in (8, 5)]
    operands = [torch.randn(6, 4, 8), *caches, torch.tensor([6, 2], dtype=torch.int32)]
    operands += [torch.randn(4), torch.rand(4)] if by_head else []
    expected = op.reference(*operands)
    for cache in caches:
        cache[:, :, 9:] = float("nan")
    (actual,) = evaluate(op, RUN, operands)
    torch.testing.assert_close(actual, expected)
