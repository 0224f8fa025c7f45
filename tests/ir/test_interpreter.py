"""The interpreter: symbols bound from inputs, constants asked once, calls, pools in place."""

from collections.abc import Mapping

import pytest
import torch
from llmc.ir.interpreter import Constants, interpret
from llmc.ir.ops import CACHE_BLOCK, TORCH_DTYPE
from llmc.ir.parser import parse

pytestmark = pytest.mark.fast

LINEAR = """
graph main: FUSED
input x: f32[T, 3]
const @w: f32[4, 3] = @w:f32
%0: f32[T, 4] = linear(x, @w)
%1: f32[2*T, 2] = reshape(%0) {shape=(2*T, 2)}
%2: f32[2*T, 2] = mul(%1, 0.5)
output %2
output %0
"""


def as_constants(tensors: Mapping[str, torch.Tensor]) -> Constants:
    """Constants looked up by name, in the element type that their value has."""
    return lambda value: tensors[value.name].to(TORCH_DTYPE[value.type.dtype])


@pytest.mark.parametrize("tokens", [1, 5])
def test_symbols_take_the_size_of_the_input(tokens: int) -> None:
    """One graph, any number of tokens; attributes such as `2*T` follow."""
    x, w = torch.randn(tokens, 3), torch.randn(4, 3)
    half, y = interpret(parse(LINEAR), {"x": x}, as_constants({"w": w}))
    torch.testing.assert_close(y, x @ w.T)
    torch.testing.assert_close(half, (x @ w.T).reshape(2 * tokens, 2) / 2)


def test_a_constant_is_evaluated_once() -> None:
    asked = []
    graph = parse(LINEAR.replace("output %0", "output @w"))

    def constants(value):
        asked.append(value.name)
        return torch.randn(4, 3)

    interpret(graph, {"x": torch.randn(2, 3)}, constants)
    assert asked == ["w"]


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 1)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="x has shape"):
        interpret(parse(LINEAR), {"x": torch.randn(shape)}, as_constants({}))


def test_a_symbol_has_one_value() -> None:
    """T of one input is T of every other."""
    graph = parse("graph main: FUSED\ninput x: f32[T]\ninput y: f32[2*T]\noutput x")
    with pytest.raises(ValueError, match=r"y: 2[*]T is 6, not 8"):
        interpret(graph, {"x": torch.randn(3), "y": torch.randn(8)}, as_constants({}))


def test_missing_inputs_are_refused() -> None:
    with pytest.raises(KeyError):
        interpret(parse(LINEAR), {}, as_constants({}))


def test_failures_name_op_shapes_and_scope() -> None:
    graph = parse(LINEAR.replace("linear(x, @w)", "linear(x, @w)    # layers.7.mlp"))
    with pytest.raises(RuntimeError, match=r"Linear.*\(2, 3\), \(4, 9\) at layers.7.mlp"):
        interpret(graph, {"x": torch.randn(2, 3)}, lambda _: torch.randn(4, 9))


def test_a_reference_that_contradicts_its_type_is_caught() -> None:
    """A constant of another element type than the graph says would spread silently."""
    graph = parse(LINEAR.replace("linear(x, @w)", "embedding(@w, ids)").replace(
        "input x: f32[T, 3]", "input ids: i32[T, 1]").replace("f32[T, 4]", "f32[T, 1, 3]").replace(
        "%1: f32[2*T, 2] = reshape(%0) {shape=(2*T, 2)}", "").replace(
        "%2: f32[2*T, 2] = mul(%1, 0.5)", "").replace("output %2", ""))  # fmt: skip
    table = torch.arange(12).reshape(4, 3)
    with pytest.raises(RuntimeError, match="int64"):
        interpret(graph, {"ids": torch.zeros(2, 1).int()}, lambda _: table)


def test_calls_run_their_body_each_with_its_operands() -> None:
    graph = parse(
        """
        graph body: SERVING
        input a: f32[T, 4]
        input scale: f32[4]
        %0: f32[T, 4] = mul(a, scale)
        %1: f32[T, 4] = add(%0, 1.0)
        output %1

        graph main: SERVING
        input x: f32[T, 4]
        const @s1: f32[4] = @s1:f32
        const @s2: f32[4] = @s2:f32
        %0: f32[T, 4] = call(x, @s1) {body="body"}
        %1: f32[T, 4] = call(%0, @s2) {body="body"}
        output %1
        """
    )
    x, s1, s2 = torch.randn(3, 4), torch.randn(4), torch.randn(4)
    (y,) = interpret(graph, {"x": x}, as_constants({"s1": s1, "s2": s2}))
    torch.testing.assert_close(y, (x * s1 + 1) * s2 + 1)


def test_pools_are_written_in_place() -> None:
    """The next step must see what this one stored, and nothing else may change."""
    graph = parse(
        """
        graph main: SERVING
        input k: f32[T, 1, 4]
        input keys: f32[P, 64, 1, 4]
        input values: f32[P, 64, 1, 4]
        input query_start: i32[S1] as query_start
        input context_len: i32[S] as context_len
        input block_table: i32[S, B]
        %0: f32[P, 64, 1, 4], %1: f32[P, 64, 1, 4] = cache_write(k, k, keys, values, query_start, context_len, block_table)
        output %0
        """  # noqa: E501
    )
    k = torch.randn(3, 1, 4)
    keys, values = (torch.full((2, CACHE_BLOCK, 1, 4), torch.nan) for _ in range(2))
    meta = {
        "query_start": torch.tensor([0, 3]),
        "context_len": torch.tensor([66]),  # positions 63, 64, 65: the third crosses blocks
        "block_table": torch.tensor([[1, 0]]),
    }
    (result,) = interpret(graph, {"k": k, "keys": keys, "values": values} | meta, as_constants({}))
    assert result is keys
    torch.testing.assert_close(keys[1, 63], k[0])
    torch.testing.assert_close(keys[0, :2], k[1:])
    assert torch.equal(values[~values.isnan()].sort().values, k.flatten().sort().values)
