"""The example for GPUs, with a plan in place of a compile, on machines with and without a GPU."""

import inspect
import runpy
import sys
from pathlib import Path

import llmc
import pytest
from llmc.base.errors import LlmcError
from toy_plan import toy_plan, toy_triton_variant
from toy_program import GROUPS

EXAMPLE = Path(__file__).parents[2] / "examples" / "gpu.py"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    return ended.value.code  # type: ignore[return-value]


@pytest.fixture
def artifact(tmp_path: Path, write_tiny) -> Path:
    path = tmp_path / "gpu.llmc"
    variants = [
        toy_triton_variant(decode_weight_bytes=1234567),
        toy_triton_variant(toy_plan(sm=80), level="sm80", decode_weight_bytes=7),
    ]
    write_tiny(path, variants=variants)
    return path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise LlmcError("LLMC-E0514", "there is no NVIDIA driver here")

    monkeypatch.setattr(llmc, "load", load)


def test_the_plan_is_shown_where_there_is_no_gpu(
    artifact: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run(monkeypatch, artifact) == 0
    first, *plans = capsys.readouterr().out.splitlines()
    assert first == "not run: there is no NVIDIA driver here"
    # Four of the toy's five launches are in small steps. Its cache: see `GROUPS` of the toy.
    length = toy_triton_variant().limits.max_context
    cache = sum(g.bytes_per_block / g.block_size * (g.window or length) for g in GROUPS)
    assert plans == [
        f"sm90: 4 launches a decode step, which reads 1,234,567 bytes of weights "
        f"and {int(cache):,} of cache",
        f"sm80: 4 launches a decode step, which reads 7 bytes of weights and {int(cache):,} "
        "of cache",
    ]


def test_a_model_is_compiled_for_the_gpus_that_were_named(
    artifact: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    signature, asked = inspect.signature(llmc.compile), {}

    def compile(*args: object, **named: object) -> object:
        asked.update(signature.bind(*args, **named).arguments)
        return type("Report", (), {"artifact": str(artifact)})

    monkeypatch.setattr(llmc, "compile", compile)
    assert run(monkeypatch, "folder", "--sm", "80,90", "--scheme", "int8", "-o", artifact) == 0
    assert asked == {
        "model": "folder", "target": "triton", "scheme": "int8", "levels": ["80", "90"],
        "output": artifact,
    }  # fmt: skip
    assert "sm80: " in capsys.readouterr().out


def test_other_failures_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run(monkeypatch, tmp_path / "none.llmc") == 5
    assert capsys.readouterr().err.startswith("LLMC-E0501: ")
