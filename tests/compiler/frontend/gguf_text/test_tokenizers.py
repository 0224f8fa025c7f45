"""Tokenizers built from GGUF metadata, against the tokenizers whose vocabularies were written.

The originals are trained here with the `tokenizers` library; sentencepiece's merging, which the
library has no model for, is written from its definition.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf_vocabularies as gv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

pytestmark = pytest.mark.fast

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind it at all.",
    "It's 2024 and there are 1234567 reasons; HTMLParser and camelCase aren't among them!",
    "def split(text):\n    return [word for word in text.split() if word]\n\n\tpass",
    "Привет мир, 日本語のテキスト と naïve café 🙂🙂 and the rest of the text",
] * 3
TEXTS = [
    *CORPUS[:4], "", " ", "   the dog", "dog  ", "\n\n\t the\r\n", "zebra 98765",
    "e\u0301te\u0301", "\u00e9t\u00e9", "🚀 unseen ☃ ﷺ \U0010fffd", "The's WE'RE don't O'NEILL",
    "a" * 70, "x  y   z",
]  # fmt: skip


def byte_level_original(split: str | None, *, composed: bool = False, **model: Any) -> Tokenizer:
    tokenizer: Any = Tokenizer(models.BPE(**model))
    if composed:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.ByteLevel(False, use_regex=split is None)]
    if split is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(split), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def tokens_of(tokenizer: Tokenizer) -> list[str]:
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


@pytest.mark.parametrize(
    ("pre", "split", "composed", "whole"),
    [
        ("gpt-2", None, False, False),
        ("qwen2", GGUF_PRE_TOKENIZER_SPLITS["qwen2"], True, False),
        ("qwen35", GGUF_PRE_TOKENIZER_SPLITS["qwen35"], False, False),
        ("llama-bpe", GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"], False, True),
        ("tekken", GGUF_PRE_TOKENIZER_SPLITS["tekken"], False, True),
        ("gpt-4o", GGUF_PRE_TOKENIZER_SPLITS["gpt-4o"], False, False),
    ],
)
def test_byte_level(
    pre: str, split: str | None, composed: bool, whole: bool, tmp_path: Path
) -> None:
    original = byte_level_original(split, composed=composed, ignore_merges=whole)
    merges = [" ".join(pair) for pair in _merges(original)]
    tokens = tokens_of(original)
    kinds = [gv.CONTROL if token.startswith("<|") else gv.NORMAL for token in tokens]
    path = gv.write_vocabulary(tmp_path / "v.gguf", tokens, kinds, pre=pre, merges=merges)
    found, _, _ = gv.opened(path)
    for text in TEXTS:
        expected = original.encode(text, add_special_tokens=False).ids
        assert found.encode(text, add_special_tokens=False) == expected, text
        assert found.decode(expected) == original.decode(expected)
    ids = found.encode("the<|endoftext|>the", add_special_tokens=False)
    assert ids == original.encode("the<|endoftext|>the").ids


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    return json.loads(tokenizer.to_str())["model"]["merges"]


def test_a_whole_word_is_a_token_without_merges(tmp_path: Path) -> None:
    tokens, kinds = gv.byte_level(("xyz", gv.NORMAL))
    path = gv.write_vocabulary(tmp_path / "v.gguf", tokens, kinds, pre="llama-bpe")
    assert gv.opened(path)[0].encode("xyz", add_special_tokens=False) == [256]
    path = gv.write_vocabulary(tmp_path / "v.gguf", tokens, kinds, pre="gpt-2")
    assert len(gv.opened(path)[0].encode("xyz", add_special_tokens=False)) == 3


def test_a_space_before_a_byte_level_text(tmp_path: Path) -> None:
    """As the library's own `add_prefix_space`, where a file asks for it."""
    tokens, kinds = gv.byte_level()
    path = gv.write_vocabulary(tmp_path / "v.gguf", tokens, kinds, add_space_prefix=True)
    original: Any = Tokenizer(
        models.BPE({token: id for id, token in enumerate(tokens)}, [("a", "b")])
    )
    original.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    found, _, _ = gv.opened(path)
    for text in TEXTS:
        assert found.encode(text, add_special_tokens=False) == original.encode(text).ids, text


PIECES = [
    *("▁t", "he", "in", "IN", "ST", "INST", "▁the", "▁h", "hi", "▁hi", "▁[", "▁▁", "▁▁▁▁"),
    *("el", "lo", "hel", "hello", "▁hello", "▁th", "▁", *"etaonisrhldu[]INST/x<>"),
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SCORED = ["<unk>", "<s>", "</s>", *BYTES, *PIECES]
SCORED_KINDS = [gv.UNKNOWN, gv.CONTROL, gv.CONTROL, *[gv.BYTE] * 256, *[gv.NORMAL] * len(PIECES)]
SCORES = [0.0] * 259 + [-float(i) for i in range(len(PIECES))]


def merged(text: str, prefix: str = "▁") -> list[int]:
    """sentencepiece: of all neighbours that make a piece, the best, the leftmost of equals."""
    ids = {piece: id for id, piece in enumerate(SCORED) if SCORED_KINDS[id] == gv.NORMAL}
    parts = list((prefix if text else "") + text.replace(" ", "▁"))
    while True:
        pairs = [
            (SCORES[ids[a + b]], -at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in ids
        ]
        if not pairs:
            break
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [id for p in parts for id in ([ids[p]] if p in ids else [3 + b for b in p.encode()])]


def scored(path: Path, **keys: Any) -> Path:
    return gv.write_vocabulary(
        path, SCORED, keys.pop("kinds", SCORED_KINDS), model="llama", pre="default", scores=SCORES,
        bos_token_id=1, eos_token_id=2, **keys,
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        " hello",
        "  the hi",
        "the\nhi",
        "hi 😀",
        "",
        " ",
        *(" " * n + "x" for n in range(9)),
    ],
)
def test_merges_by_score(text: str, tmp_path: Path) -> None:
    found, _, notes = gv.opened(scored(tmp_path / "v.gguf"))
    assert found.encode(text, add_special_tokens=False) == merged(text)
    assert found.encode(text, add_special_tokens=True) == [1, *merged(text)]
    assert found.decode(merged(text)) == text
    assert notes == ()


def test_a_text_behind_a_special_token_begins_with_a_space(tmp_path: Path) -> None:
    found, _, _ = gv.opened(scored(tmp_path / "v.gguf"))
    for parts in (["<s>", "[INST] hi [/INST]"], ["<s>", "hi", "</s>", "\nhi"], ["<s>", " hi"]):
        expected = [
            id
            for part in parts
            for id in ([SCORED.index(part)] if part in ("<s>", "</s>") else merged(part))
        ]
        assert found.encode("".join(parts), add_special_tokens=False) == expected


def test_no_space_where_the_file_says_so(tmp_path: Path) -> None:
    found, _, _ = gv.opened(scored(tmp_path / "v.gguf", add_space_prefix=False))
    assert found.encode("hi the", add_special_tokens=False) == merged("hi the", "")
    assert found.decode(merged(" hi", "")) == " hi"


def test_spaces_that_the_file_removes(tmp_path: Path) -> None:
    found, _, _ = gv.opened(scored(tmp_path / "v.gguf", remove_extra_whitespaces=True))
    assert found.encode("  the   hi ", add_special_tokens=False) == merged("the hi")


def test_user_defined_tokens_are_cut_out_first(tmp_path: Path) -> None:
    kinds = list(SCORED_KINDS)
    kinds[SCORED.index("INST")] = gv.USER_DEFINED
    found, _, _ = gv.opened(scored(tmp_path / "v.gguf", kinds=kinds))
    expected = [*merged("hi "), SCORED.index("INST"), *merged(" hi")]
    assert found.encode("hi INST hi", add_special_tokens=False) == expected
    assert found.decode([SCORED.index("INST")]) == "INST"


def test_scores_that_say_nothing(tmp_path: Path) -> None:
    """Files made without `tokenizer.model` have one score for all; the order of ids is left."""
    path = gv.write_vocabulary(
        tmp_path / "v.gguf", SCORED, SCORED_KINDS, model="llama", scores=[-1000.0] * len(SCORED)
    )
    found, _, notes = gv.opened(path)
    assert found.encode("the hello", add_special_tokens=False) == merged("the hello")
    assert any("share a score" in note for note in notes)


def test_pieces_by_rank_over_the_whole_text(tmp_path: Path) -> None:
    """`gemma4`: merges as the file lists them, no splitting, bytes as tokens."""
    merges = ["t h", "th e", "▁ the", "\n \n", "h i"]
    extra = ["t", "h", "e", "i", "▁", "\n", "th", "the", "▁the", "\n\n", "hi"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *BYTES, *extra]
    kinds = [gv.CONTROL] * 3 + [gv.UNKNOWN] + [gv.BYTE] * 256 + [gv.NORMAL] * len(extra)
    path = gv.write_vocabulary(
        tmp_path / "v.gguf", tokens, kinds, model="gemma4", pre=None, merges=merges,
        bos_token_id=2, eos_token_id=1, unknown_token_id=3,
    )  # fmt: skip
    original: Any = Tokenizer(
        models.BPE(
            {token: id for id, token in enumerate(tokens)},
            [(a, b) for a, b in (merge.split(" ") for merge in merges)],
            unk_token="<unk>", fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    original.normalizer = normalizers.Replace(" ", "▁")
    found, _, _ = gv.opened(path)
    for text in ("the hi", " the\n\n\nhi", "é the", ""):
        expected = original.encode(text).ids
        assert found.encode(text, add_special_tokens=False) == expected
        assert found.encode(text, add_special_tokens=True) == [2, *expected]
        assert found.decode(expected) == text


def test_unigram(tmp_path: Path) -> None:
    original: Any = Tokenizer(models.Unigram())
    original.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    )
    original.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    original.train_from_iterator(CORPUS, trainer)
    vocabulary = json.loads(original.to_str())["model"]["vocab"]
    path = gv.write_vocabulary(
        tmp_path / "v.gguf", [token for token, _ in vocabulary],
        [gv.CONTROL, gv.CONTROL, gv.UNKNOWN, *[gv.NORMAL] * (len(vocabulary) - 3)], model="t5",
        scores=[score for _, score in vocabulary], add_space_prefix=True,
        remove_extra_whitespaces=True,
    )  # fmt: skip
    found, assets, _ = gv.opened(path)
    for text in (t for t in TEXTS if "\n" not in t):
        expected = original.encode(text, add_special_tokens=False).ids
        assert found.encode(text, add_special_tokens=False) == expected, text
        assert found.encode(text, add_special_tokens=True) == [*expected, 1]
    assert assets.generation["eos_token_id"] == [1]


def test_word_pieces(tmp_path: Path) -> None:
    original: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    original.normalizer = normalizers.BertNormalizer(lowercase=True)
    original.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=marks, show_progress=False)
    original.train_from_iterator(CORPUS, trainer)
    tokens = [  # as llama.cpp's converter writes them
        token if token in marks else token[2:] if token.startswith("##") else f"▁{token}"
        for token in tokens_of(original)
    ]
    kinds = [gv.CONTROL if token in marks else gv.NORMAL for token in tokens]
    path = gv.write_vocabulary(
        tmp_path / "v.gguf", tokens, kinds, model="bert", pre="bert-bge", unknown_token_id=1,
        bos_token_id=2, seperator_token_id=3,
    )  # fmt: skip
    found, _, _ = gv.opened(path)
    for text in TEXTS:
        expected = original.encode(text, add_special_tokens=False).ids
        assert found.encode(text, add_special_tokens=False) == expected, text
        assert found.encode(text, add_special_tokens=True) == [2, *expected, 3]


@pytest.mark.parametrize(
    ("changes", "id", "named"),
    [
        ({"model": "rwkv"}, "LLMC-E0403", "kind 'rwkv'"),
        ({"model": "plamo2"}, "LLMC-E0403", "kind 'plamo2'"),
        ({"pre": "of-tomorrow"}, "LLMC-E0403", "pre-tokenizer 'of-tomorrow' is not known"),
        ({"merges": ["ab"]}, "LLMC-E0418", "'ab' is no merge"),
        ({"tokens": ["a", "a"]}, "LLMC-E0418", "token 'a' has two ids"),
        ({"kinds": [1]}, "LLMC-E0418", "token_type is no list"),
        ({"add_bos_token": "yes"}, "LLMC-E0418", "add_bos_token is neither"),
        ({"eos_token_id": "end"}, "LLMC-E0418", "eos_token_id"),
        ({"model": "t5"}, "LLMC-E0418", "no scores"),
        ({"model": "t5", "scores": [0.0, 0.0]}, "LLMC-E0418", "no token for what"),
        ({"model": "bert"}, "LLMC-E0418", "no token for what"),
        (
            {"model": "t5", "scores": [0.0, 0.0], "precompiled_charsmap": [1, 2],
             "unknown_token_id": 0},
            "LLMC-E0418", "no table of characters",
        ),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_vocabularies_that_are_refused(
    changes: dict[str, Any], id: str, named: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"tokens": ["a", "b"], **changes}
    path = gv.write_vocabulary(tmp_path / "v.gguf", given.pop("tokens"), **given)
    with pytest.raises(LlmcError, match=named) as caught:
        gv.opened(path)
    assert caught.value.id == id


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_metadata_of_any_kind_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing but our own errors, whatever stands in the keys; the library panics at some."""
    texts = st.lists(st.text("ab\u2581 <0x4>\u0120:", max_size=4), max_size=6)
    numbers = st.lists(st.integers(-3, 9), max_size=6)
    odd = st.one_of(st.integers(0, 99), st.booleans(), st.text(max_size=3), texts, numbers)
    keys = data.draw(
        st.dictionaries(
            st.sampled_from(
                [
                    "bos_token_id", "eos_token_id", "add_bos_token", "add_space_prefix",
                    "unknown_token_id", "precompiled_charsmap", "token_type", "scores", "merges",
                    "remove_extra_whitespaces",
                ]
            ),
            odd,
        )
    )  # fmt: skip
    tokens = data.draw(texts)

    def stated(writer: Any) -> None:
        for key, value in keys.items():
            if value != []:
                gv.add_key(writer, f"tokenizer.ggml.{key}", value)

    path = gv.write_vocabulary(
        tmp_path_factory.mktemp("odd") / "v.gguf", tokens or ["a"], merges=None, extra=stated,
        model=data.draw(st.sampled_from(["gpt2", "llama", "t5", "bert", "gemma4"])),
        pre=data.draw(st.sampled_from(["gpt-2", "llama-bpe", "gemma4", None])),
    )  # fmt: skip
    try:
        found, _, _ = gv.opened(path)
        found.encode("ab a", add_special_tokens=True)
    except LlmcError as error:
        assert error.exit_code in (2, 3, 4)  # noqa: PT017


def test_a_mark_whose_text_has_a_colon(tmp_path: Path) -> None:
    tokens, kinds = gv.byte_level(("<begin:0>", gv.CONTROL))
    path = gv.write_vocabulary(
        tmp_path / "v.gguf", tokens, kinds, bos_token_id=256, add_bos_token=True
    )
    assert gv.opened(path)[0].encode("a", add_special_tokens=True)[0] == 256


def test_what_is_said_of_a_poor_file(tmp_path: Path) -> None:
    tokens, kinds = gv.byte_level()
    path = gv.write_vocabulary(tmp_path / "v.gguf", tokens, kinds, pre=None, merges=["a c"])
    _, assets, notes = gv.opened(path)
    assert any("no tokenizer.ggml.pre" in note for note in notes)
    _, _, without = gv.opened(gv.write_vocabulary(tmp_path / "w.gguf", tokens, kinds, merges=None))
    assert any("no tokenizer.ggml.merges" in note for note in without)
    assert any("1 merges make no token" in note for note in notes)
    assert assets.generation["eos_token_id"] == []


def test_long_vocabularies_are_read_whole(tmp_path: Path) -> None:
    extra = [(f"word{i}é", gv.USER_DEFINED) for i in range(2000)]
    tokens, kinds = gv.byte_level(*extra)
    found, _, _ = gv.opened(gv.write_vocabulary(tmp_path / "v.gguf", tokens, kinds))
    assert found.encode("word1999é", add_special_tokens=False) == [256 + 1999]
