"""What the backend promises before anything is built, and what a build leaves behind."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from configured import configured
from llmc.artifact.manifest import Limits
from llmc.base.errors import LlmcError
from llmc.base.machine import machine
from llmc.codegen.inductor.build import build_library
from llmc.codegen.inductor.worker import Job
from llmc.ir.ops import Call
from llmc.ir.parser import parse
from llmc.ir.types import DType
from llmc.passes.quantize import Scheme
from llmc.weights.row_layout import RowLayout
from llmc.weights.table import WeightTable

LIMITS = Limits(
    max_tokens=16, max_sequences=2, max_context=20, max_logits_rows=4, block_size=35,
    uniform_query=True,
)  # fmt: skip
GRAPH = """
graph main: SERVING
input token_ids: i32[T] as token_ids
input logits_rows: i32[R] as logits_rows
const @embed: f32[10, 8] = @embed:f32
%0: f32[T, 8] = embedding(@embed, token_ids)
%1: f32[R, 8] = logits_rows(%0, logits_rows)
%2: f32[R, 10] = linear(%1, @embed)
output %2
"""


def test_levels() -> None:
    target = configured("inductor", levels=("x86-64-v3", "x86-64-v4", "x86-64-v3"))
    assert target.levels == ("x86-64-v3", "x86-64-v4")
    assert target.requirements("x86-64-v3").features < target.requirements("x86-64-v4").features
    with pytest.raises(LlmcError, match=r"E0202.*aarch64") as error:
        configured("inductor", levels=("aarch64",))
    assert "x86-64-v3" in str(error.value.hint)


@pytest.mark.parametrize(
    ("family", "features", "level"),
    [
        ("x86_64", "x86-64-v4", "x86-64-v4"),
        ("x86_64", "x86-64-v3", "x86-64-v3"),
        ("x86_64", None, None),
        ("aarch64", "x86-64-v4", None),
    ],
)
def test_native_is_the_best_that_runs_here(
    family: str, features: str | None, level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (
        configured("inductor", levels=("x86-64-v3",)).requirements(features).features
        if features
        else frozenset({"sse2"})
    )
    monkeypatch.setattr("llmc.base.machine.machine", lambda: family)
    monkeypatch.setattr("llmc.base.machine.native_features", lambda: found)
    if level is None:
        with pytest.raises(LlmcError, match=r"E0416"):
            configured("inductor")
    else:
        assert configured("inductor").levels == (level,)


def test_the_manifest_names_the_version_of_torch() -> None:
    packages = configured("inductor", levels=("x86-64-v3",)).requirements("x86-64-v3").packages
    assert packages == {"torch": "==" + torch.__version__.split("+")[0]}


def test_schemes() -> None:
    """Formats of weights as for the cpu target; a bf16 cache where that has one of int8."""

    def scheme(name: str, cache: str | None = None) -> Scheme:
        return configured("inductor", name, cache, levels=("x86-64-v3",)).scheme

    assert scheme("f32").cache == DType.F32
    int4 = scheme("int4")
    assert (int4.weight, int4.cache) == (DType.I4K, DType.BF16)
    assert not configured("inductor", levels=("x86-64-v3",)).features.quantized_inputs
    assert scheme("int4", "f32").cache == DType.F32
    assert scheme("fp16").weight == DType.F16
    with pytest.raises(LlmcError, match=r"E0231.*fp8"):
        scheme("fp8")
    with pytest.raises(LlmcError, match=r"E0231.*cache int8"):
        scheme("f32", "int8")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(LlmcError, match=r"E0703.*C\+\+ compiler"):
        configured("inductor", levels=("x86-64-v3",)).require_tools()


def test_an_op_of_the_paged_form_is_refused_by_name() -> None:
    graph = parse(
        f"graph body: SERVING\ninput x: f32[T, 4]\n%0: f32[T, 4] = neg(x)\noutput %0\n{GRAPH}"
    )
    x = graph.nodes[0].output
    graph.insert_before(graph.nodes[1], Call("body"), [x])
    with pytest.raises(LlmcError, match=r"E0401.*body"):
        configured("inductor", levels=("x86-64-v3",)).lower(graph, LIMITS, WeightTable(RowLayout()))


def job() -> Job:
    target = configured("inductor")
    lowered = target.lower(parse(GRAPH), LIMITS, WeightTable(RowLayout()))
    assert lowered.memory_plan.arena_bytes > 16 * 8 * 4
    return lowered.job(target.levels[0])


@pytest.mark.skipif(machine() != "x86_64", reason="the target is for x86-64")
def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    """Side by side, in folders of other names, which aren't in the library."""
    places = [tmp_path / name for name in ("one", "another")]
    for place in places:
        place.mkdir()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda place: build_library(job(), place / "out.so"), places))
    assert all([file.name for file in place.iterdir()] == ["out.so"] for place in places)
    libraries = [(place / "out.so").read_bytes() for place in places]
    assert libraries[0] == libraries[1]
    for place in (tmp_path, Path(torch.__file__).parent.parent):
        assert str(place).encode() not in libraries[0]


def test_a_build_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(LlmcError, match=r"E0706.*stopped"):
        build_library(job(), tmp_path / "out.so", stop)
    assert list(tmp_path.iterdir()) == []


def test_a_compile_that_fails_says_why(tmp_path: Path) -> None:
    broken = job()
    broken.level = "no such level"
    with pytest.raises(LlmcError, match=r"E0706.*no such level"):
        build_library(broken, tmp_path / "out.so")
    assert list(tmp_path.iterdir()) == []
