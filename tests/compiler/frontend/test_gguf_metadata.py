"""Metadata of GGUF files, applied to the config or refused by name, against transformers.

Each file states one fact of a tiny model; what is expected is the config of that model, or the
frequencies that transformers' own formulas give for the parameters the file was made from.
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
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.buffers import compute_buffers
from llmc.compiler.frontend.model_source import ModelSource
from llmc.compiler.frontend.sources import open_source
from llmc.compiler.frontend.trace import build_on_meta
from llmc.models.eager import eager_logits
from transformers import AutoModelForCausalLM, PreTrainedModel

Extra = Callable[[gguf.GGUFWriter], None]


def opened(
    path: Path, extra: Extra | None = None, *, arch: str = "llama",
    model: PreTrainedModel | None = None, rotated: int = 16,
) -> ModelSource:  # fmt: skip
    gm.write_gguf(path / "m.gguf", model or gm.llama_model(), arch, extra=extra, rotated=rotated)
    return open_source(str(path / "m.gguf"))


def keys(**values: Any) -> Extra:
    """Writes keys of the architecture; `__` stands for a dot."""

    def write(writer: gguf.GGUFWriter) -> None:
        for name, value in values.items():
            key = f"{writer.arch}.{name.replace('__', '.')}"
            if isinstance(value, list):
                writer.add_array(key, value)
            elif isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            else:
                writer.add_uint32(key, value)

    return write


def with_rope(**parameters: Any) -> PreTrainedModel:
    rope = {"rope_theta": 10000.0, **parameters}
    return gm.random_model("LlamaConfig", gm.LLAMA | {"rope_parameters": rope})


def frequencies(config: Any) -> np.ndarray:
    buffers, _ = compute_buffers(build_on_meta(config), 1)
    return next(v for name, v in buffers.items() if name.endswith("inv_freq")).numpy()


YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 24.0,
    "beta_slow": 2.0, "attention_factor": 1.0 + 0.1 * math.log(4.0),
}  # fmt: skip
STATED_YARN = {
    "rope__scaling__type": "yarn", "rope__scaling__factor": 4.0,
    "rope__scaling__original_context_length": 32, "rope__scaling__yarn_beta_fast": 24.0,
    "rope__scaling__yarn_beta_slow": 2.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("rope", "stated"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"rope__scale_linear": 4.0}),
        ({"rope_type": "linear", "factor": 4.0}, {"rope__scaling__factor": 4.0}),
        (
            {"rope_type": "linear", "factor": 2.5},
            {"rope__scaling__type": "linear", "rope__scaling__factor": 2.5},
        ),
        (YARN, STATED_YARN),
        (
            YARN | {"attention_factor": YARN["attention_factor"] * 1.5},
            STATED_YARN | {"rope__scaling__attn_factor": 1.5},
        ),
        (
            YARN | {"attention_factor": 0.75},
            STATED_YARN | {"rope__scaling__yarn_attn_factor": 0.75},
        ),
        ({"rope_type": "default"}, {"rope__scaling__type": "none", "rope__scaling__factor": 4.0}),
        ({"rope_type": "default"}, {"rope__scaling__type": "yarn"}),
        ({"rope_type": "default"}, {"rope__scaling__finetuned": True}),
    ],
)
def test_rope_scaling(rope: dict[str, Any], stated: dict[str, Any], tmp_path: Path) -> None:
    model = with_rope(**rope)
    source = opened(tmp_path, keys(**stated), model=model)
    found = source.config.rope_parameters
    expected = model.config.rope_parameters
    assert found.pop("rope_type") == expected["rope_type"]
    assert found == pytest.approx({k: v for k, v in expected.items() if k != "rope_type"})
    found["rope_type"] = expected["rope_type"]
    np.testing.assert_allclose(frequencies(source.config), frequencies(model.config), rtol=1e-6)
    assert source.notes == ()


def test_a_scaled_model_answers_as_transformers(tmp_path: Path) -> None:
    model = with_rope(**YARN).eval()
    opened(tmp_path, keys(**STATED_YARN), model=model)
    llmc.compile(str(tmp_path / "m.gguf"), levels=["portable"], output=tmp_path / "m.llmc")
    ids = np.random.default_rng(4).integers(0, 96, 100).tolist()
    expected = eager_logits(model, ids)
    with llmc.load(tmp_path / "m.llmc") as compiled:
        found = np.array(compiled.logits(ids))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_base_and_the_width_of_rotations(tmp_path: Path) -> None:
    """transformers' mapping drops both for some architectures."""
    model = gm.random_model("NemotronConfig", gm.LLAMA)
    source = opened(tmp_path, keys(rope__freq_base=500.0), arch="nemotron", model=model, rotated=8)
    assert len(frequencies(source.config)) == 4
    np.testing.assert_allclose(frequencies(source.config), 500.0 ** -(np.arange(4) / 4), rtol=1e-6)


def test_a_base_for_layers_with_windows(tmp_path: Path) -> None:
    model = gm.random_model("Gemma3TextConfig", gm.LLAMA | {"tie_word_embeddings": True})
    source = opened(
        tmp_path, keys(rope__freq_base_swa=5000.0, rope__scaling__type="linear",
                       rope__scaling__factor=8.0), arch="gemma3", model=model,
    )  # fmt: skip
    rope = source.config.rope_parameters
    assert rope["sliding_attention"] == {"rope_type": "default", "rope_theta": 5000.0}
    assert rope["full_attention"] == {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}


def gemma(name: str = "Gemma2Config") -> PreTrainedModel:
    return gm.random_model(name, gm.LLAMA | {"tie_word_embeddings": True})


@pytest.mark.parametrize(
    ("stated", "field", "expected"),
    [
        ({"attn_logit_softcapping": 20.0}, "attn_logit_softcapping", 20.0),
        ({"final_logit_softcapping": 15.0}, "final_logit_softcapping", 15.0),
        ({"attention__sliding_window": 64}, "sliding_window", 64),
        ({"attention__scale": 0.125}, "query_pre_attn_scalar", 64),
        ({}, "query_pre_attn_scalar", 16),  # not the class's 256: the head's size
        (
            {"attention__sliding_window_pattern": [False, True]},
            "layer_types",
            ["full_attention", "sliding_attention"],
        ),
        (
            {"attention__sliding_window_pattern": 1},
            "layer_types",
            ["full_attention", "full_attention"],
        ),
        ({"attention__head_count_kv": [2, 2]}, "num_key_value_heads", 2),
        ({"hidden_activation": "silu"}, "hidden_activation", "silu"),
    ],
)
def test_fields(stated: dict[str, Any], field: str, expected: Any, tmp_path: Path) -> None:
    source = opened(tmp_path, keys(**stated), arch="gemma2", model=gemma())
    assert getattr(source.config, field) == expected
    assert source.notes == ()


def test_fields_of_experts(tmp_path: Path) -> None:
    stated = keys(expert_weights_norm=False, expert_gating_func=1, expert_shared_count=0)
    source = opened(tmp_path, stated, arch="qwen3moe", model=gm.experts_model())
    assert source.config.norm_topk_prob is False
    assert source.config.num_experts_per_tok == 2


@pytest.mark.parametrize(
    "stated",
    [
        {"expert_count": 8},
        {"expert_used_count": 2},
        {"expert_gating_func": 2},
        {"expert_weights_scale": 2.5},
        {"attention__scale": 0.5},
        {"attention__sliding_window": 64},
        {"attention__causal": False},
        {"attention__clamp_kqv": 8.0},
        {"attention__max_alibi_bias": 8.0},
        {"attention__value_length": 8},
        {"attention__head_count_kv": [2, 1]},
        {"feed_forward_length": [96, 48]},
        {"attn_logit_softcapping": 30.0},
        {"final_logit_softcapping": 30.0},
        {"logit_scale": 0.5},
        {"residual_scale": 0.5},
        {"embedding_scale": 12.0},
        {"use_parallel_residual": True},
        {"rope__freq_base_swa": 500.0},
        {"rope__scaling__alpha": 1000.0},
        {"rope__scaling__type": "longrope"},
        {"rope__scaling__type": "dynamic"},
        {"rope__scaling__attn_factor": 1.2},
        {"rope__scaling__yarn_ext_factor": 0.5},
        {"pooling_type": 1},
        {"swiglu_clamp_exp": 7.0},
        {"attention__recurrent_layers": [True, False]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_what_a_plain_model_does_not_have_is_refused(
    stated: dict[str, Any], tmp_path: Path
) -> None:
    key = next(iter(stated)).replace("__", ".")
    other = {"rope.freq_base_swa": "layers with a window", "rope.scaling.type": "rope scaling"}
    named = other.get(key, key)
    with pytest.raises(LlmcError, match=named) as caught:
        opened(tmp_path, keys(**stated))
    assert caught.value.id == "LLMC-E0403"


@pytest.mark.parametrize(
    "stated",
    [
        {"expert_count": 0, "expert_used_count": 0},
        {"attention__scale": 0.25},
        {"attention__sliding_window": 4096},
        {"attention__causal": True},
        {"attention__max_alibi_bias": 0.0},
        {"attention__value_length": 16},
        {"logit_scale": 1.0},
        {"feed_forward_length": [96, 96]},
        {"use_parallel_residual": False},
        {"tensor_data_layout": "Meta AI original pth"},
    ],
    ids=lambda value: next(iter(value)),
)
def test_what_says_nothing_new(stated: dict[str, Any], tmp_path: Path) -> None:
    source = opened(tmp_path, keys(**stated))
    assert source.config.to_dict() == opened(tmp_path).config.to_dict()
    assert source.notes == ()


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    source = opened(tmp_path, keys(attention__of_tomorrow=3, rope__twist=2.0))
    assert source.notes == (
        "the metadata llama.attention.of_tomorrow is not known: left out",
        "the metadata llama.rope.twist is not known: left out",
    )


@pytest.mark.parametrize(
    "stated",
    [
        {"rope__scaling__factor": "much"},
        {"rope__freq_base": float("nan")},
        {"rope__freq_base": 0.0},
        {"rope__scaling__factor": -2.0},
        {"attention__scale": -1.0},
        {"attention__sliding_window_pattern": [True]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_values_without_sense(stated: dict[str, Any], tmp_path: Path) -> None:
    model = gemma() if "attention__sliding_window_pattern" in stated else None
    with pytest.raises(LlmcError) as caught:
        opened(tmp_path, keys(**stated), arch="gemma2" if model else "llama", model=model)
    assert caught.value.id == "LLMC-E0418"


def test_a_changed_config_is_the_model_that_was_written(tmp_path: Path) -> None:
    """Of caps, scale and windows together: logits as transformers' for the same config."""
    fields = {
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 7.0, "sliding_window": 16,
        "query_pre_attn_scalar": 4, "layer_types": ["full_attention", "sliding_attention"],
    }  # fmt: skip
    base = gm.random_model("Gemma2Config", gm.LLAMA | {"tie_word_embeddings": True} | fields)
    stated = keys(
        attn_logit_softcapping=5.0, final_logit_softcapping=7.0, attention__sliding_window=16,
        attention__scale=0.5, attention__sliding_window_pattern=[False, True],
    )  # fmt: skip
    source = opened(tmp_path, stated, arch="gemma2", model=base)
    again = AutoModelForCausalLM.from_config(source.config)
    again.load_state_dict(base.state_dict())
    ids = np.random.default_rng(2).integers(0, 96, 40).tolist()
    expected = eager_logits(base.eval(), ids)
    assert np.abs(eager_logits(again.eval(), ids) - expected).max() < 1e-4 * np.abs(expected).max()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_values_of_any_kind_are_applied_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing but our own errors, whatever stands in the keys."""
    names = [
        "attention__head_count", "attention__head_count_kv", "attention__key_length",
        "attention__scale", "attention__sliding_window", "attention__sliding_window_pattern",
        "context_length", "expert_count", "expert_gating_func", "feed_forward_length",
        "rope__dimension_count", "rope__freq_base", "rope__freq_base_swa", "rope__scaling__type",
        "rope__scaling__factor", "rope__scaling__original_context_length",
    ]  # fmt: skip
    odd = st.one_of(
        st.integers(0, 64), st.booleans(), st.text(max_size=3), st.floats(width=32),
        st.lists(st.integers(0, 9), min_size=1, max_size=3),
    )  # fmt: skip
    stated = data.draw(st.dictionaries(st.sampled_from(names), odd, min_size=1, max_size=3))
    arch, model = data.draw(st.sampled_from([("llama", gm.llama_model), ("gemma2", gemma)]))
    try:
        opened(tmp_path_factory.mktemp("odd"), keys(**stated), arch=arch, model=model())
    except LlmcError as error:
        assert error.exit_code in (2, 3, 4)  # noqa: PT017
