"""The text side of a Hugging Face folder: tokenizer, chat templates, generation defaults, license.

In: the folder, its config.json as read, and transformers' config of it. Out: `TextAssets` and lines
for the user. Tokenizer, special tokens and templates are those of transformers' tokenizer
(`auto_tokenizer.py`). A text ends at the ids that generation_config.json and config.json state and
at the tokenizer's `eos_token`; what only is a default of some class ends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import LlmcError
from ...runtime.text.templates import DEFAULT, ChatTemplates
from .auto_tokenizer import (
    auto_tokenizer,
    backend_json,
    has_tokenizer,
    replaced_parts,
    without_dropout,
)
from .generation_fields import clean_generation
from .json_file import json_object
from .model_source import TextAssets
from .text_vectors import text_vectors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
_CONFIG_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_STATING = ("tokenizer_config.json", "special_tokens_map.json")


def text_side(
    folder: Path,
    raw: Mapping[str, Any],
    config: PreTrainedConfig,
    *,
    hub_id: str | None,
    trust_remote_code: bool,
) -> tuple[TextAssets, tuple[str, ...]]:
    """The text side of the folder whose config.json holds `raw`, read as `config`.

    Raises:
        LlmcError: E0417, E0418 and E0426.
    """
    generation, notes = _generation(folder, raw)
    license_file = next((folder / name for name in _LICENSES if (folder / name).is_file()), None)
    license = license_file.read_text("utf-8", errors="replace") if license_file else None
    if not has_tokenizer(folder):
        return TextAssets(generation=generation, license=license), notes
    tokenizer = auto_tokenizer(folder, config, hub_id=hub_id, trust_remote_code=trust_remote_code)
    notes += without_dropout(tokenizer)
    data = backend_json(folder, tokenizer)
    notes += replaced_parts(folder, tokenizer)
    notes += _beyond(tokenizer, config) + _spaces(tokenizer)
    templates = _templates(folder, tokenizer)
    as_run = _as_run(folder, templates, tokenizer)
    if templates and DEFAULT not in templates:
        notes += (f"no chat template is the default one, only {', '.join(sorted(templates))}",)
    assets = TextAssets(
        tokenizer=data,
        chat_template=templates.pop(DEFAULT, None),
        named_templates=templates,
        generation=_with_end(generation, _stated_end(folder, tokenizer)),
        license=license,
        special_tokens=dict(tokenizer.special_tokens_map),
        split_special_tokens=bool(tokenizer.split_special_tokens),
        vectors=text_vectors(tokenizer, as_run),
    )
    return assets, notes


def _generation(folder: Path, raw: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The generation defaults that the files state, with all ids that end a text."""
    part = raw.get("text_config")
    generation: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    for stating, origin in ((part, "config.json: text_config"), (raw, "config.json")):
        if isinstance(stating, Mapping):
            ids = {key: stating[key] for key in _CONFIG_IDS if stating.get(key) is not None}
            own, lost = clean_generation(ids, origin)
            generation, notes = merged_generation(generation, own), (*notes, *lost)
    file = folder / "generation_config.json"
    if file.is_file():
        own, more = clean_generation(json_object(file, file.read_bytes()), file.name)
        generation, notes = merged_generation(generation, own), (*notes, *more)
    return generation, notes


def merged_generation(generation: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` wins, but for the ids that end a text: those of both do."""
    merged = {**generation, **own}
    if "eos_token_id" in own:
        merged["eos_token_id"] = own["eos_token_id"]
        return _with_end(merged, generation.get("eos_token_id"))
    return merged


def _with_end(generation: dict[str, Any], more: int | list[int] | None) -> dict[str, Any]:
    """The defaults with `more` ids that end a text."""
    known = _list(generation.get("eos_token_id"))
    new = [number for number in _list(more) if number not in known]
    return generation | {"eos_token_id": [*known, *new]} if new else generation


def _list(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _stated_end(folder: Path, tokenizer: Any) -> int | None:
    """The id of the tokenizer's `eos_token`, if a file names it and not only its class."""
    end = tokenizer.eos_token
    if end is None:
        return None
    for name in _STATING:
        file = folder / name
        if file.is_file():
            stated = json_object(file, file.read_bytes()).get("eos_token")
            if (stated.get("content") if isinstance(stated, dict) else stated) == end:
                return tokenizer.eos_token_id
    # A sentencepiece model names its end itself.
    backend = tokenizer.backend_tokenizer
    number = tokenizer.eos_token_id
    is_piece = number is not None and number < backend.get_vocab_size(with_added_tokens=False)
    pieces = not (folder / "tokenizer.json").is_file() and next(folder.glob("*.model"), None)
    return number if pieces and is_piece else None


def _templates(folder: Path, tokenizer: Any) -> dict[str, str]:
    """The chat templates by name; the tokenizer has them, too, afterwards.

    Raises:
        LlmcError: E0417 for a template that is no text.
    """
    file = folder / "chat_template.json"  # which processors read, of models that see and hear
    if tokenizer.chat_template is None and file.is_file():
        tokenizer.chat_template = json_object(file, file.read_bytes()).get("chat_template")
    found = tokenizer.chat_template
    templates = dict(found) if isinstance(found, dict) else {DEFAULT: found} if found else {}
    for name, source in templates.items():
        if not isinstance(source, str):
            raise LlmcError("LLMC-E0417", f"{folder}: the chat template {name!r} is not a text")
    return templates


def _as_run(folder: Path, templates: Mapping[str, str], tokenizer: Any) -> ChatTemplates | None:
    """The templates as the runtime has them. Raises E0417 for one that is invalid."""
    try:
        return ChatTemplates(templates, tokenizer.special_tokens_map) if templates else None
    except LlmcError as error:
        raise LlmcError("LLMC-E0417", f"{folder}: {error.message}") from error


def _beyond(tokenizer: Any, config: PreTrainedConfig) -> tuple[str, ...]:
    """A note on added tokens that the model has no embedding for."""
    rows = getattr(config.get_text_config(), "vocab_size", None)
    added = tokenizer.added_tokens_decoder
    beyond = [token.content for i, token in added.items() if isinstance(rows, int) and i >= rows]
    if not beyond:
        return ()
    more = f" and {len(beyond) - 1} more tokens" if len(beyond) > 1 else ""
    return (f"the tokenizer adds {beyond[0]!r}{more}, for which the model has no embedding",)


def _spaces(tokenizer: Any) -> tuple[str, ...]:
    """A note on what transformers does to the text of some models after decoding it."""
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if not tokenizer.clean_up_tokenization_spaces or kind == "BPE":
        return ()
    return ("clean_up_tokenization_spaces is not done: text keeps spaces before punctuation",)
