"""A compiled program's own account of its kernels, against what the compiler counted elsewhere."""

import json
from pathlib import Path

import llmc
import pytest
from llmc.artifact.reader import ArtifactReader
from llmc.artifact.variants import select_variant
from llmc.runtime.api.benchmark import Load
from llmc.runtime.api.profile import profile
from zoo import find


@pytest.fixture(autouse=True)
def known_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a gigabyte isn't read for shares that no test looks at."""
    monkeypatch.setattr("llmc.runtime.api.profile.read_gbs", lambda *_: 10.0)


LOAD = Load(prompt_tokens=20, output_tokens=9, threads=2)


def test_every_kernel_of_a_step_is_there(compiled: Path, tmp_path: Path) -> None:
    """Four linear layers and one attention a layer, and the head; time adds up to the steps'."""
    layers = find("llama").config["num_hidden_layers"]
    found = profile(compiled, LOAD, tmp_path / "trace.json")
    assert found.steps == {"prefill": 1, "decode": 8}
    for kind in found.steps:
        calls: dict[str, float] = {}
        for row in found.rows:
            if row.step == kind:
                calls[row.kernel] = calls.get(row.kernel, 0) + row.calls
        assert calls["linear_f32"] == 4 * layers + 1
        assert calls["paged_attention"] == calls["cache_write"] == layers
        assert calls["embedding_f32"] == calls["argmax_rows"] == 1
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    whole = sum(e["dur"] for e in events if e["tid"] == 0)
    parts = sum(row.us * found.steps[row.step] for row in found.rows)
    assert abs(whole - parts) < 1e-3 * whole


def test_linear_layers_read_the_weights_that_the_compiler_counted(
    compiled: Path, tmp_path: Path
) -> None:
    """Of a decode step: its packed matrices are all but an embedding row and what is in f32."""
    variant = select_variant(ArtifactReader(compiled).manifest)
    found = profile(compiled, LOAD, tmp_path / "trace.json")
    read = sum(r.bytes for r in found.rows if r.step == "decode" and r.kernel == "linear_f32")
    width, mlp, vocab = 64, 96, 272
    activations = 2 * 4 * (width + 128 + width + 2 * width + width + 2 * mlp) + 4 * (width + vocab)
    assert variant.decode_weight_bytes is not None
    assert 0.95 * variant.decode_weight_bytes < read < variant.decode_weight_bytes + 3 * activations


def test_profiling_changes_no_answer(compiled: Path) -> None:
    """Marks are written where they were asked for only, and tokens stay what they were."""
    with llmc.load(compiled, threads=2) as model:
        program = model.program
        profiler = program.profiler()  # type: ignore[attr-defined]
        assert profiler is not None
        plain = [c for part in model.generate([5, 6, 7], max_tokens=8) for c in part.token_ids]
        profiler.start()
        watched = [c for part in model.generate([5, 6, 7], max_tokens=8) for c in part.token_ids]
        marks = profiler.stop()
        again = [c for part in model.generate([5, 6, 7], max_tokens=8) for c in part.token_ids]
        assert plain == watched == again
        assert profiler.stop() == []
    assert [ns for _, ns in marks] == sorted(ns for _, ns in marks)
    assert {kernel for kernel, _ in marks} <= {*range(len(profiler.kernels)), -1, -2}
    assert set(range(len(profiler.kernels))) <= {kernel for kernel, _ in marks}
