"""Refused traces: what matters is said, with the line of model code."""

import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.compiler.frontend import lower
from llmc.compiler.frontend.lower import own_tensors, trace_model
from llmc.compiler.frontend.trace import Traced, require_all_lengths
from transformers import AutoConfig


def small(kind: str, **fields: object) -> object:
    return AutoConfig.for_model(kind, vocab_size=64, **fields)


@pytest.mark.parametrize(
    ("config", "id", "why"),
    [
        (small("gpt_neo", hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=48,
               attention_types=[[["global", "local"], 1]]),
         "LLMC-E0430", "holds for 2 to 48 tokens only"),
        (small("mpt", d_model=32, n_heads=4, n_layers=1, max_seq_len=40),
         "LLMC-E0430", "holds for 2 to 40 tokens only"),
        (small("phimoe", hidden_size=64, num_hidden_layers=1, num_attention_heads=4,
               num_key_value_heads=2, intermediate_size=64, num_local_experts=4,
               rope_scaling={"rope_type": "longrope", "short_factor": [1.0] * 8,
                             "long_factor": [1.0] * 8, "short_mscale": 1.2, "long_mscale": 1.2,
                             "original_max_position_embeddings": 32}),
         "LLMC-E0430", r"modeling_phimoe.py:\d+ `if self.config"),
    ],
    ids=["a mask that ends", "a size that changes", "a branch on values"],
)  # fmt: skip
def test_refusals_name_the_line_of_model_code(config, id: str, why: str, capfd) -> None:
    """And torch's own diagnostics stay off the terminal."""
    with pytest.raises(LlmcError, match=why) as caught:
        trace_model(config, 64, own_tensors)
    assert caught.value.id == id
    assert capfd.readouterr().err == ""


def test_a_model_that_ignores_our_attention_is_refused_for_what_it_does(monkeypatch) -> None:
    """That it can't be built or traced with our attention is our business, not the user's."""
    errors = {"llmc": LlmcError("LLMC-E0418", "KeyError: 'llmc'"),
              "eager": LlmcError("LLMC-E0412", "mixes tokens")}  # fmt: skip

    def refuse(config, max_context, recipes, attention):
        raise errors[attention]

    def no_step(config, max_context):
        raise LlmcError("LLMC-E0430", "keeps no state")

    monkeypatch.setattr(lower, "_traced", refuse)
    monkeypatch.setattr(lower, "trace_token_step", no_step)
    with pytest.raises(LlmcError, match="mixes tokens"):
        trace_model(None, 64, own_tensors)
    errors["llmc"] = LlmcError("LLMC-E0414", "reads an attention mask")
    with pytest.raises(LlmcError, match="mixes tokens"):
        trace_model(None, 64, own_tensors)
    errors["llmc"] = LlmcError("LLMC-E0413", "an argument that isn't known")
    with pytest.raises(LlmcError, match="an argument that isn't known"):
        trace_model(None, 64, own_tensors)


@pytest.mark.parametrize("most", [256, None])
def test_a_trace_for_some_lengths_only_is_refused(most: int | None) -> None:
    class Bounded(torch.nn.Module):
        def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            if most is not None:
                torch._check(token_ids.shape[1] <= most)
            return token_ids + positions

    example = (torch.zeros(1, 19, dtype=torch.long), torch.arange(19).unsqueeze(0))
    dynamic = {1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Bounded(), example, dynamic_shapes=(dynamic, dynamic))
    traced = Traced(program, Bounded(), {}, max_context=1024)
    if most is None:
        require_all_lengths(traced)
        return
    require_all_lengths(Traced(program, Bounded(), {}, max_context=most))
    with pytest.raises(LlmcError, match=f"holds for [02] to {most} tokens only") as caught:
        require_all_lengths(traced)
    assert caught.value.id == "LLMC-E0430"
