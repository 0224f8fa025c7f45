"""Several targets in one compile: one trace, weights that are shared, answers of each."""

from pathlib import Path

import llmc
import pytest
from configured import configured
from llmc.artifact.reader import ArtifactReader
from llmc.base.errors import LlmcError
from llmc.compiler import driver
from llmc.compiler.frontend.lower import own_tensors, trace_model
from llmc.compiler.rebuild import rebuild
from llmc.compiler.targets import lower_for, resolve_targets
from llmc.runtime.api.conformance import verify
from llmc.weights.row_layout import RowLayout
from zoo import find

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx_ir")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model for cpu and onnx."""
    folder = tmp_path_factory.mktemp("both")
    model = find("llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "probe", lambda *_: "probe: left out")
        driver.compile(
            str(model.save(folder / "checkpoint")),
            target="onnx,cpu",
            levels={"cpu": ("portable", "native")},
            output=folder / "both.llmc",
            max_context=64,
        )
    return folder / "both.llmc"


def greedy(path: Path, target: str | None) -> list[int]:
    with llmc.load(path, target=target, threads=1) as model:
        stream = model.generate([5, 9, 14], max_tokens=12, ignore_eos=True)
        return [token for chunk in stream for token in chunk.token_ids]


def test_both_answer_alike(both: Path) -> None:
    manifest = ArtifactReader(both).manifest
    assert [v.target for v in manifest.variants][::2] == ["onnx", "cpu"]
    assert {vector.target for vector in manifest.conformance} == {"onnx", "cpu"}
    assert greedy(both, "onnx") == greedy(both, "cpu") == greedy(both, None)
    checks = verify(both, threads=1)
    assert all(check.ok for check in checks)
    assert sum(check.name.endswith("greedy") for check in checks) == len(manifest.conformance)


def test_the_first_target_is_run_unless_another_is_asked_for(both: Path) -> None:
    for target, expected in ((None, "onnx"), ("onnx", "onnx"), ("cpu", "cpu")):
        with llmc.load(both, target=target) as model:
            assert model.variant is not None
            assert model.variant.target == expected
    with pytest.raises(LlmcError, match="no trt variant"):
        llmc.load(both, target="trt")


@pytest.mark.usefixtures("from_nothing")
def test_a_rebuild_is_the_same(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "probe", lambda *_: "probe: left out")
    checks = rebuild(both, str(both.parent / "checkpoint"))
    assert [check.name for check in checks if not check.ok] == []
    assert {"rebuilt programs/onnx/cpu.onnx", "rebuilt programs/cpu/portable.so"} <= {
        check.name for check in checks
    }


def test_targets_of_one_layout_share_their_weights() -> None:
    """What both read is there once; nothing is read by neither."""
    model = find("llama")
    traced = trace_model(model.configuration(), 64, own_tensors)
    targets = [
        configured("onnx", "int4-sym", dialect="standard"),
        configured("inductor", "int4-sym"),
    ]
    programs, _ = lower_for(targets, traced, 64)
    first, second = (program.table for program in programs)
    assert first is second
    assert first is not None
    assert first.layout == RowLayout()
    assert {t.weights_entry for t in targets} == {"weights/rows.safetensors"}
    alone, _ = lower_for(targets[1:], traced, 64)
    assert alone[0].table is not None
    assert first.nbytes < 1.05 * alone[0].table.nbytes


@pytest.mark.parametrize(
    ("names", "scheme", "identifier"),
    [
        ((), "f32", "LLMC-E0200"), (("cpu", "cpu"), "f32", "LLMC-E0200"),
        (("cpu", "tpu"), "f32", "LLMC-E0203"), (("cpu",), "fp8", "LLMC-E0231"),
        (("cpu", "onnx"), "fp8", "LLMC-E0231"), (("cpu",), "int5", "LLMC-E0201"),
    ],
)  # fmt: skip
def test_what_a_target_can_t_do_is_refused(
    names: tuple[str, ...], scheme: str, identifier: str
) -> None:
    with pytest.raises(LlmcError) as error:
        resolve_targets(names, scheme, None, {}, {})
    assert error.value.id == identifier


@pytest.mark.parametrize(
    ("levels", "scheme", "cache", "identifier"),
    [
        ((), "f32", None, "LLMC-E0202"), (("75",), "f32", None, "LLMC-E0202"),
        (("abc",), "f32", None, "LLMC-E0202"), (("90a",), "f32", None, "LLMC-E0202"),
        (("90", "70"), "f32", None, "LLMC-E0202"), (("90",), "int5", None, "LLMC-E0201"),
        (("90",), "f32", "fp4", "LLMC-E0201"),
    ],
)  # fmt: skip
def test_gpus_that_nothing_is_built_for_are_refused(
    levels: tuple[str, ...], scheme: str, cache: str | None, identifier: str
) -> None:
    """Before a model is opened: each with one line that names what there is."""
    with pytest.raises(LlmcError) as error:
        resolve_targets(("triton",), scheme, cache, {"triton": levels}, {})
    assert error.value.id == identifier
    if identifier == "LLMC-E0202":
        assert "90" in error.value.hint


def test_without_triton_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LlmcError, match="E0703") as error:
        resolve_targets(("triton",), "f32", None, {"triton": ("90",)}, {})
    assert "llmc-compiler[triton]" in error.value.hint
