"""An artifact's text is held to what was recorded: any other id, text or prompt is found."""

import pytest
from llmc.artifact.manifest import encode
from llmc.artifact.text_vectors import (
    EncodedText,
    RenderedChat,
    TextVectors,
    decode_text_vectors,
)
from llmc.base.errors import LlmcError
from llmc.runtime.text.replay import wrong_ids, wrong_prompts, wrong_texts
from llmc.runtime.text.templates import ChatTemplates
from llmc.runtime.text.tokenizer import Tokenizer
from msgspec.structs import replace

pytestmark = pytest.mark.fast

TEXT = "né </s>"


@pytest.fixture
def recorded(byte_level: Tokenizer) -> EncodedText:
    ids = byte_level.native.encode(TEXT, add_special_tokens=False).ids
    return EncodedText(text=TEXT, ids=ids, marked_ids=ids, decoded="né ", decoded_special="né </s>")


def test_equal_texts_and_others(byte_level: Tokenizer, recorded: EncodedText) -> None:
    def encode(text: str, marked: bool) -> list[int]:
        return byte_level.encode(text, add_special_tokens=marked)

    assert wrong_ids(encode, [recorded]) is None
    assert wrong_texts(byte_level, [recorded]) is None
    for field in ("ids", "marked_ids"):
        other = replace(recorded, **{field: [*recorded.ids, 5]})
        assert "né" in (wrong_ids(encode, [recorded, other]) or "")
    for field in ("decoded", "decoded_special"):
        other = replace(recorded, **{field: "ne"})
        assert "'ne'" in (wrong_texts(byte_level, [recorded, other]) or "")


def test_a_tokenizer_is_proven_before_its_first_use(
    byte_level: Tokenizer, recorded: EncodedText
) -> None:
    for ids, wrong in ((recorded.ids, False), (recorded.ids[:-1], True)):
        told = replace(recorded, ids=ids)
        tokenizer = Tokenizer(byte_level.data, proof=lambda encode, t=told: wrong_ids(encode, [t]))
        tokenizer.start()
        if wrong:
            for _ in range(2):  # it doesn't get better
                with pytest.raises(LlmcError, match=r"E0510.*né"):
                    tokenizer.encode("a", add_special_tokens=False)
        else:
            assert tokenizer.encode(TEXT, add_special_tokens=False) == recorded.ids


def test_special_tokens_split_like_text(byte_level: Tokenizer) -> None:
    split = Tokenizer(byte_level.data, split_special_tokens=True)
    native = byte_level.native
    native.encode_special_tokens = True
    expected = native.encode("a</s>", add_special_tokens=False).ids
    native.encode_special_tokens = False
    assert split.encode("a</s>", add_special_tokens=False) == expected
    assert expected != byte_level.encode("a</s>", add_special_tokens=False)


CHAT = RenderedChat(messages=[{"role": "user", "content": "hi"}], prompt="<user>hi2026")


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("<{{ messages[0].role }}>{{ messages[0].content }}{{ strftime_now('%Y') }}", None),
        ("<{{ messages[0].role }}>{{ messages[0].content }}", "hi"),
        ("{{ raise_exception('no') }}", "no"),
    ],
)
def test_equal_prompts_and_others(source: str, wrong: str | None) -> None:
    found = wrong_prompts(ChatTemplates({"default": source}, {}), [CHAT])
    assert found is None if wrong is None else wrong in (found or "")


def test_vectors_come_back_as_they_were_written() -> None:
    vectors = TextVectors(reference="x 1", chats=[CHAT])
    assert decode_text_vectors(encode(vectors)) == vectors
    hostile = replace(CHAT, variables={"messages": []})
    for data in (encode(replace(vectors, chats=[hostile])), b"[]", b'{"reference": 1}', b"\xff"):
        with pytest.raises(LlmcError, match="E0508"):
            decode_text_vectors(data)
