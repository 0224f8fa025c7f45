"""Sampling defaults that a GGUF file's author wrote into it.

In: a `GgufFile`. Out: fields as in `generation_config.json`, and notes on settings that have no
counterpart here. Keys are llama.cpp's `general.sampling.*` (`src/llama-arch.cpp`).
"""

from __future__ import annotations

from typing import Any

from ..generation_fields import clean_generation
from ..gguf_file import GgufFile

_PREFIX = "general.sampling."
_FIELDS = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}  # fmt: skip
_OFF = {
    "xtc_probability": 0, "xtc_threshold": None, "mirostat": 0, "mirostat_tau": None,
    "mirostat_eta": None, "penalty_last_n": None,
}  # fmt: skip
"""Settings of samplers that llmc doesn't have, and at which value they are off; None: they only
tune one of these."""
_SUPPRESSED = "tokenizer.ggml.suppress_tokens"


def sampling_defaults(file: GgufFile) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Sampling fields that the file states, and notes.

    Raises:
        LlmcError: E0418 for a value that means nothing.
    """
    stated = {
        name.removeprefix(_PREFIX): entry.value
        for name, entry in file.entries.items()
        if name.startswith(_PREFIX)
    }
    raw = {_FIELDS[key]: _short(value) for key, value in stated.items() if key in _FIELDS}
    fields, notes = clean_generation(raw, f"{file.file.path.name}: {_PREFIX}*")
    unused = [
        f"{_PREFIX}{key} = {value!r:.60} has no counterpart here: left out"
        for key, value in stated.items()
        if key not in _FIELDS and (key not in _OFF or _OFF[key] not in (None, value))
    ]
    if _SUPPRESSED in file.entries:
        unused.append(f"{_SUPPRESSED} is left out: these tokens may be sampled")
    return fields, (*notes, *unused)


def _short(value: Any) -> Any:
    """Numbers are stored as f32: 0.7 and not what is next to it."""
    return round(value, 6) if isinstance(value, float) else value
