"""The tokenizer of a Hugging Face folder: the one that transformers' `AutoTokenizer` gives.

In: the folder and its config. Out: transformers' tokenizer with a backend of the `tokenizers`
library, which the artifact takes over, and notes. What a tokenizer is stands in up to seven files,
and in the class that transformers knows for it; only transformers knows how they go together, so
it alone reads them. No code of the folder is run unless allowed.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from ...base.errors import LlmcError
from ...models.auto import no_advice
from .json_file import json_object
from .remote_code import LOADED, code_digest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "tiktoken.model", "tekken.json", "vocab.json", "vocab.txt",
    "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
_CONVERTED = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "tekken.json")
"""Vocabularies that transformers takes for any kind of tokenizer."""
_SIGNS = (*_VOCABULARIES, "tokenizer_config.json", "*.tiktoken")
_OBJECTS = (
    "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_NOT_FLAGS = ("type", "vocab", "merges", "unk_id", "dropout")
_INSIDE = ("normalizers", "pretokenizers", "processors", "decoders")


def has_tokenizer(folder: Path) -> bool:
    """Whether any file of a tokenizer is there."""
    return any(next(folder.glob(sign), None) is not None for sign in _SIGNS)


def auto_tokenizer(
    folder: Path, config: PreTrainedConfig, *, hub_id: str | None, trust_remote_code: bool
) -> Any:
    """transformers' tokenizer of the folder, without truncation and padding.

    `hub_id`: by which name the folder came from the Hub; transformers knows some by it.

    Raises:
        LlmcError: E0417 for files that transformers can't read, E0426 for a tokenizer that isn't
            one of the `tokenizers` library.
    """
    from transformers import AutoTokenizer

    named = copy.copy(config)
    named._name_or_path = hub_id or str(folder)
    # Of the folder's own code, a config has a class that transformers doesn't look up.
    known = {} if code_digest(config) else {"config": named}
    try:
        # tiktoken keeps what it has read by its path, in a folder of everybody's: not here.
        with no_advice(), mock.patch.dict(os.environ, {"TIKTOKEN_CACHE_DIR": ""}):
            tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, **known, trust_remote_code=trust_remote_code, local_files_only=True
            )
    except BaseException as error:  # many kinds of broken files, and panics of the library
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _unreadable(folder, config, error) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not getattr(tokenizer, "is_fast", False):
        raise _of_python(folder, type(tokenizer).__name__)
    _require_vocabulary(folder, tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return tokenizer


def _of_python(folder: Path, name: str) -> LlmcError:
    return LlmcError(
        "LLMC-E0426", f"the tokenizer of {folder} is {name}, which only runs in Python"
    )


def _unreadable(folder: Path, config: PreTrainedConfig, error: BaseException) -> LlmcError:
    """What to say if transformers fails; some classes fail for want of packages or files that
    wouldn't make them of use here.

    Raises:
        LlmcError: E0417 or E0418 for a file that isn't what its name says.
    """
    for file in (folder / name for name in _OBJECTS):
        if file.is_file():
            json_object(file, file.read_bytes())
    name, is_fast = _class_of(folder, config)
    if not is_fast:
        return _of_python(folder, name)
    if "trust_remote_code" in str(error):
        return LlmcError(
            "LLMC-E0417",
            f"the tokenizer in {folder} is made by the model's own code",
            "if you trust the code in the model's repository: --trust-remote-code",
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return LlmcError(
        "LLMC-E0417",
        f"transformers can't read the tokenizer in {folder}: {reason}",
        "download the tokenizer's files again, or save it anew with `save_pretrained`",
    )


def _class_of(folder: Path, config: PreTrainedConfig) -> tuple[str, bool]:
    """The class of tokenizer that the folder names, and whether it has a backend as far as is
    known."""
    from transformers import PreTrainedTokenizerFast
    from transformers.models.auto import tokenization_auto as auto

    file, name = folder / "tokenizer_config.json", None
    if file.is_file():
        name = json_object(file, file.read_bytes()).get("tokenizer_class")
    name = name or auto.TOKENIZER_MAPPING_NAMES.get(str(config.model_type))
    kind = auto.tokenizer_class_from_name(name) if isinstance(name, str) else None
    return str(name), not isinstance(kind, type) or issubclass(kind, PreTrainedTokenizerFast)


def _require_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Without their files, some classes make a tokenizer of a handful of tokens.

    Raises:
        LlmcError: E0417.
    """
    if type(tokenizer).__module__.startswith(LOADED):  # whatever its code reads
        return
    own = [name for name in tokenizer.vocab_files_names.values() if name]
    if not any((folder / name).is_file() for name in (*own, *_CONVERTED)):
        raise LlmcError(
            "LLMC-E0417",
            f"{folder} lacks the vocabulary of its tokenizer {type(tokenizer).__name__}: "
            f"{' or '.join(dict.fromkeys(own))}",
            "download the tokenizer's files, or remove those that are left of it",
        )


def backend_json(folder: Path, tokenizer: Any) -> bytes:
    """The tokenizer.json that says what the tokenizer does.

    Raises:
        LlmcError: E0426 for parts of it that are Python's.
    """
    try:
        return tokenizer.backend_tokenizer.to_str().encode()
    except Exception as error:  # the library raises plain exceptions
        name = f"{type(tokenizer).__name__}, of which a part"
        raise _of_python(folder, name) from error


def without_dropout(tokenizer: Any) -> tuple[str, ...]:
    """Switches off merging at random, which is for training; a note if it was on."""
    model = tokenizer.backend_tokenizer.model
    if not getattr(model, "dropout", None):
        return ()
    model.dropout = None
    return ("tokenizer.json: dropout, which is for training, is switched off",)


def replaced_parts(folder: Path, tokenizer: Any) -> tuple[str, ...]:
    """A note if transformers' class puts its own parts in the place of some in tokenizer.json."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    file, kind = folder / "tokenizer.json", type(tokenizer)
    if kind is PreTrainedTokenizerFast or "__init__" not in vars(kind) or not file.is_file():
        return ()  # its backend is the file
    stated = json_object(file, file.read_bytes())
    hollow = {"type": "BPE", "vocab": {}, "merges": []}
    written = Tokenizer.from_str(json.dumps({**stated, "added_tokens": [], "model": hollow}))
    backend = tokenizer.backend_tokenizer
    differ = [part for part in _PARTS if _meaning(written, part) != _meaning(backend, part)]
    flags = stated.get("model", {})
    for name in sorted(flags.keys() - set(_NOT_FLAGS)):
        if (flags[name] or None) != (getattr(backend.model, name, flags[name]) or None):
            differ.append(f"model.{name}")
    if not differ:
        return ()
    return (
        f"tokenizer.json: transformers' {kind.__name__} replaces {', '.join(differ)}: "
        "text is encoded as transformers does it, not as the file says",
    )


def _meaning(tokenizer: Any, part: str) -> list[Any]:
    """The steps of a part, as far as ids and text depend on them."""
    one = getattr(tokenizer, part)
    steps = _steps(json.loads(one.__getstate__())) if one is not None else ()
    return [step for step in (_bare(step, part) for step in steps) if step]


def _steps(state: dict[str, Any]) -> Iterable[dict[str, Any]]:
    if state["type"] != "Sequence":
        return [state]
    return [step for name in _INSIDE for inner in state.get(name, ()) for step in _steps(inner)]


def _bare(step: dict[str, Any], part: str) -> dict[str, Any] | None:
    """A step without what is about offsets and pairs; None if it does nothing."""
    if step["type"] == "ByteLevel" and part == "post_processor":
        return None
    if step["type"] == "ByteLevel" and part == "decoder":
        return {"type": "ByteLevel"}
    if step["type"] == "TemplateProcessing":  # of pairs there are none here
        around = [next(iter(piece.items())) for piece in step["single"]]
        marks = [(kind, piece["id"]) for kind, piece in around]
        used = {
            name: step["special_tokens"][name]["ids"] for kind, name in marks if kind != "Sequence"
        }
        return {"marks": marks, "ids": used} if used else None
    return {name: value for name, value in step.items() if name != "trim_offsets"}
