"""Text to ids and back, parsed when it is needed, with every failure as an error of ours."""

import pytest
from llmc.base.errors import LlmcError
from llmc.runtime.text.tokenizer import Tokenizer
from tokenizers import decoders
from vocabularies import TABLED, tokenizer_of, word_piece

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("kind", TABLED, ids=lambda kind: kind.__name__)
def test_ids_outside_the_vocabulary_have_no_text(kind):
    assert tokenizer_of(kind).decode([10**6]) == ""
    assert tokenizer_of(kind).token_bytes(10**6) == b""


@pytest.mark.parametrize("wrong", [-1, 1 << 32])
def test_ids_that_can_be_none_are_refused(byte_level, wrong):
    with pytest.raises(LlmcError, match="E0208"):
        byte_level.decode([1, wrong])


def test_half_characters_are_refused(byte_level):
    with pytest.raises(LlmcError, match="E0205"):
        byte_level.encode("a\ud800", add_special_tokens=False)


def test_bytes_of_single_tokens(byte_level):
    text = "aé🙂 </s>"
    ids = byte_level.encode(text, add_special_tokens=False)
    assert b"".join(map(byte_level.token_bytes, ids)) == text.encode()
    fallback = tokenizer_of(TABLED[1])
    assert fallback.token_bytes(0xC3) == b"\xc3"
    piece = fallback.token_id("▁ab")
    assert piece is not None
    assert fallback.token_bytes(piece) == b" ab"


def test_a_panic_of_the_library_is_an_error_of_ours():
    native = word_piece()
    native.decoder = decoders.Strip("a", 0, 3)
    with pytest.raises(LlmcError, match="E0512"):
        Tokenizer(native.to_str().encode()).decode([2])


def test_bad_input():
    with pytest.raises(LlmcError, match="E0512"):
        Tokenizer(b'{"version": "none"}').decode([1])


def test_parsing_in_the_background_gives_the_same(byte_level):
    expected = byte_level.encode("a few words", add_special_tokens=True)
    tokenizer = Tokenizer(byte_level.data)
    tokenizer.start()
    tokenizer.start()
    assert tokenizer.encode("a few words", add_special_tokens=True) == expected


@pytest.mark.filterwarnings("error")
def test_a_broken_tokenizer_parsed_in_the_background_shows_when_it_is_used():
    tokenizer = Tokenizer(b"{}")
    tokenizer.start()
    with pytest.raises(LlmcError, match="E0512"):
        tokenizer.encode("a", add_special_tokens=True)


@pytest.mark.parametrize(
    "switch",
    [
        lambda native: native.enable_truncation(3),
        lambda native: native.enable_padding(length=40),
        lambda native: native.enable_padding(pad_to_multiple_of=8),
    ],
)
def test_what_training_left_on_is_off(switch):
    """Prompts are neither cut nor filled up, and grammars are compiled with such a tokenizer."""
    native = word_piece()
    text = " ".join(["ab"] * 9)
    whole = native.encode(text, add_special_tokens=True).ids
    assert len(whole) >= 9
    switch(native)
    assert native.encode(text, add_special_tokens=True).ids != whole
    opened = Tokenizer(native.to_str().encode())
    assert opened.encode(text, add_special_tokens=True) == whole
    assert opened.encode(text, add_special_tokens=False) == whole
    again = type(native).from_buffer(opened.data)
    assert again.truncation is None
    assert again.padding is None
    assert again.get_vocab() == native.get_vocab()
