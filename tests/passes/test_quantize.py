"""Formats of weights and inputs, scheme by scheme."""
# ruff: noqa: E501 (lines of graph text)

import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.ir.graph import Graph
from llmc.ir.parser import parse
from llmc.ir.recipe import CheckpointTensor
from llmc.ir.types import DType
from llmc.passes.quantize import INTEGER_FORMATS, SCHEMES, find_scheme, quantize
from llmc.weights.formats.registry import FORMATS
from pass_cases import check, check_declined, check_unchanged, compute

pytestmark = pytest.mark.fast

TEXT = """
graph main: FUSED
input token_ids: i32[T] as token_ids
const @table: f32[4, 64] = @table:f32
const @up: f32[96, 64] = @up:f32
const @down: f32[64, 96] = @down:f32
%0: f32[T, 64] = embedding(@table, token_ids)
%1: f32[T, 96] = linear(%0, @up) {act="silu"}
%2: f32[T, 64] = linear(%1, @down, %0) {residual=True}
%3: f32[T, 4] = linear(%2, @table)
output %3
"""
ROUTED = """
graph main: FUSED
input x: f32[T, 64]
const @router: f32[4, 64] = @router:f32
const @experts: f32[4, 32, 64] = @experts:f32
const @head: f32[8, 32] = @head:f32
%0: f32[T, 4] = linear(x, @router)
%1: f32[T, 4] = softmax(%0) {dim=-1}
%2: f32[T, 2], %3: i64[T, 2] = top_k(%1) {k=2}
%4: i32[2*T], %5: i32[5], %6: i32[T, 2] = route_tokens(%3) {experts=4}
%7: f32[2*T, 32] = grouped_linear(x, @experts, %4, %5) {gather=True}
%8: f32[T, 32] = combine_experts(%7, %6, %2)
%9: f32[T, 8] = linear(%8, @head)
output %9
"""


def formats(graph: Graph) -> dict[str, str]:
    return {v.name: v.type.dtype.value for v in graph.constants()}


def run(name: str):
    return lambda graph: quantize(graph, SCHEMES[name])


@pytest.mark.parametrize(
    ("scheme", "weight", "head", "error"),
    [("bf16", "bf16", "bf16", 2**-7), ("int8", "i8c", "i8c", 0.02), ("int4", "i4k", "i8b", 0.2),
     ("int4-sym", "i4s", "i8b", 0.2)],
)  # fmt: skip
def test_formats_and_error_of_each_scheme(
    scheme: str, weight: str, head: str, error: float
) -> None:
    """A table shared by embedding and head has the head's format. The bound on the error, as a
    share of the outputs' norm, is that of one rounding (2^-8, 1/254, 1/15) over three layers.
    """
    graph = parse(TEXT)
    (exact,) = compute(graph)
    assert run(scheme)(graph)
    assert formats(graph) == {"table": head, "up": weight, "down": weight}
    (actual,) = compute(graph)
    assert 0 < torch.linalg.norm(actual - exact) / torch.linalg.norm(exact) < error
    check_unchanged(run(scheme), graph)


def test_f32_leaves_everything() -> None:
    check_declined(run("f32"), TEXT)


def test_rows_are_quantized_once_for_all_readers() -> None:
    """Two blocked weights on one input share its quantized rows; a residual stays f32."""
    check(
        run("int8"),
        """
        graph main: FUSED
        input x: f32[T, 64]
        const @a: f32[64, 64] = @a:f32
        const @b: f32[64, 64] = @b:f32
        %0: f32[T, 64] = linear(x, @a)
        %1: f32[T, 64] = linear(x, @b, %0) {residual=True}
        output %1
        """,
        """
        graph main: FUSED
        input x: f32[T, 64]
        const @a: i8c[64, 64] = quantize(@a:f32, i8c)
        const @b: i8c[64, 64] = quantize(@b:f32, i8c)
        %0: i8[T, 64], %1: f32[T, 2], %2: f32[T, 2] = quantize_rows(x)
        %3: f32[T, 64] = linear(%0, %1, %2, @a) {quantized=True}
        %4: f32[T, 64] = linear(%0, %1, %2, @b, %3) {residual=True, quantized=True}
        output %4
        """,
        tolerance=0.5,  # 64 products of int8 rows and weights: about 1% of values up to 25
    )


def test_routers_stay_exact() -> None:
    """What only reaches the others through a top-k choice is no place to save bytes."""
    graph = parse(ROUTED)
    assert run("int4")(graph)
    assert formats(graph) == {"router": "f32", "experts": "i4k", "head": "i8b"}


@pytest.mark.parametrize(
    ("scheme", "stored", "format"),
    [("int4", "q4_0", "i4s"), ("int4", "q4_1", "i4a"), ("int4", "q8_0", "i8b"),
     ("int8", "q8_0", "i8b"), ("int8", "q4_1", "i8c"), ("bf16", "q4_0", "bf16")],
)  # fmt: skip
def test_blocks_of_the_checkpoint_are_kept(scheme: str, stored: str, format: str) -> None:
    """Where one of our formats holds the same values, nothing is quantized a second time."""
    graph = parse(TEXT)
    recipe = CheckpointTensor("up", stored, (96, 64))
    weight = next(v for v in graph.constants() if v.name == "up")
    weight.recipe = recipe
    run(scheme)(graph)
    assert formats(graph)["up"] == format


def test_learned_positions_are_no_table_of_tokens() -> None:
    """Another embedding, that no head shares, keeps its precision."""
    graph = parse(TEXT.replace("input token_ids: i32[T] as token_ids", "input token_ids: i32[T] as token_ids\n"
                  "input positions: i32[T] as positions\nconst @wpe: f32[4, 64] = @wpe:f32").replace(
                  "output %3", "%4: f32[T, 64] = embedding(@wpe, positions)\noutput %3\noutput %4"))  # fmt: skip
    run("int8")(graph)
    assert formats(graph)["wpe"] == "f32"
    assert formats(graph)["table"] == "i8c"


def test_unknown_schemes_are_refused_with_the_known_ones() -> None:
    assert find_scheme("int4").cache == DType.I8
    assert find_scheme("int4", "bf16").cache == DType.BF16
    with pytest.raises(LlmcError, match="'int3'") as caught:
        find_scheme("int3")
    assert caught.value.id == "LLMC-E0201"
    assert "int4-sym" in (caught.value.hint or "")
    with pytest.raises(LlmcError, match="'fp8'") as caught:
        find_scheme("int4", "fp8")
    assert caught.value.id == "LLMC-E0201"
    assert "int8" in (caught.value.hint or "")


@pytest.mark.parametrize(("formats_of_target", "kept"), [(INTEGER_FORMATS, "i8b"), (None, "f8c")])
def test_floats_of_a_checkpoint_are_kept_where_the_target_computes_with_them(
    formats_of_target: tuple[DType, ...] | None, kept: str
) -> None:
    graph = parse(TEXT)
    weight = next(v for v in graph.constants() if v.name == "up")
    weight.recipe = CheckpointTensor("up", "fp8_channel", (96, 64))
    scheme = SCHEMES["f32"].as_stored(formats_of_target or tuple(FORMATS))
    assert quantize(graph, scheme, quantized_inputs=False)
    assert formats(graph) == {"table": "f32", "up": kept, "down": "f32"}
