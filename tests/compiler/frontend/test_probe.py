"""The probe: the graph of every target goes through it, and a difference stops the compile."""

import sys

import pytest
from llmc.base.errors import LlmcError
from llmc.compiler.frontend import probe as probe_module
from llmc.compiler.frontend.probe import compare, probe
from llmc.models.conformance import Report
from llmc.passes.features import FOREIGN_RUNTIME, OWN_KERNELS, Features
from zoo import find

BOTH = (OWN_KERNELS, FOREIGN_RUNTIME)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Nothing remembered of other runs."""
    monkeypatch.setattr(probe_module, "cache_dir", lambda: tmp_path)


def test_both_forms_are_compared() -> None:
    found = compare(find("qwen3-moe").configuration(), BOTH)
    assert set(found) == set(BOTH)
    assert all(report.rows >= 80 and report.worst <= 1e-4 for report in found.values())


def test_what_passed_is_remembered_for_its_forms() -> None:
    config = find("llama").configuration()
    assert "matches eager" in probe(config, b"one", [OWN_KERNELS])
    assert "passed before" in probe(config, b"one", [OWN_KERNELS])
    assert "matches eager" in probe(config, b"one", BOTH)
    assert "passed before" in probe(config, b"one", BOTH)


@pytest.mark.parametrize("wrong", BOTH)
def test_a_difference_in_either_form_stops_the_compile(monkeypatch, wrong: Features) -> None:
    """And isn't remembered as a pass."""
    reports = {form: Report(worst=0.5 if form is wrong else 0.0, where="row 7") for form in BOTH}
    monkeypatch.setattr(probe_module, "compare", lambda config, forms: reports)
    for _ in range(2):
        with pytest.raises(LlmcError, match=f"row 7 .{wrong.name}") as caught:
            probe(find("llama").configuration(), b"two", BOTH)
        assert caught.value.id == "LLMC-E0415"


def test_a_pass_is_of_one_version_of_our_own_code(monkeypatch, tmp_path) -> None:
    """Every floor that a probe goes through counts, so a change there asks for another probe."""
    asked: list[str] = []
    monkeypatch.setattr(probe_module.Path, "rglob", lambda self, _: asked.append(self.name) or [])
    probe_module._stamp(find("llama").configuration(), b"three", [])
    monkeypatch.undo()
    root = probe_module.Path(probe_module.__file__).parents[2]
    modules = {m for m in sys.modules if m.startswith("llmc.")}
    used = {m.split(".")[1] for m in modules} & {p.name for p in root.iterdir() if p.is_dir()}
    assert used - {"codegen", "server", "cli", "benchmarks", "tests"} <= set(asked)
