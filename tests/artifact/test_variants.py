"""What a manifest tells about the machines that its variants run on, without any executor."""

import subprocess
import sys
from pathlib import Path

import pytest
from llmc.artifact.inspection import Inspection
from llmc.artifact.variants import select_variant, variant_problem
from llmc.base import machine
from llmc.base.errors import LlmcError


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "native_features", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(machine, "system", lambda: "linux")
    monkeypatch.setattr(machine, "machine", lambda: "x86_64")


def problem(variant) -> str | None:
    found = variant_problem(variant)
    return found and str(found)


def test_what_a_variant_misses_is_said(make_variant) -> None:
    assert problem(make_variant(required_features=["avx2"])) is None
    assert problem(make_variant(target="unheard-of", system="any", machine="any")) is None
    other = problem(make_variant(machine="aarch64"))
    assert other == "LLMC-E0507: it runs on linux/aarch64, this is linux/x86_64"
    lacking = problem(make_variant(required_features=["avx512f", "avx2"]))
    assert lacking == "LLMC-E0506: this CPU lacks avx512f, which the variant portable needs"
    absent = problem(make_variant(packages={"no-such-package": ">=1.2"}))
    assert absent is not None
    assert absent.startswith("LLMC-E0703")


def test_executors_have_the_last_word(make_variant, tiny_manifest) -> None:
    """Those that are passed in: one that refuses, and a target that there is none for."""
    variants = [make_variant(target="gpu"), make_variant()]
    manifest = tiny_manifest(4096, 5000, variants=variants)
    assert select_variant(manifest).target == "gpu"
    assert select_variant(manifest, targets={"cpu"}).target == "cpu"

    def refuses(variant):
        return LlmcError("LLMC-E0514", "no GPU") if variant.target == "gpu" else None

    assert select_variant(manifest, executor_problem=refuses).target == "cpu"
    with pytest.raises(LlmcError, match="no GPU"):
        select_variant(manifest, "gpu", executor_problem=refuses)


def test_an_inspector_says_what_runs_here(make_variant, write_tiny, tmp_path: Path) -> None:
    variants = [make_variant(), make_variant(level="big", required_features=["avx512f"])]
    write_tiny(tmp_path / "two.llmc", variants=variants)
    inspection = Inspection(tmp_path / "two.llmc")
    content = inspection.as_json(graph=False, memory=False)
    assert content["runs_here"] == {"cpu/portable": True, "cpu/big": False}
    lines = inspection.summary().splitlines()
    (told,) = [line for line in lines if "not on this machine" in line]
    assert told == "    not on this machine: this CPU lacks avx512f, which the variant big needs"
    assert "cpu big" in lines[lines.index(told) - 1]


def test_inspecting_imports_neither_tower() -> None:
    code = (
        "import sys, llmc.artifact.inspection as i; "
        "print(*sorted({n.split('.')[1] for n in sys.modules if n.startswith('llmc.')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["artifact", "base"]
