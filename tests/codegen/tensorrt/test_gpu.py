"""Engines on a GPU, against the same references as their networks. Skipped where there is none."""

from pathlib import Path

import pytest
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.frontend.probe import StateReader
from llmc.models.conformance import Text, run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.passes.features import FOREIGN_RUNTIME
from llmc.weights.values import RecipeValues
from zoo import find

pytest.importorskip("tensorrt_rtx_bindings")

from interpreted_gpu import variant_of
from llmc.codegen.contract import Build
from llmc.codegen.tensorrt.backend import CompiledTrt
from llmc.codegen.tensorrt.calibration import input_ranges
from llmc.codegen.tensorrt.engine import Options
from llmc.codegen.tensorrt.precision import BUILDABLE, PRECISIONS
from llmc.runtime.executors.tensorrt import open_program
from llmc.runtime.executors.tensorrt_gpu import device_sm
from test_conformance import graph_logits, limits_of

# As for networks, and what int8 and fp8 make of f16's rounding, which they don't average out here.
TOLERANCES = {"f32": 1e-3, "fp16": 1e-2, "int4": 1e-2, "int8": 3e-1, "fp8": 3e-1}


def own_sm() -> int | None:
    """The GPU's compute capability if engines can be built for it."""
    try:
        found = device_sm()
    except LlmcError:
        return None
    return found if found in BUILDABLE else None


@pytest.mark.gpu
@pytest.mark.skipif(own_sm() is None, reason="no GPU that TensorRT for RTX builds for")
@pytest.mark.parametrize("scheme", TOLERANCES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2-window", "mixtral", "gpt2"])
def test_engine_conforms(family: str, scheme: str, tmp_path: Path) -> None:
    model, precision, sm = find(family), PRECISIONS[scheme], own_sm()
    if sm not in precision.sms:
        pytest.skip(f"SM{sm} has no {scheme}")
    eager = fix_rope(model.build(), model.max_context)
    values = RecipeValues(StateReader(eager.state_dict()))
    graph = lower_model(
        model.configuration(), model.max_context, own_tensors, precision.scheme, FOREIGN_RUNTIME
    ).graph
    texts = reference_texts(eager, model.max_context)
    sample = tuple(texts[3].token_ids.tolist())
    ranges = input_ranges(graph, values, sample) if precision.calibrated else {}
    logits = [graph_logits(graph, values, t.token_ids, precision, ranges) for t in texts]
    texts = [Text(t.token_ids, found) for t, found in zip(texts, logits, strict=True)]
    lowered = CompiledTrt(graph, limits_of(model), precision, Options((sm,)))
    lowered.build("sm", tmp_path / "x.engine", Build(values, lambda: sample))
    engine = (tmp_path / "x.engine").read_bytes()
    program = open_program(variant_of(lowered), engine, None, threads=1, cache_blocks=(7,))
    try:
        report = run_schedule(program, texts, max_context=model.max_context)
    finally:
        program.close()
    assert report.rows >= 80
    assert report.worst < TOLERANCES[scheme], report.where
