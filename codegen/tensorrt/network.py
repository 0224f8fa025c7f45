"""A serving graph of slots as a TensorRT network.

Inputs: token_ids, positions i32 [S, Q]; start i32 [S]; logits_rows i32 [R]; per attention site
key_cache.i [S, H_kv, L, D] and value_cache.i. Outputs: logits f32 [R, vocab] and the caches under
the name of the input with `.out`, which have to be bound to the same memory. S and Q are two
dimensions here, not T = S * Q, so that the decode profile can say Q = 1 to the compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...artifact.manifest import Limits
from ...ir.graph import Graph, Value
from ...ir.roles import Role, State, StepArray
from ...runtime.executors.tensorrt_library import MESSAGES
from .constants import Constants
from .emitters import emit
from .net import Net
from .precision import Precision
from .sizes import Sizes

CACHE_OUT = ".out"


@dataclass
class Network:
    """A network with what must outlive the build (`net.held`)."""

    net: Net
    definition: Any


def make_network(
    trt: Any,
    builder: Any,
    graph: Graph,
    limits: Limits,
    precision: Precision,
    constants: Constants,
    ranges: Mapping[str, float],
) -> Network:
    """Emit `graph`. `ranges`: largest input magnitudes of linear layers, by their weight's name.

    Raises:
        LlmcError: LLMC-E0720, TensorRT refuses a layer; E0408, a weight is not finite.
    """
    MESSAGES.take()
    flags = 0
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if typed is not None:
        flags = 1 << int(typed)
    definition = builder.create_network(flags)
    net = Net(trt, definition, precision, constants, ranges)
    _add_inputs(net, graph, limits)
    emit(net, graph)
    _mark_outputs(net, graph)
    return Network(net, definition)


def _add_inputs(net: Net, graph: Graph, limits: Limits) -> None:
    trt, add = net.trt, net.network.add_input
    ids, positions = (
        add(array.value, trt.int32, (-1, -1))
        for array in (StepArray.TOKEN_IDS, StepArray.POSITIONS)
    )
    start, rows = (
        add(array.value, trt.int32, (-1,)) for array in (StepArray.START, StepArray.LOGITS_ROWS)
    )
    net.begin_run(Sizes(net, ids, rows), start)
    given: dict[Role | None, Any] = {StepArray.START: start, StepArray.LOGITS_ROWS: rows}
    by_token: dict[Role | None, Any] = {StepArray.TOKEN_IDS: ids, StepArray.POSITIONS: positions}
    for value in graph.inputs:
        if isinstance(value.role, State):
            _, heads, _, width = value.type.shape
            shape = (-1, heads, limits.block_size, width)
            net.tensors[value] = add(value.name, net.types[value.type.dtype], shape)
        elif value.role in by_token:
            net.tensors[value] = net.reshape(by_token[value.role], (-1,))
        else:
            net.tensors[value] = given[value.role]


def _mark_outputs(net: Net, graph: Graph) -> None:
    """The logits, and every cache as the last write left it."""
    (logits,) = graph.outputs
    net.begin(logits.producer)
    tensor = net.read(logits)
    if tensor.is_network_input:
        raise ValueError("the logits are an input of the network")
    tensor.name = "logits"
    net.network.mark_output(tensor)
    for value in graph.state_inputs:
        updated = net.raw(_last_write(value))
        updated.name = value.name + CACHE_OUT
        net.network.mark_output(updated)


def _last_write(cache: Value) -> Value:
    """What the only write of a cache gives."""
    (written,) = [v for node in cache.users for v in node.outputs if v.state is cache]
    return written
