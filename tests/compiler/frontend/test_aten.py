"""Every ATen handler against torch: tiny modules are exported, imported and interpreted."""
# ruff: noqa: E501 (a table of functions)

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.importer import import_graph
from llmc.compiler.frontend.lower import own_tensors
from llmc.compiler.frontend.trace import Traced
from llmc.ir.interpreter import interpret
from llmc.ir.recipe import Computed
from llmc.ir.verifier import verify

Function = Callable[[torch.Tensor], torch.Tensor]
A = torch.ops.aten
TOKENS, WIDTH = 7, 6


class Tiny(torch.nn.Module):
    """Rows of a table by token id, x [1, T, 6], and what each function makes of them."""

    def __init__(self, functions: list[Function]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        # Within (-1, 1), away from 0: inside the domain of every function here.
        table = torch.rand(11, WIDTH, generator=generator) * 0.9 + 0.05
        self.table = torch.nn.Parameter(table * torch.randn(11, WIDTH).sign(), requires_grad=False)
        self.functions = functions

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> list[torch.Tensor]:
        x = F.embedding(token_ids, self.table)
        return [f(x) for f in self.functions]


def export(module: torch.nn.Module) -> Traced:
    """A trace as `trace` makes it; parameters go by their names."""
    example = (torch.zeros(1, 19, dtype=torch.long), torch.arange(19).unsqueeze(0))
    dynamic = {1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        module, example, dynamic_shapes=(dynamic, dynamic), strict=False
    ).run_decompositions({})
    return Traced(program, module, {}, max_context=32)


def check(functions: list[Function], tolerance: float = 1e-6) -> None:
    """The imported graph computes what the module does, for another number of tokens.

    The same torch functions run, most of them on the same values: 1e-6 is a few roundings.
    """
    module = Tiny(functions)
    traced = export(module)
    graph = import_graph(traced, own_tensors(module))
    verify(graph)
    ids = torch.randint(0, 11, (1, TOKENS))
    inputs = {"token_ids": ids, "positions": torch.arange(TOKENS).unsqueeze(0)}
    named = {v.name: v for v in graph.inputs}
    actual = interpret(graph, {k: v for k, v in inputs.items() if k in named}, constants(module))
    expected = module(*inputs.values())
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        torch.testing.assert_close(
            a, e, rtol=tolerance, atol=tolerance, msg=lambda m, i=i: f"function {i}: {m}"
        )


def constants(module: torch.nn.Module):
    def value(v) -> torch.Tensor:
        if isinstance(v.recipe, Computed):
            return torch.from_numpy(v.recipe.value.copy())
        return dict(module.named_parameters())[v.name]

    return value


def matrix(*shape: int) -> torch.Tensor:
    """Random numbers that a trace sees as a constant, not as a random operator."""
    values = np.random.default_rng(sum(shape)).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def written(x: torch.Tensor) -> torch.Tensor:
    """Uninitialised memory that is written part by part."""
    y = x.new_empty(1, x.shape[1], 8)
    y[..., :2] = x[..., 4:]
    y[..., 2:] = x
    return y


def strided(x: torch.Tensor, start: int, stop: int, step: int) -> torch.Tensor:
    """Every other element of a row, written by others (interleaved rotary tables of Qwen3-VL)."""
    y = x.clone()
    y[..., start:stop:step] = -3.0 * x[..., start:stop:step]
    return y


def entry_written(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[..., 1] = x[..., 2] * 2
    return y


def pairs(x: torch.Tensor) -> torch.Tensor:
    """Pairs of x's elements as complex numbers [1, T, 3]."""
    return torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))


def reals(z: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(z).flatten(-2)


def turned(z: torch.Tensor) -> torch.Tensor:
    """As rotary embeddings are spelled: z times unit numbers of another angle each."""
    angles = torch.arange(3) * z.real
    return z * (torch.polar(torch.ones_like(angles), angles) * 0.5)


GROUPS: dict[str, list[Function]] = {
    "unary": [
        torch.abs, torch.ceil, torch.cos, torch.erf, torch.exp, torch.expm1, torch.floor,
        F.hardswish, F.hardsigmoid, torch.log1p, F.mish, torch.neg, torch.reciprocal, torch.relu,
        torch.round, torch.selu, torch.sigmoid, torch.sign, F.silu, torch.sin, torch.square,
        torch.tan, torch.tanh, torch.trunc, lambda x: x.abs().log(), lambda x: x.abs().log2(),
        lambda x: x.abs().rsqrt(), lambda x: x.abs().sqrt(), lambda x: torch.isfinite(1 / (x > 0)),
        lambda x: torch.isinf(1 / (x > 0)), torch.isnan, lambda x: torch.logical_not(x > 0),
        lambda x: torch.bitwise_not((x * 9).long()),
    ],
    "activations": [
        F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.softplus, lambda x: F.softplus(x, 2.0),
        F.elu, F.leaky_relu, lambda x: F.leaky_relu(x, 0.2), lambda x: x.clamp(-0.2, 0.3),
        lambda x: x.clamp(min=0.1), lambda x: x.clamp(max=0.1), lambda x: F.hardtanh(x * 3),
        F.relu6, lambda x: A.clamp_min(x, 0.1), lambda x: A.clamp_max(x, 0.1),
    ],
    "binary": [
        lambda x: x + 1, lambda x: torch.add(x, x * 2, alpha=3),
        lambda x: x - 2, lambda x: 2 - x, lambda x: torch.sub(x, x * x, alpha=2), lambda x: x * 3,
        lambda x: x / 3, lambda x: 3 / x, lambda x: torch.div(x, 0.3, rounding_mode="floor"),
        lambda x: torch.div(x, 0.3, rounding_mode="trunc"), lambda x: x**2, lambda x: x.abs()**0.5,
        lambda x: x.abs()**-0.5, lambda x: x**3, lambda x: 2**x, lambda x: x.abs()**x,
        lambda x: torch.atan2(x, x + 1), lambda x: torch.fmod(x, 0.3), lambda x: x % 0.3,
        lambda x: torch.maximum(x, -x), lambda x: torch.minimum(x, x * x), lambda x: x // 0.3,
    ],
    "comparisons": [
        lambda x: x == x * 1, lambda x: x != 0.5, lambda x: x < 0.1, lambda x: x <= x, lambda x: x > 0,
        lambda x: x >= 0.2, lambda x: torch.logical_and(x > 0, x < 0.5), lambda x: (x > 0) | (x < -0.5),
        lambda x: (x > 0) & (x < 0.5), lambda x: torch.logical_or(x > 0, x < -0.5),
        lambda x: torch.logical_xor(x > 0, x > 0.5), lambda x: (x * 9).long() ^ 5,
        lambda x: torch.where(x > 0, x, 0.0), lambda x: torch.where(x > 0, 1.0, x),
        lambda x: x.masked_fill(x > 0, -7.0),
    ],
    "conversions": [
        lambda x: (x * 9).to(torch.int64), lambda x: x.to(torch.bfloat16).float(),
        lambda x: x.half().to(x.dtype), lambda x: (x > 0).float(), lambda x: (x * 9).int() + 1,
        lambda x: (x > 0).type_as(x), lambda x: x.clone().detach().contiguous(),
        lambda x: F.dropout(x, 0.5, training=False), lambda x: (x * 9).int() / 2,
        lambda x: x.float(),
    ],
    "views": [
        lambda x: x.view(1, -1, 2, 3), lambda x: x.reshape(-1, 3), lambda x: x.unsqueeze(-1),
        lambda x: x.unsqueeze(0).squeeze(0), lambda x: x.unsqueeze(1).squeeze(), lambda x: x.flatten(1),
        lambda x: x.flatten(0, 1), lambda x: x.unflatten(-1, (2, -1)), lambda x: x.permute(0, 2, 1),
        lambda x: x.transpose(1, 2), lambda x: x.mT, lambda x: x[0].t(),
        lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1), lambda x: x[..., :1].expand_as(x),
        lambda x: x.repeat(1, 1, 2), lambda x: x.repeat(2, 1, 1, 2),
        lambda x: x.repeat_interleave(3, -1), lambda x: x.view_as(x * 2),
        lambda x: A.view_as(x.flatten(), x), lambda x: x.squeeze(0),
    ],
    "slices": [
        lambda x: x[..., 1:5:2], lambda x: x[..., -3:], lambda x: x[:, :, 2], lambda x: x[..., -1],
        lambda x: x.narrow(-1, 1, 3), lambda x: torch.cat(x.split(2, -1)[::-1], -1),
        lambda x: x.split([1, 5], -1)[1], lambda x: x.chunk(4, -1)[2], lambda x: x.unbind(-1)[4],
        lambda x: torch.stack((x, -x), -2), lambda x: torch.stack((x, -x)), lambda x: F.pad(x, (1, 2)),
        lambda x: F.pad(x, (0, 1), value=5.0), lambda x: x[:, :], written, entry_written,
        lambda x: strided(x, 0, 6, 3), lambda x: strided(x, 1, 6, 2), lambda x: strided(x, 1, 5, 3),
        lambda x: strided(x, 5, 6, 2), lambda x: strided(x, -4, 6, 3),
        lambda x: torch.cat((x, torch.zeros(1, 1, 2).expand(1, x.shape[1], 2)), -1),
    ],
    "sources": [
        lambda x: x * torch.arange(6), lambda x: x * torch.arange(1, 13, 2),
        lambda x: x + torch.arange(0.5, 6), lambda x: x * torch.arange(6, dtype=torch.float32),
        lambda x: x + torch.full((6,), 3), lambda x: torch.full_like(x, 2.5), torch.zeros_like,
        torch.ones_like, lambda x: x.new_zeros(3) + x[..., :3], lambda x: x + x.new_ones((1, 6)),
        lambda x: x.new_full((1, 3), 4.0) + x[..., :3], lambda x: x + torch.zeros(6) + torch.ones(1),
        lambda x: x * torch.tensor(3.0), lambda x: x + A.scalar_tensor(2),
        lambda x: x * torch.erfinv(torch.tensor(0.3) * 2), lambda x: x.multiply(2.0).subtract(x.negative()),
        lambda x: x + torch.stack(torch.broadcast_tensors(torch.tensor([1.0, 2.0]), torch.tensor([[3.0]]))).sum(),
        lambda x: x[0, :, 0] * torch.arange(x.shape[1]), lambda x: x + torch.arange(x.shape[1]).float()[:, None],
    ],
    "complex": [
        lambda x: reals(pairs(x)), lambda x: reals(turned(pairs(x))),
        lambda x: reals(turned(pairs(x).unsqueeze(1).transpose(1, 2))),
        lambda x: reals(torch.complex(x, -x) * torch.complex(x * 2, x + 1)),
        lambda x: reals(pairs(x) * x[..., :3]), lambda x: reals(x[..., :1] * pairs(x)),
        lambda x: reals(pairs(x) / 3), lambda x: reals(pairs(x) + pairs(-x * x)),
        lambda x: reals(pairs(x) - pairs(x * x)), lambda x: pairs(x).real, lambda x: pairs(x).imag,
        lambda x: reals(pairs(x) * pairs(x * 2).conj()), lambda x: pairs(x).abs(),
        lambda x: pairs(x).angle(), lambda x: reals(pairs(x)[..., 1:]), lambda x: reals(-pairs(x)),
        lambda x: reals(torch.cat(pairs(x).split([1, 2], -1)[::-1], -1)),
        lambda x: reals(pairs(x).sum(-1)), lambda x: reals(pairs(x) * torch.view_as_complex(matrix(3, 2))),
        lambda x: torch.view_as_real(torch.view_as_complex(x[..., :2])),
        lambda x: reals(pairs(x).to(torch.complex64).reshape(-1, 3).expand(2, -1, -1)),
    ],
    "look-ups": [
        lambda x: matrix(4, 3)[(x > 0).long()[..., 0]], lambda x: matrix(4, 3)[(x > 0).long()[0, :, 0] - 1],
        lambda x: torch.index_select(matrix(4, 3), 0, (x > 0).long()[0, :, 0]),
        lambda x: x.gather(-1, (x > 0).long()), lambda x: x.scatter(-1, (x > 0).long()[..., :1], 3.0),
        lambda x: x.scatter(-1, torch.topk(x, 2).indices, x[..., :2]),
        lambda x: x.scatter_add(-1, (x > 0).long(), x), lambda x: F.one_hot((x > 0).long(), 3),
    ],
    "reductions": [
        lambda x: x.sum(-1), lambda x: x.mean(-1, keepdim=True), lambda x: x.amax(-1),
        lambda x: x.amin(-1), lambda x: x.prod(-1), lambda x: (x > 0).any(-1), lambda x: (x > 0).all(-1),
        lambda x: x.argmax(-1), lambda x: x.max(-1)[0], lambda x: x.max(-1, keepdim=True)[1],
        lambda x: x.sum(-1, dtype=torch.float32), lambda x: (x > 0).sum(-1), lambda x: x.var(-1),
        lambda x: x.var(-1, unbiased=False, keepdim=True), lambda x: x.std(-1),
        lambda x: x.var(-1, correction=2), lambda x: x.norm(dim=-1),
        lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True), lambda x: x.softmax(-1),
        lambda x: x.log_softmax(-1), lambda x: F.softmax(x, -1, dtype=torch.float32),
        lambda x: x.cumsum(-1), lambda x: (x > 0).cumsum(-1), lambda x: matrix(3, 4).sum() + x,
        lambda x: x + matrix(3, 4).max(), lambda x: x + matrix(3, 4).min(),
    ],
    "order": [
        lambda x: x.topk(3)[0], lambda x: x.topk(3)[1], lambda x: x.sort(-1)[0], lambda x: x.sort(-1)[1],
        lambda x: x.sort(-1, descending=True)[0], lambda x: x.argsort(-1),
        lambda x: x.argsort(-1, descending=True), lambda x: x.sort(dim=-1, stable=True)[1],
    ],
    "products": [
        lambda x: F.linear(x, matrix(4, 6)), lambda x: F.linear(x, matrix(4, 6), matrix(4)),
        lambda x: x @ matrix(6, 4), lambda x: torch.mm(x[0], matrix(6, 4)),
        lambda x: torch.addmm(matrix(4), x[0], matrix(6, 4)),
        lambda x: torch.bmm(x.view(-1, 2, 3), x.view(-1, 3, 2)),
        lambda x: torch.baddbmm(x.view(-1, 2, 3)[..., :2], x.view(-1, 2, 3), x.view(-1, 3, 2), beta=0.5, alpha=2.0),
        lambda x: torch.baddbmm(x.view(-1, 2, 3)[..., :2], x.view(-1, 2, 3), x.view(-1, 3, 2), beta=0),
        lambda x: torch.matmul(x.view(1, -1, 2, 3), x.view(1, -1, 3, 2)),
        lambda x: F.layer_norm(x, (6,), matrix(6), matrix(6) * 2, 1e-3), lambda x: F.layer_norm(x, (6,)),
        lambda x: F.rms_norm(x, (6,), matrix(6), 1e-3), lambda x: F.rms_norm(x, (6,)),
    ],
    "tokens": [
        lambda x: x[0, :, 0] * torch.arange(x.shape[1]),
        lambda x: torch.arange(3, x.shape[1] + 3, dtype=torch.float32).view(1, -1, 1) * x,
        lambda x: torch.arange(-x.shape[1], 0)[:, None] - torch.arange(x.shape[1]),
        lambda x: x + matrix(40, 6)[: x.shape[1]], lambda x: x + matrix(40, 6)[5 : 5 + x.shape[1]],
        lambda x: x.transpose(1, 2) + matrix(2, 6, 40).narrow(-1, 40 - x.shape[1], x.shape[1]),
        lambda x: x + matrix(1, 6)[:, None].expand(1, 40, 6)[:, : x.shape[1]],
        lambda x: matrix(40, 40).view(1, 1, 40, 40)[:, :, x.shape[1] - x.shape[1] : x.shape[1], : x.shape[1]],
        lambda x: matrix(3, 40)[:, max(0, 40 - x.shape[1]) :] + x[0, :, :3].T,
        lambda x: torch.ones(1, x.shape[1], dtype=torch.long).cumsum(-1) * x[..., 0],
        lambda x: (x @ x.transpose(1, 2)).tril(), lambda x: (x @ x.transpose(1, 2)).triu(1),
        lambda x: torch.full((x.shape[1], x.shape[1]), -1e9).triu(-2), lambda x: x + matrix(6, 6).tril(1)[2],
        lambda x: x.view(1, -1, 2, 3)[:, :, [-1], :], lambda x: x[..., [4, 0, 1]], lambda x: x[..., [2, 3]],
    ],
}  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_handlers_agree_with_torch(group: str) -> None:
    check(GROUPS[group], 1e-5 if group in ("products", "reductions") else 1e-6)


REFUSED: dict[str, Function] = {
    "aten.select": lambda x: x[:, -1],
    "aten.cumsum": lambda x: x.cumsum(1),
    "aten.sum": lambda x: x.sum(1),
    "aten.roll": lambda x: x.roll(1, -1),
    "aten.argmax": lambda x: x.view(1, -1, 2, 3).flatten(2).argmax(),
    "aten.arange": lambda x: torch.arange(2 * x.shape[1]).view(-1, 2) * x[0, :, :2],
    "aten.slice.Tensor": lambda x: x + matrix(64, 6)[: 2 * x.shape[1]].view(-1, 2, 6)[:, 0],
    "aten.view": lambda x: (x @ x.transpose(1, 2)).view(1, -1).tril() + x[0, 0, 0],
    "aten.topk": lambda x: x.topk(2, largest=False)[0],
    "aten.cat": lambda x: torch.cat((x, x), 1),
    "aten.add": lambda x: reals(pairs(x) + x[..., :3]),
    "aten.div": lambda x: reals(pairs(x) / pairs(x + 1)),
    "aten.exp": lambda x: reals(pairs(x).exp()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_imported_is_refused_by_name(name: str) -> None:
    """The message names the operator and the line of model code."""
    module = Tiny([REFUSED[name]])
    with pytest.raises(LlmcError, match=rf"{name}.*test_aten.py:\d+ `") as caught:
        import_graph(export(module), own_tensors(module))
    assert caught.value.id == "LLMC-E0401"
