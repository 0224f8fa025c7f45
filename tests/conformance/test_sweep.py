"""A sample of the sweep over all model types comes out as sweep.json says, and so does the page."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import sweep
import sweep_subjects as of
from sweep_page import DIFFERENT, EQUAL, FAILS, HANGS, OTHER, REFUSED, section, summary

SAMPLE = {
    "bart": "counts its positions, makes a mask that nothing reads",
    "bert": "an encoder that is told to be a decoder",
    "bloom": "ALiBi, attention spelled out",
    "cpmant": "attends in both directions",
    "deepseek_v2": "latent attention, complex rotary, groups of experts",
    "gemma3_text": "sliding windows among full attention",
    "gpt_neo": "windows, attention spelled out",
    "mamba": "a convolution and a scan",
    "mixtral": "experts",
    "roberta": "positions behind a row for padding",
}


@pytest.mark.parametrize("name", SAMPLE)
def test_a_type_comes_out_as_the_table_says(name: str) -> None:
    """With other versions of torch and transformers at least what is equal there is so here."""
    if name not in of.model_types():
        pytest.skip(f"the installed transformers has no {name}")
    known = sweep.read()["types"][name]["subjects"][of.DEFAULT]
    found = sweep.attempt(name, of.DEFAULT, compiled=False)
    assert found["status"] not in (DIFFERENT, FAILS), found
    if sweep.read()["versions"]["transformers"] == version("transformers"):
        assert found["status"] == known["status"], (found, f"sweep.py --only {name}")
    elif known["status"] == EQUAL:
        assert found["status"] == EQUAL, found


def test_the_table_has_no_wrong_type() -> None:
    """What isn't done is refused with an id and a reason."""
    known = sweep.read()
    if known["versions"]["transformers"] == version("transformers"):
        assert {*known["types"]} <= {*of.model_types()}
    for name, result in known["types"].items():
        assert result["status"] not in (DIFFERENT, FAILS, HANGS), name
        for found in result["subjects"].values():
            assert ("cause" in found) == (found["status"] != EQUAL), name
            assert ("error" in found) == (found["status"] == REFUSED), name


def test_what_is_no_decoder_is_not_counted() -> None:
    types = {
        "a": {"status": EQUAL, "subjects": {"default": {"status": EQUAL, "worst": 2e-6}}},
        "b": {"status": OTHER, "subjects": {"default": {"status": OTHER, "cause": "sees all"}}},
        "c": {
            "status": REFUSED,
            "subjects": {
                "default": {"status": EQUAL, "worst": 1e-6},
                "d": {"status": REFUSED, "error": "LLMC-E0401", "cause": "`x | y`\nmore"},
            },
        },
    }
    known = {"versions": {"torch": "2"}, "types": types}
    assert summary(known) == "1 of 2 decoders match"
    page = section(known)
    assert "| c | refused, LLMC-E0401 | 'x / y' |" in page
    assert "| b | no decoder | sees all |" in page
    assert "a." in page


def test_the_worst_subject_and_program_decide() -> None:
    fine, wrong = {"status": EQUAL, "worst": 0.0}, {"status": DIFFERENT, "worst": 1.0}
    assert sweep._status({"default": fine, "other": {"status": REFUSED}}) == REFUSED
    assert sweep._status({"default": fine | {"cpu": wrong}}) == DIFFERENT
    assert sweep._status({"default": fine, "other": {"status": "not built"}}) == EQUAL
    known = {"subjects": {"default": fine | {"cpu": wrong}}}
    kept = sweep._with_programs({"subjects": {"default": dict(fine)}}, known)
    assert kept["status"] == DIFFERENT


def test_an_end_by_force_is_a_result(monkeypatch, tmp_path: Path) -> None:
    """A process that says nothing, runs out of time, or ends with a traceback."""
    script = tmp_path / "script.py"
    monkeypatch.setattr(sweep, "__file__", str(script))
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)")
    assert sweep.apart("x", "default", False)["status"] == HANGS
    script.write_text("raise ValueError('glass')")
    found = sweep.apart("x", "default", False)
    assert (found["status"], found["cause"]) == (FAILS, "ValueError: glass")
    script.write_text(f"print({json.dumps(json.dumps({'status': EQUAL}))})")
    assert sweep.apart("x", "default", False) == {"status": EQUAL}


def test_a_loss_is_an_error_and_writes_nothing(monkeypatch, capsys) -> None:
    known = {"versions": {}, "types": {"llama": {"status": EQUAL, "subjects": {}}}}
    lost = {"status": REFUSED, "error": "LLMC-E0401", "cause": "no more"}
    monkeypatch.setattr(sweep, "read", lambda: known)
    monkeypatch.setattr(sweep, "apart", lambda *_: dict(lost))
    monkeypatch.setattr(sweep, "write", lambda _: pytest.fail("it wrote"))
    assert sweep.main(["--compare", "--only", "llama"]) == 1
    assert "no longer equal: llama" in capsys.readouterr().out
