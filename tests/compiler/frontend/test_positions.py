"""Where positions begin and end: tables of positions, rows for padding, and encoders."""

from typing import Any

import pytest
import torch
import transformers
from llmc.base.errors import LlmcError
from llmc.compiler.context import within_tables
from llmc.compiler.frontend.lower import own_tensors, trace_model
from llmc.compiler.frontend.probe import compare, eager_model
from llmc.models.conformance import TOLERANCE
from llmc.models.eager import eager_logits
from llmc.passes.features import OWN_KERNELS

TEXT = [7, 41, 5, 23, 11, 90, 64, 3, 17]


def config(name: str, **fields: Any) -> Any:
    """A small config, of fields that the families here share under the same names."""
    small: dict[str, Any] = {
        "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "pad_token_id": 1, "max_position_embeddings": 90,
        "is_decoder": True,
    }  # fmt: skip
    return getattr(transformers, f"{name}Config")(**small | fields)


def bart() -> Any:
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4}
    return config("Bart", **sizes, decoder_ffn_dim=48, max_position_embeddings=80)


@pytest.mark.parametrize("make", [lambda: config("Bert"), lambda: config("Roberta"), bart])
def test_positions_are_those_of_who_gives_token_ids_alone(make: Any) -> None:
    """BART counts its positions with `arange`, RoBERTa begins behind the row for padding."""
    (report,) = compare(make(), [OWN_KERNELS]).values()
    assert report.worst <= TOLERANCE, report.where


def test_roberta_given_positions_from_0_is_another_model() -> None:
    """As `generate()` of transformers gives them; the contract is `forward(input_ids)`."""
    model = eager_model(config("Roberta"))
    from_0 = torch.arange(len(TEXT))[None]
    expected = eager_logits(model, TEXT)
    with torch.no_grad():
        other = model(input_ids=torch.tensor([TEXT]), position_ids=from_0).logits[0]
        same = model(input_ids=torch.tensor([TEXT]), position_ids=from_0 + 2).logits[0]
    assert abs(other.numpy() - expected).max() > 0.1
    assert abs(same.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("make", "held"),
    [(lambda: config("Bert"), 90), (lambda: config("Roberta"), 88), (bart, 80),
     (lambda: transformers.LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=48,
         num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=90), 500)],
)  # fmt: skip
def test_positions_that_tables_have_rows_for(make: Any, held: int) -> None:
    """RoBERTa loses two rows to padding, BART has two more than it says, Llama has no table."""
    assert trace_model(make(), 500, own_tensors).positions == held


def test_a_context_ends_where_a_table_does() -> None:
    assert within_tables(90, None, 88) == 88
    assert within_tables(64, 64, 88) == 64
    with pytest.raises(LlmcError, match="ends after 88") as caught:
        within_tables(90, 90, 88)
    assert caught.value.id == "LLMC-E0205"
    assert caught.value.hint == "--max-context 88"


def test_an_encoder_is_refused_as_what_it_is() -> None:
    with pytest.raises(LlmcError, match="see those that come after them, as in an encoder") as e:
        trace_model(config("Bert", is_decoder=False), 64, own_tensors)
    assert e.value.id == "LLMC-E0414"
    assert "is_decoder" in e.value.hint
