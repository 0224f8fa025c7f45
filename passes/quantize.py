"""Insert quantization: weights into their formats, activations into int8 blocks.

    linear(x, w)   =>   linear(quantize_rows(x), quantize(w)) {quantized}

A `Scheme` names the formats. Checkpoint tensors that already are in a block format keep
their own bits where a format holds them, else get the nearest one. Routers stay in f32: a
flipped expert costs more than their few bytes. A table shared by embedding and head gets one
format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..artifact import targets
from ..base.errors import LlmcError
from ..ir.graph import Graph, Node, Value
from ..ir.ops import Embedding, GroupedLinear, Linear, QuantizeRows, Reduce, Softmax, TopK
from ..ir.roles import StepArray
from ..ir.types import DType
from ..weights import recipes as rec
from ..weights.formats.registry import EIGHT_BITS, FORMATS, format_of, is_quantized
from ..weights.held_blocks import held_formats, nearest_format, stored_blocks

INTEGER_FORMATS = tuple(dtype for dtype, format in FORMATS.items() if not format.float_codes)
"""What every target computes with."""


@dataclass(frozen=True)
class Scheme:
    """Formats of linear weights, of the output head (and its table), and of the cache.

    `holds`: formats in which blocks that the checkpoint has already are kept as they are.
    `nearest`: the format of weights that the checkpoint has quantized in a way that none of these
    holds; None: that of all others.
    """

    name: str
    weight: DType
    head: DType
    cache: DType
    holds: tuple[DType, ...] = ()
    nearest: DType | None = None

    def as_stored(self, holds: tuple[DType, ...] = INTEGER_FORMATS) -> Scheme:
        """This scheme for what the checkpoint hasn't quantized; the rest as it stores it.

        `holds`: the formats that the target computes with.
        """
        return replace(self, holds=holds, nearest=DType.I8B)


BLOCK_FORMATS = tuple(dtype for dtype, format in FORMATS.items() if not format.per_row)
"""What schemes of 4 bits keep of blocks that a checkpoint has."""
SCHEMES: dict[str, Scheme] = {
    s.name: s
    for s in (
        Scheme("f32", DType.F32, DType.F32, DType.F32),
        Scheme("bf16", DType.BF16, DType.BF16, DType.BF16),
        Scheme("int8", DType.I8C, DType.I8C, DType.I8, holds=(DType.I8C, DType.I8B)),
        Scheme("int4", DType.I4K, DType.I8B, DType.I8, holds=BLOCK_FORMATS),
        Scheme("int4-sym", DType.I4S, DType.I8B, DType.I8, holds=BLOCK_FORMATS),
    )
}
"""The schemes of the cpu target. Other targets have their own under the same names."""
CACHES: dict[str, DType] = {"f32": DType.F32, "bf16": DType.BF16, "int8": DType.I8}
"""The element types of the cpu target's KV cache that a user can name."""


def find_scheme(
    name: str,
    kv_cache: str | None = None,
    *,
    target: str = "cpu",
    schemes: Mapping[str, Scheme] = SCHEMES,
    caches: Mapping[str, DType] = CACHES,
) -> Scheme:
    """The scheme called `name`, its cache replaced by the one called `kv_cache`, among those that a
    target has.

    Raises:
        LlmcError: LLMC-E0201, there is no such scheme or cache; LLMC-E0231, the target lacks it.
    """
    scheme = _named("quantization scheme", name, targets.SCHEMES, target, schemes)
    if kv_cache is None:
        return scheme
    return replace(scheme, cache=_named("KV cache", kv_cache, targets.CACHES, target, caches))


Choice = TypeVar("Choice")


def _named(
    what: str, name: str, known: Sequence[str], target: str, has: Mapping[str, Choice]
) -> Choice:
    if name in has:
        return has[name]
    if name in known:
        message = f"target {target} has no {what} {name}"
        raise LlmcError("LLMC-E0231", message, f"it has {', '.join(has)}")
    raise LlmcError("LLMC-E0201", f"unknown {what} {name!r}", f"use one of {', '.join(known)}")


def quantize(graph: Graph, scheme: Scheme, quantized_inputs: bool = True) -> bool:
    """Give every weight its format; True if any changed.

    `quantized_inputs`: inputs of layers with weights in blocks become int8 blocks, too.
    """
    weights: dict[Value, Value] = {}
    rows: dict[Value, tuple[Value, ...]] = {}
    head = _head(graph)
    for node in list(graph.nodes):
        if isinstance(node.op, Linear):
            index = node.op.num_x
            weight = node.inputs[index]
            if not weight.is_constant or _has_format(weight):
                continue
            wanted = scheme.head if node is head else scheme.weight
            formatted = weight if _is_router(node) else _formatted(weight, wanted, scheme)
            new = weights.setdefault(weight, formatted)
            if quantized_inputs:
                _use(graph, node, node.op, index, new, rows)
            else:
                graph.set_inputs(node, [*node.inputs[:index], new, *node.inputs[index + 1 :]])
    for node in graph.nodes:
        if isinstance(node.op, Embedding) and node.inputs[0].is_constant:
            table, ids = node.inputs
            if _has_format(table):
                continue
            if table not in weights and ids.role is not StepArray.TOKEN_IDS:
                continue
            new = weights.setdefault(table, _formatted(table, scheme.head, scheme))
            graph.set_inputs(node, [new, ids])
    return any(old is not new for old, new in weights.items())


def _use(
    graph: Graph,
    node: Node,
    op: Linear,
    index: int,
    weight: Value,
    rows: dict[Value, tuple[Value, ...]],
) -> None:
    inputs = [*node.inputs[:index], weight, *node.inputs[index + 1 :]]
    if not is_quantized(weight.type.dtype):
        graph.set_inputs(node, inputs)
        return
    x = node.inputs[0]
    if x not in rows:
        rows[x] = graph.insert_before(node, QuantizeRows(), [x]).outputs
    graph.replace_op(node, replace(op, quantized=True), [*rows[x], *inputs[1:]])


def _has_format(weight: Value) -> bool:
    """Whether a weight is stored in fewer bits already."""
    dtype = weight.type.dtype
    return is_quantized(dtype) or dtype in (DType.BF16, DType.F16)


def _formatted(weight: Value, wanted: DType, scheme: Scheme) -> Value:
    """The weight in format `wanted`, or in the block format its checkpoint holds."""
    recipe = weight.recipe
    kept = (format for format in _candidates(recipe, wanted, scheme) if format in scheme.holds)
    wanted = next(kept, wanted)
    if wanted == DType.F32:
        return weight
    recipe = rec.Cast(recipe, wanted) if wanted.is_float else rec.Quantize(wanted, recipe)
    return Graph.constant(weight.name, recipe, weight.type.with_dtype(wanted))


def _candidates(recipe: rec.Recipe, wanted: DType, scheme: Scheme) -> Iterator[DType]:
    """Formats, best first, for what the checkpoint has of `recipe` in blocks."""
    blocks = stored_blocks(recipe)
    if scheme.nearest is None:
        narrower = is_quantized(wanted) and format_of(wanted).bits < 8
        if not is_quantized(wanted) or (narrower and blocks <= EIGHT_BITS):
            return
    if blocks:
        yield from held_formats(recipe)
        yield from (f for f in (nearest_format(recipe), scheme.nearest) if f is not None)


def _head(graph: Graph) -> Node | None:
    """The last linear layer before the graph's output."""
    value = graph.outputs[0]
    while (node := value.producer) is not None:
        if isinstance(node.op, Linear):
            return node
        inputs = [v for v in node.inputs if not v.is_constant]
        if len(inputs) != 1:
            return None
        value = inputs[0]
    return None


def _is_router(node: Node) -> bool:
    """Whether a linear layer's result only reaches other ops through a top-k choice."""
    if isinstance(node.op, GroupedLinear):
        return False
    frontier, seen = list(node.outputs), set()
    while frontier:
        value = frontier.pop()
        for user in value.users:
            if isinstance(user.op, TopK):
                return True
            same_rows = isinstance(user.op, Softmax | Reduce) or user.op.mnemonic in _ROUTER_OPS
            if same_rows and user not in seen:
                seen.add(user)
                frontier += user.outputs
    return False


_ROUTER_OPS = {"sigmoid", "add", "sub", "mul", "div", "reshape", "slice", "cast", "softplus",
               "sqrt", "where", "top_k", "gather"}  # fmt: skip
