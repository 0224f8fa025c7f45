"""Random decoders as traced graphs: hypothesis draws what a model is made of, and odd sizes.

Norms, rotations and gates are spelled out as models trace them, so that the passes raise them;
attention, experts' grouped layers and embeddings are nodes from the start, as the importer makes
them. Inputs are `token_ids` and `positions`, the output is the logits [T, vocab].
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import (
    TORCH_DTYPE,
    Attention,
    Binary,
    Cast,
    CombineExperts,
    Concat,
    Embedding,
    GroupedLinear,
    Linear,
    Norm,
    Op,
    Reduce,
    Reshape,
    RouteTokens,
    Slice,
    Softmax,
    TopK,
    Unary,
)
from llmc.ir.phase import Phase
from llmc.ir.recipe import CheckpointTensor
from llmc.ir.roles import StepArray
from llmc.ir.scalar import scalar
from llmc.ir.types import DType, T, TensorType
from llmc.weights.values import RecipeValues

CONTEXT = 72
"""Tokens that a sequence has at most: more than a cache block."""
ACTIVATIONS = ("silu", "relu", "gelu_tanh", "gelu", "sigmoid")


class Weights:
    """A checkpoint of random matrices, each drawn from a generator seeded by its name.

    Rows are scaled so that what they make of inputs around 1 is around 1; vectors lie around 1.
    """

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(zlib.crc32(tensor.name.encode()))
        values = random.standard_normal(tensor.of).astype(np.float32)
        values = 1 + values / 5 if values.ndim == 1 else values / np.sqrt(tensor.of[-1])
        return values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)[rows].astype(
            np.float32
        )

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Any:
        raise TypeError(f"{tensor.name} is not stored in blocks")


def weight_tensor(value: Value) -> torch.Tensor:
    """A constant's value; block formats come dequantized."""
    shape = [d for d in value.type.shape if isinstance(d, int)]
    array = np.array(RecipeValues(Weights()).value(value.recipe))
    dtype = TORCH_DTYPE.get(value.type.dtype, torch.float32)
    return torch.from_numpy(array).reshape(shape).to(dtype)


class Builder:
    """Appends nodes to a graph."""

    def __init__(self) -> None:
        self.graph = Graph("main", Phase.TRACED)
        self.scope = ""
        self.known: dict[str, Value] = {}

    def __call__(self, op: Op, *inputs: Value | float) -> Value:
        return self.all(op, *inputs)[0]

    def all(self, op: Op, *inputs: Value | float) -> tuple[Value, ...]:
        values = [v if isinstance(v, Value) else scalar(v) for v in inputs]
        return tuple(self.graph.append(op, values, self.scope).outputs)

    def weight(self, name: str, *shape: int) -> Value:
        name = f"{self.scope}.{name}".lstrip(".")
        if name not in self.known:
            recipe = CheckpointTensor(name, "f32", shape)
            self.known[name] = Graph.constant(name, recipe, recipe.type)
        return self.known[name]

    def linear(self, name: str, x: Value, n: int, bias: bool = False) -> Value:
        k = x.type.shape[-1]
        assert isinstance(k, int)
        added = [self.weight(f"{name}.bias", n)] if bias else []
        return self(Linear(bias=bias), x, self.weight(f"{name}.weight", n, k), *added)


@dataclass(frozen=True)
class Choices:
    """What a decoder is made of. `kinds`: each layer's second half, "gated", "plain" or "experts".

    `rotary`: elements of a head that are rotated, 0: none; `after`: a norm behind the attention.
    """

    hidden: int = 17
    vocab: int = 19
    heads: int = 4
    kv_heads: int = 2
    size: int = 8
    rotary: int = 6
    kinds: tuple[str, ...] = ("gated", "experts")
    norm: str = "rms"
    act: str = "silu"
    mlp: int = 45
    window: int = 5
    softcap: float = 0.0
    bias: bool = False
    sinks: bool = False
    slopes: bool = False
    head_norms: bool = False
    after: bool = False
    scaled: bool = False
    tied: bool = False
    capped: bool = False


@st.composite
def models(draw: st.DrawFn) -> Graph:
    """One decoder of one to three layers."""
    heads, kv_heads = draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]))
    flags = ("bias", "sinks", "slopes", "head_norms", "after", "scaled", "tied", "capped")
    kinds = st.lists(st.sampled_from(["gated", "plain", "experts"]), min_size=1, max_size=3)
    choices = Choices(
        hidden=draw(st.sampled_from([6, 17, 32, 40])),
        vocab=draw(st.sampled_from([19, 32, 50])),
        heads=heads,
        kv_heads=kv_heads,
        size=draw(st.sampled_from([6, 8, 10])),
        rotary=draw(st.sampled_from([0, 4, 6])),
        kinds=tuple(draw(kinds)),
        norm=draw(st.sampled_from(["rms", "layer"])),
        act=draw(st.sampled_from(ACTIVATIONS)),
        mlp=draw(st.sampled_from([7, 32, 45])),
        window=draw(st.sampled_from([0, 0, 5])),
        softcap=draw(st.sampled_from([0.0, 20.0])),
        **{flag: draw(st.booleans()) for flag in flags},
    )
    return decoder(choices)


def decoder(choices: Choices) -> Graph:
    """The graph of one decoder, in phase TRACED."""
    make = Builder()
    ids, positions = (
        make.graph.add_input(role.value, TensorType(DType.I32, (T,)), role)
        for role in (StepArray.TOKEN_IDS, StepArray.POSITIONS)
    )
    tables = _tables(make, positions, choices.rotary) if choices.rotary else None
    table = make.weight("embed.weight", choices.vocab, choices.hidden)
    x = make(Embedding(), table, ids)
    x = make(Binary("mul"), x, 2.5) if choices.scaled else x
    for number, kind in enumerate(choices.kinds):
        make.scope = f"layers.{number}"
        x = _layer(make, x, tables, kind, choices)
    make.scope = ""
    x = _norm(make, "norm", x, choices.norm)
    x = make(Linear(), x, table) if choices.tied else make.linear("head", x, choices.vocab)
    if choices.capped:
        x = make(Binary("mul"), make(Unary("tanh"), make(Binary("div"), x, 9.0)), 9.0)
    make.graph.outputs = [x]
    return make.graph


def _tables(make: Builder, positions: Value, rotary: int) -> tuple[Value, Value]:
    """cos and sin [T, rotary / 2] of the positions' angles."""
    column = make(Cast(DType.F32), make(Reshape((T, 1)), positions))
    angles = make(Binary("mul"), column, make.weight("inv_freq", rotary // 2))
    return make(Unary("cos"), angles), make(Unary("sin"), angles)


def _layer(
    make: Builder,
    x: Value,
    tables: tuple[Value, Value] | None,
    kind: str,
    choices: Choices,
) -> Value:
    y = _attention(make, _norm(make, "norm1", x, choices.norm), tables, choices)
    if choices.after:
        y = _norm(make, "norm_after", y, choices.norm)
    x = make(Binary("add"), x, y)
    y = _norm(make, "norm2", x, choices.norm)
    y = _experts(make, y, choices) if kind == "experts" else _mlp(make, y, kind, choices)
    return make(Binary("add"), x, y)


def _norm(make: Builder, name: str, x: Value, kind: str) -> Value:
    width = x.type.shape[-1]
    assert isinstance(width, int)
    if kind == "layer":
        weight, bias = make.weight(f"{name}.weight", width), make.weight(f"{name}.bias", width)
        return make(Norm("layer_norm", 1e-5, bias=True), x, weight, bias)
    mean = make(Reduce("mean", (-1,), keepdim=True), make(Unary("square"), x))
    scale = make(Unary("rsqrt"), make(Binary("add"), mean, 1e-5))
    return make(Binary("mul"), make.weight(f"{name}.weight", width), make(Binary("mul"), x, scale))


def _attention(
    make: Builder,
    x: Value,
    tables: tuple[Value, Value] | None,
    choices: Choices,
) -> Value:
    heads, kv_heads, size = choices.heads, choices.kv_heads, choices.size
    hidden, bias = x.type.shape[-1], choices.bias
    assert isinstance(hidden, int)
    q, k, v = (
        make(Reshape((T, count, size)), make.linear(name, x, count * size, bias))
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
    )
    if choices.head_norms:
        q, k = (_norm(make, f"{n}_norm", t, "rms") for n, t in (("q", q), ("k", k)))
    if tables is not None:
        q, k = (_rotated(make, t, tables, choices.rotary) for t in (q, k))
    op = Attention(size**-0.5, choices.window, choices.softcap, choices.sinks, choices.slopes)
    by_head = [name for name in ("sinks", "slopes") if getattr(choices, name)]
    y = make(op, q, k, v, *(make.weight(name, heads) for name in by_head))
    return make.linear("o", make(Reshape((T, heads * size)), y), hidden, bias)


def _rotated(make: Builder, x: Value, tables: tuple[Value, Value], rotary: int) -> Value:
    """The first `rotary` elements of each head, in halves: x1 c - x2 s, x2 c + x1 s."""
    half, size = rotary // 2, x.type.shape[-1]
    assert isinstance(size, int)
    cos, sin = (make(Reshape((T, 1, half)), t) for t in tables)
    part = x if size == rotary else make(Slice(-1, 0, rotary), x)
    x1, x2 = make(Slice(-1, 0, half), part), make(Slice(-1, half, rotary), part)
    y1 = make(Binary("sub"), make(Binary("mul"), x1, cos), make(Binary("mul"), x2, sin))
    y2 = make(Binary("add"), make(Binary("mul"), x2, cos), make(Binary("mul"), x1, sin))
    y = make(Concat(-1), y1, y2)
    return y if size == rotary else make(Concat(-1), y, make(Slice(-1, rotary, size), x))


def _mlp(make: Builder, x: Value, kind: str, choices: Choices) -> Value:
    hidden, width, bias = x.type.shape[-1], choices.mlp, choices.bias
    assert isinstance(hidden, int)
    y = make(Unary(choices.act), make.linear("gate", x, width, bias))
    if kind == "gated":
        y = make(Binary("mul"), y, make.linear("up", x, width, bias))
    return make.linear("down", y, hidden, bias)


def _experts(make: Builder, x: Value, choices: Choices, count: int = 3, k: int = 2) -> Value:
    """Each token goes to `k` of `count` gated layers; routers see sharp logits, to be sure."""
    hidden, width = x.type.shape[-1], choices.mlp
    assert isinstance(hidden, int)
    scores = make(Binary("mul"), make.linear("router", x, count), 3.0)
    weights, index = make.all(TopK(k), make(Softmax(-1), scores))
    rows, offsets, slot = make.all(RouteTokens(count), index)
    both = make.weight("gate_up", count, 2 * width, hidden)
    h = make(GroupedLinear(gather=True), x, both, rows, offsets)
    gate, up = make(Slice(-1, 0, width), h), make(Slice(-1, width, 2 * width), h)
    h = make(Binary("mul"), make(Unary(choices.act), gate), up)
    y = make(GroupedLinear(), h, make.weight("down", count, hidden, width), offsets)
    return make(CombineExperts(), y, slot, weights)
