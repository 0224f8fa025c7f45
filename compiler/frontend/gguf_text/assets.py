"""The text side of a GGUF file: tokenizer, chat templates, special token ids.

In: a `GgufFile`. Out: `TextAssets` with a `tokenizer.json` built from the file's vocabulary, and
notes on what the user should know of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ....base.errors import LlmcError
from ....runtime.text.tokenizer import Tokenizer
from ..gguf_file import GgufFile
from ..model_source import TextAssets
from .models import bare_tokenizer, facts_of
from .sampling import sampling_defaults
from .special_tokens import SpecialTokens, corrected, special_tokens, stated_ids
from .splitting import Splitting
from .vocabulary import TokenKind, Vocabulary, flags_of, read_vocabulary

_ADDED = (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)
_TEMPLATE = "tokenizer.chat_template"
_LISTED = 5  # tokens that a line names


def gguf_text_assets(file: GgufFile) -> tuple[TextAssets, tuple[str, ...]]:
    """The file's text side, and lines for the user.

    Raises:
        LlmcError: E0403 for a kind of tokenizer, or a way of splitting, that isn't known; E0417 or
            E0418 for metadata without sense, and for a special token that its own text doesn't
            give, where the chat template or an end of turn is one.
    """
    license = _text(file, "general.license")
    template, named = _text(file, _TEMPLATE), _named_templates(file)
    vocabulary = read_vocabulary(file)
    if vocabulary is None:
        generation, notes = _stated_generation(file)
        return TextAssets(generation=generation, license=license), notes
    facts, notes = facts_of(vocabulary)
    special = special_tokens(vocabulary, facts)
    vocabulary = corrected(vocabulary, special)
    data, more = _built(vocabulary, facts, special, file)
    lost = _lost(data, vocabulary, special, "\n".join([template or "", *named.values()]))
    sampling, unused = sampling_defaults(file)
    assets = TextAssets(
        tokenizer=data,
        chat_template=template,
        named_templates=named,
        generation=_generation(special) | sampling,
        license=license,
    )
    return assets, (*notes, *special.notes, *more, *lost, *unused)


def _built(
    vocabulary: Vocabulary, facts: Splitting | None, special: SpecialTokens, file: GgufFile
) -> tuple[bytes, tuple[str, ...]]:
    """The `tokenizer.json`, and notes.

    Raises:
        LlmcError: E0418 for what the library makes no tokenizer of.
    """
    try:
        tokenizer, notes = bare_tokenizer(vocabulary, facts)
        _add_special(tokenizer, vocabulary, file)
        _add_marks(tokenizer, vocabulary, special)
        return tokenizer.to_str().encode(), notes
    except LlmcError:
        raise
    except BaseException as error:  # the library raises bare Exception, and panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise LlmcError(
            "LLMC-E0418", f"{vocabulary.where}: no tokenizer can be built: {reason}"
        ) from error


def _text(file: GgufFile, key: str) -> str | None:
    value = file.get(key)
    if value is not None and not isinstance(value, str):
        raise LlmcError("LLMC-E0417", f"{file.file.path.name}: {key} is not a text")
    return value


def _named_templates(file: GgufFile) -> dict[str, str]:
    """Templates besides the default one, by name (`tool_use`): a key each."""
    prefix = f"{_TEMPLATE}."
    names = [key.removeprefix(prefix) for key in file.entries if key.startswith(prefix)]
    return {name: _text(file, prefix + name) or "" for name in names if name}


def _stated_generation(file: GgufFile) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Special token ids of a file without a vocabulary: those that its keys name."""
    flags, where = flags_of(file), file.file.path.name
    generation: dict[str, Any] = {}
    notes: list[str] = []
    ends: list[int] = []
    for name in ("eos", "eot", "eom", "bos", "padding"):
        ids, lines = stated_ids(flags, name, where)
        notes += lines
        if name in ("eos", "eot", "eom"):
            ends += ids
        elif ids:
            generation["bos_token_id" if name == "bos" else "pad_token_id"] = ids[0]
    if any(f"{name}_token_id" in flags for name in ("eos", "eot", "eom")):
        generation["eos_token_id"] = list(dict.fromkeys(ends))
    return generation, tuple(notes)


def _generation(special: SpecialTokens) -> dict[str, Any]:
    names = {"bos": "bos_token_id", "padding": "pad_token_id", "unknown": "unk_token_id"}
    ids = {field: special.ids[name] for name, field in names.items() if name in special.ids}
    return {"eos_token_id": special.ends, **ids}


def _add_special(tokenizer: Any, vocabulary: Vocabulary, file: GgufFile) -> None:
    """Tokens that are found in a text before it is normalized and split.

    Where spaces around them belong to them isn't in a file; llama.cpp knows it by names.
    """
    from tokenizers import AddedToken

    left, right = _stripping(vocabulary, file)
    tokenizer.add_tokens(
        [
            AddedToken(
                vocabulary.tokens[id],
                normalized=False,
                special=vocabulary.kinds[id] is not TokenKind.USER_DEFINED,
                lstrip=vocabulary.tokens[id] in left,
                rstrip=vocabulary.tokens[id] in right,
            )
            for id in vocabulary.of_kind(*_ADDED)
        ]
    )


def _stripping(vocabulary: Vocabulary, file: GgufFile) -> tuple[set[str], set[str]]:
    """Tokens that take the spaces before them, and behind them, with them."""
    pre = str(vocabulary.flags.get("pre", ""))
    name = str(file.get("general.name", "")).lower()

    def any_in(text: str, parts: Iterable[str]) -> bool:
        return any(part in text for part in parts)

    if any_in(pre, ("jina-v2-de", "jina-v2-es", "jina-v2-code")) or any_in(
        file.architecture, ("nomic-bert-moe", "jina-bert-v3")
    ):
        return {"<mask>"}, set()
    if any_in(name, ("phi-3", "phi3")):
        special = {vocabulary.tokens[id] for id in vocabulary.of_kind(*_ADDED)}
        return set(), special - {"<unk>", "<s>", "<|endoftext|>"}
    if "modern-bert" in name:
        return {"[MASK]"}, set()
    return set(), set()


def _add_marks(tokenizer: Any, vocabulary: Vocabulary, special: SpecialTokens) -> None:
    """What is put around a text, and between two."""
    from tokenizers.processors import TemplateProcessing

    def named(ids: Iterable[int], part: int = 0) -> list[str]:
        return [f"{id}:{part}" for id in ids]  # by id: a token's text may hold a colon itself

    ids = sorted({*special.before, *special.after, *special.between})
    if ids:
        one = [*named(special.before), "$A:0", *named(special.after)]
        second = [*named(special.between), "$B:1", *named(special.after, 1)]
        tokenizer.post_processor = TemplateProcessing(
            single=one,
            pair=[*one, *second],
            special_tokens=[
                {"id": str(id), "ids": [id], "tokens": [vocabulary.tokens[id]]} for id in ids
            ],
        )


def _lost(
    data: bytes, vocabulary: Vocabulary, special: SpecialTokens, template: str
) -> tuple[str, ...]:
    """A note on special tokens that their own text doesn't give.

    Raises:
        LlmcError: E0418 if `template` or an end of turn needs one of them.
    """
    tokenizer = Tokenizer(data)
    lost = [
        id
        for id in vocabulary.of_kind(TokenKind.CONTROL, TokenKind.USER_DEFINED)
        if tokenizer.encode(vocabulary.tokens[id], add_special_tokens=False) != [id]
    ]
    needed = [id for id in lost if id in special.ends or vocabulary.tokens[id] in template]
    if needed:
        raise LlmcError(
            "LLMC-E0418",
            f"{vocabulary.where}: {_listed(vocabulary, needed)} can't be written as text, but the "
            "chat template or the end of a turn needs it",
        )
    return (f"special tokens that text never gives: {_listed(vocabulary, lost)}",) if lost else ()


def _listed(vocabulary: Vocabulary, ids: list[int]) -> str:
    names = ", ".join(repr(vocabulary.tokens[id]) for id in ids[:_LISTED])
    return f"{names} and {len(ids) - _LISTED} more" if len(ids) > _LISTED else names
