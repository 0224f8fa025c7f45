"""One zoo model, from a checkpoint folder to a library of torch's compiler, against eager.

A compile takes half a minute, so this one, with experts, windows and grouped heads, stands for all;
docs/compatibility.md was made with every one of them.
"""

from pathlib import Path

import pytest
from llmc.compiler import driver
from llmc.models.conformance import run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.runtime.api.conformance import verify
from llmc.runtime.api.model import load
from zoo import find


def test_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "probe", lambda *_: "probe: left out")
    model = find("mixtral-window")
    texts = reference_texts(fix_rope(model.build(), model.max_context), model.max_context)
    checkpoint, path = model.save(tmp_path / "checkpoint"), tmp_path / "model.llmc"
    driver.compile(str(checkpoint), target="inductor", output=path, max_context=model.max_context)
    with load(path, threads=2) as loaded:
        report = run_schedule(loaded.program, texts, max_context=model.max_context)
    report.check()
    assert report.rows >= 80
    assert all(check.ok for check in verify(path))
