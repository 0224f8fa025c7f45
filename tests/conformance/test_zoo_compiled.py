"""Every zoo family, from a checkpoint folder to the native library, against eager.

Prefill of three sequences in one step, then 16 decode steps, with all that `models/conformance.py`
adds; contexts beyond windows and rope thresholds.
"""

from pathlib import Path

import pytest
from llmc.compiler import driver
from llmc.models.conformance import run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.runtime.api.model import load
from tiny_model import ZooModel
from zoo import ZOO, find


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe would compare the same model with eager once more (and keep a note of it)."""
    monkeypatch.setattr(driver, "probe", lambda *_: "probe: left out")


def artifact_of(model: ZooModel, folder: Path, kv_cache: str | None = None) -> Path:
    """Save the model as a checkpoint, compile it in f32, return the artifact."""
    checkpoint = model.save(folder / "checkpoint")
    path = folder / "model.llmc"
    driver.compile(str(checkpoint), output=path, max_context=model.max_context, kv_cache=kv_cache)
    return path


ROUNDED = ("llama", "gemma2", "gemma3", "qwen3", "phi3-window", "gpt2", "opt", "minicpm3")
"""Grouped heads, soft cap, windows, norms of heads, no rotary, latents. No experts: a router that
small errors move chooses other experts."""


@pytest.mark.parametrize("model", ZOO, ids=lambda model: model.name)
def test_conforms(model: ZooModel, tmp_path: Path) -> None:
    texts = reference_texts(fix_rope(model.build(), model.max_context), model.max_context)
    with load(artifact_of(model, tmp_path), threads=2) as loaded:
        report = run_schedule(loaded.program, texts, max_context=model.max_context)
    report.check()
    assert report.rows >= 80


@pytest.mark.parametrize(("kv_cache", "tolerance"), [("bf16", 0.02), ("int8", 0.06)])
@pytest.mark.parametrize("name", ROUNDED)
def test_conforms_with_a_rounded_cache(
    name: str, kv_cache: str, tolerance: float, tmp_path: Path
) -> None:
    """Keys and values off by 2^-9 of themselves, or by 1/254 of a head's largest element; random
    weights make logits that small errors move: shares of the logits' range, each row's own."""
    model = find(name)
    texts = reference_texts(fix_rope(model.build(), model.max_context), model.max_context)
    with load(artifact_of(model, tmp_path, kv_cache), threads=2) as loaded:
        report = run_schedule(loaded.program, texts, max_context=model.max_context)
    assert report.rows >= 80
    assert report.worst < tolerance, report.where
