"""Linear kernels of the triton target in the interpreter, against the ops' references.

Tolerances: sums run in f32 over at most 130 products of numbers around 1; float64 is the reference.
16-bit results may differ by half a unit in the last place.
"""

from __future__ import annotations

import pytest
import torch
from linear_cases import Case, make_weight, padded_rows, quantized_weight
from llmc.ir.ops.linear import GroupedLinear, Linear
from llmc.passes.fuse_gated import ACTIVATIONS

CLOSE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-4},
    torch.bfloat16: {"rtol": 2**-8, "atol": 1e-3},
    torch.float16: {"rtol": 2**-11, "atol": 1e-3},
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def check(case: Case, **tile: object) -> None:
    found, expected = case.run(**tile), case.expected()
    torch.testing.assert_close(found.double(), expected, **CLOSE[case.out_dtype])


def rows_of(count: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    return padded_rows(torch.randn(count, k).to(dtype))


@pytest.mark.parametrize(
    ("kind", "rows", "n", "k"),
    [
        ("f32", 1, 17, 24),
        ("f32", 13, 100, 100),
        ("bf16", 3, 1, 128),
        ("bf16", 70, 17, 24),
        ("f16", 8, 64, 100),
        ("i8c", 1, 100, 24),
        ("i8c", 13, 17, 128),
        ("i8c", 8, 1, 100),
        ("f8c", 3, 64, 100),
        ("f8c", 8, 17, 24),
    ],
)
def test_a_product_of_odd_shapes(kind: str, rows: int, n: int, k: int) -> None:
    weight = make_weight(kind, n, k)
    check(Case(Linear(), weight, rows_of(rows, k, weight.compute)))


@pytest.mark.parametrize("kind", ["bf16", "i8c", "f8c"])
def test_inputs_in_f32_are_rounded_to_what_is_multiplied_in(kind: str) -> None:
    check(Case(Linear(), make_weight(kind, 40, 72), rows_of(5, 72, torch.float32)))


@pytest.mark.parametrize("block_k", [64, 128])
def test_codes_in_the_order_of_registers(block_k: int) -> None:
    weight = make_weight("i8c", 50, 100)
    case = Case(Linear(), weight, rows_of(5, 100, torch.bfloat16))
    check(case, BLOCK_K=block_k, NATURAL=False)
    check(case, BLOCK_K=block_k, NATURAL=True)


def test_codes_as_the_layout_packs_them() -> None:
    weight = quantized_weight("i8c", 1, 37, 100)
    check(Case(Linear(), weight, rows_of(5, 100, torch.bfloat16)))


@pytest.mark.parametrize("kind", ["i8b", "i4k", "i5s"])
def test_gated_layers_with_scales_per_block(kind: str) -> None:
    x = padded_rows(rows_of(5, 72, torch.bfloat16) * 0.1)
    check(Case(Linear(act="silu", gated=True, out=20), make_weight(kind, 64, 72), x), BLOCK_N=64)


def test_experts_with_scales_per_block() -> None:
    offsets = torch.tensor([0, 2, 2, 11], dtype=torch.int32)
    weight = make_weight("i4a", 20, 40, experts=3)
    x = padded_rows(rows_of(11, 40, torch.bfloat16) * 0.2)
    check(Case(GroupedLinear(), weight, x, offsets=offsets))


def test_every_finite_e4m3_code() -> None:
    """One column, an x of 1: the output is the code's value, bit for bit."""
    weight = make_weight("f8c", 256, 1)
    bits = torch.arange(256, dtype=torch.uint8)
    weight.data[: 256 * 64].view(256, 64)[:, 0] = bits
    weight.data[256 * 64 :].view(torch.float32)[:] = 1.0
    found = Case(Linear(), weight, torch.ones(1, 1, dtype=torch.bfloat16)).run(BLOCK_N=64)[0]
    finite = (bits & 0x7F) != 0x7F
    assert torch.equal(found[finite], bits.view(torch.float8_e4m3fn).float()[finite])


@pytest.mark.parametrize("act", ["", *ACTIVATIONS])
def test_activations(act: str) -> None:
    weight = make_weight("f32", 20, 24)
    bias = torch.randn(1, 20)
    check(Case(Linear(bias=True, act=act), weight, rows_of(9, 24, torch.float32), bias))


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bias_then_activation_then_residual_then_softcap(out_dtype: torch.dtype) -> None:
    op = Linear(bias=True, residual=True, act="gelu", softcap=3.0)
    residual = padded_rows(torch.randn(13, 37))
    weight = make_weight("bf16", 37, 40)
    x, bias = rows_of(13, 40, torch.bfloat16), torch.randn(1, 37)
    check(Case(op, weight, x, bias, residual, out_dtype=out_dtype))


@pytest.mark.parametrize("natural", [True, False])
@pytest.mark.parametrize(("kind", "out"), [("f32", 20), ("i8c", 40), ("f8c", 1)])
def test_gated_layers(kind: str, out: int, natural: bool) -> None:
    n = 2 * (-(-out // 16) * 16)
    weight = make_weight(kind, n, 40)
    x = padded_rows(rows_of(9, 40, weight.compute) * 0.2)
    op = Linear(bias=True, act="silu", gated=True, out=out)
    check(Case(op, weight, x, torch.randn(1, n)), BLOCK_N=64, NATURAL=natural)


def test_rows_chosen_by_an_index() -> None:
    index = torch.tensor([4, 0, 4, 11, 2, 7, 7, 1, 3, 10], dtype=torch.int32)
    weight = make_weight("bf16", 20, 24)
    check(Case(Linear(), weight, rows_of(12, 24, torch.bfloat16), index=index))


def test_tiles_of_rows_side_by_side_cover_everything() -> None:
    weight = make_weight("f32", 70, 24)
    case = Case(Linear(), weight, rows_of(37, 24, torch.float32))
    assert torch.equal(case.run(GROUP=3), case.run())


@pytest.mark.parametrize("kind", ["f32", "bf16", "i8c", "f8c"])
def test_a_row_gets_the_same_bits_whatever_stands_beside_it(kind: str) -> None:
    """In f32 and bit for bit, with tiles of other heights and widths too."""
    weight = make_weight(kind, 40, 72)
    case = Case(Linear(residual=True), weight, rows_of(21, 72, weight.compute))
    case.residual = torch.randn(21, 40)
    all_rows = case.run(BLOCK_T=8)
    for count in (1, 3, 8, 13):
        assert torch.equal(case.first_rows(count).run(BLOCK_T=8), all_rows[:count])
    assert torch.equal(case.run(BLOCK_T=32, BLOCK_N=64), all_rows)


@pytest.mark.parametrize("kind", ["f32", "i8c"])
@pytest.mark.parametrize("sizes", [(3, 0, 9, 1), (0, 0, 0, 13), (8, 8, 0, 0), (5,)])
def test_experts_take_the_rows_that_offsets_give_them(kind: str, sizes: tuple[int, ...]) -> None:
    offsets = torch.tensor([0, *sizes]).cumsum(0).int()
    rows = sum(sizes)
    weight = make_weight(kind, 20, 40, experts=len(sizes))
    index = torch.randint(0, 6, (rows,), dtype=torch.int32)
    op = GroupedLinear(bias=True, act="silu", gather=True)
    bias = torch.randn(len(sizes), 20)
    x = rows_of(6, 40, weight.compute)
    check(Case(op, weight, x, bias, index=index, offsets=offsets))


def test_gated_experts() -> None:
    offsets = torch.tensor([0, 2, 2, 11], dtype=torch.int32)
    weight = make_weight("i8c", 64, 40, experts=3)
    op = GroupedLinear(gated=True, act="gelu_tanh", out=19)
    x = padded_rows(rows_of(11, 40, torch.bfloat16) * 0.2)
    check(Case(op, weight, x, offsets=offsets), BLOCK_N=32)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    ("kind", "n", "k"), [("f32", 17, 100), ("bf16", 1, 24), ("i8c", 17, 100), ("f8c", 40, 130)]
)
def test_one_or_two_rows_without_tensor_cores(kind: str, n: int, k: int, rows: int) -> None:
    weight = make_weight(kind, n, k)
    op = Linear(bias=True, residual=True, act="relu2", softcap=5.0)
    residual, x = padded_rows(torch.randn(rows, n)), rows_of(rows, k, torch.float32)
    case = Case(op, weight, x, torch.randn(1, n), residual)
    torch.testing.assert_close(case.run_gemv().double(), case.expected(), **CLOSE[torch.float32])


@pytest.mark.parametrize("kind", ["bf16", "i8c"])
def test_a_gated_row_without_tensor_cores(kind: str) -> None:
    weight = make_weight(kind, 64, 40)
    op = Linear(act="silu", gated=True, out=19)
    case = Case(op, weight, padded_rows(rows_of(1, 40, weight.compute) * 0.2))
    found = case.run_gemv(ROWS=1)
    torch.testing.assert_close(found.double(), case.expected(), **CLOSE[torch.float32])
