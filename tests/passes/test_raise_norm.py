"""Normalizations from arithmetic."""

import numpy as np
import pytest
import torch
from llmc.ir.graph import Graph, Value
from llmc.ir.interpreter import interpret
from llmc.ir.parser import parse
from llmc.passes.raise_norm import raise_norm
from llmc.weights.values import RecipeValues
from pass_cases import check, check_declined
from random_models import Weights

pytestmark = pytest.mark.fast

HEAD = """
graph main: TRACED
input x: f32[T, 6]
const @w: f32[6] = @w:f32
const @b: f32[6] = @b:f32
"""
MEAN = """\
%0: f32[T, 6] = square(x)
%1: f32[T, 1] = reduce(%0) {fn="mean", dims=(-1,), keepdim=True}
%2: f32[T, 1] = add(%1, 1e-05)
"""


@pytest.mark.parametrize(
    "tail",
    [
        "%3: f32[T, 1] = rsqrt(%2)\n%4: f32[T, 6] = mul(x, %3)\n%5: f32[T, 6] = mul(@w, %4)",
        "%3: f32[T, 1] = rsqrt(%2)\n%4: f32[T, 6] = mul(%3, x)\n%5: f32[T, 6] = mul(%4, @w)",
        "%3: f32[T, 1] = sqrt(%2)\n%4: f32[T, 6] = div(x, %3)\n%5: f32[T, 6] = mul(%4, @w)",
    ],
)
def test_root_mean_square_norm_with_weight(tail: str) -> None:
    """As product with rsqrt or quotient by sqrt, operands in either order."""
    check(
        raise_norm,
        f"{HEAD}{MEAN}{tail}\noutput %5",
        f"{HEAD}%0: f32[T, 6] = rms_norm(x, @w) {{eps=1e-05}}\noutput %0",
    )


def test_a_centered_norm_is_a_layer_norm() -> None:
    """The mean that is subtracted makes it one; weight and bias join."""
    check(
        raise_norm,
        f"""{HEAD}
%0: f32[T, 1] = reduce(x) {{fn="mean", dims=(-1,), keepdim=True}}
%1: f32[T, 6] = sub(x, %0)
%2: f32[T, 6] = square(%1)
%3: f32[T, 1] = reduce(%2) {{fn="mean", dims=(-1,), keepdim=True}}
%4: f32[T, 1] = add(%3, 1e-05)
%5: f32[T, 1] = rsqrt(%4)
%6: f32[T, 6] = mul(%1, %5)
%7: f32[T, 6] = mul(%6, @w)
%8: f32[T, 6] = add(%7, @b)
output %8
""",
        f"{HEAD}%0: f32[T, 6] = layer_norm(x, @w, @b) {{eps=1e-05, bias=True}}\noutput %0",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('fn="mean"', 'fn="sum"'),
        ("square(x)", "square(y)"),
        ("square(x)", "exp(x)"),
        ("dims=(-1,), keepdim=True}\n%2: f32[T, 1]", "dims=(-1,), keepdim=True}\n%2: f32[T, 1]"),
    ],
)
def test_almost_a_norm_is_none(old: str, new: str) -> None:
    """A sum, another tensor's mean square, or no square: nothing is raised."""
    text = f"{HEAD}input y: f32[T, 6]\n{MEAN}%3: f32[T, 1] = rsqrt(%2)\n%4: f32[T, 6] = mul(x, %3)"
    text = text.replace(old, new) + "\noutput %4"
    if old == new:  # the control: this is one
        check(raise_norm, text, f"{HEAD}input y: f32[T, 6]\n%0: f32[T, 6] = rms_norm(x) "
              "{eps=1e-05, weight=False}\noutput %0")  # fmt: skip
    else:
        check_declined(raise_norm, text)


def test_a_weight_that_is_no_vector_stays_outside() -> None:
    """A scale per head [H, D] is no weight of a norm over D."""
    check_declined(
        raise_norm,
        """
        graph main: TRACED
        input x: f32[T, 2, 6]
        const @w: f32[2, 6] = @w:f32
        %0: f32[T, 2, 6] = rms_norm(x) {weight=False}
        %1: f32[T, 2, 6] = mul(%0, @w)
        output %1
        """,
    )


def evaluated(graph: Graph) -> torch.Tensor:
    """Of random x, and constants that are known or as they were written."""
    x = torch.randn(5, *_sizes(graph), generator=torch.Generator().manual_seed(1))

    def constant(value: Value) -> torch.Tensor:
        return torch.from_numpy(np.array(RecipeValues(Weights()).value(value.recipe)))

    return interpret(graph, {"x": x}, constant)[0]


def _sizes(graph: Graph) -> list[int]:
    return [dim for dim in graph.inputs[0].type.shape if isinstance(dim, int)]


L2 = """
graph main: TRACED
input x: f32[T, 3, 6]
%0: f32[T, 3, 6] = mul(x, x)
%1: f32[T, 3, 1] = reduce(%0) {fn="sum", dims=(-1,), keepdim=True}
%2: f32[T, 3, 1] = add(%1, 1e-06)
%3: f32[T, 3, 1] = rsqrt(%2)
%4: f32[T, 3, 6] = mul(x, %3)
%5: f32[T, 3, 6] = mul(%4, 0.25)
output %5
"""
ROWS = """
graph main: TRACED
input x: f32[T, 6]
const @w: f32[6] = @w:f32
%0: f32[T, 1, 6] = reshape(x) {shape=(T, 1, 6)}
%1: f32[T, 1, 6] = rms_norm(%0) {weight=False}
%2: f32[T, 6] = reshape(%1) {shape=(T, 6)}
%3: f32[T, 6] = mul(%2, @w)
output %3
"""


@pytest.mark.parametrize("text", [L2, ROWS], ids=["unit length", "one group a token"])
def test_others_that_are_one_norm_with_a_weight(text: str) -> None:
    """float32, in another order of products: a few units in the last place."""
    expected, graph = evaluated(parse(text)), parse(text)
    assert raise_norm(graph)
    assert [node.op.mnemonic for node in graph.nodes] == ["rms_norm"]
    torch.testing.assert_close(evaluated(graph), expected, rtol=1e-6, atol=1e-6)


def test_groups_within_a_token_keep_their_rows() -> None:
    text = ROWS.replace("T, 1, 6", "T, 2, 3").replace("%1: f32[T, 1, 6]", "%1: f32[T, 2, 3]")
    graph = parse(text)
    raise_norm(graph)
    assert [node.op.mnemonic for node in graph.nodes] == ["reshape", "rms_norm", "reshape", "mul"]
