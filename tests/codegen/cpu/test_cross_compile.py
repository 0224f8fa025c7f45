"""Artifacts for another processor, compiled here and run in an emulator of it.

Each level runs on a processor that has just what the level needs: the whole conformance schedule in
float32 against `transformers` eager, and int4 against this machine's own library.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulated_program import EmulatedProgram
from emulator import CPUS, MISSING, EmulatedLibrary, emulated_machine
from kernel_harness import build, foreign_levels
from llmc.artifact.reader import ArtifactReader
from llmc.compiler import driver
from llmc.models.conformance import Text, run_schedule, text_lengths
from llmc.models.eager import fix_rope, reference_texts
from llmc.runtime.api.model import load
from tiny_model import VOCAB
from zoo import find

MODEL = find("llama")
CONTEXT = MODEL.max_context

needs_emulator = pytest.mark.skipif(emulated_machine() is None, reason=MISSING)


def compiled(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    levels: tuple[str, ...],
    kv_cache: str | None = None,
) -> Path:
    monkeypatch.setattr(driver, "probe", lambda *_: "probe: left out")
    checkpoint, path = MODEL.save(folder / "checkpoint"), folder / "model.llmc"
    driver.compile(
        str(checkpoint),
        output=path,
        scheme=scheme,
        kv_cache=kv_cache,
        max_context=CONTEXT,
        levels=levels,
    )
    return path


def emulated(path: Path, level: str) -> EmulatedProgram:
    reader = ArtifactReader(path)
    (variant,) = [v for v in reader.manifest.variants if v.level == level]
    blocks = 4 * -(-CONTEXT // variant.limits.block_size) + 3
    assert variant.weights is not None
    library, weights = reader.read(variant.program), reader.weights_data(variant.weights)
    return EmulatedProgram(variant, library, weights, blocks=blocks)


def check_variants(path: Path) -> None:
    """Every level shares this machine's weights and names what it needs."""
    variants = ArtifactReader(path).manifest.variants
    others = [v for v in variants if v.level in CPUS]
    assert [v.level for v in others] == list(CPUS)
    assert {v.machine for v in others} == {"aarch64"}
    assert len({v.weights for v in variants}) == 1
    assert [set(v.required_features) for v in others] == [
        {"asimd"},
        {"asimd", "asimddp"},
        {"asimd", "asimddp", "i8mm", "bf16"},
    ]


@needs_emulator
def test_every_level_conforms_to_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compiled(tmp_path, monkeypatch, "f32", ("aarch64",))
    texts = reference_texts(fix_rope(MODEL.build(), CONTEXT), CONTEXT)
    for level in CPUS:
        program = emulated(path, level)
        report = run_schedule(program, texts, max_context=CONTEXT)
        program.close()
        report.check()
        assert report.rows >= 80, level


@needs_emulator
@pytest.mark.parametrize(("kv_cache", "tolerance"), [("f32", 0.01), ("int8", 0.1)])
def test_int4_on_every_level_agrees_with_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kv_cache: str, tolerance: float
) -> None:
    """Integer products are exact everywhere. Where this machine has no fused multiply-add, the rest
    differs in the last bits of float32, which now and then move an activation's int8 code by one:
    1% of the logits' range. With an int8 cache, levels with VNNI round queries and the softmax's
    weights to 8 bits, too, which others don't: 10% of what random weights give."""
    path = compiled(tmp_path, monkeypatch, "int4", ("native", "aarch64"), kv_cache)
    check_variants(path)
    random = np.random.default_rng(0)
    ids = [random.integers(0, VOCAB, length) for length in text_lengths(CONTEXT)]
    with load(path, threads=1) as model:
        texts = [Text(i, np.array(model.logits(i.tolist()))) for i in ids]
    for level in CPUS:
        program = emulated(path, level)
        report = run_schedule(program, texts, max_context=CONTEXT)
        program.close()
        assert report.rows >= 80, level
        assert report.worst < tolerance, (level, report.where)


# An instruction that a level needs and the level below lacks; both give 6.
NEEDS = {
    "aarch64-dotprod": "vdotq_s32(vdupq_n_s32(2), vdupq_n_s8(1), vdupq_n_s8(1))",
    "aarch64-i8mm": "vusmmlaq_s32(vdupq_n_s32(-2), vdupq_n_u8(1), vdupq_n_s8(1))",
}


@pytest.mark.parametrize("level", foreign_levels()[1:])
def test_the_emulated_processors_lack_what_higher_levels_need(level: str) -> None:
    """So a library that passes on its level's processor holds no instruction of a higher level."""
    source = f"""
#include <arm_neon.h>
EXPORT int answer() {{ return vgetq_lane_s32({NEEDS[level]}, 0); }}"""
    library = build(source, level)
    assert library.answer() == 6
    lower = EmulatedLibrary(library.path, CPUS[list(CPUS)[list(CPUS).index(level) - 1]])
    with pytest.raises(RuntimeError, match="ended with -4"):  # SIGILL
        lower.answer()
