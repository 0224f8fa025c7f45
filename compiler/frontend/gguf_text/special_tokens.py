"""Special tokens of a GGUF vocabulary: their ids, the ends of turn, and where they are added.

In: a `Vocabulary` and the facts of its `pre`. Out: `SpecialTokens`. Defaults for keys that a file
lacks, and the tokens that are known by their text, are those of llama.cpp (`src/llama-vocab.cpp`):
many files say less than they should, and their users expect what llama.cpp does with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....base.errors import LlmcError
from ..generation_fields import token_ids
from .splitting import Splitting
from .vocabulary import BYTE_LEVEL, SCORED, UNIGRAM, WORD_PIECE, TokenKind, Vocabulary

_DEFAULTS = {
    SCORED: {"bos": 1, "eos": 2, "unknown": 0},
    WORD_PIECE: {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103},
    BYTE_LEVEL: {"bos": 11, "eos": 11},
    UNIGRAM: {"eos": 1, "unknown": 2, "padding": 0},
}
_IDS = ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask")  # sic: the key's
_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[",
)  # fmt: skip
"""Tokens that end a turn wherever they are in a vocabulary."""
_FILL_IN = {
    "fim_pre": (
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim\u2581begin\uff5c>", "<PRE>",
        "\u2581<PRE>", "<|code_prefix|>", "<|prefix|>",
    ),
    "fim_suf": (
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim\u2581hole\uff5c>", "<SUF>",
        "\u2581<SUF>", "<|code_suffix|>", "<|suffix|>",
    ),
    "fim_mid": (
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim\u2581end\uff5c>", "<MID>",
        "\u2581<MID>", "<|code_middle|>", "<|middle|>",
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}  # fmt: skip
"""Tokens of filling in the middle; the first that there is counts where no key names one."""
_FILL_IN_ENDS = ("fim_pad", "fim_rep", "fim_sep")
_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


@dataclass(frozen=True)
class SpecialTokens:
    """`ids` by name (`bos`, `eos`, `padding`, …); `ends`: ids that end a turn, the file's first.

    `before`, `after`: ids put around a text; `between`: what stands between two texts. `kinds` are
    the vocabulary's, corrected; `notes` are lines for the user.
    """

    ids: dict[str, int]
    ends: list[int]
    before: list[int]
    after: list[int]
    between: list[int]
    kinds: list[TokenKind]
    notes: tuple[str, ...]


def special_tokens(vocabulary: Vocabulary, facts: Splitting | None) -> SpecialTokens:
    """The special tokens of `vocabulary`; `facts` belong to its `pre`, if it has one.

    Raises:
        LlmcError: E0418 for an id or a flag that is none, or for a mark to add that has no id.
    """
    ids, notes = _ids(vocabulary, facts)
    kinds = list(vocabulary.kinds)
    fill_in = _fill_in(vocabulary, kinds, notes)
    known = [vocabulary.ids[text] for text in _ENDS if text in vocabulary.ids]
    _make_control(vocabulary, kinds, known, notes)
    for text in _SHOWN:
        if text in vocabulary.ids:
            kinds[vocabulary.ids[text]] = TokenKind.USER_DEFINED
    stated = [ids[name] for name in ("eos", "eot", "eom") if name in ids]
    ends = list(dict.fromkeys([*stated, *sorted([*known, *fill_in])]))
    _take_back(vocabulary, kinds, ends)
    before, after, between = _marks(vocabulary, facts, ids)
    return SpecialTokens(ids, ends, before, after, between, kinds, tuple(notes))


def stated_ids(
    flags: Mapping[str, Any], name: str, where: str, count: int | None = None
) -> tuple[list[int], tuple[str, ...]]:
    """The ids that a key of `flags` names, below `count`, and notes on those that are none."""
    where = f"{where}: tokenizer.ggml.{name}_token_id"
    found, notes = token_ids(flags.get(f"{name}_token_id"), where)
    ids = found if isinstance(found, list) else [] if found is None else [found]
    outside = [id for id in ids if count is not None and id >= count]
    lines = [f"{where} {id} is outside of the vocabulary: left out" for id in outside]
    return [id for id in ids if id not in outside], (*notes, *lines)


def _ids(vocabulary: Vocabulary, facts: Splitting | None) -> tuple[dict[str, int], list[str]]:
    defaults = dict(_DEFAULTS.get(vocabulary.model, {}))
    if facts is not None and not facts.default_begin:
        defaults.pop("bos")
    ids: dict[str, int] = {}
    notes: list[str] = []
    for name in (*_IDS, *_FILL_IN):
        stated, lines = _stated(vocabulary, name)
        notes += lines
        default = defaults.get(name)
        if stated:
            ids[name] = stated[0]
        elif default is not None and _may_be(vocabulary, default):
            ids[name] = default
    return ids, notes


def _stated(vocabulary: Vocabulary, name: str) -> tuple[list[int], tuple[str, ...]]:
    return stated_ids(vocabulary.flags, name, vocabulary.where, len(vocabulary.tokens))


def _may_be(vocabulary: Vocabulary, id: int) -> bool:
    """Whether a default is a special token in this vocabulary.

    llama.cpp's defaults for byte-level vocabularies are one model's; in others the same id is an
    ordinary token, at which no text should begin or end.
    """
    if id >= len(vocabulary.tokens):
        return False
    return vocabulary.model != BYTE_LEVEL or vocabulary.kinds[id] is TokenKind.CONTROL


def _fill_in(vocabulary: Vocabulary, kinds: list[TokenKind], notes: list[str]) -> list[int]:
    """Tokens of filling in the middle at which a text ends."""
    ends = []
    for name, texts in _FILL_IN.items():
        stated, _ = _stated(vocabulary, name)
        found = [vocabulary.ids[text] for text in texts if text in vocabulary.ids][:1]
        if not stated:
            _make_control(vocabulary, kinds, found, notes)
        if name in _FILL_IN_ENDS:
            ends += stated or found
    return ends


def _make_control(
    vocabulary: Vocabulary, kinds: list[TokenKind], ids: Iterable[int], notes: list[str]
) -> None:
    for id in ids:
        if kinds[id] is not TokenKind.CONTROL:
            if kinds[id] is TokenKind.NORMAL:
                text = vocabulary.tokens[id]
                notes.append(f"the token {text} is a special one by its name, not in the file")
            kinds[id] = TokenKind.CONTROL


def _take_back(vocabulary: Vocabulary, kinds: list[TokenKind], ends: list[int]) -> None:
    """Tokens that end no turn in vocabularies that have others for it beside them."""
    found = {vocabulary.tokens[id]: id for id in ends}
    calls = {"<|call|>", "<|calls|>"} & found.keys()
    if "<|end|>" in found and calls and {"<|return|>", "<|flush|>"} & found.keys():
        ends.remove(found["<|end|>"])
        kinds[found["<|end|>"]] = TokenKind.USER_DEFINED
    if "</s>" in found and {"<|tool_response>", "<|plamo:eos|>"} & found.keys():
        ends.remove(found["</s>"])
        kinds[found["</s>"]] = TokenKind.NORMAL


def _marks(
    vocabulary: Vocabulary, facts: Splitting | None, ids: dict[str, int]
) -> tuple[list[int], list[int], list[int]]:
    """What is put before, behind and between texts where special tokens are asked for."""
    words = vocabulary.model == WORD_PIECE
    add = {
        "bos": vocabulary.model == SCORED or words or bool(facts and facts.begin),
        "eos": vocabulary.model == UNIGRAM,
        "seperator": words or bool(facts and facts.separate),
    }
    keys = {"bos": "add_bos_token", "eos": "add_eos_token", "seperator": "add_sep_token"}
    wanted = [name for name, key in keys.items() if vocabulary.flag(key, add[name])]
    for name in wanted:
        if name not in ids and keys[name] in vocabulary.flags:
            key = f"tokenizer.ggml.{keys[name]}"
            raise LlmcError(
                "LLMC-E0418", f"{vocabulary.where}: {key} is true, but there is no {name}_token_id"
            )
    marks = {name: [ids[name]] if name in wanted and name in ids else [] for name in keys}
    if words:  # always both, whatever the flags say
        begin = [ids["bos"]] if "bos" in ids else []
        end = [ids["seperator"]] if "seperator" in ids else []
        return begin, end, []
    return marks["bos"], marks["eos"], marks["seperator"]


def corrected(vocabulary: Vocabulary, special: SpecialTokens) -> Vocabulary:
    """`vocabulary` with the kinds that its tokens are of."""
    return replace(vocabulary, kinds=special.kinds)
