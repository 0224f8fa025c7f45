"""Generation defaults as their authors wrote them → values that an artifact can hold.

In: fields of `config.json`, `generation_config.json` or of GGUF metadata. Out: the same fields with
special token ids that are integers of at least 0 and sampling defaults in their ranges, and notes.
A value with one clear meaning is taken for it (`20.0` for `top_k` is 20, a negative id is no token,
as transformers has it, whose models then never meet it); any other is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ...base.errors import LlmcError

ID_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
_MOST_IDS = 1 << 31  # token ids are i32
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda x: x >= 0, "at least 0"),
    "top_k": (lambda x: x >= 0 and x == int(x), "a whole number, at least 0"),
    "top_p": (lambda x: x >= 0, "between 0 and 1"),
    "min_p": (lambda x: 0 <= x <= 1, "between 0 and 1"),
    "repetition_penalty": (lambda x: x > 0, "above 0"),
}
SAMPLING_FIELDS = tuple(_RANGES)


def clean_generation(raw: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of `raw`, those that go into an artifact normalised, and notes on what changed.

    `origin` is the file that they stand in. An id field is an int, a list of ints, or None.

    Raises:
        LlmcError: E0418, naming file and field, for a value that means nothing.
    """
    fields, notes = dict(raw), []
    for name in ID_FIELDS:
        if name in raw:
            fields[name], lost = token_ids(raw[name], f"{origin}: {name}")
            notes += lost
    for name in SAMPLING_FIELDS:
        if raw.get(name) is not None:
            fields[name] = _number(raw[name], name, f"{origin}: {name}")
    return fields, (*notes, *_neutral(fields, origin))


def token_ids(value: Any, where: str) -> tuple[int | list[int] | None, tuple[str, ...]]:
    """An id, a list of ids or none, without those that are negative; and notes.

    Raises:
        LlmcError: E0418 with `where` for what is no id.
    """
    if value is None:
        return None, ()
    many = isinstance(value, list)
    ids = [_token_id(item, where) for item in (value if many else [value])]
    notes = tuple(f"{where} {i} is no token: left out" for i in ids if i < 0)
    ids = [i for i in ids if i >= 0]
    return (ids if many else ids[0] if ids else None), notes


def _token_id(value: Any, where: str) -> int:
    number = _finite(value, where)
    if number != int(number) or number >= _MOST_IDS:
        raise _meaningless(value, where, "the id of a token")
    return int(number)


def _number(value: Any, name: str, where: str) -> float | int:
    number = _finite(value, where)
    if name == "top_k" and number == -1:  # how other engines write that it is off
        return -1
    fits, range = _RANGES[name]
    if not fits(number):
        raise _meaningless(value, where, range)
    return int(number) if name == "top_k" else float(number)


def _neutral(fields: dict[str, Any], origin: str) -> list[str]:
    """Replace values outside of what a request may ask for that still mean something; notes."""
    notes, top_p = [], fields.get("top_p")
    if fields.get("top_k") == -1:
        del fields["top_k"]
        notes.append(f"{origin}: top_k -1 keeps every token: left out")
    if top_p == 0:
        del fields["top_p"]
        fields["top_k"] = 1
        notes.append(f"{origin}: top_p 0 keeps the best token alone: written as top_k 1")
    if top_p is not None and top_p > 1:
        fields["top_p"] = 1.0
        notes.append(f"{origin}: top_p {top_p:g} keeps every token: written as 1")
    return notes


def _finite(value: Any, where: str) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _meaningless(value, where, "a number")
    return value


def _meaningless(value: Any, where: str, range: str) -> LlmcError:
    return LlmcError(
        "LLMC-E0418", f"{where} is {value!r:.60}, not {range}", "correct or remove this field"
    )
