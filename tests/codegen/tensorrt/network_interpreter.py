"""Executes a TensorRT network with torch, read back layer by layer from `INetworkDefinition`.

The proof that what was built means what the graph means, where no GPU can run the engine. Nothing
here looks at our graph: layers, attributes, connections and constants come from the network, and
each layer does what TensorRT's operator reference says. Products accumulate in f32 and round to
the type of their result, as tensor cores do. Caches are updated in place.

Types that numpy lacks (int4, fp8, bf16) can't be read back from a constant layer: their bytes
come from `held`, the arrays that TensorRT was given, by the layer's place among such constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from llmc.codegen.tensorrt.constants import Held

Tensor = torch.Tensor
OPAQUE = ("int4", "fp8", "bfloat16")


class NetworkInterpreter:
    """Runs `definition`. `held`: arrays of constants in types that numpy doesn't have, in order."""

    def __init__(self, trt: Any, definition: Any, held: Sequence[Held]) -> None:
        self.trt = trt
        self.dtype = {
            trt.float32: torch.float32, trt.float16: torch.float16, trt.bfloat16: torch.bfloat16,
            trt.int64: torch.int64, trt.int32: torch.int32, trt.int8: torch.int8,
            trt.bool: torch.bool, trt.fp8: torch.float8_e4m3fn, trt.int4: torch.int8,
        }  # fmt: skip
        opaque = iter([h for h in held if h.type in OPAQUE])
        layers = [definition.get_layer(i) for i in range(definition.num_layers)]
        self.constants = {
            layer.get_output(0).name: self._constant(layer, opaque)
            for layer in layers
            if layer.type.name == "CONSTANT"
        }
        computed = _ordered([x for x in layers if x.type.name != "CONSTANT"])
        self.steps = [self._step(layer) for layer in computed]
        self.outputs = [definition.get_output(i).name for i in range(definition.num_outputs)]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; the tensors of caches are changed."""
        values = {**self.constants, **inputs}
        for run, layer, read, written in self.steps:
            result = run(layer, [None if name is None else values[name] for name in read])
            results = result if isinstance(result, tuple) else (result,)
            for (name, shape, dtype), tensor in zip(written, results, strict=True):
                _check(name, shape, dtype, tensor)
                values[name] = tensor
        return {name: values[name] for name in self.outputs}

    def _step(self, layer: Any) -> tuple[Callable[..., Any], Any, list, list]:
        """How to run a layer, and the names (and types) of what it reads and writes."""
        run = getattr(self, f"_{layer.type.name.lower()}")
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        read = [None if tensor is None else tensor.name for tensor in inputs]
        written = [(t.name, tuple(t.shape), self.dtype[t.dtype]) for t in outputs]
        return run, self._with_attributes(layer), read, written

    def _with_attributes(self, layer: Any) -> Any:
        """The layer under the class that has its attributes (some hide `type` with their own)."""
        name = CLASSES.get(layer.type.name)
        if name is not None:
            layer.__class__ = getattr(self.trt, name)
        return layer

    def _constant(self, layer: Any, opaque: Iterator[Held]) -> Tensor:
        layer.__class__ = self.trt.IConstantLayer
        shape = tuple(layer.shape)
        if isinstance(layer.weights, np.ndarray):
            return torch.from_numpy(layer.weights.copy()).reshape(shape)
        held = next(opaque)
        assert getattr(self.trt, held.type) == layer.weights.dtype
        assert held.count == layer.weights.size
        data = torch.from_numpy(np.array(held.array))
        if held.type == "bfloat16":
            return data.view(torch.bfloat16).reshape(shape)
        if held.type == "fp8":
            return data.view(torch.float8_e4m3fn).reshape(shape)
        nibbles = torch.stack((data & 15, data >> 4), -1).to(torch.int8)
        return torch.where(nibbles > 7, nibbles - 16, nibbles).reshape(shape)

    # -- shapes and movement

    def _shape(self, layer: Any, given: list) -> Tensor:
        return torch.tensor(given[0].shape, dtype=torch.int64)

    def _shuffle(self, layer: Any, given: list) -> Tensor:
        x = given[0].permute(tuple(layer.first_transpose)[: given[0].dim()])
        assert tuple(layer.second_transpose)[:8] == tuple(range(8))
        if len(given) > 1:
            return x.reshape(given[1].tolist())
        return x if layer.reshape_dims is None else x.reshape(tuple(layer.reshape_dims))

    def _slice(self, layer: Any, given: list) -> Tensor:
        x = given[0]
        size = given[2].tolist() if len(given) > 2 and given[2] is not None else list(layer.shape)
        start, stride = list(layer.start), list(layer.stride)
        axes = list(layer.axes) if layer.axes is not None else list(range(x.dim()))
        for axis, begin, count, step in zip(axes, start, size, stride, strict=True):
            index = begin + step * torch.arange(count)
            if layer.mode == self.trt.SampleMode.FILL:
                fill = given[4].to(x.dtype)
                inside = index < x.shape[axis]
                picked = x.index_select(axis, index.clamp(max=x.shape[axis] - 1))
                shape = [-1 if d == axis else 1 for d in range(x.dim())]
                x = torch.where(inside.view(shape), picked, fill)
            else:
                x = x.index_select(axis, index)
        return x

    def _concatenation(self, layer: Any, given: list) -> Tensor:
        return torch.cat(given, layer.axis)

    def _unsqueeze(self, layer: Any, given: list) -> Tensor:
        x = given[0]
        for axis in sorted(given[1].tolist()):
            x = x.unsqueeze(axis)
        return x

    def _gather(self, layer: Any, given: list) -> Tensor:
        x, index = given
        if layer.mode == self.trt.GatherMode.ND:
            return x[tuple(index.long().unbind(-1))]
        if layer.mode == self.trt.GatherMode.ELEMENT:
            return torch.gather(x, layer.axis, index.long())
        assert layer.axis == 0
        return x[index.long()]

    def _scatter(self, layer: Any, given: list) -> Tensor:
        x, index, source = given
        if layer.mode == self.trt.ScatterMode.ND:
            result = x.clone()
            result[tuple(index.long().unbind(-1))] = source
            return result
        return x.scatter(layer.axis, index.long(), source)

    def _fill(self, layer: Any, given: list) -> Tensor:
        count, first, step = given
        return (first + step * torch.arange(int(count))).to(self.dtype[layer.to_type])

    # -- arithmetic

    def _cast(self, layer: Any, given: list) -> Tensor:
        return given[0].to(self.dtype[layer.to_type])

    def _elementwise(self, layer: Any, given: list) -> Tensor:
        return BINARY[layer.op.name](*given)

    def _unary(self, layer: Any, given: list) -> Tensor:
        return UNARY[layer.op.name](given[0])

    def _activation(self, layer: Any, given: list) -> Tensor:
        return ACTIVATION[layer.type.name](given[0], layer.alpha, layer.beta)

    def _select(self, layer: Any, given: list) -> Tensor:
        return torch.where(*given)

    def _reduce(self, layer: Any, given: list) -> Tensor:
        x = given[0]
        dims = [d for d in range(x.dim()) if layer.axes >> d & 1]
        for dim in reversed(dims):
            x = REDUCE[layer.op.name](x, dim, layer.keep_dims)
        return x.to(given[0].dtype)

    def _softmax(self, layer: Any, given: list) -> Tensor:
        return torch.softmax(given[0], layer.axes.bit_length() - 1)

    def _cumulative(self, layer: Any, given: list) -> Tensor:
        assert not layer.exclusive
        assert not layer.reverse
        return given[0].cumsum(int(given[1])).to(given[0].dtype)

    def _topk(self, layer: Any, given: list) -> tuple[Tensor, Tensor]:
        values, index = torch.topk(given[0], layer.k, layer.axes.bit_length() - 1)
        return values, index.to(self.dtype[layer.indices_type])

    def _normalization(self, layer: Any, given: list) -> Tensor:
        x, scale, bias = given
        assert layer.axes == 1 << (x.dim() - 1)
        return F.layer_norm(x, x.shape[-1:], eps=layer.epsilon) * scale + bias

    def _matrix_multiply(self, layer: Any, given: list) -> Tensor:
        kinds = self.trt.MatrixOperation
        a, b = (
            x.transpose(-1, -2) if op == kinds.TRANSPOSE else x
            for x, op in zip(given, (layer.op0, layer.op1), strict=True)
        )
        return (a.float() @ b.float()).to(given[0].dtype)

    # -- quantization

    def _quantize(self, layer: Any, given: list) -> Tensor:
        x, scale = given
        scaled = x.float() / scale.float()
        if layer.to_type == self.trt.fp8:
            return scaled.clamp(-448, 448).to(torch.float8_e4m3fn)
        return scaled.round().clamp(-128, 127).to(torch.int8)

    def _dequantize(self, layer: Any, given: list) -> Tensor:
        codes, scale = given
        if scale.dim() == codes.dim() and scale.dim() > 1:  # blocks along the last dimension
            steps = scale.repeat_interleave(codes.shape[-1] // scale.shape[-1], -1)
        elif scale.dim() == 1:
            steps = scale.view([-1 if d == layer.axis else 1 for d in range(codes.dim())])
        else:
            steps = scale
        return (codes.float() * steps.float()).to(self.dtype[layer.to_type])

    # -- attention

    def _rotary_embedding(self, layer: Any, given: list) -> Tensor:
        x, cos, sin = given[:3]
        dim = layer.rotary_embedding_dim
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        head, rest = x[..., :dim], x[..., dim:]
        x1, x2 = (head[..., 0::2], head[..., 1::2]) if layer.interleaved else head.chunk(2, -1)
        y1, y2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
        y = torch.stack((y1, y2), -1).flatten(-2) if layer.interleaved else torch.cat((y1, y2), -1)
        return torch.cat((y, rest), -1)

    def _kv_cache_update(self, layer: Any, given: list) -> Tensor:
        cache, update, start = given
        count = update.shape[2]
        for slot, at in enumerate(start.tolist()):
            assert at + count <= cache.shape[2], "an update beyond the cache"
            cache[slot, :, at : at + count] = update[slot]
        return cache

    def _attention_input(self, layer: Any, given: list) -> Tensor:
        """The whole attention; its output layer hands it on."""
        op = layer.attention
        q, k, v = given[:3]
        assert op.norm_op == self.trt.AttentionNormalizationOp.SOFTMAX
        group = q.shape[1] // k.shape[1]
        keys, values = (x.float().repeat_interleave(group, 1) for x in (k, v))
        scores = q.float() @ keys.transpose(-1, -2)
        seen = self._seen(op, q, k, [g for g in given[3:] if g is not None])
        p = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1).nan_to_num(0.0)
        return (p.to(q.dtype).float() @ values).to(q.dtype)

    def _seen(self, op: Any, q: Tensor, k: Tensor, rest: list[Tensor]) -> Tensor:
        """bool, broadcast to [S, 1, Q, L]."""
        lengths = next(t for t in rest if t.dim() == 1)
        i = torch.arange(q.shape[2]).view(-1, 1)
        j = torch.arange(k.shape[2])
        ends = lengths.view(-1, 1, 1, 1)
        seen = j < ends
        if op.causal_kind == self.trt.CausalMaskKind.LOWER_RIGHT:
            seen = seen & (j <= ends - q.shape[2] + i)
        else:
            assert op.causal_kind == self.trt.CausalMaskKind.NONE
            mask = next(t for t in rest if t.dim() == 4)
            assert mask.dtype == torch.bool
            seen = seen & mask
        return seen

    def _attention_output(self, layer: Any, given: list) -> Tensor:
        return given[0]


CLASSES = {
    "SHUFFLE": "IShuffleLayer", "SLICE": "ISliceLayer", "CONCATENATION": "IConcatenationLayer",
    "GATHER": "IGatherLayer", "SCATTER": "IScatterLayer", "FILL": "IFillLayer",
    "CAST": "ICastLayer", "ELEMENTWISE": "IElementWiseLayer", "UNARY": "IUnaryLayer",
    "ACTIVATION": "IActivationLayer", "REDUCE": "IReduceLayer", "SOFTMAX": "ISoftMaxLayer",
    "CUMULATIVE": "ICumulativeLayer", "TOPK": "ITopKLayer", "NORMALIZATION": "INormalizationLayer",
    "MATRIX_MULTIPLY": "IMatrixMultiplyLayer", "QUANTIZE": "IQuantizeLayer",
    "DEQUANTIZE": "IDequantizeLayer", "ROTARY_EMBEDDING": "IRotaryEmbeddingLayer",
    "KV_CACHE_UPDATE": "IKVCacheUpdateLayer", "ATTENTION_INPUT": "IAttentionInputLayer",
    "ATTENTION_OUTPUT": "IAttentionOutputLayer",
}  # fmt: skip


def _check(name: str, shape: tuple[int, ...], dtype: torch.dtype, tensor: Tensor) -> None:
    """What TensorRT inferred about an output holds for what was computed."""
    fits = len(shape) == tensor.dim() and all(
        d in (-1, s) for d, s in zip(shape, tensor.shape, strict=True)
    )
    assert fits, f"{name}: {tuple(tensor.shape)}, TensorRT says {shape}"
    assert dtype == tensor.dtype, f"{name}: {tensor.dtype}, TensorRT says {dtype}"


def _floor_div(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="floor")


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SUM": torch.add, "SUB": torch.sub, "PROD": torch.mul, "DIV": torch.div, "POW": torch.pow,
    "MAX": torch.maximum, "MIN": torch.minimum, "FLOOR_DIV": _floor_div, "EQUAL": torch.eq,
    "GREATER": torch.gt, "LESS": torch.lt, "AND": torch.logical_and, "OR": torch.logical_or,
    "XOR": torch.logical_xor,
}  # fmt: skip
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "ABS": torch.abs, "CEIL": torch.ceil, "COS": torch.cos, "ERF": torch.erf, "EXP": torch.exp,
    "FLOOR": torch.floor, "ISINF": torch.isinf, "ISNAN": torch.isnan, "LOG": torch.log,
    "NOT": torch.logical_not, "NEG": torch.neg, "RECIP": torch.reciprocal, "ROUND": torch.round,
    "SIGN": torch.sign, "SIN": torch.sin, "SQRT": torch.sqrt, "TAN": torch.tan,
}  # fmt: skip
ACTIVATION: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "RELU": lambda x, a, b: torch.relu(x),
    "SIGMOID": lambda x, a, b: torch.sigmoid(x),
    "TANH": lambda x, a, b: torch.tanh(x),
    "GELU_ERF": lambda x, a, b: F.gelu(x),
    "GELU_TANH": lambda x, a, b: F.gelu(x, approximate="tanh"),
    "ELU": lambda x, a, b: F.elu(x, a),
    "SELU": lambda x, a, b: torch.where(x > 0, b * x, b * (a * torch.exp(x) - a)),
    "SOFTPLUS": lambda x, a, b: a * torch.log1p(torch.exp(b * x)),
    "HARD_SIGMOID": lambda x, a, b: (a * x + b).clamp(0, 1),
}
REDUCE: dict[str, Callable[[Tensor, int, bool], Tensor]] = {
    "SUM": lambda x, d, keep: x.sum(d, keep),
    "AVG": lambda x, d, keep: x.mean(d, keep),
    "MAX": lambda x, d, keep: x.amax(d, keep),
    "MIN": lambda x, d, keep: x.amin(d, keep),
    "PROD": lambda x, d, keep: x.prod(d, keep),
}


def _ordered(layers: list[Any]) -> list[Any]:
    """Layers so that each follows those that it reads from."""
    made = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    done: dict[str, Any] = {}

    def visit(layer: Any) -> None:
        if layer.name in done:
            return
        for i in range(layer.num_inputs):
            source = layer.get_input(i)
            if source is not None and source.name in made:
                visit(made[source.name])
        done[layer.name] = layer

    for layer in layers:
        visit(layer)
    return list(done.values())
