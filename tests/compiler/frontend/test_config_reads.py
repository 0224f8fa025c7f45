"""Fields of config.json that nothing reads are found."""

from llmc.compiler.frontend.config_reads import record_reads, unread_fields
from llmc.compiler.frontend.trace import trace
from llmc.models.zoo import find
from transformers import LlamaConfig


def test_reads_are_recorded_in_the_block_only() -> None:
    config = LlamaConfig()
    original = type(config).__getattribute__
    with record_reads(config) as reads:
        _ = config.hidden_size
    _ = config.rms_norm_eps
    assert "hidden_size" in reads
    assert "rms_norm_eps" not in reads
    assert type(config).__getattribute__ is original


def test_a_field_that_tracing_never_read_is_reported() -> None:
    """A residual scale that the model's class ignores would be lost silently."""
    config = find("llama").configuration()
    raw = config.to_dict() | {"residual_scale": 0.5}
    traced = trace(config, 64)
    assert unread_fields(raw, config, traced.fields_read) == ["residual_scale"]


def test_what_is_not_reported() -> None:
    """Fields that are inert, off, under an old name of one that was read, or part of rope."""
    config = LlamaConfig()
    type(config).attribute_map = {**(old := type(config).attribute_map), "n_embd": "hidden_size"}
    try:
        raw = {"n_embd": 64, "torch_dtype": "bfloat16", "use_magic": False, "magic": None,
               "sep_token_id": 3, "_internal": 1, "rope_theta": 1e4, "magic_size": 4}  # fmt: skip
        reads = frozenset({"hidden_size", "rope_parameters"})
        assert unread_fields(raw, config, reads) == ["magic_size"]
    finally:
        type(config).attribute_map = old
