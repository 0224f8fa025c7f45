"""A few zoo families, from a checkpoint folder to a library of torch's compiler, against eager.

Each takes a compile of half a minute, so these stand for all: windows, soft caps, norms of heads
and two cache groups in one, experts in the other. The table in docs/compatibility.md has all of them.
"""

from pathlib import Path

import pytest
from llmc.compiler import driver
from llmc.models.conformance import run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.models.zoo import find
from llmc.runtime.generate import load


@pytest.mark.parametrize("name", ["gemma3", "mixtral"])
def test_conforms(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "probe", lambda *_: "probe: left out")
    model = find(name)
    texts = reference_texts(fix_rope(model.build(), model.max_context), model.max_context)
    checkpoint, path = model.save(tmp_path / "checkpoint"), tmp_path / "model.llmc"
    driver.compile(str(checkpoint), target="inductor", output=path, max_context=model.max_context)
    with load(path, threads=2) as loaded:
        report = run_schedule(loaded.program, texts, max_context=model.max_context)
    report.check()
    assert report.rows >= 80
