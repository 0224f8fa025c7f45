"""Config fields that no code reads: found before anything is traced, nested ones too."""

import pytest
from llmc.compiler.frontend.config_fields import unread_fields
from transformers import AutoConfig, LlamaConfig

pytestmark = pytest.mark.fast

LLAMA = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}


def unread(raw: dict) -> list[str]:
    config = LlamaConfig(**raw)
    return unread_fields(raw, config, config)


def test_a_field_that_nothing_reads_is_found() -> None:
    """A residual scale that the model's class ignores: the checkpoint may be of another model."""
    assert unread({**LLAMA, "residual_scale": 0.5}) == ["residual_scale"]


@pytest.mark.parametrize(
    "fields",
    [
        {"torch_dtype": "bfloat16", "sep_token_id": 3, "_internal": 1, "summary_type": "mean"},
        {"use_magic": False, "magic": None},
        {"rope_theta": 1e4, "partial_rotary_factor": 1.0},
        {"do_sample": True, "temperature": 0.5, "top_k": 20, "num_beams": 1, "max_length": 20},
        {"embd_pdrop": 0.1, "hidden_dropout_prob": 0.1},
    ],
    ids=["inert", "off", "rope", "generation", "training"],
)
def test_what_is_not_worth_a_word(fields: dict) -> None:
    assert unread({**LLAMA, **fields}) == []


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("gpt_neox", "rotary_pct", 0.25),  # popped while the config is built
        ("cohere2", "sliding_window_pattern", 4),  # the same
        ("deepseek_v3", "qk_head_dim", 192),  # written by the class itself
        ("gpt2", "n_embd", 64),  # an alias
    ],
)
def test_fields_that_are_read_out_of_sight(kind: str, field: str, value: float) -> None:
    raw = {"model_type": kind, field: value}
    config = AutoConfig.for_model(**raw)
    assert unread_fields(raw, config, config) == []


def test_nested_fields_of_the_compiled_part_only() -> None:
    """Fields of the text part have its name before theirs; those of the vision part are left out
    as is the part itself."""
    raw = {
        "model_type": "gemma3",
        "text_config": {"hidden_size": 64, "text_magic": 1},
        "vision_config": {"vision_magic": 1},
        "magic": 1,
    }
    config = AutoConfig.for_model(**raw)
    assert unread_fields(raw, config, config.text_config) == ["magic", "text_config.text_magic"]
