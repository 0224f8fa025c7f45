"""Rotary frequencies scaled by tensors of a GGUF file, against transformers on the original model.

The factors of `llama3` are computed here as `convert_hf_to_gguf.py` of llama.cpp does.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import gguf_models as gm
import llmc
import numpy as np
import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.buffers import compute_buffers
from llmc.compiler.frontend.sources import open_source
from llmc.compiler.frontend.trace import build_on_meta
from llmc.models.eager import eager_logits, fix_rope
from transformers import PreTrainedModel

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
LONG = [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0]
SHORT = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
ATTENTION = 1.19
"""A magnitude of cosines and sines as Phi-3's converter writes it."""


def llama3_factors(rope: dict[str, Any], dim: int) -> np.ndarray:
    """`LlamaModel.generate_extra_tensors` of llama.cpp's converter."""
    freqs = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    old = rope["original_max_position_embeddings"]
    factors = []
    for freq in freqs:
        wavelen = 2 * math.pi / freq
        if wavelen < old / high:
            factors.append(1.0)
        elif wavelen > old / low:
            factors.append(rope["factor"])
        else:
            smooth = (old / wavelen - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def llama3(path: Path, factors: np.ndarray | None = None) -> PreTrainedModel:
    """A random model with `llama3` scaling, and its file with the factors."""
    model = gm.random_model("LlamaConfig", gm.LLAMA | {"rope_parameters": LLAMA3}).eval()
    if factors is None:
        factors = llama3_factors(LLAMA3, 16)
    gm.write_gguf(path, model, "llama", change=lambda t: t.update({"rope_freqs.weight": factors}))
    return model


def phi3(
    path: Path,
    rotated: int = 16,
    drop: str = "",
    extra: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> PreTrainedModel:
    """A random LongRoPE model and its file. `rotated`: dimensions of a head that are."""
    long, short = LONG[: rotated // 2], SHORT[: rotated // 2]
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "long_factor": long, "short_factor": short,
        "original_max_position_embeddings": 32, "attention_factor": ATTENTION,
        "partial_rotary_factor": rotated / 16,
    }  # fmt: skip
    fields = {k: v for k, v in gm.LLAMA.items() if k != "head_dim"} | {
        "rope_parameters": rope, "original_max_position_embeddings": 32, "pad_token_id": None,
    }  # fmt: skip
    model = gm.random_model("Phi3Config", fields).eval()

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["rope_factors_long.weight"] = np.array(long, np.float32)
        tensors["rope_factors_short.weight"] = np.array(short, np.float32)
        tensors.pop(drop, None)

    def metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_pad_token_id(0)
        writer.add_rope_scaling_orig_ctx_len(32)
        writer.add_rope_scaling_attn_factors(ATTENTION)
        extra(writer)

    gm.write_gguf(path, model, "phi3", change=change, extra=metadata, rotated=rotated)
    return model


def frequencies(path: Path, context: int = 128) -> np.ndarray:
    """The rotary frequencies of the model that would be compiled."""
    buffers, _ = compute_buffers(build_on_meta(open_source(str(path)).config), context)
    (table,) = (v for name, v in buffers.items() if name.endswith("rotary_emb.inv_freq"))
    return table.numpy()


def test_frequencies_are_those_of_llama3(tmp_path: Path) -> None:
    """Up to the rounding of a division in another place; none of them is the unscaled one."""
    model = llama3(tmp_path / "m.gguf")
    found = frequencies(tmp_path / "m.gguf")
    expected = model.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(found, expected, rtol=3e-7)
    plain = 10000.0 ** -(np.arange(8) / 8)
    assert (np.abs(found / plain - 1) > 0.1).sum() == 7
    source = open_source(str(tmp_path / "m.gguf"))
    assert "rope_freqs.weight" not in source.tensors
    assert b"long_factor" in source.config_bytes  # the probe's memory and the manifest know


def test_a_compiled_llama3_answers_as_transformers(tmp_path: Path) -> None:
    """At positions far beyond where scaling begins; the quality gate's reference agrees."""
    model = llama3(tmp_path / "m.gguf")
    report = llmc.compile(
        str(tmp_path / "m.gguf"), levels=["portable"], output=tmp_path / "m.llmc", max_kl=1e-6
    )
    assert any(note.startswith("probe:") for note in report.notes)
    assert not any("fixed for a context" in note for note in report.notes)  # nothing was
    ids = np.random.default_rng(3).integers(0, 96, 120).tolist()
    expected = eager_logits(model, ids)
    unscaled = model.model.rotary_emb
    with llmc.load(tmp_path / "m.llmc") as compiled:
        found = np.array(compiled.logits(ids))
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-4 * scale
    unscaled.inv_freq.copy_(torch.from_numpy(10000.0 ** -(np.arange(8) / 8)))
    assert np.abs(eager_logits(model, ids) - expected).max() > 0.05 * scale


@pytest.mark.parametrize(("context", "factors"), [(128, LONG), (32, SHORT)])
@pytest.mark.parametrize("rotated", [16, 8])
def test_longrope_as_transformers_has_it(
    context: int, factors: list[float], rotated: int, tmp_path: Path
) -> None:
    """Long factors for contexts beyond the original one; heads may be rotated in part."""
    model = phi3(tmp_path / "m.gguf", rotated)
    count = rotated // 2
    plain = 10000.0 ** -(np.arange(count) / count)
    found = frequencies(tmp_path / "m.gguf", context)
    np.testing.assert_allclose(found, plain / np.array(factors[:count]), rtol=3e-7)
    rope = open_source(str(tmp_path / "m.gguf")).config.rope_parameters
    assert rope["attention_factor"] == pytest.approx(ATTENTION, rel=1e-6)
    assert np.array_equal(fix_rope(model, context).model.rotary_emb.inv_freq.numpy(), found)


def test_a_compiled_longrope_answers_as_transformers(tmp_path: Path) -> None:
    model = fix_rope(phi3(tmp_path / "m.gguf", 8), 128)
    llmc.compile(str(tmp_path / "m.gguf"), levels=["portable"], output=tmp_path / "m.llmc")
    ids = np.random.default_rng(4).integers(0, 96, 120).tolist()
    expected = eager_logits(model, ids)
    with llmc.load(tmp_path / "m.llmc") as compiled:
        found = np.array(compiled.logits(ids))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_longrope_that_says_so(tmp_path: Path) -> None:
    """Newer converters state the type, which transformers' mapping alone would drop."""
    phi3(
        tmp_path / "m.gguf",
        extra=lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE),
    )
    assert open_source(str(tmp_path / "m.gguf")).config.rope_parameters["rope_type"] == "longrope"


@pytest.mark.parametrize(
    ("factors", "id", "named"),
    [
        (np.ones(5, np.float32), "LLMC-E0406", "has 5 rope factors, the model 8"),
        (np.zeros(8, np.float32), "LLMC-E0418", "not above 0"),
        (np.full(8, -2, np.float32), "LLMC-E0418", "not above 0"),
        (np.full(8, np.nan, np.float32), "LLMC-E0408", r"rope_freqs\.weight"),
        (np.full(8, np.inf, np.float32), "LLMC-E0408", r"rope_freqs\.weight"),
        (np.ones((2, 8), np.float32), "LLMC-E0406", "has a matrix for"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_factors_that_are_none(factors: np.ndarray, id: str, named: str, tmp_path: Path) -> None:
    llama3(tmp_path / "m.gguf", factors)
    with pytest.raises(LlmcError, match=named) as caught:
        open_source(str(tmp_path / "m.gguf"))
    assert caught.value.id == id


def test_one_of_two_lists(tmp_path: Path) -> None:
    phi3(tmp_path / "m.gguf", drop="rope_factors_short.weight")
    with pytest.raises(LlmcError, match=r"lacks rope_factors_short\.weight") as caught:
        open_source(str(tmp_path / "m.gguf"))
    assert caught.value.id == "LLMC-E0406"


def test_models_with_several_rotary_tables_are_refused(tmp_path: Path) -> None:
    """Which of Gemma 3's two tables would be scaled, the file doesn't say."""
    model = gm.random_model("Gemma3TextConfig", gm.LLAMA | {"tie_word_embeddings": True})
    gm.write_gguf(
        tmp_path / "m.gguf", model, "gemma3",
        change=lambda t: t.update({"rope_freqs.weight": np.ones(8, np.float32)}),
    )  # fmt: skip
    with pytest.raises(LlmcError, match=r"rope_freqs\.weight.*each kind of layer") as caught:
        open_source(str(tmp_path / "m.gguf"))
    assert caught.value.id == "LLMC-E0403"


def test_a_model_that_ignores_the_config_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class may compute its tables by itself: then the factors would silently have no effect."""
    from llmc.compiler.frontend import gguf_rope

    plain = {"model.rotary_emb.inv_freq": torch.from_numpy(10000.0 ** -(np.arange(8) / 8))}
    monkeypatch.setattr(gguf_rope, "compute_buffers", lambda *_: (plain, []))
    llama3(tmp_path / "m.gguf")
    with pytest.raises(LlmcError, match="computes its rotary tables by itself") as caught:
        open_source(str(tmp_path / "m.gguf"))
    assert caught.value.id == "LLMC-E0403"
