"""Sizes as people write them."""

import re

from .errors import LlmcError


def parse_size(text: str) -> int:
    """Return the bytes that a size such as `800M`, `1.5GB` or `2GiB` means; E0205 otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise LlmcError("LLMC-E0205", f"{text!r} is not a size", "give one such as 800MB or 2GiB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))
