"""The functions that models call: a closed schema, and windows read from masks."""

import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.compiler.frontend import interfaces
from llmc.compiler.frontend.masks import window_of
from transformers import masking_utils


class Module(torch.nn.Module):
    is_causal = True


MASK = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device="meta")


def attend(module: torch.nn.Module | None = None, mask: torch.Tensor | None = MASK, **kwargs):
    q, k = (torch.empty(1, h, 5, 8, device="meta") for h in (4, 2))
    return interfaces._attention(module or Module(), q, k, k, mask, **kwargs)


def test_the_result_is_token_first() -> None:
    y, weights = attend(scaling=0.5, softcap=None, dropout=0.0, position_ids=torch.arange(5))
    assert y.shape == (1, 5, 4, 8)
    assert weights is None


def test_an_unknown_argument_is_refused() -> None:
    """Swallowing a position bias would change results silently; None says that there is none."""
    attend(position_bias=None)
    with pytest.raises(LlmcError, match=r"passes attention arguments \['position_bias'\]") as e:
        attend(position_bias=torch.zeros(1))
    assert e.value.id == "LLMC-E0413"


@pytest.mark.parametrize(("mask", "causal"), [(None, True), (MASK, False)])
def test_attention_without_a_causal_mask_is_refused(mask, causal: bool) -> None:
    with pytest.raises(LlmcError, match="without a causal mask") as caught:
        attend(mask=mask, is_causal=causal)
    assert caught.value.id == "LLMC-E0414"


def test_a_module_that_is_not_causal_is_refused() -> None:
    module = Module()
    module.is_causal = False
    with pytest.raises(LlmcError, match="without a causal mask"):
        attend(module)


@pytest.mark.parametrize("window", [1, 8, 4096, 262144])
def test_the_window_is_read_from_the_mask(window: int) -> None:
    """By evaluating it, so that off-by-one conventions do not matter."""
    mask = masking_utils.sliding_window_causal_mask_function(window)
    assert window_of(mask, {"local_size": window}) == window


def test_a_causal_mask_has_no_window() -> None:
    assert window_of(masking_utils.causal_mask_function, {}) == 0


@pytest.mark.parametrize(
    "mask",
    [
        masking_utils.bidirectional_mask_function,
        masking_utils.chunked_causal_mask_function(8, torch.zeros(1, dtype=torch.long)),
        lambda batch, head, i, j: (j <= i) | (j < 3),
    ],
    ids=["bidirectional", "chunked", "prefix"],
)
def test_other_masks_are_refused(mask) -> None:
    with pytest.raises(LlmcError, match="neither causal nor a sliding window") as caught:
        window_of(mask, {"local_size": 8})
    assert caught.value.id == "LLMC-E0414"


@pytest.mark.parametrize(
    "mask",
    [
        masking_utils.bidirectional_mask_function,
        masking_utils.chunked_causal_mask_function(262144, torch.zeros(1, dtype=torch.long)),
        masking_utils.chunked_causal_mask_function(4096, torch.zeros(1, dtype=torch.long)),
        lambda batch, head, i, j: (j <= i) | (j < 3),
        lambda batch, head, i, j: (j <= i) | ((i < 100000) & (j < 100000)),
        lambda batch, head, i, j: (j <= i) & ((j > i - 262144) | (j < 4)),
        lambda batch, head, i, j: (j <= i) & (j % 2 == i % 2),
        lambda batch, head, i, j: j < i,
    ],
    ids=["bidirectional", "chunked", "small chunks", "prefix", "long prefix", "window and sinks",
         "every other key", "not the token itself"],
)  # fmt: skip
def test_other_masks_of_long_windows_are_refused(mask) -> None:
    with pytest.raises(LlmcError, match="neither causal nor a sliding window"):
        window_of(mask, {"local_size": 262144})


def test_a_window_other_than_the_one_that_is_told_is_found() -> None:
    mask = masking_utils.sliding_window_causal_mask_function(1000)
    assert window_of(mask, {"local_size": 4096}) == 1000


def test_a_long_window_is_not_evaluated_for_all_pairs() -> None:
    """262144 tokens (Phi-4-mini): every pair of four windows would be 10 ** 12."""
    sizes = []

    def mask(batch, head, i, j):
        sizes.append(i.numel() * j.numel())
        return (j <= i) & (j > i - 262144)

    assert window_of(mask, {"local_size": 262144}) == 262144
    assert max(sizes) < 2**21


def test_packing_is_not_read_out_of_positions() -> None:
    original = masking_utils.find_packed_sequence_indices
    with interfaces.single_sequence():
        assert masking_utils.find_packed_sequence_indices(torch.tensor([[0, 1, 0]])) is None
    assert masking_utils.find_packed_sequence_indices is original
