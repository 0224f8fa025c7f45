"""A graph in phase SERVING, with slots, as a whole ONNX model.

| input | type | |
|---|---|---|
| `token_ids` | i64[sequences, query_tokens] | padded on the right |
| `start` | i64[sequences] | tokens that each slot held before |
| `logits_rows` | i64[logits_rows] | rows of the flattened tokens that logits are wanted for |
| `key_cache.I`, `value_cache.I` | [sequences, heads, cache_length, width] | a pair a site |

Outputs: `logits` f32[logits_rows, vocab], and each cache after the write as `key_cache.I.out`, to
be bound to the memory of its input. Positions follow from `start`.
"""

from __future__ import annotations

import json

import onnx_ir as ir

from ...artifact.manifest import Limits
from ...ir.graph import Graph, Value
from ...ir.roles import StepArray
from ...ir.types import DType, R, S, Sym, TensorType
from ...weights.table import WeightTable
from .constants import ONNX_TYPE, Constants
from .emit_attention import QUERY
from .emitters import emit_node
from .model import Model, dim_name

IR_VERSION = 12
_DOC = """Decoder of a language model with its cache held by the caller.

Row s of token_ids brings query_tokens tokens of the sequence in slot s, whose first `start[s]`
tokens are in the cache already; fewer tokens are padded on the right with anything. `logits_rows`
are indices into the flattened token_ids. Bind each cache output to the memory of its input."""


def make_model(
    graph: Graph, limits: Limits, weights: WeightTable, dialect: str, precision: DType = DType.F32
) -> ir.Model:
    """The model of `graph` in a dialect of `emitters.py`.

    Raises:
        LlmcError: LLMC-E0401, naming an op that can't be emitted and where it is from.
    """
    model = Model(graph, Constants(weights), precision, limits.block_size)
    _add_inputs(model, graph, limits)
    for node in graph.nodes:
        emit_node(model, node, dialect)
    model.node = None
    _add_outputs(model, graph)
    drop_unread(model.graph)
    return ir.Model(
        model.graph,
        ir_version=IR_VERSION,
        producer_name="llmc",
        domain="llmc",
        model_version=1,
        doc_string=_DOC,
        metadata_props=_metadata(graph, limits, dialect),
    )


def _input(model: Model, name: str, dtype: ir.DataType, *dims: int | str) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))
    model.graph.inputs.append(value)
    model.unique(name)
    return value


def _add_inputs(model: Model, graph: Graph, limits: Limits) -> None:
    """The model's inputs, and the graph's inputs computed from them."""
    sequences, query = dim_name(S), dim_name(QUERY)
    token_ids = _input(model, "token_ids", ir.DataType.INT64, sequences, query)
    start = _input(model, "start", ir.DataType.INT64, sequences)
    rows = _input(model, "logits_rows", ir.DataType.INT64, dim_name(R))
    for value in graph.state_inputs:
        dims = map(dim_name, value.type.shape)
        cache = _input(model, value.name, ONNX_TYPE[value.type.dtype], *dims)
        model.define(value, cache)
        model.caches[value] = cache
    _set_sizes(model, token_ids, rows)
    flat = model.add("Reshape", token_ids, model.int64(-1))
    brought = (
        (StepArray.TOKEN_IDS, flat), (StepArray.START, start), (StepArray.LOGITS_ROWS, rows)
    )  # fmt: skip
    for role, found in brought:
        model.define(_of_role(graph, role), model.add("Cast", found, to=ir.DataType.INT32.value))
    positions = _positions(model, start, limits.max_context)
    model.define(_of_role(graph, StepArray.POSITIONS), positions)


def _of_role(graph: Graph, role: StepArray) -> Value:
    value = graph.input_as(role)
    assert value is not None, f"a serving graph has {role}"
    return value


def _set_sizes(model: Model, token_ids: ir.Value, rows: ir.Value) -> None:
    """What the graph's symbols are in a call."""
    sizes = [(S, token_ids, 0), (QUERY, token_ids, 1), (R, rows, 0)]
    caches = list(model.caches.values())
    if caches:
        sizes.append((Sym("L"), caches[0], 2))
    for symbol, value, axis in sizes:
        model.set_size(symbol.name, model.add("Shape", value, start=axis, end=axis + 1))
    model.set_size("T", model.add("Mul", model.size(S), model.size(QUERY)))


def _positions(model: Model, start: ir.Value, max_context: int) -> ir.Value:
    """Position of every token, i32[T]; padding's stay below the longest context."""
    query = model.add("Squeeze", model.size(QUERY), model.int64(0))
    steps = model.add("Range", model.number(0, DType.I64), query, model.number(1, DType.I64))
    table = model.add("Add", model.add("Unsqueeze", start, model.int64(1)), steps)
    last = model.number(max_context - 1, DType.I64)
    flat = model.add("Reshape", model.add("Min", table, last), model.int64(-1))
    return model.add("Cast", flat, to=ir.DataType.INT32.value)


def _add_outputs(model: Model, graph: Graph) -> None:
    """The logits in f32, then the caches, each under the name of its input and `.out`."""
    (logits,) = graph.outputs
    result = model.add("Cast", model.read(logits), to=ir.DataType.FLOAT.value)
    _output(model, "logits", result, logits.type)
    for value in graph.state_inputs:
        _output(model, f"{value.name}.out", model.caches[value], value.type)


def _output(model: Model, name: str, value: ir.Value, type: TensorType) -> None:
    if value.is_graph_input():
        raise ValueError(f"nothing is written to what {name} is made of")
    value.name = name
    value.type = ir.TensorType(ONNX_TYPE[type.dtype])
    value.shape = ir.Shape([dim_name(d) for d in type.shape])
    model.graph.outputs.append(value)


def drop_unread(graph: ir.Graph) -> None:
    """Remove nodes that nothing reads (who looked behind a reshape leaves it so), and weights."""
    outputs = set(graph.outputs)
    for node in reversed(graph):
        if not any(output.uses() or output in outputs for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def _metadata(graph: Graph, limits: Limits, dialect: str) -> dict[str, str]:
    """What a program that drives the model must know beside its signature."""
    caches = {
        v.name: [d if isinstance(d, int) else dim_name(d) for d in v.type.shape]
        for v in graph.state_inputs
    }
    return {
        "dialect": dialect,
        "max_context": str(limits.max_context),
        "cache_length": str(limits.block_size),
        "max_query_tokens": str(limits.block_size - limits.max_context + 1),
        "vocab_size": str(graph.outputs[0].type.shape[-1]),
        "caches": json.dumps(caches, separators=(",", ":")),
    }


def serialized(model: ir.Model) -> bytes:
    """The protobuf; equal models give equal bytes."""
    return ir.to_proto(model).SerializeToString(deterministic=True)
