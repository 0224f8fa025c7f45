"""Streaming text equals the whole text, and never ends inside a character."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.runtime.errors import LlmcError
from llmc.runtime.text.chat import ChatTemplate
from llmc.runtime.text.tokenizer import Detokenizer, StopStrings, Tokenizer


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    from tokenizers import Tokenizer as Native
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(alphabet)} | {"</s>": 256}
    native = Native(models.BPE(vocab, []))
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = decoders.ByteLevel()
    native.add_special_tokens(["</s>"])
    return Tokenizer(native.to_str().encode())


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """Shaped as Llama's: a metaspace, bytes as `<0x41>`, the first space stripped."""
    from tokenizers import Tokenizer as Native
    from tokenizers import decoders, models, normalizers

    vocab = {f"<0x{i:02X}>": i for i in range(256)}
    vocab |= {piece: 256 + i for i, piece in enumerate(["▁", "a", "b", "▁a", "ab", "▁ab"])}
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    native = Native(models.BPE(vocab, merges, byte_fallback=True))
    native.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    native.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(native.to_str().encode())


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


@settings(deadline=None)
@given(st.lists(st.integers(0, 256), max_size=60))
def test_any_bytes_stream_to_what_decoding_them_gives(byte_level, ids):
    pieces = stream(byte_level, ids)
    assert "".join(pieces) == byte_level.decode(ids)
    assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])


@settings(deadline=None)
@given(st.text(alphabet="ab é日本🙂\n", max_size=40))
def test_text_streams_through_byte_fallback(byte_fallback, text):
    ids = byte_fallback.encode(text, add_special_tokens=False)
    pieces = stream(byte_fallback, ids)
    assert "".join(pieces) == byte_fallback.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_comes_as_soon_as_it_is_whole(byte_level):
    ids = byte_level.encode("a🙂b", add_special_tokens=False)
    assert stream(byte_level, ids) == ["a", "", "", "", "🙂", "b", ""]


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(alphabet="abc", max_size=30),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_stop_strings_cut_the_same_place_however_the_text_comes(text, stops, cuts):
    bounds = sorted({0, len(text), *(c for c in cuts if c <= len(text))})
    matcher = StopStrings(stops)
    got = "".join(matcher.push(text[a:b]) for a, b in pairwise(bounds))
    got += matcher.flush()
    # As the text grows, the stop that is complete first wins; of those complete together in one
    # piece, the one that starts first.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert matcher.found == bool(ends)
    if not ends:
        assert got == text
    else:
        assert any(text.startswith(got + stop) for stop in stops)
        assert not any(stop in got for stop in stops)


def test_nothing_that_may_begin_a_stop_string_is_given_out():
    matcher = StopStrings(["STOP", "END"])
    pieces = ["one ST", "O", "RM S", "TOP two"]
    assert [matcher.push(p) for p in pieces] == ["one ", "", "STORM ", ""]
    assert matcher.found
    assert matcher.push("more") == ""
    assert matcher.flush() == ""


def test_bad_input():
    with pytest.raises(LlmcError, match="E0205"):
        StopStrings([""])
    with pytest.raises(LlmcError, match="E0512"):
        Tokenizer(b'{"version": "none"}').decode([1])


MESSAGES = [{"role": "user", "content": "<hi> 'you'"}]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}\n[{{ m['role'] }}]{{ m.content }}\n{% endfor %}", "[user]"),
        ("{{ bos_token }}{{ messages[0]['content'] }}", "<s><hi> 'you'"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<hi> \'you\'"}'),
        ("{% generation %}x{{ messages|length }}{% endgeneration %}y", "x1y"),
        ("{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{{ strftime_now('%Y')[:2] }}", "20"),
        ("{{ 'go' if add_generation_prompt }}{{ tools is none }}", "goTrue"),
        ("{{ undefined_name }}", ""),
    ],
)
def test_templates_get_what_transformers_gives_them(source, text):
    template = ChatTemplate(source, {"bos_token": "<s>"})
    assert template.render(MESSAGES).startswith(text)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only users') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 1 / 0 }}",
    ],
)
def test_templates_that_refuse_or_try_too_much(source):
    with pytest.raises(LlmcError, match="E0209"):
        ChatTemplate(source, {}).render(MESSAGES)


def test_an_invalid_template_is_named():
    with pytest.raises(LlmcError, match="E0512"):
        ChatTemplate("{% for %}", {})


def test_parsing_in_the_background_gives_the_same(byte_level):
    expected = byte_level.encode("a few words", add_special_tokens=True)
    tokenizer = Tokenizer(byte_level._data)
    tokenizer.start()
    tokenizer.start()
    assert tokenizer.encode("a few words", add_special_tokens=True) == expected


@pytest.mark.filterwarnings("error")
def test_a_broken_tokenizer_parsed_in_the_background_shows_when_it_is_used():
    tokenizer = Tokenizer(b"{}")
    tokenizer.start()
    with pytest.raises(LlmcError, match="E0512"):
        tokenizer.encode("a", add_special_tokens=True)
