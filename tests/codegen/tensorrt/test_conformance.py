"""Every zoo family as a TensorRT network, read back and interpreted, against references.

In f32 the reference is eager and the tolerance that of every other target: the network is the
model. In other schemes the reference is the graph of that scheme, interpreted in f32 with weights
as quantized, so that what is left is what TensorRT rounds beside the weights; a wrong mask,
position, slot or scale is off by tenths of the logits' range.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from llmc.artifact.manifest import Limits
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.frontend.probe import StateReader, tensor_of
from llmc.ir.graph import Graph, Node, Value
from llmc.ir.interpreter import scalar_tensor
from llmc.ir.ops import Linear, LogitsRows
from llmc.ir.types import DType
from llmc.models.conformance import Report, Text, run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.passes.features import FOREIGN_RUNTIME
from llmc.weights.values import RecipeValues
from tiny_model import ZooModel
from zoo import DISTINCT, find

pytest.importorskip("tensorrt_rtx_bindings")

from interpreted_gpu import interpreted_program
from llmc.codegen.tensorrt.backend import CompiledTrt
from llmc.codegen.tensorrt.calibration import first_inputs, input_ranges
from llmc.codegen.tensorrt.engine import Options
from llmc.codegen.tensorrt.precision import PRECISIONS, UNBOUNDED, Precision

MAX_TOKENS = 48
# Shares of the logits' range. fp16: inputs and results of every product have 11 bits; bf16: 8.
# int4: fp16 beside the weights. int8 and fp8 are checked with f32 in place of f16 (a difference of
# f16's size rounds an input to the next code, which hides what is looked for here): what is left
# are inputs that lie between two codes.
TOLERANCES = {"fp16": 5e-3, "bf16": 4e-2, "int4": 5e-3, "int8": 1e-4, "fp8": 2e-3}


def conform(model: ZooModel, precision: Precision) -> Report:
    """Run the schedule on the interpreted network of a zoo model."""
    eager = fix_rope(model.build(), model.max_context)
    texts = reference_texts(eager, model.max_context)
    values = RecipeValues(StateReader(eager.state_dict()))
    graph = lower_model(
        model.configuration(), model.max_context, own_tensors, precision.scheme, FOREIGN_RUNTIME
    ).graph
    ranges = {}
    if precision.calibrated:
        ranges = input_ranges(graph, values, texts[3].token_ids.tolist())
    if precision.scheme.name != "f32":
        logits = [graph_logits(graph, values, t.token_ids, precision, ranges) for t in texts]
        texts = [Text(t.token_ids, found) for t, found in zip(texts, logits, strict=True)]
    lowered = CompiledTrt(graph, limits_of(model), precision, Options((80,)))
    program = interpreted_program(lowered, values, ranges, slots=7)
    return run_schedule(program, texts, max_context=model.max_context)


def limits_of(model: ZooModel) -> Limits:
    """Limits that make the schedule's prompts join in chunks."""
    return Limits(
        max_tokens=MAX_TOKENS,
        max_sequences=8,
        max_context=model.max_context,
        max_logits_rows=MAX_TOKENS,
        block_size=model.max_context + MAX_TOKENS - 1,
        uniform_query=True,
    )


def graph_logits(
    graph: Graph,
    values: RecipeValues,
    ids: np.ndarray,
    precision: Precision,
    ranges: dict[str, float],
) -> np.ndarray:
    """What the graph says after each token, in f32 but for the caches and quantized inputs."""
    known = first_inputs(graph, ids.tolist())
    rows = next(v for v in known if v.name == "logits_rows")
    known[rows] = torch.arange(len(ids), dtype=torch.int32)
    env = {"T": len(ids), "S": 1, "R": len(ids), "L": len(ids)}
    with torch.no_grad():
        for node in graph.nodes:
            operands = [known[v] if v in known else constant(values, v) for v in node.inputs]
            if isinstance(node.op, Linear) and node.inputs[1].name in ranges:
                most = ranges[node.inputs[1].name]
                operands[:2] = rounded(operands[0], operands[1], most, precision, node)
            result = node.op.bind(env).reference(*operands)
            results = result if isinstance(result, tuple) else (result,)
            known.update(zip(node.outputs, results, strict=True))
    return known[graph.outputs[0]].numpy()


def constant(values: RecipeValues, value: Value) -> torch.Tensor:
    literal = scalar_tensor(value)
    return tensor_of(values, value) if literal is None else literal


def rounded(
    x: torch.Tensor, weight: torch.Tensor, most: float, precision: Precision, node: Node
) -> list[torch.Tensor]:
    """A linear layer's operands as its scheme rounds them; the codes' values in f32."""
    if most == UNBOUNDED:
        return [x, weight]
    if node.inputs[1].type.dtype is DType.I8C:
        step = most / 127
        return [(x / step).round().clamp(-128, 127) * step, weight]
    is_head = isinstance(getattr(node.inputs[0].producer, "op", None), LogitsRows)
    if not precision.fp8 or is_head:
        return [x, weight]
    steps = weight.float().abs().amax(-1, keepdim=True) / 448
    return [e4m3(x, torch.tensor(most / 448)), e4m3(weight.float(), steps)]


def e4m3(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Values of E4M3 codes at a step."""
    return (x / step).clamp(-448, 448).to(torch.float8_e4m3fn).float() * step


def in_f32(precision: Precision) -> Precision:
    """The same scheme with f32 wherever it has f16."""
    scheme = precision.scheme
    weight = DType.F32 if scheme.weight is DType.F16 else scheme.weight
    head = DType.F32 if scheme.head is DType.F16 else scheme.head
    return replace(
        precision,
        compute=DType.F32,
        scheme=replace(scheme, weight=weight, head=head, cache=DType.F32),
    )


@pytest.mark.parametrize("family", DISTINCT)
def test_network_is_the_model(family: str) -> None:
    report = conform(find(family), PRECISIONS["f32"])
    report.check()
    assert report.rows >= 80


@pytest.mark.parametrize(
    ("scheme", "family"),
    [
        ("fp16", "gemma2"), ("fp16", "mixtral-window"), ("bf16", "llama"), ("int4", "mixtral"),
        ("int8", "llama"), ("int8", "llama-bias"), ("fp8", "llama-bias"),
    ],
)  # fmt: skip
def test_scheme(scheme: str, family: str) -> None:
    precision = PRECISIONS[scheme]
    report = conform(find(family), in_f32(precision) if precision.calibrated else precision)
    assert report.rows >= 80
    assert report.worst < TOLERANCES[scheme], report.where
