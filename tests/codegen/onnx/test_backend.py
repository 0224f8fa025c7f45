"""The onnx target: schemes and names refused in time, equal bytes, readable names."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import onnx
import pytest
from configured import configured
from llmc.base.errors import LlmcError
from llmc.codegen.contract import Build
from llmc.codegen.onnx.backend import CompiledOnnx
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.frontend.probe import StateReader
from llmc.compiler.targets import limits_of
from llmc.ir.types import DType
from llmc.passes.features import FOREIGN_RUNTIME
from llmc.weights.table import WeightTable
from llmc.weights.values import RecipeValues
from zoo import find


def lowered(dialect: str, scheme: str = "f32", name: str = "llama") -> CompiledOnnx:
    target, model = configured("onnx", scheme, dialect=dialect), find(name)
    graph = lower_model(
        model.configuration(), model.max_context, own_tensors, target.scheme, FOREIGN_RUNTIME
    ).graph
    limits = limits_of(FOREIGN_RUNTIME, model.max_context)
    return target.lower(graph, limits, WeightTable(target.layout))


def built(program: CompiledOnnx, path: Path) -> bytes:
    program.build("cpu", path, Build(RecipeValues(StateReader({})), stop=Event()))
    return path.read_bytes()


@pytest.mark.parametrize("dialect", ["ort", "standard"])
def test_same_source_same_bytes(dialect: str, tmp_path: Path) -> None:
    first = built(lowered(dialect, "int4"), tmp_path / "a")
    second = built(lowered(dialect, "int4"), tmp_path / "b")
    assert first == second
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a", "b"]


def test_standard_uses_operators_of_onnx_alone(tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(built(lowered("standard", "int4-sym"), tmp_path / "m"))
    assert {node.domain for node in model.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 24)]


def test_nodes_are_named_by_layers_and_weights_are_outside(tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(built(lowered("standard", "int4-sym"), tmp_path / "m"))
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "model.layers.2.self_attn/Attention" in names
    outside = [t for t in model.graph.initializer if t.external_data]
    inside = [t for t in model.graph.initializer if not t.external_data]
    assert "model.layers.0.mlp.down_proj.weight.codes:int4" in {t.name for t in outside}
    assert all(len(t.raw_data) <= 2048 for t in inside)
    read = {name for node in model.graph.node for name in node.input}
    assert {t.name for t in model.graph.initializer} <= read
    known = {entry.key: entry.value for entry in model.metadata_props}
    assert (known["max_context"], known["dialect"]) == ("128", "standard")


def test_fp16_computes_in_f16_and_angles_in_f32(tmp_path: Path) -> None:
    program = lowered("standard", "fp16")
    options = program.options("cuda")
    assert (options.dialect, options.precision, options.provider) == ("standard", "f16", "cuda")
    assert {cache.dtype for cache in options.caches} == {"f16"}
    assert {group.dtype for group in program.cache_groups} == {"f16"}
    model = onnx.ModelProto.FromString(built(program, tmp_path / "m"))
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    assert types["model.rotary_emb/Cos"] == onnx.TensorProto.FLOAT
    assert types["model.norm/RMSNormalization"] == onnx.TensorProto.FLOAT16
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_refuses_names_it_does_not_know() -> None:
    cases = [
        ("LLMC-E0201", lambda: configured("onnx", "int3")),
        ("LLMC-E0201", lambda: configured("onnx", "f32", "int2")),
        ("LLMC-E0231", lambda: configured("onnx", "int4", "int8")),
        ("LLMC-E0231", lambda: configured("onnx", "int4", "fp16")),
        ("LLMC-E0231", lambda: configured("onnx", "fp8")),
        ("LLMC-E0202", lambda: configured("onnx", levels=("x86-64-v3",))),
        ("LLMC-E0205", lambda: configured("onnx", dialect="classic")),
        ("LLMC-E0205", lambda: configured("onnx", flavour="ort")),
    ]
    for expected, call in cases:
        with pytest.raises(LlmcError) as refusal:
            call()
        assert refusal.value.id == expected


def test_levels_are_providers() -> None:
    assert configured("onnx").levels == ("cpu",)
    assert configured("onnx", levels=("cpu", "cuda", "cpu")).levels == ("cuda", "cpu")
    assert configured("onnx", "f32", "f32").scheme.cache is DType.F32


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmc.codegen.onnx.backend.find_spec", lambda _: None)
    with pytest.raises(LlmcError, match="onnx") as refusal:
        configured("onnx").require_tools()
    assert refusal.value.id == "LLMC-E0703"
    assert "llmc-compiler[onnx]" in (refusal.value.hint or "")
