"""Runs small graphs through ONNX Runtime, to be compared with the ops' references.

Each graph becomes a model of its own: its inputs are the model's, every symbol's size is read from
the shape of an input. The standard dialect must pass the checker with strict shape inference.
Results land in memory full of 0xAA bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from llmc.codegen.onnx.constants import ONNX_TYPE, Constants, location_of
from llmc.codegen.onnx.emitters import emit_node
from llmc.codegen.onnx.model import Model, dim_name
from llmc.codegen.onnx.program import IR_VERSION, drop_unread, serialized
from llmc.ir.graph import Graph, Value
from llmc.ir.interpreter import interpret
from llmc.ir.ops import TORCH_DTYPE
from llmc.ir.types import DType, Sym, bind_dim
from llmc.weights.formats.registry import dequantize, quantize
from llmc.weights.recipes import Computed, Pack
from llmc.weights.row_layout import RowLayout
from llmc.weights.table import WeightTable


def model_of(graph: Graph, table: WeightTable, dialect: str = "standard") -> ir.Model:
    """A model whose inputs and outputs are the graph's own."""
    model = Model(graph, Constants(table))
    for value in graph.inputs:
        dims = map(dim_name, value.type.shape)
        given = ir.Value(
            name=value.name, type=ir.TensorType(ONNX_TYPE[value.type.dtype]), shape=ir.Shape(dims)
        )
        model.graph.inputs.append(given)
        model.define(value, given)
    _set_sizes(model, graph)
    for node in graph.nodes:
        emit_node(model, node, dialect)
    for i, value in enumerate(graph.outputs):
        out = model.add("Identity", model.read(value))
        out.name = f"out{i}"
        out.type, out.shape = model.read(value).type, model.read(value).shape
        model.graph.outputs.append(out)
    drop_unread(model.graph)
    return ir.Model(model.graph, ir_version=IR_VERSION)


def _set_sizes(model: Model, graph: Graph) -> None:
    seen = set()
    for value in graph.inputs:
        for axis, dim in enumerate(value.type.shape):
            if isinstance(dim, Sym) and dim.name not in seen:
                size = model.add("Shape", model.read(value), start=axis, end=axis + 1)
                if dim.scale != 1:
                    size = model.add("Div", size, model.int64(dim.scale))
                seen.add(dim.name)
                model.set_size(dim.name, size)
    if {"T", "S"} <= seen:
        model.set_size("Q", model.add("Div", model.size(Sym("T")), model.size(Sym("S"))))


def run(
    graph: Graph,
    inputs: Mapping[str, torch.Tensor],
    dialect: str = "standard",
    unsigned: bool = False,
) -> list[torch.Tensor]:
    """The graph's outputs as ONNX Runtime computes them."""
    table = WeightTable(RowLayout(unsigned))
    model = serialized(model_of(graph, table, dialect))
    data, location = weights(table), location_of(table)
    if dialect == "standard":
        check(model, data, location)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_external_initializers_from_files_in_memory([location], [data], [len(data)])
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    held = [_bind_input(binding, value, inputs[value.name]) for value in graph.inputs]
    env = _symbols(graph, inputs)
    results = [_bind_output(binding, f"out{i}", v, env) for i, v in enumerate(graph.outputs)]
    session.run_with_iobinding(binding)
    del held
    return results


def check(model: bytes, data: bytes, location: str) -> None:
    """The checker with full shape inference; it wants to see the file of weights."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        Path(folder, location).parent.mkdir()
        Path(folder, location).write_bytes(data)
        path.write_bytes(model)
        onnx.checker.check_model(str(path), full_check=True)


def expected(graph: Graph, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The graph's outputs by the ops' references."""
    return interpret(graph, inputs, constant_tensor)


def _bind_input(binding, value: Value, tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.contiguous()
    binding.bind_input(
        value.name, "cpu", 0, ONNX_TYPE[value.type.dtype].value, tuple(tensor.shape),
        tensor.data_ptr(),
    )  # fmt: skip
    return tensor


def _bind_output(binding, name: str, value: Value, env: Mapping[str, int]) -> torch.Tensor:
    shape = [bind_dim(d, env) for d in value.type.shape]
    size = TORCH_DTYPE[value.type.dtype].itemsize
    raw = torch.full((prod(shape) * size,), 0xAA, dtype=torch.uint8)
    result = raw.view(TORCH_DTYPE[value.type.dtype]).view(shape)
    kind = ONNX_TYPE[value.type.dtype].value
    binding.bind_output(name, "cpu", 0, kind, tuple(shape), result.data_ptr())
    return result


def _symbols(graph: Graph, inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    env: dict[str, int] = {}
    for value in graph.inputs:
        for dim, size in zip(value.type.shape, inputs[value.name].shape, strict=True):
            if isinstance(dim, Sym):
                env[dim.name] = size // dim.scale
    return env


# ---- weights ------------------------------------------------------------------------------


def constant(name: str, value: torch.Tensor, dtype: DType | None = None) -> Value:
    """A constant of a test graph; with `dtype` a weight in that format."""
    recipe = Computed.of(name, value.numpy())
    return Graph.constant(name, recipe, recipe.type.with_dtype(dtype or recipe.dtype))


def constant_tensor(value: Value) -> torch.Tensor:
    """What the reference sees: weights in block formats dequantized, reduced floats rounded."""
    tensor = torch.from_numpy(np.array(value.recipe.value))
    dtype = value.type.dtype
    if dtype in (DType.BF16, DType.F16):
        return tensor.to(TORCH_DTYPE[dtype])
    if dtype in TORCH_DTYPE:
        return tensor
    rows = tensor.flatten(0, -2).numpy()
    return torch.from_numpy(dequantize(quantize(rows, dtype))).view(tensor.shape)


def weights(table: WeightTable) -> bytes:
    """The data section of the weights, made from `Computed` recipes."""
    data = np.full(max(table.nbytes, 64), 0xAA, np.uint8)
    for tensor in table.tensors:
        recipe = tensor.recipe
        if isinstance(recipe, Pack):
            value = np.array(recipe.arg.value)  # type: ignore[attr-defined]
            rows = quantize(value.reshape(-1, value.shape[-1]), recipe.format)
            parts = table.layout.pack(recipe.format, rows)
        else:
            value = torch.from_numpy(np.array(recipe.value))  # type: ignore[attr-defined]
            stored = value.to(TORCH_DTYPE[tensor.dtype]).contiguous()
            parts = (stored.reshape(-1).view(torch.uint8).numpy(),)
        for (offset, nbytes), part in zip(tensor.sections, parts, strict=True):
            assert part.size == nbytes, tensor.name
            data[offset : offset + nbytes] = part
    return data.tobytes()
