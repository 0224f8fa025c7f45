"""Where completions say that tokens stand in the text: as `tokenizers` itself says it."""

from typing import Any

import pytest
from llmc.runtime.text.tokenizer import Tokenizer
from llmc.server.api.logprobs import CompletionLogprobs
from tokenizers import Tokenizer as Native
from tokenizers import decoders, models, normalizers, pre_tokenizers

pytestmark = pytest.mark.fast


def byte_level() -> Native:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    native = Native(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = decoders.ByteLevel()
    return native


def byte_fallback() -> Native:
    """Bytes as `<0x41>` beside a few characters, the first space stripped."""
    tokens = [*(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "é", "日", "▁a"]
    vocab = {token: i for i, token in enumerate(tokens)}
    native = Native(models.BPE(vocab, [("▁", "a")], byte_fallback=True))
    native.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    native.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return native


def in_windows() -> Native:
    """With a decoder that isn't known token by token."""
    native = byte_level()
    native.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("#", "")])
    return native


KINDS = [byte_level, byte_fallback, in_windows]
TEXTS = ["ab", "aé日b", "日本語 a 😀b", "a😀😀 é", "👨‍👩‍👧 ab", "", "e\u0301a"]


def offsets(tokenizer: Tokenizer, ids: list[int], *, echoed: int = 0) -> list[int]:
    builder = CompletionLogprobs(tokenizer)
    return builder.entries(ids, [None] * len(ids), echoed=echoed)["text_offset"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("text", TEXTS)
def test_a_token_stands_where_its_character_does(kind: Any, text: str) -> None:
    native = kind()
    tokenizer = Tokenizer(native.to_str().encode())
    encoding = native.encode(text, add_special_tokens=False)
    assert native.decode(encoding.ids) == text
    expected = [start for start, _ in encoding.offsets]
    assert offsets(tokenizer, encoding.ids) == expected
    assert offsets(tokenizer, encoding.ids, echoed=len(encoding.ids)) == expected
    one_by_one = CompletionLogprobs(tokenizer)
    assert [one_by_one.entries([t], [None])["text_offset"][0] for t in encoding.ids] == expected


def test_what_is_generated_stands_behind_the_prompt() -> None:
    """Each is decoded by itself, as the text of the answer is."""
    native = byte_level()
    tokenizer = Tokenizer(native.to_str().encode())
    prompt, answer = native.encode("é😀").ids, native.encode("日a").ids
    found = offsets(tokenizer, [*prompt[:-1], *answer], echoed=len(prompt) - 1)
    assert found == [0, 0, 1, 1, 1, 2, 2, 2, 3]  # half a character is one U+FFFD


def test_special_tokens_that_are_not_in_the_text_take_no_room() -> None:
    native = byte_level()
    native.add_special_tokens(["</s>"])
    tokenizer = Tokenizer(native.to_str().encode())
    ids = native.encode("a</s>b").ids
    assert offsets(tokenizer, ids) == [0, 1, 1]
    kept = CompletionLogprobs(tokenizer, keep_special=True)
    assert kept.entries(ids, [None] * 3)["text_offset"] == [0, 1, 5]
