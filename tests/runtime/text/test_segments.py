"""Prompts put together from segments have the ids that encoding the whole gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.runtime.text import segments
from llmc.runtime.text.segments import SegmentCache
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from vocabularies import TABLED, WINDOWED, add_tokens, byte_level, metaspace, word_piece

pytestmark = pytest.mark.fast

KINDS = (*TABLED, *WINDOWED)
MARKS = ["</s>", "<|call|>", "<|call|>x", "[日本 x]", "<tag>", "<l>", "<r>", "<n>", "</s"]
texts = st.lists(
    st.one_of(st.sampled_from(MARKS), st.text("ab é日. '\n", max_size=6)), max_size=12
).map("".join)


def native_of(kind) -> Tokenizer:
    native = kind()
    add_tokens(native)
    native.add_special_tokens(
        [
            AddedToken("<|call|>x", normalized=False),
            AddedToken("<l>", lstrip=True, normalized=False),
            AddedToken("<r>", rstrip=True, normalized=False),
            AddedToken("<n>", normalized=True),
        ]
    )
    return native


def cache_of(native: Tokenizer) -> SegmentCache | None:
    return SegmentCache.of(native, lambda text: native.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(deadline=None, max_examples=60)
@given(given=st.lists(texts, min_size=1, max_size=4))
def test_the_ids_are_those_of_the_whole(kind, given):
    native = native_of(kind)
    cache = cache_of(native)
    assert cache is not None
    for text in [*given, *given]:
        assert cache.encode(text) == native.encode(text, add_special_tokens=False).ids


def test_a_space_that_only_the_first_word_gets_rules_it_out():
    native = metaspace()
    add_tokens(native)
    native.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits()]
    )
    assert cache_of(native) is None
    whole = native.encode("a</s>a", add_special_tokens=False).tokens
    alone = native.encode("a", add_special_tokens=False).tokens
    assert whole[-1:] != alone[-1:]


@pytest.mark.parametrize("normalized", [True, False])
def test_a_token_that_looks_at_its_neighbours_rules_it_out(normalized):
    native = native_of(byte_level)
    native.add_special_tokens([AddedToken("<w>", single_word=True, normalized=normalized)])
    assert cache_of(native) is None


def test_cut_texts_and_texts_without_marks_rule_it_out():
    native = native_of(byte_level)
    native.enable_truncation(3)
    assert cache_of(native) is None
    assert cache_of(word_piece()) is None


def test_normalizers_see_each_segment_alone():
    native = native_of(word_piece)
    native.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    cache = cache_of(native)
    assert cache is not None
    for text in (" a </s> a\u0301 ", "ﬁ</s></s> ﬁ"):
        assert cache.encode(text) == native.encode(text, add_special_tokens=False).ids


def test_what_came_before_is_looked_up_and_forgotten_in_time(monkeypatch):
    monkeypatch.setattr(segments, "_CHARACTERS", 40)
    native, asked = native_of(byte_level), []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return native.encode(text, add_special_tokens=False).ids

    cache = SegmentCache.of(native, encode)
    assert cache is not None
    for text in ("aaa</s>b", "aaa</s>c", "b" * 30, "</s>".join("a" * n for n in range(4, 11))):
        cache.encode(text)
    cache.encode("aaa")
    assert asked[:4] == ["aaa", "b", "c", "b" * 30]
    assert asked.count("aaa") == 2
    assert sum(map(len, cache._known)) == cache._characters <= 40
