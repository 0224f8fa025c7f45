"""Every zoo family as an ONNX model of both dialects, run by ONNX Runtime, against eager.

Quantized models are compared with their own graph, interpreted: the same weights, so what is left
is how sums are rounded. In the dialect `ort` the runtime rounds the inputs of quantized layers to
8 bits in blocks, which a tolerance of its own covers.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from llmc.artifact.program import Program, StepInputs, StepOutputs
from llmc.artifact.targets import OnnxProgramOptions, options_of
from llmc.codegen.contract import Build
from llmc.compiler import targets
from llmc.compiler.assemble import variant_of
from llmc.compiler.frontend.lower import own_tensors, trace_model
from llmc.compiler.frontend.probe import StateReader, tensor_of
from llmc.ir.interpreted_slots import InterpretedSlots
from llmc.models.conformance import Text, blocks_needed, run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.runtime.executors.onnx import open_program
from llmc.weights.stream import WeightStream
from llmc.weights.values import RecipeValues
from tiny_model import ZooModel
from zoo import ZOO, find

SLOTS = 7


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 48 tokens: longer ones would only fill the cache with more padding. One thread for
    the interpreter, whose tensors are too small for several."""
    monkeypatch.setattr(targets, "MAX_TOKENS", 48)
    torch.set_num_threads(1)


class Compiled:
    """A zoo model, traced once, as programs of any dialect and scheme."""

    def __init__(self, model: ZooModel, folder: Path) -> None:
        self.context, self.folder = model.max_context, folder
        eager = fix_rope(model.build(), model.max_context)
        self.texts: list[Text] = list(reference_texts(eager, model.max_context))
        self._reader = StateReader(eager.state_dict())
        self._traced = trace_model(model.configuration(), model.max_context, own_tensors)

    def lowered(self, dialect: str, scheme: str) -> targets.Program:
        options = {"onnx": {"dialect": dialect}}
        chosen = targets.resolve_targets(("onnx",), scheme, None, {}, options)
        (program,), _ = targets.lower_for(chosen, self._traced, self.context)
        return program

    def opened(self, program: targets.Program) -> Program:
        """The program in its executor; a standard one is checked with strict shape inference."""
        assert program.table is not None
        data, table = BytesIO(), program.table
        stream = WeightStream(table.tensors, table.nbytes)
        stream.write(data, self._reader, table.layout)
        weights = memoryview(data.getvalue())[stream.size - stream.data_bytes :]
        variant = variant_of(program, "cpu")
        path, beside = self.folder / "model.onnx", self.folder / str(variant.weights)
        program.compiled.build("cpu", path, Build(RecipeValues(self._reader)))
        if options_of(variant.options, OnnxProgramOptions).dialect == "standard":
            beside.parent.mkdir(exist_ok=True)
            beside.write_bytes(weights)
            onnx.checker.check_model(str(path), full_check=True)
        blocks = (SLOTS,) * len(variant.cache_groups)
        return open_program(variant, path.read_bytes(), weights, threads=1, cache_blocks=blocks)

    def interpreted(self, program: targets.Program) -> InterpretedSlots:
        values = RecipeValues(self._reader)
        limits = program.compiled.limits
        return InterpretedSlots(program.graph, limits, SLOTS, lambda v: tensor_of(values, v))


@pytest.mark.parametrize("model", ZOO, ids=lambda model: model.name)
def test_conforms(model: ZooModel, tmp_path: Path) -> None:
    compiled = Compiled(model, tmp_path)
    for dialect in ("ort", "standard"):
        program = compiled.opened(compiled.lowered(dialect, "f32"))
        assert blocks_needed(program, model.max_context) <= SLOTS
        report = run_schedule(program, compiled.texts, max_context=model.max_context)
        program.close()
        report.check()
        assert report.rows >= 80


class Twins:
    """Two programs that take the same steps; how far apart their logits were at most."""

    def __init__(self, program: Program, other: Program) -> None:
        self.limits, self.vocab_size = program.limits, program.vocab_size
        self.cache_groups, self.cache_blocks = program.cache_groups, program.cache_blocks
        self.worst = 0.0
        self._programs = program, other

    def step(self, inputs: StepInputs) -> StepOutputs:
        first, second = (program.step(inputs) for program in self._programs)
        rows = len(inputs.logits_rows)
        spread = np.ptp(second.logits[:rows], axis=-1).min()
        share = float(np.abs(first.logits[:rows] - second.logits[:rows]).max() / spread)
        self.worst = max(self.worst, share) if share == share else float("inf")
        return first

    def copy_block(self, group: int, source: int, target: int) -> None:
        for program in self._programs:
            program.copy_block(group, source, target)

    def close(self) -> None:
        for program in self._programs:
            program.close()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Compiled]:
    found: dict[str, Compiled] = {}

    def get(name: str) -> Compiled:
        if name not in found:
            found[name] = Compiled(find(name), tmp_path_factory.mktemp(name))
        return found[name]

    return get


TOLERANCE = {
    ("standard", "bf16"): 1e-5, ("standard", "int8"): 1e-5, ("standard", "int4"): 1e-5,
    ("standard", "int4-sym"): 1e-5, ("standard", "fp16"): 0.02, ("ort", "bf16"): 1e-5,
    ("ort", "int8"): 0.06, ("ort", "int4"): 0.06, ("ort", "int4-sym"): 0.06, ("ort", "fp16"): 0.02,
}  # fmt: skip
"""Shares of the logits' range, which small errors move far with random weights."""


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize(("dialect", "scheme"), TOLERANCE)
def test_quantized(known: Callable[[str], Compiled], name: str, dialect: str, scheme: str) -> None:
    compiled = known(name)
    program = compiled.lowered(dialect, scheme)
    twins = Twins(compiled.opened(program), compiled.interpreted(program))
    report = run_schedule(twins, compiled.texts, max_context=compiled.context)
    twins.close()
    assert report.rows >= 80
    assert twins.worst < TOLERANCE[dialect, scheme]
