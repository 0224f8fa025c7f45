"""From a GGUF vocabulary to the model, normalizer, pre-tokenizer and decoder of a tokenizer.

In: a `Vocabulary`, and the facts of its `pre` if it is one that merges by rank. Out: a
`tokenizers.Tokenizer` without special tokens, which encodes as the model's own does, and notes on
what it can't take over. One function for each kind of vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ....base.errors import LlmcError
from .splitting import GPT2_PATTERN, Splitting, splitting, splitting_names
from .vocabulary import (
    BYTE_LEVEL,
    SCORED,
    SPACED,
    UNIGRAM,
    WORD_PIECE,
    TokenKind,
    Vocabulary,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPACE = "\u2581"
_PIECES = (TokenKind.NORMAL, TokenKind.USER_DEFINED, TokenKind.UNUSED)
"""Kinds of tokens that text is made of; the others stand for something else than their letters."""
Built = tuple["Tokenizer", tuple[str, ...]]


def facts_of(vocabulary: Vocabulary) -> tuple[Splitting | None, tuple[str, ...]]:
    """What the vocabulary's `pre` says, where its kind needs one; and a note if it is missing.

    Raises:
        LlmcError: E0403 for a name that isn't known: its text would be split in another way than
            the model learned.
    """
    if vocabulary.model not in (BYTE_LEVEL, SPACED):
        return None, ()
    name = SPACED if vocabulary.model == SPACED else vocabulary.flags.get("pre")
    if not name:
        note = "no tokenizer.ggml.pre in the file: text is split as llama.cpp does then, which may"
        return splitting("default"), (f"{note} not be how the model learned it",)
    facts = splitting(str(name))
    if facts is None:
        raise LlmcError(
            "LLMC-E0403",
            f"{vocabulary.where}: the pre-tokenizer {str(name)!r:.60} is not known; known are "
            f"{', '.join(splitting_names())}",
            "compile from the Hugging Face checkpoint of the same model, or correct "
            "tokenizer.ggml.pre",
        )
    return facts, ()


def bare_tokenizer(vocabulary: Vocabulary, facts: Splitting | None) -> Built:
    """The tokenizer of `vocabulary` before its special tokens are added.

    Raises:
        LlmcError: E0418 for a vocabulary that lacks scores.
    """
    if facts is not None:
        return (_spaced if facts.spaced else _byte_level)(vocabulary, facts)
    builders: dict[str, Callable[[Vocabulary], Built]] = {
        SCORED: _scored, UNIGRAM: _unigram, WORD_PIECE: _word_piece,
    }  # fmt: skip
    return builders[vocabulary.model](vocabulary)


def _byte_level(vocabulary: Vocabulary, facts: Splitting) -> Built:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges, notes = _given_merges(vocabulary)
    tokenizer: Any = Tokenizer(
        models.BPE(vocabulary.ids, merges, fuse_unk=False, ignore_merges=facts.whole_words)
    )
    if facts.composed:
        tokenizer.normalizer = normalizers.NFC()
    patterns = list(facts.patterns)
    prefix = vocabulary.flag("add_space_prefix", False)
    own = prefix and patterns[-1:] == [GPT2_PATTERN]  # the library's step, which knows the prefix
    if own:
        patterns.pop()
    elif prefix:
        notes += ("tokenizer.ggml.add_space_prefix says nothing for this way of splitting",)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=own, use_regex=own),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, notes


def _spaced(vocabulary: Vocabulary, facts: Splitting) -> Built:
    """Merges by rank over the whole text, with U+2581 for spaces and tokens for bytes."""
    from tokenizers import Tokenizer

    merges, notes = _given_merges(vocabulary)
    tokenizer = Tokenizer(_fallback_model(vocabulary, merges, facts.whole_words))
    return _with_spaces(tokenizer, vocabulary, prefix=False), notes


def _scored(vocabulary: Vocabulary) -> Built:
    """sentencepiece's merges: of all neighbours that make a token, the one of the best score."""
    from tokenizers import Tokenizer

    merges, notes = _merges_by_score(vocabulary)
    tokenizer = Tokenizer(_fallback_model(vocabulary, merges, False))
    return _with_spaces(tokenizer, vocabulary, prefix=True), notes


def _unigram(vocabulary: Vocabulary) -> Built:
    from tokenizers import Tokenizer, models

    if not vocabulary.scores:
        raise LlmcError("LLMC-E0418", f"{vocabulary.where} has no scores for its tokens")
    normal = [vocabulary.scores[id] for id in vocabulary.of_kind(TokenKind.NORMAL)]
    # Unknown text costs 10 more than the worst token, which an unused one must not decide.
    worst = min(normal, default=0.0)
    scores = [
        score if kind is TokenKind.NORMAL else max(score, worst)
        for score, kind in zip(vocabulary.scores, vocabulary.kinds, strict=True)
    ]
    model = models.Unigram(
        list(zip(vocabulary.tokens, scores, strict=True)),
        vocabulary.ids[_required_unknown(vocabulary)],
        byte_fallback=_has_bytes(vocabulary),
    )
    return _with_spaces(Tokenizer(model), vocabulary, prefix=True), ()


def _word_piece(vocabulary: Vocabulary) -> Built:
    """Words of the longest pieces; a file marks what begins a word, the library what doesn't."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    marked = any(token.startswith(_SPACE) for token in vocabulary.tokens)
    texts = [
        _word_piece_text(token, kind, marked)
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    ]
    ids = {text: id for id, text in enumerate(texts)}
    if len(ids) < len(texts):
        raise LlmcError("LLMC-E0418", f"{vocabulary.where} has two ids for one piece of a word")
    unknown = texts[vocabulary.ids[_required_unknown(vocabulary)]]
    tokenizer: Any = Tokenizer(models.WordPiece(ids, unk_token=unknown))
    lowercase = vocabulary.flag("normalizer.lowercase", True)
    strip = vocabulary.flag("normalizer.strip_accents", lowercase)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, ()


def _word_piece_text(token: str, kind: TokenKind, marked: bool) -> str:
    if kind in (TokenKind.CONTROL, TokenKind.UNKNOWN) or not marked:
        return token
    return token[1:] if token.startswith(_SPACE) else f"##{token}"


def _fallback_model(vocabulary: Vocabulary, merges: list[tuple[str, str]], whole: bool) -> Any:
    from tokenizers import models

    return models.BPE(
        vocabulary.ids,
        merges,
        unk_token=_unknown(vocabulary),
        fuse_unk=True,
        byte_fallback=_has_bytes(vocabulary),
        ignore_merges=whole,
    )


def _has_bytes(vocabulary: Vocabulary) -> bool:
    return all(f"<0x{byte:02X}>" in vocabulary.ids for byte in range(256))


def _unknown(vocabulary: Vocabulary) -> str | None:
    """The token for text that the vocabulary can't write."""
    ids = vocabulary.of_kind(TokenKind.UNKNOWN)
    stated = vocabulary.flags.get("unknown_token_id")
    default = {WORD_PIECE: 100, UNIGRAM: 2}.get(vocabulary.model)  # llama.cpp's
    for id in (stated, *ids, default):
        if type(id) is int and 0 <= id < len(vocabulary.tokens):
            return vocabulary.tokens[id]
    return None


def _required_unknown(vocabulary: Vocabulary) -> str:
    """The same, where no text can be encoded without it."""
    unknown = _unknown(vocabulary)
    if unknown is None:
        raise LlmcError(
            "LLMC-E0418", f"{vocabulary.where} has no token for what its vocabulary can't write"
        )
    return unknown


def _with_spaces(tokenizer: Any, vocabulary: Vocabulary, *, prefix: bool) -> Any:
    """`tokenizer` for tokens that write a space as U+2581, and one before a text if `prefix`.

    The library normalizes what stands between special tokens piece by piece, so that each piece
    gets the space, as in sentencepiece. `add_space_prefix` overrides `prefix`.
    """
    from tokenizers import Regex, decoders, normalizers

    steps: list[Any] = []
    charsmap = vocabulary.flags.get("precompiled_charsmap")
    if charsmap:
        steps.append(normalizers.Precompiled(_bytes(charsmap, vocabulary)))
    if vocabulary.flag("remove_extra_whitespaces", False):
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
    prefixed = vocabulary.flag("add_space_prefix", prefix)
    if prefixed:
        steps.append(normalizers.Prepend(_SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefixed else []),
        ]
    )
    return tokenizer


def _bytes(values: Any, vocabulary: Vocabulary) -> bytes:
    """`precompiled_charsmap`, an array of signed or unsigned bytes, its tables in their bounds."""
    try:
        data = bytes(value & 255 for value in values)
    except TypeError:
        data = b""
    trie = int.from_bytes(data[:4], "little")
    if len(data) < 4 or trie % 4 or trie + 4 >= len(data):
        raise LlmcError(
            "LLMC-E0418", f"{vocabulary.where}: precompiled_charsmap is no table of characters"
        )
    return data


def _given_merges(vocabulary: Vocabulary) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """The file's merges, without those that make no token of the vocabulary."""
    if vocabulary.merges is None:
        return [], ("no tokenizer.ggml.merges in the file: only single letters are tokens",)
    ids = vocabulary.ids
    kept = [(a, b) for a, b in vocabulary.merges if a in ids and b in ids and a + b in ids]
    lost = len(vocabulary.merges) - len(kept)
    notes = (f"{lost} merges make no token of the vocabulary: left out",) if lost else ()
    return kept, notes


def _merges_by_score(vocabulary: Vocabulary) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """All pairs of tokens that make a token, the best scores first.

    Where scores say nothing (files made without `tokenizer.model` have one for all), ids do: they
    are in the order in which the merges were learned.
    """
    pieces = {vocabulary.tokens[id]: id for id in vocabulary.of_kind(*_PIECES)}
    scores = vocabulary.scores or [0.0] * len(vocabulary.tokens)
    order = sorted(pieces.items(), key=lambda item: (-scores[item[1]], item[1]))
    merges, notes, last, tied = [], [], None, 0
    for piece, id in order:
        pairs = [
            (piece[:at], piece[at:])
            for at in range(1, len(piece))
            if piece[:at] in pieces and piece[at:] in pieces
        ]
        # Runs of one letter (of spaces: many have one score) come out the same in any order.
        if pairs and vocabulary.kinds[id] is TokenKind.NORMAL and len(set(piece)) > 1:
            tied += scores[id] == last
            last = scores[id]
        merges += pairs
    if tied:
        notes.append(f"{tied} tokens share a score with another: the lower id is merged first")
    return merges, tuple(notes)
