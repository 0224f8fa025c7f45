"""The trt target as the driver sees it: levels, schemes, refusals, engines and their headers."""

from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest
from configured import configured
from llmc.artifact.manifest import Limits
from llmc.base.errors import LlmcError
from llmc.codegen.contract import Build
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.frontend.probe import StateReader
from llmc.ir.graph import Graph
from llmc.ir.ops import Binary
from llmc.ir.types import DType, TensorType
from llmc.passes.features import FOREIGN_RUNTIME
from llmc.weights.values import RecipeValues
from zoo import find

pytest.importorskip("tensorrt_rtx_bindings")

from interpreted_gpu import variant_of
from llmc.codegen.tensorrt.backend import CompiledTrt
from llmc.runtime.executors.tensorrt import engine_sms, open_program, problem
from llmc.runtime.executors.tensorrt_engine import check_engine, read_header
from llmc.runtime.executors.tensorrt_library import distribution

IDS = tuple(range(40))


def lower(family: str, scheme: str, sms: tuple[str, ...] = (), **options: Any) -> tuple:
    """(target, program, weights) of a zoo family."""
    target = configured("trt", scheme, levels=sms, **options)
    model = find(family)
    graph = lower_model(
        model.configuration(), model.max_context, own_tensors, target.scheme, FOREIGN_RUNTIME
    ).graph
    limits = Limits(
        max_tokens=32,
        max_sequences=4,
        max_context=model.max_context,
        max_logits_rows=4,
        block_size=model.max_context + 31,
        uniform_query=True,
    )
    values = RecipeValues(StateReader(model.build().state_dict()))
    return target, target.lower(graph, limits, None), values


def built(program: CompiledTrt, values: RecipeValues, out: Path) -> bytes:
    """The bytes of a program's engine."""
    program.build("sm", out, Build(values, lambda: IDS))
    return out.read_bytes()


@pytest.mark.parametrize(
    ("family", "scheme", "sms"),
    [
        ("llama", "fp16", ("75", "80", "86", "89", "120", "121")),
        ("mixtral", "int8", ()),
        ("gemma2", "int4", ("80", "120")),
        ("llama", "fp8", ()),
    ],
)
def test_engines_are_what_the_manifest_says(
    family: str, scheme: str, sms: tuple[str, ...], tmp_path: Path
) -> None:
    _, program, values = lower(family, scheme, sms)
    engine = built(program, values, tmp_path / "x.engine")
    variant = variant_of(program)
    assert read_header(engine).version == distribution()[1]
    assert read_header(engine).sms == engine_sms(variant)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.engine"]


def test_a_damaged_engine_is_refused(tmp_path: Path) -> None:
    _, program, values = lower("gpt2", "fp16", ("86",))
    engine = built(program, values, tmp_path / "x.engine")
    variant = variant_of(program)
    version, sms = program.options("sm86").version, engine_sms(variant)
    check_engine(engine, version, sms)
    for wrong in (engine[:-1], b"PK" + engine[2:], engine[:10], b""):
        with pytest.raises(LlmcError, match=r"engine") as error:
            open_program(variant, wrong, None, threads=1, cache_blocks=(4,))
        assert error.value.id == "LLMC-E0509"
    with pytest.raises(LlmcError, match=r"made by TensorRT .*, the manifest says 9\.9"):
        check_engine(engine, "9.9", sms)
    with pytest.raises(LlmcError, match=r"for SMs \(86,\), the manifest says \(80,\)"):
        check_engine(engine, version, (80,))


def test_levels() -> None:

    def levels(scheme: str, *words: str, exact: bool = False) -> tuple[str, ...]:
        return configured("trt", scheme, levels=words, exact=exact).levels

    assert levels("int8") == ("sm80-86-89-120-121",)
    assert levels("int8", "75", "sm86", "8.9", "86") == ("sm75-86-89",)
    assert levels("int8", "sm86-89", exact=True) == ("sm86-89",)  # as a manifest says it
    for word, reason in (("90", "SM90 \\(H100, H200\\)"), ("banana", "no GPU 'banana'")):
        with pytest.raises(LlmcError, match=reason) as error:
            levels("int8", word)
        assert error.value.id == "LLMC-E0202"
    assert levels("fp8") == ("sm89-120-121",)
    with pytest.raises(LlmcError, match="SM80 can't compute scheme 'fp8'") as error:
        levels("fp8", "80")
    assert error.value.id == "LLMC-E0231"


def test_schemes_that_cannot_be_done_are_refused_by_name() -> None:
    assert configured("trt", "int8", "fp16").scheme.cache is DType.F16
    with pytest.raises(LlmcError, match="target trt has no KV cache int8") as error:
        configured("trt", "int4", "int8")
    assert error.value.id == "LLMC-E0231"
    with pytest.raises(LlmcError, match="unknown quantization scheme") as error:
        configured("trt", "int3")
    assert error.value.id == "LLMC-E0201"


def test_an_op_without_layers_is_refused_by_name() -> None:
    target, program, _ = lower("gpt2", "fp16")
    graph = Graph()
    x = graph.add_input("token_ids", TensorType(DType.I32, (4,)))
    graph.outputs = [graph.append(Binary("shift_left"), [x, x], "model.odd").output]
    with pytest.raises(LlmcError, match=r"shift_left.* at model\.odd") as error:
        target.lower(graph, program.limits, None)
    assert error.value.id == "LLMC-E0401"


def test_what_the_builder_refuses_is_one_line_with_the_layer(tmp_path: Path) -> None:
    _, program, values = lower("mixtral", "fp16", ("75",))
    with pytest.raises(LlmcError) as error:
        built(program, values, tmp_path / "x.engine")
    assert error.value.id == "LLMC-E0720"
    assert "'model.layers.0.mlp.gate/linear" in error.value.message
    assert "FP32 GEMM is not supported" in error.value.message
    assert "\n" not in error.value.message
    assert not list(tmp_path.iterdir())


def test_engines_to_refit_need_a_gpu_when_they_are_built() -> None:
    backend, _, _ = lower("gpt2", "fp16", ("80", "86"), refit=True)
    with pytest.raises(LlmcError, match="for one GPU only"):
        backend.require_tools()
    backend, program, _ = lower("gpt2", "fp16", ("86",), refit=True)
    if problem(variant_of(program)) is not None:
        with pytest.raises(LlmcError, match="no NVIDIA GPU can be used") as error:
            backend.require_tools()
        assert error.value.id == "LLMC-E0514"


def test_timing_cache_and_progress(tmp_path: Path) -> None:
    cache = tmp_path / "timing"
    _, program, values = lower("gpt2", "fp16", ("86",), timing_cache=str(cache))
    seen: list[float] = []
    out = tmp_path / "x.engine"
    build = Build(values, lambda: IDS, progress=lambda what, share: seen.append(share))
    program.build("sm86", out, build)
    steps, seen[:] = list(seen), []
    assert steps == sorted(steps)
    assert 0.5 < max(steps) <= 0.9
    assert cache.stat().st_size > 0
    program.build("sm86", out, build)
    assert read_header(out.read_bytes()).sms == (86,)


def test_a_build_can_be_stopped(tmp_path: Path) -> None:
    _, program, values = lower("gemma3", "fp16")
    stop = Event()
    Timer(0.5, stop.set).start()
    with pytest.raises(LlmcError, match="stopped"):
        program.build("sm", tmp_path / "x.engine", Build(values, lambda: IDS, stop=stop))
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_the_preflight_says_so() -> None:
    _, program, _ = lower("gpt2", "fp16", ("120",))
    found = problem(variant_of(program))
    if found is not None:  # on a machine with such a GPU there is nothing to say
        assert found.id == "LLMC-E0514"
        assert "\n" not in found.message
