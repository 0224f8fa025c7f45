"""Runs small graphs natively, many in one library.

Each graph becomes a body function, emitted and planned as in a real program; an exported
entry calls it on a team of threads with poisoned memory around. Results come back as
tensors, to be compared with the ops' references (`interpret`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from kernel_harness import aligned, aligned_copy, runnable_levels
from llmc import artifact
from llmc.codegen.cpu.bodies import Body, Planned, emit_body, plan_function
from llmc.codegen.cpu.function import Function
from llmc.codegen.cpu.packing import PANEL16
from llmc.codegen.cpu.render import render
from llmc.ir.graph import Graph, Node, Value
from llmc.ir.interpreter import interpret
from llmc.ir.ops import TORCH_DTYPE, Iota
from llmc.ir.plan import Schedule
from llmc.ir.types import DType, TensorType, bind_dim
from llmc.weights.formats.registry import dequantize, is_quantized, quantize
from llmc.weights.recipes import Computed, Pack
from llmc.weights.table import WeightTable, WeightTensor
from shared_work import build_once

LIMITS = {"T": 64, "S": 8, "S1": 9, "R": 8}
_LEVEL = runnable_levels()[-1]

_ENTRY = """
EXPORT void entry_{name}(int threads, Step* s, void** p) {{
  struct Context {{ Step* s; {body}_Args args; }} context{{s, {{{arguments}}}}};
  run_team(threads, [](Team& team, void* c) {{
    Context& x = *(Context*)c;
    {body}(team, *x.s, {body}_calls[0], x.args);
  }}, &context);
}}
"""
_PRELUDE = """
#define EXPORT extern "C" __attribute__((visibility("default")))
namespace llmc {
static void run_team(int threads, TeamFn body, void* args) {
  if (!request_instructions()) abort();
  TeamPool* pool = team_create(threads, -1);
  if (!pool) abort();
  team_run(pool, body, args);
  team_destroy(pool);
}
"""


class StepArgs(ctypes.Structure):
    """`llmc::Step` of kernels/program.h, up to what bodies without attention read."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("T", "S", "R")),
        *((f"array{i}", ctypes.c_void_p) for i in range(5)),
        ("batch", ctypes.c_char * 24),
        ("groups", ctypes.c_char * 24 * 16),
        *((name, ctypes.c_void_p) for name in ("pools", "weights", "arena", "scratch", "logits")),
        ("marks", ctypes.c_void_p),
    ]


@dataclass(slots=True)
class NativeGraphs:
    """A library with an entry for each graph."""

    graphs: dict[str, Graph]
    bodies: dict[str, Body]
    library: ctypes.CDLL
    weights: np.ndarray
    source: str

    def run(self, name: str, inputs: Mapping[str, torch.Tensor], threads: int = 2) -> list:
        """The graph's outputs; T and R follow from the inputs' shapes."""
        graph, body = self.graphs[name], self.bodies[name]
        env = symbols(graph, inputs)
        frame = aligned(body.planned.plan.arena_bytes + 64, np.uint8)
        given = [_storage(inputs[v.name]) for v in graph.inputs]
        results = [_poisoned(v.type, env) for v in graph.outputs]
        arrays = [frame, *given, *results]
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        step = StepArgs(T=env.get("T", 0), S=0, R=env.get("R", 0))
        step.weights = self.weights.ctypes.data
        self.library[f"entry_{name}"](threads, ctypes.byref(step), pointers)
        assert (frame[-64:] == 0xAA).all(), "wrote past its frame"
        return [_tensor(a, v.type, env) for a, v in zip(results, graph.outputs, strict=True)]

    def expected(self, name: str, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        return interpret(self.graphs[name], inputs, constant_tensor)


def compile_graphs(graphs: dict[str, Graph], folder: Path) -> NativeGraphs:
    """Emit every graph as a body and compile them into one library."""
    table = WeightTable(PANEL16)
    main = Function("run", LIMITS, table, Schedule("main"))
    bodies = {name: emit_body(graph, main, [_call_of(graph)]) for name, graph in graphs.items()}
    for name, body in bodies.items():
        body.name = f"body_{name}"
        body.calls = ["{}"]
    planned: Planned = plan_function(main)
    source = render(planned, list(bodies.values()), [], [], ["LLMC_LEVEL"])
    entries = [_entry(name, body) for name, body in bodies.items()]
    text = f'#define LLMC_LEVEL "1;test"\n{source}{_PRELUDE}{"".join(entries)}}}\n'
    path = folder / "graphs.so"
    build_once(text, _LEVEL, path, extra_include=(Path(artifact.__file__).parent,))
    weights = pack_weights(table.tensors, table.nbytes)
    return NativeGraphs(graphs, bodies, ctypes.CDLL(str(path)), weights, source)


def _call_of(graph: Graph) -> Node:
    """A stand-in for a call: every input is some node's result."""
    node = Node(Iota(1), (), "", "")
    node.inputs = tuple(Value(v.type, producer=node) for v in graph.inputs)
    return node


def _entry(name: str, body: Body) -> str:
    inputs, outputs = body.graph.inputs, body.graph.outputs
    types = [DType.U8, *(v.type.dtype for v in inputs), *(v.type.dtype for v in outputs)]
    names = {DType.BOOL: "bool", DType.BF16: "bf16", DType.F16: "f16", DType.F32: "float"}
    c_types = [names.get(d, f"{'u' if d[0] == 'u' else ''}int{d.itemsize * 8}_t") for d in types]
    arguments = ", ".join(f"({c}*)p[{i}]" for i, c in enumerate(c_types))
    return _ENTRY.format(name=name, body=body.name, arguments=arguments)


def symbols(graph: Graph, inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    env: dict[str, int] = {}
    for value in graph.inputs:
        for dim, size in zip(value.type.shape, inputs[value.name].shape, strict=True):
            if not isinstance(dim, int):
                env[dim.name] = size // dim.scale
    return env


def _outermost(type: TensorType) -> int | None:
    return next((i for i, d in enumerate(type.shape) if not isinstance(d, int)), None)


def _storage(tensor: torch.Tensor) -> np.ndarray:
    # Inputs of test graphs have their symbolic dimension first, so storage is row-major.
    return aligned_copy(_bytes(tensor.contiguous()))


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    return (
        tensor.view(torch.uint8).numpy() if tensor.dim() else tensor[None].view(torch.uint8).numpy()
    )


def _poisoned(type: TensorType, env: Mapping[str, int]) -> np.ndarray:
    count = int(np.prod([bind_dim(d, env) for d in type.shape]))
    return aligned(count * type.dtype.itemsize, np.uint8)


def _tensor(raw: np.ndarray, type: TensorType, env: Mapping[str, int]) -> torch.Tensor:
    """Undo the storage order: the symbolic dimension is outermost in memory."""
    shape = [bind_dim(d, env) for d in type.shape]
    flat = torch.from_numpy(raw.copy()).view(TORCH_DTYPE[type.dtype])
    at = _outermost(type)
    if at is None:
        return flat.view(shape)
    stored = [shape[at], *shape[:at], *shape[at + 1 :]]
    return flat.view(stored).movedim(0, at)


# ---- weights ------------------------------------------------------------------------------


def constant(name: str, value: torch.Tensor, dtype: DType | None = None) -> Value:
    """A constant of a test graph; with `dtype` a weight in that format."""
    recipe = Computed.of(name, value.numpy())
    return Graph.constant(name, recipe, recipe.type.with_dtype(dtype or recipe.dtype))


def constant_tensor(value: Value) -> torch.Tensor:
    """What the reference sees: weights in block formats dequantized, bf16 rounded."""
    tensor = torch.from_numpy(np.array(value.recipe.value))
    dtype = value.type.dtype
    if dtype == DType.BF16:
        return tensor.bfloat16().float()
    if dtype in TORCH_DTYPE:
        return tensor
    rows = tensor.flatten(0, -2).numpy()
    return torch.from_numpy(dequantize(quantize(rows, dtype))).view(tensor.shape)


def pack_weights(tensors: list[WeightTensor], nbytes: int) -> np.ndarray:
    """The data section of the weights, made from `Computed` recipes."""
    from llmc.codegen.cpu.packing import pack

    data = aligned(max(nbytes, 64), np.uint8)
    for tensor in tensors:
        recipe = tensor.recipe
        if isinstance(recipe, Pack):
            value = np.array(recipe.arg.value)  # type: ignore[attr-defined]
            parts = [_packed(pack, recipe, m) for m in value.reshape(-1, *value.shape[-2:])]
            raw = np.concatenate([p.reshape(-1) for p in parts])
        else:
            raw = np.array(recipe.value).reshape(-1).view(np.uint8)  # type: ignore[attr-defined]
        assert raw.size == tensor.nbytes, tensor.name
        data[tensor.offset : tensor.offset + tensor.nbytes] = raw
    return data


def _packed(pack, recipe: Pack, rows: np.ndarray) -> np.ndarray:
    content = quantize(rows, recipe.format) if is_quantized(recipe.format) else rows
    return pack(recipe.format, content)
