"""Runs random decoders (random_models.py): pass by pass, and as a program of any target.

The traced graph, interpreted on one sequence from its first token, is the reference of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from configured import configured
from hypothesis import HealthCheck, Phase, settings
from llmc import artifact
from llmc.artifact.manifest import Limits, Variant
from llmc.artifact.program import Program
from llmc.codegen.contract import Build
from llmc.codegen.cpu.packing import PANEL16
from llmc.codegen.inductor.constants import parts_of
from llmc.codegen.inductor.module import SlotModule
from llmc.ir.graph import Graph
from llmc.ir.interpreted_program import InterpretedProgram
from llmc.ir.interpreted_slots import InterpretedSlots
from llmc.ir.interpreter import interpret
from llmc.ir.ops import CACHE_BLOCK, TORCH_DTYPE
from llmc.ir.parser import parse
from llmc.ir.phase import Phase as GraphPhase
from llmc.ir.scalar import scalar_of
from llmc.ir.types import DType
from llmc.ir.verifier import verify
from llmc.models.conformance import Text, blocks_needed, run_schedule, text_lengths
from llmc.passes.features import FOREIGN_RUNTIME, OWN_KERNELS, Features
from llmc.passes.pipeline import PIPELINE, Context, run_pipeline
from llmc.passes.quantize import SCHEMES
from llmc.runtime.executors import cpu, onnx
from llmc.runtime.executors.slots import SlotRun
from llmc.weights.row_layout import RowLayout
from llmc.weights.stream import WeightStream
from llmc.weights.table import WeightTable
from llmc.weights.values import RecipeValues
from random_models import CONTEXT, Weights, weight_tensor
from shared_work import build_once

FORMS = (OWN_KERNELS, FOREIGN_RUNTIME)
TOKENS = 48
"""Most query tokens of a step, so that prompts come in chunks."""
TOLERANCE = 1e-4
"""Of the logits' range: float32 sums in another order, through three layers."""
ROUNDED = 0.06
"""Where inputs are rounded to 8 bits: one that lies between two codes takes the other one if the
last bit of a sum differs, as it does with other numbers of rows."""


def examples(count: int) -> settings:
    """The same `count` examples in every run."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def logits_of(graph: Graph, ids: np.ndarray) -> np.ndarray:
    """[T, vocab], of one sequence from its first token; any phase before the cache."""
    count = len(ids)
    inputs = {
        "token_ids": torch.from_numpy(ids).int(),
        "positions": torch.arange(count).int(),
        "logits_rows": torch.arange(count).int(),
    }
    with torch.no_grad():
        return interpret(graph, inputs, weight_tensor)[0].numpy()


def assert_close(found: np.ndarray, wanted: np.ndarray, where: str) -> None:
    """Each row within the tolerance of its range."""
    assert np.isfinite(wanted).all(), where
    shares = np.abs(found - wanted).max(-1) / np.ptp(wanted, axis=-1)
    assert shares.max() < TOLERANCE, f"{shares.max():.1e} of the range {where}"


def texts_for(graph: Graph) -> list[Text]:
    """Random texts of the conformance schedule with a graph's own logits."""
    random, vocab = np.random.default_rng(3), graph.outputs[0].type.shape[-1]
    assert isinstance(vocab, int)
    ids = [random.integers(0, vocab, length) for length in text_lengths(CONTEXT)]
    return [Text(some, logits_of(graph, some)) for some in ids]


def check_passes(traced: Graph, scheme: str, form: Features) -> Graph:
    """Run every pass; what the graph computes stays, but where weights are rounded.

    Returns the serving graph; passes that bring in the cache are checked by running it.
    """
    graph = parse(str(traced))
    context = Context(replace(SCHEMES[scheme], cache=DType.F32), form)
    ids = np.random.default_rng(5).integers(0, 19, 11)
    wanted, texts = logits_of(graph, ids), None
    for step in PIPELINE:
        if not step.wanted(form):
            continue
        step.run(graph, context)
        for part in (graph, *graph.bodies.values()):
            part.phase = max(part.phase, step.ensures)
        verify(graph, after=step.name)
        if graph.phase is GraphPhase.SERVING:
            continue
        if step.name == "quantize":
            wanted, texts = logits_of(graph, ids), texts_for(graph)
        assert_close(logits_of(graph, ids), wanted, f"after {step.name}")
    assert graph.phase == GraphPhase.SERVING
    assert texts is not None
    check_program(interpreted(graph, form), texts, ROUNDED if scheme != "f32" else TOLERANCE)
    return graph


def check_program(program: Program, texts: list[Text], tolerance: float = TOLERANCE) -> None:
    """The conformance schedule: prompts in chunks, sequences that join, move and leave."""
    report = run_schedule(program, texts, max_context=CONTEXT)
    program.close()
    assert report.rows >= 80
    assert report.worst < tolerance, f"{report.worst:.1e} of the range: {report.where}"


def limits_of(form: Features) -> Limits:
    slots = form.uniform_query
    return Limits(
        max_tokens=TOKENS,
        max_sequences=8,
        max_context=CONTEXT,
        max_logits_rows=TOKENS,
        block_size=CONTEXT + TOKENS - 1 if slots else CACHE_BLOCK,
        uniform_query=slots,
    )


def cache_blocks(form: Features) -> int:
    return 4 * -(-CONTEXT // limits_of(form).block_size) + 3


def interpreted(graph: Graph, form: Features) -> Program:
    """The serving graph as a program."""
    kind = InterpretedSlots if form.uniform_query else InterpretedProgram
    program = kind(graph, limits_of(form), cache_blocks(form), weight_tensor)
    assert blocks_needed(program, CONTEXT) <= cache_blocks(form)
    return program


def serving(traced: Graph, form: Features) -> Graph:
    """Lowered in f32."""
    graph = parse(str(traced))
    run_pipeline(graph, Context(SCHEMES["f32"], form))
    return graph


def weight_bytes(table: WeightTable) -> memoryview:
    """The data section of the weights, aligned as it is in an artifact."""
    data, stream = BytesIO(), WeightStream(table.tensors, table.nbytes)
    stream.write(data, Weights(), table.layout)
    raw = data.getvalue()[stream.size - stream.data_bytes :]
    room = np.zeros(len(raw) + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + len(raw)] = np.frombuffer(raw, np.uint8)
    return room[start : start + len(raw)].data


def _variant(target: str, lowered, level: str = "") -> Variant:
    return Variant(
        target=target, level="", program="", weights="", limits=lowered.limits,
        cache_groups=lowered.cache_groups, state=lowered.state, memory_plan=lowered.memory_plan,
        vocab_size=lowered.vocab_size, options=lowered.options(level),
    )  # fmt: skip


def on_cpu(traced: Graph, folder: Path) -> Program:
    """Compiled C++."""
    form, table = OWN_KERNELS, WeightTable(PANEL16)
    target = configured("cpu")
    lowered = target.lower(serving(traced, form), limits_of(form), table)
    (level,) = target.levels
    source = f'#define LLMC_LEVEL "{level}"\n{lowered.source}'  # type: ignore[attr-defined]
    interface = (Path(artifact.__file__).parent,)
    build_once(source, level, folder / "program.so", extra_include=interface)
    library, variant = (folder / "program.so").read_bytes(), _variant("cpu", lowered)
    blocks = (cache_blocks(form),) * len(variant.cache_groups)
    return cpu.open_program(
        variant, library, weight_bytes(table), threads=2, cache_blocks=blocks, state_slots=8
    )


def in_onnx(dialect: str) -> Callable[[Graph, Path], Program]:
    """A model in ONNX Runtime."""

    def opened(traced: Graph, folder: Path) -> Program:
        form, target = FOREIGN_RUNTIME, configured("onnx", dialect=dialect)
        table = WeightTable(target.layout)
        lowered = target.lower(serving(traced, form), limits_of(form), table)
        path = folder / "model.onnx"
        lowered.build("cpu", path, Build(RecipeValues(Weights())))
        variant = _variant("onnx", lowered, "cpu")
        blocks = (cache_blocks(form),) * len(variant.cache_groups)
        return onnx.open_program(
            variant, path.read_bytes(), weight_bytes(table), threads=1, cache_blocks=blocks
        )

    return opened


def as_network(traced: Graph, folder: Path) -> Program:
    """A network of TensorRT, read back and interpreted."""
    from interpreted_gpu import interpreted_program  # type: ignore[import-not-found]
    from llmc.codegen.tensorrt.backend import CompiledTrt
    from llmc.codegen.tensorrt.engine import Options
    from llmc.codegen.tensorrt.precision import PRECISIONS

    form = FOREIGN_RUNTIME
    lowered = CompiledTrt(serving(traced, form), limits_of(form), PRECISIONS["f32"], Options((80,)))
    return interpreted_program(lowered, RecipeValues(Weights()), {}, slots=cache_blocks(form))


class ModuleProgram(InterpretedSlots):
    """What target inductor gives to torch's compiler, run by torch as it is."""

    def __init__(self, module: SlotModule, graph: Graph) -> None:
        form = FOREIGN_RUNTIME
        super().__init__(graph, limits_of(form), cache_blocks(form), weight_tensor)
        self._module = module

    def _run(self, run: SlotRun) -> np.ndarray:
        shape = (run.rows, run.query)
        tokens, positions = (
            torch.tensor(some, dtype=torch.int32).view(shape)
            for some in (run.token_ids, run.positions)
        )
        start, rows = (torch.tensor(some).int() for some in (run.start, run.logits_rows))
        extent = torch.empty(max(run.start) + run.query, dtype=torch.uint8)
        memory, own = self._memory.tensors, slice(run.first, run.first + run.rows)
        caches = [memory[value.name][own] for value in self._module.caches]
        with torch.no_grad():
            return self._module(tokens, positions, start, rows, extent, caches).numpy()


def as_module(traced: Graph, folder: Path) -> Program:
    """The torch module of target inductor, with weights from their file's bytes."""
    form, table = FOREIGN_RUNTIME, WeightTable(RowLayout())
    graph = serving(traced, form)
    lowered = configured("inductor").lower(graph, limits_of(form), table)
    named = [value for value in graph.constants() if scalar_of(value) is None]
    parts = {v: parts_of(t) for v, t in zip(named, lowered.weights, strict=True)}  # type: ignore[attr-defined]
    module, data = SlotModule(graph, parts), weight_bytes(table)
    for part in {part for some in parts.values() for part in some}:
        count = int(np.prod(part.shape))
        dtype = TORCH_DTYPE[part.dtype]
        values = torch.frombuffer(data, dtype=dtype, count=count, offset=part.offset)
        module.get_buffer(part.name).copy_(values.view(part.shape))
    return ModuleProgram(module, graph)
