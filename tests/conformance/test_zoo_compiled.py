"""Every zoo family, from a checkpoint folder to the native library, against eager.

Prefill of three sequences in one step, then 16 decode steps, with all that `models/conformance.py`
adds; contexts beyond windows and rope thresholds.
"""

from pathlib import Path

import pytest
from llmc.compiler import driver
from llmc.models.conformance import run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.models.tiny import ZooModel
from llmc.models.zoo import ZOO
from llmc.runtime.generate import load


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe would compare the same model with eager once more (and keep a note of it)."""
    monkeypatch.setattr(driver, "probe", lambda *_: "probe: left out")


def artifact_of(model: ZooModel, folder: Path, scheme: str = "f32") -> Path:
    """Save the model as a checkpoint, compile it, return the artifact."""
    checkpoint = model.save(folder / "checkpoint")
    path = folder / "model.llmc"
    driver.compile(str(checkpoint), output=path, max_context=model.max_context, scheme=scheme)
    return path


@pytest.mark.parametrize("model", ZOO, ids=lambda model: model.name)
def test_conforms(model: ZooModel, tmp_path: Path) -> None:
    texts = reference_texts(fix_rope(model.build(), model.max_context), model.max_context)
    with load(artifact_of(model, tmp_path), threads=2) as loaded:
        report = run_schedule(loaded.program, texts, max_context=model.max_context)
    report.check()
    assert report.rows >= 80
